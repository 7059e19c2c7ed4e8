// SPDX-License-Identifier: GPL-2.0-only

//! Judges one run of a guest. Pure code: it sees a record of the run and
//! touches nothing.
//!
//! A run is good if the guest reported at least one test, none failed, the
//! verdict came exactly once, last, and agrees with the lines before it, the
//! console shows no trouble, and the machine then powered off by itself. Each
//! thing that is not so is a fault, and each fault counts as a failure.

use std::fmt;
use std::time::Duration;

use crate::secure_boot;
use crate::tap;
use crate::tap::Counts;
use crate::tap::Line;
use crate::tap::Outcome;

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered it off, and QEMU left with exit code 0.
    PowerOff,
    /// The guest restarted it; with `panic=-1`, a panic does.
    Reset,
    /// It was ended because its time was up.
    TimeUp(Duration),
    /// It was ended because of this line on the console.
    Fatal(String),
    /// QEMU ended for another reason.
    Other(String),
}

/// What is known of a run that is over.
#[derive(Clone, Debug)]
pub struct Record {
    /// Everything that came out of the report's port.
    pub report: String,
    /// Everything on the serial line, where the kernel shows warnings.
    pub console: String,
    /// How it ended.
    pub end: End,
}

/// One thing that is wrong with a run, beyond tests that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine ended in another way than by powering off.
    End(End),
    /// There is no verdict.
    NoVerdict,
    /// There are several.
    Verdicts(usize),
    /// This came after the verdict.
    AfterVerdict(String),
    /// The verdict counts otherwise than the lines.
    Miscount {
        /// What the verdict says.
        said: Counts,
        /// What the lines say.
        seen: Counts,
    },
    /// No test ran; the closing checks are none.
    NoTests,
    /// A line that does not belong into a report.
    BadLine(String),
    /// The plan is missing, stands twice, or counts otherwise than the lines.
    BadPlan(String),
    /// The console shows this.
    Console(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(End::PowerOff) => write!(f, "the machine powered off"),
            Self::End(End::Reset) => write!(
                f,
                "the machine restarted instead of powering off, as it does after a panic"
            ),
            Self::End(End::TimeUp(limit)) => write!(
                f,
                "the machine was ended: its time of {} s was up",
                limit.as_secs()
            ),
            Self::End(End::Fatal(line)) => {
                write!(f, "the machine was ended: its console showed `{line}`")
            }
            Self::End(End::Other(how)) => write!(f, "the machine did not power off: {how}"),
            Self::NoVerdict => write!(f, "the guest gave no verdict"),
            Self::Verdicts(n) => write!(f, "the guest gave {n} verdicts"),
            Self::AfterVerdict(line) => write!(f, "something followed the verdict: `{line}`"),
            Self::Miscount { said, seen } => write!(
                f,
                "the verdict and the lines disagree: passed {}/{}, failed {}/{}, skipped {}/{}",
                said.passed, seen.passed, said.failed, seen.failed, said.skipped, seen.skipped
            ),
            Self::NoTests => write!(f, "no test ran"),
            Self::BadLine(line) => write!(f, "the report has a line that is none: `{line}`"),
            Self::BadPlan(how) => write!(f, "the report's plan is wrong: {how}"),
            Self::Console(line) => write!(f, "the console shows `{line}`"),
        }
    }
}

/// One result of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What it is called.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What it says about that.
    pub diagnostics: Vec<String>,
}

/// A run, judged.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Every result, in order.
    pub results: Vec<Reported>,
    /// Everything else that is wrong.
    pub faults: Vec<Fault>,
}

impl Judgement {
    /// What to add to the sum: a fault counts as a failure.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for result in &self.results {
            counts.add(&result.outcome);
        }
        counts.failed += self.faults.len();
        counts
    }

    /// Whether all is well.
    pub fn good(&self) -> bool {
        self.counts().failed == 0
    }
}

/// Judges a run.
pub fn judge(record: &Record) -> Judgement {
    let mut judgement = Judgement::default();
    judge_report(&record.report, &mut judgement);
    if let Some(line) = record.console.lines().find(|l| is_trouble(l)) {
        judgement
            .faults
            .push(Fault::Console(line.trim().to_owned()));
    }
    if record.end != End::PowerOff {
        judgement.faults.push(Fault::End(record.end.clone()));
    }
    judgement
}

fn judge_report(report: &str, judgement: &mut Judgement) {
    let Judgement { results, faults } = judgement;
    let mut verdicts = vec![];
    let mut plans = vec![];
    for text in report.split_inclusive('\n') {
        // A line that was cut off must not count: it could have gone on.
        let line = match text.strip_suffix('\n') {
            Some(text) => tap::parse(text),
            None => Line::Other(text.to_owned()),
        };
        if !verdicts.is_empty() && !matches!(line, Line::Verdict(_)) {
            faults.push(Fault::AfterVerdict(text.trim_end().to_owned()));
        }
        match line {
            Line::Version => {}
            Line::Plan(count) => plans.push(count),
            Line::Test {
                number,
                name,
                outcome,
            } => {
                if number != results.len() + 1 {
                    faults.push(Fault::BadLine(text.trim_end().to_owned()));
                }
                results.push(Reported {
                    name,
                    outcome,
                    diagnostics: vec![],
                });
            }
            Line::Diagnostic(text) => {
                if let Some(last) = results.last_mut() {
                    last.diagnostics.push(text);
                }
            }
            Line::Verdict(counts) => verdicts.push(counts),
            Line::Other(text) => faults.push(Fault::BadLine(text)),
        }
    }

    let mut seen = Counts::default();
    for result in results.iter() {
        seen.add(&result.outcome);
    }
    match *verdicts {
        [] => faults.push(Fault::NoVerdict),
        [said] if said != seen => faults.push(Fault::Miscount { said, seen }),
        [_] => {}
        _ => faults.push(Fault::Verdicts(verdicts.len())),
    }
    // Without a verdict the guest did not come to the plan either.
    match *plans {
        [] if verdicts.is_empty() => {}
        [] => faults.push(Fault::BadPlan("it is missing".into())),
        [count] if count != results.len() => faults.push(Fault::BadPlan(format!(
            "it announces {count}, and there are {}",
            results.len()
        ))),
        [_] => {}
        _ => faults.push(Fault::BadPlan("there are several".into())),
    }
    if results.iter().all(|r| r.name.starts_with(tap::CLOSING)) {
        faults.push(Fault::NoTests);
    }
}

/// Lines of the console after which a machine is ended early: nothing good
/// comes after them.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls",
    "detected expedited stalls",
    // Of the firmware, and no kernel follows.
    secure_boot::NOTHING_STARTS,
];

/// Lines of the console that must not be there. The guest searches the kernel
/// log for much more than that; this is for what comes when it cannot any more.
/// "Call Trace:" alone is none: a memory cgroup that a test lets run out of
/// memory prints one.
const TROUBLE: &[&str] = &[
    "BUG:",
    "kernel BUG",
    "WARNING:",
    "Oops",
    "general protection fault",
];

/// Whether a machine that shows this is to be ended.
pub fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|text| line.contains(text))
}

/// Whether a console that shows this is a failure.
pub fn is_trouble(line: &str) -> bool {
    is_fatal(line) || TROUBLE.iter().any(|text| line.contains(text))
}

#[cfg(test)]
mod unit {
    use super::*;

    const GOOD: &str = "TAP version 14\n\
        ok 1 - pin::a\n\
        ok 2 - pin::b # SKIP no zram\n\
        ok 3 - closing: kernel log\n\
        1..3\n\
        VERDICT passed=2 failed=0 skipped=1\n";

    fn judged(report: &str, console: &str, end: End) -> Judgement {
        judge(&Record {
            report: report.into(),
            console: console.into(),
            end,
        })
    }

    fn faults(report: &str) -> Vec<Fault> {
        judged(report, "", End::PowerOff).faults
    }

    #[test]
    fn a_good_run() {
        let judgement = judged(GOOD, "Linux version 7.3\n", End::PowerOff);
        assert_eq!(judgement.faults, []);
        assert_eq!(
            judgement.counts(),
            Counts {
                passed: 2,
                failed: 0,
                skipped: 1
            }
        );
        assert!(judgement.good());
    }

    #[test]
    fn a_failed_test_is_no_fault_and_not_good() {
        let report = GOOD
            .replace("ok 1 - pin::a\n", "not ok 1 - pin::a\n# 1 != 2\n")
            .replace("passed=2 failed=0", "passed=1 failed=1");
        let judgement = judged(&report, "", End::PowerOff);
        assert_eq!(judgement.faults, []);
        assert_eq!(judgement.results[0].diagnostics, ["1 != 2"]);
        assert!(!judgement.good());
    }

    #[test]
    fn no_verdict() {
        let (report, _) = GOOD.split_once("VERDICT").expect("it has one");
        assert_eq!(faults(report), [Fault::NoVerdict]);
    }

    #[test]
    fn nothing_at_all() {
        assert_eq!(faults(""), [Fault::NoVerdict, Fault::NoTests]);
    }

    #[test]
    fn a_verdict_that_is_cut_off() {
        let report = GOOD.strip_suffix('\n').expect("it has one");
        assert!(faults(report).contains(&Fault::NoVerdict));
    }

    #[test]
    fn two_verdicts() {
        let report = format!("{GOOD}VERDICT passed=2 failed=0 skipped=1\n");
        assert_eq!(faults(&report), [Fault::Verdicts(2)]);
    }

    #[test]
    fn something_after_the_verdict() {
        let line = "# one line more";
        assert_eq!(
            faults(&format!("{GOOD}{line}\n")),
            [Fault::AfterVerdict(line.into())]
        );
    }

    #[test]
    fn counts_that_disagree() {
        let seen = Counts {
            passed: 2,
            failed: 0,
            skipped: 1,
        };
        for (text, said) in [
            ("passed=3 failed=0 skipped=1", Counts { passed: 3, ..seen }),
            ("passed=2 failed=1 skipped=1", Counts { failed: 1, ..seen }),
            ("passed=2 failed=0 skipped=0", Counts { skipped: 0, ..seen }),
        ] {
            let report = GOOD.replace("passed=2 failed=0 skipped=1", text);
            assert_eq!(faults(&report), [Fault::Miscount { said, seen }]);
        }
    }

    #[test]
    fn a_plan_that_disagrees_or_is_missing_or_stands_twice() {
        for plan in ["1..4\n", "", "1..3\n1..3\n"] {
            let found = faults(&GOOD.replace("1..3\n", plan));
            assert!(matches!(*found, [Fault::BadPlan(_)]), "{plan:?}: {found:?}");
        }
    }

    #[test]
    fn closing_checks_are_no_tests() {
        let report = "TAP version 14\n\
            ok 1 - closing: kernel log\n\
            1..1\n\
            VERDICT passed=1 failed=0 skipped=0\n";
        assert_eq!(faults(report), [Fault::NoTests]);
    }

    #[test]
    fn a_line_that_is_none() {
        let report = GOOD.replace("1..3\n", "hello\n1..3\n");
        assert_eq!(faults(&report), [Fault::BadLine("hello".into())]);
    }

    #[test]
    fn a_number_that_is_missing() {
        let report = GOOD.replace("ok 2", "ok 4");
        let line = "ok 4 - pin::b # SKIP no zram".into();
        assert_eq!(faults(&report), [Fault::BadLine(line)]);
    }

    #[test]
    fn trouble_on_the_console() {
        for line in [
            "[    1.0] WARNING: CPU: 0 PID: 1 at mm/memory.c:1",
            "[    1.0] BUG: kernel NULL pointer dereference",
            "[    1.0] Kernel panic - not syncing: Fatal exception",
        ] {
            let judgement = judged(GOOD, &format!("a\r\n{line}\r\nb\r\n"), End::PowerOff);
            assert_eq!(judgement.faults, [Fault::Console(line.into())]);
        }
    }

    #[test]
    fn every_end_but_a_power_off() {
        for end in [
            End::Reset,
            End::TimeUp(Duration::from_secs(9)),
            End::Fatal("panic".into()),
            End::Other("QEMU was killed".into()),
        ] {
            assert_eq!(judged(GOOD, "", end.clone()).faults, [Fault::End(end)]);
        }
    }

    #[test]
    fn what_ends_a_machine() {
        assert!(is_fatal(
            "[   22.1] rcu: INFO: rcu_preempt self-detected stall on CPU"
        ));
        assert!(is_fatal(
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s!"
        ));
        assert!(is_fatal("BdsDxe: No bootable option or device was found."));
        assert!(!is_fatal("WARNING: CPU: 0 PID: 1"));
    }
}
