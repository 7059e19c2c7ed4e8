// SPDX-License-Identifier: GPL-2.0-only

//! Two paths of the driver against each other, where no other test has them so:
//! driver/CONCURRENCY.md names a test for each pair.

use std::fs;
use std::hint::spin_loop;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitStatus;
use nix::unistd::read;

use crate::harness::tests;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::stress::pages_of_regions;
use crate::tests::process::spawn;
use crate::tests::process::until;

tests! {
    who_misses_a_page_at_once_gets_the_same,
    pages_of_one_unpin_are_counted_once,
    status_is_one_moments_view,
    first_mappings_at_once_make_one_file,
    read_sees_one_state => "read.unsized" "read.unmapped",
    killed_owners_leave_nothing @ 60,
    halves_of_a_folio_are_removed_apart => "map.remove",
    pinned_half_of_a_folio_stays_while_the_other_is_purged => "purge.unpinned-only",
}

/// Words that processes tell each other.
struct Signals(Mapping);

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Region::sized(1)?.map(1)?))
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        self.0.atomic(at * size_of::<u32>())
    }

    /// Comes back in both processes at once, for the `round`th time.
    fn meet(&self, round: u32) -> anyhow::Result<()> {
        let (met, failed) = (self.word(0), self.word(1));
        met.fetch_add(1, Ordering::SeqCst);
        while met.load(Ordering::SeqCst) < 2 * (round + 1) {
            ensure!(failed.load(Ordering::SeqCst) == 0, "the other one failed");
            spin_loop();
        }
        Ok(())
    }
}

/// What this process and one more do at once, `rounds` times. Each is told which of
/// the two it is.
fn both(rounds: u32, mut each: impl FnMut(usize, u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let signals = Signals::new()?;
    let mut all = |who| {
        (0..rounds)
            .try_for_each(|round| {
                signals.meet(round)?;
                each(who, round)
            })
            .inspect_err(|_| signals.word(1).store(1, Ordering::SeqCst))
    };
    let other = spawn(|| all(1))?;
    let here = all(0);
    let there = other.join();
    here.and(there)
}

fn who_misses_a_page_at_once_gets_the_same() -> anyhow::Result<()> {
    const ROUNDS: u32 = 1000;
    let region = Region::sized(ROUNDS as usize)?;
    let map = region.map(ROUNDS as usize)?;
    both(ROUNDS, |who, round| {
        map.write(round as usize * PAGE + who, 1 + who as u8);
        Ok(())
    })?;
    for page in 0..ROUNDS as usize {
        let found = [map.read(page * PAGE), map.read(page * PAGE + 1)];
        ensure!(found == [1, 2], "page {page} has {found:?}");
    }
    let info = region.info()?;
    ensure!((info.allocated, info.resident) == (1000, 1000), "{info:?}");
    Ok(())
}

fn pages_of_one_unpin_are_counted_once() -> anyhow::Result<()> {
    const PAGES: usize = 8;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    both(2 * 1000, |who, round| {
        match (round % 2, who) {
            // One touches pages while the other unpins them.
            (0, 0) => map.write_pages(0..PAGES),
            (0, _) => region.unpin(0..PAGES)?,
            // A page that was counted twice would be missed by one too few, one that was
            // not counted would never go.
            (_, 0) => {
                region.purge_all()?;
                let resident = region.info()?.resident;
                ensure!(resident == 0, "round {round}: {resident} pages stay");
                region.pin(0..PAGES)?;
            }
            _ => {}
        }
        Ok(())
    })
}

fn status_is_one_moments_view() -> anyhow::Result<()> {
    const TIMES: usize = 5000;
    const PAGES: usize = 300;
    let region = Region::sized(PAGES)?;
    let _map = region.map(PAGES)?;
    both(1, |who, _| {
        for at in 0..TIMES {
            if who == 0 {
                // All of it by one call, in one range.
                region.unpin(0..PAGES)?;
                region.pin(0..PAGES)?;
                continue;
            }
            let picture = region.statuses(0..PAGES as u64)?;
            ensure!(
                picture.iter().all(|status| *status == picture[0]),
                "number {at}: {picture:?}"
            );
        }
        Ok(())
    })
}

fn first_mappings_at_once_make_one_file() -> anyhow::Result<()> {
    const ROUNDS: u32 = 300;
    let regions: Vec<Region> = (0..ROUNDS)
        .map(|_| Region::sized(2))
        .collect::<anyhow::Result<_>>()?;
    let found = Signals::new()?;
    both(ROUNDS, |who, round| {
        let region = &regions[round as usize];
        // Whoever comes first, one size is what both have.
        if who == 1 && region.set_size(PAGE) == Err(Errno::EINVAL) {
            ensure!(region.file_id().is_ok(), "refused, and not frozen");
        }
        let map = match region.map_as(2 * PAGE, RW, MapFlags::MAP_SHARED) {
            Ok(map) => map,
            Err(error) => {
                ensure!(error == Errno::EINVAL && region.size()? == PAGE, "{error}");
                region.map(1)?
            }
        };
        let file = region.file_id()? as u32;
        found.word(who).store(file, Ordering::SeqCst);
        map.write(who, 1 + who as u8);
        until("both have mapped it", || {
            Ok(map.read(0) == 1 && map.read(1) == 2)
        })?;
        ensure!(found.word(who).load(Ordering::SeqCst) == file, "two files");
        Ok(())
    })
}

fn read_sees_one_state() -> anyhow::Result<()> {
    let region = Region::open()?;
    both(20_000, |who, round| {
        if who == 0 {
            return Ok(region.set_size(if round % 2 == 0 { PAGE } else { 0 })?);
        }
        // It has a size, or it has none.
        let found = read(&region, &mut [0; 8]);
        ensure!(
            matches!(found, Ok(0) | Err(Errno::EBADF)),
            "round {round}: {found:?}"
        );
        Ok(())
    })
}

fn killed_owners_leave_nothing() -> anyhow::Result<()> {
    const PAGES: usize = 512;
    const PARTS: Range<usize> = 0..16;
    let before = pages_of_regions()?;
    let observer = Region::open()?;
    for round in 0..15 {
        let signals = Signals::new()?;
        let mut owners = vec![];
        for who in 0..3 {
            let ready = signals.word(who);
            owners.push(spawn(|| {
                let region = Region::sized(PAGES)?;
                let map = region.map(PAGES)?;
                map.write_pages(0..PAGES);
                ready.store(1, Ordering::SeqCst);
                loop {
                    for part in PARTS {
                        let pages = part * 32..part * 32 + 24;
                        region.unpin(pages.clone())?;
                        map.write_pages(pages.clone());
                        region.pin(pages)?;
                    }
                    region.unpin(0..PAGES)?;
                }
            })?);
        }
        until("they work", || {
            Ok((0..3).all(|who| signals.word(who).load(Ordering::SeqCst) == 1))
        })?;
        // They end while their ranges are being taken.
        for (who, owner) in owners.into_iter().enumerate() {
            match (round + who) % 3 {
                0 => drop(observer.purge_all()?),
                1 => fs::write("/proc/sys/vm/drop_caches", "2\n")?,
                _ => {}
            }
            kill(owner.pid(), Signal::SIGKILL)?;
            if round % 2 == 0 {
                observer.purge_all()?;
            }
            let end = owner.wait()?;
            ensure!(
                matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
                "{end:?}"
            );
        }
    }
    // The last of them ends a moment later; what others of the guest have may differ a little.
    until("their pages are free", || {
        Ok(pages_of_regions()? <= before + PAGES / 2)
    })?;
    ensure!(observer.purge_all()? == 0, "a range is still listed");
    Ok(())
}

/// Pages of the folio that two processes share, and a half for each of them; those before it have memory
/// all the time, so that a touch allocates all of it if it can.
const FOLIO: Range<usize> = LARGE..2 * LARGE;
const HALVES: [Range<usize>; 2] = [LARGE..LARGE + LARGE / 2, LARGE + LARGE / 2..2 * LARGE];

/// A region with that folio.
fn with_folio() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(2 * LARGE)?;
    let map = region.map(2 * LARGE)?;
    map.write_pages(0..FOLIO.end);
    Ok((region, map))
}

/// Each removes its own half, and writes it anew, again and again.
fn halves_of_a_folio_are_removed_apart() -> anyhow::Result<()> {
    const ROUNDS: usize = 3000;
    let (region, map) = with_folio()?;
    let own = |half: Range<usize>, first: usize| -> anyhow::Result<()> {
        for round in 0..ROUNDS {
            map.advise(half.clone(), libc::MADV_REMOVE)?;
            let byte = 1 + (round % 250) as u8;
            // From its middle on, or from its beginning.
            let pages = || {
                half.clone()
                    .cycle()
                    .skip(first + round % 3)
                    .take(half.len())
            };
            for page in pages() {
                ensure!(
                    map.read(page * PAGE) == 0,
                    "round {round}: page {page} is there still"
                );
            }
            pages().for_each(|page| map.write(page * PAGE, byte));
            for page in pages() {
                let found = map.read(page * PAGE);
                ensure!(
                    found == byte,
                    "round {round}: page {page} has {found}, not {byte}"
                );
            }
        }
        Ok(())
    };
    let [lower, upper] = HALVES;
    let other = spawn(|| own(upper, 4))?;
    own(lower, 0)?;
    other.join()?;
    // What is noted of the pages is what there is.
    let all = region.status_picture(0..FOLIO.end as u64)?;
    ensure!(all == ":".repeat(FOLIO.end), "{all}");
    ensure!(region.info()?.resident == FOLIO.end as u64);
    Ok(())
}

fn pinned_half_of_a_folio_stays_while_the_other_is_purged() -> anyhow::Result<()> {
    const ROUNDS: usize = 1500;
    let (region, map) = with_folio()?;
    let signals = Signals::new()?;
    let done = signals.word(0);
    let purger = spawn(|| {
        let observer = Region::open()?;
        while done.load(Ordering::SeqCst) == 0 {
            observer.purge_all()?;
        }
        Ok(())
    })?;
    let mut purged = 0;
    let [mut pinned, mut unpinned] = HALVES;
    for round in 0..ROUNDS {
        let byte = 1 + (round % 250) as u8;
        for page in FOLIO {
            map.write(page * PAGE, byte);
        }
        region.unpin(unpinned.clone())?;
        for page in pinned.clone().cycle().take(4 * LARGE) {
            let found = map.read(page * PAGE);
            ensure!(
                found == byte,
                "round {round}: pinned page {page} has {found}"
            );
        }
        for page in unpinned.clone() {
            let was_purged = region.pin(page..page + 1)?;
            let (found, expected) = (map.read(page * PAGE), if was_purged { 0 } else { byte });
            ensure!(
                found == expected,
                "round {round}: page {page} has {found}, not {expected}"
            );
            purged += usize::from(was_purged);
        }
        std::mem::swap(&mut pinned, &mut unpinned);
    }
    done.store(1, Ordering::SeqCst);
    purger.join()?;
    println!("{purged} of {} pages were purged", ROUNDS * LARGE / 2);
    ensure!(purged > 0, "nothing was purged");
    let all = region.status_picture(0..FOLIO.end as u64)?;
    ensure!(all == ":".repeat(FOLIO.end), "{all}");
    Ok(())
}
