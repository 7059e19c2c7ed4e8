// SPDX-License-Identifier: GPL-2.0-only

//! The tests that need no guest of ours: `cargo test`, and what it says.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;

use crate::tap::Counts;
use crate::tap::Outcome;
use crate::verdict::Reported;

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct HostTests {
    /// Every result, in order.
    pub results: Vec<Reported>,
    /// What is wrong beyond tests that failed: it does not compile, say.
    pub fault: Option<String>,
}

impl HostTests {
    /// What to add to the sum.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for result in &self.results {
            counts.add(&result.outcome);
        }
        counts.failed += usize::from(self.fault.is_some());
        counts
    }
}

/// Runs those of the package or workspace in `directory`. Everything that cargo says is kept in the log; `each` is told
/// every result as it comes.
pub fn run(
    directory: &Path,
    filter: Option<&str>,
    environment: &[(&str, &OsStr)],
    log: &Path,
    mut each: impl FnMut(&Reported),
) -> anyhow::Result<HostTests> {
    let mut log_file =
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut cargo = Command::new("cargo")
        .current_dir(directory)
        .args(["test", "--locked", "--no-fail-fast", "--color=never"])
        .arg("--")
        .args(filter)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Compiler errors go straight to the log.
        .stderr(log_file.try_clone()?)
        .spawn()
        .context("cannot run cargo")?;

    let mut reader = Reader::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading from cargo")?;
            writeln!(log_file, "{line}")?;
            if let Some(result) = reader.line(&line) {
                each(&result);
            }
        }
    }
    let status = cargo.wait().context("waiting for cargo")?;
    Ok(reader.finish(status.success(), &status.to_string()))
}

/// Reads libtest's output line by line.
#[derive(Default)]
struct Reader {
    results: Vec<Reported>,
    /// The sums of libtest's own last lines.
    said: Counts,
    /// The test whose output is being read, below `failures:`.
    section: Option<usize>,
}

impl Reader {
    /// Takes a line; gives the result that it holds, if it holds one.
    fn line(&mut self, line: &str) -> Option<Reported> {
        if let Some(sum) = line.strip_prefix("test result: ") {
            self.section = None;
            self.said.passed += number_before(sum, " passed");
            self.said.failed += number_before(sum, " failed");
            self.said.skipped += number_before(sum, " ignored");
            return None;
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|l| l.strip_suffix(" stdout ----"))
        {
            self.section = self.results.iter().rposition(|r| r.name == name);
            return None;
        }
        if line == "failures:" {
            self.section = None;
        }
        if let Some(at) = self.section {
            self.results[at].diagnostics.push(line.to_owned());
            return None;
        }
        let (name, word) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let outcome = match word.split_once(", ") {
            _ if word == "ok" => Outcome::Passed,
            _ if word == "FAILED" => Outcome::Failed,
            _ if word == "ignored" => Outcome::Skipped("ignored".into()),
            Some(("ignored", reason)) => Outcome::Skipped(reason.to_owned()),
            _ => return None,
        };
        let result = Reported {
            name: name.to_owned(),
            outcome,
            diagnostics: vec![],
        };
        self.results.push(result.clone());
        Some(result)
    }

    fn finish(self, success: bool, status: &str) -> HostTests {
        let mut tests = HostTests {
            results: self.results,
            fault: None,
        };
        let seen = tests.counts();
        tests.fault = if seen != self.said {
            Some(format!(
                "its lines say {seen:?} and its sums say {:?}",
                self.said
            ))
        } else if !success && seen.failed == 0 {
            Some(format!("cargo test ended with {status}"))
        } else if success && seen.failed > 0 {
            Some("cargo test ended well although tests failed".into())
        } else {
            None
        };
        tests
    }
}

/// The number in `…; 3 passed; …`, or 0.
fn number_before(text: &str, word: &str) -> usize {
    text.split(word)
        .next()
        .filter(|before| before.len() < text.len())
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn read(text: &str, success: bool) -> HostTests {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish(success, "exit status: 101")
    }

    const FAILING: &str = "
running 3 tests
test tap::unit::results ... ok
test tap::unit::others ... FAILED
test slow - should panic ... ignored, takes an hour

failures:

---- tap::unit::others stdout ----

thread 'tap::unit::others' panicked at src/tap.rs:1:1:
test of a line that looks like one ... ok


failures:
    tap::unit::others

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s
";

    #[test]
    fn results_and_their_output() {
        let tests = read(FAILING, false);
        assert_eq!(
            tests.counts(),
            Counts {
                passed: 1,
                failed: 1,
                skipped: 1
            }
        );
        assert_eq!(tests.fault, None);
        assert_eq!(
            tests.results[2].outcome,
            Outcome::Skipped("takes an hour".into())
        );
        assert!(tests.results[1].diagnostics[1].contains("panicked at"));
    }

    #[test]
    fn what_does_not_compile_is_a_failure() {
        let tests = read("", false);
        assert_eq!(tests.counts().failed, 1);
        assert!(
            tests
                .fault
                .expect("there is one")
                .contains("exit status: 101")
        );
    }

    #[test]
    fn a_result_that_was_not_understood_is_a_failure() {
        let sum = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert!(
            read(&format!("test a ... ok\n{sum}\n"), true)
                .fault
                .is_some()
        );
        assert!(
            read(&format!("test a ... ok\ntest b ... ok\n{sum}\n"), true)
                .fault
                .is_none()
        );
    }

    #[test]
    fn exit_code_and_lines_must_agree() {
        assert!(read(FAILING, true).fault.is_some());
    }
}
