// SPDX-License-Identifier: GPL-2.0-only

//! The driver's own KUnit tests (`driver/tests.rs`, `driver/glue/tests.rs`),
//! which the kernel runs as it loads the module.
//!
//! They write KTAP to the kernel log:
//!
//! ```text
//! 1..2
//!     # Subtest: ashmem_array
//!     1..3
//!     ok 1 empty_array_is_dropped
//!     …
//! ok 1 ashmem_array
//! ```

use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::ensure;
use object::Object;
use object::ObjectSection;

use crate::harness::skip;
use crate::harness::tests;
use crate::init::MODULE;
use crate::kmsg::KernelLog;
use crate::tests::module::load;
use crate::tests::module::unload_soon;

tests! {
    suites_of_the_module_pass @ 60,
}

const PARAMETERS: &str = "/sys/module/kunit/parameters";

/// How many suites the module has: pointers in a section, that is.
fn built_in() -> anyhow::Result<usize> {
    let module = fs::read(MODULE)?;
    let module = object::File::parse(&*module)?;
    let section = module.section_by_name(".kunit_test_suites");
    Ok(section.map_or(0, |suites| suites.size() as usize / size_of::<u64>()))
}

/// Suites that began, and their test cases that passed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    suites: usize,
    cases: usize,
}

/// A plan, `1..N`.
fn plan(line: &str) -> Option<usize> {
    line.strip_prefix("1..")?.parse().ok()
}

/// A result that is a success, `ok NUMBER NAME`; nothing may stand behind it,
/// as does the reason if it was skipped.
fn ok(line: &str) -> Option<&str> {
    let (_, name) = line.strip_prefix("ok ")?.split_once(' ')?;
    (!name.contains(' ')).then_some(name)
}

/// What the kernel log says of one run of some suites. Fails unless each that
/// was planned ran, with each of its cases, one at least, and all passed.
fn passed(log: &[&str]) -> anyhow::Result<Passed> {
    let mut all = Passed::default();
    let mut lines = log.iter().copied();
    let planned = lines.by_ref().find_map(plan).context("no suite ran")?;

    for _ in 0..planned {
        let suite = lines
            .by_ref()
            .find_map(|line| line.trim_start().strip_prefix("# Subtest: "))
            .with_context(|| format!("{} of {planned} suites ran", all.suites))?;
        let cases = lines
            .by_ref()
            .find_map(|line| plan(line.trim_start()))
            .with_context(|| format!("{suite} did not say how many cases it has"))?;
        ensure!(cases > 0, "{suite} has no case");
        let mut results = 0;
        // What stands between is comment: its result comes last.
        loop {
            let line = lines
                .next()
                .with_context(|| format!("{suite} did not end"))?;
            if ok(line) == Some(suite) {
                break;
            }
            let case = line.trim_start();
            if case.starts_with("not ok ") || case.starts_with("ok ") {
                ensure!(line != case && ok(case).is_some(), "{suite}: {case}");
                results += 1;
            }
        }
        ensure!(results == cases, "{suite}: {results} of {cases} cases ran");
        all.suites += 1;
        all.cases += cases;
    }
    Ok(all)
}

fn suites_of_the_module_pass() -> anyhow::Result<()> {
    if !Path::new(PARAMETERS).exists() {
        return skip("this kernel has no CONFIG_KUNIT=y");
    }
    let built_in = built_in()?;
    ensure!(built_in > 0, "the module was built without its tests");
    for parameter in ["enable", "autorun"] {
        // Nobody can read them.
        let argument = format!("kunit.{parameter}=1");
        ensure!(
            fs::read_to_string("/proc/cmdline")?.contains(&argument),
            "the kernel was started without {argument}"
        );
    }

    unload_soon()?;
    let pattern = format!("{PARAMETERS}/filter_glob");
    let before = fs::read_to_string(&pattern)?;
    let mut log = KernelLog::open(None)?;
    log.start_here();
    fs::write(&pattern, "*")?;
    let loaded = load(c"");
    fs::write(&pattern, before.trim_end())?;
    loaded?;
    let log = log.texts()?;
    let passed = passed(&log).with_context(|| log.join("\n"))?;
    println!("{passed:?}");
    ensure!(
        passed.suites == built_in,
        "{} of {built_in} suites ran",
        passed.suites
    );
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::*;

    /// As KUnit writes it.
    const LOG: &str = "\
ashmem: loading out-of-tree module taints kernel.
KTAP version 1
1..2
    KTAP version 1
    # Subtest: ashmem_array
    # module: ashmem
    1..2
    ok 1 one
    ok 2 two
# ashmem_array: pass:2 fail:0 skip:0 total:2
# Totals: pass:2 fail:0 skip:0 total:2
ok 1 ashmem_array
    KTAP version 1
    # Subtest: ashmem_lru
    # module: ashmem
    1..1
    ok 1 three
ok 2 ashmem_lru
guest: the kernel log is read";

    fn judge(log: &str) -> Option<Passed> {
        passed(&log.lines().collect::<Vec<_>>()).ok()
    }

    #[test]
    fn what_passed_is_counted() {
        let all = Passed {
            suites: 2,
            cases: 3,
        };
        assert_eq!(judge(LOG), Some(all));
    }

    #[test]
    fn whatever_did_not_pass_fails() {
        for (line, instead) in [
            ("    ok 2 two", "    not ok 2 two"),
            ("    ok 2 two", "    ok 2 two # SKIP why"),
            ("    ok 2 two\n", ""),
            ("    1..1", "    1..2"),
            ("    1..2", "    1..0"),
            ("ok 1 ashmem_array", "not ok 1 ashmem_array"),
            ("ok 1 ashmem_array", "ok 1 ashmem_array # SKIP why"),
            ("\nok 2 ashmem_lru", ""),
            ("1..2\n    KTAP", "1..3\n    KTAP"),
            ("1..2\n    KTAP", "    KTAP"),
        ] {
            assert!(LOG.contains(line), "{line}");
            let log = LOG.replacen(line, instead, 1);
            assert_eq!(judge(&log), None, "{instead} for {line}");
        }
        assert_eq!(judge("ashmem: loaded"), None);
    }
}
