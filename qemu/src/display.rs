// SPDX-License-Identifier: GPL-2.0-only

//! What people see of a run: a line for each test as it ends, what is wrong
//! with its diagnostics, and the sum.

use std::fs;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::machine::Logs;
use crate::machine::Watch;
use crate::tap;
use crate::tap::Counts;
use crate::tap::Line;
use crate::tap::Outcome;
use crate::verdict;
use crate::verdict::Fault;
use crate::verdict::Reported;

/// Lines of the console, and of the kernel log, shown after a fault.
const CONSOLE_SHOWN: usize = 60;
/// How many of them stand before the first that shows trouble.
const CONSOLE_BEFORE: usize = 10;
const KERNEL_TAIL: usize = 20;
/// A test that took longer than this is shown with its time.
const SLOW: Duration = Duration::from_secs(1);

/// One result, with the name of where it ran.
pub fn result(place: &str, name: &str, outcome: &Outcome, time: Duration) {
    let (word, why) = match outcome {
        Outcome::Passed => ("ok", String::new()),
        Outcome::Failed => ("FAILED", String::new()),
        Outcome::Skipped(reason) => ("skip", format!(" ({reason})")),
    };
    let time = match time {
        t if t > SLOW => format!(" [{:.1} s]", t.as_secs_f64()),
        _ => String::new(),
    };
    println!("{place:<6} {word:<6} {name}{why}{time}");
}

/// A line that belongs to the result before it.
pub fn diagnostic(text: &str) {
    println!("              {text}");
}

/// What goes on.
pub fn step(place: &str, text: &str) {
    println!("{place:<6} ...    {text}");
}

/// Shows a guest's results while they come.
pub struct Live<'a> {
    place: &'a str,
    last: Instant,
    failed: bool,
}

impl<'a> Live<'a> {
    /// For a machine that is started now.
    pub fn new(place: &'a str) -> Self {
        Self {
            place,
            last: Instant::now(),
            failed: false,
        }
    }
}

impl Watch for Live<'_> {
    fn report(&mut self, line: &str) {
        match tap::parse(line) {
            Line::Version => {
                let boot = self.last.elapsed().as_secs_f64();
                step(self.place, &format!("booted in {boot:.1} s"));
                self.last = Instant::now();
            }
            Line::Test { name, outcome, .. } => {
                result(self.place, &name, &outcome, self.last.elapsed());
                self.last = Instant::now();
                self.failed = outcome == Outcome::Failed;
            }
            Line::Diagnostic(text) if self.failed => diagnostic(&text),
            // What else is wrong the judge will say.
            _ => {}
        }
    }
}

/// Streams what people read, as it comes.
pub struct Stream;

impl Watch for Stream {
    fn output(&mut self, data: &[u8]) {
        let mut out = io::stdout().lock();
        // Nobody listens any more: the verdict still decides the exit code.
        let _ = out.write_all(data).and_then(|()| out.flush());
    }
}

/// What is wrong with a run beyond its tests, and the end of its logs.
pub fn faults(place: &str, faults: &[Fault], logs: &Logs) {
    for fault in faults {
        println!("{place:<6} FAILED {fault}");
    }
    let console = lines_of(&logs.console);
    // What is wrong stands where it begins: a panic goes on for long.
    match console.iter().position(|l| verdict::is_trouble(l)) {
        Some(at) => {
            let from = at.saturating_sub(CONSOLE_BEFORE);
            let to = (from + CONSOLE_SHOWN).min(console.len());
            excerpt(
                "the console, where the trouble begins",
                &logs.console,
                &console[from..to],
            );
        }
        None => tail("the console", &logs.console, CONSOLE_SHOWN),
    }
    tail("the kernel log", &logs.kernel, KERNEL_TAIL);
}

/// Where the logs are.
pub fn where_the_logs_are(logs: &Logs) {
    println!(
        "the whole of it: {} {} {}",
        logs.console.display(),
        logs.kernel.display(),
        logs.report.display()
    );
}

/// The last lines of a file.
pub fn tail(what: &str, path: &Path, count: usize) {
    let lines = lines_of(path);
    let from = lines.len().saturating_sub(count);
    excerpt(&format!("the end of {what}"), path, &lines[from..]);
}

fn excerpt(what: &str, path: &Path, lines: &[String]) {
    println!("--- {what} ({})", path.display());
    for line in lines {
        println!("    {line}");
    }
    println!("---");
}

fn lines_of(path: &Path) -> Vec<String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes)
            .lines()
            .map(|l| l.trim_end().to_owned())
            .collect(),
        Err(e) => vec![format!("cannot be read: {e}")],
    }
}

/// Everything that was run, for the last lines.
#[derive(Default)]
pub struct Sum {
    counts: Counts,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Sum {
    /// Adds results, and whatever else failed.
    pub fn add(&mut self, place: &str, results: &[Reported], faults: impl Iterator<Item = String>) {
        for result in results {
            self.counts.add(&result.outcome);
            match &result.outcome {
                Outcome::Passed => {}
                Outcome::Failed => self.failed.push(format!("{place:<6} {}", result.name)),
                Outcome::Skipped(reason) => {
                    self.skipped
                        .push(format!("{place:<6} {}: {reason}", result.name));
                }
            }
        }
        for fault in faults {
            self.counts.failed += 1;
            self.failed.push(format!("{place:<6} {fault}"));
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Prints the skips with their reasons, the failures, and the sum, which
    /// is the last line.
    pub fn print(&self) {
        for (title, list) in [("skipped:", &self.skipped), ("FAILED:", &self.failed)] {
            if !list.is_empty() {
                println!("\n{title}");
                for line in list {
                    println!("  {line}");
                }
            }
        }
        let Counts {
            passed,
            failed,
            skipped,
        } = self.counts;
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    }
}

/// Lines and columns of this terminal, if it is one.
pub fn terminal_size() -> Option<(u16, u16)> {
    nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: The ioctl writes one `winsize`, which is there.
    unsafe { get_window_size(1, &mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
