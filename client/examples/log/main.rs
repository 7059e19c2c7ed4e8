// SPDX-License-Identifier: GPL-2.0-only

//! A log that survives: its writers are killed a thousand times, and no finished record is lost.
//!
//! A file would do that, too, and each record would cost a system call. This log lies in a region, and a
//! record is written by storing it: see `journal.rs` for how it is there as a whole or not at all. The
//! region is held by a keeper, which looks at it when the writer is dead.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::abort;
use std::ptr::NonNull;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use ashmem::Region;
use journal::Journal;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;
use nix::unistd::pause;
use nix::unistd::pipe;
use nix::unistd::write;
use rand::Rng;
use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

mod journal;

/// How many writers there are, one after the other.
const KILLS: u64 = 1000;
/// Bytes of the region.
const SIZE: usize = 4 << 20;
/// Records that a writer has finished, at most, when its killer takes aim.
const FINISHED: u64 = 4;
/// And how long that takes, in microseconds, at most: some records are written meanwhile.
const AIM: u64 = 500;

/// What records say.
struct Story(Vec<u8>);

impl Story {
    fn new(random: &mut ChaCha8Rng) -> Self {
        let mut bytes = vec![0; 32 << 10];
        random.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// What the record of this number says: 4 to 16 KiB, so that a kill is likely to come in the midst of it.
    fn payload(&self, number: u64) -> &[u8] {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (random >> 48) as usize % (16 << 10);
        let len = (4 << 10) + (random >> 32) as usize % (12 << 10);
        &self.0[start..][..len]
    }
}

/// Appends records, and says so after each of them by a byte in a pipe.
fn append_until_killed(log: &mut Journal, story: &Story, says: OwnedFd) -> anyhow::Result<()> {
    // Its keeper may be killed as well.
    set_pdeathsig(Signal::SIGKILL)?;
    while log.append(story.payload(log.next())) {
        write(&says, b".")?;
    }
    // The log is full; the keeper will see to it.
    loop {
        pause();
    }
}

/// Starts a writer; gives what it says.
fn start_writer(log: &mut Journal, story: &Story) -> anyhow::Result<(Pid, File)> {
    let (said, says) = pipe()?;
    // SAFETY: This program has one thread, so that the child may do everything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((child, said.into())),
        ForkResult::Child => {
            drop(said);
            // It is the same memory there, and the keeper leaves it alone as long as the writer lives.
            let end = append_until_killed(log, story, says);
            eprintln!("a writer: {end:?}");
            abort()
        }
    }
}

/// What came of all writers, in records.
#[derive(Default)]
struct Found {
    acknowledged: u64,
    recovered: u64,
    torn: u64,
}

/// Has a writer start, kills it, and looks at what is there.
fn kill_one(
    log: &mut Journal,
    story: &Story,
    random: &mut ChaCha8Rng,
    found: &mut Found,
) -> anyhow::Result<()> {
    let (writer, mut said) = start_writer(log, story)?;
    let mut some = vec![0; random.random_range(0..=FINISHED) as usize];
    said.read_exact(&mut some).context("the writer ended")?;
    sleep(Duration::from_micros(random.random_range(0..AIM)));
    kill(writer, Signal::SIGKILL)?;
    let end = waitpid(writer, None)?;
    ensure!(
        end == WaitStatus::Signaled(writer, Signal::SIGKILL, false),
        "{end:?}"
    );
    let acknowledged = (some.len() + said.read_to_end(&mut vec![])?) as u64;

    let (before, mut wrong) = (log.next(), vec![]);
    let torn = log.recover(|number, bytes| {
        if bytes != story.payload(number) {
            wrong.push(number);
        }
    });
    ensure!(wrong.is_empty(), "records {wrong:?} say something else");
    // The last one may have been finished, and its writer killed before it could say so.
    let recovered = log
        .next()
        .checked_sub(before)
        .context("old ones are gone")?;
    ensure!(
        (acknowledged..=acknowledged + 1).contains(&recovered),
        "{acknowledged} records were acknowledged, {recovered} are there"
    );
    found.acknowledged += acknowledged;
    found.recovered += recovered;
    found.torn += u64::from(torn);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    // On one processor, the timer that wakes the keeper stops the writer wherever it is.
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::this(), &one)?;
    let region = Region::new(c"log", SIZE)?;
    let memory = region.map()?;
    let base = NonNull::new(memory.as_ptr()).context("mmap(2) gives no null")?;
    // SAFETY: The region is mapped until the end, from a page on, and no other process has it but the
    // writers, which are dead when this process writes.
    let mut log = unsafe { Journal::new(base, memory.len()) };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let story = Story::new(&mut random);
    let mut found = Found::default();
    for number in 1..=KILLS {
        kill_one(&mut log, &story, &mut random, &mut found)
            .with_context(|| format!("kill {number}"))?;
        if log.used() > SIZE / 4 {
            log.clear();
        }
    }
    ensure!(found.recovered == log.next() - 1);
    ensure!(found.torn > 0, "no kill came in the midst of a record");
    println!(
        "{KILLS} writers append to a log in a region, one after the other, and each is killed"
    );
    println!("  records acknowledged:           ~{}", found.acknowledged);
    println!("  records recovered, each whole:  ~{}", found.recovered);
    println!(
        "  finished, but not acknowledged: ~{}",
        found.recovered - found.acknowledged
    );
    println!("  begun, and dropped:             ~{}", found.torn);
    Ok(())
}
