// SPDX-License-Identifier: GPL-2.0-only

//! Loading, unloading, and parameters.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use nix::kmod::delete_module;
use nix::kmod::finit_module;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::stat::makedev;
use nix::sys::stat::mknod;
use nix::sys::uio::pread;
use nix::sys::wait::WaitStatus;
use nix::unistd::getpid;
use object::Object;
use object::ObjectSection;

use crate::abi;
use crate::harness::skip;
use crate::harness::tests;
use crate::kmsg::KernelLog;
use crate::kmsg::Report;
use crate::kmsg::expect;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts;
use crate::tests::failing::Behind;
use crate::tests::failing::Failing;
use crate::tests::failing::Failures;
use crate::tests::failing::driver;
use crate::tests::failing::function;
use crate::tests::group;
use crate::tests::group::groups;
use crate::tests::names::line_at;
use crate::tests::pin_model;
use crate::tests::process::dies_of;
use crate::tests::process::spawn;
use crate::tests::process::until;
use crate::tests::reclaim::number;
use crate::uring::Ring;

tests! {
    rmmod_is_refused_while_open_or_mapped,
    rmmod_is_refused_while_somebody_holds_an_inode,
    counts_are_those_of_single_pages_with_max_order_0 @ 120,
    max_pages_is_a_limit_that_purges_first => "limit.cap" "limit.cap-purges",
    limit_is_met_by_those_who_have_something_to_give => "limit.cap-purges" "purge.dma",
    default_limit_is_half_of_ram @ 60 => "limit.cap",
    strict_unpin_asks_for_write_permission => "pin.strict",
    largest_order_is_less_than_that_of_huge_pages,
    huge_pages_are_for_none_those_who_ask_or_all,
    fifty_lives_leave_nothing_behind @ 120,
    no_failed_fault_counts_against_the_limit @ 60 => "limit.cap",
    loading_may_fail_at_each_step @ 120,
    a_second_driver_is_refused,
}

fn unload() -> nix::Result<()> {
    delete_module(c"ashmem", DeleteModuleFlags::O_NONBLOCK)
}

/// Unloads it once what was just closed is gone: the last reference to a file
/// may be dropped by a worker of the kernel a moment later.
pub fn unload_soon() -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match unload() {
            Err(Errno::EAGAIN) if started.elapsed() < Duration::from_secs(5) => {
                sleep(Duration::from_millis(10));
            }
            result => return result.context("rmmod"),
        }
    }
}

pub fn load(parameters: &CStr) -> anyhow::Result<()> {
    let file = File::open("/lib/ashmem.ko")?;
    finit_module(&file, parameters, ModuleInitFlags::empty()).context("insmod")
}

/// Runs `body` with the module loaded with these parameters, and leaves it
/// loaded without any.
fn with(parameters: &CStr, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    unload_soon()?;
    let result = load(parameters).and_then(|()| {
        let result = body();
        unload_soon()?;
        result
    });
    load(c"")?;
    result
}

fn rmmod_is_refused_while_open_or_mapped() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    ensure!(unload() == Err(Errno::EAGAIN), "with an open descriptor");
    let map = region.map(2)?;
    map.stamp(0..2, 1);
    drop(region);
    ensure!(unload() == Err(Errno::EAGAIN), "with a mapping");
    sleep(Duration::from_millis(200));
    ensure!(unload() == Err(Errno::EAGAIN), "with a mapping only");
    map.stamp(0..2, 2);
    drop(map);
    unload_soon()?;
    ensure!(Region::open().is_err(), "the node is still there");
    load(c"")
}

fn counts_are_those_of_single_pages_with_max_order_0() -> anyhow::Result<()> {
    with(c"max_order=0", || {
        for test in counts::TESTS.iter().chain(pin_model::TESTS) {
            println!("{}", test.name);
            let child = spawn(|| {
                counts::MAX_ORDER.store(0, Ordering::Relaxed);
                (test.run)()
            })?;
            child.join().context(test.name)?;
        }
        Ok(())
    })
}

/// By its path alone, which is no use of the module, though its operations are the module's.
fn rmmod_is_refused_while_somebody_holds_an_inode() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..2, 1);
    let path = format!(
        "/proc/self/map_files/{:x}-{:x}",
        map.base(),
        map.base() + map.len()
    );
    let held = open(path.as_str(), OFlag::O_PATH, Mode::empty()).context("O_PATH")?;
    drop((map, region));
    ensure!(
        unload() == Err(Errno::EAGAIN),
        "with a descriptor of its file"
    );
    ensure!(fstat(&held)?.st_size as usize == 2 * PAGE);
    drop(held);
    unload_soon()?;
    load(c"")
}

fn max_pages_is_a_limit_that_purges_first() -> anyhow::Result<()> {
    with(c"max_pages=100", || {
        let one = Region::sized(80)?;
        let map = one.map(80)?;
        map.stamp(0..80, 1);
        let two = Region::sized(80)?;
        let other = two.map(80)?;
        other.stamp(0..20, 1);
        dies_of(Signal::SIGBUS, || other.write(20 * PAGE, 1))?;
        // What has no page needs none: copies are no pages of the region.
        let private = two.map_as(80 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
        private.stamp(20..80, 1);
        ensure!(pread(&two, &mut [0], 30 * PAGE as libc::off_t)? == 1);
        // What may be purged makes room.
        one.unpin(40..80)?;
        other.stamp(20..40, 1);
        let (purged, resident) = (one.info()?.purged, one.info()?.resident);
        ensure!(
            purged >= 20 && resident == 80 - purged,
            "purged {purged}, resident {resident}"
        );
        ensure!(map.read_pages(0..40) == 40, "pinned content");
        ensure!(!one.pin(0..40)? && one.pin(40..80)?);
        let has = || -> anyhow::Result<u64> { Ok(one.info()?.resident + two.info()?.resident) };
        let before = has()?;
        ensure!(before <= 100, "{before} pages of 100");
        // What is removed or freed can be had again, exactly that much.
        map.advise(0..10, libc::MADV_REMOVE)?;
        ensure!(has()? == before - 10);
        let mut next = 40;
        while has()? < 100 {
            other.stamp(next..next + 1, 1);
            next += 1;
        }
        ensure!(has()? == 100);
        // The last fault may have taken more pages than it was for.
        next += two
            .statuses(next as u64..80)?
            .iter()
            .take_while(|status| u32::from(**status) & abi::ASHMEM_PAGE_RESIDENT != 0)
            .count();
        dies_of(Signal::SIGBUS, || other.write(next * PAGE, 1))?;
        drop((map, one));
        other.stamp(next..80, 1);
        ensure!(two.info()?.resident == 80);
        Ok(())
    })
}

fn limit_is_met_by_those_who_have_something_to_give() -> anyhow::Result<()> {
    with(c"max_pages=400", || {
        let groups = groups()?;
        // The oldest ranges by far, and more of them than anybody looks at cgroups; a device has
        // every page.
        let held = Region::sized(200)?;
        let in_held = held.map(200)?;
        in_held.stamp(0..200, 1);
        let ring = Ring::new()?;
        ring.register(&in_held, 0..200)?;
        groups.0.run(|| {
            for page in (0..200).step_by(2) {
                held.unpin(page..page + 1)?;
            }
            Ok(())
        })?;
        // Somebody else's, which may go.
        let given = Region::sized(100)?;
        let in_given = given.map(100)?;
        in_given.stamp(0..100, 1);
        groups.1.run(|| Ok(given.unpin(0..100)?))?;

        let wanted = Region::sized(180)?;
        wanted.map(180)?.stamp(0..180, 1);
        let (kept, purged) = (held.info()?, given.info()?.purged);
        ensure!((kept.resident, kept.purged) == (200, 0), "{kept:?}");
        ensure!(purged >= 80, "{purged}");
        ensure!(in_held.picture(1) == "x".repeat(200));
        drop((ring, held, in_held, given, in_given, wanted));
        group::remove(groups)
    })
}

fn default_limit_is_half_of_ram() -> anyhow::Result<()> {
    let total = number("/proc/meminfo", "MemTotal")? * 1024 / PAGE;
    let region = Region::sized(total)?;
    let map = region.map_as(
        total * PAGE,
        RW,
        MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
    )?;
    // It ends where a touch would be SIGBUS.
    let found = map.advise_bytes(0, map.len(), libc::MADV_POPULATE_WRITE);
    let resident = region.info()?.resident;
    println!("{total} pages of RAM, {resident} populated, then {found:?}");
    ensure!(found == Err(Errno::EFAULT), "{found:?}");
    ensure!(
        resident == total as u64 / 2,
        "{resident} of {total} pages could be had"
    );
    Ok(())
}

fn strict_unpin_asks_for_write_permission() -> anyhow::Result<()> {
    let unpin_read_only = || -> anyhow::Result<_> {
        let region = Region::sized(2)?;
        let _map = region.map(2)?;
        region.set_mask(ProtFlags::PROT_READ)?;
        Ok(region.unpin(0..1))
    };
    ensure!(
        unpin_read_only()? == Ok(()),
        "by default it is as Android's"
    );
    with(c"strict_unpin=1", || {
        ensure!(unpin_read_only()? == Err(Errno::EPERM));
        let region = Region::sized(2)?;
        let _map = region.map(2)?;
        region.unpin(0..1)?;
        region.set_mask(ProtFlags::PROT_READ)?;
        // By 64-bit ranges, too; and nothing has changed.
        ensure!(region.unpin_wide(0, 0) == Err(Errno::EPERM));
        ensure!(region.unpin_bytes(0, 0) == Err(Errno::EPERM));
        ensure!(region.picture(2)? == "u.");
        // A bad pointer comes first.
        ensure!(region.ioctl(abi::ABI_UNPIN, 8) == Err(Errno::EFAULT));
        // Only what may cost content asks for it.
        ensure!(region.purge_all()? == 1 && region.pin(0..2)?);
        Ok(())
    })
}

/// Asserts that the module, which is not loaded, is not loaded with these parameters either, and
/// that the log says why.
fn refused(parameters: &CStr, why: &str) -> anyhow::Result<()> {
    let mut log = KernelLog::open(None)?;
    log.start_here();
    let file = File::open("/lib/ashmem.ko")?;
    let found = finit_module(&file, parameters, ModuleInitFlags::empty());
    ensure!(found == Err(Errno::EINVAL), "{parameters:?}: {found:?}");
    let texts = log.texts()?;
    ensure!(texts.iter().any(|text| text.contains(why)), "{texts:?}");
    Ok(())
}

/// Runs `body` with the module not loaded, and leaves it loaded without parameters.
pub fn without(body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    unload_soon()?;
    let result = body();
    match load(c"") {
        Ok(()) => result,
        // It was loaded, with who knows what parameters.
        Err(error) => {
            unload_soon()?;
            load(c"")?;
            result.and(Err(error))
        }
    }
}

/// 2 to the power of it pages make a huge one.
const HUGE_ORDER: u32 = 9;
/// Pages of a huge one.
const HUGE: usize = 1 << HUGE_ORDER;

fn largest_order_is_less_than_that_of_huge_pages() -> anyhow::Result<()> {
    for order in 0..HUGE_ORDER {
        let parameter = CString::new(format!("max_order={order}"))?;
        with(&parameter, || {
            // All lies below one page table, whatever address the kernel chooses.
            let region = Region::sized(2 * HUGE)?;
            let (place, first) = huge_place(2 * HUGE)?;
            region.map_onto(&place, first, 0..2 * HUGE, MapFlags::MAP_FIXED)?;
            place.advise(first..first + 2 * HUGE, libc::MADV_SEQUENTIAL)?;
            place.write((first + HUGE) * PAGE, 1);
            let info = region.info()?;
            ensure!((info.faults, info.allocated) == (1, 1 << order), "{info:?}");
            Ok(())
        })
        .with_context(|| format!("{parameter:?}"))?;
    }
    without(|| {
        refused(c"max_order=9", "max_order: 9 is more than 8")?;
        refused(
            c"max_order=4294967295",
            "max_order: 4294967295 is more than 8",
        )
    })
}

/// Addresses for so many pages, and the first page of them that a huge one can be mapped at.
fn huge_place(pages: usize) -> anyhow::Result<(Mapping, usize)> {
    let place = Mapping::reserve(pages + HUGE)?;
    let first = (place.base() / PAGE).next_multiple_of(HUGE) - place.base() / PAGE;
    Ok((place, first))
}

/// Pages that a touch of one allocates, in a fresh region of the size of a huge page, and whether
/// the driver says that it mapped one.
fn touched(advice: Option<libc::c_int>) -> anyhow::Result<(u64, bool)> {
    let region = Region::sized(HUGE)?;
    let (place, first) = huge_place(HUGE)?;
    region.map_onto(&place, first, 0..HUGE, MapFlags::MAP_FIXED)?;
    if let Some(advice) = advice {
        place.advise(first..first + HUGE, advice)?;
    }
    place.write((first + HUGE / 2) * PAGE, 1);
    let info = region.info()?;
    Ok((info.allocated, info.huge_faults == 1))
}

fn huge_pages_are_for_none_those_who_ask_or_all() -> anyhow::Result<()> {
    const HAS: (u64, bool) = (HUGE as u64, true);
    // What is advised to be huge is used as a whole, too.
    const ADVISED: (u64, bool) = (LARGE as u64, false);
    const SINGLE: (u64, bool) = (1, false);
    if !Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
        return skip("this kernel has no CONFIG_TRANSPARENT_HUGEPAGE");
    }
    for (parameter, advised, plain) in [
        (c"huge=never", ADVISED, SINGLE),
        (c"huge=advise", HAS, SINGLE),
        (c"huge=always", HAS, HAS),
    ] {
        with(parameter, || {
            let found = (
                touched(Some(libc::MADV_HUGEPAGE))?,
                touched(None)?,
                touched(Some(libc::MADV_NOHUGEPAGE))?,
            );
            ensure!(found == (advised, plain, SINGLE), "{found:?}");
            Ok(())
        })
        .with_context(|| format!("{parameter:?}"))?;
    }
    without(|| {
        let why = "huge: there are never, advise and always";
        refused(c"huge=sometimes", why)?;
        refused(c"huge=", why)?;
        refused(c"huge=alway", why)
    })
}
/// What there is of a kind, that a life of the module could leave behind. Exact, as no process
/// comes or goes while it is counted.
fn left_over() -> anyhow::Result<Vec<(&'static str, usize)>> {
    // Unused ones would be counted, and batches of the processors would not.
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")?;
    fs::write("/proc/sys/vm/stat_refresh", "1").context("stat_refresh")?;
    let mut all = vec![];
    for (what, path) in [
        ("inodes", "/proc/sys/fs/inode-nr"),
        ("dentries", "/proc/sys/fs/dentry-state"),
        ("open files", "/proc/sys/fs/file-nr"),
    ] {
        all.push((what, number(path, "")?));
    }
    for key in ["nr_file_pages", "nr_unevictable", "nr_mapped", "nr_mlock"] {
        all.push((key, number("/proc/vmstat", &format!("{key} "))?));
    }
    all.push((
        "mounts",
        fs::read_to_string("/proc/self/mountinfo")?.lines().count(),
    ));
    Ok(all)
}

/// How many use the module's slab cache, which the kernel may have merged with others of its kind;
/// 0 if there is none.
fn users_of_cache() -> anyhow::Result<usize> {
    match fs::read_to_string("/sys/kernel/slab/ashmem_queue/aliases") {
        Ok(others) => Ok(others.trim().parse::<usize>()? + 1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).context("ashmem_queue"),
    }
}

/// Regions that one process of a life has.
const ABANDONED: usize = 4;
/// Pages of each.
const LEFT: usize = 40;

/// What somebody does before they are killed: regions with and without a name, mapped or not, pages
/// unpinned, purged and held; and the module is used by all of it.
fn abandon(life: usize) -> anyhow::Result<()> {
    let mut maps = vec![];
    let mut regions = vec![];
    for number in 0..ABANDONED {
        let region = Region::sized(LEFT)?;
        if number % 2 == 0 {
            region.set_name(c"abandoned")?;
        }
        let map = region.map(LEFT)?;
        map.stamp(0..LEFT, 1);
        region.unpin(0..LEFT / 2)?;
        region.unpin(LEFT - 1..LEFT)?;
        if (number + life) % 3 == 0 {
            region.purge_all()?;
        }
        // Some of them with their descriptors closed, and some never mapped again.
        if number % 4 != 1 {
            regions.push(region);
        }
        if number % 4 != 2 {
            maps.push(map);
        }
    }
    let ring = Ring::new()?;
    ring.register(&maps[0], LEFT - 4..LEFT)?;
    regions.push(Region::sized(1)?);
    regions.push(Region::open()?);
    kill(getpid(), Signal::SIGKILL)?;
    bail!("it was not killed")
}

/// Lives of the module, from loading to unloading, in each of which processes are killed with
/// regions that they use. It is loaded before and after. Gives the numbers of the file systems that
/// regions lay on.
pub fn lives(count: usize) -> anyhow::Result<BTreeSet<String>> {
    let mut devices = BTreeSet::new();
    for life in 0..count {
        let children = [spawn(|| abandon(life))?, spawn(|| abandon(life + 1))?];
        let region = Region::sized(LEFT)?;
        let map = region.map(LEFT)?;
        map.stamp(0..LEFT, 1);
        region.unpin(1..LEFT)?;
        let line = line_at(map.base())?;
        let device = line.split_whitespace().nth(3).context("no device")?;
        devices.insert(device.to_owned());
        for child in children {
            match child.wait()? {
                WaitStatus::Signaled(_, Signal::SIGKILL, _) => {}
                other => bail!("life {life}: {other:?}"),
            }
        }
        ensure!(region.pin(0..1) == Ok(false), "life {life}");
        drop((map, region));
        let users = users_of_cache()?;
        unload_soon().with_context(|| format!("life {life}"))?;
        let left = users_of_cache();
        load(c"").with_context(|| format!("life {life}"))?;
        ensure!(users != 0, "no slab cache: has it another name?");
        ensure!(left? == users - 1, "life {life}: its slab cache is left");
    }
    Ok(devices)
}

fn fifty_lives_leave_nothing_behind() -> anyhow::Result<()> {
    const LIVES: usize = 50;
    // What the first life makes for good.
    lives(2)?;
    let before = left_over()?;
    let started = Instant::now();
    let devices = lives(LIVES)?;
    println!(
        "{:.3} s for each life",
        started.elapsed().as_secs_f64() / LIVES as f64
    );
    // One that is left keeps its number; one may be on its way out while the next is made.
    ensure!(devices.len() < 5, "file systems: {devices:?}");
    let mut after = vec![];
    let found = until("nothing is left", || {
        after = left_over()?;
        // Less than what is left once in each life; the machine is not all ours.
        let grown = |(old, new): (&(_, usize), &(_, usize))| new.1 >= old.1 + LIVES / 2;
        Ok(!before.iter().zip(&after).any(grown))
    });
    println!("before: {before:?}\nafter:  {after:?}");
    found
}

/// The limit is exact: whatever was counted and then failed was counted back.
fn no_failed_fault_counts_against_the_limit() -> anyhow::Result<()> {
    const LIMIT: usize = 100;
    with(c"max_pages=100", || {
        for failing in Failing::EACH {
            let failures = Failures::new(failing, Some(&driver()?), Behind::Fails)?;
            let mut failed = 0;
            for nth in 1.. {
                ensure!(nth < 1000, "it never comes to an end");
                let region = Region::sized(2)?;
                let map = region.map(2)?;
                let populate = || map.advise(0..2, libc::MADV_POPULATE_WRITE);
                let (result, reached) = failures.at(nth, populate)?;
                failed += usize::from(result == Err(Errno::ENOMEM));
                if !reached {
                    break;
                }
            }
            println!("{failing:?} failed {failed} times");
            ensure!(failed >= 1, "{failing:?} never failed");
        }
        let region = Region::sized(2 * LIMIT)?;
        let map = region.map(2 * LIMIT)?;
        let found = map.advise(0..2 * LIMIT, libc::MADV_POPULATE_WRITE);
        ensure!(found == Err(Errno::EFAULT), "{found:?}");
        let resident = region.info()?.resident;
        ensure!(resident == LIMIT as u64, "{resident} pages of {LIMIT}");
        Ok(())
    })
}

/// What is there while the module is loaded, and must not be there otherwise.
fn traces() -> anyhow::Result<Vec<String>> {
    let mut found = vec![];
    for path in [NODE, "/sys/class/misc/ashmem", "/sys/module/ashmem"] {
        if fs::symlink_metadata(path).is_ok() {
            found.push(path.into());
        }
    }
    for (file, start) in [
        ("/proc/slabinfo", "ashmem"),
        ("/proc/modules", "ashmem"),
        ("/proc/filesystems", "nodev\tashmem"),
    ] {
        let text = fs::read_to_string(file).context(file)?;
        let lines = text.lines().filter(|line| line.starts_with(start));
        found.extend(lines.map(|line| format!("{file}: {line}")));
    }
    if let Ok(all) = fs::read_dir("/sys/kernel/debug/shrinker") {
        for entry in all {
            let name = entry?.file_name().into_string().unwrap_or_default();
            if name.starts_with("ashmem") {
                found.push(format!("shrinker {name}"));
            }
        }
    }
    Ok(found)
}

/// An OOM notifier that was left behind is met by the next one that is registered: the chain is
/// gone through for that, and memory of a module that is gone cannot be read.
fn loading_may_fail_at_each_step() -> anyhow::Result<()> {
    for failing in Failing::EACH {
        // All that the module's own initialisation does.
        let initialisation = function("do_one_initcall")?;
        let failures = Failures::new(failing, Some(&initialisation), Behind::Works)?;
        // It makes a hundred files of the cache, and takes no notice if it cannot.
        let failures = failures.but(&function("sysfs_slab_add")?)?;
        ensure!(traces()?.len() >= 5, "loaded: {:?}", traces()?);
        // How the kernel itself comments on it.
        expect(Report::FailingCache)?;
        unload_soon()?;
        let failed = fail_each_step(&failures);
        load(c"")?;
        let failed = failed.with_context(|| format!("{failing:?}"))?;
        // The shrinker and its name, the cache, the lists and what holds them, what regions
        // share, the device.
        ensure!(
            failing == Failing::Pages || failed >= 7,
            "{failing:?} failed {failed} times only"
        );
    }
    Ok(())
}

/// Loads the module until nothing fails, and unloads it; gives how often that failed.
fn fail_each_step(failures: &Failures) -> anyhow::Result<usize> {
    let (mut failed, mut done_without) = (0, 0);
    for nth in 1.. {
        ensure!(nth < 1000, "it never comes to an end");
        let file = File::open("/lib/ashmem.ko")?;
        let load = || finit_module(&file, c"", ModuleInitFlags::empty());
        let (result, reached) = failures.at(nth, load)?;
        match result {
            // misc_register() without a number for it.
            Err(Errno::ENOMEM | Errno::EBUSY) if reached => failed += 1,
            Ok(()) => {
                done_without += usize::from(reached);
                unload_soon()?;
            }
            Err(error) => bail!("{nth}: {error}"),
        }
        let left = traces()?;
        ensure!(left.is_empty(), "{nth}, {result:?}: {left:?}");
        if !reached {
            break;
        }
    }
    println!("failed {failed} times, did without {done_without} times");
    Ok(failed)
}

/// The module under another name.
fn renamed(name: &str) -> anyhow::Result<File> {
    let mut image = fs::read("/lib/ashmem.ko")?;
    // `struct module` begins with an int and a list's head.
    const OFFSET: usize = 24;
    let object = object::File::parse(&*image)?;
    let (start, _) = object
        .section_by_name(".gnu.linkonce.this_module")
        .and_then(|section| section.file_range())
        .context("this is no module")?;
    let at = start as usize + OFFSET;
    ensure!(
        image[at..].starts_with(b"ashmem\0"),
        "its name is elsewhere"
    );
    image[at..at + name.len()].copy_from_slice(name.as_bytes());
    let path = format!("/tmp/{name}.ko");
    fs::write(&path, image)?;
    let file = File::open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

fn a_second_driver_is_refused() -> anyhow::Result<()> {
    const NAME: &CStr = c"ashmem_again";
    let again = renamed("ashmem_again")?;
    let load_again = || finit_module(&again, c"", ModuleInitFlags::empty());
    let region = Region::sized(1)?;
    let map = region.map(1)?;

    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    log.seek(SeekFrom::End(0))?;
    let found = load_again();
    if found.is_ok() {
        delete_module(NAME, DeleteModuleFlags::O_NONBLOCK)?;
    }
    ensure!(found == Err(Errno::EBUSY), "{found:?}");
    let mut lines = vec![];
    let mut record = [0; 8192];
    while let Ok(len) = log.read(&mut record) {
        lines.push(String::from_utf8_lossy(&record[..len]).into_owned());
    }
    // One record, whose last part is the text.
    ensure!(
        matches!(&lines[..], [line] if line.contains(";ashmem: /sys/class/misc/ashmem exists")),
        "{lines:?}"
    );

    // The first one has not noticed.
    map.stamp(0..1, 1);
    drop((map, region));
    unload_soon()?;
    let second = load_again().and_then(|()| {
        let works = Region::open().is_ok();
        // Nor does the first one get in here.
        let file = File::open("/lib/ashmem.ko").map_err(|_| Errno::ENOENT)?;
        let first = finit_module(&file, c"", ModuleInitFlags::empty());
        delete_module(NAME, DeleteModuleFlags::O_NONBLOCK)?;
        Ok((works, first))
    });
    // A node of a driver that is no miscellaneous device.
    mknod(NODE, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3))?;
    let beside = load_again();
    fs::remove_file(NODE)?;
    load(c"")?;
    ensure!(beside == Err(Errno::EBUSY), "{beside:?}");
    ensure!(second == Ok((true, Err(Errno::EBUSY))), "{second:?}");
    ensure!(Region::open().is_ok());
    Ok(())
}
