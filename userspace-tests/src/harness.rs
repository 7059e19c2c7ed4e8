// SPDX-License-Identifier: GPL-2.0-only

//! What a test is, and how one is run.
//!
//! A test is a function that returns `Ok`, an error, or [`skip`]. It runs in a
//! child process that leads a session of its own; its output is kept and shown
//! only if it fails. The child says through a pipe how the test ended. Nothing
//! else counts as passed: not exit code 0 without that report, and not a report
//! that comes twice.
//!
//! For the i386 tests the child becomes the 32-bit program, which does the same
//! from there on: see [`be_one`].

use std::any::Any;
use std::convert::Infallible;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::panic;
use std::path::Path;
use std::process;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::killpg;
use nix::sys::signal::sigaction;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::dup2_stderr;
use nix::unistd::dup2_stdin;
use nix::unistd::dup2_stdout;
use nix::unistd::execv;
use nix::unistd::fork;
use nix::unistd::pipe2;
use nix::unistd::setsid;

use crate::kmsg::KernelLog;

/// The body of a test.
pub type TestFn = fn() -> anyhow::Result<()>;

/// One test, as a table made by [`tests!`] lists it.
pub struct Test {
    /// `module::function`.
    pub name: &'static str,
    /// The body.
    pub run: TestFn,
    /// How long it may take on a stock kernel; see [`time_limit`].
    pub limit: Duration,
    /// What it shows of the ABI, as ids of driver/ABI.md.
    pub abi: &'static [&'static str],
}

/// Where the guest has its program built for i386.
const PROGRAM_32: &str = "/bin/guest32";

/// Who runs a test's body.
#[derive(Clone, Copy)]
pub enum Runner {
    /// This program.
    Here(TestFn),
    /// [`PROGRAM_32`], which has a test of this name as well.
    I386(&'static str),
}

/// One test to be run.
pub struct Case {
    /// What it is reported as.
    pub name: String,
    /// By whom it is run.
    pub runner: Runner,
    /// How long it may take on a stock kernel; see [`time_limit`].
    pub limit: Duration,
}

impl Case {
    /// A test that this program runs.
    pub fn here(test: &Test) -> Self {
        Self {
            name: test.name.into(),
            runner: Runner::Here(test.run),
            limit: test.limit,
        }
    }

    /// A test that the 32-bit program runs.
    pub fn i386(test: &Test) -> Self {
        Self {
            name: format!("i386::{}", test.name),
            runner: Runner::I386(test.name),
            limit: test.limit,
        }
    }
}

/// Makes a module's table: `tests! { some_fn => "size.unrounded" "size.frozen", slow_fn @ 60 }`,
/// with the ids of driver/ABI.md that a test stands for, and the seconds that it
/// may take on a stock kernel if they are not the usual 30.
macro_rules! tests {
    ($($name:ident $(@ $seconds:literal)? $(=> $($id:literal)+)?),* $(,)?) => {
        /// The tests of this module, in the order in which they run.
        pub const TESTS: &[$crate::harness::Test] = &[$(
            $crate::harness::Test {
                name: $crate::harness::short_name(
                    concat!(module_path!(), "::", stringify!($name)),
                ),
                run: $name,
                limit: $crate::harness::limit(&[$($seconds)?]),
                abi: &[$($($id),+)?],
            }
        ),*];
    };
}
pub(crate) use tests;

/// `guest::tests::pin::some_fn` as `pin::some_fn`. For [`tests!`].
pub const fn short_name(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut start = 0;
    let mut at = 0;
    // `str::find` and slicing by a range are not const in Rust 1.85.
    while at + 7 <= bytes.len() {
        if let (_, [b't', b'e', b's', b't', b's', b':', b':', ..]) = bytes.split_at(at) {
            start = at + 7;
            break;
        }
        at += 1;
    }
    match core::str::from_utf8(bytes.split_at(start).1) {
        Ok(name) => name,
        Err(_) => panic!("a path is UTF-8, and it was cut after a colon"),
    }
}

/// The limit that stands in the table, or the usual one. For [`tests!`].
pub const fn limit(seconds: &[u64]) -> Duration {
    match seconds {
        [s] => Duration::from_secs(*s),
        _ => Duration::from_secs(30),
    }
}

/// Why a test could not be run here.
#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test without a result: `return skip("this kernel has no …")`. Only
/// for what a kernel lacks.
pub fn skip<T>(reason: impl Into<String>) -> anyhow::Result<T> {
    Err(anyhow::Error::new(Skip(reason.into())))
}

/// Whether this kernel checks itself (KASAN, lockdep, kmemleak) and is slow
/// accordingly.
pub fn is_debug_kernel() -> bool {
    Path::new("/sys/kernel/debug/kmemleak").exists()
}

/// How long a test may take here, given what it may take on a stock kernel.
pub fn time_limit(stock: Duration) -> Duration {
    if is_debug_kernel() { stock * 4 } else { stock }
}

/// How a test ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not run, for this reason.
    Skipped(String),
    /// With this message, which may have several lines.
    Failed(String),
}

/// A test that is over.
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote to standard output and standard error, if that was kept.
    pub output: String,
}

/// Where the output of a child goes.
pub enum Sink<'a> {
    /// Kept, for [`Finished::output`].
    Keep,
    /// Straight into this file.
    Stream(&'a File),
}

/// Which processes are ended after a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// The test's process group.
    Group,
    /// All. For PID 1, which is not hit itself: a test that left processes in
    /// sessions of their own cannot keep the module busy.
    All,
}

/// Output beyond this much is dropped, oldest first.
const OUTPUT_KEPT: usize = 64 << 10;
/// How long processes may take to die after SIGKILL.
const DEATH: Duration = Duration::from_secs(10);

/// Runs a test in a child of its own, within a time limit, and ends what it
/// leaves behind. The kernel log is read meanwhile.
///
/// An error is one of the harness, not of the test.
pub fn supervise(
    runner: Runner,
    limit: Duration,
    sink: &Sink<'_>,
    sweep: Sweep,
    log: &mut KernelLog,
) -> anyhow::Result<Finished> {
    // What is still in a buffer here would be written by the child as well.
    io::stdout().flush()?;
    let (report_r, report_w) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    let (output_r, output_w) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    let output_w = match sink {
        Sink::Keep => output_w,
        Sink::Stream(file) => file.as_fd().try_clone_to_owned()?,
    };

    // SAFETY: This program has one thread, so the child may do everything.
    let child = match unsafe { fork() }.context("fork")? {
        ForkResult::Child => be_the_test(runner, output_w, report_w),
        ForkResult::Parent { child } => child,
    };
    drop(output_w);
    drop(report_w);
    let pidfd = pidfd_open(child).context("pidfd_open")?;
    let mut output = Stream::new(output_r)?;
    let mut report = Stream::new(report_r)?;

    let deadline = Instant::now() + limit;
    let ended = wait(&pidfd, deadline, &mut output, &mut report, log)?;
    let blocked = if ended {
        String::new()
    } else {
        who_waits_where()
    };
    let clean = end_processes(child, sweep);
    // A child that outlives SIGKILL hangs in the kernel.
    let status = match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(_) if ended => {
            bail!("PID {child} has ended and cannot be waited for")
        }
        Ok(status) if ended => Some(status),
        _ => None,
    };
    reap();
    output.read()?;
    report.read()?;
    log.drain()?;

    let mut outcome = match status {
        Some(status) => interpret(status, &report.data),
        None => Outcome::Failed(format!(
            "was still running after its limit of {} s; its processes:\n{blocked}",
            limit.as_secs()
        )),
    };
    if let Err(left) = clean {
        outcome = Outcome::Failed(format!(
            "left processes that SIGKILL did not end:\n{left}{}",
            match outcome {
                Outcome::Failed(why) => format!("\nand {why}"),
                _ => String::new(),
            }
        ));
    }
    Ok(Finished {
        outcome,
        output: String::from_utf8_lossy(&output.data).into_owned(),
    })
}

/// Waits for the child's end. False: the time was up first.
fn wait(
    pidfd: &OwnedFd,
    deadline: Instant,
    output: &mut Stream,
    report: &mut Stream,
    log: &mut KernelLog,
) -> anyhow::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(output.poll_fd());
        fds.extend(report.poll_fd());
        fds.push(PollFd::new(log.as_fd(), PollFlags::POLLIN));
        // Rounded up, or the last millisecond would be spent in a busy loop.
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        let ended = fds[0].any().unwrap_or(false);
        drop(fds);
        output.read()?;
        report.read()?;
        log.drain()?;
        if ended {
            return Ok(true);
        }
    }
}

/// The child's side: prepares everything, and runs the test or becomes the
/// program that does.
fn be_the_test(runner: Runner, output: OwnedFd, report: OwnedFd) -> ! {
    let ready = prepare_the_test(&output, &report);
    let result = match runner {
        Runner::Here(run) => ready.map(|()| run),
        Runner::I386(name) => ready
            .and_then(|()| become_32(name, &report))
            .map(|never| match never {}),
    };
    match result {
        Ok(run) => run_the_test(run, report),
        Err(e) => {
            tell(&report, b'F', &format!("could not be started: {e:#}"));
            process::exit(0)
        }
    }
}

/// Has the 32-bit program run this test and report it; comes back only if it
/// cannot.
fn become_32(name: &str, report: &OwnedFd) -> anyhow::Result<Infallible> {
    fcntl(report, FcntlArg::F_SETFD(FdFlag::empty())).context("FD_CLOEXEC")?;
    let program = CString::new(PROGRAM_32)?;
    let arguments = [
        program.clone(),
        CString::new("one")?,
        CString::new(name)?,
        CString::new(report.as_raw_fd().to_string())?,
    ];
    let Err(e) = execv(&program, &arguments);
    bail!(
        "cannot run {PROGRAM_32}: {e}. {}",
        match e {
            Errno::ENOENT =>
                "It is not in this guest: scripts/programs builds it, and the runner takes \
                 the folder where it lies as --files; make test does both",
            Errno::ENOEXEC => "This kernel has no CONFIG_IA32_EMULATION, or it is switched off",
            _ => "It is built by scripts/programs",
        }
    )
}

/// What the 32-bit program does: runs one of its tests and reports it to this
/// descriptor, in the process that [`supervise`] has prepared.
pub fn be_one(mut tests: impl Iterator<Item = &'static Test>, name: &str, report: RawFd) -> ! {
    // SAFETY: Whoever started this program has given the descriptor to it.
    let report = unsafe { OwnedFd::from_raw_fd(report) };
    // What the test starts must not be able to report.
    if let Err(e) = fcntl(&report, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        eprintln!("guest: descriptor {}: {e}", report.as_raw_fd());
        process::exit(1);
    }
    let refused = match tests.find(|test| test.name == name) {
        // Built for anything else it would pass, and show nothing.
        _ if cfg!(not(target_arch = "x86")) => "this program is not built for i386".into(),
        Some(test) => run_the_test(test.run, report),
        None => format!("this program has no test {name}"),
    };
    tell(&report, b'F', &refused);
    process::exit(0)
}

/// Runs the test and says how it ended.
fn run_the_test(run: TestFn, report: OwnedFd) -> ! {
    static PANIC: Mutex<String> = Mutex::new(String::new());

    let me = process::id();
    if let Err(e) = die_of_signals() {
        tell(&report, b'F', &format!("could not be started: {e:#}"));
        process::exit(0);
    }
    panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = PANIC.lock() {
            *message = info.to_string();
        }
        eprintln!("{info}");
    }));
    let result = panic::catch_unwind(run);
    if process::id() != me {
        // A forked child of the test came back out of it, which is a mistake
        // of the test; the report is its parent's.
        eprintln!("a child of the test returned from the test's function");
        process::abort();
    }
    match result {
        Ok(Ok(())) => tell(&report, b'P', ""),
        Ok(Err(e)) => match e.downcast_ref::<Skip>() {
            Some(Skip(reason)) => tell(&report, b'S', reason),
            None => tell(&report, b'F', &format!("{e:?}")),
        },
        Err(payload) => tell(&report, b'F', &panic_text(&PANIC, payload)),
    }
    process::exit(0)
}

/// What the panic hook noted, or else what was thrown.
fn panic_text(noted: &Mutex<String>, payload: Box<dyn Any + Send>) -> String {
    match noted.lock() {
        Ok(text) if !text.is_empty() => text.clone(),
        _ => match payload.downcast::<String>() {
            Ok(text) => format!("panicked: {text}"),
            Err(_) => "panicked".into(),
        },
    }
}

/// A session of its own, known standard streams and no other descriptor of the
/// harness: above all not the verdict's.
fn prepare_the_test(output: &OwnedFd, report: &OwnedFd) -> anyhow::Result<()> {
    setsid().context("setsid")?;
    dup2_stdin(File::open("/dev/null").context("/dev/null")?)?;
    dup2_stdout(output)?;
    dup2_stderr(output)?;
    let keep = report.as_raw_fd() as libc::c_uint;
    // SAFETY: What is closed is never used again: this process only runs the
    // test and leaves with `process::exit`, which drops nothing.
    Errno::result(unsafe { libc::close_range(3, keep - 1, 0) }).context("close_range")?;
    // SAFETY: As above.
    Errno::result(unsafe { libc::close_range(keep + 1, libc::c_uint::MAX, 0) })
        .context("close_range")?;
    Ok(())
}

/// Rust's runtime looks for a stack overflow in these signals, and survives one
/// that was only sent.
fn die_of_signals() -> anyhow::Result<()> {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: The default action is no function that could misbehave.
        unsafe { sigaction(signal, &default) }.context("sigaction")?;
    }
    Ok(())
}

/// Puts one report into the pipe: a letter, a text, a NUL.
fn tell(report: &OwnedFd, letter: u8, text: &str) {
    let mut message = vec![letter];
    // At once, whatever its length: less than PIPE_BUF is written as a whole.
    message.extend(text.bytes().filter(|b| *b != 0).take(libc::PIPE_BUF - 2));
    message.push(0);
    if let Err(e) = nix::unistd::write(report, &message) {
        eprintln!("cannot report the result: {e}");
        process::abort();
    }
}

/// What exit status and reports mean together.
fn interpret(status: WaitStatus, reports: &[u8]) -> Outcome {
    let reported = match reports.split_last() {
        None => None,
        Some((0, rest)) if !rest.contains(&0) => rest
            .split_first()
            .map(|(letter, text)| (*letter, String::from_utf8_lossy(text).into_owned())),
        Some(_) => return Outcome::Failed("reported its result more than once".into()),
    };
    // What it said is worth showing even if its end was wrong.
    let said = match &reported {
        Some((b'F', text)) => format!(" after it had failed: {text}"),
        Some(_) => " after it had reported its result".into(),
        None => String::new(),
    };
    match status {
        WaitStatus::Exited(_, 0) => match reported {
            Some((b'P', _)) => Outcome::Passed,
            Some((b'S', reason)) => Outcome::Skipped(reason),
            Some((b'F', text)) => Outcome::Failed(text),
            Some((other, _)) => Outcome::Failed(format!("reported an unknown {other:#x}")),
            None => Outcome::Failed(
                "ended with exit code 0 but without having reported its result".into(),
            ),
        },
        WaitStatus::Exited(_, code) => {
            Outcome::Failed(format!("ended with exit code {code}{said}"))
        }
        WaitStatus::Signaled(_, signal, _) => Outcome::Failed(format!("ended by {signal}{said}")),
        other => Outcome::Failed(format!("ended in an unexpected way: {other:?}{said}")),
    }
}

/// Ends what is left of a test. What does not end is described in the error.
fn end_processes(child: Pid, sweep: Sweep) -> Result<(), String> {
    let deadline = Instant::now() + DEATH;
    loop {
        let result = match sweep {
            Sweep::All => kill(Pid::from_raw(-1), Signal::SIGKILL),
            Sweep::Group => killpg(child, Signal::SIGKILL),
        };
        // ESRCH is what this loop waits for. The leader itself may remain as a
        // zombie for the caller to collect, and in a group it still counts.
        match result {
            Err(Errno::ESRCH) => return Ok(()),
            Err(e) => return Err(format!("kill: {e}")),
            Ok(()) => {}
        }
        let left = processes_left(sweep, child);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(who_waits_where());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes of a test that are not dead yet, zombies left out.
fn processes_left(sweep: Sweep, leader: Pid) -> Vec<i32> {
    user_processes()
        .into_iter()
        .filter(|p| match sweep {
            Sweep::All => true,
            Sweep::Group => p.group == leader.as_raw(),
        })
        .map(|p| p.pid)
        .collect()
}

/// A process as `/proc/PID/stat` shows it.
struct Process {
    pid: i32,
    group: i32,
}

/// Every process but PID 1, this one, kernel threads and the dead.
fn user_processes() -> Vec<Process> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name stands in parentheses and may contain any.
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        let (Some(state), Some(Ok(group)), Some(Ok(flags))) = (
            fields.first(),
            fields.get(2).map(|f| f.parse::<i32>()),
            fields.get(6).map(|f| f.parse::<u32>()),
        ) else {
            continue;
        };
        const PF_KTHREAD: u32 = 0x0020_0000;
        if pid != 1
            && pid != process::id() as i32
            && flags & PF_KTHREAD == 0
            && !matches!(*state, "Z" | "X")
        {
            found.push(Process { pid, group });
        }
    }
    found
}

/// For every user process: its name, its state, and where in the kernel it is.
fn who_waits_where() -> String {
    let mut text = String::new();
    for p in user_processes() {
        let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", p.pid));
        let status = of("status").unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap_or("?")
                .trim()
                .to_owned()
        };
        text += &format!("{} {}, state {}\n", p.pid, field("Name:"), field("State:"));
        for line in of("stack").unwrap_or_default().lines() {
            text += &format!("    {line}\n");
        }
    }
    text
}

/// Collects every dead child: as PID 1, also the orphans.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// The reading end of a pipe, and what has come out of it.
struct Stream {
    /// None: the end was reached.
    file: Option<File>,
    data: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd) -> anyhow::Result<Self> {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            file: Some(fd.into()),
            data: vec![],
        })
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        let fd: BorrowedFd<'_> = self.file.as_ref()?.as_fd();
        Some(PollFd::new(fd, PollFlags::POLLIN))
    }

    /// Takes what is there, without waiting.
    fn read(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        while let Some(file) = &mut self.file {
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(n) => self.data.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("reading from a test"),
            }
            if self.data.len() > 2 * OUTPUT_KEPT {
                self.data.drain(..self.data.len() - OUTPUT_KEPT);
            }
        }
        Ok(())
    }
}

/// A descriptor that becomes readable when the process ends.
fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: A plain system call that takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: The kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod unit {
    use super::*;

    const PID: Pid = Pid::from_raw(7);

    fn exited(code: i32, reports: &[u8]) -> Outcome {
        interpret(WaitStatus::Exited(PID, code), reports)
    }

    fn failure(outcome: Outcome) -> String {
        match outcome {
            Outcome::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_report_and_exit_0_decide() {
        assert_eq!(exited(0, b"P\0"), Outcome::Passed);
        assert_eq!(exited(0, b"Sno swap\0"), Outcome::Skipped("no swap".into()));
        assert_eq!(exited(0, b"F1 != 2\0"), Outcome::Failed("1 != 2".into()));
    }

    #[test]
    fn exit_0_without_a_report_is_a_failure() {
        assert!(failure(exited(0, b"")).contains("without having reported"));
    }

    #[test]
    fn a_report_without_its_end_or_a_second_one_is_a_failure() {
        assert!(failure(exited(0, b"P")).contains("more than once"));
        assert!(failure(exited(0, b"P\0P\0")).contains("more than once"));
    }

    #[test]
    fn a_report_does_not_make_up_for_a_wrong_end() {
        assert!(failure(exited(3, b"P\0")).contains("exit code 3"));
        let status = WaitStatus::Signaled(PID, Signal::SIGBUS, false);
        assert!(failure(interpret(status, b"P\0")).contains("SIGBUS"));
    }

    #[test]
    fn names_start_after_the_table_module() {
        assert_eq!(short_name("guest::tests::pin::f"), "pin::f");
        assert_eq!(short_name("guest::selftest::f"), "guest::selftest::f");
        assert_eq!(short_name("tests::f"), "f");
    }

    #[test]
    fn the_limit_is_30_s_unless_the_table_says_otherwise() {
        assert_eq!(limit(&[]).as_secs(), 30);
        assert_eq!(limit(&[60]).as_secs(), 60);
    }
}
