// SPDX-License-Identifier: GPL-2.0-only

//! Memory that the kernel takes back by itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap_anonymous;

use crate::harness::skip;
use crate::harness::tests;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::group;
use crate::tests::group::groups;
use crate::tests::process::until;

tests! {
    shrinker_counts_and_frees_exactly,
    shrinker_takes_the_oldest_first => "purge.oldest",
    shrinker_marks_resident_pages_only => "purge.pressure",
    shrinker_takes_whole_folios_and_has_others_split => "purge.unpinned-only" "purge.pressure",
    drop_caches_takes_unpinned_pages_only => "purge.unpinned-only" "purge.pressure",
    each_cgroup_is_counted_and_shrunk_by_itself => "purge.cgroup" "purge.pressure",
    cgroup_at_its_limit_purges_its_own_and_lives @ 60 => "purge.cgroup",
    cgroup_gets_at_its_own_behind_pages_of_others @ 60 => "purge.cgroup",
    cgroup_purges_down_to_a_lowered_limit @ 60 => "purge.cgroup",
    cgroup_without_its_controller_is_another_one_later @ 60 => "purge.cgroup",
    ranges_of_a_removed_cgroup_are_its_parents @ 60 => "purge.cgroup",
    removed_cgroups_count_once_with_their_parent => "purge.cgroup",
}

/// The shrinker's folder in debugfs.
pub fn shrinker() -> anyhow::Result<PathBuf> {
    let Ok(all) = fs::read_dir("/sys/kernel/debug/shrinker") else {
        return skip("this kernel has no CONFIG_SHRINKER_DEBUG");
    };
    for entry in all {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("ashmem-")) {
            return Ok(path);
        }
    }
    anyhow::bail!("the module has registered no shrinker")
}

/// How many objects the shrinker says it could free for this cgroup, by its inode.
fn count_of(shrinker: &Path, group: u64) -> anyhow::Result<usize> {
    let text = fs::read_to_string(shrinker.join("count"))?;
    // A line for each memory cgroup that has some: its inode, then a number for each node.
    let mut sum = 0;
    for line in text.lines() {
        let mut numbers = line.split_whitespace();
        if numbers.next() == Some(&group.to_string()) {
            for number in numbers {
                sum += number.parse::<usize>()?;
            }
        }
    }
    Ok(sum)
}

/// Has the shrinker free this many for this cgroup.
pub fn scan_for(shrinker: &Path, group: u64, pages: usize) -> anyhow::Result<()> {
    fs::write(shrinker.join("scan"), format!("{group} 0 {pages}\n")).context("scan")
}

/// The cgroup of this process, unless it went into another one.
pub fn root() -> anyhow::Result<u64> {
    Ok(fs::metadata(group::ROOT).context(group::ROOT)?.ino())
}

/// How many objects the shrinker says it could free for this process's cgroup.
fn count(shrinker: &Path) -> anyhow::Result<usize> {
    count_of(shrinker, root()?)
}

/// Has the shrinker free this many for this process's cgroup.
fn scan(shrinker: &Path, pages: usize) -> anyhow::Result<()> {
    scan_for(shrinker, root()?, pages)
}

fn shrinker_counts_and_frees_exactly() -> anyhow::Result<()> {
    let shrinker = shrinker()?;
    let region = Region::sized(100)?;
    let map = region.map(100)?.single()?;
    map.stamp(0..100, 1);
    ensure!(count(&shrinker)? == 0, "pinned pages are counted");
    region.unpin(10..90)?;
    ensure!(count(&shrinker)? == 80);
    let mut left = 80;
    for pages in [1, 2, 30, 46, 5] {
        scan(&shrinker, pages)?;
        left -= pages.min(left);
        ensure!(count(&shrinker)? == left, "after {pages}");
        let info = region.info()?;
        ensure!(info.resident == 20 + left as u64, "{info:?}");
        ensure!(info.purged == 80 - left as u64, "{info:?}");
    }
    ensure!(map.picture(1) == "x".repeat(10) + &"0".repeat(80) + &"x".repeat(10));
    ensure!(!region.pin(0..10)? && region.pin(10..90)? && !region.pin(90..100)?);
    Ok(())
}

fn shrinker_takes_the_oldest_first() -> anyhow::Result<()> {
    let shrinker = shrinker()?;
    let (one, two) = (Region::sized(8)?, Region::sized(8)?);
    let (a, b) = (one.map(8)?.single()?, two.map(8)?.single()?);
    a.stamp(0..8, 1);
    b.stamp(0..8, 1);
    one.unpin(4..8)?;
    two.unpin(0..4)?;
    one.unpin(0..4)?;
    // Unpinned already, so it keeps its age.
    one.unpin(4..8)?;
    scan(&shrinker, 6)?;
    ensure!(a.picture(1) == "xxxx0000" && b.picture(1) == "00xxxxxx");
    // The pictures filled the purged pages anew: they are not to be had again.
    ensure!(count(&shrinker)? == 6);
    scan(&shrinker, 100)?;
    ensure!(a.picture(1) == "00000000" && b.picture(1) == "0000xxxx");
    Ok(())
}

fn shrinker_marks_resident_pages_only() -> anyhow::Result<()> {
    let shrinker = shrinker()?;
    let region = Region::sized(2000)?;
    let map = region.map(2000)?;
    for page in [3, 700, 1999] {
        map.stamp(page..page + 1, 1);
    }
    region.unpin(0..2000)?;
    ensure!(count(&shrinker)? == 3, "holes are counted");
    // What comes to be while it is unpinned can be taken as well.
    map.stamp(5..6, 1);
    ensure!(count(&shrinker)? == 4);
    scan(&shrinker, 100)?;
    ensure!(region.info()?.purged == 4);
    ensure!(!region.pin(0..3)? && region.pin(3..4)? && !region.pin(4..5)?);
    ensure!(region.pin(5..6)? && !region.pin(6..700)? && region.pin(700..701)?);
    ensure!(!region.pin(701..1999)? && region.pin(1999..2000)?);
    Ok(())
}

fn shrinker_takes_whole_folios_and_has_others_split() -> anyhow::Result<()> {
    const PART: usize = LARGE / 2;
    let shrinker = shrinker()?;
    let (region, map) = Region::large(3)?;
    map.stamp(0..3 * LARGE, 1);
    // One folio and a part of the next, then the last one.
    region.unpin(0..LARGE + PART)?;
    region.unpin(2 * LARGE..3 * LARGE)?;
    ensure!(count(&shrinker)? == 2 * LARGE + PART);
    scan(&shrinker, 1)?;
    ensure!(region.info()?.purged == LARGE as u64, "a folio goes whole");
    ensure!(count(&shrinker)? == LARGE + PART);
    // Reclaim itself goes past what must be split, and has it done by somebody else.
    scan(&shrinker, 2 * LARGE)?;
    until("the rest is purged", || Ok(count(&shrinker)? == 0))?;
    ensure!(region.info()?.purged == (2 * LARGE + PART) as u64);
    ensure!(region.info()?.resident == PART as u64);
    let expected = "0".repeat(LARGE + PART) + &"x".repeat(PART) + &"0".repeat(LARGE);
    ensure!(map.picture(1) == expected, "{}", map.picture(1));
    ensure!(!region.pin(LARGE + PART..2 * LARGE)? && region.pin(0..LARGE)?);
    ensure!(region.pin(LARGE..LARGE + PART)? && region.pin(2 * LARGE..3 * LARGE)?);
    Ok(())
}

fn drop_caches_takes_unpinned_pages_only() -> anyhow::Result<()> {
    let region = Region::sized(600)?;
    drop_caches(&region, region.map(600)?.single()?).context("single pages")?;
    let region = Region::sized(600)?;
    drop_caches(&region, region.map(600)?).context("large folios")
}

fn drop_caches(region: &Region, map: Mapping) -> anyhow::Result<()> {
    map.stamp(0..300, 1);
    map.stamp(400..600, 1);
    region.unpin(100..500)?;
    let before = region.status_picture(0..600)?;
    fs::write("/proc/sys/vm/drop_caches", "1\n")?;
    ensure!(
        region.status_picture(0..600)? == before,
        "it is no cache of files"
    );
    fs::write("/proc/sys/vm/drop_caches", "2\n")?;
    // Large folios that go only in part are split a moment later. What has no memory is not marked.
    until("all is purged", || {
        Ok(region.status_picture(0..600)? == before.replace('U', "p"))
    })?;
    let purged = before.matches('U').count();
    ensure!(purged >= 300 && region.info()?.purged == purged as u64);
    ensure!(before[320..400] == *"u".repeat(80), "{before}");
    ensure!(!region.pin(320..400)?, "what has no memory was marked");
    ensure!(!region.pin(0..100)? && region.pin(100..101)? && region.pin(299..300)?);
    ensure!(region.pin(400..500)? && region.pin(0..600)?);
    let picture = map.picture(1);
    ensure!(picture == "x".repeat(100) + &"0".repeat(400) + &"x".repeat(100));
    Ok(())
}

/// A number of pages from a line of a file of /proc that gives kB or pages.
pub fn number(path: &str, key: &str) -> anyhow::Result<usize> {
    fs::read_to_string(path)?
        .lines()
        .filter_map(|line| line.strip_prefix(key))
        .find_map(|rest| {
            rest.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("{key} in {path}"))
}

/// Pages of the machine that can be had without taking any from others.
pub fn free_pages() -> anyhow::Result<usize> {
    Ok(number("/proc/meminfo", "MemAvailable")? * 1024 / PAGE)
}

/// Private memory of this process, touched; stays until its end.
pub fn occupy(pages: usize, huge: bool) -> anyhow::Result<()> {
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe {
        mmap_anonymous(
            None,
            (pages * PAGE).try_into()?,
            RW,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        )
    }?;
    if huge {
        // SAFETY: Content cannot change.
        unsafe { madvise(base, pages * PAGE, MmapAdvise::MADV_HUGEPAGE) }.or_else(|e| {
            // A kernel without huge pages is as good, only slower.
            if e == nix::errno::Errno::EINVAL {
                Ok(())
            } else {
                Err(e)
            }
        })?;
    }
    for page in 0..pages {
        // SAFETY: The offset lies in the mapping.
        let byte = unsafe { base.cast::<u8>().add(page * PAGE) };
        // SAFETY: It is mapped for writing, and nobody else knows it.
        unsafe { byte.write_volatile(1) };
    }
    Ok(())
}

/// Pages in a mebibyte.
pub const MIB: usize = (1 << 20) / PAGE;

/// A region of these pages, touched and unpinned by a process of this cgroup but for the first
/// `pinned`.
fn unpinned_in(
    group: &group::Group,
    pages: usize,
    pinned: usize,
) -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    unpin_in(group, &region, &map, pinned)?;
    Ok((region, map))
}

/// The same in single pages, which are taken one by one.
fn singles_in(
    group: &group::Group,
    pages: usize,
    pinned: usize,
) -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(pages)?;
    let map = region.map(pages)?.single()?;
    unpin_in(group, &region, &map, pinned)?;
    Ok((region, map))
}

fn unpin_in(
    group: &group::Group,
    region: &Region,
    map: &Mapping,
    pinned: usize,
) -> anyhow::Result<()> {
    group.run(|| {
        map.stamp(0..map.pages(), 7);
        region.unpin(pinned..map.pages())?;
        Ok(())
    })
}

fn each_cgroup_is_counted_and_shrunk_by_itself() -> anyhow::Result<()> {
    let shrinker = shrinker()?;
    let groups = groups()?;
    let (a, b, _) = &groups;
    let (one, in_one) = singles_in(a, 50, 10)?;
    let (two, in_two) = singles_in(b, 30, 0)?;
    ensure!(count(&shrinker)? == 0, "that of this process has none");
    ensure!(count_of(&shrinker, a.inode()?)? == 40);
    ensure!(count_of(&shrinker, b.inode()?)? == 30);
    // The older one is not touched when the other is meant.
    scan_for(&shrinker, b.inode()?, 12)?;
    ensure!(count_of(&shrinker, a.inode()?)? == 40);
    ensure!(count_of(&shrinker, b.inode()?)? == 18);
    ensure!((one.info()?.purged, two.info()?.purged) == (0, 12));
    scan(&shrinker, 1000)?;
    ensure!((one.info()?.purged, two.info()?.purged) == (0, 12));

    // A range is that of who unpinned it, whoever pins or splits it: 40 become 39.
    ensure!(!one.pin(20..21)?);
    ensure!(count(&shrinker)? == 0 && count_of(&shrinker, a.inode()?)? == 39);
    one.unpin(20..21)?;
    ensure!(count(&shrinker)? == 1 && count_of(&shrinker, a.inode()?)? == 39);
    scan_for(&shrinker, a.inode()?, 1000)?;
    ensure!(one.info()?.purged == 39 && count_of(&shrinker, a.inode()?)? == 0);
    scan(&shrinker, 1000)?;
    ensure!(one.info()?.purged == 40 && two.info()?.purged == 12);
    ensure!(in_one.picture(7) == "x".repeat(10) + &"0".repeat(40));
    ensure!(in_two.picture(7) == "0".repeat(12) + &"x".repeat(18));
    drop((one, in_one, two, in_two));
    group::remove(groups)
}

fn cgroup_at_its_limit_purges_its_own_and_lives() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, _) = &groups;
    let (limit, size, pinned) = (48 * MIB, 32 * MIB, 4 * MIB);
    // Older, and of another cgroup: it would be the first to go if all were one.
    let (other, in_other) = unpinned_in(b, 8 * MIB, 0)?;
    let (own, in_own) = unpinned_in(a, size, pinned)?;
    a.write("memory.max", &(limit * PAGE).to_string())?;
    // More than is left by half of what it unpinned.
    let wanted = limit - size + (size - pinned) / 2;
    a.run(|| occupy(wanted, false))
        .context("it was to get what it wanted")?;

    let purged = own.info()?.purged as usize;
    let kills = a.value("memory.events", "oom_kill")?;
    println!("wanted {wanted} of {limit}, {size} in use, purged {purged}");
    ensure!(kills == 0, "the OOM killer struck");
    let needed = wanted + size - limit;
    ensure!(purged >= needed, "it had enough without?");
    ensure!(2 * purged <= 3 * needed, "{purged} purged, {needed} needed");
    ensure!(other.info()?.purged == 0, "its neighbour paid");
    ensure!(in_other.picture(7) == "x".repeat(8 * MIB));
    ensure!(!own.pin(0..pinned)?, "pinned pages count as purged");
    ensure!(own.pin(pinned..size)? && !other.pin(0..8 * MIB)?);
    let picture = in_own.picture(7);
    ensure!(picture[..pinned] == *"x".repeat(pinned));
    ensure!(picture.matches('0').count() == purged && !picture.contains('?'));
    drop((own, in_own, other, in_other));
    group::remove(groups)
}

fn cgroup_gets_at_its_own_behind_pages_of_others() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, _) = &groups;
    let (limit, size) = (80 * MIB, 64 * MIB);
    // Charged to one that touched it, listed with one that unpinned it, and the oldest there.
    let foreign = Region::sized(size)?;
    let in_foreign = foreign.map(size)?;
    b.run(|| {
        in_foreign.stamp(0..size, 7);
        Ok(())
    })?;
    a.run(|| Ok(foreign.unpin(0..size)?))?;
    let (own, _in_own) = unpinned_in(a, size, 0)?;
    a.write("memory.max", &(limit * PAGE).to_string())?;
    a.run(|| occupy(limit - size / 2, false))
        .context("it was to get what it wanted")?;
    let (foreign, own) = (foreign.info()?.purged, own.info()?.purged as usize);
    println!("purged {foreign} of others, {own} of its own");
    ensure!(
        a.value("memory.events", "oom_kill")? == 0,
        "the OOM killer struck"
    );
    ensure!(own >= size / 2, "{own} purged");
    drop((in_foreign, _in_own));
    group::remove(groups)
}

fn cgroup_purges_down_to_a_lowered_limit() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, parent) = &groups;
    let (region, _map) = unpinned_in(a, 112 * MIB, 0)?;
    let (other, _in_other) = unpinned_in(b, 8 * MIB, 0)?;
    let purged = |region: &Region| -> anyhow::Result<usize> { Ok(region.info()?.purged as usize) };
    // By how much it is over the limit, and what ends an attempt, in whole batches.
    let mut before = 0;
    let mut by = |at_least, what| -> anyhow::Result<()> {
        let now = purged(&region)?;
        let gone = now - before;
        before = now;
        println!("{what}: {gone} of at least {at_least}");
        ensure!(gone >= at_least, "{what}: {gone} purged");
        ensure!(gone <= at_least + 1024, "{what}: {gone} purged");
        Ok(())
    };

    // The kernel tries sixteen times, and then kills.
    for (limit, fewer) in [("memory.high", 4 * MIB), ("memory.max", 48 * MIB)] {
        let used: usize = a.read("memory.current")?.trim().parse()?;
        a.write(limit, &(used - fewer * PAGE).to_string())?;
        // What the kernel keeps at hand for a group's next charge is given back first.
        by(fewer - 64, limit)?;
        a.write(limit, "max")?;
    }
    // Asked for a mebibyte, the kernel tries as often, as it counts no page of ours.
    let asked = a.write("memory.reclaim", "1M");
    let gone = purged(&region)? - before;
    println!("memory.reclaim: {asked:?}, {gone} purged");
    ensure!((MIB..=16 * 640).contains(&gone), "memory.reclaim: {gone}");
    before += gone;

    // The limit of one around it is everybody's.
    let fewer = 4 * MIB;
    let used: usize = parent.read("memory.current")?.trim().parse()?;
    parent.write("memory.max", &(used - fewer * PAGE).to_string())?;
    let gone = purged(&region)? + purged(&other)? - before;
    ensure!(
        (fewer - 64..=fewer + 1024).contains(&gone),
        "memory.max of the parent: {gone} purged"
    );
    for group in [a, b, parent] {
        ensure!(
            group.value("memory.events", "oom_kill")? == 0,
            "the OOM killer struck"
        );
    }
    drop((region, _map, other, _in_other));
    group::remove(groups)
}

fn cgroup_without_its_controller_is_another_one_later() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, _, parent) = &groups;
    let (limit, size) = (32 * MIB, 20 * MIB);
    // A range of before goes over to the parent, and stays.
    let (before, _old) = unpinned_in(a, 4, 0)?;
    parent.write("cgroup.subtree_control", "-memory")?;
    parent.write("cgroup.subtree_control", "+memory")?;
    // What the same group unpins from here on helps at the limit that it has now.
    let (region, _map) = unpinned_in(a, size, 0)?;
    a.write("memory.max", &(limit * PAGE).to_string())?;
    a.run(|| occupy(limit - size / 2, false))
        .context("it was to get what it wanted")?;
    ensure!(a.value("memory.events", "oom_kill")? == 0);
    ensure!(region.info()?.purged as usize >= size / 2);
    ensure!(before.info()?.purged == 0, "that of another cgroup went");
    drop((before, _old, region, _map));
    group::remove(groups)
}

fn ranges_of_a_removed_cgroup_are_its_parents() -> anyhow::Result<()> {
    let (a, b, parent) = groups()?;
    let (size, limit) = (16 * MIB, 32 * MIB);
    let (region, map) = unpinned_in(&a, size, 0)?;
    a.remove()?;
    // The kernel does the rest of it a moment later.
    sleep(Duration::from_millis(300));
    // Its charge went over to the parent, and so did what can be purged.
    parent.write("memory.max", &(limit * PAGE).to_string())?;
    b.run(|| occupy(limit - size / 2, false))
        .context("it was to get what it wanted")?;
    let purged = region.info()?.purged as usize;
    ensure!(parent.value("memory.events", "oom_kill")? == 0);
    ensure!(purged >= size / 2, "{purged}");
    // It can be pinned as ever, and unpinned by another cgroup.
    ensure!(region.pin(0..size)?);
    ensure!(map.picture(7).matches('0').count() == purged);
    region.unpin(0..size)?;
    ensure!(region.purge_all()? == size);
    drop((region, map));
    b.remove()?;
    parent.remove()
}

fn removed_cgroups_count_once_with_their_parent() -> anyhow::Result<()> {
    let shrinker = shrinker()?;
    let parent = group::Group::parent()?;
    let mut regions = vec![];
    for (name, pages) in [("a", 30), ("b", 20), ("c", 10)] {
        let child = parent.child(name)?;
        regions.push(singles_in(&child, pages, 0)?);
        child.remove()?;
    }
    let purged = |regions: &[(Region, Mapping)]| -> anyhow::Result<Vec<u64>> {
        regions
            .iter()
            .map(|(region, _)| Ok(region.info()?.purged))
            .collect()
    };
    // The kernel hands over what a removed one had a moment later.
    let started = Instant::now();
    while count_of(&shrinker, parent.inode()?)? < 60 && started.elapsed() < Duration::from_secs(10)
    {
        sleep(Duration::from_millis(10));
    }
    // Asked more than once, as each look changes the order in which they stand.
    for _ in 0..3 {
        let count = count_of(&shrinker, parent.inode()?)?;
        ensure!(count == 60, "{count}");
    }
    scan_for(&shrinker, parent.inode()?, 35)?;
    ensure!(purged(&regions)? == [30, 5, 0], "not the oldest first");
    ensure!(count_of(&shrinker, parent.inode()?)? == 25);
    scan_for(&shrinker, parent.inode()?, 1000)?;
    ensure!(purged(&regions)? == [30, 20, 10]);
    ensure!(count_of(&shrinker, parent.inode()?)? == 0);
    drop(regions);
    parent.remove()
}
