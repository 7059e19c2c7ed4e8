// SPDX-License-Identifier: GPL-2.0-only

//! What the README shows is what the tests assert.

use std::process::Command;

const README: &str = include_str!("../../README.md");

/// What stands between two comments of the README.
fn block(name: &str) -> &str {
    let (_, rest) = README
        .split_once(&format!("<!-- {name}: begin -->\n"))
        .unwrap_or_else(|| panic!("README.md has no block `{name}`"));
    rest.split_once(&format!("<!-- {name}: end -->"))
        .unwrap_or_else(|| panic!("README.md: the block `{name}` has no end"))
        .0
}

#[test]
fn the_table_of_fault_counts_is_the_tests_own() {
    let output = Command::new(env!("CARGO_BIN_EXE_guest"))
        .arg("counts")
        .output()
        .expect("guest counts");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(table.lines().count() > 10, "{table}");
    assert_eq!(block("counts"), table, "put the right side into README.md");
}

#[test]
fn every_verb_of_the_makefile_is_in_the_readme() {
    let makefile = include_str!("../../Makefile");
    let verbs: Vec<_> = makefile
        .lines()
        .filter(|line| line.contains(": ## "))
        .filter_map(|line| line.split_once(':'))
        .map(|(verb, _)| verb)
        .collect();
    assert!(verbs.len() > 5, "{verbs:?}");
    for verb in verbs {
        let shown = [format!("make {verb}"), format!("make -s {verb}")];
        assert!(
            shown.iter().any(|verb| README.contains(verb)),
            "make {verb}"
        );
    }
}
