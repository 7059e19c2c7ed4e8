// SPDX-License-Identifier: GPL-2.0-only

//! The manual page tells of every command, option, JSON field and exit code that there is, and of
//! no other.

use std::collections::BTreeSet;
use std::process::Command;

const PAGE: &str = include_str!("../ashmemctl.8");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ashmemctl.8");

/// What is printed for one of these; it must end well.
fn printed(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn rendered() -> String {
    let words = [
        "-man",
        "-ww",
        "-Tascii",
        "-P-c",
        "-P-b",
        "-P-u",
        "-rCHECKSTYLE=3",
        PATH,
    ];
    printed("groff", &words)
}

fn help(words: &[&str]) -> String {
    printed(
        env!("CARGO_BIN_EXE_ashmemctl"),
        &[words, &["--help"]].concat(),
    )
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

/// The first lines of a section's tagged paragraphs.
fn tags(name: &str) -> Vec<&'static str> {
    let lines = section(name);
    let pairs = lines.windows(2).filter(|pair| pair[0] == ".TP");
    pairs.map(|pair| pair[1]).collect()
}

#[test]
fn manual_renders_without_a_warning() {
    assert!(rendered().contains("SEE ALSO"));
    let sections: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .collect();
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "RIGHTS",
        "NAMES",
        "JSON",
        "EXIT STATUS",
        "ENVIRONMENT",
        "BUGS",
        "EXAMPLES",
        "SEE ALSO",
    ];
    assert_eq!(sections, expected);
    for line in PAGE.lines() {
        assert_eq!(line, line.trim_end(), "blanks at the end");
        assert!(!line.is_empty(), "an empty line, where .P belongs");
    }
}

#[test]
fn commands_of_the_manual_are_those_of_the_program() {
    let text = help(&[]);
    let (_, commands) = text.split_once("Commands:\n").expect("commands");
    let known: Vec<_> = commands
        .lines()
        .map_while(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(known, ["list", "show", "purge"]);
    let told: Vec<_> = tags("DESCRIPTION")
        .into_iter()
        .filter_map(|line| line.strip_prefix(".B "))
        .collect();
    assert_eq!(told, known, "in the page, and in the program");
}

#[test]
fn options_of_the_manual_are_those_of_the_program() {
    let options = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .filter(|word| word.starts_with("--"))
            .map(str::to_owned)
            .collect()
    };
    let known = options(
        &[
            help(&[]),
            help(&["list"]),
            help(&["show"]),
            help(&["purge"]),
        ]
        .concat(),
    );
    assert!(known.len() >= 4, "{known:?}");
    let told = options(&section("OPTIONS").join("\n").replace("\\-", "-"));
    assert_eq!(told, known, "in the page, and in the program");
}

/// The names of fields in the program: what its structures for JSON have.
fn fields() -> BTreeSet<&'static str> {
    let sources = [
        include_str!("../src/main.rs"),
        include_str!("../src/snapshot.rs"),
        include_str!("../src/pages.rs"),
        include_str!("../src/fdinfo.rs"),
    ];
    let mut fields = BTreeSet::new();
    for source in sources {
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            // What is kept flat, or written by a structure of its own, has no such line.
            if !line.trim_start().starts_with("#[derive(") || !line.contains("Serialize") {
                continue;
            }
            let mut flat = false;
            for line in lines.by_ref().take_while(|line| line.trim() != "}") {
                let line = line.trim();
                let name = line.trim_start_matches("pub ").split(": ").next();
                match name {
                    _ if line == "#[serde(flatten)]" => flat = true,
                    _ if line.starts_with("//") => {}
                    Some(name) if name.len() < line.len() && line.ends_with(',') => {
                        if !flat {
                            fields.insert(name.trim_start_matches("pub "));
                        }
                        flat = false;
                    }
                    _ => {}
                }
            }
        }
    }
    fields
}

#[test]
fn fields_of_the_manual_are_those_of_the_program() {
    let known = fields();
    assert!(
        known.contains("name_hex") && known.contains("resident_after"),
        "{known:?}"
    );
    let told: BTreeSet<_> = section("JSON")
        .into_iter()
        .filter(|line| line.starts_with(".I"))
        .flat_map(|line| line.split([' ', ',', '"', '.']))
        .filter(|word| {
            !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
        })
        .collect();
    assert_eq!(told, known, "in the page, and in the program");
}

#[test]
fn letters_of_the_manual_are_those_of_the_pictures() {
    let text = rendered();
    for (row, state) in ["pinned", "unpinned", "purged"].iter().enumerate() {
        let kinds = &ashmemctl::pages::Kind::ALL[3 * row..][..3];
        let letters = kinds.iter().map(|kind| kind.letter().to_string());
        let expected: Vec<_> = [(*state).to_owned()].into_iter().chain(letters).collect();
        let found = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .any(|words| words == expected);
        assert!(found, "no line {expected:?} in:\n{text}");
    }
}

#[test]
fn exit_codes_of_the_manual_are_those_of_the_program() {
    use ashmemctl::error::Kind;
    let kinds = [Kind::Other, Kind::NoSuchRegion, Kind::NotPermitted];
    // 0, and clap's 2.
    let mut known: Vec<_> = kinds
        .into_iter()
        .map(|kind| kind as u8)
        .chain([0, 2])
        .collect();
    known.sort_unstable();
    let told: Vec<u8> = tags("EXIT STATUS")
        .into_iter()
        .map(|line| {
            line.strip_prefix(".B ")
                .and_then(|code| code.parse().ok())
                .expect("a code")
        })
        .collect();
    assert_eq!(told, known);
}
