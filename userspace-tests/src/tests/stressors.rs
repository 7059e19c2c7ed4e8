// SPDX-License-Identifier: GPL-2.0-only

//! Stressors that were written for any device, by nobody here.

use std::fs;
use std::process::Command;

use anyhow::Context;
use anyhow::ensure;

use crate::harness::tests;
use crate::region::NODE;

tests! {
    stress_ng_finds_nothing @ 60,
}

const STRESS_NG: &str = "/usr/bin/stress-ng";
/// Where it says how much it did.
const NUMBERS: &str = "/tmp/stress-ng.yaml";

fn stress_ng_finds_nothing() -> anyhow::Result<()> {
    let output = Command::new(STRESS_NG)
        .args(["--dev", "2", "--dev-file", NODE, "--timeout", "10s"])
        .args(["--temp-path", "/tmp", "--metrics", "--yaml", NUMBERS])
        .output()
        .with_context(|| format!("{STRESS_NG}; scripts/programs puts it into the guest"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    print!("{said}{complained}");
    ensure!(output.status.success(), "stress-ng: {}", output.status);

    let numbers = fs::read_to_string(NUMBERS).context(NUMBERS)?;
    fs::remove_file(NUMBERS)?;
    let operations: u64 = numbers
        .lines()
        .find_map(|line| line.trim().strip_prefix("bogo-ops:"))
        .context("no bogo-ops among its numbers")?
        .trim()
        .parse()?;
    ensure!(operations > 0, "it did nothing");
    Ok(())
}
