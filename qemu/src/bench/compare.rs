// SPDX-License-Identifier: GPL-2.0-only

//! Two runs compared.

use std::collections::BTreeMap;
use std::fmt;

use ashmem_figures::Operation;
use ashmem_figures::Results;
use ashmem_figures::Target;

use super::name;
use super::net;
use super::ratio;

/// How much more something may cost than it did.
const LIMIT: f64 = 1.10;
/// A ratio that rose by no more than this says nothing: with huge pages there is so little to do
/// for a page that an interrupt of the timer is a tenth of it.
const LITTLE: f64 = 0.02;
/// What is no change: what remains between two runs of the same.
const SAME: f64 = 0.01;

/// A cost of this driver: its ratio to a memfd's, or itself where a memfd has no such operation.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    /// What it is, and whether it is a ratio.
    name: String,
    value: f64,
}

/// A figure that was and is.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    name: String,
    then: f64,
    now: f64,
}

impl Change {
    fn factor(&self) -> f64 {
        self.now / self.then
    }

    fn is_much_worse(&self) -> bool {
        self.factor() > LIMIT && self.now - self.then > LITTLE
    }
}

/// What changed between two runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// What costs more, or less.
    changed: Vec<Change>,
    /// How many figures stayed as they were.
    same: usize,
    /// What was measured then only.
    gone: Vec<String>,
    /// What is measured now only.
    new: Vec<String>,
}

impl Changes {
    /// Whether nothing costs much more, or is measured no more.
    pub fn good(&self) -> bool {
        self.gone.is_empty() && !self.changed.iter().any(Change::is_much_worse)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ncompared: this driver's ratio to a memfd, or its cost")?;
        for change in &self.changed {
            let word = match change.factor() {
                _ if change.is_much_worse() => "MUCH WORSE",
                factor if factor > 1.0 => "worse",
                _ => "better",
            };
            writeln!(
                f,
                "  {word:<10} {:<64} {:>9.2} -> {:.2}",
                change.name, change.then, change.now
            )?;
        }
        for name in &self.gone {
            writeln!(f, "  GONE       {name}")?;
        }
        for name in &self.new {
            writeln!(f, "  new        {name}")?;
        }
        writeln!(f, "  {} figures stayed as they were", self.same)
    }
}

/// What is compared of an operation.
fn figures<'a>(
    results: &'a Results,
    operation: &'a Operation,
) -> impl Iterator<Item = Figure> + 'a {
    [Target::Ashmem, Target::AshmemHuge]
        .into_iter()
        .filter_map(|target| {
            let (what, value) = match ratio(results, operation, target) {
                Some(ratio) => ("ratio", ratio),
                None => ("cost", net(results, operation, target)?),
            };
            Some(Figure {
                name: format!("{}, {}: {what}", operation.name, name(target)),
                value,
            })
        })
}

/// All that is compared.
fn all(results: &Results) -> Vec<Figure> {
    let by_operation = results
        .operations
        .iter()
        .flat_map(|operation| figures(results, operation));
    let growth = results.growth.lines.iter().map(|line| Figure {
        name: format!("by {}, {}: cost among many", line.by, line.name),
        value: line.many,
    });
    by_operation.chain(growth).collect()
}

/// Compares two runs.
pub fn changes(then: &Results, now: &Results) -> anyhow::Result<Changes> {
    anyhow::ensure!(then.clock == now.clock, "the two have different clocks");
    let mut old: BTreeMap<String, f64> = all(then).into_iter().map(|f| (f.name, f.value)).collect();
    let mut changes = Changes::default();
    for Figure { name, value: now } in all(now) {
        let Some(then) = old.remove(&name) else {
            changes.new.push(name);
            continue;
        };
        let change = Change { name, then, now };
        if (change.factor() - 1.0).abs() <= SAME {
            changes.same += 1;
        } else {
            changes.changed.push(change);
        }
    }
    changes.gone = old.into_keys().collect();
    changes
        .changed
        .sort_by(|a, b| b.factor().total_cmp(&a.factor()));
    Ok(changes)
}

#[cfg(test)]
mod unit_tests {
    use ashmem_figures::Clock;

    use super::super::unit::small;
    use super::*;

    /// The changes if this is done to the second run.
    fn after(change: impl FnOnce(&mut Results)) -> Changes {
        let mut now = small();
        change(&mut now);
        changes(&small(), &now).expect("the same clock")
    }

    fn cost(results: &mut Results, operation: usize, target: Target) -> &mut f64 {
        let cost = results.operations[operation].costs.get_mut(&target);
        &mut cost.expect("it is there").cost
    }

    #[test]
    fn the_same_is_good() {
        let changes = after(|_| {});
        assert!(changes.good());
        assert_eq!(changes.same, 4);
        assert_eq!((changes.changed.len(), changes.new.len()), (0, 0));
    }

    #[test]
    fn a_ratio_may_rise_by_a_tenth() {
        let by = |more| after(|now| *cost(now, 0, Target::Ashmem) += more);
        let little = by(149.0);
        assert!(little.good(), "{little}");
        assert!(little.to_string().contains("  worse "), "{little}");
        let much = by(151.0);
        assert!(!much.good(), "{much}");
        assert!(much.to_string().contains("1.50 -> 1.65"), "{much}");
        assert!(much.to_string().contains("MUCH WORSE"), "{much}");
    }

    #[test]
    fn a_ratio_rises_as_well_when_a_memfd_gets_cheaper() {
        assert!(!after(|now| *cost(now, 0, Target::Memfd) -= 200.0).good());
    }

    #[test]
    fn both_may_cost_more() {
        let changes = after(|now| {
            *cost(now, 0, Target::Ashmem) += 1500.0;
            *cost(now, 0, Target::Memfd) += 1000.0;
        });
        assert!(changes.good(), "{changes}");
        assert_eq!(changes.same, 4);
    }

    #[test]
    fn a_tenth_of_nearly_nothing_is_nothing() {
        let mut then = small();
        *cost(&mut then, 0, Target::Ashmem) = 4096.0 + 50.0;
        let mut now = then.clone();
        *cost(&mut now, 0, Target::Ashmem) += 15.0;
        assert!(changes(&then, &now).expect("the same clock").good());
        *cost(&mut now, 0, Target::Ashmem) += 10.0;
        assert!(!changes(&then, &now).expect("the same clock").good());
    }

    #[test]
    fn what_a_memfd_has_not_is_compared_as_it_is() {
        assert!(!after(|now| *cost(now, 1, Target::Ashmem) = 560.0).good());
        let better = after(|now| *cost(now, 1, Target::Ashmem) = 400.0);
        assert!(better.good());
        assert!(better.to_string().contains("better"), "{better}");
        assert!(!after(|now| now.growth.lines[0].many = 170.0).good());
    }

    #[test]
    fn what_is_measured_no_more_is_not_good() {
        let changes = after(|now| drop(now.operations.remove(1)));
        assert!(!changes.good());
        assert_eq!(changes.gone, ["pin, this driver: cost"]);
        let changes = after(|now| now.operations[1].name = "unpin".into());
        assert_eq!(changes.new, ["unpin, this driver: cost"]);
    }

    #[test]
    fn times_are_not_compared_with_instructions() {
        let mut now = small();
        now.clock = Clock::Nanoseconds;
        assert!(changes(&small(), &now).is_err());
    }
}
