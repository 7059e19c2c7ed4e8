// SPDX-License-Identifier: GPL-2.0-only

//! One copy between kernel and user: what the kernel writes into a region, another process has.
//!
//! ```text
//!                          copies once
//!   pipe, page cache,     ------------->  frame of the region
//!   device or FUSE server                   /             \
//!                               mapped by this process   mapped by the other one
//! ```
//!
//! Whatever reads into a mapping may be told to read into a region's: read(2), read(2) with `O_DIRECT`,
//! io_uring with buffers that are registered. Then it need not be sent on.

use std::env;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Mapping;
use ashmem::Region;
use io_uring::IoUring;
use io_uring::opcode;
use io_uring::types;
use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::unistd::pipe;

mod file;
#[path = "../page_tables/pagemap.rs"]
#[allow(dead_code, reason = "frames are all that is asked for here")]
mod pagemap;
#[path = "../heap/socket.rs"]
mod socket;

use file::Served;
use file::cached;
use pagemap::PAGE;

/// Pages that are read at once.
const PART: usize = 4;
/// The same in bytes.
const BYTES: usize = PART * PAGE;
/// How many such parts the region has.
const PARTS: usize = 3;

/// Bytes of which no two pages are equal.
fn content(seed: u8) -> Vec<u8> {
    let bytes = (0..BYTES).map(|at| seed.wrapping_mul(89) ^ (at * 7 + at / PAGE * 31) as u8);
    bytes.collect()
}

/// The frames of a part, of which each must be mapped.
fn frames(memory: &Mapping<'_>, part: usize) -> anyhow::Result<Vec<u64>> {
    let address = memory.as_ptr() as usize + part * BYTES;
    let frames = pagemap::frames(address, PART)?.into_iter();
    frames
        .collect::<Option<_>>()
        .context("a page is not mapped")
}

// The other process. -----------------------------------------------------------

/// Receives the region, and tells of each part that it is asked for what is in it and which frames.
fn other(mut socket: UnixStream) -> anyhow::Result<()> {
    let region = Region::try_from(socket::receive(&socket)?)?;
    let memory = region.map()?;
    let mut part = [0];
    while socket.read(&mut part)? == 1 {
        let part = usize::from(part[0]);
        let mut bytes = vec![0; BYTES];
        memory.read(part * BYTES, &mut bytes);
        for frame in frames(&memory, part)? {
            bytes.extend(frame.to_le_bytes());
        }
        socket.write_all(&bytes)?;
    }
    Ok(())
}

/// That process, as seen from here.
struct Other {
    process: Child,
    socket: UnixStream,
}

impl Other {
    fn start(region: &Region) -> anyhow::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new(env::current_exe()?);
        let process = command.arg("other").stdin(OwnedFd::from(theirs)).spawn()?;
        socket::send(&socket, region)?;
        Ok(Self { process, socket })
    }

    /// What it finds in a part, and in which frames.
    fn find(&mut self, part: usize) -> anyhow::Result<(Vec<u8>, Vec<u64>)> {
        self.socket.write_all(&[part as u8])?;
        let mut bytes = vec![0; BYTES + PART * 8];
        self.socket.read_exact(&mut bytes).context("it is gone")?;
        let frames = bytes.split_off(BYTES);
        let frames = frames.chunks_exact(8).map(|frame| {
            let frame: [u8; 8] = frame.try_into().expect("a chunk of eight");
            u64::from_le_bytes(frame)
        });
        Ok((bytes, frames.collect()))
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.socket);
        ensure!(self.process.wait()?.success(), "the other process failed");
        Ok(())
    }
}

// Three ways to read. ----------------------------------------------------------

/// read(2) into a part; gives the number of bytes.
fn read(from: impl AsFd, memory: &Mapping<'_>, part: usize) -> anyhow::Result<usize> {
    let into = memory.bytes()[part * BYTES..][..BYTES].as_ptr();
    // SAFETY: So many bytes are mapped there, and may change at any time.
    let n = unsafe { libc::read(from.as_fd().as_raw_fd(), into as *mut _, BYTES) };
    Ok(Errno::result(n).context("read")? as usize)
}

/// The end to read from of a pipe that holds some bytes.
fn filled_pipe(bytes: &[u8]) -> anyhow::Result<OwnedFd> {
    let (from, to) = pipe()?;
    // So much fits in without anybody reading.
    File::from(to).write_all(bytes)?;
    Ok(from)
}

/// io_uring reads from the beginning of a file into a part that it has as a registered buffer.
fn read_registered(from: impl AsFd, memory: &Mapping<'_>, part: usize) -> anyhow::Result<usize> {
    let into = memory.bytes()[part * BYTES..][..BYTES].as_ptr();
    let buffer = libc::iovec {
        iov_base: into as *mut _,
        iov_len: BYTES,
    };
    let mut ring = IoUring::new(1)?;
    // From here on the kernel holds the frames, and need not look for them at each request.
    // SAFETY: They are mapped longer than the ring lives, and may change at any time.
    unsafe { ring.submitter().register_buffers(&[buffer]) }?;
    let file = types::Fd(from.as_fd().as_raw_fd());
    let request = opcode::ReadFixed::new(file, into as *mut _, BYTES as u32, 0).build();
    // SAFETY: File and buffer live until it is completed.
    unsafe { ring.submission().push(&request) }?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().context("nothing is completed")?;
    match done.result() {
        error @ ..0 => bail!("io_uring: {}", Errno::from_raw(-error)),
        n => Ok(n as usize),
    }
}

// The show. --------------------------------------------------------------------

/// What is seen of a part, before and after something is read into it.
struct Show<'r> {
    region: &'r Region,
    memory: &'r Mapping<'r>,
    other: Other,
}

impl Show<'_> {
    /// Has something read into a part, where zeros are, and says what became of it.
    fn one(
        &mut self,
        what: &str,
        part: usize,
        expected: &[u8],
        read: impl FnOnce() -> anyhow::Result<usize>,
    ) -> anyhow::Result<()> {
        let before = frames(self.memory, part)?;
        let (zeros, theirs) = self.other.find(part)?;
        ensure!(theirs == before && zeros.iter().all(|byte| *byte == 0));
        let allocated = self.region.counters()?.allocated;

        let n = read()?;
        let (found, theirs) = self.other.find(part)?;
        let allocated = self.region.counters()?.allocated - allocated;
        let ours = frames(self.memory, part)?;
        let same =
            (0..PART).filter(|page| ours[*page] == before[*page] && ours[*page] == theirs[*page]);
        let same = same.count();
        let right = found.iter().zip(expected).filter(|(a, b)| a == b).count();
        println!("  {what:42} {n:5} {right:6} {same:5} {allocated:6}");
        ensure!((n, right, same, allocated) == (BYTES, BYTES, PART, 0));
        Ok(())
    }
}

fn show() -> anyhow::Result<()> {
    let region = Region::new(c"received", PARTS * BYTES)?;
    let memory = region.map_with(MapOptions::new().populate())?;
    let other = Other::start(&region)?;
    let (region, memory) = (&region, &memory);
    let mut show = Show {
        region,
        memory,
        other,
    };

    println!(
        "{PARTS} times {PART} pages of a region, which have memory; another process has mapped it"
    );
    println!("  read: bytes that the kernel wrote into them for this process");
    println!("  found: bytes of those that the other process finds");
    println!("  same: pages that have one frame in both processes, and had it before");
    println!("  new: pages that the driver allocated meanwhile\n");
    println!(
        "  {:42} {:>5} {:>6} {:>5} {:>6}",
        "", "read", "found", "same", "new"
    );

    let bytes = content(1);
    let from = filled_pipe(&bytes)?;
    show.one("read(2) from a pipe", 0, &bytes, || read(from, memory, 0))?;

    let bytes = content(2);
    let served = Served::new(bytes.clone())?;
    let file = served.open(libc::O_DIRECT)?;
    show.one(
        "read(2) with O_DIRECT from a file of FUSE",
        1,
        &bytes,
        || read(&file, memory, 1),
    )?;
    let direct = cached(&file)?;
    drop(file);

    let bytes = content(3);
    let mut memfd = File::from(memfd_create(c"source", MFdFlags::MFD_CLOEXEC)?);
    memfd.write_all(&bytes)?;
    show.one(
        "io_uring from a memfd, registered buffer",
        2,
        &bytes,
        || read_registered(&memfd, memory, 2),
    )?;

    println!("\nof the FUSE server's file the page cache has");
    println!("  after the read with O_DIRECT   {direct} pages: nothing was copied there");
    let file = served.open(0)?;
    ensure!(read(&file, memory, 0)? == BYTES);
    let buffered = cached(&file)?;
    println!("  after one without              {buffered} pages: what was read was copied twice");
    ensure!((direct, buffered) == (0, PART as u64));
    drop(file);
    served.end()?;
    show.other.end()
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(),
        ["other"] => other(io::stdin().as_fd().try_clone_to_owned()?.into()),
        _ => bail!("usage: one_copy"),
    }
}
