// SPDX-License-Identifier: GPL-2.0-only

//! Data that the kernel itself moves to and from a mapping, past the page
//! tables of whoever asked: O_DIRECT, io_uring, vmsplice(2), process_vm_*(2).

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::unistd::Pid;
use nix::unistd::getpid;
use nix::unistd::pipe2;

use crate::fuse::OneFile;
use crate::harness::skip;
use crate::harness::tests;
use crate::kernel;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::tests::process::until;
use crate::uring::Ring;

tests! {
    o_direct_moves_data_through_fuse => "map.o-direct",
    o_direct_moves_data_of_a_loop_device => "map.o-direct",
    purge_during_an_o_direct_read_leaves_its_buffer => "map.o-direct" "purge.dma",
    o_direct_into_what_others_purge_is_whole_or_reported => "map.o-direct",
    io_uring_moves_data_of_fixed_buffers => "map.io-uring",
    purge_leaves_a_fixed_buffer_to_both_sides => "map.io-uring" "purge.dma",
    vmsplice_gives_the_pages_themselves => "map.vmsplice",
    purge_leaves_what_lies_in_a_pipe => "map.vmsplice" "purge.zeros",
    process_vm_reaches_a_mapping => "map.process-vm",
}

/// Bytes of which no two pages are equal.
fn noise(seed: usize, pages: usize) -> Vec<u8> {
    (0..pages * PAGE)
        .map(|at| (seed * 89 + at * 7 + at / PAGE * 31 + 1) as u8)
        .collect()
}

/// The offsets of these pages.
fn bytes(pages: Range<usize>) -> Range<usize> {
    pages.start * PAGE..pages.end * PAGE
}

/// Asserts what some pages of a mapping hold.
fn holds(map: &Mapping, pages: Range<usize>, expected: &[u8]) -> anyhow::Result<()> {
    let found = map.load(bytes(pages.clone()));
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    ensure!(
        found.len() == expected.len() && differs.is_none(),
        "pages {pages:?} differ first at {differs:?}"
    );
    Ok(())
}

/// A file of /tmp with this content.
fn temporary(name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
    let path = Path::new("/tmp").join(name);
    fs::write(&path, content).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn open_as(path: &Path, flags: OFlag) -> anyhow::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits())
        .open(path)
        .with_context(|| path.display().to_string())
}

/// Reads the beginning of a file into pages of a mapping; gives the number of bytes.
fn read_into(file: &File, map: &Mapping, pages: Range<usize>) -> anyhow::Result<usize> {
    let buffer = map.iovec(pages);
    // SAFETY: The buffer is mapped, and as shared memory may change at any time.
    let n = Errno::result(unsafe { libc::preadv(file.as_raw_fd(), &raw const buffer, 1, 0) })
        .context("preadv")?;
    Ok(n as usize)
}

/// Writes pages of a mapping to the beginning of a file; gives the number of bytes.
fn write_from(file: &File, map: &Mapping, pages: Range<usize>) -> anyhow::Result<usize> {
    let buffer = map.iovec(pages);
    // SAFETY: The buffer is mapped, and only read.
    let n = Errno::result(unsafe { libc::pwritev(file.as_raw_fd(), &raw const buffer, 1, 0) })
        .context("pwritev")?;
    Ok(n as usize)
}

/// Moves pages between a region and a file of four pages, both ways. The file
/// begins with `noise(1, 4)`.
fn o_direct_both_ways(path: &Path) -> anyhow::Result<()> {
    let file = open_as(path, OFlag::O_DIRECT)?;
    let region = Region::sized(8)?;
    let map = region.map(8)?;
    let twin = region.map(8)?;

    // Into holes alone, as where there are others a kernel may do these by
    // itself and the rest through its page cache.
    map.stamp(1..4, 1);
    ensure!(region.info()?.resident == 3);
    ensure!(read_into(&file, &map, 4..6)? == 2 * PAGE);
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (5, 5), "{info:?}");
    holds(&twin, 4..6, &noise(1, 2))?;
    ensure!(map.picture(1) == "0xxx??00", "{}", map.picture(1));
    // Into pages that are there and one that is not.
    region.unpin(4..5)?;
    ensure!(region.purge_all()? == 1);
    ensure!(read_into(&file, &map, 2..6)? == 4 * PAGE);
    holds(&twin, 2..6, &noise(1, 4))?;
    ensure!(map.picture(1) == "0x????00", "{}", map.picture(1));

    // From what was purged, and is a hole by now, and from that and others.
    map.store(0, &noise(2, 3));
    let mut expected = noise(1, 4);
    for pages in [3..4, 0..4] {
        region.unpin(3..4)?;
        ensure!(region.purge_all()? == 1);
        ensure!(write_from(&file, &map, pages.clone())? == pages.len() * PAGE);
        let mut from = noise(2, 3);
        from.resize(4 * PAGE, 0);
        expected[..pages.len() * PAGE].copy_from_slice(&from[bytes(pages.clone())]);
        let mut found = vec![];
        File::open(path)?.read_to_end(&mut found)?;
        ensure!(found == expected, "in the file, from {pages:?}");
        region.pin(3..4)?;
    }
    Ok(())
}

fn o_direct_moves_data_through_fuse() -> anyhow::Result<()> {
    if !OneFile::possible() {
        return skip("this kernel has no CONFIG_FUSE_FS");
    }
    let file = OneFile::new(noise(1, 4), || Ok(()))?;
    o_direct_both_ways(file.path())?;
    file.end()
}

/// A block device that is a file.
struct Loop {
    path: PathBuf,
    device: File,
}

impl Loop {
    /// Attaches a file of /tmp with this content. `None`: this kernel cannot.
    fn new(content: &[u8]) -> anyhow::Result<Option<Self>> {
        let Ok(control) = open_as(Path::new("/dev/loop-control"), OFlag::empty()) else {
            return Ok(None);
        };
        // SAFETY: It takes no argument, and gives a number.
        let number = Errno::result(unsafe {
            libc::ioctl(
                control.as_raw_fd(),
                kernel::LOOP_CTL_GET_FREE as libc::Ioctl,
            )
        })
        .context("LOOP_CTL_GET_FREE")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open_as(&path, OFlag::empty())?;
        let file = open_as(&temporary("loop", content)?, OFlag::empty())?;
        // SAFETY: It takes a descriptor.
        Errno::result(unsafe {
            libc::ioctl(
                device.as_raw_fd(),
                kernel::LOOP_SET_FD as libc::Ioctl,
                file.as_raw_fd(),
            )
        })
        .context("LOOP_SET_FD")?;
        Ok(Some(Self { path, device }))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let request = kernel::LOOP_CLR_FD as libc::Ioctl;
        // SAFETY: It takes no argument.
        if unsafe { libc::ioctl(self.device.as_raw_fd(), request, 0) } != 0 {
            eprintln!("LOOP_CLR_FD: {}", Errno::last());
        }
    }
}

const NO_LOOP: &str = "this kernel has no CONFIG_BLK_DEV_LOOP=y";

fn o_direct_moves_data_of_a_loop_device() -> anyhow::Result<()> {
    let Some(device) = Loop::new(&noise(1, 4))? else {
        return skip(NO_LOOP);
    };
    o_direct_both_ways(&device.path)
}

fn purge_during_an_o_direct_read_leaves_its_buffer() -> anyhow::Result<()> {
    if !OneFile::possible() {
        return skip("this kernel has no CONFIG_FUSE_FS");
    }
    let region = Region::sized(8)?;
    let map = region.map(8)?.single()?;
    map.stamp(0..5, 1);
    region.unpin(1..8)?;
    // Of the unpinned ones, 3 to 5 are the buffer, one of them a hole before.
    let disk = OneFile::new(noise(3, 3), || {
        let purged = region.purge_all()?;
        ensure!(purged == 4, "{purged} of pages 1, 2, 6 and 7");
        Ok(())
    })?;
    let file = open_as(disk.path(), OFlag::O_DIRECT)?;
    ensure!(read_into(&file, &map, 3..6)? == 3 * PAGE);
    drop(file);
    let info = region.info()?;
    ensure!((info.purged, info.resident) == (2, 4), "{info:?}");
    ensure!(!region.pin(3..6)?, "the buffer was purged");
    holds(&map, 3..6, &noise(3, 3))?;
    ensure!(region.pin(1..3)? && region.pin(6..8)?);
    ensure!(map.picture(1) == "x00???00", "{}", map.picture(1));
    disk.end()
}

fn o_direct_into_what_others_purge_is_whole_or_reported() -> anyhow::Result<()> {
    const ROUNDS: usize = 200;
    let pages = 8;
    let content = noise(4, pages);
    let fuse;
    let device;
    let path = if OneFile::possible() {
        device = None;
        fuse = Some(OneFile::new(content.clone(), || Ok(()))?);
        fuse.as_ref().map(|fuse| fuse.path().to_owned())
    } else {
        fuse = None;
        device = Loop::new(&content)?;
        device.as_ref().map(|device| device.path.clone())
    };
    let Some(path) = path else {
        return skip("this kernel has neither CONFIG_FUSE_FS nor CONFIG_BLK_DEV_LOOP=y");
    };
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    let control = Region::sized(1)?;
    let control = control.map(1)?;
    let stop = control.atomic(0);
    let purger = spawn(|| {
        while stop.load(SeqCst) == 0 {
            region.purge_all()?;
        }
        Ok(())
    })?;
    let file = open_as(&path, OFlag::O_DIRECT)?;
    let mut purged = 0;
    for round in 0..ROUNDS {
        map.stamp(0..pages, 1);
        region.unpin(0..pages)?;
        ensure!(read_into(&file, &map, 0..pages)? == pages * PAGE);
        for page in 0..pages {
            if region.pin(page..page + 1)? {
                purged += 1;
            } else {
                holds(&map, page..page + 1, &content[bytes(page..page + 1)])
                    .with_context(|| format!("round {round}"))?;
            }
        }
    }
    stop.store(1, SeqCst);
    purger.join()?;
    println!("purged {purged} of {}", ROUNDS * pages);
    drop(file);
    drop(device);
    fuse.map_or(Ok(()), OneFile::end)
}

fn io_uring_moves_data_of_fixed_buffers() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = region.map(8)?.single()?;
    let twin = region.map(8)?;
    map.stamp(0..4, 1);
    let ring = Ring::new()?;
    // Two of them are there before.
    ring.register(&map, 2..6)?;
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (6, 6), "{info:?}");

    let source = File::open(temporary("ring", &noise(5, 3))?)?;
    ensure!(ring.read_fixed(&source, &map.iovec(2..5))? == 3 * PAGE);
    holds(&twin, 2..5, &noise(5, 3))?;
    ensure!(map.picture(1) == "xx???000", "{}", map.picture(1));

    // What is written through another mapping is what goes out.
    twin.store(3 * PAGE, &noise(6, 3));
    let (mut from, to) = pipe()?;
    ensure!(ring.write_fixed(&to, &map.iovec(3..6))? == 3 * PAGE);
    let mut found = vec![0; 3 * PAGE];
    from.read_exact(&mut found)?;
    ensure!(found == noise(6, 3), "in the pipe");

    let beyond = ring.read_fixed(&source, &map.iovec(5..7));
    ensure!(
        beyond.is_err_and(|e| e.downcast_ref() == Some(&Errno::EFAULT)),
        "more than was registered"
    );
    ring.unregister()?;
    let gone = ring.read_fixed(&source, &map.iovec(2..3));
    ensure!(
        gone.is_err_and(|e| e.downcast_ref() == Some(&Errno::EFAULT)),
        "after it was unregistered"
    );
    Ok(())
}

fn purge_leaves_a_fixed_buffer_to_both_sides() -> anyhow::Result<()> {
    let region = Region::sized(6)?;
    let map = region.map(6)?;
    map.store(0, &noise(7, 6));
    let ring = Ring::new()?;
    ring.register(&map, 1..4)?;
    region.unpin(0..6)?;
    ensure!(region.purge_all()? == 3);
    ensure!(region.info()?.resident == 3);

    // Out of it comes what was there, into it goes what all can see.
    let (mut from, to) = pipe()?;
    ensure!(ring.write_fixed(&to, &map.iovec(1..4))? == 3 * PAGE);
    let mut found = vec![0; 3 * PAGE];
    from.read_exact(&mut found)?;
    ensure!(found == noise(7, 6)[bytes(1..4)], "in the pipe");
    let source = File::open(temporary("ring", &noise(8, 2))?)?;
    ensure!(ring.read_fixed(&source, &map.iovec(2..4))? == 2 * PAGE);
    holds(&map, 1..2, &noise(7, 6)[bytes(1..2)])?;
    holds(&map, 2..4, &noise(8, 2))?;
    ensure!(!region.pin(1..4)?, "the buffer was purged");
    ensure!(region.pin(0..1)? && region.pin(4..6)?);

    // From the next UNPIN on they are like any others.
    ring.unregister()?;
    drop(ring);
    region.unpin(0..6)?;
    until("the ring lets go", || {
        region.purge_all()?;
        Ok(region.info()?.resident == 0)
    })?;
    holds(&map, 0..6, &vec![0; 6 * PAGE])
}

/// The two ends of a pipe, the one to read from first.
pub fn pipe() -> anyhow::Result<(File, File)> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    Ok((from.into(), to.into()))
}

/// Gives pages of a mapping to a pipe.
pub fn vmsplice(to: &File, map: &Mapping, pages: Range<usize>) -> anyhow::Result<()> {
    let buffer = map.iovec(pages);
    // SAFETY: The pages are shared memory, and nothing is written to them.
    let n = Errno::result(unsafe {
        libc::vmsplice(
            to.as_raw_fd(),
            &raw const buffer,
            1,
            libc::SPLICE_F_GIFT | libc::SPLICE_F_NONBLOCK,
        )
    })
    .context("vmsplice")?;
    ensure!(n as usize == buffer.iov_len, "{n} bytes");
    Ok(())
}

fn vmsplice_gives_the_pages_themselves() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?.single()?;
    map.store(0, &noise(1, 2));
    let (mut from, to) = pipe()?;
    // The third one is a hole, which is filled as by any reading.
    vmsplice(&to, &map, 0..3)?;
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (3, 3), "{info:?}");
    // They lie in both places at once.
    map.store(PAGE, &noise(2, 2));
    let mut found = vec![0; 3 * PAGE];
    from.read_exact(&mut found)?;
    ensure!(found[bytes(0..1)] == noise(1, 1));
    ensure!(found[bytes(1..3)] == noise(2, 2), "not the page itself");
    // The region has lost nothing, though they were a gift.
    holds(&map, 0..1, &noise(1, 1))?;
    holds(&map, 1..3, &noise(2, 2))?;
    ensure!(region.info()?.resident == 3);
    Ok(())
}

fn purge_leaves_what_lies_in_a_pipe() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.store(0, &noise(3, 4));
    let (mut from, to) = pipe()?;
    vmsplice(&to, &map, 1..3)?;
    region.unpin(0..4)?;
    ensure!(region.purge_all()? == 4, "a pipe holds nothing back");
    let info = region.info()?;
    ensure!((info.purged, info.resident) == (4, 0), "{info:?}");
    ensure!(map.picture(1) == "0000");
    // Other pages than those in the pipe.
    map.store(PAGE, &noise(4, 2));
    let mut found = vec![0; 2 * PAGE];
    from.read_exact(&mut found)?;
    ensure!(found == noise(3, 4)[bytes(1..3)], "in the pipe");
    holds(&map, 1..3, &noise(4, 2))?;
    ensure!(region.pin(0..4)?);
    Ok(())
}

/// One of process_vm_readv(2) and process_vm_writev(2).
pub type ProcessVm = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> libc::ssize_t;

/// Moves bytes between a buffer of ours and memory of another process.
pub fn process_vm(call: ProcessVm, pid: Pid, mine: &mut [u8], theirs: usize) -> nix::Result<usize> {
    let local = libc::iovec {
        iov_base: mine.as_mut_ptr().cast(),
        iov_len: mine.len(),
    };
    let remote = libc::iovec {
        iov_base: theirs as *mut libc::c_void,
        iov_len: mine.len(),
    };
    // SAFETY: Our buffer is borrowed for writing; theirs lies in shared memory
    // of a process that knows of it.
    Errno::result(unsafe { call(pid.as_raw(), &raw const local, 1, &raw const remote, 1, 0) })
        .map(|n| n as usize)
}

fn process_vm_reaches_a_mapping() -> anyhow::Result<()> {
    let (here, there) = sockets()?;
    let pid = getpid();
    // Started before there is a region, so that it has no mapping of its own.
    let stranger = spawn(|| {
        let mut words = [[0; size_of::<usize>()]; 2];
        let mut there = File::from(there);
        for word in &mut words {
            there.read_exact(word)?;
        }
        let [base, read_only] = words.map(usize::from_ne_bytes);
        let read = |page: usize, from: usize| {
            let mut buffer = vec![0xaa; PAGE];
            process_vm(libc::process_vm_readv, pid, &mut buffer, from + page * PAGE)
                .map(|n| (n, buffer))
        };
        ensure!(read(0, base)? == (PAGE, noise(1, 1)));
        ensure!(read(1, base)? == (PAGE, vec![0; PAGE]), "a hole");
        ensure!(read(0, read_only)? == (PAGE, noise(1, 1)));

        let write = |page: usize, to: usize, mut bytes: Vec<u8>| {
            process_vm(libc::process_vm_writev, pid, &mut bytes, to + page * PAGE)
        };
        ensure!(write(0, base, noise(2, 1))? == PAGE);
        ensure!(write(2, base, noise(3, 1))? == PAGE, "to a hole");
        ensure!(write(3, base, noise(4, 1))? == PAGE, "to what was purged");
        let found = write(0, read_only, noise(5, 1));
        ensure!(found == Err(Errno::EFAULT), "{found:?}");
        Ok(())
    })?;
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    let read_only = region.map_as(PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    map.store(0, &noise(1, 1));
    map.stamp(3..4, 1);
    region.unpin(3..4)?;
    ensure!(region.purge_all()? == 1);
    let mut here = File::from(here);
    for address in [map.base(), read_only.base()] {
        here.write_all(&address.to_ne_bytes())?;
    }
    stranger.join()?;
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (4, 5), "{info:?}");
    holds(&map, 0..1, &noise(2, 1))?;
    holds(&map, 1..2, &vec![0; PAGE])?;
    holds(&map, 2..3, &noise(3, 1))?;
    holds(&map, 3..4, &noise(4, 1))
}
