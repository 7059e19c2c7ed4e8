// SPDX-License-Identifier: GPL-2.0-only

//! The manual page tells of what the header and the module have, of all of it,
//! and of nothing else.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::Command;

const PAGE: &str = include_str!("../../driver/ashmem.4");
const HEADER: &str = include_str!("../../driver/include/ashmem.h");
const INLINE: &str = include_str!("../../driver/glue/inline.c");

/// Where the page lies, from where cargo runs tests.
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../driver/ashmem.4");

/// What is a word in C.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// The lines of one section, without its heading.
fn section(name: &str) -> Vec<&'static str> {
    let lines: Vec<_> = PAGE
        .lines()
        .skip_while(|line| *line != format!(".SH {name}"))
        .skip(1)
        .take_while(|line| !line.starts_with(".SH "))
        .collect();
    assert!(!lines.is_empty(), "no section {name}");
    lines
}

/// Each structure with its members, as `TYPE NAME;`.
fn structures(text: &str) -> BTreeMap<&str, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line
            .strip_prefix("struct ")
            .and_then(|rest| rest.strip_suffix(" {"))
        else {
            continue;
        };
        let members = lines
            .by_ref()
            .take_while(|line| *line != "};")
            .map(|line| line.split_once(';').expect("a member").0.trim().to_owned())
            .collect();
        assert!(found.insert(name, members).is_none(), "{name} twice");
    }
    found
}

#[test]
fn names_of_the_manual_are_those_of_the_header() {
    let defined: BTreeSet<_> = HEADER
        .lines()
        .filter_map(|line| line.strip_prefix("#define ASHMEM_"))
        .filter_map(|rest| words(rest).next())
        .collect();
    assert!(defined.len() > 25, "{defined:?}");
    let told: BTreeSet<_> = words(PAGE)
        .filter_map(|word| word.strip_prefix("ASHMEM_"))
        .collect();
    assert_eq!(told, defined, "in the page, and in the header");
}

#[test]
fn structures_of_the_manual_are_those_of_the_header() {
    let defined = structures(HEADER);
    assert!(defined.len() > 3, "{defined:?}");
    assert_eq!(structures(PAGE), defined, "in the page, and in the header");
    // Nor is one spoken of that there is not.
    for word in words(PAGE).filter(|word| word.starts_with("ashmem_")) {
        assert!(defined.contains_key(word), "{word}");
    }
}

#[test]
fn parameters_of_the_manual_are_the_modules() {
    let defined: BTreeSet<_> = INLINE
        .lines()
        .filter_map(|line| line.strip_prefix("module_param")?.split_once('('))
        .filter_map(|(_, arguments)| arguments.split_once(','))
        .map(|(name, _)| name)
        .collect();
    assert!(
        defined.contains("max_pages") && defined.contains("huge"),
        "{defined:?}"
    );
    let lines = section("MODULE PARAMETERS");
    let told: BTreeSet<_> = lines
        .windows(2)
        .filter(|pair| pair[0] == ".TP")
        .map(|pair| pair[1].strip_prefix(".I ").expect("a name"))
        .collect();
    assert_eq!(told, defined, "in the page, and in the module");
}

#[test]
fn manual_has_the_sections_of_section_4() {
    let sections: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .collect();
    assert_eq!(
        sections,
        [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "ERRORS",
            "MODULE PARAMETERS",
            "FILES",
            "EXAMPLES",
            "SEE ALSO"
        ]
    );
    let count = |start: &str| PAGE.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count(".TH ashmem 4 "), 1);
    assert_eq!((count(".EX"), count(".nf")), (count(".EE"), count(".fi")));
    // Errors are told in the order in which one looks for them.
    let lines = section("ERRORS");
    let errors: Vec<_> = lines
        .windows(2)
        .filter(|pair| pair[0] == ".TP")
        .map(|pair| pair[1])
        .collect();
    assert!(errors.len() > 5 && errors.is_sorted(), "{errors:?}");
    let mut code = false;
    for line in PAGE.lines() {
        code = (code || line == ".EX") && line != ".EE";
        assert_eq!(line, line.trim_end(), "blanks at the end");
        assert!(code || !line.is_empty(), "an empty line, where .P belongs");
    }
}

#[test]
fn manual_renders_without_a_warning() {
    let output = Command::new("groff")
        .args(["-man", "-ww", "-Tutf8", "-rCHECKSTYLE=3", PATH])
        .output()
        .expect("groff, of Debian's package groff-base");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SEE ALSO"), "{text}");
}
