// SPDX-License-Identifier: GPL-2.0-only

//! SECURITY.md names tests that exist, and all that stand for a piece of history.

use std::collections::BTreeSet;
use std::process::Command;

const SECURITY: &str = include_str!("../../SECURITY.md");

/// What every row of the table names: `module::test`, in back quotes.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let (_, table) = SECURITY
        .split_once("<!-- history: begin -->")
        .expect("a beginning");
    let (table, _) = table.split_once("<!-- history: end -->").expect("an end");
    table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            let tests = cells
                .last()
                .expect("cells")
                .split('`')
                .skip(1)
                .step_by(2)
                .collect();
            (cells[0].trim(), tests)
        })
        .collect()
}

fn tests() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_guest"))
        .arg("list")
        .output()
        .expect("guest list");
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_row_has_tests_and_they_exist() {
    let exist = tests();
    let rows = rows();
    assert!(rows.len() >= 10, "{rows:?}");
    let mut missing = vec![];
    for (row, named) in rows {
        assert!(!named.is_empty(), "{row}: no test");
        missing.extend(named.into_iter().filter(|test| !exist.contains(*test)));
    }
    assert!(missing.is_empty(), "there are no tests {missing:#?}");
}

#[test]
fn each_test_of_history_has_a_row() {
    let named: BTreeSet<_> = rows().into_iter().flat_map(|(_, tests)| tests).collect();
    for test in tests() {
        assert!(
            !test.starts_with("history::") || named.contains(test.as_str()),
            "SECURITY.md does not name {test}"
        );
    }
}
