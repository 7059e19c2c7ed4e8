// SPDX-License-Identifier: GPL-2.0-only

//! What the README shows is what the tests assert.

use std::collections::BTreeSet;
use std::process::Command;

const README: &str = include_str!("../../README.md");
const ABI: &str = include_str!("../../driver/ABI.md");

/// What stands between two comments of the README.
fn block(name: &str) -> &'static str {
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

#[test]
fn the_readme_lists_what_differs_and_nothing_else() {
    // The ids of driver/ABI.md that say so, each in the last cell of a row.
    let differs: BTreeSet<_> = ABI
        .lines()
        .filter(|line| line.contains("** *Differs*: "))
        .filter_map(|line| line.strip_prefix("- **")?.split_once("** "))
        .map(|(id, _)| id)
        .collect();
    assert!(differs.len() > 5, "{differs:?}");
    let marks = ABI.matches("*Differs*:").count();
    assert_eq!(marks, differs.len(), "an item marks itself elsewhere");

    let cells = |line: &'static str| line.trim_end_matches('|').rsplit_once('|');
    let listed: Vec<_> = block("differs")
        .lines()
        .skip(2)
        .filter_map(cells)
        .flat_map(|(_, ids)| ids.split('`').skip(1).step_by(2))
        .collect();
    let once: BTreeSet<_> = listed.iter().copied().collect();
    assert_eq!(listed.len(), once.len(), "twice: {listed:?}");
    assert_eq!(once, differs, "in README.md, and in driver/ABI.md");
}
