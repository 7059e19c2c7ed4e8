// SPDX-License-Identifier: GPL-2.0-only

//! PID 1: from the first mount to the power-off.
//!
//! What fails before the report has begun is written to the console, and the
//! machine powers off without a verdict, which the host counts as a failure.
//! What fails later is a failed test with a reason.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
#[cfg(target_pointer_width = "64")]
use ashmem_figures::Clock;
use nix::errno::Errno;
use nix::kmod::ModuleInitFlags;
use nix::kmod::finit_module;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sys::reboot::RebootMode;
use nix::sys::reboot::reboot;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;

use crate::Mode;
#[cfg(target_pointer_width = "64")]
use crate::bench;
use crate::closing;
use crate::demo;
use crate::examples;
#[cfg(target_pointer_width = "64")]
use crate::fuzz;
use crate::harness;
use crate::harness::Case;
use crate::harness::Outcome;
use crate::harness::Runner;
use crate::harness::Sink;
use crate::harness::Sweep;
use crate::harness::TestFn;
use crate::harness::supervise;
use crate::kmemleak;
use crate::kmsg::KernelLog;
use crate::region::NODE;
use crate::report::Report;
use crate::selftest;
use crate::shell;
#[cfg(target_pointer_width = "64")]
use crate::soak;
use crate::tests;

/// Where the host puts the module in the initramfs.
pub const MODULE: &str = "/lib/ashmem.ko";
/// The report goes here: the verdict must not share a line with the console.
const VERDICT_PORT: &str = "ashmem.verdict";
/// What people read.
const OUT_PORT: &str = "ashmem.out";
/// The kernel log, in full: the console only shows warnings, because a serial
/// line is slow without hardware virtualisation.
const KMSG_PORT: &str = "ashmem.kmsg";
/// Whether the kernel counts how often each lock is taken, where it can.
pub const LOCK_STAT: &str = "/proc/sys/kernel/lock_stat";
/// How long the benchmark may take, as its clock counts.
#[cfg(target_pointer_width = "64")]
const BENCH_LIMIT: Duration = Duration::from_secs(300);
/// How long the demonstration may take on a stock kernel.
const DEMO_LIMIT: Duration = Duration::from_secs(60);

/// How long one sequence of random calls may take on any kernel.
#[cfg(target_pointer_width = "64")]
const FUZZ_LIMIT: Duration = Duration::from_secs(100);

/// Does everything. Does not return.
pub fn main(mode: Mode) -> ! {
    if let Err(e) = run(mode) {
        eprintln!("guest: {e:#}");
    }
    power_off()
}

/// Ends the machine, in order.
pub fn power_off() -> ! {
    nix::unistd::sync();
    let Err(e): Result<Infallible, Errno> = reboot(RebootMode::RB_POWER_OFF);
    // PID 1 must not end, or the kernel panics, which would hide the reason.
    loop {
        eprintln!("guest: cannot power off: {e}");
        sleep(Duration::from_secs(60));
    }
}

/// Everything between boot and power-off.
fn run(mode: Mode) -> anyhow::Result<()> {
    mount_all()?;
    // SAFETY: This program has one thread.
    unsafe { env::set_var("PATH", "/bin") };
    // SAFETY: As above.
    unsafe { env::set_var("HOME", "/") };
    // A core file would fill the memory that the tests count.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("RLIMIT_CORE")?;

    if let Mode::Shell { rows, cols } = mode {
        load_module()?;
        return shell::run(rows, cols);
    }
    let mut report = Report::new(port(VERDICT_PORT)?)?;
    let mut log = KernelLog::open(Some(port(KMSG_PORT)?))?;
    if kmemleak::present() {
        kmemleak::only_when_asked()?;
    }
    // What counts locks switches it on.
    if Path::new(LOCK_STAT).exists() {
        fs::write(LOCK_STAT, "0").context(LOCK_STAT)?;
    }

    match mode {
        Mode::Test {
            filter,
            secure_boot,
            ..
        } => {
            let module = module_for_tests(&mut report, &mut log)?;
            if module {
                run_tests(
                    &mut report,
                    &mut log,
                    Sweep::All,
                    tests::wanted(secure_boot),
                    filter.as_deref(),
                )?;
            }
            closing::run(&mut report, &mut log, module)?;
        }
        #[cfg(target_pointer_width = "64")]
        Mode::Fuzz {
            seed,
            calls,
            minutes,
        } => {
            let time = Duration::from_secs(60 * minutes);
            // Nobody has set it before.
            let _ = fuzz::WANTED.set(fuzz::Wanted { seed, calls, time });
            // What is under way is ended by its own limit.
            let limit = time + 2 * FUZZ_LIMIT;
            let out = port(OUT_PORT)?;
            show("fuzz", fuzz::as_wanted, limit, &out, &mut report, &mut log)?;
        }
        #[cfg(target_pointer_width = "64")]
        Mode::Bench { time } => {
            if time {
                // Nobody has set it before.
                let _ = bench::CLOCK.set(Clock::Nanoseconds);
            }
            let limit = harness::time_limit(BENCH_LIMIT);
            let out = port(OUT_PORT)?;
            show("bench", bench::run, limit, &out, &mut report, &mut log)?;
        }
        Mode::Demo { example } => {
            let limit = harness::time_limit(DEMO_LIMIT);
            let mut out = port(OUT_PORT)?;
            let body = match example {
                None => demo::run,
                Some(name) => {
                    // Nobody has set it before.
                    let _ = examples::WANTED.set(name);
                    examples::show
                }
            };
            let module = show("demo", body, limit, &out, &mut report, &mut log)?;
            if module && !Path::new(NODE).exists() {
                writeln!(out, "  rmmod ashmem: done, and {NODE} is gone")?;
            }
            out.flush()?;
        }
        #[cfg(target_pointer_width = "64")]
        Mode::Soak { minutes } => {
            let mut out = port(OUT_PORT)?;
            let module = module_for_tests(&mut report, &mut log)?;
            if module {
                let time = Duration::from_secs(60 * minutes);
                soak::run(time, &mut report, &mut log, &mut out)?;
            }
            closing::run(&mut report, &mut log, module)?;
        }
        Mode::Selftest { kind } => return selftest::run(kind, &mut report, &mut log),
        _ => bail!("this mode is not for PID 1"),
    }
    report.plan()?;
    report.verdict()?;
    Ok(())
}

/// Loads the module, runs `body`, whose output is for people, and does the closing
/// checks. True: the module could be loaded.
fn show(
    name: &str,
    body: TestFn,
    limit: Duration,
    out: &File,
    report: &mut Report,
    log: &mut KernelLog,
) -> anyhow::Result<bool> {
    let module = module_for_tests(report, log)?;
    if module {
        log.now(name)?;
        let sink = Sink::Stream(out);
        let shown = supervise(Runner::Here(body), limit, &sink, Sweep::All, log)?;
        report.add(name, &shown)?;
    }
    closing::run(report, log, module)?;
    Ok(module)
}

/// `guest test --here`: the tests alone, in a system that runs already. True:
/// all went well.
pub fn test_here(filter: Option<&str>) -> anyhow::Result<bool> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let mut report = Report::new(stdout.into())?;
    let mut log = KernelLog::open(None)?;
    log.start_here();
    run_tests(
        &mut report,
        &mut log,
        Sweep::Group,
        tests::in_order(),
        filter,
    )?;
    closing::run(&mut report, &mut log, false)?;
    report.plan()?;
    report.verdict()
}

/// Runs the tests that the filter leaves, and reports each as it ends. If none
/// is left, that is a failure.
pub fn run_tests(
    report: &mut Report,
    log: &mut KernelLog,
    sweep: Sweep,
    tests: impl Iterator<Item = Case>,
    filter: Option<&str>,
) -> anyhow::Result<()> {
    let before = report.count();
    for test in tests.filter(|t| filter.is_none_or(|f| t.name.contains(f))) {
        log.now(&test.name)?;
        let limit = harness::time_limit(test.limit);
        let finished = supervise(test.runner, limit, &Sink::Keep, sweep, log)
            .with_context(|| format!("the harness failed at {}", test.name))?;
        report.add(&test.name, &finished)?;
    }
    if report.count() == before {
        report.check(
            "init: at least one test",
            Outcome::Failed(format!("no test ran; the filter is {filter:?}")),
        )?;
    }
    log.now("the closing checks")
}

/// Loads the module; that it fails is a failed test. True: it is loaded.
fn module_for_tests(report: &mut Report, log: &mut KernelLog) -> anyhow::Result<bool> {
    log.now("loading the module")?;
    let loaded = load_module();
    if let Err(e) = &loaded {
        let why = format!("{e:#}\n{}", log.tail()?);
        report.check("init: load the module", Outcome::Failed(why))?;
    }
    Ok(loaded.is_ok())
}

fn load_module() -> anyhow::Result<()> {
    let file = File::open(MODULE).context(MODULE)?;
    finit_module(&file, c"", ModuleInitFlags::empty())
        .with_context(|| format!("finit_module of {MODULE}"))
}

/// The file systems that programs expect.
fn mount_all() -> anyhow::Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/dev/shm"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(target).with_context(|| format!("mkdir {target}"))?;
        match mount(
            Some(kind),
            target,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        ) {
            // Some kernels mount devtmpfs by themselves.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(e) => return Err(e).with_context(|| format!("mount {kind} on {target}")),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).with_context(|| format!("symlink {link}"))?;
    }
    Ok(())
}

/// Opens a virtio-serial port by the name that the host gave it. They appear a
/// moment after boot.
pub fn port(name: &str) -> anyhow::Result<File> {
    const PORTS: &str = "/sys/class/virtio-ports";
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for entry in fs::read_dir(PORTS).into_iter().flatten().flatten() {
            let its_name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if its_name.trim_end() == name {
                let node = format!("/dev/{}", entry.file_name().to_string_lossy());
                return OpenOptions::new()
                    .write(true)
                    .open(&node)
                    .with_context(|| format!("{name}: {node}"));
            }
        }
        if Instant::now() > deadline {
            bail!("no virtio-serial port is named {name}: was this started by the runner?");
        }
        sleep(Duration::from_millis(5));
    }
}
