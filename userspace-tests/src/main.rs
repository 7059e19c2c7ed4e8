// SPDX-License-Identifier: GPL-2.0-only

//! The test guest's one program. As PID 1 of an initramfs it sets the machine
//! up, loads the module, does what the kernel's command line says after `--`,
//! reports over a virtio-serial port and powers the machine off.
//!
//! - [`init`]: PID 1, from the first mount to the power-off
//! - [`harness`]: what a test is, and how one is run
//! - [`report`]: TAP and the verdict, on a channel of its own
//! - [`closing`]: the checks after the tests, with [`kmsg`] and [`kmemleak`]
//! - [`region`]: the device, as tests and demonstration use it
//! - [`fuse`], [`uring`]: what lets the kernel itself read and write pages, as
//!   tests use it, with the structures of [`kernel`]
//! - [`fuzz`]: random calls; [`stress`]: everything at once
//! - [`examples`]: the programs of client/examples/
//! - [`tests`], [`demo`], [`bench`], [`soak`], [`shell`], [`selftest`]: the modes

#[cfg(target_pointer_width = "64")]
mod bench;
mod closing;
mod demo;
mod examples;
mod fuse;
#[cfg(target_pointer_width = "64")]
mod fuzz;
mod growth;
mod harness;
mod init;
mod kernel;
mod kmemleak;
mod kmsg;
mod region;
mod report;
mod selftest;
mod shell;
#[cfg(target_pointer_width = "64")]
mod soak;
mod stress;
// A test that is in no table would never run: the compiler refuses it.
#[deny(dead_code)]
mod tests;
mod uring;

use std::env;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::process::id;

use ashmem::abi;
use clap::Parser;
use clap::Subcommand;

/// Tests, demonstration and shell of the /dev/ashmem test guest.
#[derive(Parser)]
#[command(name = "guest", version, about)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

/// What the machine is for this time.
#[derive(Subcommand)]
enum Mode {
    /// Run the tests, then the closing checks, and give the verdict.
    Test {
        /// Only the tests whose name contains this.
        #[arg(long)]
        filter: Option<String>,
        /// In the running system (`make shell`): TAP to standard output, no
        /// setting up, no module loaded or removed, no power-off.
        #[arg(long)]
        here: bool,
        /// The tests of signed modules instead, in a machine with Secure Boot.
        #[arg(long, conflicts_with = "here")]
        secure_boot: bool,
        /// The seed of random runs: of pin_model, one run with it and no other.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Make random calls, and check what they do.
    Fuzz {
        /// The first sequence of calls.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// That sequence only, and only so many calls of it.
        #[arg(long)]
        calls: Option<u64>,
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Print the names of the tests.
    List {
        /// Of those for a machine with Secure Boot.
        #[arg(long)]
        secure_boot: bool,
    },
    /// Print the ids of driver/ABI.md, each with a test that stands for it.
    Abi,
    /// Run one test and report it: how the 64-bit program starts the i386 tests.
    One {
        /// Its name, without `i386::`.
        name: String,
        /// The descriptor of the pipe that takes the report.
        #[arg(value_parser = clap::value_parser!(RawFd).range(3..))]
        report: RawFd,
    },
    /// Print the table of fault counts as the README has it.
    Counts,
    /// Measure what operations on memory cost, in instructions.
    Bench {
        /// In time instead.
        #[arg(long)]
        time: bool,
    },
    /// Show what the module is good for.
    Demo {
        /// By this program of [`examples`] instead.
        #[arg(long)]
        example: Option<String>,
    },
    /// Load the module a thousand times, then run rounds of random programs.
    Soak {
        /// How long the rounds go on.
        minutes: u64,
    },
    /// Look at a region that is standard input: what the stress program executes.
    #[command(hide = true)]
    Glance {
        /// Its number among the program's regions.
        region: usize,
    },
    /// A prompt on the serial line.
    Shell {
        /// Lines of the terminal at the other end.
        #[arg(long, default_value_t = 24)]
        rows: u16,
        /// Its columns.
        #[arg(long, default_value_t = 80)]
        cols: u16,
    },
    /// Misbehave in a known way, to test what watches this guest.
    Selftest {
        /// In which way.
        kind: selftest::Kind,
    },
}

fn main() -> ExitCode {
    // Only what unpacks the kernel knows this word; the kernel itself takes it for one of init's.
    let arguments = env::args_os().filter(|argument| argument != "nokaslr");
    let mode = Cli::parse_from(arguments).mode;
    if let Mode::Test {
        seed: Some(seed), ..
    } = mode
    {
        // Nobody has set it before.
        let _ = tests::pin_model::SEED.set(seed);
    }
    match mode {
        Mode::List { secure_boot } => {
            for test in tests::wanted(secure_boot) {
                println!("{}", test.name);
            }
            ExitCode::SUCCESS
        }
        Mode::Abi => {
            for test in tests::ALL.iter().copied().flatten() {
                for id in test.abi {
                    println!("{id} {}", test.name);
                }
            }
            ExitCode::SUCCESS
        }
        Mode::One { name, report } => {
            let tests = tests::ALL.iter().copied().flatten();
            harness::be_one(tests.chain(selftest::TESTS), &name, report)
        }
        Mode::Counts => {
            print!("{}", tests::counts::markdown());
            ExitCode::SUCCESS
        }
        Mode::Glance { region } => match stress::glance(region) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("guest: {e:#}");
                ExitCode::FAILURE
            }
        },
        mode if id() == 1 => init::main(mode),
        Mode::Test {
            filter, here: true, ..
        } => match init::test_here(filter.as_deref()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("guest: {e:#}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!(
                "guest: this is PID 1 of a test guest and not for a running system: \
                 it mounts, loads, and powers off. Start it with `make test`, `make run` or \
                 `make shell`; in that shell, use `guest test --here`."
            );
            ExitCode::FAILURE
        }
    }
}
