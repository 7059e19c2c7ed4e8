// SPDX-License-Identifier: GPL-2.0-only

//! `make bench`: what operations on memory cost, with this driver and with what else Linux has.
//!
//! - [`clock`]: what counts, and what all costs have in common
//! - [`targets`]: the kinds of memory
//! - [`pages`]: what is done to each page of much memory
//! - [`calls`]: what is done by one call, and copying
//! - [`log`]: records of a log
//! - [`sweeps`]: when mapping wins, by size
//! - [`growth`]: whether the driver's calls cost more among many
//!
//! The results go to the host as JSON, which shows them.

mod calls;
mod clock;
mod growth;
mod log;
mod pages;
mod sweeps;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use ashmem_figures::Clock;
use ashmem_figures::Cost;
use ashmem_figures::Operation;
use ashmem_figures::Per;
use ashmem_figures::Results;
use ashmem_figures::Target;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::utsname::uname;

use crate::init;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::tests::counts::settle;
use crate::tests::group::Group;
use crate::tests::group::ROOT;
use crate::tests::mapping::resident;

/// What counts, if not the clock that `make bench` has.
pub static CLOCK: OnceLock<Clock> = OnceLock::new();

/// The clock of this run.
fn clock() -> Clock {
    *CLOCK.get_or_init(|| Clock::Instructions)
}

/// How often what is done to much memory is measured. The least counts: what the kernel had put off, or
/// what a timer asked for, is in the others.
const ROUNDS: usize = 3;

/// Where the results go.
const PORT: &str = "ashmem.data";

/// Measures all there is, and sends it.
pub fn run() -> anyhow::Result<()> {
    prepare_huge_pages()?;
    println!("few of something and many");
    let growth = growth::measure()?;

    let parent = Group::parent()?;
    let mut bench = Bench {
        group: parent.child("bench")?,
        operations: vec![],
    };
    bench.group.write("cgroup.procs", "0")?;
    settle()?;
    let clearing = clock::clearing();
    for target in Target::ALL {
        for round in 1..=ROUNDS {
            println!("{target:?}, {round} of {ROUNDS}");
            pages::measure(&mut bench, target)?;
        }
        calls::measure(&mut bench, target)?;
        log::measure(&mut bench, target)?;
    }
    let sweeps = sweeps::measure(clearing)?;
    fs::write(format!("{ROOT}/cgroup.procs"), "0").context("leaving the group")?;
    bench.group.remove()?;
    parent.remove()?;

    let results = Results {
        kernel: uname()?.release().to_string_lossy().into_owned(),
        clock: clock(),
        clearing,
        pages: pages::PAGES,
        operations: bench.operations,
        growth,
        sweeps,
    };
    serde_json::to_writer_pretty(init::port(PORT)?, &results)?;
    growth::judge(&results.growth)
}

/// Huge pages for who asks for them, at once and not later on.
fn prepare_huge_pages() -> anyhow::Result<()> {
    for (file, text) in [
        ("enabled", "madvise"),
        ("defrag", "madvise"),
        ("shmem_enabled", "advise"),
        ("khugepaged/scan_sleep_millisecs", "4294967295"),
    ] {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{file}");
        fs::write(&path, text).with_context(|| format!("`{text}` to {path}"))?;
    }
    Ok(())
}

/// What is measured so far.
struct Bench {
    /// The memory cgroup that all is charged to.
    group: Group,
    operations: Vec<Operation>,
}

impl Bench {
    /// Pages that the group is charged for.
    fn held(&self) -> anyhow::Result<i64> {
        let bytes: i64 = self.group.read("memory.current")?.trim().parse()?;
        Ok(bytes / PAGE as i64)
    }

    /// Notes a cost, if it is the least of all rounds so far.
    fn note(&mut self, name: &str, per: Per, target: Target, cost: Cost) {
        let at = self.operations.iter().position(|o| o.name == name);
        let at = at.unwrap_or_else(|| {
            self.operations.push(Operation {
                name: name.into(),
                per,
                costs: BTreeMap::new(),
            });
            self.operations.len() - 1
        });
        let noted = self.operations[at].costs.entry(target).or_insert(cost);
        if cost.cost < noted.cost {
            *noted = cost;
        }
    }

    /// Measures `body`, which does something `units` times. `map` shows what memory it allocates;
    /// before the memory was made the group was charged for `base` pages.
    fn step(
        &mut self,
        (name, per, units): (&str, Per, usize),
        target: Target,
        base: i64,
        map: Option<&Mapping>,
        body: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let there = |map: Option<&Mapping>| map.map_or(Ok(0), |map| pages_of(map, target));
        let before = there(map)?;
        wait_for_a_tick();
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let start = clock::own();
        let done = body();
        let took = clock::since(start, clock::own);
        let usage_after = getrusage(UsageWho::RUSAGE_SELF)?;
        done.with_context(|| format!("{target:?}: {name}"))?;
        let fresh = there(map)? - before;
        let cost = Cost {
            cost: clock::rounded(took / units as f64),
            fresh: fresh.max(0) as f64 / units as f64,
            faults: (usage_after.minor_page_faults() - usage.minor_page_faults()) as u64,
            held: self.held()? - base,
        };
        self.note(name, per, target, cost);
        Ok(())
    }

    /// The least of many tries of what leaves nothing behind, done `times` times in each. What one
    /// of them allocates for a while is told by `fresh`, in pages.
    fn calls(
        &mut self,
        (name, per): (&str, Per),
        target: Target,
        fresh: f64,
        times: usize,
        mut body: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        body()?;
        let usage_after = getrusage(UsageWho::RUSAGE_SELF)?;
        let cost = Cost {
            cost: clock::least(times, body).with_context(|| format!("{target:?}: {name}"))?,
            fresh,
            faults: (usage_after.minor_page_faults() - usage.minor_page_faults()) as u64,
            held: 0,
        };
        self.note(name, per, target, cost);
        Ok(())
    }
}

/// Pages that a mapping's memory has, without the zeros that private memory has in common.
fn pages_of(map: &Mapping, target: Target) -> anyhow::Result<i64> {
    let pages = match target {
        Target::PrivateHuge => map.smaps()?.pages("Rss")?,
        _ => resident(map)?.bytes().filter(|b| *b == b'1').count(),
    };
    Ok(pages as i64)
}

/// Lets the kernel do what it put off, and returns right after a tick of its timer: what is
/// shorter than the 4 ms to the next one has none in it.
fn wait_for_a_tick() {
    sleep(Duration::from_millis(20));
    let tick = clock::coarse();
    while clock::coarse() == tick {}
}
