// SPDX-License-Identifier: GPL-2.0-only

//! What the page tables and the frames behind them say of a region, beside a memfd.
//!
//! It asks, as root:
//!
//! ```text
//!   /proc/self/pagemap    for each page: its entry in the page table, and the number of its frame
//!   PAGEMAP_SCAN          for each page: its entry again, whether that is a huge one, and, where
//!                         userfaultfd(2) is set upon it, whether it was written
//!   /proc/kpageflags      for each frame: what the kernel notes of it
//!   /proc/self/smaps      for each mapping: what it may be used for, and sums
//!   the driver            for each page: whether it has memory, and whether that may be taken
//! ```

use std::ops::Range;

use anyhow::Context;
use anyhow::ensure;
use ashmem::PageState;
use ashmem::Region;
use linux_raw_sys::general::PAGE_IS_FILE;
use linux_raw_sys::general::PAGE_IS_PRESENT;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MmapAdvise;
use nix::unistd::ftruncate;
use procfs::PhysicalPageFlags;
use procfs::process::MemoryPageFlags;

mod frames;
mod huge;
mod memory;
mod pagemap;
mod writing;

use frames::Letters;
use memory::Memory;
use pagemap::PAGE;

// What is done. ----------------------------------------------------------------

/// What is done to a page.
enum Step {
    Write,
    Read,
    /// `MADV_DONTNEED`: the mapping forgets it.
    Forget,
    /// `MADV_REMOVE`: its memory goes.
    Remove,
    Unpin,
    /// It is unpinned, and taken. Of a memfd nothing can be taken: there it is removed.
    Purge,
    Pin,
}

use Step::*;

/// To each page in turn.
const PLAN: [(&str, &[Step]); 24] = [
    ("written", &[Write]),
    ("", &[]),
    ("read", &[Read]),
    ("", &[]),
    ("written, MADV_DONTNEED", &[Write, Forget]),
    ("", &[]),
    ("written, MADV_REMOVE", &[Write, Remove]),
    ("", &[]),
    ("written, purged", &[Write, Purge]),
    ("purged", &[Purge]),
    ("written, purged, written", &[Write, Purge, Write]),
    ("", &[]),
    ("written, purged, pinned", &[Write, Purge, Pin]),
    ("", &[]),
    ("written, unpinned", &[Write, Unpin]),
    ("unpinned", &[Unpin]),
    ("written", &[Write]),
    ("written", &[Write]),
    ("written", &[Write]),
    ("", &[]),
    ("written", &[Write]),
    ("", &[]),
    ("", &[]),
    ("", &[]),
];
/// One that was read, and not written.
const READ: usize = 2;
/// One that is unpinned and has memory.
const UNPINNED: usize = 14;

/// The bytes of a page.
fn bytes(page: usize) -> Range<u64> {
    (page * PAGE) as u64..((page + 1) * PAGE) as u64
}

/// Unpins a page, and has all taken that is unpinned.
fn purge(region: &Region, page: usize) -> anyhow::Result<()> {
    region.unpin(bytes(page))?;
    region.purge_all_caches()?;
    let status = region.page_status(bytes(page))?[0];
    ensure!(status.state == PageState::Purged && !status.resident);
    Ok(())
}

/// Does all of it to the memory of a region, or of a memfd.
fn carry_out(memory: Memory, region: Option<&Region>) -> anyhow::Result<()> {
    for (page, (_, steps)) in PLAN.iter().enumerate() {
        for step in *steps {
            match (step, region) {
                (Write, _) => memory.write(page),
                (Read, _) => memory.read(page),
                (Forget, _) => memory.advise(page, MmapAdvise::MADV_DONTNEED)?,
                (Remove, _) | (Purge, None) => memory.advise(page, MmapAdvise::MADV_REMOVE)?,
                (Purge, Some(region)) => purge(region, page)?,
                (Unpin, Some(region)) => region.unpin(bytes(page))?,
                (Pin, Some(region)) => ensure!(!region.pin(bytes(page))?.keep(), "not purged"),
                (Unpin | Pin, None) => {}
            }
        }
    }
    Ok(())
}

fn memfd(pages: usize) -> anyhow::Result<Memory> {
    let memfd = memfd_create(c"beside", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&memfd, (pages * PAGE) as i64)?;
    Memory::of_file(memfd, pages)
}

// Pages. -----------------------------------------------------------------------

/// The letter of each thing that is so, a dot for each that is not.
fn letters<T>(all: &[(char, T)], is: impl Fn(&T) -> bool) -> String {
    let letter = |(letter, thing): &(char, T)| if is(thing) { *letter } else { '.' };
    all.iter().map(letter).collect()
}

/// Of each page: its entry, which frame that is, and what is noted of it.
fn rows(memory: Memory) -> anyhow::Result<Vec<String>> {
    type Entry = MemoryPageFlags;
    type Flags = PhysicalPageFlags;
    let bits = [
        ('p', Entry::PRESENT),
        ('f', Entry::FILE),
        ('x', Entry::MMAP_EXCLUSIVE),
    ];
    let notes = [
        ('u', Flags::UPTODATE),
        ('d', Flags::DIRTY),
        ('l', Flags::LRU),
        ('v', Flags::UNEVICTABLE),
        ('s', Flags::SWAPBACKED),
        ('m', Flags::MMAP),
        ('h', Flags::COMPOUND_HEAD),
        ('t', Flags::COMPOUND_TAIL),
    ];
    let mut names = Letters::default();
    let mut row = |entry: Entry| {
        let bits = letters(&bits, |bit| entry.contains(*bit));
        let Some(frame) = pagemap::frame(entry)? else {
            return Ok(format!("{bits:5} {:5} {:8}", "", ""));
        };
        let name = format!("{}{}", names.of(frame)?, frame - pagemap::folio(frame)?);
        let flags = pagemap::flags(frame, 1)?[0];
        ensure!(!flags.contains(Flags::HWPOISON), "memory has failed");
        let notes = letters(&notes, |note| flags.contains(*note));
        Ok(format!("{bits:5} {name:5} {notes}"))
    };
    memory.entries()?.into_iter().map(&mut row).collect()
}

/// That the interfaces agree with each other about a mapping; gives the sums that smaps has.
fn agree(memory: Memory) -> anyhow::Result<String> {
    let (entries, frames) = (memory.entries()?, memory.frames()?);
    let scanned = memory.scan(PAGE_IS_PRESENT | PAGE_IS_FILE, 0)?;
    let mut dirty = 0;
    for page in 0..memory.pages {
        let is = |bit| entries[page].contains(bit);
        let scan = |category| scanned[page] & category != 0;
        ensure!(is(MemoryPageFlags::PRESENT) == scan(PAGE_IS_PRESENT));
        ensure!(is(MemoryPageFlags::FILE) == scan(PAGE_IS_FILE));
        if let Some(frame) = frames[page] {
            let flags = pagemap::flags(frame, 1)?[0];
            dirty += usize::from(flags.contains(PhysicalPageFlags::DIRTY));
            // The frames of one folio lie one behind the other.
            let tail = flags.contains(PhysicalPageFlags::COMPOUND_TAIL);
            ensure!(!tail || frames[page - 1] == Some(frame - 1));
        }
    }
    let smaps = memory.smaps()?;
    let kib = |key: &str| smaps.extension.map.get(key).map(|bytes| bytes / 1024);
    let rss = kib("Rss").context("no Rss")?;
    let dirt = kib("Private_Dirty")
        .zip(kib("Shared_Dirty"))
        .map(|(a, b)| a + b);
    let dirt = dirt.context("no Dirty")?;
    ensure!(rss as usize == frames.iter().flatten().count() * PAGE / 1024);
    ensure!(dirt as usize == dirty * PAGE / 1024);
    let may = smaps.perms.as_str();
    Ok(format!(
        "{may}, {rss} KiB are present, {dirt} KiB are dirty"
    ))
}

fn show_pages(region: &Region, memory: Memory, beside: Memory) -> anyhow::Result<()> {
    // New pages wait in a batch for their LRU list; this advice, even of an empty page, ends the wait.
    beside.advise(1, MmapAdvise::MADV_COLD)?;
    println!("24 pages of a region, and of a memfd, which is punched where the region is purged");
    println!("  entry: present, of a file, x: mapped here alone");
    println!("  frame: a letter for its folio, and which page of that it is");
    println!("  flags: uptodate, dirty, on an lru list, v: unevictable, swapbacked, mapped,");
    println!("         head and tail of a large folio\n");
    let columns = "entry frame flags   ";
    println!("  {:45}  region                memfd", "");
    println!(
        "  page {:24} {:15}  {columns}  entry frame flags",
        "done", "driver says"
    );
    let status = region.page_status(..)?;
    let (ours, theirs) = (rows(memory)?, rows(beside)?);
    let frames = memory.frames()?;
    for (page, (done, _)) in PLAN.iter().enumerate() {
        let state = match status[page].state {
            PageState::Pinned => "pinned",
            PageState::Unpinned => "unpinned",
            PageState::Purged => "purged",
        };
        let has = if status[page].resident { "memory" } else { "" };
        let line = format!(
            "  {page:4} {done:24} {state:8} {has:6}  {}  {}",
            ours[page], theirs[page]
        );
        println!("{}", line.trim_end());
        ensure!(frames[page].is_none() || status[page].resident);
    }
    println!("\nsmaps sums that up, and says what a mapping may be used for, not an entry");
    println!("  region  {}", agree(memory)?);
    println!("  memfd   {}", agree(beside)?);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let region = Region::new(c"examined", PLAN.len() * PAGE)?;
    let memory = Memory::of_region(region.map()?)?;
    let beside = memfd(PLAN.len())?;
    carry_out(memory, Some(&region))?;
    carry_out(beside, None)?;
    show_pages(&region, memory, beside)?;
    writing::show(&region, memory, beside)?;
    frames::show(&region, memory)?;
    huge::show()
}
