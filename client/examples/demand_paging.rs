// SPDX-License-Identifier: GPL-2.0-only

//! Demand paging made visible: which touch of a mapping faults, and which of them costs memory.
//!
//! Each act is watched from three sides: the minor faults that the kernel counts for the process, what the
//! driver counts for the region, and how many of its pages have memory, and are mapped, afterwards.

use std::fs;
use std::num::NonZeroUsize;
use std::process::exit;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::ensure;
use ashmem::Region;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::munmap;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::fork;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Pages of a region that is watched.
const PAGES: usize = 64;
/// What is written into each page.
const MARK: u8 = 7;
/// What one page table maps, in bytes.
const TABLE: usize = 2 << 20;

/// A region, and where it is mapped.
struct Place {
    region: Region,
    /// `2 * TABLE` bytes of addresses that are ours.
    reserved: NonNull<u8>,
    advice: MmapAdvise,
    /// What every page was found to begin with.
    found: Option<u8>,
}

impl Place {
    /// A region that is not mapped yet.
    fn new(advice: MmapAdvise) -> anyhow::Result<Self> {
        let len = NonZeroUsize::new(2 * TABLE).context("it has bytes")?;
        let (none, private) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE);
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let reserved = unsafe { mmap_anonymous(None, len, none, private) }?;
        Ok(Self {
            region: Region::new(c"watched", PAGES * PAGE)?,
            reserved: reserved.cast(),
            advice,
            found: None,
        })
    }

    /// Where a page of it is mapped, or will be.
    ///
    /// The kernel maps around a read what is there already, in windows of 64 KiB of the address space, and
    /// never beyond a page table. mmap(2) may choose any page to begin at, and by that how many windows
    /// there are. So the place is chosen here, at a multiple of a table's bytes, which lies within twice as
    /// many bytes, wherever they are.
    fn at(&self, page: usize) -> *mut u8 {
        let start = self.reserved.as_ptr();
        start.wrapping_add(start.align_offset(TABLE) + page * PAGE)
    }

    /// Maps it, in place of what was reserved.
    fn map(&mut self) -> anyhow::Result<()> {
        let address = NonZeroUsize::new(self.at(0).addr());
        let len = NonZeroUsize::new(PAGES * PAGE).context("it has bytes")?;
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: What is replaced is ours, and nothing is there.
        let base = unsafe { mmap(address, len, rw, flags, &self.region, 0) }?;
        // SAFETY: This says how it will be used, and changes no content.
        Ok(unsafe { madvise(base, PAGES * PAGE, self.advice) }?)
    }

    /// Reads a byte of each page.
    fn read(&mut self) -> anyhow::Result<()> {
        for page in 0..PAGES {
            // SAFETY: It is mapped by now, and any value is a byte.
            let byte = unsafe { self.at(page).read_volatile() };
            ensure!(page == 0 || self.found == Some(byte), "page {page}: {byte}");
            self.found = Some(byte);
        }
        Ok(())
    }

    /// Writes a byte into each page.
    fn write(&mut self) -> anyhow::Result<()> {
        for page in 0..PAGES {
            // SAFETY: It is mapped by now, and nobody has a reference to it.
            unsafe { self.at(page).write_volatile(MARK) };
        }
        Ok(())
    }

    /// Has all pages taken out of this process's page table.
    fn forget(&mut self) -> anyhow::Result<()> {
        let base = NonNull::new(self.at(0)).context("an address")?.cast();
        // SAFETY: Of a shared mapping the content stays.
        Ok(unsafe { madvise(base, PAGES * PAGE, MmapAdvise::MADV_DONTNEED) }?)
    }

    /// Has all memory taken back, as when the machine is short of it.
    fn purge(&mut self) -> anyhow::Result<()> {
        self.region.unpin(..)?;
        self.region.purge_all_caches()?;
        ensure!(!self.region.pin(..)?.keep(), "nothing was purged");
        Ok(())
    }

    /// How many pages have memory.
    fn in_memory(&self) -> anyhow::Result<usize> {
        let mut pages = [0; PAGES];
        // SAFETY: The kernel writes a byte for each page.
        let ret = unsafe { libc::mincore(self.at(0).cast(), PAGES * PAGE, pages.as_mut_ptr()) };
        Errno::result(ret)?;
        Ok(pages.iter().filter(|page| **page & 1 == 1).count())
    }

    /// How many are in this process's page table.
    fn mapped(&self) -> anyhow::Result<usize> {
        let smaps = fs::read_to_string("/proc/self/smaps")?;
        let begin = format!("{:08x}-", self.at(0).addr());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:"));
        let kib = rss.and_then(|rss| rss.trim().strip_suffix(" kB"));
        Ok(kib.context("no Rss")?.parse::<usize>()? * 1024 / PAGE)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: It is all ours, the region's mapping too, and nobody has a reference to it.
        let unmapped = unsafe { munmap(self.reserved.cast(), 2 * TABLE) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// What can be done to a place.
type Act = fn(&mut Place) -> anyhow::Result<()>;

/// What happened while something was done.
#[derive(Debug, PartialEq)]
struct Step {
    /// Minor faults of this process.
    minor: u64,
    /// Of the region: runs of the driver's fault handler, and faults that mapped what is there around them.
    resolved: [u64; 2],
    /// Of the region: pages that were given memory.
    allocated: u64,
}

/// Does it, and looks what happens.
fn watch(place: &mut Place, act: Act) -> anyhow::Result<Step> {
    place.found = None;
    let before = place.region.counters()?;
    let usage_before = getrusage(UsageWho::RUSAGE_SELF)?;
    act(place)?;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let after = place.region.counters()?;
    Ok(Step {
        minor: (usage.minor_page_faults() - usage_before.minor_page_faults()).try_into()?,
        resolved: [
            after.faults - before.faults,
            after.map_faults - before.map_faults,
        ],
        allocated: after.allocated - before.allocated,
    })
}

/// A region, and another one for rehearsals.
struct Show {
    place: Place,
    rehearsal: Place,
}

impl Show {
    /// Prints a line of the table: what is done and what happens, which must be this many faults resolved
    /// and pages allocated, with so many pages in memory and mapped afterwards, and this content.
    fn line(
        &mut self,
        what: &str,
        act: Act,
        resolved: [u64; 2],
        allocated: u64,
        now: [usize; 2],
        content: Option<u8>,
    ) -> anyhow::Result<()> {
        // This program is demand-paged as well, its code and its stack; and a child's stack is copied when
        // it is first written to. All of that happens here.
        watch(&mut self.rehearsal, act)?;
        let place = &mut self.place;
        let step = watch(place, act)?;
        let found = [place.in_memory()?, place.mapped()?];
        let text = place.found.map_or("-".to_owned(), |byte| byte.to_string());
        println!(
            "  {what:22}{:6}{:9}{:9}{:11}{:10}{:8}{text:>9}",
            step.minor, step.resolved[0], step.resolved[1], step.allocated, found[0], found[1],
        );
        // Each fault is resolved by one of the two, and no page faults twice.
        let minor = resolved.iter().sum();
        ensure!(minor <= PAGES as u64, "{what}: more faults than pages");
        let expected = (
            Step {
                minor,
                resolved,
                allocated,
            },
            now,
            content,
        );
        ensure!(
            (step, found, place.found) == expected,
            "{what}: expected {expected:?}"
        );
        Ok(())
    }

    /// The table. `first` is how faults are resolved when the pages are touched first, and `again` when
    /// they are there and are not mapped.
    fn table(&mut self, first: [u64; 2], again: [u64; 2]) -> anyhow::Result<()> {
        const ALL: u64 = PAGES as u64;
        const NONE: [u64; 2] = [0, 0];
        const THERE: [usize; 2] = [PAGES, PAGES];
        const ZERO: Option<u8> = Some(0);
        const WRITTEN: Option<u8> = Some(MARK);
        println!("                         minor  driver: its map_      pages   pages in   pages");
        println!(
            "{:24}faults  handler    pages  allocated     memory  mapped  content",
            ""
        );
        self.line("mapped", Place::map, NONE, 0, [0, 0], None)?;
        self.line("each page is read", Place::read, first, ALL, THERE, ZERO)?;
        // What was mapped to be read may be written to at once: nobody has to know of the first write.
        self.line("each is written", Place::write, NONE, 0, THERE, None)?;
        self.line("each is read again", Place::read, NONE, 0, THERE, WRITTEN)?;
        in_child(|| self.line("the same by a child", Place::read, again, 0, THERE, WRITTEN))?;
        self.line("MADV_DONTNEED", Place::forget, NONE, 0, [PAGES, 0], None)?;
        self.line("each page is read", Place::read, again, 0, THERE, WRITTEN)?;
        self.line("unpinned, and purged", Place::purge, NONE, 0, [0, 0], None)?;
        self.line("each page is read", Place::read, first, ALL, THERE, ZERO)
    }
}

/// Does something in a child process, which must go well.
fn in_child(what: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // SAFETY: This process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let done = what().inspect_err(|error| eprintln!("child: {error:#}"));
            exit(i32::from(done.is_err()));
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            ensure!(status == WaitStatus::Exited(child, 0), "{status:?}");
            Ok(())
        }
    }
}

/// Which pages fault when each is written to, in sequence: the page, and how many got memory by that.
fn growth(advice: MmapAdvise) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut place = Place::new(advice)?;
    place.map()?;
    let mut found = vec![];
    let mut before = place.region.counters()?;
    for page in 0..PAGES {
        // SAFETY: It is mapped, and nobody has a reference to it.
        unsafe { place.at(page).write_volatile(MARK) };
        let after = place.region.counters()?;
        if after.faults != before.faults {
            ensure!(after.faults == before.faults + 1, "page {page}: twice");
            found.push((page as u64, after.allocated - before.allocated));
        }
        before = after;
    }
    let sum: u64 = found.iter().map(|(_, allocated)| allocated).sum();
    ensure!(sum == PAGES as u64, "{found:?}");
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    println!("{PAGES} pages are written to, one after the other");
    let found = growth(MmapAdvise::MADV_NORMAL)?;
    let text = |number: u64| format!("{number:3}");
    let pages: String = found.iter().map(|fault| text(fault.0)).collect();
    let allocated: String = found.iter().map(|fault| text(fault.1)).collect();
    println!("  those that fault  {pages}");
    println!("  pages allocated   {allocated}");
    ensure!(found.len() < PAGES);
    let found = growth(MmapAdvise::MADV_RANDOM)?;
    let (all, most) = (found.len(), found.iter().map(|fault| fault.1).max());
    let most = most.context("no fault")?;
    println!("  with MADV_RANDOM   all {all} fault, and allocate {most} page each");
    ensure!(all == PAGES && most == 1);

    for (text, advice, first, again) in [
        // The first 16 pages are several small folios by now, which are mapped around the first touch; each
        // folio of 16 pages the handler maps whole.
        ("no advice", MmapAdvise::MADV_NORMAL, [8, 0], [3, 1]),
        // Each page is a folio of its own, and 16 of them at a time are mapped around a touch.
        ("MADV_RANDOM", MmapAdvise::MADV_RANDOM, [64, 0], [0, 4]),
    ] {
        println!("\n{PAGES} pages, {text}");
        let (place, rehearsal) = (Place::new(advice)?, Place::new(advice)?);
        Show { place, rehearsal }.table(first, again)?;
    }
    Ok(())
}
