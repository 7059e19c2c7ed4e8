// SPDX-License-Identifier: GPL-2.0-only

//! What happens where there is no memory, or the program's own cannot be
//! accessed: each allocation and each access of each operation is made to fail,
//! the first, the second, and so on until all have had their turn.
//!
//! Each operation is gone through several times: objects and accesses apart from
//! pages, as the latter come and go with the fill of slabs; and those in the
//! driver apart from all, by the addresses in the call trace. The former show
//! that it is the driver that comes to grief, the latter that it lives with
//! whatever the core makes of it. In the driver, everything behind the failure
//! fails once more too: what is tried a second time by other means, as arrays
//! do for their nodes, would otherwise never come to an error.

use std::fs;
use std::fs::File;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mremap;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::sendmsg;
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::sys::uio::pwrite;
use nix::sys::uio::readv;
use nix::sys::wait::Id;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitid;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Whence;
use nix::unistd::fork;
use nix::unistd::lseek;
use nix::unistd::read;

use crate::abi;
use crate::harness::skip;
use crate::harness::tests;
use crate::region::Info;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::group::Group;
use crate::tests::group::ROOT;
use crate::tests::process::sockets;

tests! {
    opening_and_setting_up @ 60,
    mapping_and_remapping @ 60 => "state.failed-mmap",
    touching @ 60,
    pinning @ 60 => "pin.no-leftover",
    reading_and_looking,
    purging_and_removing,
    forking @ 60,
    exiting,
    closing_needs_no_memory => "purge.close",
}

/// Which calls can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Allocations of kernel objects, and accesses to the program's memory.
    Objects,
    /// Allocations of pages.
    Pages,
}

impl Failing {
    /// Both.
    pub const EACH: [Self; 2] = [Self::Objects, Self::Pages];
}

/// What happens behind the nth call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// All goes well again: whoever tries twice does not notice.
    Works,
    /// All fails. Not for page faults, which the core repeats until they do not.
    Fails,
}

/// Says which call of the thread that opens it is to fail.
const NTH: &str = "/proc/thread-self/fail-nth";

/// Skips the test if this kernel cannot let anything fail.
fn possible() -> anyhow::Result<()> {
    if !Path::new(NTH).exists() {
        return skip("this kernel has no CONFIG_FAULT_INJECTION");
    }
    Ok(())
}

/// Where this kernel has the settings, if it can let things fail on purpose.
const SETTINGS: &str = "/sys/kernel/debug";

/// Lets calls of this thread fail.
pub struct Failures {
    nth: File,
    /// Whether what is behind the nth call fails.
    behind: File,
    what_behind: Behind,
    /// Settings to be restored: file and value.
    before: Vec<(String, String)>,
}

impl Failures {
    /// Of those whose call trace comes by one of these addresses of the kernel's, if there are
    /// any. A test is skipped here if this kernel cannot do so.
    pub fn new(
        failing: Failing,
        within: Option<&Range<u64>>,
        behind: Behind,
    ) -> anyhow::Result<Self> {
        possible()?;
        let nth = File::options().read(true).write(true).open(NTH)?;
        let mut failures = Self {
            nth,
            behind: File::options()
                .write(true)
                .open("/proc/self/make-it-fail")?,
            what_behind: behind,
            before: vec![],
        };
        for (kind, of) in [
            ("failslab", Failing::Objects),
            ("fail_usercopy", Failing::Objects),
            ("fail_page_alloc", Failing::Pages),
        ] {
            let within = match within {
                // No trace comes by there.
                _ if of != failing => 1..1,
                None => 0..u64::MAX,
                Some(within) => within.clone(),
            };
            // No report of each in the kernel log.
            failures.set(kind, "verbose", "0")?;
            failures.set(kind, "stacktrace-depth", "32")?;
            failures.set(kind, "require-start", &format!("{:#x}", within.start))?;
            failures.set(kind, "require-end", &format!("{:#x}", within.end))?;
            // Only in tasks that say so, see `at`.
            failures.set(kind, "task-filter", "Y")?;
            failures.set(kind, "times", "-1")?;
            let always = u8::from(behind == Behind::Fails) * 100;
            failures.set(kind, "probability", &always.to_string())?;
        }
        // By default, only what may not sleep can fail, and large pages.
        failures.set("failslab", "ignore-gfp-wait", "N")?;
        failures.set("fail_page_alloc", "ignore-gfp-wait", "N")?;
        failures.set("fail_page_alloc", "ignore-gfp-highmem", "N")?;
        failures.set("fail_page_alloc", "min-order", "0")?;
        Ok(failures)
    }

    /// None whose call trace comes by one of these addresses.
    pub fn but(mut self, without: &Range<u64>) -> anyhow::Result<Self> {
        for kind in ["failslab", "fail_usercopy", "fail_page_alloc"] {
            self.set(kind, "reject-start", &format!("{:#x}", without.start))?;
            self.set(kind, "reject-end", &format!("{:#x}", without.end))?;
        }
        Ok(self)
    }

    fn set(&mut self, kind: &str, setting: &str, value: &str) -> anyhow::Result<()> {
        let file = format!("{SETTINGS}/{kind}/{setting}");
        let before = fs::read_to_string(&file).with_context(|| file.clone())?;
        fs::write(&file, value).with_context(|| format!("{value} to {file}"))?;
        self.before.push((file, before));
        Ok(())
    }

    /// Calls `f`, of which the nth call fails. Gives what it gives, and whether
    /// it came so far.
    pub fn at<T>(&self, nth: usize, f: impl FnOnce() -> T) -> anyhow::Result<(T, bool)> {
        if self.what_behind == Behind::Fails {
            pwrite(&self.behind, b"1", 0)?;
        }
        pwrite(&self.nth, nth.to_string().as_bytes(), 0)?;
        let result = f();
        // While the first number is not used up, the second one does not count.
        if self.what_behind == Behind::Fails {
            pwrite(&self.behind, b"0", 0)?;
        }
        let reached = used_up(&self.nth);
        while pwrite(&self.nth, b"0", 0) == Err(Errno::EFAULT) {}
        Ok((result, reached?))
    }
}

/// Whether what this file stands for has had its failure.
fn used_up(nth: impl AsFd) -> nix::Result<bool> {
    let mut left = [0; 16];
    match pread(nth, &mut left, 0) {
        Ok(len) => Ok(left[..len].trim_ascii() == b"0"),
        // This was the nth.
        Err(Errno::EFAULT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        // The last one first: nothing may fail always and for everybody.
        for (file, value) in self.before.iter().rev() {
            if let Err(error) = fs::write(file, value) {
                panic!("{file}: {error}");
            }
        }
    }
}

/// Where the kernel has this function: up to the next one.
pub fn function(name: &str) -> anyhow::Result<Range<u64>> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
    let mut addresses = vec![];
    let mut start = None;
    for line in symbols.lines() {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next().unwrap_or(""), 16)?;
        if words.nth(1) == Some(name) {
            start = Some(address);
        }
        addresses.push(address);
    }
    let start = start.with_context(|| format!("the kernel has no function {name}"))?;
    let end = addresses.into_iter().filter(|address| *address > start);
    Ok(start..end.min().context("it is the last one")?)
}

/// Where the kernel has the driver.
pub fn driver() -> anyhow::Result<Range<u64>> {
    let modules = fs::read_to_string("/proc/modules").context("/proc/modules")?;
    let line = modules
        .lines()
        .find(|line| line.starts_with("ashmem "))
        .context("the module is not loaded")?;
    // ashmem 102400 0 - Live 0xffffffffc0600000 (OE)
    let word = |n| line.split_whitespace().nth(n).context("too short");
    let size: u64 = word(1)?.parse()?;
    let start = word(5)?.strip_prefix("0x").context("no address")?;
    let start = u64::from_str_radix(start, 16)?;
    Ok(start..start + size)
}

/// What a region looks like to everybody who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    /// Without the numbers of inodes and mounts, and without the counts of faults.
    fdinfo: Vec<String>,
    counters: Info,
    name: String,
    mask: i32,
    frozen: bool,
    /// Once it is frozen: each page's state, and its first byte.
    pages: Option<(String, Vec<u8>)>,
}

impl Look {
    fn at(region: &Region) -> anyhow::Result<Self> {
        let fdinfo = region.fdinfo()?;
        let given = ["mnt_id:", "ino:", "inode:", "faults:", "map_faults:"];
        let fdinfo = fdinfo
            .lines()
            .filter(|line| !given.iter().any(|key| line.starts_with(key)))
            .map(str::to_owned)
            .collect();
        let counters = region.counters()?;
        ensure!(
            region.info()? == counters,
            "fdinfo and GET_COUNTERS disagree"
        );
        let frozen = region.file_id().is_ok();
        let pages = frozen.then(|| pages(region, &counters)).transpose()?;
        Ok(Self {
            fdinfo,
            counters: Info {
                faults: 0,
                map_faults: 0,
                ..counters
            },
            name: region.name()?,
            mask: region.mask()?.bits(),
            frozen,
            pages,
        })
    }
}

/// State and first byte of the pages that are looked at: those of a block, and [`FAR`].
fn pages(region: &Region, counters: &Info) -> anyhow::Result<(String, Vec<u8>)> {
    let end = counters.size.div_ceil(PAGE as u64);
    let mut picture = String::new();
    let mut content = vec![];
    for part in [0..end.min(LOOK as u64), FAR as u64..end.min(FAR as u64 + 1)] {
        if part.is_empty() {
            continue;
        }
        picture += &region.status_picture(part.clone())?;
        for page in part {
            let mut byte = [0xaa];
            ensure!(pread(region, &mut byte, (page * PAGE as u64) as libc::off_t)? == 1);
            content.push(byte[0]);
        }
    }
    // Nothing else is ever touched or unpinned here.
    let count = |letters: &str| picture.chars().filter(|c| letters.contains(*c)).count() as u64;
    ensure!(count(":UP") == counters.resident, "{picture} {counters:?}");
    ensure!(count("uUpP") == counters.unpinned, "{picture} {counters:?}");
    Ok((picture, content))
}

/// A mapping of a region, by /proc/self/maps.
struct Mapped {
    start: u64,
    len: u64,
    rights: String,
    offset: u64,
}

impl Mapped {
    /// Whether these two are one for the program. The core may have cut them apart before what it
    /// wanted to do then failed.
    fn continues_in(&self, next: &Self) -> bool {
        self.start + self.len == next.start
            && self.offset + self.len == next.offset
            && self.rights == next.rights
    }

    /// All but the address.
    fn text(&self) -> String {
        format!("{:#x} {} {:#x}", self.len, self.rights, self.offset)
    }
}

/// All that can be seen of the regions of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    regions: Vec<Look>,
    /// See [`Mapped::text`].
    mappings: Vec<String>,
    descriptors: usize,
}

/// What an operation is done to.
struct Scene {
    regions: Vec<Region>,
    maps: Vec<Mapping>,
    /// What was made on the way, and is looked at no further.
    made: Vec<OwnedFd>,
    socket: Option<(OwnedFd, OwnedFd)>,
    buffer: Vec<u8>,
    _group: Option<Visit>,
}

impl Scene {
    fn new(regions: Vec<Region>, maps: Vec<Mapping>) -> Self {
        Self {
            regions,
            maps,
            made: Vec::with_capacity(4),
            socket: None,
            // All of it has memory.
            buffer: vec![0x55; 16 * PAGE],
            _group: None,
        }
    }

    fn region(&self) -> &Region {
        &self.regions[0]
    }

    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let regions = self
            .regions
            .iter()
            .map(Look::at)
            .collect::<Result<_, _>>()?;
        let mut mappings: Vec<Mapped> = vec![];
        for line in fs::read_to_string("/proc/self/maps")?.lines() {
            if !line.contains("/dev/ashmem") {
                continue;
            }
            // 7f32cd781000-7f32cd7c1000 rw-s 00000000 00:1e 1235    /dev/ashmem (deleted)
            let mut words = line.split_whitespace();
            let mut word = || words.next().context("too short");
            let (start, end) = word()?.split_once('-').context("one address")?;
            let start = u64::from_str_radix(start, 16)?;
            let len = u64::from_str_radix(end, 16)? - start;
            let rights = word()?.to_owned();
            let offset = u64::from_str_radix(word()?, 16)?;
            let new = Mapped {
                start,
                len,
                rights,
                offset,
            };
            match mappings.last_mut() {
                Some(last) if last.continues_in(&new) => last.len += len,
                _ => mappings.push(new),
            }
        }
        let mut mappings: Vec<_> = mappings.iter().map(Mapped::text).collect();
        mappings.sort();
        Ok(Snapshot {
            regions,
            mappings,
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
        })
    }
}

/// A stay in a memory cgroup of its own.
struct Visit(Option<(Group, Group)>);

impl Visit {
    fn new() -> anyhow::Result<Self> {
        let parent = Group::parent()?;
        let group = parent.child("visited")?;
        group.write("cgroup.procs", "0")?;
        Ok(Self(Some((group, parent))))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let home = fs::write(format!("{ROOT}/cgroup.procs"), "0");
        assert!(home.is_ok(), "back to {ROOT}: {home:?}");
        let (group, parent) = self.0.take().expect("only taken here");
        group.remove().expect("the group is empty");
        parent.remove().expect("its parent is empty");
    }
}

/// How an operation takes a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It says so, and nothing has changed; or it does without, and nothing
    /// shows.
    Whole,
    /// The core tries again, and nothing shows but one more fault.
    Again,
    /// What was done up to there stays.
    Partly,
}

/// An operation, and what its failures look like.
struct Operation {
    what: &'static str,
    prepare: fn() -> anyhow::Result<Scene>,
    run: fn(&mut Scene) -> nix::Result<usize>,
    outcome: Outcome,
    errors: &'static [Errno],
    /// How many allocations and accesses the driver cannot do without: of
    /// objects, and of pages.
    least: [usize; 2],
    /// How many more objects, where the first failure is made up for.
    twice: usize,
    /// Whether it comes to an end if everything fails from there on.
    ends: bool,
}

/// What each of its failures leads to; [`Operation::least`] of them are asked for.
fn go_through(operations: &[Operation]) -> anyhow::Result<()> {
    let driver = driver()?;
    for operation in operations {
        let what = operation.what;
        for (failing, least) in Failing::EACH.into_iter().zip(operation.least) {
            let mut ways = vec![(None, Behind::Works), (Some(&driver), Behind::Works)];
            if operation.ends {
                ways.push((Some(&driver), Behind::Fails));
            }
            for (within, behind) in ways {
                let failures = Failures::new(failing, within, behind)?;
                let failed = walk(operation, &failures, within.is_some())
                    .with_context(|| format!("{what}, {failing:?}, {within:x?}, {behind:?}"))?;
                if within.is_none() {
                    continue;
                }
                println!("{what}: {failing:?} of the driver failed {failed} times, {behind:?}");
                let least = match (failing, behind) {
                    (Failing::Objects, Behind::Fails) => least + operation.twice,
                    _ => least,
                };
                ensure!(failed >= least, "{what}: {failed} times only, not {least}");
            }
        }
    }
    Ok(())
}

/// What an operation gives and leaves if nothing fails.
struct After {
    value: usize,
    snapshot: Snapshot,
    faults: u64,
}

fn undisturbed(operation: &Operation) -> anyhow::Result<After> {
    let mut scene = (operation.prepare)()?;
    let faults = faults(&scene)?;
    let value =
        (operation.run)(&mut scene).with_context(|| format!("{}, undisturbed", operation.what))?;
    let faults = self::faults(&scene)? - faults;
    Ok(After {
        value,
        snapshot: scene.snapshot()?,
        faults,
    })
}

fn faults(scene: &Scene) -> anyhow::Result<u64> {
    let of = |region: &Region| region.counters().map(|counters| counters.faults);
    Ok(scene.regions.iter().map(of).sum::<nix::Result<u64>>()?)
}

/// How often what went unnoticed is made to fail once more.
const ONCE_MORE: usize = 3;

/// Lets one after the other fail; gives how many of them the operation had to take notice of.
fn walk(operation: &Operation, failures: &Failures, in_driver: bool) -> anyhow::Result<usize> {
    let after = undisturbed(operation)?;
    let mut failed = 0;
    let mut nth = 1;
    let mut unnoticed = 0;
    loop {
        ensure!(nth < 1000, "it never comes to an end");
        let mut scene = (operation.prepare)()?;
        let before = scene.snapshot()?;
        let faults = faults(&scene)?;
        let (result, reached) = failures.at(nth, || (operation.run)(&mut scene))?;
        let found = scene.snapshot()?;
        let faults = self::faults(&scene)? - faults;

        let noticed = check(
            operation,
            &result,
            reached,
            in_driver,
            (&before, &found, &after),
            faults,
        )
        .with_context(|| format!("number {nth}: {result:?}"))?;
        failed += noticed;
        if !reached {
            break;
        }
        // It may have been a page for a slab, which is asked for once in many times, and in
        // several sizes: what comes behind it would be passed over with the next number.
        if in_driver && noticed == 0 && unnoticed < ONCE_MORE {
            unnoticed += 1;
        } else {
            unnoticed = 0;
            nth += 1;
        }
    }
    Ok(failed)
}

/// Whether one run was as it should be; gives 1 if it had to take notice of the failure, else 0.
fn check(
    operation: &Operation,
    result: &nix::Result<usize>,
    reached: bool,
    in_driver: bool,
    (before, found, after): (&Snapshot, &Snapshot, &After),
    faults: u64,
) -> anyhow::Result<usize> {
    if let Err(error) = result {
        ensure!(reached, "without a failure");
        ensure!(operation.errors.contains(error), "not the right error");
    }
    let outcome = if reached {
        operation.outcome
    } else {
        Outcome::Whole
    };
    match (outcome, result) {
        (Outcome::Whole, Err(_)) => {
            ensure!(found == before, "before {before:?}\nand now {found:?}");
            Ok(1)
        }
        (Outcome::Whole | Outcome::Again, Ok(value)) => {
            ensure!(*value == after.value, "expected {}", after.value);
            let after_it = &after.snapshot;
            ensure!(found == after_it, "expected {after_it:?}\nfound {found:?}");
            let again = faults.saturating_sub(after.faults) as usize;
            if in_driver && outcome == Outcome::Again {
                ensure!(again <= 1, "{again} faults too many");
            }
            Ok(again)
        }
        (Outcome::Again, Err(_)) => bail!("nothing to be told"),
        (Outcome::Partly, result) => {
            for ((before, found), after) in before
                .regions
                .iter()
                .zip(&found.regions)
                .zip(&after.snapshot.regions)
            {
                // That each page is in one of the two states is what `pages` looks after.
                let grown = |look: &Look| look.counters.allocated - look.counters.resident;
                ensure!(grown(found) == grown(before), "{before:?}\n{found:?}");
                ensure!(
                    (before.counters.resident..=after.counters.resident)
                        .contains(&found.counters.resident)
                );
                ensure!((&before.name, before.mask) == (&found.name, found.mask));
                ensure!(before.counters.unpinned == found.counters.unpinned);
            }
            // Some of the core's loops try once more themselves.
            let noticed =
                *result != Ok(after.value) || *found != after.snapshot || faults > after.faults;
            Ok(usize::from(noticed))
        }
    }
}

/// Pages of a region here.
const N: usize = 12;
/// Pages that are looked at.
const LOOK: usize = 16;
/// Folios that they lie in, touched in sequence, and so do the first [`N`]: pages 0, 1, 2 and 3, 4 to 7,
/// and those from 8 on.
const FOLIOS: usize = 5;
/// One that no other page's block holds, nor any near it.
const FAR: usize = 1 << 17;
/// What the tests write.
const X: u8 = 0x5a;

fn empty() -> anyhow::Result<Scene> {
    Ok(Scene::new(vec![], vec![]))
}

fn fresh() -> anyhow::Result<Scene> {
    let region = Region::open()?;
    region.set_name(c"before")?;
    Ok(Scene::new(vec![region], vec![]))
}

/// One that was never mapped.
fn sized() -> anyhow::Result<Scene> {
    let scene = fresh()?;
    scene.region().set_size(N * PAGE)?;
    Ok(scene)
}

/// One that has pages of all sorts, and this mapping.
const MIXED: &str = ":p::p::pPppU";

fn mixed() -> anyhow::Result<Scene> {
    let mut scene = sized()?;
    let region = scene.region();
    let map = region.map(N)?;
    map.stamp(0..N, X);
    region.unpin(1..2)?;
    region.unpin(4..5)?;
    region.unpin(7..11)?;
    region.purge_all()?;
    map.stamp(8..9, X);
    region.unpin(11..12)?;
    let found = region.status_picture(0..N as u64)?;
    ensure!(found == MIXED, "{found}");
    scene.maps.push(map);
    Ok(scene)
}

/// One that has no page, and much room; and a second mapping of it, a private one.
fn sparse() -> anyhow::Result<Scene> {
    let region = Region::sized(FAR + 1)?;
    let len = (FAR + 1) * PAGE;
    let map = |flags: MapFlags| region.map_as(len, RW, flags | MapFlags::MAP_NORESERVE);
    let maps = vec![map(MapFlags::MAP_SHARED)?, map(MapFlags::MAP_PRIVATE)?];
    Ok(Scene::new(vec![region], maps))
}

/// The same with one page.
fn begun() -> anyhow::Result<Scene> {
    let scene = sparse()?;
    scene.maps[0].write(0, X);
    Ok(scene)
}

/// The same, unpinned: faults have to tell.
fn begun_unpinned() -> anyhow::Result<Scene> {
    let scene = begun()?;
    scene.region().unpin(0..LOOK)?;
    Ok(scene)
}

/// One without unpinned pages, of a process that goes into a new memory cgroup.
fn visiting() -> anyhow::Result<Scene> {
    let mut scene = sized()?;
    let map = scene.region().map(N)?;
    map.stamp(0..N, X);
    scene.maps.push(map);
    scene._group = Some(Visit::new()?);
    Ok(scene)
}

/// An operation for which only the driver itself needs memory, or the program's.
const fn whole(
    what: &'static str,
    prepare: fn() -> anyhow::Result<Scene>,
    run: fn(&mut Scene) -> nix::Result<usize>,
    errors: &'static [Errno],
    least: [usize; 2],
) -> Operation {
    Operation {
        what,
        prepare,
        run,
        outcome: Outcome::Whole,
        errors,
        least,
        twice: 0,
        ends: true,
    }
}

const NOTHING: &[Errno] = &[];
const NO_MEMORY: &[Errno] = &[Errno::ENOMEM];
const FAULT: &[Errno] = &[Errno::EFAULT];
const EITHER: &[Errno] = &[Errno::ENOMEM, Errno::EFAULT];

fn opening_and_setting_up() -> anyhow::Result<()> {
    go_through(&[
        whole(
            "open",
            empty,
            |scene| {
                let fd = open(NODE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
                scene.made.push(fd);
                Ok(0)
            },
            EITHER,
            [1, 0],
        ),
        whole(
            "SET_NAME",
            fresh,
            |scene| scene.region().set_name(c"after").map(|()| 0),
            FAULT,
            [1, 0],
        ),
        whole(
            "GET_NAME",
            fresh,
            |scene| {
                scene
                    .region()
                    .ioctl(abi::ABI_GET_NAME, scene.buffer.as_ptr() as usize)?;
                Ok(0)
            },
            FAULT,
            [1, 0],
        ),
        whole(
            "SET_SIZE",
            fresh,
            |scene| scene.region().set_size(5 * PAGE).map(|()| 0),
            NOTHING,
            [0, 0],
        ),
        whole(
            "SET_PROT_MASK",
            fresh,
            |scene| scene.region().set_mask(ProtFlags::PROT_READ).map(|()| 0),
            NOTHING,
            [0, 0],
        ),
        whole(
            "GET_SIZE and GET_PROT_MASK",
            sized,
            |scene| Ok(scene.region().size()? + scene.region().mask()?.bits() as usize),
            NOTHING,
            [0, 0],
        ),
        whole(
            "GET_FILE_ID",
            mixed,
            |scene| scene.region().file_id().map(|_| 0),
            FAULT,
            [1, 0],
        ),
        whole(
            "SCM_RIGHTS",
            || {
                let mut scene = mixed()?;
                scene.socket = Some(sockets().context("sockets")?);
                Ok(scene)
            },
            |scene| {
                let (here, _) = scene.socket.as_ref().expect("it was made");
                let fds = [scene.region().as_fd().as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&fds)];
                let text = [IoSlice::new(b"f")];
                sendmsg::<UnixAddr>(here.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)
            },
            &[Errno::ENOMEM, Errno::EFAULT, Errno::ENOBUFS],
            [0, 0],
        ),
    ])
}

/// Maps the scene's region, and keeps the mapping.
fn map(scene: &mut Scene, flags: MapFlags) -> nix::Result<usize> {
    let map = scene.region().map_as(N * PAGE, RW, flags)?;
    scene.maps.push(map);
    Ok(0)
}

fn mapping_and_remapping() -> anyhow::Result<()> {
    const POPULATE: MapFlags = MapFlags::MAP_SHARED.union(MapFlags::MAP_POPULATE);

    go_through(&[
        whole(
            // An inode, a name and a file; and three more for what it reserves.
            "first mmap",
            sized,
            |scene| map(scene, MapFlags::MAP_SHARED),
            NO_MEMORY,
            [6, 0],
        ),
        whole(
            "first mmap, a private one",
            sized,
            |scene| map(scene, MapFlags::MAP_PRIVATE),
            NO_MEMORY,
            [6, 0],
        ),
        whole(
            "another mmap",
            mixed,
            |scene| map(scene, MapFlags::MAP_SHARED),
            NO_MEMORY,
            [0, 0],
        ),
        whole(
            "another mmap, a private one",
            mixed,
            |scene| map(scene, MapFlags::MAP_PRIVATE),
            NO_MEMORY,
            [0, 0],
        ),
        Operation {
            what: "first mmap, with MAP_POPULATE",
            prepare: sized,
            run: |scene| map(scene, POPULATE),
            outcome: Outcome::Partly,
            errors: NO_MEMORY,
            least: [6 + 1, FOLIOS],
            twice: 0,
            ends: true,
        },
        Operation {
            what: "another mmap, with MAP_POPULATE",
            prepare: mixed,
            run: |scene| map(scene, POPULATE),
            outcome: Outcome::Partly,
            errors: NO_MEMORY,
            least: [0, 5],
            twice: 0,
            ends: true,
        },
        whole(
            "munmap of the middle",
            mixed,
            |scene| scene.maps[0].unmap(3..5).map(|()| 0),
            NO_MEMORY,
            [0, 0],
        ),
        whole(
            "mprotect of the middle",
            mixed,
            |scene| {
                let page = scene.maps[0].page(3);
                // SAFETY: It can be read still, and nobody has a reference to it.
                unsafe { nix::sys::mman::mprotect(page, 2 * PAGE, ProtFlags::PROT_READ) }
                    .map(|()| 0)
            },
            NO_MEMORY,
            [0, 0],
        ),
        whole(
            "mremap that moves",
            || {
                let scene = mixed()?;
                // Nothing can grow here.
                scene
                    .region()
                    .map_onto(&scene.maps[0], 6, 0..1, MapFlags::MAP_FIXED)?;
                Ok(scene)
            },
            |scene| {
                let old = scene.maps[0].page(0);
                let to = MRemapFlags::MREMAP_MAYMOVE;
                // SAFETY: Nobody has a reference to what moves.
                let base = unsafe { mremap(old, 6 * PAGE, N * PAGE, to, None) }?;
                // SAFETY: The kernel just made it.
                let moved = unsafe { Mapping::from_raw(base, N * PAGE) };
                scene.maps.push(moved);
                Ok(0)
            },
            NO_MEMORY,
            [0, 0],
        ),
    ])
}

fn again(
    what: &'static str,
    prepare: fn() -> anyhow::Result<Scene>,
    run: fn(&mut Scene) -> nix::Result<usize>,
    least: [usize; 2],
) -> Operation {
    Operation {
        what,
        prepare,
        run,
        outcome: Outcome::Again,
        errors: NOTHING,
        least,
        twice: 0,
        ends: false,
    }
}

fn touching() -> anyhow::Result<()> {
    go_through(&[
        again(
            // The block; the page.
            "first write of all",
            sparse,
            |scene| {
                scene.maps[0].write(0, X);
                Ok(0)
            },
            [1, 1],
        ),
        again(
            "first read of all",
            sparse,
            |scene| Ok(scene.maps[0].read(0).into()),
            [1, 1],
        ),
        again(
            "first write of a block",
            begun,
            |scene| {
                scene.maps[0].write(FAR * PAGE, X);
                Ok(0)
            },
            [1, 1],
        ),
        again(
            "first read of a block",
            begun,
            |scene| Ok(scene.maps[0].read(FAR * PAGE).into()),
            [1, 1],
        ),
        again(
            "write of another page",
            begun,
            |scene| {
                scene.maps[0].write(3 * PAGE, X);
                Ok(0)
            },
            [0, 1],
        ),
        again(
            "write of an unpinned page",
            begun_unpinned,
            |scene| {
                scene.maps[0].write(3 * PAGE, X);
                Ok(0)
            },
            [0, 1],
        ),
        again(
            "write of a purged page",
            mixed,
            |scene| {
                scene.maps[0].write(7 * PAGE, X);
                Ok(0)
            },
            [0, 1],
        ),
        again(
            "private read",
            begun,
            |scene| Ok(scene.maps[1].read(FAR * PAGE).into()),
            [1, 1],
        ),
        again(
            "private write of a hole",
            begun,
            |scene| {
                scene.maps[1].write(FAR * PAGE, X);
                Ok(0)
            },
            [0, 0],
        ),
        again(
            "private write of a page",
            begun,
            |scene| {
                scene.maps[1].write(0, X);
                Ok(scene.maps[1].read(1).into())
            },
            [0, 0],
        ),
        Operation {
            what: "MADV_POPULATE_WRITE",
            prepare: sparse,
            run: |scene| {
                scene.maps[0]
                    .advise(0..LOOK, libc::MADV_POPULATE_WRITE)
                    .map(|()| 0)
            },
            outcome: Outcome::Partly,
            errors: NO_MEMORY,
            least: [1, FOLIOS],
            twice: 0,
            ends: true,
        },
        Operation {
            what: "MADV_POPULATE_WRITE of a block's first page",
            prepare: begun,
            run: |scene| {
                scene.maps[0]
                    .advise(FAR..FAR + 1, libc::MADV_POPULATE_WRITE)
                    .map(|()| 0)
            },
            outcome: Outcome::Partly,
            errors: NO_MEMORY,
            least: [1, 1],
            // The nodes of two arrays that have one page far from it.
            twice: 2 * 3,
            ends: true,
        },
        Operation {
            what: "MADV_POPULATE_READ, of a private mapping",
            prepare: sparse,
            run: |scene| {
                scene.maps[1]
                    .advise(0..LOOK, libc::MADV_POPULATE_READ)
                    .map(|()| 0)
            },
            outcome: Outcome::Partly,
            errors: NO_MEMORY,
            least: [1, FOLIOS],
            twice: 0,
            ends: true,
        },
    ])
}

fn pinning() -> anyhow::Result<()> {
    const PAGE_64: u64 = PAGE as u64;

    go_through(&[
        whole(
            // An argument; for each range a node of the tree and one of the list.
            "UNPIN of three gaps",
            mixed,
            |scene| scene.region().unpin(0..N).map(|()| 0),
            EITHER,
            [1 + 2 * 3, 0],
        ),
        whole(
            "UNPIN of one gap",
            mixed,
            |scene| scene.region().unpin(1..4).map(|()| 0),
            EITHER,
            [1 + 2, 0],
        ),
        whole(
            "UNPIN_RANGE",
            mixed,
            |scene| scene.region().unpin_wide(0, 0).map(|()| 0),
            EITHER,
            [1 + 2 * 3, 0],
        ),
        Operation {
            // The core's lists go on asking for the nodes of their array.
            ends: false,
            ..whole(
                // And what there is one of for the cgroup: a node and the object itself. Which of
                // the lists for it are there depends on cgroups that were there before.
                "UNPIN, the first in its memory cgroup",
                visiting,
                |scene| scene.region().unpin(1..4).map(|()| 0),
                EITHER,
                [1 + 2 + 2, 0],
            )
        },
        whole(
            "PIN within a range",
            mixed,
            |scene| scene.region().pin(8..10).map(usize::from),
            EITHER,
            [1 + 2, 0],
        ),
        whole(
            "PIN of several ranges, and of a part of one",
            mixed,
            |scene| scene.region().pin(1..9).map(usize::from),
            EITHER,
            [1 + 2, 0],
        ),
        whole(
            "PIN_RANGE of all",
            mixed,
            |scene| scene.region().pin_wide(0, 0).map(usize::from),
            EITHER,
            [1 + 2, 0],
        ),
        whole(
            "GET_PIN_STATUS",
            mixed,
            |scene| scene.region().pinned_bytes(0, 0).map(usize::from),
            FAULT,
            [1, 0],
        ),
        whole(
            "GET_RANGE_PIN_STATUS",
            mixed,
            |scene| {
                scene
                    .region()
                    .pinned_wide(2 * PAGE_64, PAGE_64)
                    .map(usize::from)
            },
            FAULT,
            [1, 0],
        ),
    ])
}

fn reading_and_looking() -> anyhow::Result<()> {
    go_through(&[
        whole(
            "GET_PAGE_STATUS",
            mixed,
            |scene| {
                let status = scene.buffer.as_ptr() as usize;
                scene.region().page_status(0, 0, status).map(|()| 0)
            },
            FAULT,
            [2, 0],
        ),
        whole(
            "GET_COUNTERS",
            mixed,
            |scene| Ok(scene.region().counters()?.resident as usize),
            FAULT,
            [1, 0],
        ),
        whole(
            "SEEK_DATA and SEEK_HOLE",
            mixed,
            |scene| {
                let data = lseek(scene.region(), PAGE as libc::off_t, Whence::SeekData)?;
                let hole = lseek(scene.region(), data, Whence::SeekHole)?;
                Ok((data * 1000 + hole) as usize)
            },
            NOTHING,
            [0, 0],
        ),
        whole(
            "fdinfo",
            mixed,
            |scene| {
                let path = format!("/proc/self/fdinfo/{}", scene.region().as_fd().as_raw_fd());
                let errno = |error: std::io::Error| {
                    Errno::from_raw(error.raw_os_error().expect("of the kernel"))
                };
                let mut file = File::open(path).map_err(errno)?;
                file.read(&mut scene.buffer).map_err(errno)?;
                Ok(0)
            },
            EITHER,
            [0, 0],
        ),
    ])?;
    short_reads()
}

/// read(2) and its kin say how far they came.
fn short_reads() -> anyhow::Result<()> {
    type Reading = fn(&Region, &mut [u8]) -> nix::Result<usize>;
    let ways: [(&str, Reading, bool); 3] = [
        ("read", |region, buffer| read(region, buffer), true),
        ("pread", |region, buffer| pread(region, buffer, 0), false),
        (
            "readv",
            |region, buffer| {
                let (one, two) = buffer.split_at_mut(3 * PAGE + 100);
                readv(region, &mut [IoSliceMut::new(one), IoSliceMut::new(two)])
            },
            true,
        ),
    ];
    let driver = driver()?;
    for (what, way, moves) in ways {
        for within in [Some(&driver), None] {
            let failures = Failures::new(Failing::Objects, within, Behind::Works)?;
            let mut failed = 0;
            for nth in 1.. {
                ensure!(nth < 1000, "{what}: never comes to an end");
                let mut scene = mixed()?;
                let before = scene.snapshot()?;
                let mut buffer = std::mem::take(&mut scene.buffer);
                let (result, reached) = failures.at(nth, || way(scene.region(), &mut buffer))?;
                let copied = match result {
                    Ok(copied) => copied,
                    Err(Errno::EFAULT | Errno::ENOMEM) if reached => 0,
                    Err(error) => bail!("{what}, {nth}: {error}"),
                };
                ensure!(reached || copied == N * PAGE, "{what}: {copied}");
                failed += usize::from(copied < N * PAGE);
                for (page, letter) in MIXED.chars().enumerate() {
                    let expected = if ":UP".contains(letter) { X } else { 0 };
                    let at = page * PAGE;
                    ensure!(
                        at >= copied || buffer[at] == expected,
                        "{what}, {nth}: page {page} of {copied} bytes"
                    );
                }
                let at = lseek(scene.region(), 0, Whence::SeekCur)?;
                let moved = if moves { copied } else { 0 };
                ensure!(
                    at as usize == moved,
                    "{what}, {nth}: at {at} after {copied}"
                );
                lseek(scene.region(), 0, Whence::SeekSet)?;
                let found = scene.snapshot()?;
                ensure!(found == before, "before {before:?}\nand now {found:?}");
                if !reached {
                    break;
                }
            }
            println!("{what}: came to an early end {failed} times");
            // Zeros are not written by what can be made to fail.
            let resident = MIXED.chars().filter(|c| ":UP".contains(*c)).count();
            ensure!(failed >= resident, "{what}: only {failed} times");
        }
    }
    Ok(())
}

fn purging_and_removing() -> anyhow::Result<()> {
    go_through(&[
        whole(
            "PURGE_ALL_CACHES",
            mixed,
            |scene| scene.region().purge_all(),
            NOTHING,
            [0, 0],
        ),
        whole(
            "MADV_REMOVE",
            mixed,
            |scene| scene.maps[0].advise(2..9, libc::MADV_REMOVE).map(|()| 0),
            NO_MEMORY,
            [0, 0],
        ),
        whole(
            "MADV_DONTNEED",
            mixed,
            |scene| scene.maps[0].advise(0..N, libc::MADV_DONTNEED).map(|()| 0),
            NO_MEMORY,
            [0, 0],
        ),
    ])
}

/// Starts a child that ends at once, and waits for it.
fn fork_and_end(scene: &mut Scene) -> nix::Result<usize> {
    // SAFETY: The child does nothing but to leave.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let found = scene.maps[0].read(0);
            // SAFETY: It takes a number.
            unsafe { libc::_exit(found.into()) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => Ok(code as usize),
            _ => Err(Errno::ECHILD),
        },
    }
}

fn forking() -> anyhow::Result<()> {
    possible()?;
    let operation = whole(
        "fork",
        mixed,
        fork_and_end,
        &[Errno::ENOMEM, Errno::EFAULT, Errno::EAGAIN],
        [0, 0],
    );
    // Where the mappings are copied, or else it takes too long.
    let copying = function("copy_mm").or_else(|_| function("dup_mm"))?;
    for failing in Failing::EACH {
        let failures = Failures::new(failing, Some(&copying), Behind::Works)?;
        let failed =
            walk(&operation, &failures, false).with_context(|| format!("fork, {failing:?}"))?;
        println!("fork: {failing:?} failed {failed} times");
        ensure!(failed >= 2, "{failing:?}: only {failed} times");
    }
    Ok(())
}

fn exiting() -> anyhow::Result<()> {
    for failing in Failing::EACH {
        let _failures = Failures::new(failing, None, Behind::Works)?;
        for nth in 1.. {
            ensure!(nth < 1000, "it never comes to an end");
            let scene = mixed()?;
            let before = scene.snapshot()?;
            // SAFETY: This program has one thread, so the child may do everything.
            let child = match unsafe { fork() }? {
                ForkResult::Parent { child } => child,
                ForkResult::Child => {
                    let code = match end_with_a_failure(nth) {
                        Ok(never) => match never {},
                        Err(error) => {
                            eprintln!("in a child: {error:?}");
                            1
                        }
                    };
                    process::exit(code)
                }
            };
            let how = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(child), how)?;
            let reached = used_up(File::open(format!("/proc/{child}/fail-nth"))?)?;
            let status = waitpid(child, None)?;
            ensure!(status == WaitStatus::Exited(child, 0), "{nth}: {status:?}");
            ensure!(scene.snapshot()? == before, "{failing:?} {nth}");
            // The child had a region that was all unpinned, of which nothing is left.
            ensure!(scene.region().purge_all()? == 1, "{failing:?} {nth}");
            if !reached {
                println!("exit: {failing:?} failed {} times", nth - 1);
                break;
            }
        }
    }
    Ok(())
}

fn end_with_a_failure(nth: usize) -> anyhow::Result<std::convert::Infallible> {
    let file = File::options().write(true).open(NTH)?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.stamp(0..N, X);
    region.unpin(0..N)?;
    pwrite(file, nth.to_string().as_bytes(), 0)?;
    // SAFETY: It takes a number.
    unsafe { libc::_exit(0) }
}

fn closing_needs_no_memory() -> anyhow::Result<()> {
    let other = Region::open()?;
    for failing in Failing::EACH {
        let failures = Failures::new(failing, None, Behind::Works)?;
        for nth in 1..20 {
            let mut scene = mixed()?;
            let region = scene.regions.remove(0);
            let ((), reached) = failures.at(nth, || drop(region))?;
            ensure!(!reached, "{failing:?} {nth} of close(2) failed");
            // All was pinned: nobody can take it from the mapping any more.
            ensure!(other.purge_all()? == 0);
            let found = scene.maps[0].picture(X);
            ensure!(found == "x0xx0xx0x00x", "{found}");
        }
    }
    Ok(())
}
