// SPDX-License-Identifier: GPL-2.0-only

//! The host's side of `make test`, `make run`, `make matrix`, `make bench`, `make soak`,
//! `make fuzz` and `make shell`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem_qemu::accel;
use ashmem_qemu::accel::Accel;
use ashmem_qemu::accel::Choice;
use ashmem_qemu::bench;
use ashmem_qemu::display;
use ashmem_qemu::display::Sum;
use ashmem_qemu::host_tests;
use ashmem_qemu::initramfs::Contents;
use ashmem_qemu::kernels;
use ashmem_qemu::kernels::Planned;
use ashmem_qemu::machine;
use ashmem_qemu::machine::Disk;
use ashmem_qemu::machine::Logs;
use ashmem_qemu::machine::Spec;
use ashmem_qemu::machine::Watch;
use ashmem_qemu::secure_boot;
use ashmem_qemu::secure_boot::Firmware;
use ashmem_qemu::secure_boot::Signed;
use ashmem_qemu::secure_boot::Trusts;
use ashmem_qemu::tap::Outcome;
use ashmem_qemu::verdict;
use ashmem_qemu::verdict::End;
use ashmem_qemu::verdict::Fault;
use ashmem_qemu::verdict::Judgement;
use ashmem_qemu::verdict::Record;
use ashmem_qemu::verdict::Reported;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

/// Boots kernels with the test guest in QEMU, and judges what they report.
#[derive(Parser)]
#[command(name = "runner", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the host's tests, then the guest's tests in every kernel given.
    Test {
        #[command(flatten)]
        common: Common,
        /// A kernel; may be given several times, and they run in this order.
        #[arg(long = "kernel", value_name = "NAME=KIMG,KO", required = true, value_parser = kernel)]
        kernels: Vec<Kernel>,
        /// Only the tests whose name contains this.
        #[arg(long, value_parser = filter)]
        filter: Option<String>,
        /// Run `cargo test` in this directory as well: that of a package or of
        /// the workspace.
        #[arg(long, value_name = "DIR")]
        host_tests: Option<PathBuf>,
        /// Boot the first kernel with Secure Boot as well, and have its module signed by this
        /// program: `scripts/sign-file` of the kernel's build tree.
        #[arg(long, value_name = "SIGN-FILE")]
        secure_boot: Option<PathBuf>,
        /// Where the logs go: NAME.console.log, NAME.kernel.log, NAME.tap and
        /// host.log. Two runs at once need two directories.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// Run the guest's tests in each of Debian's kernels, and make a table of what became of them.
    Matrix {
        #[command(flatten)]
        common: Common,
        /// A kernel and its module, or why there is none; once for each row.
        #[arg(long = "row", value_name = "ROW", required = true, value_parser = kernels::planned)]
        rows: Vec<Planned>,
        /// Only the tests whose name contains this.
        #[arg(long, value_parser = filter)]
        filter: Option<String>,
        /// Where the logs go, and kernels.json.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// Show what the module is good for.
    Demo {
        #[command(flatten)]
        common: Common,
        /// By this program of the guest's `/examples` instead.
        #[arg(long)]
        example: Option<String>,
        /// The kernel.
        #[arg(long, value_name = "NAME=KIMG,KO", value_parser = kernel)]
        kernel: Kernel,
        /// Where the logs go.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// Count the instructions of what is done to memory, and where KVM works measure the time, too.
    Bench {
        #[command(flatten)]
        common: Common,
        /// The kernel.
        #[arg(long, value_name = "NAME=KIMG,KO", value_parser = kernel)]
        kernel: Kernel,
        /// Where the logs go, and NAME.json.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
        /// The results of an older run: say what changed, and fail if something costs over
        /// 10 % more.
        #[arg(long, value_name = "JSON")]
        compare: Option<PathBuf>,
    },
    /// Put results into a work tree: JSON, pictures, and the README's table.
    Record {
        /// What gave them.
        what: Recorded,
        /// The results.
        results: PathBuf,
        /// The work tree.
        tree: PathBuf,
    },
    /// Load the module a thousand times, then run random programs in rounds.
    Soak {
        #[command(flatten)]
        common: Common,
        /// The kernel.
        #[arg(long, value_name = "NAME=KIMG,KO", value_parser = kernel)]
        kernel: Kernel,
        /// How long the rounds go on.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000), default_value_t = 60)]
        minutes: u64,
        /// Where the logs go.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// Make random calls in the guest.
    Fuzz {
        #[command(flatten)]
        common: Common,
        /// The kernel.
        #[arg(long, value_name = "NAME=KIMG,KO", value_parser = kernel)]
        kernel: Kernel,
        /// The first sequence of calls.
        #[arg(long)]
        seed: Option<u64>,
        /// That sequence only, and only so many calls of it.
        #[arg(long)]
        calls: Option<u64>,
        /// How long.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000), default_value_t = 10)]
        minutes: u64,
        /// Where the logs go.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// Start a machine from a disk, which does one step of the system's test and powers off.
    System {
        #[command(flatten)]
        common: Common,
        /// The kernel that says whether KVM works; with --initrd it is started, and not the
        /// disk's boot loader.
        #[arg(long, value_name = "KIMG")]
        kernel: PathBuf,
        /// What the kernel needs to find the disk.
        #[arg(long, value_name = "FILE")]
        initrd: Option<PathBuf>,
        /// What the step is called.
        #[arg(long)]
        name: String,
        /// The disk's image.
        #[arg(long, value_name = "IMAGE")]
        disk: PathBuf,
        /// A directory that the guest can mount by this tag.
        #[arg(long = "share", value_name = "TAG=DIR", value_parser = share)]
        shares: Vec<(String, PathBuf)>,
        /// Where the logs go.
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
    /// A prompt in the guest. `exit` ends it, and so does Ctrl-a x.
    Shell {
        #[command(flatten)]
        common: Common,
        /// The kernel.
        #[arg(long, value_name = "NAME=KIMG,KO", value_parser = kernel)]
        kernel: Kernel,
        /// A static busybox.
        #[arg(long, value_name = "PATH")]
        busybox: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Recorded {
    /// `bench`.
    Bench,
    /// `matrix`.
    Kernels,
}

#[derive(Args, Clone)]
struct Common {
    /// The guest's program, static.
    #[arg(long, value_name = "BIN")]
    guest: PathBuf,
    /// A directory of which everything goes into the guest's file system.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// What runs the guest's instructions.
    #[arg(long, value_enum, default_value_t)]
    accel: Choice,
    /// How long a machine may run. Usually 600, for a kernel named `debug`
    /// 2400, for a shell 12 hours; to soak, an hour longer than its rounds.
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// See [`Spec::measures`].
    #[arg(skip)]
    measures: bool,
    /// See [`Spec::small`].
    #[arg(skip)]
    small: bool,
    /// See [`Spec::secure_boot`].
    #[arg(skip)]
    secure_boot: Option<Firmware>,
}

impl Common {
    fn limit(&self, usual: u64) -> Duration {
        Duration::from_secs(self.limit.unwrap_or(usual))
    }

    fn limit_for(&self, kernel: &Kernel) -> Duration {
        self.limit(if kernel.name == "debug" { 2400 } else { 600 })
    }
}

/// A kernel and the module built for it.
#[derive(Clone, Debug)]
struct Kernel {
    name: String,
    image: PathBuf,
    module: PathBuf,
}

fn kernel(text: &str) -> anyhow::Result<Kernel> {
    let (name, files) = text.split_once('=').context("expected NAME=KIMG,KO")?;
    let (image, module) = files.split_once(',').context("expected NAME=KIMG,KO")?;
    ensure!(
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)),
        "a kernel's name becomes a file's: letters, digits, and -_."
    );
    Ok(Kernel {
        name: name.into(),
        image: image.into(),
        module: module.into(),
    })
}

fn share(text: &str) -> anyhow::Result<(String, PathBuf)> {
    let (tag, directory) = text.split_once('=').context("expected TAG=DIR")?;
    Ok((tag.into(), directory.into()))
}

/// It travels on a kernel's command line, where blanks and quotes would not.
fn filter(text: &str) -> anyhow::Result<String> {
    ensure!(
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b)),
        "a test's name has letters, digits, _ and : only"
    );
    Ok(text.into())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Test {
            common,
            kernels,
            filter,
            host_tests,
            secure_boot,
            logs,
        } => test(
            &common,
            &kernels,
            filter.as_deref(),
            host_tests.as_deref(),
            secure_boot.as_deref(),
            &logs,
        ),
        Verb::Matrix {
            common,
            rows,
            filter,
            logs,
        } => matrix(&common, &rows, filter.as_deref(), &logs),
        Verb::Demo {
            common,
            example,
            kernel,
            logs,
        } => demo(&common, example.as_deref(), &kernel, &logs),
        Verb::Bench {
            common,
            kernel,
            logs,
            compare,
        } => measure(&common, &kernel, &logs, compare.as_deref()),
        Verb::Record {
            what,
            results,
            tree,
        } => match what {
            Recorded::Bench => bench::record(&results, &tree),
            Recorded::Kernels => kernels::record(&results, &tree),
        }
        .map(|()| true),
        Verb::Soak {
            common,
            kernel,
            minutes,
            logs,
        } => soak(&common, &kernel, minutes, &logs),
        Verb::Fuzz {
            common,
            kernel,
            seed,
            calls,
            minutes,
            logs,
        } => fuzz(&common, &kernel, seed, calls, minutes, &logs),
        Verb::System {
            common,
            kernel,
            initrd,
            name,
            disk,
            shares,
            logs,
        } => system(
            &common,
            &kernel,
            initrd.as_deref(),
            &name,
            &disk,
            &shares,
            &logs,
        ),
        Verb::Shell {
            common,
            kernel,
            busybox,
        } => shell(&common, &kernel, &busybox),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("runner: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the machine with Secure Boot is called.
const SECURE: &str = "secure";
/// Kernels that a firmware is not to start: signed by somebody whom it does not trust, and
/// changed after it was signed.
const KERNELS_REFUSED: [&str; 2] = [
    "secure_boot::kernel_of_another_key_does_not_start",
    "secure_boot::changed_kernel_does_not_start",
];

/// What of the tests with Secure Boot the filter leaves.
struct Secure<'a> {
    /// What signs modules. None: none of these tests is to run.
    sign_file: Option<&'a Path>,
    /// Of [`KERNELS_REFUSED`].
    kernels: Vec<&'a str>,
    /// Tests in the guest.
    in_guest: usize,
}

impl Secure<'_> {
    fn wanted(&self) -> usize {
        match self.sign_file {
            Some(_) => self.kernels.len() + self.in_guest,
            None => 0,
        }
    }
}

/// Runs all tests. True: some passed, and none failed.
fn test(
    common: &Common,
    kernels: &[Kernel],
    filter: Option<&str>,
    host_tests: Option<&Path>,
    sign_file: Option<&Path>,
    logs: &Path,
) -> anyhow::Result<bool> {
    // Asked before anything boots, so that a filter that means host tests only
    // costs no boot.
    let matches = |name: &&str| filter.is_none_or(|f| name.contains(f));
    let names = guest_tests(&common.guest, &["list"])?;
    let wanted = names.lines().filter(matches).count();
    let names = guest_tests(&common.guest, &["list", "--secure-boot"])?;
    let secure = Secure {
        sign_file,
        kernels: KERNELS_REFUSED.into_iter().filter(matches).collect(),
        in_guest: names.lines().filter(matches).count(),
    };
    if filter.is_none() {
        ensure!(wanted > 0, "{} has no tests", common.guest.display());
    }
    fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;

    let mut sum = Sum::default();
    if let Some(directory) = host_tests {
        test_on_the_host(common, &kernels[0], filter, directory, logs, &mut sum)?;
    }
    if wanted + secure.wanted() + sum.counts().total() == 0 {
        bail!(
            "no test's name contains `{}`; `guest list` and `cargo test -- --list` print the names",
            filter.unwrap_or_default()
        );
    }
    for (index, kernel) in kernels.iter().enumerate() {
        if wanted == 0 {
            display::step(
                &kernel.name,
                "not booted: none of its tests has such a name",
            );
        } else {
            test_in_a_guest(common, kernel, filter, logs, &mut sum)?;
        }
        if index == 0 && secure.wanted() > 0 {
            if let Err(e) = test_with_secure_boot(common, kernel, &secure, filter, logs, &mut sum) {
                println!("{SECURE:<6} FAILED {e:#}");
                sum.add(SECURE, &[], [format!("{e:#}")].into_iter());
            }
        }
    }
    sum.print();
    Ok(sum.counts().failed == 0 && sum.counts().passed > 0)
}

fn test_on_the_host(
    common: &Common,
    kernel: &Kernel,
    filter: Option<&str>,
    directory: &Path,
    logs: &Path,
    sum: &mut Sum,
) -> anyhow::Result<()> {
    const PLACE: &str = "host";

    let log = logs.join("host.log");
    let begun = Instant::now();
    display::step(PLACE, "cargo test");
    // For the tests that boot a guest.
    let mut environment: Vec<(&str, &OsStr)> = vec![
        ("ASHMEM_GUEST", common.guest.as_os_str()),
        ("ASHMEM_KIMG", kernel.image.as_os_str()),
    ];
    if let Some(files) = &common.files {
        environment.push(("ASHMEM_FILES", files.as_os_str()));
    }
    let tests = host_tests::run(directory, filter, &environment, &log, |result| {
        display::result(PLACE, &result.name, &result.outcome, Duration::ZERO);
    })?;
    for result in tests
        .results
        .iter()
        .filter(|r| r.outcome == Outcome::Failed)
    {
        println!("{PLACE:<6} {} failed:", result.name);
        for line in &result.diagnostics {
            display::diagnostic(line);
        }
    }
    let mut fault = tests.fault.clone();
    if fault.is_none() && filter.is_none() && tests.results.is_empty() {
        fault = Some("cargo test ran no test".into());
    }
    if let Some(fault) = &fault {
        println!("{PLACE:<6} FAILED {fault}");
        display::tail("what cargo said", &log, 60);
    }
    display::step(
        PLACE,
        &format!(
            "{} tests in {:.1} s",
            tests.results.len(),
            begun.elapsed().as_secs_f64()
        ),
    );
    sum.add(PLACE, &tests.results, fault.into_iter());
    Ok(())
}

fn test_in_a_guest(
    common: &Common,
    kernel: &Kernel,
    filter: Option<&str>,
    logs: &Path,
    sum: &mut Sum,
) -> anyhow::Result<Judgement> {
    let mut arguments = vec!["test"];
    if common.secure_boot.is_some() {
        arguments.push("--secure-boot");
    }
    if let Some(filter) = filter {
        arguments.extend(["--filter", filter]);
    }
    let place = kernel.name.as_str();
    let begun = Instant::now();
    let mut live = display::Live::new(place);
    let limit = common.limit_for(kernel);
    let (judgement, logs) = boot(common, kernel, &arguments, limit, logs, &mut live)?;
    if !judgement.faults.is_empty() {
        display::faults(place, &judgement.faults, &logs);
    }
    if !judgement.good() {
        display::where_the_logs_are(&logs);
    }
    display::step(
        place,
        &format!(
            "{} results in {:.1} s, boot included",
            judgement.results.len(),
            begun.elapsed().as_secs_f64()
        ),
    );
    let faults = judgement.faults.iter().map(Fault::to_string);
    sum.add(place, &judgement.results, faults);
    Ok(judgement)
}

/// Runs the guest's tests in each kernel that has a module. True: some passed, and none failed.
fn matrix(
    common: &Common,
    planned: &[Planned],
    filter: Option<&str>,
    logs: &Path,
) -> anyhow::Result<bool> {
    let mut sum = Sum::default();
    let mut rows = vec![];
    for plan in planned {
        let outcome = match &plan.built {
            Err(outcome) => outcome.clone(),
            Ok((image, module)) => {
                let kernel = Kernel {
                    name: plan.name(),
                    image: image.clone(),
                    module: module.clone(),
                };
                kernels::Outcome::of(&test_in_a_guest(common, &kernel, filter, logs, &mut sum)?)
            }
        };
        rows.push(plan.row(outcome)?);
    }
    sum.print();
    std::fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let json = logs.join("kernels.json");
    kernels::write(&rows, &json)?;
    print!("\n{}", kernels::markdown(&rows));
    println!("\nthe rows, for programs: {}", json.display());
    Ok(kernels::good(&rows))
}

/// Runs the tests with Secure Boot.
fn test_with_secure_boot(
    common: &Common,
    kernel: &Kernel,
    secure: &Secure<'_>,
    filter: Option<&str>,
    logs: &Path,
    sum: &mut Sum,
) -> anyhow::Result<()> {
    let sign_file = secure.sign_file.context("nothing to sign modules with")?;
    let signed = Signed::new(&kernel.image, &kernel.module, sign_file)?;
    let trusting = |kernels| Common {
        secure_boot: Some(signed.firmware(kernels)),
        files: Some(signed.files()),
        ..common.clone()
    };
    let kernel = Kernel {
        name: SECURE.into(),
        image: kernel.image.clone(),
        module: signed.module(),
    };
    let untrusted = Kernel {
        name: format!("{SECURE}-untrusted"),
        ..kernel.clone()
    };
    let changed = Kernel {
        name: format!("{SECURE}-changed"),
        image: signed.changed_kernel(),
        ..kernel.clone()
    };
    for (name, kernel, trusts) in [
        (KERNELS_REFUSED[0], &untrusted, Trusts::ModulesOnly),
        (KERNELS_REFUSED[1], &changed, Trusts::Kernels),
    ] {
        if !secure.kernels.contains(&name) {
            continue;
        }
        let begun = Instant::now();
        let limit = common.limit_for(kernel);
        // If it starts after all, that is seen soon.
        let arguments = ["selftest", "pass"];
        let (record, logs) = run(&trusting(trusts), kernel, &arguments, limit, logs, &mut ())?;
        let refused = secure_boot::refused(&record);
        let outcome = match refused {
            Ok(()) => Outcome::Passed,
            Err(_) => Outcome::Failed,
        };
        display::result(SECURE, name, &outcome, begun.elapsed());
        if let Err(why) = refused {
            display::diagnostic(&why.to_string());
            display::tail("the console", &logs.console, 20);
        }
        let result = Reported {
            name: name.into(),
            outcome,
            diagnostics: vec![],
        };
        sum.add(SECURE, &[result], [].into_iter());
    }
    if secure.in_guest > 0 {
        test_in_a_guest(&trusting(Trusts::Kernels), &kernel, filter, logs, sum)?;
    }
    Ok(())
}

/// What a machine takes beside the rounds of a soak: a thousand loads, and what may be slow.
const BESIDE_ROUNDS: u64 = 3600;

/// Soaks. True: nothing was found.
fn soak(common: &Common, kernel: &Kernel, minutes: u64, logs: &Path) -> anyhow::Result<bool> {
    let limit = common.limit(minutes * 60 + BESIDE_ROUNDS);
    display::step(
        &kernel.name,
        &format!(
            "its lives, then rounds for {minutes} min; a line for each. The logs: {}",
            logs.display()
        ),
    );
    show(common, kernel, &["soak", &minutes.to_string()], limit, logs)
}

/// Shows what a guest has for people. True: it went well, and the module left cleanly.
fn show(
    common: &Common,
    kernel: &Kernel,
    arguments: &[&str],
    limit: Duration,
    logs: &Path,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let (judgement, logs) = boot(common, kernel, arguments, limit, logs, &mut display::Stream)?;
    for result in &judgement.results {
        if result.outcome == Outcome::Failed {
            display::result(&kernel.name, &result.name, &result.outcome, Duration::ZERO);
            for line in &result.diagnostics {
                display::diagnostic(line);
            }
        }
    }
    if !judgement.faults.is_empty() {
        display::faults(&kernel.name, &judgement.faults, &logs);
    }
    if judgement.good() {
        println!(
            "\nThe module was removed again, the kernel log is clean, and the machine powered \
             off, {:.1} s after it was started.",
            begun.elapsed().as_secs_f64()
        );
    } else {
        display::where_the_logs_are(&logs);
    }
    Ok(judgement.good())
}

/// Shows what the module is good for, or an example. True: it went well.
fn demo(
    common: &Common,
    example: Option<&str>,
    kernel: &Kernel,
    logs: &Path,
) -> anyhow::Result<bool> {
    let mut arguments = vec!["demo"];
    arguments.extend(
        example
            .map(|name| ["--example", name])
            .into_iter()
            .flatten(),
    );
    let common = Common {
        // It shows what becomes of a cache where memory is short.
        small: example == Some("cache"),
        ..common.clone()
    };
    let limit = common.limit_for(kernel);
    show(&common, kernel, &arguments, limit, logs)
}

/// Measures. True: it went well, and nothing costs much more than in an older run.
fn measure(
    common: &Common,
    kernel: &Kernel,
    logs: &Path,
    compare: Option<&Path>,
) -> anyhow::Result<bool> {
    let old = compare.map(bench::read).transpose()?;
    let wanted = Common {
        measures: true,
        ..common.clone()
    };
    let counted = Common {
        accel: Choice::Count,
        ..wanted.clone()
    };
    let limit = common.limit_for(kernel);
    let mut good = show(&counted, kernel, &["bench"], limit, logs)?;
    let json = Logs::new(logs, &kernel.name)?.data;
    if good {
        let results = bench::read(&json)?;
        print!("{}", bench::table::text(&results));
        if let Some(old) = old {
            let changes = bench::compare::changes(&old, &results)?;
            print!("{changes}");
            good = changes.good();
        }
    }
    // The time says something only where the processor runs the guest itself.
    let accel = accel::choose(common.accel, &kernel.image, &common.guest, logs)?;
    if good && accel == Accel::Kvm {
        let timed = Kernel {
            name: format!("{}-time", kernel.name),
            ..kernel.clone()
        };
        good = show(&wanted, &timed, &["bench", "--time"], limit, logs)?;
        if good {
            let json = Logs::new(logs, &timed.name)?.data;
            print!("{}", bench::table::text(&bench::read(&json)?));
        }
    }
    println!("\nthe results, for programs: {}", json.display());
    Ok(good)
}

/// Makes random calls. True: nothing was found.
fn fuzz(
    common: &Common,
    kernel: &Kernel,
    seed: Option<u64>,
    calls: Option<u64>,
    minutes: u64,
    logs: &Path,
) -> anyhow::Result<bool> {
    let mut arguments = vec!["fuzz".into(), "--minutes".into(), minutes.to_string()];
    for (name, value) in [("--seed", seed), ("--calls", calls)] {
        if let Some(value) = value {
            arguments.extend([name.into(), value.to_string()]);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let limit = common.limit(minutes * 60 + BESIDE_ROUNDS);
    show(common, kernel, &arguments, limit, logs)
}

/// Runs one machine with the module and judges it.
fn boot(
    common: &Common,
    kernel: &Kernel,
    arguments: &[&str],
    limit: Duration,
    logs: &Path,
    watch: &mut dyn Watch,
) -> anyhow::Result<(Judgement, Logs)> {
    let (record, logs) = run(common, kernel, arguments, limit, logs, watch)?;
    Ok((verdict::judge(&record), logs))
}

/// Runs one machine with the module.
fn run(
    common: &Common,
    kernel: &Kernel,
    arguments: &[&str],
    limit: Duration,
    logs: &Path,
    watch: &mut dyn Watch,
) -> anyhow::Result<(Record, Logs)> {
    let spec = Spec {
        kernel: &kernel.image,
        contents: Contents {
            guest: &common.guest,
            module: Some(&kernel.module),
            busybox: None,
            files: common.files.as_deref(),
        },
        arguments,
        accel: accel::choose(common.accel, &kernel.image, &common.guest, logs)?,
        measures: common.measures,
        small: common.small,
        secure_boot: common.secure_boot.as_ref(),
        limit,
    };
    let logs = Logs::new(logs, &kernel.name)?;
    Ok((machine::run(&spec, &logs, watch)?, logs))
}

/// Does one step in a machine of its own. True: the step's program said so, and the kernel showed
/// no trouble.
fn system(
    common: &Common,
    kernel: &Path,
    initrd: Option<&Path>,
    name: &str,
    disk: &Path,
    shares: &[(String, PathBuf)],
    logs: &Path,
) -> anyhow::Result<bool> {
    /// What the guest reports when all went well, and nothing else.
    const DONE: &str = "step: done\n";

    let shares: Vec<(&str, &Path)> = shares
        .iter()
        .map(|(tag, directory)| (tag.as_str(), directory.as_path()))
        .collect();
    let logs = Logs::new(logs, name)?;
    let probe = logs.console.with_file_name("probe");
    let disk = Disk {
        image: disk,
        kernel: initrd.map(|initrd| (kernel, initrd)),
        shares: &shares,
        accel: accel::choose(common.accel, kernel, &common.guest, &probe)?,
        limit: common.limit(2 * 3600),
    };
    let record = machine::run_disk(&disk, &logs, &mut display::Stream)?;
    let mut wrong = vec![];
    if record.end != End::PowerOff {
        wrong.push(Fault::End(record.end).to_string());
    }
    if record.report != DONE {
        wrong.push(match record.report.trim() {
            "" => "the step did not end".into(),
            report => format!("the step ended with `{report}`"),
        });
    }
    let trouble = record.console.lines().find(|l| verdict::is_trouble(l));
    wrong.extend(trouble.map(|line| Fault::Console(line.into()).to_string()));
    for line in &wrong {
        println!("{name} FAILED {line}");
    }
    if !wrong.is_empty() {
        display::tail("the console", &logs.console, 40);
        display::where_the_logs_are(&logs);
    }
    Ok(wrong.is_empty())
}

fn shell(common: &Common, kernel: &Kernel, busybox: &Path) -> anyhow::Result<bool> {
    let (rows, cols) = display::terminal_size().unwrap_or((24, 80));
    let (rows, cols) = (rows.to_string(), cols.to_string());
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let spec = Spec {
        kernel: &kernel.image,
        contents: Contents {
            guest: &common.guest,
            module: Some(&kernel.module),
            busybox: Some(busybox),
            files: common.files.as_deref(),
        },
        arguments: &["shell", "--rows", &rows, "--cols", &cols],
        accel: accel::choose(common.accel, &kernel.image, &common.guest, scratch.path())?,
        measures: common.measures,
        small: common.small,
        secure_boot: None,
        limit: common.limit(12 * 3600),
    };
    println!(
        "Booting {}; Ctrl-a x ends it at any time.",
        kernel.image.display()
    );
    machine::run_interactive(&spec)?;
    Ok(true)
}

/// The names of the guest's tests, a line each, from the guest's own table: its program is
/// static and runs here as well.
fn guest_tests(guest: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(guest)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", guest.display()))?;
    ensure!(
        output.status.success(),
        "`{} list` ended with {}",
        guest.display(),
        output.status
    );
    String::from_utf8(output.stdout).context("the names of the tests")
}
