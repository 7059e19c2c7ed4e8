// SPDX-License-Identifier: GPL-2.0-only

//! Which locks page faults take, as the kernel counts them: what two threads
//! would wait for each other for.
//!
//! `/proc/lock_stat` has a line for each class of locks; those of one name and
//! of several classes end with `#N`. How often one was taken is counted as it
//! is let go of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use anyhow::Context;
use anyhow::ensure;

use crate::harness::skip;
use crate::harness::tests;
use crate::init::LOCK_STAT;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;

tests! {
    faults_on_different_pages_share_only_the_page_cache @ 60,
}

/// Faults of each thread.
const FAULTS: usize = 1500;
/// Pages of a region: those of two threads, and some that are unpinned.
const PAGES: usize = 2 * FAULTS + 64;

/// The file with the counts.
const COUNTS: &str = "/proc/lock_stat";

/// What the driver's own locks are called (ashmem_main.rs has their order).
const OWN: &str = "ashmem_";
/// The one that a fault takes where something is unpinned.
const PINS: &str = "ashmem_pins";
/// The lock of an address space; faults are to do with that of a VMA.
const MMAP_LOCK: &str = "&mm->mmap_lock";
const VMA_LOCK: &str = "vm_lock";
/// That of a page cache: the only one that all faults on a region share.
const PAGE_CACHE: &str = "&xa->xa_lock";

/// What else is taken once a fault or more often, as the names begin, and who shares it.
const OTHERS: &[(&str, &str)] = &[
    ("rcu_read_lock", "none: nobody waits"),
    ("fs_reclaim", "none: a note for lockdep"),
    ("&____s->seqcount", "none: read only"),
    ("&pcp->lock", "processor"),
    // A local_lock_t: that of batches for the LRU.
    ("lock#", "processor"),
    ("ptlock_ptr(ptdesc)", "page table, 2 MiB"),
];

/// How often each class of locks was taken while `body` ran.
fn taken(body: impl FnOnce()) -> anyhow::Result<BTreeMap<String, usize>> {
    fs::write(COUNTS, "0").context(COUNTS)?;
    fs::write(LOCK_STAT, "1").context(LOCK_STAT)?;
    body();
    fs::write(LOCK_STAT, "0").context(LOCK_STAT)?;
    let text = fs::read_to_string(COUNTS).context(COUNTS)?;
    ensure!(
        !text.contains("lock debugging disabled"),
        "lockdep has switched itself off"
    );
    let mut all = BTreeMap::new();
    for line in text.lines() {
        // Where somebody waited, there are lines of another kind below.
        let Some((name, numbers)) = line.trim().rsplit_once(':') else {
            continue;
        };
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        let [_, _, _, _, _, _, _, count, _, _, _, _] = numbers[..] else {
            continue;
        };
        // Readers and writers have a line each, where there are both.
        let class = name.strip_suffix("-R").or(name.strip_suffix("-W"));
        *all.entry(class.unwrap_or(name).to_owned()).or_default() += count
            .parse::<usize>()
            .with_context(|| format!("{COUNTS}: {line}"))?;
    }
    Ok(all)
}

/// A mapping that threads touch.
struct Touched<'a>(&'a Mapping);

// SAFETY: They use it by atomic operations only.
unsafe impl Sync for Touched<'_> {}

impl Touched<'_> {
    fn touch(&self, first: usize) {
        for page in first..first + FAULTS {
            self.0.atomic(page * PAGE).store(1, Relaxed);
        }
    }
}

/// How often each lock is taken while two threads fault on pages of these mappings: the first on
/// those from page 0 on of one, the second on those behind them of the other.
fn by_two_threads(one: &Mapping, other: &Mapping) -> anyhow::Result<BTreeMap<String, usize>> {
    let (one, other) = (&Touched(one), &Touched(other));
    let (begin, end) = (&Barrier::new(3), &Barrier::new(3));
    thread::scope(|scope| {
        for (map, first) in [(one, 0), (other, FAULTS)] {
            scope.spawn(move || {
                begin.wait();
                map.touch(first);
                end.wait();
            });
        }
        taken(|| {
            begin.wait();
            end.wait();
        })
    })
}

/// A region with the last pages unpinned, if so, and resident.
fn region(unpinned: bool) -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(PAGES)?;
    // A fault for each page.
    let map = region.map(PAGES)?.single()?;
    if unpinned {
        map.stamp(2 * FAULTS..PAGES, 1);
        region.unpin(2 * FAULTS..PAGES)?;
    }
    Ok((region, map))
}

/// Asserts which locks were taken; `pins`: how often the one of unpinned ranges is to be, a fault.
fn check(what: &str, all: &BTreeMap<String, usize>, pins: usize) -> anyhow::Result<()> {
    let faults = 2 * FAULTS;
    let rate = |count: usize| count as f64 / faults as f64;
    println!("{what}: {faults} faults");
    // What comes and goes with time, and with what faults do once in a while, is less.
    let mut often: Vec<_> = all
        .iter()
        .filter(|(_, count)| rate(**count) > 0.02)
        .collect();
    often.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (name, count) in often {
        let scope = match OTHERS.iter().find(|(begin, _)| name.starts_with(begin)) {
            Some((_, scope)) => scope,
            None if name.starts_with(PAGE_CACHE) => "region",
            None if name.starts_with(OWN) => "region",
            None if name == VMA_LOCK => "VMA, for reading",
            None => "not at each fault",
        };
        println!("  {:8.2} {name} ({scope})", rate(*count));
    }
    let sum = |begin: &str| -> usize {
        let classes = all.iter().filter(|(name, _)| name.starts_with(begin));
        classes.map(|(_, count)| count).sum()
    };
    let own = sum(OWN);
    ensure!(
        own == sum(PINS) && own == pins * faults,
        "{what}: the driver's locks were taken {own} times in {faults} faults"
    );
    ensure!(rate(sum(MMAP_LOCK)) < 0.05, "{what}: mmap_lock was taken");
    ensure!(
        rate(sum(VMA_LOCK)) > 0.9 && rate(sum(PAGE_CACHE)) < 4.0,
        "{what}: not counted?"
    );
    for (name, count) in all {
        let known = OTHERS.iter().map(|(begin, _)| begin);
        let known = known.chain(&[PAGE_CACHE, VMA_LOCK, PINS]);
        ensure!(
            rate(*count) < 0.5 || known.into_iter().any(|begin| name.starts_with(begin)),
            "{what}: {name} was taken {:.2} times a fault",
            rate(*count)
        );
    }
    Ok(())
}

fn faults_on_different_pages_share_only_the_page_cache() -> anyhow::Result<()> {
    if !Path::new(COUNTS).exists() {
        return skip("this kernel has no CONFIG_LOCK_STAT");
    }
    for unpinned in [false, true] {
        let with = match unpinned {
            false => "",
            true => ", something unpinned",
        };
        let pins = usize::from(unpinned);
        let (one, in_one) = region(unpinned)?;
        let found = by_two_threads(&in_one, &in_one)?;
        check(&format!("one region, new pages{with}"), &found, pins)?;
        let allocated = one.info()?.allocated;
        ensure!(allocated >= 2 * FAULTS as u64, "{allocated}");

        // Pages that are there take less.
        let again = one.map(PAGES)?.single()?;
        let found = by_two_threads(&again, &again)?;
        check(&format!("one region, its pages{with}"), &found, 0)?;

        let (_first, in_first) = region(unpinned)?;
        let (_second, in_second) = region(unpinned)?;
        let found = by_two_threads(&in_first, &in_second)?;
        check(&format!("two regions, new pages{with}"), &found, pins)?;
    }
    Ok(())
}
