// SPDX-License-Identifier: GPL-2.0-only

//! The kernel log, read record by record from boot on.
//!
//! It is read while the tests run, so that a record is known together with the
//! test during which it appeared, and searched after them.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;

/// Texts of which none belongs into the log of a sound kernel. Those that are
/// all upper case must begin a word: a "DEBUG kernel" is fine.
const ALARMS: &[&str] = &[
    // The frame of most reports.
    "BUG",
    "WARNING",
    "Oops",
    "cut here",
    "Call Trace",
    "Kernel panic",
    "general protection",
    "unable to handle",
    // Checkers.
    "KASAN",
    "KFENCE",
    "KCSAN",
    "UBSAN",
    "ODEBUG",
    "refcount_t",
    "list_add corruption",
    "list_del corruption",
    "Poison overwritten",
    "new suspected memory leak",
    // Locks and contexts.
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU",
    "bad unlock balance",
    "held lock freed",
    "Invalid wait context",
    "still has locks held",
    "sleeping function called",
    "scheduling while atomic",
    // Standing still.
    "blocked for more than",
    "self-detected stall",
    "detected stalls",
    "expedited stalls",
    "kthread starved",
    "soft lockup",
    "hard LOCKUP",
    "workqueue lockup",
    // Pages.
    "Bad page",
    "bad page",
    "page dumped because",
    "page_table_check",
    "Bad rss-counter",
    // KUnit.
    "not ok ",
    "ASSERTION FAILED",
    "EXPECTATION FAILED",
];

/// A call trace in the log that a test brings about on purpose.
#[derive(Clone, Copy)]
pub enum Report {
    /// A memory cgroup of its own runs out of memory.
    OomKill,
    /// The driver's slab cache cannot be made.
    FailingCache,
}

impl Report {
    const EACH: [Self; 2] = [Self::OomKill, Self::FailingCache];

    /// What the test writes to the log before.
    fn announcement(self) -> &'static str {
        match self {
            Self::OomKill => "guest: an OOM kill in a memory cgroup is expected",
            Self::FailingCache => "guest: a slab cache that cannot be made is expected",
        }
    }

    /// What stands in the line before the trace.
    fn head(self) -> &'static str {
        match self {
            Self::OomKill => " invoked oom-killer: ",
            Self::FailingCache => "kmem_cache_create_args(ashmem_queue) failed with error ",
        }
    }
}

/// Tells the log that this will be reported during the test that runs, and is
/// no trouble.
pub fn expect(report: Report) -> anyhow::Result<()> {
    fs::write("/dev/kmsg", format!("<6>{}\n", report.announcement()))
        .context("cannot write to /dev/kmsg")
}

/// Which alarm a text contains.
pub fn alarm(text: &str) -> Option<&'static str> {
    ALARMS.iter().copied().find(|alarm| {
        let shouted = alarm.bytes().all(|b| b.is_ascii_uppercase());
        text.match_indices(alarm).any(|(at, _)| {
            !shouted || !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        })
    })
}

/// One record.
struct Record {
    /// Microseconds since boot.
    time: u64,
    text: String,
    /// What was going on when it was read.
    during: String,
}

impl Record {
    /// From what one read of `/dev/kmsg` gives: `LEVEL,SEQ,TIME,FLAGS;TEXT`,
    /// then lines of its dictionary, each after a blank.
    fn parse(raw: &str, during: &str) -> Option<Self> {
        let (head, body) = raw.split_once(';')?;
        Some(Self {
            time: head.split(',').nth(2)?.parse().ok()?,
            text: body.lines().next().unwrap_or("").to_owned(),
            during: during.to_owned(),
        })
    }

    /// As `dmesg` shows it.
    fn line(&self) -> String {
        let Record { time, text, .. } = self;
        format!("[{:5}.{:06}] {text}", time / 1_000_000, time % 1_000_000)
    }
}

/// The log so far.
pub struct KernelLog {
    file: File,
    /// Where every record is written as well, for the host to keep.
    copy: Option<File>,
    records: Vec<Record>,
    /// Records before this one have been searched.
    searched: usize,
    /// How often the kernel overwrote what had not been read yet.
    overruns: usize,
    during: String,
}

impl KernelLog {
    /// Opens it at its beginning, and reads what is there.
    pub fn open(copy: Option<File>) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("cannot read /dev/kmsg")?;
        let mut log = Self {
            file,
            copy,
            records: vec![],
            searched: 0,
            overruns: 0,
            during: "boot".into(),
        };
        log.drain()?;
        Ok(log)
    }

    /// Forgets what happened before: `guest test --here` is not to blame.
    pub fn start_here(&mut self) {
        self.searched = self.records.len();
    }

    /// Says what goes on from now on.
    pub fn now(&mut self, what: &str) -> anyhow::Result<()> {
        self.drain()?;
        what.clone_into(&mut self.during);
        Ok(())
    }

    /// Reads what has come, without waiting.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        // A record with its dictionary is never longer.
        let mut buffer = [0; 8192];
        loop {
            match self.file.read(&mut buffer) {
                Ok(n) => {
                    let raw = String::from_utf8_lossy(&buffer[..n]);
                    let record = Record::parse(&raw, &self.during)
                        .with_context(|| format!("/dev/kmsg gave {raw:?}"))?;
                    if let Some(copy) = &mut self.copy {
                        // One write a record: on a virtio port each waits for
                        // the host.
                        copy.write_all(format!("{}\n", record.line()).as_bytes())
                            .context("writing the kernel log to the host")?;
                    }
                    self.records.push(record);
                }
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => self.overruns += 1,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("cannot read /dev/kmsg"),
            }
        }
    }

    /// Its last lines.
    pub fn tail(&mut self) -> anyhow::Result<String> {
        self.drain()?;
        let from = self.records.len().saturating_sub(AFTER);
        let lines: Vec<String> = self.records[from..].iter().map(Record::line).collect();
        Ok(lines.join("\n"))
    }

    /// Reads what has come, to the last record: one that does not end with a
    /// line feed can be read only when another one follows.
    fn drain_all(&mut self, why: &str) -> anyhow::Result<()> {
        fs::write("/dev/kmsg", format!("<6>guest: {why}\n"))
            .context("cannot write to /dev/kmsg")?;
        self.drain()
    }

    /// The texts of what came since it was opened or last searched.
    pub fn texts(&mut self) -> anyhow::Result<Vec<&str>> {
        self.drain_all("the kernel log is read")?;
        let new = &self.records[self.searched..];
        Ok(new.iter().map(|record| record.text.as_str()).collect())
    }

    /// Searches what came since the last search. The error shows every alarm
    /// with its surroundings.
    pub fn search(&mut self) -> anyhow::Result<Result<(), String>> {
        self.drain_all("the kernel log is searched")?;
        let start = self.searched;
        self.searched = self.records.len();
        if self.overruns > 0 {
            let times = std::mem::take(&mut self.overruns);
            return Ok(Err(format!(
                "the kernel overwrote records before they were read ({times} times): \
                 raise log_buf_len=",
            )));
        }
        Ok(match excerpt(&self.records, start) {
            None => Ok(()),
            Some(text) => Err(text),
        })
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Lines shown before and after an alarm, and in all.
const BEFORE: usize = 3;
const AFTER: usize = 20;
const SHOWN: usize = 150;

/// Lines of a report up to the end of its call trace, at most.
const REPORT: usize = 80;

/// Whether this record belongs to a call trace that its test expected.
fn is_expected(records: &[Record], at: usize) -> bool {
    let Record { text, during, .. } = &records[at];
    // Names of functions may contain anything.
    if text != "Call Trace:" && !text.contains("+0x") {
        return false;
    }
    let before = &records[..at];
    let trace = &before[at.saturating_sub(REPORT)..];
    Report::EACH.into_iter().any(|report| {
        trace
            .iter()
            .rev()
            .take_while(|record| record.text != " </TASK>")
            .any(|record| record.text.contains(report.head()))
            && before
                .iter()
                .rev()
                .take_while(|record| record.during == *during)
                .any(|record| record.text == report.announcement())
    })
}

/// The alarms from a record on, with what stands around them.
fn excerpt(records: &[Record], start: usize) -> Option<String> {
    let mut lines = vec![];
    let mut shown_to = start;
    let mut during = None;
    let is_alarm = |at: usize| alarm(&records[at].text).is_some() && !is_expected(records, at);
    let alarms = (start..records.len()).filter(|at| is_alarm(*at));
    for at in alarms {
        let from = at.saturating_sub(BEFORE).max(shown_to);
        let to = (at + 1 + AFTER).min(records.len()).max(shown_to);
        if from > shown_to || during.is_none() {
            lines.push("...".to_owned());
        }
        for (at, record) in (from..to).zip(&records[from..to]) {
            if during != Some(&record.during) {
                lines.push(format!("during {}:", record.during));
                during = Some(&record.during);
            }
            let mark = if is_alarm(at) { '>' } else { ' ' };
            lines.push(format!("{mark} {}", record.line()));
        }
        shown_to = to;
    }
    if lines.is_empty() {
        return None;
    }
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("... and {more} lines more"));
    }
    Some(lines.join("\n"))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn reports_of_the_kernel_are_alarms() {
        for text in [
            "WARNING: CPU: 0 PID: 1 at mm/memory.c:1 f+0x1/0x2",
            "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "kernel BUG at mm/memcontrol.c:2881!",
            "INFO: task guest:42 blocked for more than 120 seconds.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "WARNING: possible circular locking dependency detected",
            "BUG: Bad page state in process guest  pfn:0001",
            "refcount_t: underflow; use-after-free.",
            "kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "    # f: ASSERTION FAILED at driver/tests.rs:1",
            "    not ok 1 f",
            "not ok 1 ashmem_region",
        ] {
            assert!(alarm(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_sound_boot_is_not() {
        for text in [
            "**   This means that this is a DEBUG kernel and it is  **",
            "kasan: KernelAddressSanitizer initialized (generic)",
            "rcu: \tRCU lockdep checking is enabled.",
            "ashmem: loading out-of-tree module taints kernel.",
            "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
            "guest[42]: segfault at 0 ip 0 sp 0 error 4",
            "KTAP version 1",
            "    ok 1 f",
            "# ashmem_region: pass:8 fail:0 skip:0 total:8",
        ] {
            assert_eq!(alarm(text), None, "{text}");
        }
    }

    fn records(texts: &[&str]) -> Vec<Record> {
        texts
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let raw = format!("4,{i},{},-;{text}\n SUBSYSTEM=x\n", i * 1_000_000);
                Record::parse(&raw, "pin::f").expect("it is well formed")
            })
            .collect()
    }

    #[test]
    fn an_alarm_is_shown_with_what_stands_around_it() {
        let log = records(&["a", "b", "c", "d", "Oops: 1", "e"]);
        let shown = excerpt(&log, 0).expect("there is an alarm");
        assert_eq!(
            shown,
            "...\nduring pin::f:\n  [    1.000000] b\n  [    2.000000] c\n  \
             [    3.000000] d\n> [    4.000000] Oops: 1\n  [    5.000000] e"
        );
    }

    #[test]
    fn an_oom_kill_is_none_where_its_test_expected_it() {
        let kill = [
            "guest invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
            "CPU: 0 UID: 0 PID: 42 Comm: guest",
            "Call Trace:",
            " <TASK>",
            " ? __page_table_check_ptes_set+0x1/0x2",
            " </TASK>",
            "Memory cgroup out of memory: Killed process 42 (guest)",
        ];
        let expected = [&[Report::OomKill.announcement()][..], &kill].concat();
        assert!(excerpt(&records(&kill), 0).is_some(), "not expected");
        assert_eq!(excerpt(&records(&expected), 0), None);
        // Nothing else is excused by it.
        for other in ["Call Trace:", "BUG: Bad page state", "WARNING: f+0x1/0x2"] {
            let log = records(&[&expected[..], &[other]].concat());
            assert!(excerpt(&log, 0).is_some(), "{other}");
        }
        let mut log = records(&expected);
        log[0].during = "pin::another".into();
        assert!(excerpt(&log, 0).is_some(), "another test's");
    }

    #[test]
    fn what_was_searched_is_not_shown_again() {
        let log = records(&["Oops: 1", "b"]);
        assert!(excerpt(&log, 0).is_some());
        assert_eq!(excerpt(&log, 1), None);
    }
}
