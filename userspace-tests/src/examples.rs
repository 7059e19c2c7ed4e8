// SPDX-License-Identifier: GPL-2.0-only

//! The programs of client/examples/, which the guest has in a folder.

use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::Context;
use anyhow::ensure;

use crate::kmsg;

/// Where they are.
pub const FOLDER: &str = "/examples";

/// The one that is to be shown.
pub static WANTED: OnceLock<String> = OnceLock::new();

/// One of them.
pub fn program(name: &str) -> Command {
    Command::new(format!("{FOLDER}/{name}"))
}

/// Says what the kernel will report while one of them runs.
fn announce(name: &str) -> anyhow::Result<()> {
    match name {
        // It shows which cache has processes killed.
        "cache" => kmsg::expect(kmsg::Report::OomKill),
        _ => Ok(()),
    }
}

/// Runs the one that is wanted; it prints to this program's standard output.
pub fn show() -> anyhow::Result<()> {
    let name = WANTED.get().context("no example is named")?;
    announce(name)?;
    let status = program(name).status().with_context(|| name.clone())?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// What one of them prints. It must end well.
pub fn output(name: &str) -> anyhow::Result<String> {
    announce(name)?;
    let output = program(name)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| name.to_owned())?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{name}: {}\n{text}", output.status);
    Ok(text)
}
