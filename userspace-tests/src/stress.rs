// SPDX-License-Identifier: GPL-2.0-only

//! Everything at once: processes with several threads do to a few regions
//! whatever can be done to one, while others of them are killed in the middle
//! of it.
//!
//! Every word of a page says where it belongs and when it was written, so that
//! a page is whole, or it is not:
//!
//! ```text
//!   63    56 55      40 39    31 30             0
//!   region+1 | page    | word   | stamp             or 0: the page was lost, or is new
//! ```
//!
//! The first pages of a region are in *groups*. Who has a group's lock, a word
//! of memory that all share, is its *owner*: alone it pins, unpins, stamps and
//! removes there, and notes what it did, so that it knows what the pages must
//! hold:
//!
//! ```text
//!   pinned                    the stamp, byte for byte
//!   unpinned                  the stamp, or from some word on zeros
//!   unpinned, then stamped    anything of both
//!   at PIN                    the stamp; or not, and then PIN says that it was purged
//! ```
//!
//! Everybody else is a *stranger* there, and reads, faults, forks, maps, moves
//! and purges as it likes; what it finds in a page must belong there. In the
//! *wild* pages at the region's end everybody does everything.
//!
//! The kernel copies byte by byte. So a stranger may find a *part* of a word, its
//! first bytes where a copy has come as far, or its last ones where a purge came
//! in between: one in a page.
//!
//! What a thread does follows from the seed; how the threads meet does not.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::thread;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mlock;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;
use nix::sys::mman::mremap;
use nix::sys::mman::munlock;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::uio::pread;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::Whence;
use nix::unistd::fork;
use nix::unistd::getpid;
use nix::unistd::lseek;

use crate::abi;
use crate::region::Info;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::group::Group;
use crate::tests::pin_model::Random;
use crate::tests::process::Child;
use crate::tests::process::until;
use crate::tests::reclaim::number;
use crate::tests::reclaim::scan_for;
use crate::tests::reclaim::shrinker;
use crate::tests::transfer::pipe;
use crate::tests::transfer::process_vm;
use crate::tests::transfer::vmsplice;
use crate::uring::Ring;

/// Regions that everybody uses. Of the first, nobody removes pages: there the
/// counters tell of every page what became of it.
const REGIONS: usize = 3;
/// Groups of pages in each: a border of the driver's blocks lies among them.
const GROUPS: usize = 66;
/// Pages of a group.
const SIZE: usize = 8;
/// Where the wild pages begin.
const WILD: usize = GROUPS * SIZE;
/// Pages of a region.
const PAGES: usize = WILD + 60;
/// Processes at a time.
const WORKERS: usize = 4;
/// Threads of each.
const THREADS: usize = 3;
/// Bytes of what is told of a failure.
const MESSAGE: usize = 2000;
/// How long processes may take to notice that it is over, on the slowest kernel.
const PATIENCE: Duration = Duration::from_secs(60);

/// The owner of a group has pinned it. As zeroed memory has it.
const PINNED: u32 = 0;
/// The owner of a group has unpinned it.
const UNPINNED: u32 = 1;
/// The owner of a group was killed: nobody knows.
const UNKNOWN: u32 = 2;
/// In a page's stamp: it was written while the page was unpinned.
const WRITTEN: u32 = 1 << 31;
/// How often a page is looked at, a millisecond apart, while there are parts of several words in it.
const LOOKS: usize = 100;

/// What a group's owner knows of it.
struct Notes {
    /// 0: nobody. Else a worker's number and 1.
    owner: AtomicU32,
    /// [`PINNED`] and so on.
    state: AtomicU32,
    /// The stamp of each page, 0 where it holds zeros.
    stamps: [AtomicU32; SIZE],
}

/// Memory that all processes share. It begins as zeros.
struct Board {
    /// Not 0: it is over.
    stop: AtomicU32,
    /// Whether there was a failure: 0 no, 1 it is being written, 2 it can be read.
    failed: AtomicU32,
    message: [AtomicU8; MESSAGE],
    operations: [AtomicU32; WORKERS],
    /// Where each worker has region 0; 0: nowhere.
    places: [AtomicU64; WORKERS],
    pids: [AtomicU32; WORKERS],
    groups: [[Notes; GROUPS]; REGIONS],
}

impl Board {
    /// A new one, which stays for ever.
    fn new() -> anyhow::Result<&'static Self> {
        let len = NonZeroUsize::new(size_of::<Self>()).context("no board")?;
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let base = unsafe { mmap_anonymous(None, len, RW, MapFlags::MAP_SHARED) }?;
        // SAFETY: It is as large, page-aligned, never unmapped, and of integers for which 0 is good,
        // which are used as atomic only.
        Ok(unsafe { base.cast::<Self>().as_ref() })
    }

    fn is_over(&self) -> bool {
        self.stop.load(Relaxed) != 0
    }

    /// Notes a failure, if it is the first, and ends it all.
    fn fail(&self, text: &str) {
        if self.failed.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
            for (to, from) in self.message.iter().zip(text.bytes()) {
                to.store(from, Relaxed);
            }
            self.failed.store(2, Release);
        }
        self.stop.store(1, Relaxed);
    }

    fn failure(&self) -> Option<String> {
        if self.failed.load(Acquire) == 0 {
            return None;
        }
        let bytes = self.message.iter().map(|byte| byte.load(Relaxed));
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The groups of a worker that was killed are without an owner.
    fn bury(&self, worker: usize) {
        for notes in self.groups.iter().flatten() {
            if notes.owner.load(Acquire) == worker as u32 + 1 {
                notes.state.store(UNKNOWN, Relaxed);
                notes.owner.store(0, Release);
            }
        }
    }
}

/// What went on.
pub struct Done {
    operations: u64,
    killed: usize,
    purged: u64,
    allocated: u64,
}

impl Done {
    /// Whether so much went on that it means something.
    pub fn is_enough(&self) -> bool {
        self.operations > 200 && self.purged > 20 && self.killed > 0
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} pages allocated, {} purged, {} workers killed",
            self.operations, self.allocated, self.purged, self.killed
        )
    }
}

/// The words of a page.
fn word(region: usize, page: usize, at: usize, stamp: u32) -> u64 {
    ((region as u64 + 1) << 56) | ((page as u64) << 40) | ((at as u64) << 31) | u64::from(stamp)
}

/// The first bytes of a word, so many.
fn low(bytes: usize) -> u64 {
    (1 << (8 * bytes)) - 1
}

/// What is found in the place of a word.
enum Word {
    /// It is 0.
    Zero,
    /// All of it is there, with this stamp.
    Whole(u32),
    /// Its first bytes, which are its lowest, are there, and none of the others.
    Begun,
    /// Its last bytes are there, and none of the others.
    Cut,
}

impl Word {
    /// What this is in the place of word `at` of a page, if it belongs there.
    fn new(region: usize, page: usize, at: usize, found: u64) -> Option<Self> {
        let stamp = found as u32 & !WRITTEN;
        let expected = word(region, page, at, stamp);
        // No byte of a stamp is 0, so that it shows what of it is there.
        let there = |bytes: Range<usize>| !stamp.to_le_bytes()[bytes].contains(&0);
        let is_begun = |bytes: usize| found == expected & low(bytes) && there(0..bytes.min(4));
        let is_cut = |bytes: usize| found == expected & !low(bytes) && there(bytes.min(4)..4);
        if found == 0 {
            Some(Self::Zero)
        } else if found == expected && there(0..4) {
            Some(Self::Whole(stamp))
        } else if (1..8).any(is_begun) {
            Some(Self::Begun)
        } else if (1..8).any(is_cut) {
            Some(Self::Cut)
        } else {
            None
        }
    }
}

/// What was found in a page.
#[derive(Debug, Default)]
struct Seen {
    /// The last stamp in it, 0 if there is none.
    stamp: u32,
    /// How many words are 0.
    zeros: usize,
    /// There are several stamps.
    several: bool,
    /// A zero comes before a stamp.
    rises: bool,
    /// How many words are begun: what a copy does is for nobody's eyes but its owner's until it is done.
    begun: usize,
    /// How many words are cut.
    cut: usize,
}

impl Seen {
    /// Reads a page, whose words must belong there. Allocates nothing.
    fn new(
        region: usize,
        page: usize,
        words: impl Iterator<Item = u64>,
    ) -> Result<Self, Unexpected> {
        let mut seen = Self::default();
        for (at, found) in words.enumerate() {
            match Word::new(region, page, at, found) {
                Some(Word::Zero) => seen.zeros += 1,
                Some(Word::Begun) => seen.begun += 1,
                Some(Word::Cut) => seen.cut += 1,
                Some(Word::Whole(stamp)) => {
                    seen.several |= seen.stamp != 0 && seen.stamp != stamp;
                    seen.rises |= seen.zeros != 0;
                    seen.stamp = stamp;
                }
                None => {
                    return Err(Unexpected::Word {
                        region,
                        page,
                        at,
                        found,
                    });
                }
            }
        }
        Ok(seen)
    }

    fn bytes(region: usize, page: usize, bytes: &[u8]) -> Result<Self, Unexpected> {
        let words = bytes.chunks_exact(8);
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        Self::new(region, page, words.map(word))
    }

    fn parts(&self) -> usize {
        self.begun + self.cut
    }

    /// All of it is of this stamp; 0: all is zeros.
    fn is(&self, stamp: u32) -> bool {
        let whole = self.zeros == 0 || self.stamp == 0;
        whole && !self.several && self.parts() == 0 && self.stamp == stamp
    }

    /// It may be what a purge left of this stamp while it was read.
    fn is_going(&self, stamp: u32) -> bool {
        !self.several && !self.rises && self.parts() == 0 && [0, stamp].contains(&self.stamp)
    }

    /// It may be what purges left of this stamp while it was written: of a word they cut the last one
    /// left the end.
    fn is_left(&self, stamp: u32) -> bool {
        !self.several && self.begun == 0 && [0, stamp].contains(&self.stamp)
    }
}

/// What may not be found in a page.
#[derive(Debug)]
enum Unexpected {
    /// A word that does not belong there.
    Word {
        region: usize,
        page: usize,
        at: usize,
        found: u64,
    },
    /// Parts of so many words, at every look.
    Parts(usize),
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word {
                region,
                page,
                at,
                found,
            } => write!(
                f,
                "region {region}, page {page}: its word {at} is {found:#x}, of another page"
            ),
            Self::Parts(words) => write!(f, "parts of {words} words, at each of {LOOKS} looks"),
        }
    }
}

impl std::error::Error for Unexpected {}

/// Reads a page until there are parts of one word at most: who reads and who copies may go from word to word
/// side by side, but not again and again. Allocates nothing.
fn settled<E: From<Unexpected>>(mut read: impl FnMut() -> Result<Seen, E>) -> Result<Seen, E> {
    let mut parts = 0;
    for _ in 0..LOOKS {
        let seen = read()?;
        parts = seen.parts();
        if parts <= 1 {
            return Ok(seen);
        }
        sleep(Duration::from_millis(1));
    }
    Err(Unexpected::Parts(parts).into())
}

/// Reads a page of a mapping of all the region.
fn look(map: &Mapping, region: usize, page: usize) -> Result<Seen, Unexpected> {
    look_from(map, region, 0, page)
}

/// Reads a page of a mapping that begins at page `first` of the region.
fn look_from(map: &Mapping, region: usize, first: usize, page: usize) -> Result<Seen, Unexpected> {
    settled(|| {
        let words = map.words(page).map(|word| word.load(Relaxed));
        Seen::new(region, first + page, words)
    })
}

/// What a mapping of a part of a region is of.
struct Part {
    map: Mapping,
    region: usize,
    /// Its first page in the region.
    first: usize,
    /// Which of its pages have been copied, if it is private.
    private: bool,
}

/// One thread.
struct Hand<'a> {
    board: &'static Board,
    regions: &'a [Region],
    worker: usize,
    random: Random,
    /// One for each region, of all of it; they stay where they are.
    maps: Vec<Mapping>,
    /// Mappings that come, move and go.
    part: Option<Part>,
    pipe: (File, File),
    ring: Ring,
    /// Holds one page, from which stamps are read.
    file: File,
    group: &'a Group,
    shrinker: Option<PathBuf>,
}

impl<'a> Hand<'a> {
    fn new(
        board: &'static Board,
        regions: &'a [Region],
        worker: usize,
        random: Random,
        group: &'a Group,
        shrinker: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let maps = regions.iter().map(|region| region.map(PAGES));
        Ok(Self {
            board,
            regions,
            worker,
            random,
            maps: maps.collect::<anyhow::Result<_>>()?,
            part: None,
            pipe: pipe()?,
            ring: Ring::new()?,
            file: File::from(memfd_create(c"page", MFdFlags::MFD_CLOEXEC)?),
            group,
            shrinker,
        })
    }

    /// Goes on until it is over.
    fn work(&mut self) -> anyhow::Result<()> {
        while !self.board.is_over() {
            match self.random.below(16) {
                0..=7 => self.own()?,
                8..=13 => self.visit()?,
                _ => self.run_wild()?,
            }
            self.board.operations[self.worker].fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn chance(&mut self, of: usize) -> bool {
        self.random.below(of) == 0
    }

    fn region(&mut self) -> usize {
        self.random.below(REGIONS)
    }

    /// One without a byte that is 0.
    fn stamp(&mut self) -> u32 {
        let ends = [256, 256, 256, 128];
        u32::from_le_bytes(ends.map(|end| 1 + self.random.below(end - 1) as u8))
    }

    /// Some pages of these, at least one.
    fn span(&mut self, of: Range<usize>) -> Range<usize> {
        let start = of.start + self.random.below(of.len());
        let len = 1 + self.random.below(of.end - start);
        start..start + len
    }

    // What owners do.

    /// Takes a group that is free, does something to it, and lets go of it.
    fn own(&mut self) -> anyhow::Result<()> {
        let region = self.region();
        // A few where all meet, one of them with a block's border in it.
        let group = match self.random.below(2) {
            0 => [0, 1, 2, 63, 64][self.random.below(5)],
            _ => self.random.below(GROUPS),
        };
        let notes = &self.board.groups[region][group];
        let me = self.worker as u32 + 1;
        if notes
            .owner
            .compare_exchange(0, me, Acquire, Relaxed)
            .is_err()
        {
            return Ok(());
        }
        let state = notes.state.load(Relaxed);
        let pages = group * SIZE..(group + 1) * SIZE;
        let steps = 1 + self.random.below(3);
        for _ in 0..steps {
            self.step(region, group)
                .with_context(|| format!("region {region}, pages {pages:?}, at first {state}"))?;
        }
        notes.owner.store(0, Release);
        Ok(())
    }

    fn step(&mut self, region: usize, group: usize) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let pages = group * SIZE..(group + 1) * SIZE;
        if notes.state.load(Relaxed) == UNKNOWN {
            self.regions[region].pin(pages.clone())?;
            notes.state.store(PINNED, Relaxed);
            return self.put(region, group, pages);
        }
        let pinned = notes.state.load(Relaxed) == PINNED;
        match self.random.below(16) {
            0..=2 => {
                let pages = self.span(pages);
                self.put(region, group, pages)
            }
            3..=9 if pinned => {
                self.check(region, group)?;
                self.regions[region].unpin(pages)?;
                notes.state.store(UNPINNED, Relaxed);
                Ok(())
            }
            3..=9 => self.pin(region, group),
            10 if region != 0 => {
                let pages = self.span(pages);
                self.maps[region].advise(pages.clone(), libc::MADV_REMOVE)?;
                for page in pages {
                    notes.stamps[page % SIZE].store(0, Relaxed);
                }
                self.check(region, group)
            }
            11 if pinned => self.hold(region, group),
            12 => self.status(region, group),
            _ => self.check(region, group),
        }
    }

    /// Gives some pages of a group a new stamp.
    fn put(&mut self, region: usize, group: usize, pages: Range<usize>) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let how = self.random.below(6);
        for page in pages {
            let stamp = self.stamp();
            let mark = match notes.state.load(Relaxed) {
                PINNED => 0,
                _ => WRITTEN,
            };
            notes.stamps[page % SIZE].store(stamp | mark, Relaxed);
            self.write(region, page, stamp, how)?;
        }
        Ok(())
    }

    /// Fills a page: by itself, or has the kernel do it.
    fn write(&self, region: usize, page: usize, stamp: u32, how: usize) -> anyhow::Result<()> {
        let map = &self.maps[region];
        if how > 1 {
            for (at, to) in map.words(page).enumerate() {
                to.store(word(region, page, at, stamp), Relaxed);
            }
            return Ok(());
        }
        let mut bytes = content(region, page, stamp);
        let done = if how == 0 {
            let at = map.base() + page * PAGE;
            process_vm(libc::process_vm_writev, getpid(), &mut bytes, at)
                .context("process_vm_writev")?
        } else {
            self.file.write_all_at(&bytes, 0)?;
            let buffer = map.iovec(page..page + 1);
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.file);
            // SAFETY: The buffer is mapped, and as shared memory may change at any time.
            Errno::result(unsafe { libc::preadv(fd, &raw const buffer, 1, 0) }).context("preadv")?
                as usize
        };
        ensure!(done == PAGE, "{done} bytes of a page were written");
        Ok(())
    }

    /// Asserts that a group holds what its owner knows.
    fn check(&self, region: usize, group: usize) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let state = notes.state.load(Relaxed);
        for page in group * SIZE..(group + 1) * SIZE {
            let noted = notes.stamps[page % SIZE].load(Relaxed);
            let stamp = noted & !WRITTEN;
            let seen = look(&self.maps[region], region, page)?;
            let good = match state {
                PINNED => seen.is(stamp),
                _ if noted & WRITTEN != 0 => seen.is_left(stamp),
                _ => seen.is_going(stamp),
            };
            ensure!(
                good,
                "page {page}, {}, has the stamp {stamp:#x}, found {seen:x?}",
                if state == PINNED {
                    "pinned"
                } else {
                    "unpinned"
                }
            );
        }
        Ok(())
    }

    /// Pins a group, and asserts that PIN has told what is lost.
    fn pin(&mut self, region: usize, group: usize) -> anyhow::Result<()> {
        let pages = group * SIZE..(group + 1) * SIZE;
        if self.chance(2) {
            let purged = self.regions[region].pin(pages.clone())?;
            self.pinned(region, group, pages, purged)?;
        } else {
            for page in pages {
                let purged = self.regions[region].pin(page..page + 1)?;
                self.pinned(region, group, page..page + 1, purged)?;
            }
        }
        self.board.groups[region][group]
            .state
            .store(PINNED, Relaxed);
        // What purges left is no stamp to be kept.
        for page in group * SIZE..(group + 1) * SIZE {
            if self.board.groups[region][group].stamps[page % SIZE].load(Relaxed) & WRITTEN != 0 {
                self.put(region, group, page..page + 1)?;
            }
        }
        self.check(region, group)
    }

    /// These pages were pinned by one call, and are from here on what they are.
    fn pinned(
        &self,
        region: usize,
        group: usize,
        pages: Range<usize>,
        purged: bool,
    ) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let (mut lost, mut may_be_lost) = (false, false);
        for page in pages.clone() {
            let stamp = &notes.stamps[page % SIZE];
            let noted = stamp.load(Relaxed);
            let seen = look(&self.maps[region], region, page)?;
            // What was empty may have been marked, and what was written after that is there.
            may_be_lost |= noted == 0 || noted & WRITTEN != 0;
            if seen.is(noted & !WRITTEN) {
                stamp.store(noted & !WRITTEN, Relaxed);
                continue;
            }
            lost = true;
            let left = noted & WRITTEN != 0 && seen.is_left(noted & !WRITTEN);
            ensure!(
                seen.is(0) || left,
                "page {page}, pinned just now, had the stamp {noted:#x}, found {seen:x?}"
            );
            if seen.is(0) {
                stamp.store(0, Relaxed);
            }
        }
        ensure!(
            purged || !lost,
            "PIN of pages {pages:?} did not say that one of them is lost"
        );
        ensure!(
            !purged || lost || may_be_lost,
            "PIN of pages {pages:?} said that one is lost, and none is"
        );
        Ok(())
    }

    /// Has the kernel hold a group as for a device, and unpins it meanwhile.
    fn hold(&mut self, region: usize, group: usize) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let pages = group * SIZE..(group + 1) * SIZE;
        self.ring.register(&self.maps[region], pages.clone())?;
        self.regions[region].unpin(pages.clone())?;
        let held = |this: &Self| -> anyhow::Result<()> {
            for page in pages.clone() {
                let stamp = notes.stamps[page % SIZE].load(Relaxed);
                let seen = look(&this.maps[region], region, page)?;
                ensure!(seen.is(stamp), "page {page} is held, found {seen:x?}");
            }
            Ok(())
        };
        let page = pages.start + self.random.below(SIZE);
        held(self)?;
        let stamp = self.stamp();
        self.file.write_all_at(&content(region, page, stamp), 0)?;
        let buffer = self.maps[region].iovec(page..page + 1);
        let done = self.ring.read_fixed(&self.file, &buffer)?;
        ensure!(done == PAGE, "{done} bytes by io_uring");
        notes.stamps[page % SIZE].store(stamp, Relaxed);
        thread::yield_now();
        held(self)?;
        let purged = self.regions[region].pin(pages.clone())?;
        ensure!(!purged, "pages {pages:?} were held, and purged");
        held(self)?;
        self.ring.unregister()
    }

    /// Asserts what the driver says of a group.
    fn status(&self, region: usize, group: usize) -> anyhow::Result<()> {
        let notes = &self.board.groups[region][group];
        let pages = group * SIZE..(group + 1) * SIZE;
        let pinned = notes.state.load(Relaxed) == PINNED;
        let range = (pages.start * PAGE) as u32;
        let answer = self.regions[region].pinned_bytes(range, (SIZE * PAGE) as u32)?;
        ensure!(answer == pinned, "GET_PIN_STATUS says {answer}");
        let picture = self.regions[region].status_picture(pages.start as u64..pages.end as u64)?;
        for (letter, stamp) in picture.chars().zip(&notes.stamps) {
            let full = stamp.load(Relaxed) != 0;
            let good = match letter {
                ':' => pinned,
                '.' => pinned && !full,
                'U' | 'P' | 'p' => !pinned,
                // Not purged, so what was written to it is there.
                'u' => !pinned && !full,
                _ => false,
            };
            ensure!(good, "GET_PAGE_STATUS says {picture}");
        }
        Ok(())
    }

    // What strangers do.

    fn visit(&mut self) -> anyhow::Result<()> {
        let region = self.region();
        match self.random.below(40) {
            0..=5 => {
                for page in self.span(0..PAGES).take(20) {
                    look(&self.maps[region], region, page)?;
                }
                Ok(())
            }
            6..=8 => self.read_the_file(region),
            9..=13 => self.advise(region),
            14..=20 => self.remap(region),
            21..=22 => self.splice(region),
            23..=24 => self.peer(),
            25..=27 => self.ask(region),
            28..=30 => self.refused(region),
            31..=32 => self.fork(region),
            33 => self.exec(region),
            34 => self.shared().map(drop),
            35 => first_unpins(),
            36 => Ok(self.regions[region].purge_all().map(drop)?),
            _ => self.reclaim(),
        }
    }

    /// read(2), pread(2), lseek(2); the position is everybody's.
    fn read_the_file(&mut self, region: usize) -> anyhow::Result<()> {
        let fd = &self.regions[region];
        let page = self.random.below(PAGES);
        let mut bytes = vec![0xaa; PAGE];
        settled(|| -> anyhow::Result<_> {
            ensure!(pread(fd, &mut bytes, (page * PAGE) as libc::off_t)? == PAGE);
            Ok(Seen::bytes(region, page, &bytes)?)
        })?;
        let how = [
            Whence::SeekData,
            Whence::SeekHole,
            Whence::SeekSet,
            Whence::SeekEnd,
        ][self.random.below(4)];
        let at = match how {
            Whence::SeekEnd => 0,
            _ => (page * PAGE) as libc::off_t,
        };
        match lseek(fd, at, how) {
            Ok(found) => ensure!((0..=PAGES * PAGE).contains(&(found as usize)), "{found}"),
            Err(Errno::ENXIO) if matches!(how, Whence::SeekData) => {}
            Err(error) => bail!("lseek {how:?} from page {page}: {error}"),
        }
        let read = nix::unistd::read(fd, &mut bytes)?;
        ensure!(read <= PAGE, "{read} bytes");
        Ok(())
    }

    fn advise(&mut self, region: usize) -> anyhow::Result<()> {
        let advice = [
            libc::MADV_DONTNEED,
            libc::MADV_WILLNEED,
            libc::MADV_POPULATE_READ,
            libc::MADV_POPULATE_WRITE,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_RANDOM,
            libc::MADV_SEQUENTIAL,
            libc::MADV_NORMAL,
        ][self.random.below(9)];
        let pages = self.span(0..PAGES);
        match self.maps[region].advise(pages.clone(), advice) {
            // Pages were moved or taken at every one of its tries.
            Ok(()) | Err(Errno::EAGAIN | Errno::EBUSY) => Ok(()),
            Err(error) => bail!("madvise {advice} of pages {pages:?}: {error}"),
        }
    }

    /// Mappings of parts, in all the ways in which they change.
    fn remap(&mut self, region: usize) -> anyhow::Result<()> {
        let Some(part) = self.part.take() else {
            let pages = self.span(0..PAGES);
            let private = self.chance(3);
            let mut flags = match private {
                true => MapFlags::MAP_PRIVATE,
                false => MapFlags::MAP_SHARED,
            };
            if self.chance(4) {
                flags |= MapFlags::MAP_POPULATE;
            }
            let map = self.regions[region].map_from(pages.start, pages.len() * PAGE, RW, flags)?;
            self.part = Some(Part {
                map,
                region,
                first: pages.start,
                private,
            });
            return Ok(());
        };
        let len = part.map.pages();
        let look = |page| look_from(&part.map, part.region, part.first, page);
        let page = self.random.below(len);
        look(page)?;
        match self.random.below(7) {
            // Gone as a whole.
            0 => return Ok(()),
            1 if part.private => {
                let stamp = self.stamp();
                for (at, to) in part.map.words(page).enumerate() {
                    to.store(word(part.region, part.first + page, at, stamp), Relaxed);
                }
                // A copy of its own, which no purge reaches.
                thread::yield_now();
                let seen = look(page)?;
                ensure!(seen.is(stamp), "a private copy of {page}: {seen:x?}");
            }
            2 => {
                // SAFETY: It changes no memory.
                unsafe { mlock(part.map.page(page), PAGE) }?;
                thread::yield_now();
                // SAFETY: As above.
                unsafe { munlock(part.map.page(page), PAGE) }?;
            }
            3 => {
                // SAFETY: Nobody else uses this mapping, and it is made writable again.
                unsafe { mprotect(part.map.page(page), PAGE, ProtFlags::PROT_READ) }?;
                look(page)?;
                // SAFETY: As above.
                unsafe { mprotect(part.map.page(page), PAGE, RW) }?;
            }
            4 if !part.private => {
                // A hole in the middle, and the same pages there again.
                let (base, first) = (&part.map, part.first + page);
                base.unmap(page..page + 1)?;
                thread::yield_now();
                // Another thread may have been given these addresses: then the rest stays, and so
                // do these, which are not ours.
                let flags = MapFlags::MAP_FIXED_NOREPLACE;
                if let Err(error) =
                    self.regions[part.region].map_onto(base, page, first..first + 1, flags)
                {
                    ensure!(error == Errno::EEXIST, "{error}");
                    if page != 0 {
                        base.unmap(0..page)?;
                    }
                    if page + 1 != len {
                        base.unmap(page + 1..len)?;
                    }
                    part.map.leak();
                    return Ok(());
                }
            }
            5 => {
                let len = 1 + self.random.below(PAGES - part.first);
                let (old, flags) = (part.map.len(), MRemapFlags::MREMAP_MAYMOVE);
                // SAFETY: Nobody else uses this mapping; what was there goes over to the new one.
                let moved = unsafe { mremap(part.map.pointer(), old, len * PAGE, flags, None) };
                match moved {
                    Ok(base) => {
                        let (region, first, private) = (part.region, part.first, part.private);
                        part.map.leak();
                        // SAFETY: It was made just now.
                        let map = unsafe { Mapping::from_raw(base, len * PAGE) };
                        self.part = Some(Part {
                            map,
                            region,
                            first,
                            private,
                        });
                        return Ok(());
                    }
                    // Several mappings, since a part was made anew or protected, cannot grow.
                    Err(Errno::EFAULT) => {}
                    Err(error) => bail!("mremap of {} pages to {len}: {error}", old / PAGE),
                }
            }
            _ => part.map.advise(0..len, libc::MADV_DONTNEED)?,
        }
        self.part = Some(part);
        Ok(())
    }

    /// Pages in a pipe stay what they are, or become what their owner writes.
    fn splice(&mut self, region: usize) -> anyhow::Result<()> {
        let first = self.random.below(PAGES - 4);
        vmsplice(&self.pipe.1, &self.maps[region], first..first + 4)?;
        if self.chance(2) {
            thread::yield_now();
        }
        let mut bytes = vec![0; 4 * PAGE];
        self.pipe.0.read_exact(&mut bytes)?;
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE)) {
            let seen = Seen::bytes(region, page, bytes).context("in a pipe")?;
            if seen.parts() > 1 {
                // It cannot be read again, but the page can.
                look(&self.maps[region], region, page).context("in a pipe")?;
            }
        }
        Ok(())
    }

    /// Reads memory of another worker, which may be gone.
    fn peer(&mut self) -> anyhow::Result<()> {
        let other = self.random.below(WORKERS);
        let page = self.random.below(PAGES);
        let place = &self.board.places[other];
        let base = place.load(Acquire);
        let pid = Pid::from_raw(self.board.pids[other].load(Acquire) as i32);
        if base == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; PAGE];
        let at = base as usize + page * PAGE;
        settled(|| {
            let read = process_vm(libc::process_vm_readv, pid, &mut bytes, at);
            // It may be another worker by now, with other things at this address.
            if place.load(Acquire) != base {
                return Ok(Seen::default());
            }
            match read {
                Ok(PAGE) => Seen::bytes(0, page, &bytes).context("of another"),
                Ok(_) | Err(Errno::ESRCH | Errno::EFAULT | Errno::EPERM) => Ok(Seen::default()),
                Err(error) => bail!("process_vm_readv: {error}"),
            }
        })
        .map(drop)
    }

    /// Everything that only asks.
    fn ask(&mut self, region: usize) -> anyhow::Result<()> {
        let fd = &self.regions[region];
        let (shown, told) = (fd.info()?, fd.counters()?);
        for info in [shown, told] {
            ensure!(info.size == (PAGES * PAGE) as u64, "{info:?}");
            ensure!(info.resident <= PAGES as u64, "{info:?}");
            ensure!(info.unpinned <= PAGES as u64, "{info:?}");
        }
        // Read one after the other.
        ensure!(
            shown.faults <= told.faults && shown.purged <= told.purged,
            "{shown:?}, then {told:?}"
        );
        fd.status_picture(0..PAGES as u64)?;
        fd.pinned_wide(0, 0)?;
        fd.file_id()?;
        fd.name()?;
        Ok(())
    }

    /// What a frozen region refuses.
    fn refused(&mut self, region: usize) -> anyhow::Result<()> {
        let fd = &self.regions[region];
        ensure!(fd.set_name(c"another") == Err(Errno::EINVAL));
        ensure!(fd.set_size(PAGE) == Err(Errno::EINVAL));
        let unknown = ProtFlags::from_bits_retain(8);
        ensure!(fd.set_mask(unknown) == Err(Errno::EINVAL));
        // It may be narrowed; this is what it is.
        fd.set_mask(fd.mask()?)?;
        let end = (PAGES * PAGE) as u32;
        ensure!(fd.pin_bytes(end, PAGE as u32) == Err(Errno::EINVAL));
        ensure!(fd.unpin_bytes(1, PAGE as u32) == Err(Errno::EINVAL));
        ensure!(fd.ioctl(abi::ABI_PIN, 8) == Err(Errno::EFAULT));
        Ok(())
    }

    /// A child that looks around, and is killed or not.
    fn fork(&mut self, region: usize) -> anyhow::Result<()> {
        let (first, killed) = (self.random.below(PAGES - 20), self.chance(2));
        // SAFETY: The child allocates nothing, takes no lock, and leaves by `_exit`.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Child => {
                let map = &self.maps[region];
                let good = (first..first + 20).all(|page| look(map, region, page).is_ok());
                let advised = map.advise(0..PAGES, libc::MADV_DONTNEED).is_ok();
                // SAFETY: It does not come back.
                unsafe { libc::_exit(if good && advised { 0 } else { 3 }) }
            }
            ForkResult::Parent { child } => {
                if killed {
                    kill(child, Signal::SIGKILL)?;
                }
                match waitpid(child, None)? {
                    WaitStatus::Exited(_, 0) => Ok(()),
                    WaitStatus::Signaled(_, Signal::SIGKILL, _) if killed => Ok(()),
                    other => bail!("a forked child: {other:?}"),
                }
            }
        }
    }

    /// Another program with the descriptor: see [`glance`].
    fn exec(&mut self, region: usize) -> anyhow::Result<()> {
        let fd = self.regions[region].as_fd().try_clone_to_owned()?;
        let output = Command::new("/proc/self/exe")
            .args(["glance", &region.to_string()])
            .stdin(Stdio::from(fd))
            .output()
            .context("/proc/self/exe glance")?;
        ensure!(
            output.status.success(),
            "another program: {}, {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A region that comes and goes, and its mapping after the descriptor.
    fn shared(&mut self) -> anyhow::Result<Seen> {
        let pages = 1 + self.random.below(40);
        let region = Region::open()?;
        region.set_name(c"short-lived")?;
        region.set_size(pages * PAGE)?;
        let map = region.map(pages)?;
        let stamp = self.stamp();
        for page in 0..pages {
            for (at, to) in map.words(page).enumerate() {
                to.store(word(REGIONS, page, at, stamp), Relaxed);
            }
        }
        let unpinned = self.span(0..pages);
        region.unpin(unpinned.clone())?;
        if self.chance(4) {
            region.purge_all()?;
        }
        let mut region = Some(region);
        if self.chance(2) {
            // Closed with unpinned pages.
            region = None;
        }
        for page in 0..pages {
            let seen = look(&map, REGIONS, page)?;
            let good = seen.is(stamp) || unpinned.contains(&page) && seen.is_going(stamp);
            ensure!(good, "page {page} of a region of this thread: {seen:x?}");
        }
        if let Some(region) = region {
            let purged = region.pin(0..pages)?;
            let lost = (0..pages)
                .map(|page| Ok(!look(&map, REGIONS, page)?.is(stamp)))
                .collect::<anyhow::Result<Vec<_>>>()?;
            ensure!(
                purged == lost.contains(&true),
                "PIN of a region of this thread says {purged}, lost are {lost:?}"
            );
        }
        Ok(look(&map, REGIONS, 0)?)
    }

    /// What takes pages back, or moves them.
    fn reclaim(&mut self) -> anyhow::Result<()> {
        match self.random.below(8) {
            0 => fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches"),
            1 => fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory"),
            2..=4 => {
                let Some(shrinker) = &self.shrinker else {
                    return Ok(());
                };
                let pages = 1 + self.random.below(100);
                match scan_for(shrinker, self.group.inode()?, pages) {
                    Err(error) if errno(&error) != Some(libc::EBUSY) => Err(error),
                    _ => Ok(()),
                }
            }
            _ => match self.group.write("memory.reclaim", "256K") {
                // It had less to give.
                Err(error)
                    if ![libc::EAGAIN, libc::EBUSY]
                        .map(Some)
                        .contains(&errno(&error)) =>
                {
                    Err(error)
                }
                _ => Ok(()),
            },
        }
    }

    // Where nobody owns anything.

    fn run_wild(&mut self) -> anyhow::Result<()> {
        let region = self.region();
        let pages = self.span(WILD..PAGES);
        let fd = &self.regions[region];
        match self.random.below(8) {
            0..=1 => fd.pin(pages).map(drop)?,
            2..=4 => fd.unpin(pages)?,
            5 if region != 0 => self.maps[region].advise(pages, libc::MADV_REMOVE)?,
            6 => {
                for page in pages.clone() {
                    look(&self.maps[region], region, page)?;
                }
            }
            _ => {
                let how = self.random.below(6);
                for page in pages {
                    let stamp = self.stamp();
                    self.write(region, page, stamp, how)?;
                }
            }
        }
        Ok(())
    }
}

fn errno(error: &anyhow::Error) -> Option<i32> {
    error.downcast_ref::<io::Error>()?.raw_os_error()
}

/// Pages that come to be while the first UNPIN of their region goes on: what takes memory back must
/// know of them. A page each, so that it knows of a region if it knows of the page.
fn first_unpins() -> anyhow::Result<()> {
    let regions = (0..32).map(|_| {
        let region = Region::sized(1)?;
        let map = region.map(1)?;
        Ok((region, map.base(), map))
    });
    let regions = regions.collect::<anyhow::Result<Vec<_>>>()?;
    let bases: Vec<usize> = regions.iter().map(|(_, base, _)| *base).collect();
    // Whose turn it is: both come to a page at the same time.
    let (turn, ready) = (&AtomicU32::new(0), &AtomicU32::new(0));
    let await_other = |word: &AtomicU32, number| {
        // At first without giving the processor away, so that both run.
        for tries in 0.. {
            if word.load(Acquire) >= number {
                break;
            }
            if tries > 1000 {
                thread::yield_now();
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            for (number, base) in (1..).zip(bases) {
                ready.store(number, Release);
                await_other(turn, number);
                // SAFETY: It is mapped as long as this thread lives, aligned, and used as atomic only.
                unsafe { AtomicU32::from_ptr(base as *mut u32) }.store(1, Relaxed);
            }
        });
        let results: Vec<_> = (1..)
            .zip(&regions)
            .map(|(number, (region, ..))| {
                await_other(ready, number);
                turn.store(number, Release);
                region.unpin(0..1)
            })
            .collect();
        results.into_iter().collect::<nix::Result<()>>()
    })?;
    until("pressure takes what came to be during UNPIN", || {
        fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")?;
        let mut left = regions
            .iter()
            .map(|(region, ..)| region.status_picture(0..1));
        left.try_fold(true, |gone, picture| Ok(gone && picture? != "U"))
    })
}

/// A page of this stamp.
fn content(region: usize, page: usize, stamp: u32) -> Vec<u8> {
    (0..PAGE / 8)
        .flat_map(|at| word(region, page, at, stamp).to_ne_bytes())
        .collect()
}

/// What the program does that a worker executes: it maps the region that is its standard input and
/// looks at every page.
pub fn glance(region: usize) -> anyhow::Result<()> {
    let region_fd = Region::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let map = region_fd.map(PAGES)?;
    for page in 0..PAGES {
        look(&map, region, page)?;
    }
    Ok(())
}

/// A process, until it is over.
fn work(
    board: &'static Board,
    regions: &[Region],
    group: &Group,
    worker: usize,
    seed: u64,
) -> anyhow::Result<()> {
    let shrinker = shrinker().ok();
    let place = regions[0].map(PAGES)?;
    board.pids[worker].store(std::process::id(), Release);
    board.places[worker].store(place.base() as u64, Release);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let shrinker = shrinker.clone();
            let start = move || -> anyhow::Result<()> {
                let random = Random(seed.wrapping_add((number as u64) << 32));
                Hand::new(board, regions, worker, random, group, shrinker)?.work()
            };
            scope.spawn(move || {
                if let Err(error) = start() {
                    board.fail(&format!("worker {worker}, thread {number}: {error:#}"));
                }
            });
        }
    });
    Ok(())
}

/// Who starts, kills and replaces the workers.
struct Director {
    board: &'static Board,
    regions: Vec<Region>,
    parent: Group,
    workers: Vec<(Child, Group)>,
    started: usize,
    random: Random,
    operations: u64,
}

impl Director {
    fn start(&mut self, worker: usize) -> anyhow::Result<(Child, Group)> {
        let group = self.parent.child(&self.started.to_string())?;
        let seed = self.random.0 ^ ((self.started as u64) << 40);
        let (board, regions) = (self.board, &self.regions);
        board.operations[worker].store(0, Relaxed);
        let child = group.spawn(|| work(board, regions, &group, worker, seed))?;
        self.started += 1;
        Ok((child, group))
    }

    /// Kills a worker, wherever it is, and puts another one in its place.
    fn replace(&mut self, worker: usize) -> anyhow::Result<()> {
        let (child, group) = &self.workers[worker];
        kill(child.pid(), Signal::SIGKILL)?;
        match waitpid(child.pid(), None)? {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => {}
            other => bail!("worker {worker} was to be killed: {other:?}"),
        }
        self.board.places[worker].store(0, Release);
        self.board.bury(worker);
        // Its children.
        group.write("cgroup.kill", "1")?;
        self.operations += u64::from(self.board.operations[worker].load(Relaxed));
        let new = self.start(worker)?;
        let (_, group) = std::mem::replace(&mut self.workers[worker], new);
        // With what it has unpinned, which its parent takes over.
        group.remove()
    }

    /// Collects who has ended by itself: children of those that were killed.
    fn reap(&self) -> anyhow::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => {}
                Ok(status) => {
                    let worker = self
                        .workers
                        .iter()
                        .position(|(child, _)| Some(child.pid()) == status.pid());
                    match (worker, status) {
                        (None, WaitStatus::Exited(_, 0)) => {}
                        (None, other) => bail!("a child without parents: {other:?}"),
                        (Some(_), WaitStatus::Exited(_, 0)) if self.board.is_over() => {
                            return Ok(());
                        }
                        (Some(worker), other) => bail!("worker {worker} ended: {other:?}"),
                    }
                }
                Err(error) => return Err(error).context("waitpid"),
            }
        }
    }

    fn direct(&mut self, time: Duration) -> anyhow::Result<usize> {
        for worker in 0..WORKERS {
            let new = self.start(worker)?;
            self.workers.push(new);
        }
        let end = Instant::now() + time;
        let mut killed = 0;
        while !self.board.is_over() && Instant::now() < end {
            sleep(Duration::from_millis(100 + self.random.below(400) as u64));
            self.reap()?;
            if self.random.below(3) == 0 {
                let worker = self.random.below(WORKERS);
                self.replace(worker)?;
                killed += 1;
            }
        }
        self.board.stop.store(1, Relaxed);
        Ok(killed)
    }

    /// Waits for everybody, whatever has happened.
    fn end(&mut self) -> anyhow::Result<()> {
        self.board.stop.store(1, Relaxed);
        let end = Instant::now() + PATIENCE;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => break,
                Err(error) => return Err(error).context("waitpid"),
                Ok(WaitStatus::StillAlive) if Instant::now() > end => {
                    bail!("processes go on {} s after the end", PATIENCE.as_secs())
                }
                Ok(WaitStatus::StillAlive) => sleep(Duration::from_millis(5)),
                Ok(WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGKILL, _)) => {}
                Ok(other) => self.board.fail(&format!("in the end: {other:?}")),
            }
        }
        for (worker, (_, group)) in std::mem::take(&mut self.workers).into_iter().enumerate() {
            self.operations += u64::from(self.board.operations[worker].load(Relaxed));
            group.remove()?;
        }
        Ok(())
    }

    /// What the counters say when nothing goes on any more.
    fn counters(&self) -> anyhow::Result<Vec<Info>> {
        let mut all = vec![];
        for (number, region) in self.regions.iter().enumerate() {
            let (shown, told) = (region.info()?, region.counters()?);
            ensure!(shown == told, "{shown:?} is shown, {told:?} is told");
            let picture = region.status_picture(0..PAGES as u64)?;
            let count = |letters: &str| picture.matches(|c| letters.contains(c)).count() as u64;
            ensure!(shown.resident == count(":UP"), "{shown:?}: {picture}");
            ensure!(shown.unpinned == count("uUpP"), "{shown:?}: {picture}");
            let gone = shown.allocated.checked_sub(shown.resident);
            let good = match number {
                0 => gone == Some(shown.purged),
                _ => gone >= Some(shown.purged),
            };
            ensure!(good, "region {number}: pages were lost: {shown:?}");
            all.push(shown);
        }
        Ok(all)
    }

    /// All groups once more, by one who owns them all.
    fn look_at_all(&self) -> anyhow::Result<()> {
        let group = &self.parent;
        let mut hand = Hand::new(self.board, &self.regions, 0, Random(0), group, None)?;
        for region in 0..REGIONS {
            for group in 0..GROUPS {
                let notes = &self.board.groups[region][group];
                let owner = notes.owner.load(Relaxed);
                ensure!(owner == 0, "region {region}, group {group} is {owner}'s");
                if notes.state.load(Relaxed) == UNPINNED {
                    hand.pin(region, group)
                } else if notes.state.load(Relaxed) == PINNED {
                    hand.check(region, group)
                } else {
                    Ok(())
                }
                .with_context(|| format!("region {region}, group {group}, in the end"))?;
            }
            for page in 0..PAGES {
                look(&hand.maps[region], region, page)?;
            }
        }
        Ok(())
    }
}

/// Pages that regions have: nobody else has any that cannot be evicted. What
/// processors keep in batches is counted too.
pub fn pages_of_regions() -> anyhow::Result<usize> {
    fs::write("/proc/sys/vm/drop_caches", "1").context("drop_caches")?;
    fs::write("/proc/sys/vm/stat_refresh", "1").context("stat_refresh")?;
    number("/proc/vmstat", "nr_unevictable ")
}

/// Does it for so long, in this process's children.
pub fn run(seed: u64, time: Duration) -> anyhow::Result<Done> {
    println!("seed {seed}");
    io::stdout().flush()?;
    set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")?;
    // It says nothing to the log from here on.
    fs::write("/proc/sys/vm/drop_caches", "4").context("drop_caches")?;
    let before = pages_of_regions()?;
    let board = Board::new()?;
    let mut regions = vec![];
    for _ in 0..REGIONS {
        let region = Region::sized(PAGES)?;
        // Frozen, so that what is refused is refused from the beginning.
        drop(region.map(PAGES)?);
        regions.push(region);
    }
    let mut director = Director {
        board,
        regions,
        parent: Group::parent()?,
        workers: vec![],
        started: 0,
        random: Random(seed),
        operations: 0,
    };
    let directed = director.direct(time);
    let ended = director.end();
    if let Some(failure) = board.failure() {
        bail!("seed {seed}: {failure}");
    }
    let done = || -> anyhow::Result<Done> {
        let killed = directed?;
        ended?;
        let mut all = vec![];
        // What was purged is counted a moment after it is gone.
        until("the counters agree", || {
            match director.counters() {
                Ok(found) => all = found,
                Err(error) => println!("{error:#}"),
            }
            Ok(!all.is_empty())
        })?;
        // Nothing has fallen out of the shrinker's lists. What a killed worker had held is let go of
        // in a moment.
        until("pressure takes all that is unpinned", || {
            fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")?;
            let left = |region: &Region| Ok(region.status_picture(0..PAGES as u64)?.contains('U'));
            let left: anyhow::Result<Vec<bool>> = director.regions.iter().map(left).collect();
            Ok(!left?.contains(&true))
        })?;
        director.look_at_all()?;
        drop(director.regions);
        director.parent.remove()?;
        let mut left = 0;
        until("all pages are given back", || {
            left = pages_of_regions()?;
            Ok(left <= before)
        })
        .with_context(|| format!("{before} pages at first, {left} at last"))?;
        Ok(Done {
            operations: director.operations,
            killed,
            purged: all.iter().map(|info| info.purged).sum(),
            allocated: all.iter().map(|info| info.allocated).sum(),
        })
    };
    done().with_context(|| format!("seed {seed}"))
}

#[cfg(test)]
mod unit {
    use super::*;

    const LAST: usize = PAGE / 8 - 1;
    const STAMP: u32 = 0x2122_c3c9;

    /// What is found in a page whose last words are these, and all others are zeros.
    fn seen(last: &[u64]) -> Result<Seen, Unexpected> {
        let zeros = vec![0; PAGE / 8 - last.len()];
        settled(|| Seen::new(2, 319, zeros.iter().chain(last).copied()))
    }

    #[test]
    fn part_of_a_word_is_no_other_pages() {
        let whole = word(2, 319, LAST, STAMP);
        assert_eq!(seen(&[whole]).expect("it belongs there").parts(), 0);
        for bytes in 1..8 {
            let begun = seen(&[whole & low(bytes)]).expect("its beginning");
            assert_eq!((begun.begun, begun.cut), (1, 0), "{bytes}");
            let cut = seen(&[whole & !low(bytes)]).expect("its end");
            assert_eq!((cut.begun, cut.cut), (0, 1), "{bytes}");
            for seen in [&begun, &cut] {
                assert!(!seen.is(0) && !seen.is(STAMP), "{bytes}");
                assert!(!seen.is_going(0) && !seen.is_going(STAMP), "{bytes}");
            }
            // A copy that is done has begun no word.
            assert!(!begun.is_left(STAMP) && cut.is_left(STAMP), "{bytes}");
        }
    }

    #[test]
    fn parts_of_two_words_are_found() {
        let whole = |at| word(2, 319, at, STAMP);
        for part in [low(3), low(6), !low(3), !low(6)] {
            let parts = [whole(LAST - 1) & part, whole(LAST) & part];
            assert!(matches!(seen(&parts), Err(Unexpected::Parts(2))));
        }
        // Unless a copy has gone on since.
        let mut looks = 0;
        let seen = settled(|| {
            looks += 1;
            let first = if looks == 1 { low(3) } else { u64::MAX };
            let words = [whole(0) & first, word(2, 319, 1, STAMP) & low(3)];
            Seen::new(2, 319, words.into_iter())
        });
        assert_eq!((seen.expect("one part").parts(), looks), (1, 2));
    }

    #[test]
    fn small_numbers_are_no_page() {
        let kinds: [fn(usize) -> u64; 3] = [|_| 1, |at| at as u64, |at| 1 << (at % 24)];
        for word in kinds {
            assert!(settled(|| Seen::new(2, 319, (0..PAGE / 8).map(word))).is_err());
        }
    }

    #[test]
    fn word_of_another_page_is_found() {
        for (region, page, at) in [(2, 318, LAST), (1, 319, LAST), (2, 319, 0)] {
            let word = word(region, page, at, STAMP);
            assert!(seen(&[word]).is_err());
            // Nor is another one's beginning, or its end.
            assert!(seen(&[word & low(6)]).is_err() || region == 1);
            assert!(seen(&[word & !low(3)]).is_err());
        }
    }
}
