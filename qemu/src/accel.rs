// SPDX-License-Identifier: GPL-2.0-only

//! KVM or emulation.
//!
//! That `/dev/kvm` opens proves nothing: where KVM is a software flavour, a
//! guest hangs after the firmware, for ever. So KVM is used only where the
//! processor shows that it has virtualisation and a guest has really run.

use std::fs;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use crate::initramfs::Contents;
use crate::machine;
use crate::machine::Logs;
use crate::machine::Spec;
use crate::verdict;

/// How long the guest that tries KVM may take. It takes 2 seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor's.
    Kvm,
    /// QEMU's emulation, each virtual processor in a thread of its own.
    Tcg,
    /// The same with one virtual processor, whose clock counts instructions: one a nanosecond.
    Count,
}

impl Accel {
    /// QEMU's arguments for it.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            // Without 5-level paging: while the kernel sets the processor's features up, KASAN
            // asks for that one, and an interrupt at that moment sees it as not there.
            Self::Tcg => &[
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max,la57=off",
                "-smp",
                "2",
            ],
            // What else may differ from run to run is the same in all as well.
            Self::Count => &[
                "-accel",
                "tcg",
                "-cpu",
                "max,la57=off",
                "-smp",
                "1",
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "base=2026-01-01,clock=vm",
                "-seed",
                "1",
            ],
        }
    }
}

/// What the user says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// KVM if it works.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
    /// Emulation that counts instructions.
    Count,
}

/// Decides, with a probe boot of this kernel where only that can tell.
pub fn choose(choice: Choice, kernel: &Path, guest: &Path, logs: &Path) -> anyhow::Result<Accel> {
    match choice {
        Choice::Kvm => return Ok(Accel::Kvm),
        Choice::Tcg => return Ok(Accel::Tcg),
        Choice::Count => return Ok(Accel::Count),
        Choice::Auto => {}
    }
    let usable = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !usable || !has_virtualisation(&cpuinfo) {
        return Ok(Accel::Tcg);
    }
    let spec = Spec {
        kernel,
        contents: Contents {
            guest,
            module: None,
            busybox: None,
            files: None,
        },
        arguments: &["selftest", "pass"],
        accel: Accel::Kvm,
        measures: false,
        small: false,
        secure_boot: None,
        limit: PROBE_LIMIT,
    };
    let record = machine::run(&spec, &Logs::new(logs, "kvm-probe")?, &mut ())?;
    if verdict::judge(&record).good() {
        Ok(Accel::Kvm)
    } else {
        eprintln!("runner: KVM is there but a guest does not run in it; using emulation");
        Ok(Accel::Tcg)
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo.lines().filter(|l| l.starts_with("flags")).any(|l| {
        l.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_processor_with_virtualisation() {
        assert!(has_virtualisation(
            "processor\t: 0\nflags\t\t: fpu vmx sse\n"
        ));
        assert!(has_virtualisation("flags\t\t: fpu svm\n"));
    }

    #[test]
    fn one_without() {
        assert!(!has_virtualisation(
            "flags\t\t: fpu svm_lock\nbugs\t\t: vmx\n"
        ));
        assert!(!has_virtualisation(""));
    }
}
