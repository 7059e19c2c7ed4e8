// SPDX-License-Identifier: GPL-2.0-only

//! What the host reads: TAP 14, then one line that nothing may follow,
//!
//! ```text
//! VERDICT passed=P failed=F skipped=S
//! ```
//!
//! The host (qemu/src/verdict.rs) compares the counts with the lines. Tests
//! whose name begins with `closing: ` are the checks after the tests; they do
//! not make a run in which no test ran count.

use std::fs::File;
use std::io::Write;

use anyhow::Context;

use crate::harness::Finished;
use crate::harness::Outcome;

/// Before the names of the checks that follow the tests.
pub const CLOSING: &str = "closing: ";

/// Writes the report.
pub struct Report {
    to: File,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Begins one.
    pub fn new(to: File) -> anyhow::Result<Self> {
        let mut report = Self {
            to,
            passed: 0,
            failed: 0,
            skipped: 0,
        };
        report.write("TAP version 14\n")?;
        Ok(report)
    }

    /// How many results were written.
    pub fn count(&self) -> usize {
        self.passed + self.failed + self.skipped
    }

    /// Adds a result.
    pub fn add(&mut self, name: &str, finished: &Finished) -> anyhow::Result<()> {
        let number = self.count() + 1;
        let mut text = match &finished.outcome {
            Outcome::Passed => {
                self.passed += 1;
                format!("ok {number} - {name}\n")
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                format!(
                    "ok {number} - {name} # SKIP {}\n",
                    reason.replace('\n', " ")
                )
            }
            Outcome::Failed(_) => {
                self.failed += 1;
                format!("not ok {number} - {name}\n")
            }
        };
        if let Outcome::Failed(why) = &finished.outcome {
            for line in why.lines() {
                text += &format!("# {line}\n");
            }
            if !finished.output.is_empty() {
                text += "# its output:\n";
                for line in finished.output.lines() {
                    text += &format!("# | {line}\n");
                }
            }
        }
        self.write(&text)
    }

    /// Adds the result of something that writes no output.
    pub fn check(&mut self, name: &str, outcome: Outcome) -> anyhow::Result<()> {
        self.add(
            name,
            &Finished {
                outcome,
                output: String::new(),
            },
        )
    }

    /// Adds a line that is no result. Only [`crate::selftest`] writes such.
    pub fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.to
            .write_all(text.as_bytes())
            .context("writing the report")
    }

    /// Writes the plan, which stands at the end: what runs is known then.
    pub fn plan(&mut self) -> anyhow::Result<()> {
        self.write(&format!("1..{}\n", self.count()))
    }

    /// Writes the verdict, and says whether it is a good one.
    pub fn verdict(&mut self) -> anyhow::Result<bool> {
        self.write(&format!(
            "VERDICT passed={} failed={} skipped={}\n",
            self.passed, self.failed, self.skipped
        ))?;
        Ok(self.failed == 0)
    }
}
