// SPDX-License-Identifier: GPL-2.0-only

//! The driver against a model of it, over long random runs.
//!
//! The model keeps of each page its state, whether it has memory, and what is
//! in it, and knows nothing of ranges, marks or locks. After each step the
//! driver's answer is compared with the model's, and so are the status of every
//! page and the counters; every few steps also all content.
//!
//! A run that fails is cut down to the shortest one that still does, and
//! printed. `guest test --here --filter pin_model --seed N` in `make shell`
//! repeats the run of a seed.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::fcntl::OFlag;
use nix::sys::mman::MapFlags;
use nix::sys::uio::pread;
use nix::unistd::pipe2;
use nix::unistd::write;

use crate::abi;
use crate::growth;
use crate::harness::is_debug_kernel;
use crate::harness::tests;
use crate::harness::time_limit;
use crate::region::Info;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts;
use crate::tests::process::spawn;
use crate::tests::process::until;

tests! {
    random_steps_do_what_the_model_does @ 120 => "pin.exact" "pin.status" "pin.was-purged"
        "pin.unpin-again" "purge.all" "purge.pressure" "purge.written" "ext.page-status",
}

/// The one run that is wanted, if it is not all of them.
pub static SEED: OnceLock<u64> = OnceLock::new();

/// The runs that are made each time; one more has a seed of its own.
const SEEDS: Range<u64> = 0..7;
/// As many are enough where each takes ten times as long.
const SEEDS_DEBUG: Range<u64> = 0..2;
/// Steps of a run.
const STEPS: usize = 500;
/// How many regions there are at a time.
const REGIONS: usize = 3;
/// Pages of each: more than the driver keeps in one block, and no multiple.
const PAGES: usize = 600;
/// How long a run may be cut down, on a stock kernel.
const PATIENCE: Duration = Duration::from_secs(40);

const PINNED: u8 = abi::ASHMEM_PAGE_PINNED as u8;
const UNPINNED: u8 = abi::ASHMEM_PAGE_UNPINNED as u8;
const PURGED: u8 = abi::ASHMEM_PAGE_PURGED as u8;
const RESIDENT: u8 = abi::ASHMEM_PAGE_RESIDENT as u8;

/// Pages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    /// 0: all to the end.
    len: usize,
}

impl Span {
    fn pages(self) -> Range<usize> {
        match self.len {
            0 => self.start..PAGES,
            len => self.start..self.start + len,
        }
    }
}

/// What is done to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Unpin(Span),
    Pin(Span),
    Status(Span),
    /// GET_PAGE_STATUS of a part.
    PageStatus(Span),
    /// Through the mapping.
    Write(Span),
    /// Through the mapping, which makes pages where there are none.
    Read(Span),
    /// By pread(2), which makes none.
    ReadFile(Span),
    /// To a private mapping, which makes a copy.
    WritePrivately(usize),
    /// MADV_REMOVE.
    Remove(Span),
    /// munmap(2) and mmap(2).
    Remap,
    /// Closed, and another one opened in its place.
    Reopen,
    /// PURGE_ALL_CACHES by a descriptor of this region.
    PurgeAll,
    /// Memory pressure: all that is unpinned and has memory is taken.
    Pressure,
}

/// One step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    region: usize,
    op: Op,
    /// By the ioctl with 64 bits, if there is one.
    wide: bool,
    /// A forked child does it.
    child: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}: ", self.region)?;
        match self.op {
            Op::Unpin(span) => write!(f, "UNPIN {:?}", span.pages()),
            Op::Pin(span) => write!(f, "PIN {:?}", span.pages()),
            Op::Status(span) => write!(f, "GET_PIN_STATUS {:?}", span.pages()),
            Op::PageStatus(span) => write!(f, "GET_PAGE_STATUS {:?}", span.pages()),
            Op::Write(span) => write!(f, "write {:?}", span.pages()),
            Op::Read(span) => write!(f, "read {:?}", span.pages()),
            Op::ReadFile(span) => write!(f, "pread(2) {:?}", span.pages()),
            Op::WritePrivately(page) => write!(f, "write a private copy of {page}"),
            Op::Remove(span) => write!(f, "MADV_REMOVE {:?}", span.pages()),
            Op::Remap => write!(f, "unmap and map"),
            Op::Reopen => write!(f, "close and open another"),
            Op::PurgeAll => write!(f, "PURGE_ALL_CACHES"),
            Op::Pressure => write!(f, "memory pressure"),
        }?;
        if self.wide {
            write!(f, ", 64 bits")?;
        }
        if self.child {
            write!(f, ", in a child")?;
        }
        Ok(())
    }
}

impl Step {
    /// The same, but less of it.
    fn simpler(self) -> Vec<Self> {
        let mut found = vec![];
        if self.child {
            found.push(Self {
                child: false,
                ..self
            });
        }
        if self.wide {
            found.push(Self {
                wide: false,
                ..self
            });
        }
        if self.region != 0 {
            found.push(Self { region: 0, ..self });
        }
        let (Op::Unpin(span)
        | Op::Pin(span)
        | Op::Status(span)
        | Op::PageStatus(span)
        | Op::Write(span)
        | Op::Read(span)
        | Op::ReadFile(span)
        | Op::Remove(span)) = self.op
        else {
            return found;
        };
        let pages = span.pages();
        let (start, len) = (pages.start, pages.len());
        if len < 2 {
            return found;
        }
        for (start, len) in [
            (start, len / 2),
            (start + len / 2, len - len / 2),
            (start, len - 1),
            (start + 1, len - 1),
        ] {
            let span = Span { start, len };
            let op = match self.op {
                Op::Unpin(_) => Op::Unpin(span),
                Op::Pin(_) => Op::Pin(span),
                Op::Status(_) => Op::Status(span),
                Op::PageStatus(_) => Op::PageStatus(span),
                Op::Write(_) => Op::Write(span),
                Op::Read(_) => Op::Read(span),
                Op::ReadFile(_) => Op::ReadFile(span),
                Op::Remove(_) => Op::Remove(span),
                other => other,
            };
            found.push(Self { op, ..self });
        }
        found
    }
}

/// The numbers of a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z % limit as u64) as usize
    }

    /// A page, or the end; often where the driver has a border.
    fn point(&mut self) -> usize {
        match self.below(4) {
            0 => self.below(PAGES + 1),
            1 => self.below(PAGES / 64 + 1) * 64,
            2 => 508 + self.below(9),
            _ => [0, 1, 63, 65, 511, 513, PAGES - 1, PAGES][self.below(8)],
        }
    }

    fn span(&mut self) -> Span {
        let start = self.point();
        let len = match self.below(8) {
            0 => 0,
            1..=4 => (1 + self.below(5)).min(PAGES - start),
            _ => self.point().saturating_sub(start),
        };
        Span { start, len }
    }

    /// As [`Self::span`], rarely a long one.
    fn short(&mut self) -> Span {
        let span = self.span();
        if self.below(8) == 0 {
            return span;
        }
        let start = span.start;
        Span {
            start,
            // At the end there is nothing, of whatever length.
            len: span.pages().len().min(20),
        }
    }

    fn step(&mut self) -> Step {
        let op = match self.below(100) {
            0..20 => Op::Unpin(self.span()),
            20..38 => Op::Pin(self.span()),
            38..44 => Op::Status(self.span()),
            44..48 => Op::PageStatus(self.span()),
            48..68 => Op::Write(self.short()),
            68..74 => Op::Read(self.short()),
            74..79 => Op::ReadFile(self.short()),
            79..82 => Op::WritePrivately(self.below(PAGES)),
            82..90 => Op::Remove(self.span()),
            90..92 => Op::Remap,
            92..93 => Op::Reopen,
            93..96 => Op::Pressure,
            _ => Op::PurgeAll,
        };
        Step {
            region: self.below(REGIONS),
            op,
            wide: matches!(op, Op::Unpin(_) | Op::Pin(_) | Op::Status(_)) && self.below(3) == 0,
            child: !matches!(op, Op::Remap | Op::Reopen) && self.below(24) == 0,
        }
    }
}

/// What a page should be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Page {
    /// [`PINNED`], [`UNPINNED`] or [`PURGED`].
    state: u8,
    resident: bool,
    /// Its first and its last byte; the others are zeros.
    stamp: (u8, u8),
}

/// What a region should be.
#[derive(Clone)]
struct Model {
    pages: Vec<Page>,
    /// Where it is mapped, as a number of pages.
    base: usize,
    allocated: u64,
    purged: u64,
}

impl Model {
    fn new() -> Self {
        let page = Page {
            state: PINNED,
            resident: false,
            stamp: (0, 0),
        };
        Self {
            pages: vec![page; PAGES],
            base: 0,
            allocated: 0,
            purged: 0,
        }
    }

    fn touch(&mut self, page: usize) {
        if self.pages[page].resident {
            return;
        }
        let table = (self.base + page) / growth::TABLE * growth::TABLE;
        let start = table.max(self.base) - self.base;
        let end = (table + growth::TABLE - self.base).min(PAGES);
        let resident = |page: usize| self.pages.get(page).is_some_and(|page| page.resident);
        let folio = growth::folio(resident, page, &(start..end), counts::max_order(), false);
        self.allocated += folio.len() as u64;
        for page in &mut self.pages[folio] {
            page.resident = true;
        }
    }

    /// Takes every page that can be had, or only those that have memory; tells
    /// how many.
    fn purge(&mut self, holes: bool) -> usize {
        let mut purged = 0;
        for page in &mut self.pages {
            if page.state == UNPINNED && (page.resident || holes) {
                self.purged += u64::from(page.resident);
                *page = Page {
                    state: PURGED,
                    resident: false,
                    stamp: (0, 0),
                };
                purged += 1;
            }
        }
        purged
    }

    fn status(&self) -> impl Iterator<Item = u8> {
        self.pages
            .iter()
            .map(|page| page.state | if page.resident { RESIDENT } else { 0 })
    }
}

/// What step number `number` writes: never twice the same within a run, and no
/// zero.
fn stamp(number: usize) -> (u8, u8) {
    ((number % 250 + 1) as u8, (number / 250 + 1) as u8)
}

/// Changes the models as a step should change the regions; gives its answer.
fn expect(models: &mut [Model], step: Step, number: usize) -> usize {
    let model = &mut models[step.region];
    match step.op {
        Op::PurgeAll => models.iter_mut().map(|model| model.purge(true)).sum(),
        Op::Pressure => {
            for model in models {
                model.purge(false);
            }
            0
        }
        Op::Unpin(span) => {
            for page in &mut model.pages[span.pages()] {
                if page.state == PINNED {
                    page.state = UNPINNED;
                }
            }
            0
        }
        Op::Pin(span) => {
            let pages = &mut model.pages[span.pages()];
            let purged = pages.iter().any(|page| page.state == PURGED);
            for page in pages {
                page.state = PINNED;
            }
            usize::from(purged)
        }
        Op::Status(span) => {
            let pages = &model.pages[span.pages()];
            usize::from(pages.iter().all(|page| page.state == PINNED))
        }
        Op::Write(span) => {
            for page in span.pages() {
                model.touch(page);
                model.pages[page].stamp = stamp(number);
            }
            0
        }
        Op::Read(span) => {
            span.pages().for_each(|page| model.touch(page));
            0
        }
        Op::Remove(span) => {
            for page in &mut model.pages[span.pages()] {
                page.resident = false;
                page.stamp = (0, 0);
            }
            0
        }
        Op::Reopen => {
            *model = Model::new();
            0
        }
        Op::PageStatus(_) | Op::ReadFile(_) | Op::WritePrivately(_) | Op::Remap => 0,
    }
}

/// The regions, and what they should be.
struct Bench {
    regions: Vec<(Region, Mapping)>,
    models: Vec<Model>,
}

/// A fresh region, mapped.
fn open() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    Ok((region, map))
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let mut this = Self {
            regions: (0..REGIONS).map(|_| open()).collect::<Result<_, _>>()?,
            models: vec![Model::new(); REGIONS],
        };
        this.note_mappings();
        Ok(this)
    }

    fn note_mappings(&mut self) {
        for ((_, map), model) in self.regions.iter().zip(&mut self.models) {
            model.base = map.base() / PAGE;
        }
    }

    /// Does a step, and compares all that can be told without reading content.
    fn step(&mut self, step: Step, number: usize) -> anyhow::Result<()> {
        let found = match step.op {
            Op::Remap => {
                let (region, map) = self.regions.remove(step.region);
                drop(map);
                let map = region.map(PAGES)?;
                self.regions.insert(step.region, (region, map));
                0
            }
            Op::Reopen => {
                // Either may go first.
                let (region, map) = self.regions.remove(step.region);
                if number % 2 == 0 {
                    drop(region);
                    drop(map);
                } else {
                    drop(map);
                    drop(region);
                }
                self.regions.insert(step.region, open()?);
                0
            }
            _ if step.child => in_child(|| self.perform(step, number))?,
            _ => self.perform(step, number)?,
        };
        let expected = expect(&mut self.models, step, number);
        self.note_mappings();
        ensure!(found == expected, "gave {found}, expected {expected}");
        if step.op == Op::Pressure {
            // A worker may be at it still; what it took last it counts last. If it never comes to
            // that, the comparison below says why.
            let _ = until("all is counted", || Ok(self.compare_all().is_ok()));
        }
        self.compare_all()
    }

    fn compare_all(&self) -> anyhow::Result<()> {
        for (region, model) in self.models.iter().enumerate() {
            self.compare(region, model)
                .with_context(|| format!("region {region}"))?;
        }
        Ok(())
    }

    /// Does what one process can do; gives the answer. Content that is read is
    /// compared.
    fn perform(&self, step: Step, number: usize) -> anyhow::Result<usize> {
        let (region, map) = &self.regions[step.region];
        let model = &self.models[step.region];
        let narrow = |span: Span| ((span.start * PAGE) as u32, (span.len * PAGE) as u32);
        let wide = |span: Span| ((span.start * PAGE) as u64, (span.len * PAGE) as u64);
        let stamp = stamp(number);

        match step.op {
            Op::Unpin(span) => {
                let ((offset, len), (wide_offset, wide_len)) = (narrow(span), wide(span));
                if step.wide {
                    region.unpin_wide(wide_offset, wide_len)?;
                } else {
                    region.unpin_bytes(offset, len)?;
                }
            }
            Op::Pin(span) => {
                let ((offset, len), (wide_offset, wide_len)) = (narrow(span), wide(span));
                return Ok(usize::from(if step.wide {
                    region.pin_wide(wide_offset, wide_len)?
                } else {
                    region.pin_bytes(offset, len)?
                }));
            }
            Op::Status(span) => {
                let ((offset, len), (wide_offset, wide_len)) = (narrow(span), wide(span));
                return Ok(usize::from(if step.wide {
                    region.pinned_wide(wide_offset, wide_len)?
                } else {
                    region.pinned_bytes(offset, len)?
                }));
            }
            Op::PageStatus(span) => {
                let pages = span.pages();
                if !pages.is_empty() {
                    let found = region.statuses(pages.start as u64..pages.end as u64)?;
                    let expected: Vec<u8> = model.status().collect();
                    ensure!(found == expected[pages], "{found:x?}");
                }
            }
            Op::Write(span) => {
                for page in span.pages() {
                    map.write(page * PAGE, stamp.0);
                    map.write(page * PAGE + PAGE - 1, stamp.1);
                }
            }
            Op::Read(span) => {
                for page in span.pages() {
                    let found = (map.read(page * PAGE), map.read(page * PAGE + PAGE - 1));
                    let expected = model.pages[page].stamp;
                    ensure!(
                        found == expected,
                        "page {page} has {found:?}, expected {expected:?}"
                    );
                }
            }
            Op::ReadFile(span) => content(region, model, span.pages())?,
            Op::WritePrivately(page) => {
                let private = region.map_as(PAGES * PAGE, RW, MapFlags::MAP_PRIVATE)?;
                private.write(page * PAGE, 0xff);
                let found = private.read(page * PAGE + PAGE - 1);
                let expected = model.pages[page].stamp.1;
                ensure!(
                    found == expected,
                    "the copy of page {page} has {found}, expected {expected}"
                );
            }
            Op::Remove(span) => {
                let pages = span.pages();
                if !pages.is_empty() {
                    map.advise(pages, libc::MADV_REMOVE)?;
                }
            }
            Op::PurgeAll => return Ok(region.purge_all()?),
            // Parts of folios are taken a moment later, by a worker.
            Op::Pressure => until("all is taken", || {
                fs::write("/proc/sys/vm/drop_caches", "2\n")?;
                let left = |region: &Region| Ok(region.statuses(0..PAGES as u64)?);
                let all: anyhow::Result<Vec<_>> = self
                    .regions
                    .iter()
                    .map(|(region, _)| left(region))
                    .collect();
                Ok(!all?.concat().contains(&(UNPINNED | RESIDENT)))
            })?,
            Op::Remap | Op::Reopen => bail!("not for one process alone"),
        }
        Ok(0)
    }

    /// Compares what a region can be asked with what it should be.
    fn compare(&self, region: usize, model: &Model) -> anyhow::Result<()> {
        let region = &self.regions[region].0;
        let found = region.statuses(0..PAGES as u64)?;
        if let Some((page, (found, expected))) = found
            .iter()
            .zip(model.status())
            .enumerate()
            .find(|(_, (found, expected))| *found != expected)
        {
            bail!("page {page} has status {found:#04x}, expected {expected:#04x}");
        }
        let found = region.counters()?;
        let count = |which: fn(&Page) -> bool| {
            let pages = model.pages.iter();
            pages.filter(|page| which(page)).count() as u64
        };
        let expected = Info {
            size: (PAGES * PAGE) as u64,
            allocated: model.allocated,
            purged: model.purged,
            resident: count(|page| page.resident),
            unpinned: count(|page| page.state != PINNED),
            // How often pages are touched is a matter of other tests.
            faults: found.faults,
            map_faults: found.map_faults,
            huge_faults: 0,
        };
        ensure!(found == expected, "{found:?}, expected {expected:?}");
        Ok(())
    }

    fn compare_content(&self) -> anyhow::Result<()> {
        for (number, ((region, _), model)) in self.regions.iter().zip(&self.models).enumerate() {
            content(region, model, 0..PAGES).with_context(|| format!("region {number}"))?;
        }
        Ok(())
    }
}

/// Compares all bytes of some pages, without a page being made.
fn content(region: &Region, model: &Model, pages: Range<usize>) -> anyhow::Result<()> {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let mut buffer = [0xaa; 8 * PAGE];

    for start in pages.clone().step_by(8) {
        let some = start..pages.end.min(start + 8);
        let bytes = &mut buffer[..some.len() * PAGE];
        let read = pread(region, bytes, (start * PAGE) as libc::off_t)?;
        ensure!(read == bytes.len(), "read {read} of {} bytes", bytes.len());

        for (page, bytes) in some.zip(bytes.chunks(PAGE)) {
            let found = (bytes[0], bytes[PAGE - 1]);
            let expected = model.pages[page].stamp;
            ensure!(
                found == expected,
                "page {page} reads {found:?}, expected {expected:?}"
            );
            ensure!(
                bytes[1..PAGE - 1] == ZEROS[1..PAGE - 1],
                "page {page} is torn"
            );
        }
    }
    Ok(())
}

/// Has a child say something before it ends. The text is all it said, and there
/// is none if it ended otherwise.
fn hear(body: impl FnOnce() -> String) -> anyhow::Result<Option<String>> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let child = spawn(|| {
        let text = body();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            rest = &rest[write(&writer, rest)?..];
        }
        Ok(())
    })?;
    drop::<OwnedFd>(writer);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    Ok(child.join().is_ok().then_some(text))
}

/// Has a child do something and tell its answer.
fn in_child(body: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<usize> {
    let heard = hear(|| match body() {
        Ok(answer) => answer.to_string(),
        Err(error) => format!("{error:#}"),
    })?;
    let heard = heard.context("the child died")?;
    heard.parse().map_err(|_| anyhow::anyhow!("{heard}"))
}

/// How a run failed.
#[derive(Debug)]
struct Failure {
    /// At which step.
    at: usize,
    why: String,
}

/// Does all steps on fresh regions.
fn replay(steps: &[Step]) -> Result<(), Failure> {
    let failure = |at, error: anyhow::Error| Failure {
        at,
        why: format!("{error:#}"),
    };
    let mut bench = Bench::new().map_err(|error| failure(0, error))?;
    // A short run can afford to look closely.
    let often = if steps.len() <= 8 { 1 } else { 50 };

    for (at, step) in steps.iter().enumerate() {
        let result = bench.step(*step, at).and_then(|()| {
            if (at + 1) % often == 0 || at + 1 == steps.len() {
                bench.compare_content()?;
            }
            Ok(())
        });
        result.map_err(|error| failure(at, error))?;
    }
    Ok(())
}

/// [`replay`] in a child, whose death is a failure like any other.
fn attempt(steps: &[Step]) -> anyhow::Result<Option<Failure>> {
    let heard = hear(|| match replay(steps) {
        Ok(()) => String::new(),
        Err(Failure { at, why }) => format!("{at} {why}"),
    })?;
    let Some(text) = heard else {
        return Ok(Some(Failure {
            at: steps.len() - 1,
            why: "the process died".into(),
        }));
    };
    if text.is_empty() {
        return Ok(None);
    }
    let (at, why) = text.split_once(' ').context("a step and a reason")?;
    Ok(Some(Failure {
        at: at.parse()?,
        why: why.into(),
    }))
}

/// Leaves out of a run that fails whatever can be left out. `fails` gives the
/// step at which a run does.
fn shorten(mut steps: Vec<Step>, mut fails: impl FnMut(&[Step]) -> Option<usize>) -> Vec<Step> {
    loop {
        let before = steps.clone();
        let mut size = steps.len().div_ceil(2);
        while size != 0 {
            let mut at = 0;
            while at < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(steps.len()));
                match (!fewer.is_empty()).then(|| fails(&fewer)).flatten() {
                    Some(last) => {
                        fewer.truncate(last + 1);
                        steps = fewer;
                    }
                    None => at += size,
                }
            }
            size /= 2;
        }
        let mut at = 0;
        while at < steps.len() {
            let simpler = steps[at].simpler().into_iter().find_map(|step| {
                let mut other = steps.clone();
                other[at] = step;
                fails(&other).map(|last| {
                    other.truncate(last + 1);
                    other
                })
            });
            match simpler {
                Some(other) => steps = other,
                None => at += 1,
            }
        }
        if steps == before {
            return steps;
        }
    }
}

fn list(steps: &[Step]) -> String {
    let lines: Vec<_> = steps.iter().map(|step| format!("  {step}\n")).collect();
    lines.concat()
}

fn run(seed: u64) -> anyhow::Result<()> {
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut steps: Vec<Step> = (0..STEPS).map(|_| random.step()).collect();
    let Some(first) = attempt(&steps)? else {
        return Ok(());
    };
    steps.truncate(first.at + 1);
    println!("fails: {}\n{}", first.why, list(&steps));

    let begin = Instant::now();
    let patience = time_limit(PATIENCE);
    let mut last = None;
    let mut runs = 0;
    let short = shorten(steps, |steps| {
        if begin.elapsed() > patience {
            return None;
        }
        runs += 1;
        let failure = attempt(steps).ok().flatten()?;
        let at = failure.at;
        last = Some(failure.why);
        Some(at)
    });
    let Some(why) = last else {
        bail!(
            "seed {seed}, step {}: {}; but it does not fail again",
            first.at,
            first.why
        );
    };
    bail!(
        "seed {seed}: {} steps of {} are enough, found by {runs} runs:\n{}{why}",
        short.len(),
        first.at + 1,
        list(&short)
    )
}

fn random_steps_do_what_the_model_does() -> anyhow::Result<()> {
    if let Some(seed) = SEED.get() {
        return run(*seed);
    }
    for seed in if is_debug_kernel() {
        SEEDS_DEBUG
    } else {
        SEEDS
    } {
        run(seed)?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    run(now.as_nanos() as u64)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let mut random = Random(1);
        let steps: Vec<Step> = (0..STEPS).map(|_| random.step()).collect();
        // As if the driver forgot page 7 of region 1 when it is pinned after it
        // was purged.
        let fails = |steps: &[Step]| {
            let mut unpinned = false;
            let mut purged = false;
            steps.iter().position(|step| {
                match step.op {
                    Op::PurgeAll => purged |= unpinned,
                    Op::Unpin(span) if step.region == 1 => unpinned |= span.pages().contains(&7),
                    Op::Pin(span) if step.region == 1 && span.pages().contains(&7) => {
                        return purged;
                    }
                    Op::Reopen if step.region == 1 => (unpinned, purged) = (false, false),
                    _ => {}
                }
                false
            })
        };
        assert!(fails(&steps).is_some());
        let short: Vec<String> = shorten(steps, fails).iter().map(Step::to_string).collect();
        assert_eq!(
            short,
            [
                "region 1: UNPIN 7..8",
                "region 0: PURGE_ALL_CACHES",
                "region 1: PIN 7..8",
            ]
        );
    }

    #[test]
    fn steps_are_within_the_region() {
        let mut random = Random(2);
        for _ in 0..10_000 {
            let step = random.step();
            for step in step.simpler().into_iter().chain([step]) {
                if let Op::Unpin(span) | Op::Pin(span) | Op::Write(span) | Op::Remove(span) =
                    step.op
                {
                    let pages = span.pages();
                    assert!(pages.start <= pages.end && pages.end <= PAGES, "{step}");
                }
            }
        }
    }
}
