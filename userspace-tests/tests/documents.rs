// SPDX-License-Identifier: GPL-2.0-only

//! What documents say of the tests: SECURITY.md names those that stand for a piece of
//! history, driver/CONCURRENCY.md one for each pair of paths.

use std::collections::BTreeSet;
use std::process::Command;

const SECURITY: &str = include_str!("../../SECURITY.md");
const CONCURRENCY: &str = include_str!("../../driver/CONCURRENCY.md");

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

/// The cells of the first column of CONCURRENCY.md's first table.
fn paths() -> Vec<&'static str> {
    CONCURRENCY
        .lines()
        .skip_while(|line| !line.starts_with("| path"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.split(" |").next())
        .collect()
}

#[test]
fn each_pair_of_paths_is_argued_once_with_a_test() {
    let exist = tests();
    let paths = paths();
    assert!(paths.len() > 5, "{paths:?}");
    let mut pairs: BTreeSet<String> = (0..paths.len())
        .flat_map(|a| (a..paths.len()).map(move |b| (a, b)))
        .map(|(a, b)| format!("{} / {}", paths[a], paths[b]))
        .collect();
    for argument in CONCURRENCY.split("\n- **").skip(1) {
        let (pair, text) = argument.split_once("**").expect("a pair");
        assert!(pairs.remove(pair), "{pair}: no such pair, or twice");
        let (text, _) = text.split_once("\n\n").unwrap_or((text, ""));
        let named: Vec<&str> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.contains("::") && code.starts_with(char::is_lowercase))
            .collect();
        assert!(!named.is_empty(), "{pair}: no test");
        for test in named {
            assert!(exist.contains(test), "{pair}: there is no test {test}");
        }
    }
    assert!(pairs.is_empty(), "not argued: {pairs:?}");
}
