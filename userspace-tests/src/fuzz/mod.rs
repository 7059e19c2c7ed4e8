// SPDX-License-Identifier: GPL-2.0-only

//! Random calls, with arguments that are right, at a limit, or wrong.
//!
//! A *sequence* is what one seed gives. Most are of one process that alone has
//! its regions: a model says of each call what it has to answer, and of each
//! page what must be in it. In every fourth several processes of two threads
//! share regions and do the same at once, one of them may be killed, and the
//! calls may answer what driver/ABI.md and the manual pages admit.
//! What else is wrong the kernel finds itself: KASAN, lockdep, the search of
//! its log.
//!
//! The first of these gives the same calls again, whatever happened before:
//! a run takes sequence after sequence, and a finding names its own.
//!
//! - [`worker`]: makes the calls and judges the answers
//! - [`model`]: what is known of a region
//! - [`touch`]: touches memory that may not be there
//! - [`coverage`]: which code of the driver was reached

mod coverage;
mod model;
mod touch;
mod worker;

use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::mmap_anonymous;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitStatus;

use crate::harness::time_limit;
use crate::region::Mapping;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::Child;
use crate::tests::process::spawn;
use coverage::Coverage;
use worker::Worker;

/// The first sequence of a run for which nobody chose one.
pub const SEED: u64 = 1;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Calls of a sequence of one process.
const CALLS: u64 = 400;
/// Calls of each thread, where there are several.
const CALLS_OF_MANY: u64 = 150;
/// Every so many sequences one is of several processes.
const MANY_EVERY: u64 = 4;
/// Processes and threads of each.
const PROCESSES: usize = 3;
const THREADS: usize = 2;
/// Regions that they share.
const SHARED_REGIONS: usize = 3;
/// A sequence that takes longer hangs; on a stock kernel.
const PATIENCE: Duration = Duration::from_secs(20);

/// The last calls of a worker that are kept, and bytes of each.
const KEPT: usize = 16;
const LINE: usize = 240;
/// Bytes of what a finding says.
const TEXT: usize = 2000;

/// What `guest fuzz` shall do.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The first sequence.
    pub seed: u64,
    /// Only that one, and only so many calls of each thread.
    pub calls: Option<u64>,
    /// How long.
    pub time: Duration,
}

/// That, if it is not what the tests do.
pub static WANTED: OnceLock<Wanted> = OnceLock::new();

/// What a run did without a finding.
pub struct Sum {
    seeds: (u64, u64),
    calls: u64,
    succeeded: u64,
    coverage: Option<usize>,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.seeds;
        write!(
            f,
            "sequences {first} to {last}: {} calls, of which {} succeeded",
            self.calls, self.succeeded
        )?;
        match self.coverage {
            Some(places) => write!(f, "; {places} places of the driver were reached"),
            None => write!(f, "; this kernel does not tell which code was reached"),
        }
    }
}

/// Text that one process writes and another one reads.
struct Text<const N: usize>([AtomicU8; N]);

impl<const N: usize> Text<N> {
    /// As much of it as there is room for.
    fn set(&self, text: &str) {
        let bytes = text.bytes().take(N - 1).chain([0]);
        for (to, byte) in self.0.iter().zip(bytes) {
            to.store(byte, Relaxed);
        }
    }

    fn get(&self) -> String {
        let bytes = self.0.iter().map(|byte| byte.load(Relaxed));
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What a worker did last.
struct Log {
    calls: AtomicU64,
    lines: [Text<LINE>; KEPT],
}

/// What all processes of a run write to: plain memory, all zeros at first.
struct Board {
    calls: AtomicU64,
    succeeded: AtomicU64,
    found: AtomicBool,
    finding: Text<TEXT>,
    logs: [Log; PROCESSES * THREADS],
}

/// [`Board`], where forked processes have it as well.
struct Shared(Mapping);

// SAFETY: All of a board is atomic.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(shared_memory(size_of::<Board>())?))
    }

    fn board(&self) -> &Board {
        // SAFETY: As large, aligned to pages, and mapped as long as `self`; zeros make a sound one,
        // and all of it is atomic.
        unsafe { &*(self.0.base() as *const Board) }
    }

    /// Notes what a worker is about to do.
    fn note(&self, worker: usize, call: u64, what: &str) {
        let log = &self.board().logs[worker];
        log.lines[call as usize % KEPT].set(what);
        log.calls.store(call + 1, Relaxed);
    }

    /// Its last calls, at most [`KEPT`].
    fn last_calls(&self, worker: usize, count: u64) -> String {
        let log = &self.board().logs[worker];
        let calls = log.calls.load(Relaxed);
        let mut text = String::new();
        for call in calls.saturating_sub(count)..calls {
            let what = log.lines[call as usize % KEPT].get();
            text += &format!("  {worker}: call {call}: {what}\n");
        }
        text
    }

    /// Writes down what is wrong, if nothing was before.
    fn find(&self, what: &str) {
        if !self.board().found.swap(true, Relaxed) {
            self.board().finding.set(what);
        }
    }
}

/// Zeroed memory that forked processes share.
fn shared_memory(len: usize) -> anyhow::Result<Mapping> {
    let length = NonZeroUsize::new(len).context("no length")?;
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe { mmap_anonymous(None, length, RW, MapFlags::MAP_SHARED) }?;
    // SAFETY: It was just made, and nobody else knows of it.
    Ok(unsafe { Mapping::from_raw(base, len) })
}

/// What `guest fuzz` does.
pub fn as_wanted() -> anyhow::Result<()> {
    let wanted = WANTED.get().context("nobody said what is wanted")?;
    println!("{}", run_as(*wanted)?);
    Ok(())
}

/// Sequences from `seed` on, until the time is up. An error is a finding.
pub fn run(seed: u64, time: Duration) -> anyhow::Result<Sum> {
    run_as(Wanted {
        seed,
        calls: None,
        time,
    })
}

/// As [`run`], or one sequence only.
pub fn run_as(wanted: Wanted) -> anyhow::Result<Sum> {
    let begin = Instant::now();
    let shared = Shared::new()?;
    let coverage = Coverage::new()?;
    // From here on it writes no line for each time.
    fs::write(DROP_CACHES, "4").context(DROP_CACHES)?;
    let mut seed = wanted.seed;
    let mut said = begin;
    loop {
        sequence(seed, wanted.calls, &shared, coverage.as_ref())?;
        let sum = Sum {
            seeds: (wanted.seed, seed),
            calls: shared.board().calls.load(Relaxed),
            succeeded: shared.board().succeeded.load(Relaxed),
            coverage: coverage.as_ref().map(Coverage::count),
        };
        if wanted.calls.is_some() || begin.elapsed() > wanted.time {
            return Ok(sum);
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!("{:4} s  {sum}", begin.elapsed().as_secs());
        }
        seed = seed.wrapping_add(1);
    }
}

/// Runs what a seed gives.
fn sequence(
    seed: u64,
    calls: Option<u64>,
    shared: &Shared,
    coverage: Option<&Coverage>,
) -> anyhow::Result<()> {
    // Shown on the console, for when nobody can report any more.
    let note = format!("<4>guest: random calls, sequence {seed}\n");
    fs::write("/dev/kmsg", note).context("cannot write to /dev/kmsg")?;
    for log in &shared.board().logs {
        log.calls.store(0, Relaxed);
    }
    let many = seed % MANY_EVERY == MANY_EVERY - 1;
    let usual = if many { CALLS_OF_MANY } else { CALLS };
    let calls = calls.unwrap_or(usual);
    // No random number of its own: a replay makes the same choice.
    let killed = many && seed % (2 * MANY_EVERY) == MANY_EVERY - 1;

    let started = if many {
        start_many(seed, calls, shared, coverage)
    } else {
        let alone = || one_worker(seed, 0, calls, vec![], None, shared, coverage);
        spawn(|| in_a_process(shared, alone)).map(|child| vec![child])
    }?;
    if killed {
        // Somewhere in the middle of it.
        thread::sleep(Duration::from_millis(seed % 64));
        if let Some(child) = started.last() {
            kill(child.pid(), Signal::SIGKILL).context("kill")?;
        }
    }
    let last = started.len() - 1;
    let mut ends = vec![];
    for (process, child) in started.into_iter().enumerate() {
        match child.wait()? {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Signaled(_, Signal::SIGKILL, _) if killed && process == last => {}
            WaitStatus::Signaled(_, Signal::SIGALRM, _) => {
                ends.push(format!("process {process} hung"));
            }
            other => ends.push(format!("process {process} ended so: {other:?}")),
        }
    }
    if !shared.board().found.load(Relaxed) && ends.is_empty() {
        return Ok(());
    }
    // A report has no room for more.
    let shown = if many { KEPT as u64 / 4 } else { KEPT as u64 };
    let logs: String = (0..PROCESSES * THREADS)
        .map(|worker| shared.last_calls(worker, shown))
        .collect();
    let calls = shared
        .board()
        .logs
        .iter()
        .map(|log| log.calls.load(Relaxed));
    let most = calls.max().unwrap_or(0);
    bail!(
        "sequence {seed}: {}{}\nagain: make fuzz SEED={seed} CALLS={most}{}\nthe last calls:\n{logs}",
        shared.board().finding.get(),
        ends.join("; "),
        if many {
            ", some times: several processes do not meet in the same way each time"
        } else {
            ""
        }
    )
}

/// What every process of a sequence begins with.
fn in_a_process(shared: &Shared, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    touch::catch_signals()?;
    // Ends it if it hangs.
    let limit = time_limit(PATIENCE).as_secs();
    // SAFETY: It takes a number.
    unsafe { libc::alarm(limit as libc::c_uint) };
    // For mlock(2), which shall do no harm to others.
    setrlimit(Resource::RLIMIT_MEMLOCK, 64 << 20, 64 << 20)?;
    let result = body();
    if let Err(error) = &result {
        shared.find(&format!("{error:#}\n"));
    }
    result
}

/// One worker's part of a sequence.
fn one_worker(
    seed: u64,
    number: usize,
    calls: u64,
    regions: Vec<OwnedFd>,
    sockets: Option<&(OwnedFd, OwnedFd)>,
    shared: &Shared,
    coverage: Option<&Coverage>,
) -> anyhow::Result<()> {
    let trace = coverage.map(Coverage::of_this_thread).transpose()?;
    let mut worker = Worker::new(seed, number, regions, sockets)?;
    for call in 0..calls {
        // What others found ends this one too.
        if shared.board().found.load(Relaxed) {
            return Ok(());
        }
        let step = worker.step(|what| shared.note(number, call, what));
        if let Some(trace) = &trace {
            trace.collect();
        }
        shared.board().calls.fetch_add(1, Relaxed);
        if step.with_context(|| format!("worker {number}, call {call}"))? {
            shared.board().succeeded.fetch_add(1, Relaxed);
        }
    }
    worker.end()
}

/// Several processes of several threads, with the same regions and a connection.
fn start_many(
    seed: u64,
    calls: u64,
    shared: &Shared,
    coverage: Option<&Coverage>,
) -> anyhow::Result<Vec<Child>> {
    let regions: Vec<Region> = (0..SHARED_REGIONS)
        .map(|_| Region::sized(worker::SHARED_PAGES))
        .collect::<Result<_, _>>()?;
    // So that a good part of the calls finds what it needs.
    regions[0].map(1)?;
    regions[1].map(1)?;
    let sockets = worker::connection()?;
    (0..PROCESSES)
        .map(|process| {
            spawn(|| {
                in_a_process(shared, || {
                    thread::scope(|scope| {
                        let threads: Vec<_> = (0..THREADS)
                            .map(|thread| {
                                let number = process * THREADS + thread;
                                let (regions, sockets) = (&regions, &sockets);
                                scope.spawn(move || {
                                    let own = worker::copies(regions)?;
                                    one_worker(
                                        seed,
                                        number,
                                        calls,
                                        own,
                                        Some(sockets),
                                        shared,
                                        coverage,
                                    )
                                })
                            })
                            .collect();
                        for thread in threads {
                            match thread.join() {
                                Ok(result) => result?,
                                Err(_) => process::abort(),
                            }
                        }
                        Ok(())
                    })
                })
            })
        })
        .collect()
}

/// What a call answered: what it returned, or its error, or the signal of a touch.
type Answer = Result<i64, i32>;

/// Any system call.
///
/// # Safety
///
/// Nobody may rely on the memory that it changes.
unsafe fn call<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Answer {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: The caller says that it may be made.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(Errno::last_raw()),
        found => Ok(found),
    }
}
