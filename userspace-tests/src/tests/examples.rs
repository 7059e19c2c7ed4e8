// SPDX-License-Identifier: GPL-2.0-only

//! The programs of client/examples/. Each checks what it shows, and ends badly if it is not so; here
//! it is seen that they end well, and print what docs/EXAMPLES.md says.

use std::fs;

use anyhow::Context;
use anyhow::ensure;

use crate::examples;
use crate::harness::tests;

tests! {
    each_has_a_test,
    heap @ 60,
    log @ 250,
    cache @ 250,
    page_tables @ 120,
    without_a_copy @ 60,
    languages @ 60,
    textbook @ 60,
    demand_paging @ 60,
    one_copy @ 60,
    when_mapping_wins @ 60,
}

/// Where their output stands.
const TEXT: &str = include_str!("../../../docs/EXAMPLES.md");

/// What the documentation says that an example prints.
fn printed(name: &str) -> anyhow::Result<&'static str> {
    let begin = format!("<!-- {name}: begin -->\n```text\n");
    let (_, rest) = TEXT
        .split_once(&begin)
        .with_context(|| format!("docs/EXAMPLES.md has no `{name}: begin`"))?;
    let (text, _) = rest
        .split_once("```\n<!-- ")
        .with_context(|| format!("docs/EXAMPLES.md has no end of `{name}`"))?;
    Ok(text)
}

/// A text without what differs from run to run: the digits behind each `~`, and the blanks around them
/// that make columns.
fn without_what_varies(text: &str) -> String {
    let mut parts = text.split('~');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        format!(
            "{} ~ {}",
            text.trim_end_matches(' '),
            rest.trim_start_matches(' ')
        )
    })
}

/// Runs one, and compares what it prints.
fn run(name: &str) -> anyhow::Result<()> {
    let found = examples::output(name)?;
    ensure!(
        without_what_varies(&found) == without_what_varies(printed(name)?),
        "docs/EXAMPLES.md says of `{name}` something else than this:\n{found}"
    );
    Ok(())
}

fn each_has_a_test() -> anyhow::Result<()> {
    for entry in fs::read_dir(examples::FOLDER).context(examples::FOLDER)? {
        let name = entry?.file_name();
        let name = format!("examples::{}", name.to_string_lossy());
        ensure!(TESTS.iter().any(|test| test.name == name), "no test {name}");
    }
    Ok(())
}

fn heap() -> anyhow::Result<()> {
    run("heap")
}

fn log() -> anyhow::Result<()> {
    run("log")
}

fn cache() -> anyhow::Result<()> {
    run("cache")
}

fn page_tables() -> anyhow::Result<()> {
    run("page_tables")
}

fn without_a_copy() -> anyhow::Result<()> {
    run("without_a_copy")
}

fn languages() -> anyhow::Result<()> {
    run("languages")
}

fn textbook() -> anyhow::Result<()> {
    run("textbook")
}

fn demand_paging() -> anyhow::Result<()> {
    run("demand_paging")
}

fn one_copy() -> anyhow::Result<()> {
    run("one_copy")
}

fn when_mapping_wins() -> anyhow::Result<()> {
    run("when_mapping_wins")
}
