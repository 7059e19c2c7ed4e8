// SPDX-License-Identifier: GPL-2.0-only

//! A region on its way to a pipe, a socket and a file: who copies it, in how many system calls.
//!
//! sendfile(2), splice(2) and vmsplice(2) move bytes that no buffer of the program ever holds. Whether the
//! kernel copies them is another question, and here it is put to the kernel: memory is sent and changed,
//! and only then is read what arrived. The old content means that there is a copy; the new content, that
//! what arrived is the memory itself. A memfd is asked the same, for comparison.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::slice;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::PageState;
use ashmem::Region;
use nix::errno::Errno;
use nix::fcntl::SpliceFFlags;
use nix::fcntl::splice;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::sendfile::sendfile64;
use nix::sys::uio::pread;
use nix::unistd::pipe;
use nix::unistd::write;

/// In bytes: 16 pages, for which a pipe has room, and a socket too.
const LEN: usize = 64 << 10;
/// In bytes: more than either has room for, and no whole pages.
const MORE: usize = (1 << 20) + 77;
/// splice(2) waits until it can go on.
const WAIT: SpliceFFlags = SpliceFFlags::empty();

/// Memory that has a descriptor and is mapped.
struct Source<'a> {
    fd: BorrowedFd<'a>,
    memory: &'a [AtomicU8],
}

impl Source<'_> {
    fn fill(&self, content: &[u8]) {
        for (into, byte) in self.memory.iter().zip(content) {
            into.store(*byte, Relaxed);
        }
    }

    fn content(&self) -> Vec<u8> {
        self.memory.iter().map(|byte| byte.load(Relaxed)).collect()
    }

    /// What lies from an offset on, as system calls take it.
    fn from(&self, offset: usize) -> libc::iovec {
        let part = &self.memory[offset..];
        libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }
    }
}

/// A content of which no byte is what it is in that of another `version`.
fn content(version: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| version.wrapping_add((i + i / 251) as u8))
        .collect()
}

/// Where bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    Pipe,
    Socket,
    File,
}

impl To {
    /// Two descriptors: what is written to the first can be read from the second.
    fn open(self) -> anyhow::Result<(File, File)> {
        match self {
            Self::Pipe => {
                let (out, into) = pipe()?;
                Ok((into.into(), out.into()))
            }
            Self::Socket => {
                let (here, there) = UnixStream::pair()?;
                Ok((OwnedFd::from(here).into(), OwnedFd::from(there).into()))
            }
            // Without a name, so that it goes when it is closed; each of the two has its own position.
            Self::File => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).custom_flags(libc::O_TMPFILE);
                let file = options.open("/dev/shm")?;
                let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                Ok((file, again))
            }
        }
    }
}

/// How they are sent.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    ReadAndWrite,
    Write,
    Sendfile,
    Splice,
    Vmsplice,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::ReadAndWrite,
        Self::Write,
        Self::Sendfile,
        Self::Splice,
        Self::Vmsplice,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ReadAndWrite => "read, and write",
            Self::Write => "write of the mapping",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::Vmsplice => "vmsplice of the mapping",
        }
    }

    /// Sends what lies from `start` on, as much as one call takes; gives the number of bytes.
    fn once(self, source: &Source, start: usize, into: &File) -> anyhow::Result<usize> {
        let part = source.from(start);
        let mut offset = start as i64;
        Ok(match self {
            Self::ReadAndWrite => {
                let mut buffer = vec![0; LEN];
                let n = pread(source.fd, &mut buffer, offset)?;
                write(into, &buffer[..n])?
            }
            Self::Write => {
                // SAFETY: It is mapped, and only read.
                let n = unsafe { libc::write(into.as_raw_fd(), part.iov_base, part.iov_len) };
                Errno::result(n)? as usize
            }
            Self::Sendfile => sendfile64(into, source.fd, Some(&mut offset), part.iov_len)?,
            Self::Splice => {
                let offset = Some(&mut offset);
                splice(source.fd, offset, into, None, part.iov_len, WAIT)?
            }
            Self::Vmsplice => {
                // SAFETY: As above.
                let n = unsafe { libc::vmsplice(into.as_raw_fd(), &part, 1, 0) };
                Errno::result(n)? as usize
            }
        })
    }

    /// Sends all of `source`; gives the number of system calls.
    fn send(self, source: &Source, to: To, into: &File) -> anyhow::Result<usize> {
        // One side of splice(2) and of vmsplice(2) is always a pipe.
        let by_pipe = to != To::Pipe && matches!(self, Self::Splice | Self::Vmsplice);
        let (from_pipe, into_pipe) = pipe()?;
        let into_pipe = File::from(into_pipe);
        let (mut sent, mut calls) = (0, 0);
        while sent < source.memory.len() {
            let n = self.once(source, sent, if by_pipe { &into_pipe } else { into })?;
            calls += if self == Self::ReadAndWrite { 2 } else { 1 };
            ensure!(n > 0, "{}: nothing after {sent} bytes", self.name());
            sent += n;
            let mut left = if by_pipe { n } else { 0 };
            while left > 0 {
                left -= splice(&from_pipe, None, into, None, left, WAIT)?;
                calls += 1;
            }
        }
        Ok(calls)
    }

    /// Sends, changes, and reads what arrived. Gives the number of system calls, and whether it was a copy.
    fn observe(self, source: &Source, to: To) -> anyhow::Result<(usize, bool)> {
        let (into, mut from) = to.open()?;
        let (old, new) = (content(1, LEN), content(2, LEN));
        source.fill(&old);
        let calls = self.send(source, to, &into)?;
        source.fill(&new);
        let mut found = vec![0; LEN];
        from.read_exact(&mut found)?;
        match found {
            found if found == old => Ok((calls, true)),
            found if found == new => Ok((calls, false)),
            _ => bail!("{} to {to:?}: neither old nor new", self.name()),
        }
    }

    /// Sends more than fits. Gives the number of system calls.
    fn arrives(self, source: &Source, to: To) -> anyhow::Result<usize> {
        let expected = source.content();
        let (into, mut from) = to.open()?;
        let mut found = vec![0; expected.len()];
        let calls = if to == To::File {
            let calls = self.send(source, to, &into)?;
            from.read_exact(&mut found)?;
            calls
        } else {
            thread::scope(|scope| {
                let reader = scope.spawn(|| from.read_exact(&mut found));
                let calls = self.send(source, to, &into);
                // If that failed, the reader must not wait for more.
                drop(into);
                reader.join().expect("it does not panic")?;
                calls
            })?
        };
        ensure!(found == expected, "{} to {to:?}", self.name());
        Ok(calls)
    }
}

/// What is seen of the copies that the kernel makes.
fn who_copies(region: &Source, memfd: &Source) -> anyhow::Result<()> {
    println!("{LEN} bytes are sent and changed, and then read where they arrived\n");
    println!("                                            through a   copied by the kernel");
    println!("  way                       to      calls   buffer      a region   a memfd");
    let word = |is| if is { "yes" } else { "no" };
    for to in [To::Pipe, To::Socket, To::File] {
        for way in Way::ALL {
            let (calls, copied) = way.observe(region, to)?;
            let beside = way.observe(memfd, to)?;
            println!(
                "  {:<24}  {:<6}  {calls:>5}   {:<9}   {:<8}   {}",
                way.name(),
                format!("{to:?}").to_lowercase(),
                word(way == Way::ReadAndWrite),
                word(copied),
                word(beside.1)
            );
            // A file has memory of its own: there is no way into it without a copy. A pipe and a socket can
            // have the pages themselves: those of a region by vmsplice(2) only, as the driver's answer to
            // splice(2) and sendfile(2) is copy_splice_read(), which reads it into fresh pages.
            let pages_go = match way {
                Way::ReadAndWrite | Way::Write => (false, false),
                Way::Sendfile | Way::Splice => (false, true),
                Way::Vmsplice => (true, true),
            };
            let file = to == To::File;
            ensure!((copied, beside.1) == (file || !pages_go.0, file || !pages_go.1));
            ensure!(calls == beside.0);
        }
    }
    Ok(())
}

/// More than fits into a pipe or a socket.
fn how_many_calls() -> anyhow::Result<()> {
    let region = Region::new(c"more", MORE)?;
    let map = region.map()?;
    let source = Source {
        fd: region.as_fd(),
        memory: map.bytes(),
    };
    source.fill(&content(3, MORE));
    println!("\n{MORE} bytes of a region, all of which arrive: calls\n");
    println!("                            to a socket   to a file");
    for way in Way::ALL {
        let socket = way.arrives(&source, To::Socket)?;
        let file = way.arrives(&source, To::File)?;
        println!("  {:<24}  {socket:>11}   {file:>9}", way.name());
    }
    Ok(())
}

/// What a pipe has of a region stays there when the region loses it.
fn on_its_way(source: &Source, region: &Region) -> anyhow::Result<()> {
    let expected = content(4, LEN);
    source.fill(&expected);
    let (into, mut from) = To::Pipe.open()?;
    Way::Vmsplice.send(source, To::Pipe, &into)?;
    region.unpin(..)?;
    region.purge_all_caches()?;
    let status = region.page_status(..)?;
    let purged = status.iter().filter(|page| page.state == PageState::Purged);
    let purged = purged.count();
    let zeros = source.content().iter().filter(|byte| **byte == 0).count();
    let mut found = vec![0; LEN];
    from.read_exact(&mut found)?;
    let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
    println!("\nthe region is purged while a pipe has its pages, by vmsplice");
    println!("  {purged} pages are purged: {zeros} bytes of the region are zeros");
    println!("  {same} bytes of what comes out of the pipe are as they were sent");
    ensure!((purged, zeros, same) == (16, LEN, LEN));
    ensure!(!region.pin(..)?.keep(), "the pin does not tell of it");
    Ok(())
}

/// The other direction.
fn into_a_region(source: &Source) -> anyhow::Result<()> {
    let (mut file, from) = To::File.open()?;
    let expected = content(5, LEN);
    file.write_all(&expected)?;
    let (mut into_pipe, from_pipe) = To::Pipe.open()?;
    into_pipe.write_all(b"bytes")?;
    println!("\ninto a region");
    for (name, result) in [
        ("write", write(source.fd, b"bytes")),
        ("sendfile", sendfile64(source.fd, &from, Some(&mut 0), LEN)),
        ("splice", splice(&from_pipe, None, source.fd, None, 5, WAIT)),
    ] {
        let errno = result.err().context("it is not refused")?;
        println!("  {name}: {errno:?}");
        ensure!(errno == Errno::EINVAL);
    }
    let part = source.from(0);
    // SAFETY: It is mapped, and all references to it are to atomics.
    let n = unsafe { libc::read(from.as_raw_fd(), part.iov_base, part.iov_len) };
    let n = Errno::result(n).context("read into the mapping")?;
    println!("  read into the mapping: {n} bytes in one call");
    ensure!(n as usize == LEN && source.content() == expected);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let region = Region::new(c"on its way", LEN)?;
    let map = region.map()?;
    let source = Source {
        fd: region.as_fd(),
        memory: map.bytes(),
    };
    let memfd = File::from(memfd_create(c"beside", MFdFlags::MFD_CLOEXEC)?);
    memfd.set_len(LEN as u64)?;
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: It replaces nothing.
    let base = unsafe {
        let len = LEN.try_into()?;
        mmap(None, len, rights, MapFlags::MAP_SHARED, &memfd, 0)?
    };
    let beside = Source {
        fd: memfd.as_fd(),
        // SAFETY: It stays mapped until this program ends.
        memory: unsafe { slice::from_raw_parts(base.as_ptr().cast(), LEN) },
    };
    who_copies(&source, &beside)?;
    how_many_calls()?;
    on_its_way(&source, &region)?;
    into_a_region(&source)
}
