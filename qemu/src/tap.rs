// SPDX-License-Identifier: GPL-2.0-only

//! The lines of a guest's report: TAP 14, and the verdict after it.

/// Before the names of the checks that follow the tests
/// (userspace-tests/src/report.rs).
pub const CLOSING: &str = "closing: ";

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not run, for this reason.
    Skipped(String),
    /// What went wrong stands in the diagnostics.
    Failed,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `TAP version 14`
    Version,
    /// `1..N`
    Plan(usize),
    /// `ok N - name`, `not ok N - name`, `ok N - name # SKIP reason`
    Test {
        /// Its number, from 1.
        number: usize,
        /// What it is called.
        name: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// `# text`: belongs to the test before it.
    Diagnostic(String),
    /// `VERDICT passed=P failed=F skipped=S`
    Verdict(Counts),
    /// Anything else, which a report must not contain.
    Other(String),
}

/// Numbers of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were not run.
    pub skipped: usize,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

/// Reads one line, without its line feed.
pub fn parse(line: &str) -> Line {
    parse_known(line).unwrap_or_else(|| Line::Other(line.to_owned()))
}

fn parse_known(line: &str) -> Option<Line> {
    if line == "TAP version 14" {
        return Some(Line::Version);
    }
    if line == "#" {
        return Some(Line::Diagnostic(String::new()));
    }
    if let Some(text) = line.strip_prefix("# ") {
        return Some(Line::Diagnostic(text.to_owned()));
    }
    if let Some(count) = line.strip_prefix("1..") {
        return Some(Line::Plan(count.parse().ok()?));
    }
    if let Some(counts) = line.strip_prefix("VERDICT ") {
        return parse_verdict(counts).map(Line::Verdict);
    }
    let (ok, rest) = match line.strip_prefix("not ") {
        Some(rest) => (false, rest),
        None => (true, line),
    };
    let (number, description) = rest.strip_prefix("ok ")?.split_once(" - ")?;
    let number = number.parse().ok()?;
    let (name, outcome) = match (ok, description.split_once(" # SKIP ")) {
        (true, Some((name, reason))) => (name, Outcome::Skipped(reason.to_owned())),
        (true, None) => (description, Outcome::Passed),
        // "not ok … # SKIP" has no meaning in TAP; a failure stays one.
        (false, _) => (description, Outcome::Failed),
    };
    Some(Line::Test {
        number,
        name: name.to_owned(),
        outcome,
    })
}

fn parse_verdict(text: &str) -> Option<Counts> {
    let mut words = text.split(' ');
    let mut field = |name: &str| -> Option<usize> {
        words
            .next()?
            .strip_prefix(name)?
            .strip_prefix('=')?
            .parse()
            .ok()
    };
    let counts = Counts {
        passed: field("passed")?,
        failed: field("failed")?,
        skipped: field("skipped")?,
    };
    words.next().is_none().then_some(counts)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn test(number: usize, name: &str, outcome: Outcome) -> Line {
        Line::Test {
            number,
            name: name.into(),
            outcome,
        }
    }

    #[test]
    fn results() {
        assert_eq!(parse("ok 1 - pin::a"), test(1, "pin::a", Outcome::Passed));
        assert_eq!(parse("not ok 2 - b"), test(2, "b", Outcome::Failed));
        assert_eq!(
            parse("ok 3 - c # SKIP no zram"),
            test(3, "c", Outcome::Skipped("no zram".into()))
        );
    }

    #[test]
    fn a_failure_cannot_be_called_a_skip() {
        let line = parse("not ok 3 - c # SKIP no zram");
        assert!(matches!(
            line,
            Line::Test {
                outcome: Outcome::Failed,
                ..
            }
        ));
    }

    #[test]
    fn the_rest_of_tap() {
        assert_eq!(parse("TAP version 14"), Line::Version);
        assert_eq!(parse("1..12"), Line::Plan(12));
        assert_eq!(parse("# a # b"), Line::Diagnostic("a # b".into()));
        assert_eq!(parse("#"), Line::Diagnostic(String::new()));
    }

    #[test]
    fn the_verdict() {
        assert_eq!(
            parse("VERDICT passed=3 failed=0 skipped=1"),
            Line::Verdict(Counts {
                passed: 3,
                failed: 0,
                skipped: 1
            })
        );
    }

    #[test]
    fn what_is_nearly_right_is_not_right() {
        for line in [
            "",
            "ok",
            "ok 1",
            "ok x - a",
            "OK 1 - a",
            "1..",
            "2..3",
            "VERDICT",
            "VERDICT passed=3 failed=0",
            "VERDICT passed=3 failed=0 skipped=1 more=1",
            "VERDICT passed=3 failed=-1 skipped=1",
            " VERDICT passed=3 failed=0 skipped=1",
            "TAP version 13",
        ] {
            assert_eq!(parse(line), Line::Other(line.into()), "{line:?}");
        }
    }
}
