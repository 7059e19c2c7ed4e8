// SPDX-License-Identifier: GPL-2.0-only

//! The results as tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use ashmem_figures::Clock;
use ashmem_figures::Cost;
use ashmem_figures::Operation;
use ashmem_figures::Per;
use ashmem_figures::Results;
use ashmem_figures::Target;

use super::name;
use super::net;
use super::ratio;

/// What stands where there is nothing.
const ABSENT: &str = "-";

/// Heads of the terminal's columns, two lines each.
fn heads(target: Target) -> (&'static str, &'static str) {
    match target {
        Target::Ashmem => ("this", "driver"),
        Target::AshmemHuge => ("driver,", "huge"),
        Target::Memfd => ("", "memfd"),
        Target::MemfdHuge => ("memfd,", "huge"),
        Target::Shared => ("shared", "anon."),
        Target::Zero => ("shared", "zero"),
        Target::Tmpfs => ("tmpfs", "file"),
        Target::PrivateHuge => ("private", "huge"),
    }
}

/// A number with three digits or a little more.
fn number(value: f64) -> String {
    match value.abs() {
        v if v < 9.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn or_absent(value: Option<String>) -> String {
    value.unwrap_or_else(|| ABSENT.into())
}

/// The name of what is counted.
fn unit(clock: Clock) -> &'static str {
    match clock {
        Clock::Instructions => "instructions",
        Clock::Nanoseconds => "nanoseconds of wall-clock time",
    }
}

/// A table with a column for each kind of memory.
fn by_target<'a>(
    out: &mut String,
    title: &str,
    operations: impl Iterator<Item = &'a Operation>,
    cell: impl Fn(&Operation, Target) -> Option<String>,
) {
    const WIDTH: usize = 46;
    let _ = writeln!(out, "\n{title}");
    for head in [|t| heads(t).0, |t| heads(t).1] {
        let _ = write!(out, "{:WIDTH$}", "");
        for target in Target::ALL {
            let _ = write!(out, "{:>9}", head(target));
        }
        out.push('\n');
    }
    for operation in operations {
        let _ = write!(out, "  {:<width$}", operation.name, width = WIDTH - 2);
        for target in Target::ALL {
            let _ = write!(out, "{:>9}", or_absent(cell(operation, target)));
        }
        out.push('\n');
    }
}

/// All of it, for a terminal.
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    let unit = unit(results.clock);
    let page = |o: &&Operation| o.per == Per::Page;
    let called = |o: &&Operation| o.per == Per::Call;
    let copied = |o: &&Operation| o.per == Per::Copy;
    let of = |o: &Operation, target| o.costs.get(&target).copied();
    let costs = |o: &Operation, target| net(results, o, target).map(number);
    let all = || results.operations.iter();
    let _ = writeln!(
        out,
        "\nLinux {}. Without clearing fresh pages, each once: {} for a page.",
        results.kernel,
        number(results.clearing)
    );
    let title = format!(
        "{unit} for a page, of {} pages unless it says otherwise",
        results.pages
    );
    by_target(&mut out, &title, all().filter(page), costs);
    by_target(
        &mut out,
        "the same, where a memfd takes 1",
        all().filter(page),
        |o, target| ratio(results, o, target).map(|r| format!("{r:.2}")),
    );
    by_target(
        &mut out,
        "minor faults of all these pages",
        all().filter(page),
        |o, target| of(o, target).map(|c| c.faults.to_string()),
    );
    by_target(
        &mut out,
        "pages that the memory cgroup is charged for afterwards",
        all().filter(page),
        |o, target| of(o, target).map(|c| c.held.to_string()),
    );
    let title = format!("{unit} for a call, or a group of calls");
    by_target(&mut out, &title, all().filter(called), costs);
    let title = format!("{unit} for a copy");
    by_target(&mut out, &title, all().filter(copied), costs);
    let _ = write!(out, "\n{}", growth(results));
    out
}

/// What costs more among many.
fn growth(results: &Results) -> String {
    let growth = &results.growth;
    let mut out = format!(
        "{:<46}{:>9}{:>9}  ratio\n",
        unit(results.clock),
        growth.few,
        growth.many
    );
    let mut by = "";
    for line in &growth.lines {
        if line.by != by {
            by = &line.by;
            let _ = writeln!(out, "by {by}");
        }
        let _ = writeln!(
            out,
            "  {:<44}{:>9.0}{:>9.0} {:6.2}",
            line.name,
            line.few,
            line.many,
            line.ratio()
        );
    }
    out
}

/// What the README has of it.
pub fn markdown(results: &Results) -> String {
    let mut out = String::from(
        "| for a page | this driver | memfd | ratio | faults | memfd's | pages held | memfd's \
         | huge: ratio | memfd's |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let with = |per| results.operations.iter().filter(move |o| o.per == per);
    for operation in with(Per::Page) {
        let costs = |target| or_absent(net(results, operation, target).map(number));
        let ratios =
            |target| or_absent(ratio(results, operation, target).map(|r| format!("{r:.2}")));
        let of =
            |target, get: fn(&Cost) -> String| or_absent(operation.costs.get(&target).map(get));
        let faults = |target| of(target, |cost| cost.faults.to_string());
        let held = |target| of(target, |cost| cost.held.to_string());
        let cells = [
            operation.name.clone(),
            costs(Target::Ashmem),
            costs(Target::Memfd),
            ratios(Target::Ashmem),
            faults(Target::Ashmem),
            faults(Target::Memfd),
            held(Target::Ashmem),
            held(Target::Memfd),
            ratios(Target::AshmemHuge),
            ratios(Target::MemfdHuge),
        ];
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out += "\n| for a call | this driver | memfd | ratio |\n|---|--:|--:|--:|\n";
    for operation in with(Per::Call) {
        let costs = |target| or_absent(net(results, operation, target).map(number));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            operation.name,
            costs(Target::Ashmem),
            costs(Target::Memfd),
            or_absent(ratio(results, operation, Target::Ashmem).map(|r| format!("{r:.2}")))
        );
    }
    out += &copies(with(Per::Copy));
    let _ = write!(out, "\n```text\n{}```\n", growth(results));
    out
}

/// A row for each way to copy, a column for each size. Its operations are called `WAY, SIZE`. A file on
/// tmpfs is shown where a memfd, which is one, was not measured.
fn copies<'a>(operations: impl Iterator<Item = &'a Operation>) -> String {
    let (mut sizes, mut rows) = (vec![], BTreeMap::<String, BTreeMap<&str, f64>>::new());
    for operation in operations {
        let (way, size) = operation
            .name
            .split_once(", ")
            .unwrap_or((&operation.name, ""));
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        let others = match operation.costs.contains_key(&Target::Memfd) {
            true => Target::Memfd,
            false => Target::Tmpfs,
        };
        for target in [Target::Ashmem, others] {
            if let Some(cost) = operation.costs.get(&target) {
                let row = rows.entry(format!("{way}, {}", name(target))).or_default();
                row.insert(size, cost.cost);
            }
        }
    }
    let mut out = format!("\n| for a copy of | {} |\n|---|", sizes.join(" | "));
    out += &"--:|".repeat(sizes.len());
    out.push('\n');
    for (what, costs) in rows {
        let cells: Vec<_> = sizes
            .iter()
            .map(|size| or_absent(costs.get(size).copied().map(number)))
            .collect();
        let _ = writeln!(out, "| {what} | {} |", cells.join(" | "));
    }
    out
}

#[cfg(test)]
mod unit_tests {
    use super::super::unit::small;
    use super::*;

    #[test]
    fn a_terminal_sees_every_column_and_a_dash_where_there_is_nothing() {
        let text = text(&small());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("  touch") || line.starts_with("  pin"))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let dashes = ["-"; 5];
        let expected = [
            ("touch", ["1500", "-", "1000"]),
            ("touch", ["1.50", "-", "1.00"]),
            ("touch", ["16", "-", "16"]),
            ("touch", ["17", "-", "17"]),
            ("pin", ["500", "-", "-"]),
        ];
        assert_eq!(rows.len(), expected.len() + 1, "{text}");
        for (row, (name, cells)) in rows.iter().zip(expected) {
            assert_eq!(*row, [&[name], &cells[..], &dashes[..]].concat());
        }
        assert_eq!(rows[5], ["pin", "100", "150", "1.50"]);
    }

    #[test]
    fn the_clock_is_named() {
        let mut results = small();
        assert!(text(&results).contains("instructions for a page"));
        results.clock = Clock::Nanoseconds;
        assert!(!text(&results).contains("instructions"));
        assert!(text(&results).contains("nanoseconds of wall-clock time for a page"));
    }

    #[test]
    fn the_readme_has_a_row_for_each_operation() {
        let markdown = markdown(&small());
        let row = "| touch | 1500 | 1000 | 1.50 | 16 | 16 | 17 | 17 | - | - |\n";
        assert!(markdown.contains(row), "{markdown}");
        assert!(markdown.contains("| pin | 500 | - | - |\n"), "{markdown}");
        let copies = "| for a copy of | 64 B | 1 MiB |\n|---|--:|--:|\n\
                      | read(2), memfd | 70 | 900 |\n| read(2), this driver | 80 | - |\n";
        assert!(markdown.contains(copies), "{markdown}");
    }

    #[test]
    fn the_readme_has_a_file_on_tmpfs_where_no_memfd_was_measured() {
        let mut results = small();
        let mut write = results.operations[2].clone();
        write.name = "write(2), 64 B".into();
        let cost = write.costs[&Target::Memfd];
        write.costs = [(Target::Tmpfs, cost)].into();
        results.operations.push(write);
        for operation in &mut results.operations {
            operation.costs.entry(Target::Tmpfs).or_insert(cost);
        }
        let markdown = markdown(&results);
        let rows: Vec<_> = markdown
            .lines()
            .filter(|line| line.contains("tmpfs"))
            .collect();
        assert_eq!(rows, ["| write(2), file on tmpfs | 70 | - |"]);
    }
}
