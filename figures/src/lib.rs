// SPDX-License-Identifier: GPL-2.0-only

//! What `make bench` measures: the guest sends it as JSON, the host shows it and compares it
//! with what was recorded.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// All of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The release of the kernel.
    pub kernel: String,
    /// What the costs count.
    pub clock: Clock,
    /// What it costs to clear a page of 4 KiB, which is in the costs, once at least for each
    /// page that is allocated.
    pub clearing: f64,
    /// Pages of the memory on which operations by the page work.
    pub pages: usize,
    /// What was done to each kind of memory.
    pub operations: Vec<Operation>,
    /// What the driver's calls cost with few and with many of something.
    pub growth: Growth,
    /// What mapping costs by size, beside what does without. Not in older results.
    #[serde(default)]
    pub sweeps: Vec<Sweep>,
}

/// The unit of costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Instructions of the only processor, of kernel and program together.
    Instructions,
    /// Time as it passes in the guest.
    Nanoseconds,
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A region of this driver.
    Ashmem,
    /// The same with `MADV_HUGEPAGE`.
    AshmemHuge,
    /// A memfd: what the others are compared with.
    Memfd,
    /// The same with `MADV_HUGEPAGE`, and `advise` in `shmem_enabled`.
    MemfdHuge,
    /// `MAP_SHARED | MAP_ANONYMOUS`.
    Shared,
    /// `MAP_SHARED` of /dev/zero.
    Zero,
    /// A file on tmpfs.
    Tmpfs,
    /// `MAP_PRIVATE | MAP_ANONYMOUS` with `MADV_HUGEPAGE`.
    PrivateHuge,
}

impl Target {
    /// All of them, in the order of the tables' columns.
    pub const ALL: [Self; 8] = [
        Self::Ashmem,
        Self::AshmemHuge,
        Self::Memfd,
        Self::MemfdHuge,
        Self::Shared,
        Self::Zero,
        Self::Tmpfs,
        Self::PrivateHuge,
    ];

    /// Whether it is advised to have huge pages.
    pub fn is_huge(self) -> bool {
        matches!(self, Self::AshmemHuge | Self::MemfdHuge | Self::PrivateHuge)
    }
}

/// What an operation's cost is told for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// For a page.
    Page,
    /// For a call, or for the few that the operation is made of.
    Call,
    /// For a copy of some bytes.
    Copy,
}

/// Something that was done to each kind of memory that has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// What was done.
    pub name: String,
    /// For what the cost is told.
    pub per: Per,
    /// What it took. A kind of memory that has no such operation is not there.
    pub costs: BTreeMap<Target, Cost>,
}

/// What an operation took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// By the clock, for a page, call or copy.
    pub cost: f64,
    /// Pages that it allocated, for a page, call or copy.
    pub fresh: f64,
    /// Minor faults of all that was done.
    pub faults: u64,
    /// Pages for which the memory cgroup was charged afterwards and not before the memory was
    /// made: with page tables and what else the kernel keeps of it, and up to 63 pages that the
    /// kernel charges ahead.
    pub held: i64,
}

impl Cost {
    /// Without clearing each fresh page once, which costs `clearing`.
    pub fn net(&self, clearing: f64) -> f64 {
        self.cost - self.fresh * clearing
    }
}

/// One thing done in several ways, with less and with more memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What is done.
    pub name: String,
    /// What the sizes are those of.
    pub size: String,
    /// The ways.
    pub ways: Vec<Way>,
}

/// A way to do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// What it is called.
    pub name: String,
    /// Sizes in bytes, ascending, and what each takes by the clock for a byte.
    pub points: Vec<(u64, f64)>,
}

impl Way {
    /// The size at which it begins to be cheaper than the other one, for good: between two that were
    /// measured, on the straight line between them where both axes are logarithmic. `None` if it never is,
    /// or always.
    ///
    /// Both have the same sizes.
    pub fn cheaper_from(&self, other: &Self) -> Option<u64> {
        let ahead = |at: usize| other.points[at].1.ln() - self.points[at].1.ln();
        let last_behind = (0..self.points.len()).rev().find(|at| ahead(*at) <= 0.0)?;
        if last_behind + 1 == self.points.len() {
            return None;
        }
        let (before, after) = (ahead(last_behind), ahead(last_behind + 1));
        let (from, to) = (self.points[last_behind].0, self.points[last_behind + 1].0);
        let part = -before / (after - before);
        Some((from as f64 * (to as f64 / from as f64).powf(part)) as u64)
    }
}

/// What the driver's calls cost with few and with many of something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// How many are few.
    pub few: usize,
    /// How many are many.
    pub many: usize,
    /// The calls.
    pub lines: Vec<Line>,
}

/// A call among few and among many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Of what there are few or many.
    pub by: String,
    /// The call.
    pub name: String,
    /// Its cost among few.
    pub few: f64,
    /// Its cost among many.
    pub many: f64,
}

impl Line {
    /// How much more it costs among many.
    pub fn ratio(&self) -> f64 {
        self.many / self.few
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn way<const N: usize>(costs: [f64; N]) -> Way {
        let points = costs.into_iter().enumerate();
        Way {
            name: String::new(),
            points: points.map(|(at, cost)| (64 << (2 * at), cost)).collect(),
        }
    }

    #[test]
    fn it_is_cheaper_from_where_the_lines_meet() {
        let falling = way([100.0, 10.0, 1.0]);
        assert_eq!(falling.cheaper_from(&way([10.0, 10.0, 10.0])), Some(256));
        let found = falling.cheaper_from(&way([31.62, 31.62, 31.62]));
        assert!(
            found.is_some_and(|size| (127..130).contains(&size)),
            "{found:?}"
        );
        // Who wins from the first one on, or never, has no such size.
        assert_eq!(way([1.0, 1.0]).cheaper_from(&way([2.0, 2.0])), None);
        assert_eq!(way([3.0, 3.0]).cheaper_from(&way([2.0, 2.0])), None);
        // Who wins, loses and wins again, does so from the last time on.
        let found = way([1.0, 4.0, 1.0]).cheaper_from(&way([2.0, 2.0, 2.0]));
        assert_eq!(found, Some(512));
    }
}
