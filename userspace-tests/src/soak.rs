// SPDX-License-Identifier: GPL-2.0-only

//! `make soak`: what may go wrong once in a long while. First many lives of the
//! module, then rounds of random programs, each with a seed of its own, one
//! after the other until the time is up.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;

use crate::fuzz;
use crate::harness::Finished;
use crate::harness::Outcome;
use crate::harness::Runner;
use crate::harness::Sink;
use crate::harness::Sweep;
use crate::harness::TestFn;
use crate::harness::supervise;
use crate::harness::time_limit;
use crate::kmsg::KernelLog;
use crate::report::Report;
use crate::stress;
use crate::tests::module::lives;
use crate::tests::pin_model::Random;

/// A program of the rounds.
struct Program {
    name: &'static str,
    /// Does what follows from the seed, for so long; gives what it did.
    run: fn(u64, Duration) -> anyhow::Result<String>,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "stress",
        run: |seed, time| Ok(stress::run(seed, time)?.to_string()),
    },
    Program {
        name: "fuzz",
        run: |seed, time| Ok(fuzz::run(seed, time)?.to_string()),
    },
];

/// Lives of the module.
const LIVES: usize = 1000;
/// Of them, those that are told of at once.
const LIVES_AT_ONCE: usize = 50;
/// How long that many may take, on a stock kernel.
const LIVES_LIMIT: Duration = Duration::from_secs(120);
/// How long a round goes on.
const ROUND: Duration = Duration::from_secs(60);
/// How long it may take to begin and to end, on a stock kernel.
const AROUND: Duration = Duration::from_secs(60);

/// The round that the child of [`supervise`] is for.
static ROUND_NOW: Mutex<Option<(usize, u64, Duration)>> = Mutex::new(None);

/// Does the round in [`ROUND_NOW`].
fn round() -> anyhow::Result<()> {
    let now = ROUND_NOW.lock().ok().and_then(|now| *now);
    let (program, seed, time) = now.context("no round")?;
    let done = (PROGRAMS[program].run)(seed, time)?;
    println!("{done}");
    Ok(())
}

fn some_lives() -> anyhow::Result<()> {
    lives(LIVES_AT_ONCE).map(drop)
}

/// What is done, and who is told.
struct Soak<'a> {
    report: &'a mut Report,
    log: &'a mut KernelLog,
    out: &'a mut File,
    findings: usize,
}

impl Soak<'_> {
    /// Runs one thing, and tells of it in a line.
    fn run(&mut self, name: &str, body: TestFn, limit: Duration) -> anyhow::Result<()> {
        self.log.now(name)?;
        let begun = Instant::now();
        let mut finished = supervise(Runner::Here(body), limit, &Sink::Keep, Sweep::All, self.log)?;
        // What the kernel said meanwhile is a finding of this round.
        if let Err(text) = self.log.search()? {
            finished.outcome = Outcome::Failed(match &finished.outcome {
                Outcome::Failed(why) => format!("{why}\nand the kernel log:\n{text}"),
                _ => format!("the kernel log:\n{text}"),
            });
        }
        self.report.add(name, &finished)?;
        let Finished { outcome, output } = &finished;
        let result = match outcome {
            Outcome::Failed(why) => {
                self.findings += 1;
                why
            }
            _ => output.lines().last().unwrap_or("done"),
        };
        writeln!(
            self.out,
            "{name} [{:.0} s]: {result}",
            begun.elapsed().as_secs_f64()
        )
        .context("writing to the host")
    }
}

/// Does it all; `time` is that of the rounds.
pub fn run(
    time: Duration,
    report: &mut Report,
    log: &mut KernelLog,
    out: &mut File,
) -> anyhow::Result<()> {
    let mut soak = Soak {
        report,
        log,
        out,
        findings: 0,
    };
    for done in (0..LIVES).step_by(LIVES_AT_ONCE) {
        let name = format!(
            "soak: lives {done} to {} of the module",
            done + LIVES_AT_ONCE
        );
        soak.run(&name, some_lives, time_limit(LIVES_LIMIT))?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let mut random = Random(now.as_nanos() as u64);
    let begun = Instant::now();
    let mut rounds = 0;
    loop {
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break;
        }
        let program = rounds % PROGRAMS.len();
        let seed = random.below(usize::MAX) as u64;
        let length = left.min(ROUND);
        if let Ok(mut now) = ROUND_NOW.lock() {
            *now = Some((program, seed, length));
        }
        rounds += 1;
        let name = format!(
            "soak: round {rounds}, {}, seed {seed}",
            PROGRAMS[program].name
        );
        soak.run(&name, round, length + time_limit(AROUND))?;
    }
    let findings = soak.findings;
    writeln!(
        soak.out,
        "soak: {LIVES} lives of the module, {rounds} rounds, {findings} findings"
    )
    .context("writing to the host")
}
