// SPDX-License-Identifier: GPL-2.0-only

//! The checks after the tests, in this order: the kernel log, kmemleak, rmmod,
//! and the first two once more, for what rmmod did.

use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::delete_module;

use crate::harness::Outcome;
use crate::kmemleak;
use crate::kmsg::KernelLog;
use crate::report::CLOSING;
use crate::report::Report;

/// Does the checks. `module`: whether it is loaded and is to be removed.
pub fn run(report: &mut Report, log: &mut KernelLog, module: bool) -> anyhow::Result<()> {
    let quiet_since = Instant::now();
    kernel_log(report, log, "kernel log")?;
    kmemleak(report, log, "kmemleak", quiet_since)?;
    if module {
        log.now("rmmod")?;
        let outcome = match remove_module() {
            Ok(()) => Outcome::Passed,
            Err(why) => Outcome::Failed(why),
        };
        report.check(&format!("{CLOSING}rmmod"), outcome)?;
        if kmemleak::present() {
            kmemleak(report, log, "kmemleak after rmmod", quiet_since)?;
        }
    }
    // Also what the scans had to say.
    kernel_log(report, log, "kernel log after all")
}

fn kernel_log(report: &mut Report, log: &mut KernelLog, name: &str) -> anyhow::Result<()> {
    let outcome = match log.search()? {
        Ok(()) => Outcome::Passed,
        Err(text) => Outcome::Failed(text),
    };
    report.check(&format!("{CLOSING}{name}"), outcome)
}

fn kmemleak(
    report: &mut Report,
    log: &mut KernelLog,
    name: &str,
    since: Instant,
) -> anyhow::Result<()> {
    log.now(name)?;
    let outcome = if !kmemleak::present() {
        Outcome::Skipped("this kernel has no kmemleak".into())
    } else {
        match kmemleak::scan(since) {
            Ok(leaks) if leaks.is_empty() => Outcome::Passed,
            Ok(leaks) => Outcome::Failed(leaks),
            Err(e) => Outcome::Failed(format!("{e:#}")),
        }
    };
    report.check(&format!("{CLOSING}{name}"), outcome)
}

/// Removes the module. The last reference may be dropped a moment after the
/// process that held it has ended, hence the patience.
fn remove_module() -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match delete_module(c"ashmem", DeleteModuleFlags::O_NONBLOCK) {
            Ok(()) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EBUSY) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10));
            }
            Err(e) => {
                return Err(format!(
                    "delete_module: {e}; something still holds the module:\n{}",
                    std::fs::read_to_string("/proc/modules").unwrap_or_default()
                ));
            }
        }
    }
}
