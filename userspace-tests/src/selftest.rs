// SPDX-License-Identifier: GPL-2.0-only

//! Guests that misbehave in a known way. The host's tests (qemu/tests) boot
//! each and look at what the host says about it. No module is needed.

use std::fs;
use std::io;
use std::process;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use clap::ValueEnum;
use nix::errno::Errno;
use nix::sys::reboot::RebootMode;
use nix::sys::reboot::reboot;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::raise;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;
use nix::unistd::setsid;

use crate::closing;
use crate::harness::Case;
use crate::harness::Sweep;
use crate::harness::Test;
use crate::harness::limit;
use crate::harness::skip;
use crate::harness::tests;
use crate::init::run_tests;
use crate::kmsg::KernelLog;
use crate::report::Report;

/// The ways.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// One test, which passes. Also what tries whether KVM works.
    Pass,
    /// Tests that fail in all the ways in which a test can.
    Fail,
    /// The same tests, run by the program built for i386, and one that it does
    /// not have.
    Fail32,
    /// A test that passes and one that is skipped.
    Skip,
    /// The guest stands still.
    Hang,
    /// The kernel panics.
    Panic,
    /// Tests pass, and the kernel log has a warning, below what the console
    /// shows.
    Warn,
    /// Tests pass, the verdict is good, and then the kernel warns.
    LateWarn,
    /// The verdict is missing.
    NoVerdict,
    /// The verdict comes twice.
    Two,
    /// Something follows the verdict.
    NotLast,
    /// No test runs.
    Zero,
    /// A good verdict, and the machine restarts instead of powering off.
    Reboot,
}

/// Where a process that is left behind notes its number.
const LEFT: &str = "/tmp/left";

tests! {
    passes,
    fails,
    panics,
    dies,
    exits_without_a_report,
    reports_twice,
    hangs @ 1,
    leaves_a_process,
    finds_it_gone,
    lacks_something,
}

/// In no table.
const ABSENT: Test = Test {
    name: "guest::selftest::absent",
    run: passes,
    limit: limit(&[]),
    abi: &[],
};

fn passes() -> anyhow::Result<()> {
    println!("not to be seen: the output of a test that passes");
    Ok(())
}

fn fails() -> anyhow::Result<()> {
    println!("the output of a failing test");
    bail!("this test fails on purpose")
}

fn panics() -> anyhow::Result<()> {
    panic!("this test panics on purpose")
}

fn dies() -> anyhow::Result<()> {
    raise(Signal::SIGSEGV)?;
    Ok(())
}

fn exits_without_a_report() -> anyhow::Result<()> {
    process::exit(0)
}

/// Forks; both processes come back, and the child must not report.
fn reports_twice() -> anyhow::Result<()> {
    // SAFETY: This process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(()),
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            bail!("the child ended with {status:?}")
        }
    }
}

fn hangs() -> anyhow::Result<()> {
    sleep(Duration::from_secs(3600));
    Ok(())
}

/// In a session of its own, where the group's signal does not reach it.
fn leaves_a_process() -> anyhow::Result<()> {
    // SAFETY: This process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            setsid()?;
            fs::write(LEFT, process::id().to_string())?;
            loop {
                sleep(Duration::from_secs(3600));
            }
        }
        ForkResult::Parent { .. } => {
            while fs::read_to_string(LEFT).unwrap_or_default().is_empty() {
                sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    }
}

fn finds_it_gone() -> anyhow::Result<()> {
    let pid = Pid::from_raw(fs::read_to_string(LEFT)?.parse()?);
    ensure!(kill(pid, None) == Err(Errno::ESRCH), "{pid} is still there");
    Ok(())
}

fn lacks_something() -> anyhow::Result<()> {
    skip("this kernel lacks something")
}

/// Misbehaves.
pub fn run(kind: Kind, report: &mut Report, log: &mut KernelLog) -> anyhow::Result<()> {
    let chosen: fn(&Test) -> bool = match kind {
        Kind::Fail | Kind::Fail32 => |_| true,
        Kind::Skip => |t| t.name.ends_with("::passes") || t.name.ends_with("::lacks_something"),
        Kind::Zero => |_| false,
        _ => |t| t.name.ends_with("::passes"),
    };
    let tests = TESTS.iter().filter(|t| chosen(t));
    if kind == Kind::Fail32 {
        let tests = tests.chain([&ABSENT]).map(Case::i386);
        run_tests(report, log, Sweep::All, tests, None)?;
    } else {
        run_tests(report, log, Sweep::All, tests.map(Case::here), None)?;
    }
    match kind {
        Kind::Hang => loop {
            sleep(Duration::from_secs(3600));
        },
        Kind::Panic => fs::write("/proc/sysrq-trigger", "c").context("sysrq c")?,
        // 6: informational.
        Kind::Warn => into_the_log("<6>WARNING: CPU: 0 PID: 1 at selftest.rs:1 warn+0x0/0x0")?,
        _ => {}
    }
    closing::run(report, log, false)?;
    report.plan()?;
    match kind {
        Kind::NoVerdict => {}
        _ => {
            report.verdict()?;
        }
    }
    match kind {
        Kind::Two => {
            report.verdict()?;
        }
        Kind::NotLast => report.write("# one line more\n")?,
        // 4: a warning.
        Kind::LateWarn => into_the_log("<4>WARNING: CPU: 0 PID: 1 at selftest.rs:2 late+0x0/0x0")?,
        Kind::Reboot => {
            let Err(e) = reboot(RebootMode::RB_AUTOBOOT);
            return Err(e).context("reboot");
        }
        _ => {}
    }
    Ok(())
}

/// Without a line feed: the kernel may do that too.
fn into_the_log(line: &str) -> io::Result<()> {
    fs::write("/dev/kmsg", line)
}
