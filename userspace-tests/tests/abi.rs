// SPDX-License-Identifier: GPL-2.0-only

//! Every sentence of the ABI's document has a test, and every test that names
//! one means one that is there.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../driver/ABI.md");

/// The ids of the document: what stands in bold at the beginning of an item.
fn documented() -> BTreeSet<&'static str> {
    let mut ids = BTreeSet::new();
    for line in DOCUMENT.lines() {
        let Some(item) = line.strip_prefix("- ") else {
            continue;
        };
        let id = item
            .strip_prefix("**")
            .and_then(|rest| rest.split_once("** "))
            .unwrap_or_else(|| panic!("an item without an id: {line}"))
            .0;
        assert!(ids.insert(id), "{id} stands there twice");
    }
    ids
}

/// The ids that tests name, with the names of these tests.
fn tested() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_guest"))
        .arg("abi")
        .output()
        .expect("guest abi");
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).expect("UTF-8").lines() {
        let (id, test) = line.split_once(' ').expect("an id and a test");
        ids.entry(id.into()).or_default().push(test.into());
    }
    ids
}

#[test]
fn every_sentence_of_the_abi_has_a_test() {
    let tested = tested();
    let ids = documented();
    assert!(ids.len() > 100, "{ids:?}");
    let missing: Vec<_> = ids.iter().filter(|id| !tested.contains_key(**id)).collect();
    assert!(missing.is_empty(), "no test names {missing:#?}");
}

#[test]
fn tests_name_sentences_that_exist() {
    let ids = documented();
    for (id, tests) in tested() {
        assert!(
            ids.contains(id.as_str()),
            "{tests:?} name {id}, which driver/ABI.md lacks"
        );
    }
}
