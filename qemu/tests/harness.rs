// SPDX-License-Identifier: GPL-2.0-only

//! Boots guests that misbehave in a known way, and looks at what the judge
//! says: the tests of the tests.
//!
//! They need the image of a kernel in `ASHMEM_KIMG`, the guest's program in
//! `ASHMEM_GUEST` and the tree of its files in `ASHMEM_FILES`; `make test` sets
//! all of them.

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ashmem_qemu::accel;
use ashmem_qemu::accel::Choice;
use ashmem_qemu::initramfs::Contents;
use ashmem_qemu::machine;
use ashmem_qemu::machine::Logs;
use ashmem_qemu::machine::Spec;
use ashmem_qemu::tap::Outcome;
use ashmem_qemu::verdict;
use ashmem_qemu::verdict::End;
use ashmem_qemu::verdict::Fault;
use ashmem_qemu::verdict::Judgement;
use ashmem_qemu::verdict::Reported;

/// A guest takes 3 s; much more where others use the machine as well.
const LIMIT: Duration = Duration::from_secs(120);

fn path_from(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set: run this through `make test`"),
    }
}

/// Boots `guest selftest KIND`.
fn selftest(kind: &str, limit: Duration) -> Judgement {
    selftest_with(kind, limit, None)
}

/// The same, with a tree of files in the guest.
fn selftest_with(kind: &str, limit: Duration, files: Option<&Path>) -> Judgement {
    let kernel = path_from("ASHMEM_KIMG");
    let guest = path_from("ASHMEM_GUEST");
    let logs = tempfile::tempdir().expect("a temporary directory");
    let accel = accel::choose(Choice::Auto, &kernel, &guest, logs.path()).expect("a probe boot");
    let spec = Spec {
        kernel: &kernel,
        contents: Contents {
            guest: &guest,
            module: None,
            busybox: None,
            files,
        },
        arguments: &["selftest", kind],
        accel,
        measures: false,
        small: false,
        secure_boot: None,
        limit,
    };
    let record = machine::run(
        &spec,
        &Logs::new(logs.path(), kind).expect("writable"),
        &mut (),
    )
    .expect("QEMU runs");
    println!("{record:?}");
    verdict::judge(&record)
}

/// The results, without the closing checks.
fn tests(judgement: &Judgement) -> Vec<&Reported> {
    judgement
        .results
        .iter()
        .filter(|r| !r.name.starts_with("closing: "))
        .collect()
}

/// The one result that failed.
fn only_failure(judgement: &Judgement) -> &Reported {
    let failed: Vec<_> = judgement
        .results
        .iter()
        .filter(|r| r.outcome == Outcome::Failed)
        .collect();
    match *failed {
        [one] => one,
        _ => panic!("{failed:#?}"),
    }
}

#[test]
fn a_good_guest_is_good_and_a_skipped_test_is_shown_with_its_reason() {
    let judgement = selftest("skip", LIMIT);
    assert_eq!(judgement.faults, []);
    assert!(judgement.good());
    let outcomes: Vec<_> = tests(&judgement)
        .iter()
        .map(|r| r.outcome.clone())
        .collect();
    let reason = "this kernel lacks something".into();
    assert_eq!(outcomes, [Outcome::Passed, Outcome::Skipped(reason)]);
}

#[test]
fn every_way_to_fail_is_a_failure_with_its_reason() {
    let judgement = selftest("fail", LIMIT);
    assert_every_way_to_fail(&judgement, "");
}

#[test]
fn an_i386_test_fails_in_the_same_ways() {
    let judgement = selftest_with("fail32", LIMIT, Some(&path_from("ASHMEM_FILES")));
    assert_every_way_to_fail(&judgement, "i386::");
    let absent = judgement.results.iter().find(|r| r.name.contains("absent"));
    let absent = absent.expect("it is reported");
    assert_eq!(absent.outcome, Outcome::Failed);
    assert_eq!(
        absent.diagnostics,
        ["this program has no test guest::selftest::absent"]
    );
}

#[test]
fn without_its_program_every_i386_test_fails_and_says_what_to_do() {
    let judgement = selftest("fail32", LIMIT);
    let tests = tests(&judgement);
    assert!(tests.len() > 9, "{judgement:#?}");
    for test in tests {
        assert!(test.name.starts_with("i386::"), "{test:?}");
        assert_eq!(test.outcome, Outcome::Failed, "{test:?}");
        let why = test.diagnostics.join("\n");
        assert!(why.contains("/bin/guest32: ENOENT"), "{why}");
        assert!(why.contains("scripts/programs"), "{why}");
    }
}

fn assert_every_way_to_fail(judgement: &Judgement, prefix: &str) {
    assert_eq!(judgement.faults, []);
    assert!(!judgement.good());
    assert!(tests(judgement).iter().all(|r| r.name.starts_with(prefix)));
    let of = |name: &str| {
        let found = judgement.results.iter().find(|r| r.name.ends_with(name));
        let result = found.unwrap_or_else(|| panic!("{name} is not among {judgement:#?}"));
        (
            result.outcome == Outcome::Failed,
            result.diagnostics.join("\n"),
        )
    };
    for (name, why) in [
        ("::fails", "this test fails on purpose"),
        ("::fails", "| the output of a failing test"),
        ("::panics", "this test panics on purpose"),
        ("::dies", "SIGSEGV"),
        ("::exits_without_a_report", "without having reported"),
        ("::reports_twice", "SIGABRT"),
        // 1 s, or 4 s if the kernel is the debug one.
        ("::hangs", "still running after its limit of"),
    ] {
        let (failed, diagnostics) = of(name);
        assert!(failed, "{name}");
        assert!(diagnostics.contains(why), "{name}: {diagnostics}");
    }
    for name in ["::passes", "::leaves_a_process", "::finds_it_gone"] {
        assert_eq!(of(name), (false, String::new()), "{name}");
    }
}

#[test]
fn a_guest_that_stands_still_runs_into_its_limit() {
    // Its limit must be long enough to boot, or this would test something
    // else, and how long that takes depends on who else uses the machine.
    for limit in [10, 40, 120].map(Duration::from_secs) {
        let judgement = selftest("hang", limit);
        assert!(judgement.faults.contains(&Fault::NoVerdict));
        assert!(judgement.faults.contains(&Fault::End(End::TimeUp(limit))));
        if tests(&judgement).len() == 1 {
            return;
        }
    }
    panic!("the guest never came to its test");
}

#[test]
fn a_panic_ends_the_run_and_is_shown() {
    let judgement = selftest("panic", LIMIT);
    let shows_it = |f: &Fault| matches!(f, Fault::Console(l) if l.contains("Kernel panic"));
    assert!(judgement.faults.contains(&Fault::NoVerdict));
    assert!(judgement.faults.iter().any(shows_it), "{judgement:#?}");
    assert!(judgement.faults.iter().any(|f| matches!(f, Fault::End(_))));
}

#[test]
fn a_warning_in_the_kernel_log_fails_the_guest_although_its_tests_pass() {
    let judgement = selftest("warn", LIMIT);
    assert_eq!(judgement.faults, []);
    let failure = only_failure(&judgement);
    assert_eq!(failure.name, "closing: kernel log");
    assert!(
        failure.diagnostics.join("\n").contains("> ["),
        "{failure:#?}"
    );
}

#[test]
fn a_warning_after_the_verdict_is_seen_on_the_console() {
    let judgement = selftest("late-warn", LIMIT);
    assert!(
        matches!(&*judgement.faults, [Fault::Console(l)] if l.contains("WARNING: CPU: 0")),
        "{judgement:#?}"
    );
}

#[test]
fn no_verdict_is_a_failure() {
    assert_eq!(selftest("no-verdict", LIMIT).faults, [Fault::NoVerdict]);
}

#[test]
fn two_verdicts_are_a_failure() {
    assert_eq!(selftest("two", LIMIT).faults, [Fault::Verdicts(2)]);
}

#[test]
fn a_verdict_that_is_not_last_is_a_failure() {
    let line = "# one line more".into();
    assert_eq!(
        selftest("not-last", LIMIT).faults,
        [Fault::AfterVerdict(line)]
    );
}

#[test]
fn zero_tests_are_a_failure_which_the_guest_reports() {
    let judgement = selftest("zero", LIMIT);
    assert_eq!(judgement.faults, []);
    assert_eq!(only_failure(&judgement).name, "init: at least one test");
}

#[test]
fn a_restart_is_no_power_off() {
    assert_eq!(selftest("reboot", LIMIT).faults, [Fault::End(End::Reset)]);
}
