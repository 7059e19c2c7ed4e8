// SPDX-License-Identifier: GPL-2.0-only

//! Where mappings end, and what may not be mapped.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::process::exit;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Protection;
use ashmem::Region;
use nix::errno::Errno;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MsFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mremap;
use nix::sys::mman::msync;
use nix::sys::mman::munmap;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::uio::pread;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::fork;

use crate::PAGE;

/// Pages by mmap(2) itself: the library maps no byte that could not be touched.
struct Pages {
    base: NonNull<u8>,
    count: usize,
}

impl Pages {
    /// Maps so many, from this page of the region on, whether it has them or not.
    fn map(region: &Region, first: usize, count: usize) -> anyhow::Result<Self> {
        let len = NonZeroUsize::new(count * PAGE).context("no pages")?;
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let offset = (first * PAGE).try_into()?;
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let base = unsafe { mmap(None, len, rw, MapFlags::MAP_SHARED, region, offset) }?;
        let base = base.cast();
        Ok(Self { base, count })
    }

    /// Where one of them begins, or what is behind them.
    fn at(&self, page: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(page * PAGE)
    }

    /// The first byte of one of them. Whoever asks for one that is not there is in for a signal.
    fn first_byte(&self, page: usize) -> u8 {
        // SAFETY: What cannot be read, the kernel answers with a signal; else every value is a byte.
        // Volatile, so that the compiler neither leaves it out nor does it earlier.
        unsafe { self.at(page).read_volatile() }
    }

    /// Makes them more or fewer, wherever there is room.
    fn resize(&mut self, count: usize) -> anyhow::Result<()> {
        let (old, new) = (self.count * PAGE, count * PAGE);
        // SAFETY: They are ours, and nobody has a reference to them.
        let base = unsafe {
            mremap(
                self.base.cast(),
                old,
                new,
                MRemapFlags::MREMAP_MAYMOVE,
                None,
            )
        }?;
        (self.base, self.count) = (base.cast(), count);
        Ok(())
    }

    /// Moves them to addresses that were reserved for them.
    fn move_to(&mut self, to: NonNull<u8>) -> nix::Result<()> {
        let len = self.count * PAGE;
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: They are ours, nobody has a reference to them, and what is replaced is a reservation.
        let base = unsafe { mremap(self.base.cast(), len, len, flags, Some(to.cast())) }?;
        self.base = base.cast();
        Ok(())
    }
}

/// Addresses for so many pages, which nobody else gets.
fn reserve(count: usize) -> anyhow::Result<NonNull<u8>> {
    let len = NonZeroUsize::new(count * PAGE).context("no pages")?;
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
    Ok(base.cast())
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: They are ours, and no borrow of them is left.
        let unmapped = unsafe { munmap(self.base.cast(), self.count * PAGE) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// How a process ends that does this, a child with all mappings of this one.
fn end_of(touch: impl FnOnce()) -> anyhow::Result<String> {
    // SAFETY: This process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // No file shall be left of it.
            let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            touch();
            exit(i32::from(limited.is_err()));
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok("fine".to_owned()),
            WaitStatus::Signaled(_, signal, _) => Ok(signal.to_string()),
            status => bail!("the child: {status:?}"),
        },
    }
}

/// Prints how a process ends that reads this page's first byte; it must be so.
fn touch(pages: &Pages, page: usize, what: &str, expected: &str) -> anyhow::Result<()> {
    let found = end_of(|| {
        pages.first_byte(page);
    })?;
    println!("  {what:58}{found}");
    ensure!(found == expected, "{what}: expected {expected}");
    Ok(())
}

/// Behind the region, and behind the mapping.
fn ends() -> anyhow::Result<()> {
    println!("the ends of a region of 2 pages");
    let region = Region::new(c"ends", 2 * PAGE)?;
    let mut pages = Pages::map(&region, 0, 2)?;
    touch(&pages, 1, "its last page is touched", "fine")?;

    // A mapping may begin anywhere in the region, and is checked for its length alone.
    let shifted = Pages::map(&region, 1, 2)?;
    touch(&shifted, 0, "mapped from its last page on: that", "fine")?;
    touch(&shifted, 1, "and the page behind it", "SIGBUS")?;
    let longer = Pages::map(&region, 0, 3).err().context("it is mapped")?;
    let longer: Errno = longer.downcast()?;
    println!("  {:58}{longer:?}", "mmap of 3 pages from its first one on");
    ensure!(longer == Errno::EINVAL);
    pages.resize(3)?;
    touch(
        &pages,
        2,
        "the mapping grown by a page: the page behind the region",
        "SIGBUS",
    )?;

    // What lies behind a mapping may be another one, and can be touched then. To be sure that there is
    // nothing, the child takes the last page away, and touches it before anything can be mapped there.
    let found = end_of(|| {
        // SAFETY: The page is ours, and only the child loses it.
        let unmapped = unsafe { libc::munmap(pages.at(2).cast(), PAGE) };
        assert_eq!(unmapped, 0);
        pages.first_byte(2);
    })?;
    println!("  {:58}{found}", "the page behind the mapping");
    ensure!(found == "SIGSEGV");
    Ok(())
}

/// A size that is not made of whole pages.
fn unaligned() -> anyhow::Result<()> {
    const SIZE: usize = 5000;
    println!("a region of {SIZE} bytes");
    let region = Region::new(c"unaligned", SIZE)?;
    let whole = MapOptions::new().range(..2 * PAGE as u64);
    let (memory, other) = (region.map_with(whole)?, region.map_with(whole)?);
    memory.write(0, &[b'x'; SIZE]);

    let mut tail = [1; 2 * PAGE - SIZE];
    memory.read(SIZE, &mut tail);
    ensure!(tail.iter().all(|byte| *byte == 0), "they are not zeros");
    println!(
        "  bytes {SIZE} to {} of its mapping are {} zeros",
        2 * PAGE - 1,
        tail.len()
    );
    memory.write(SIZE, &[b'y'; 2 * PAGE - SIZE]);
    other.read(SIZE, &mut tail);
    ensure!(
        tail.iter().all(|byte| *byte == b'y'),
        "another mapping differs"
    );
    println!("  written to, they are seen by another mapping");

    let mut bytes = [0; 2 * PAGE];
    let read = pread(&region, &mut bytes, 0)?;
    println!("  pread(2) of {} bytes gives {read}", bytes.len());
    ensure!(read == SIZE && bytes[..read].iter().all(|byte| *byte == b'x'));
    let behind = pread(&region, &mut bytes, SIZE as i64)?;
    println!("  and from byte {SIZE} on {behind}");
    ensure!(behind == 0);
    Ok(())
}

/// Which descriptor may be mapped for what: what was asked for, and what mmap(2) must say.
fn modes() -> anyhow::Result<()> {
    /// READ, WRITE and both of them, shared; then the same, private.
    type Row = [&'static str; 6];
    const READ_ONLY: Row = ["ok", "EACCES", "EACCES", "ok", "ok", "ok"];
    const WRITE_ONLY: Row = ["EACCES"; 6];
    const BOTH: Row = ["ok"; 6];
    const RESTRICTED: Row = ["ok", "EPERM", "EPERM", "ok", "EPERM", "EPERM"];
    let uses = [Protection::READ, Protection::WRITE, Protection::READ_WRITE];

    println!("which descriptor may be mapped for what");
    println!("  {:28}{:27}private", "", "shared");
    print!("  {:28}", "opened");
    println!("{0:8}{1:8}{2:11}{0:8}{1:8}{2}", "READ", "WRITE", "both");
    for (name, read, write, restricted, expected) in [
        ("O_RDONLY", true, false, false, READ_ONLY),
        ("O_WRONLY", false, true, false, WRITE_ONLY),
        ("O_RDWR", true, true, false, BOTH),
        ("O_RDWR, restricted to READ", true, true, true, RESTRICTED),
    ] {
        // The library opens for both; whoever sends a descriptor may have opened it for less.
        let file = File::options()
            .read(read)
            .write(write)
            .open("/dev/ashmem")?;
        let region = Region::try_from(OwnedFd::from(file))?;
        region.set_size(PAGE)?;
        if restricted {
            region.restrict(Protection::READ)?;
        }
        let options = MapOptions::new();
        let mut found = vec![];
        for options in [options, options.private()] {
            for use_ in uses {
                found.push(match region.map_with(options.protection(use_)) {
                    Ok(_) => "ok".to_owned(),
                    Err(error) => format!("{:?}", Errno::from_raw(error.errno())),
                });
            }
        }
        let [a, b, c, d, e, f] = &found[..] else {
            bail!("{} answers", found.len());
        };
        println!("  {name:28}{a:8}{b:8}{c:11}{d:8}{e:8}{f}");
        ensure!(found == expected, "{name}: expected {expected:?}");
    }
    Ok(())
}

/// What msync(2) and mremap(2) do.
fn synced_and_moved() -> anyhow::Result<()> {
    const COUNT: usize = 4;
    println!("msync and mremap of a region of {COUNT} pages, of which page N begins with N");
    let region = Region::new(c"moved", COUNT * PAGE)?;
    let memory = region.map()?;
    for page in 0..COUNT {
        memory.write(page * PAGE, &[page as u8]);
    }
    let mut pages = Pages::map(&region, 0, 2)?;

    // There is nowhere to write it to: it is all there is.
    for flags in [
        MsFlags::MS_ASYNC,
        MsFlags::MS_SYNC,
        MsFlags::MS_SYNC | MsFlags::MS_INVALIDATE,
    ] {
        // SAFETY: It changes nothing.
        unsafe { msync(pages.base.cast(), 2 * PAGE, flags) }?;
    }
    println!("  msync, MS_ASYNC, MS_SYNC and with MS_INVALIDATE: 0");
    let begin_with = |pages: &Pages| -> Vec<u8> {
        (0..pages.count)
            .map(|page| pages.first_byte(page))
            .collect()
    };
    let report = |what: &str, pages: &Pages, expected: &[u8]| -> anyhow::Result<()> {
        let found = begin_with(pages);
        println!("  {what:58}{found:?}");
        ensure!(found == expected, "{what}: expected {expected:?}");
        Ok(())
    };
    report("mapped are 2 pages, which begin with", &pages, &[0, 1])?;
    pages.resize(COUNT)?;
    report("grown to 4", &pages, &[0, 1, 2, 3])?;
    pages.resize(3)?;
    report("shrunk to 3", &pages, &[0, 1, 2])?;

    let to = reserve(3)?;
    // By a child first: what is touched where they were must not be something new.
    let found = end_of(|| {
        let from = pages.at(0);
        pages.move_to(to).expect("they can be moved");
        // SAFETY: As in `first_byte`.
        unsafe { from.read_volatile() };
    })?;
    pages.move_to(to)?;
    report("moved to other addresses", &pages, &[0, 1, 2])?;
    println!("  {:58}{found}", "a touch where they were");
    ensure!(found == "SIGSEGV" && pages.base == to);
    Ok(())
}

/// All of them.
pub fn show() -> anyhow::Result<()> {
    ends()?;
    println!();
    unaligned()?;
    println!();
    modes()?;
    println!();
    synced_and_moved()
}
