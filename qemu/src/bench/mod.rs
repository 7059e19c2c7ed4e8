// SPDX-License-Identifier: GPL-2.0-only

//! What the benchmark measured: as tables, as a picture, and compared with what was recorded.

use std::fs;
use std::path::Path;

use anyhow::Context;
use ashmem_figures::Clock;
use ashmem_figures::Operation;
use ashmem_figures::Results;
use ashmem_figures::Target;

use crate::readme::with_block;

pub mod compare;
pub mod curves;
pub mod picture;
pub mod table;

/// Where a work tree keeps the results that the README shows.
const RECORDED: &str = "docs/bench.json";
/// Where it keeps their picture.
const PICTURE: &str = "docs/bench.svg";
/// Where it keeps the picture of when mapping wins.
const CURVES: &str = "docs/mapping.svg";

/// Reads results.
pub fn read(path: &Path) -> anyhow::Result<Results> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{}: no results", path.display()))
}

/// Puts results into a work tree, and what is made of them.
pub fn record(results: &Path, tree: &Path) -> anyhow::Result<()> {
    let found = read(results)?;
    anyhow::ensure!(
        found.clock == Clock::Instructions,
        "times differ from machine to machine: only instructions are recorded"
    );
    let readme = fs::read_to_string(tree.join("README.md")).context("README.md")?;
    let readme = with_block(&readme, "bench", &table::markdown(&found))?;
    for (path, text) in [
        (RECORDED, fs::read_to_string(results)? + "\n"),
        (PICTURE, picture::svg(&found)),
        (CURVES, curves::svg(&found)),
        ("README.md", readme),
    ] {
        fs::write(tree.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// What tables and picture call a kind of memory.
fn name(target: Target) -> &'static str {
    match target {
        Target::Ashmem => "this driver",
        Target::AshmemHuge => "this driver, huge",
        Target::Memfd => "memfd",
        Target::MemfdHuge => "memfd, huge",
        Target::Shared => "anonymous, shared",
        Target::Zero => "/dev/zero, shared",
        Target::Tmpfs => "file on tmpfs",
        Target::PrivateHuge => "anonymous, private, huge",
    }
}

/// What an operation costs without clearing memory, if this kind of memory has it.
fn net(results: &Results, operation: &Operation, target: Target) -> Option<f64> {
    let cost = operation.costs.get(&target)?;
    Some(cost.net(results.clearing))
}

/// The same, where a memfd costs 1.
fn ratio(results: &Results, operation: &Operation, target: Target) -> Option<f64> {
    Some(net(results, operation, target)? / net(results, operation, Target::Memfd)?)
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeMap;

    use ashmem_figures::Cost;
    use ashmem_figures::Growth;
    use ashmem_figures::Line;
    use ashmem_figures::Per;
    use ashmem_figures::Sweep;
    use ashmem_figures::Way;

    use super::*;

    const README: &str = include_str!("../../../README.md");
    const COMMITTED: &str = include_str!("../../../docs/bench.json");

    /// A cost of which a page's clearing, 4096, is a part.
    fn cost(cost: f64) -> Cost {
        Cost {
            cost,
            fresh: 1.0,
            faults: 16,
            held: 17,
        }
    }

    /// Results with little in them.
    pub fn small() -> Results {
        let of = |name: &str, per, costs: &[(Target, Cost)]| Operation {
            name: name.into(),
            per,
            costs: costs.iter().copied().collect::<BTreeMap<_, _>>(),
        };
        let free = |of: f64| Cost {
            fresh: 0.0,
            ..cost(of)
        };
        Results {
            kernel: "7.3.4".into(),
            clock: Clock::Instructions,
            clearing: 4096.0,
            pages: 16,
            operations: vec![
                of(
                    "touch",
                    Per::Page,
                    &[
                        (Target::Ashmem, cost(4096.0 + 1500.0)),
                        (Target::Memfd, cost(4096.0 + 1000.0)),
                    ],
                ),
                of("pin", Per::Call, &[(Target::Ashmem, free(500.0))]),
                of(
                    "read(2), 64 B",
                    Per::Copy,
                    &[(Target::Ashmem, free(80.0)), (Target::Memfd, free(70.0))],
                ),
                of("read(2), 1 MiB", Per::Copy, &[(Target::Memfd, free(900.0))]),
            ],
            growth: Growth {
                few: 2,
                many: 200,
                lines: vec![Line {
                    by: "ranges".into(),
                    name: "pin".into(),
                    few: 100.0,
                    many: 150.0,
                }],
            },
            sweeps: vec![Sweep {
                name: "read".into(),
                size: "at once".into(),
                ways: [("mapped", 4.0), ("read(2)", 2.0)]
                    .map(|(name, middle)| Way {
                        name: name.into(),
                        points: vec![(64, middle), (256, middle), (1024, 8.0 / middle.powi(2))],
                    })
                    .into(),
            }],
        }
    }

    #[test]
    fn clearing_is_no_part_of_a_ratio() {
        let results = small();
        let touch = &results.operations[0];
        assert_eq!(ratio(&results, touch, Target::Ashmem), Some(1.5));
        assert_eq!(ratio(&results, touch, Target::Memfd), Some(1.0));
        assert_eq!(ratio(&results, touch, Target::Tmpfs), None);
        assert_eq!(
            ratio(&results, &results.operations[1], Target::Ashmem),
            None
        );
    }

    #[test]
    fn results_survive_a_file() {
        let text = serde_json::to_string(&small()).expect("it can be written");
        let again: Results = serde_json::from_str(&text).expect("and read");
        assert_eq!(again, small());
    }

    #[test]
    fn table_and_picture_show_what_is_recorded() {
        let results: Results = serde_json::from_str(COMMITTED).expect("results");
        let again = with_block(README, "bench", &table::markdown(&results)).expect("a block");
        let committed = include_str!("../../../docs/bench.svg");
        assert!(
            again == README
                && picture::svg(&results) == committed
                && curves::svg(&results) == include_str!("../../../docs/mapping.svg"),
            "something changed since `make bench RECORD=1`, by hand or in what it writes"
        );
    }
}
