// SPDX-License-Identifier: GPL-2.0-only

//! The client library against the driver.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::atomic::Ordering;

use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Mapping;
use ashmem::PageState;
use ashmem::PageStatus;
use ashmem::Protection;
use ashmem::Region;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::unistd::Uid;
use nix::unistd::setuid;

use crate::harness::tests;
use crate::region::Info;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::fdinfo;
use crate::tests::names::line_at;
use crate::tests::process::in_child;

tests! {
    region_has_what_it_was_given,
    only_regions_are_taken_for_regions,
    descriptor_goes_in_and_out,
    mapping_is_copied_to_and_from,
    parts_are_mapped_as_the_options_say,
    mapping_outlives_the_region,
    accesses_are_checked,
    guard_pins_and_unpins,
    kept_guard_leaves_it_pinned,
    empty_range_does_nothing,
    ranges_that_are_wrong_change_nothing,
    restriction_is_for_later_mappings,
    errors_say_what_to_do,
    counters_are_those_of_fdinfo,
    page_status_is_exact,
    nothing_ends_at_4_gib,
}

/// Pages of most regions here.
const N: usize = 8;
/// A page, for ranges.
const P: u64 = PAGE as u64;

/// The number of the error that something must give.
fn errno<T>(result: ashmem::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno())
}

/// Calls what must panic.
fn panics<T>(body: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(body)).is_err()
}

fn byte(map: &Mapping<'_>, at: usize) -> u8 {
    map.bytes()[at].load(Ordering::Relaxed)
}

/// A picture of the pin state, as in the tests of pinning.
fn picture(region: &Region) -> anyhow::Result<String> {
    let mut picture = String::new();
    for page in 0..N as u64 {
        let pinned = region.is_pinned(page * P..(page + 1) * P)?;
        picture.push(if pinned { '.' } else { 'u' });
    }
    Ok(picture)
}

fn region_has_what_it_was_given() -> anyhow::Result<()> {
    let region = Region::new(c"given", 3 * PAGE - 7)?;
    ensure!(region.name()?.as_c_str() == c"given");
    ensure!(region.size()? == 3 * P - 7);
    ensure!(region.protection()? == Protection::READ_WRITE | Protection::EXEC);
    ensure!(errno(region.file_id()) == libc::EINVAL, "not mapped yet");
    region.set_name(c"renamed")?;
    region.set_size(2 * PAGE)?;
    let map = region.map()?;
    ensure!(map.len() == 2 * PAGE);
    let line = line_at(map.as_ptr() as usize)?;
    ensure!(line.ends_with(" /dev/ashmem/renamed (deleted)"), "{line}");
    ensure!(line.contains(&format!(" {} ", region.file_id()?)), "{line}");
    ensure!(Region::fresh()?.size()? == 0);
    Ok(())
}

fn only_regions_are_taken_for_regions() -> anyhow::Result<()> {
    for other in [
        File::open("/dev/null")?.into(),
        File::open("/proc/self/status")?.into(),
        memfd_create(c"memfd", MFdFlags::MFD_CLOEXEC)?,
    ] {
        let name = format!("{other:?}");
        ensure!(
            errno(Region::try_from(other.as_fd())) == libc::ENOTTY,
            "{name}"
        );
        ensure!(errno(Region::try_from(other)) == libc::ENOTTY, "{name}");
    }
    Ok(())
}

fn descriptor_goes_in_and_out() -> anyhow::Result<()> {
    let region = Region::new(c"travels", PAGE)?;
    let twin = Region::try_from(region.as_fd().try_clone_to_owned()?)?;
    let borrowed = Region::try_from(region.as_fd())?;
    borrowed.set_name(c"through a borrowed one")?;
    ensure!(twin.name()?.as_c_str() == c"through a borrowed one");
    let fd = OwnedFd::from(region);
    let raw = Region::try_from(fd)?.into_raw_fd();
    // SAFETY: It was just given away, and belongs to nobody else.
    let region = Region::try_from(unsafe { OwnedFd::from_raw_fd(raw) })?;
    ensure!(region.size()? == P);
    Ok(())
}

fn mapping_is_copied_to_and_from() -> anyhow::Result<()> {
    let region = Region::new(c"copy", 3 * PAGE)?;
    let (here, there) = (region.map()?, region.map()?);
    let text: Vec<u8> = (0..PAGE + 200).map(|at| (at % 251) as u8).collect();
    here.write(PAGE - 100, &text);
    let mut found = vec![1; text.len()];
    there.read(PAGE - 100, &mut found);
    ensure!(found == text);
    ensure!(byte(&there, PAGE - 101) == 0 && byte(&there, 2 * PAGE + 100) == 0);
    there.bytes()[3 * PAGE - 1].fetch_add(5, Ordering::Relaxed);
    let mut last = [0];
    here.read(3 * PAGE - 1, &mut last);
    ensure!(last == [5]);
    // Nothing, at the very end.
    here.read(3 * PAGE, &mut []);
    here.write(3 * PAGE, &[]);
    Ok(())
}

fn parts_are_mapped_as_the_options_say() -> anyhow::Result<()> {
    let region = Region::new(c"parts", 4 * PAGE - 10)?;
    let all = region.map()?;
    ensure!(all.len() == 4 * PAGE - 10);
    for page in 0..4 {
        all.write(page * PAGE, &[page as u8 + 1]);
    }
    let options = MapOptions::new();
    let part = region.map_with(options.range(P..3 * P))?;
    ensure!(part.len() == 2 * PAGE);
    ensure!(byte(&part, 0) == 2 && byte(&part, PAGE) == 3);
    let rest = region.map_with(options.range(3 * P..))?;
    ensure!(rest.len() == PAGE - 10 && byte(&rest, 0) == 4);

    let private = region.map_with(options.private())?;
    private.write(0, &[99]);
    ensure!(byte(&private, 0) == 99 && byte(&all, 0) == 1);
    all.write(1, &[9]);
    ensure!(byte(&private, 1) == 0, "the page was copied");
    all.write(PAGE, &[10]);
    ensure!(
        byte(&private, PAGE) == 10,
        "the page was not written to here"
    );

    let read_only = region.map_with(options.protection(Protection::READ))?;
    let mut found = [0];
    read_only.read(2 * PAGE, &mut found);
    ensure!(found == [3]);
    let line = line_at(read_only.as_ptr() as usize)?;
    ensure!(line.contains(" r--s "), "{line}");

    let region = Region::new(c"populate", 4 * PAGE)?;
    let lazy = region.map()?;
    let resident = || -> anyhow::Result<_> { Ok(Info::parse(&fdinfo(&region)?)?.resident) };
    ensure!(resident()? == 0);
    let _now = region.map_with(options.range(P..4 * P).populate())?;
    ensure!(resident()? == 3);
    drop(lazy);

    // None of these is mapped.
    for wrong in [(0, 5 * P), (1, P), (P, P), (4 * P, 5 * P)] {
        let found = region.map_with(options.range(wrong.0..wrong.1));
        ensure!(errno(found) == libc::EINVAL, "{wrong:?}");
    }
    Ok(())
}

fn mapping_outlives_the_region() -> anyhow::Result<()> {
    let region = Region::new(c"detached", 2 * PAGE)?;
    let map = region.map()?;
    map.write(0, b"kept");
    let map = map.detach();
    drop(region);
    let mut found = [0; 4];
    map.read(0, &mut found);
    ensure!(&found == b"kept");
    // Also in another thread.
    std::thread::spawn(move || {
        map.write(PAGE, b"x");
        let base = map.as_ptr() as usize;
        ensure!(line_at(base).is_ok());
        drop(map);
        ensure!(line_at(base).is_err(), "it is still mapped");
        Ok(())
    })
    .join()
    .expect("no panic")
}

fn accesses_are_checked() -> anyhow::Result<()> {
    let region = Region::new(c"checked", PAGE)?;
    let map = region.map()?;
    ensure!(panics(|| map.read(PAGE, &mut [0])));
    ensure!(panics(|| map.read(PAGE - 1, &mut [0; 2])));
    ensure!(panics(|| map.write(PAGE - 1, &[0; 2])));
    ensure!(panics(|| map.write(usize::MAX, &[0])));
    let read_only = region.map_with(MapOptions::new().protection(Protection::READ))?;
    ensure!(panics(|| read_only.write(0, &[0])));
    ensure!(panics(|| read_only.bytes().len()));
    let none = region.map_with(MapOptions::new().protection(Protection::NONE))?;
    ensure!(panics(|| none.read(0, &mut [0])));
    Ok(())
}

fn guard_pins_and_unpins() -> anyhow::Result<()> {
    let region = Region::new(c"guard", N * PAGE)?;
    let map = region.map()?;
    map.write(2 * PAGE, b"x");
    ensure!(picture(&region)? == "........");
    region.unpin(2 * P..6 * P)?;
    ensure!(picture(&region)? == "..uuuu..");
    {
        let pinned = region.pin(..4 * P)?;
        ensure!(pinned.survived() && !pinned.was_purged());
        ensure!(picture(&region)? == "....uu..");
        ensure!(region.purge_all_caches()? == 2);
        ensure!(byte(&map, 2 * PAGE) == b'x');
    }
    // All of its range, though only two pages of it had been unpinned.
    ensure!(picture(&region)? == "uuuuuu..");
    ensure!(region.purge_all_caches()? == 4);
    ensure!(byte(&map, 2 * PAGE) == 0);
    ensure!(region.pin(..6 * P)?.was_purged());
    ensure!(region.pin(..6 * P)?.survived(), "it was told already");
    ensure!(!region.is_pinned(..)? && region.is_pinned(6 * P..)?);
    Ok(())
}

fn kept_guard_leaves_it_pinned() -> anyhow::Result<()> {
    let region = Region::new(c"keep", N * PAGE)?;
    let _map = region.map()?;
    region.unpin(..)?;
    ensure!(picture(&region)? == "uuuuuuuu");
    ensure!(region.pin(P..=3 * P - 1)?.keep());
    ensure!(picture(&region)? == "u..uuuuu");
    region.purge_all_caches()?;
    ensure!(!region.pin(..)?.keep(), "six pages were purged");
    ensure!(picture(&region)? == "........");
    Ok(())
}

fn empty_range_does_nothing() -> anyhow::Result<()> {
    let region = Region::new(c"empty", N * PAGE)?;
    let _map = region.map()?;
    // To the kernel a length of 0 would be all that follows.
    region.unpin(2 * P..2 * P)?;
    ensure!(picture(&region)? == "........");
    region.unpin(..)?;
    drop(region.pin(..0)?);
    ensure!(region.pin(2 * P..2 * P)?.keep());
    ensure!(picture(&region)? == "uuuuuuuu");
    ensure!(region.is_pinned(2 * P..2 * P)?);
    Ok(())
}

fn ranges_that_are_wrong_change_nothing() -> anyhow::Result<()> {
    let region = Region::new(c"wrong", N * PAGE)?;
    ensure!(errno(region.unpin(..)) == libc::EINVAL, "never mapped");
    let _map = region.map()?;
    let end = N as u64 * P;
    for (from, to) in [(1, P), (0, P + 1), (0, end + P), (end, end + P), (2 * P, P)] {
        ensure!(errno(region.unpin(from..to)) == libc::EINVAL, "{from} {to}");
        ensure!(errno(region.pin(from..to)) == libc::EINVAL, "{from} {to}");
        ensure!(
            errno(region.is_pinned(from..to)) == libc::EINVAL,
            "{from} {to}"
        );
        ensure!(
            errno(region.page_status(from..to)) == libc::EINVAL,
            "{from} {to}"
        );
    }
    ensure!(picture(&region)? == "........");
    Ok(())
}

fn restriction_is_for_later_mappings() -> anyhow::Result<()> {
    let region = Region::new(c"restricted", PAGE)?;
    let before = region.map()?;
    region.restrict(Protection::READ)?;
    ensure!(region.protection()? == Protection::READ);
    ensure!(errno(region.map()) == libc::EPERM);
    before.write(0, b"x");
    let after = region.map_with(MapOptions::new().protection(Protection::READ))?;
    let mut found = [0];
    after.read(0, &mut found);
    ensure!(&found == b"x");
    ensure!(errno(region.restrict(Protection::READ_WRITE)) == libc::EINVAL);
    ensure!(errno(region.restrict(Protection::from_bits(0x100))) == libc::EINVAL);
    ensure!(errno(region.restrict(Protection::from_bits(-1))) == libc::EINVAL);
    Ok(())
}

/// The message of the error that something must give.
fn message<T>(result: ashmem::Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

fn errors_say_what_to_do() -> anyhow::Result<()> {
    let region = Region::fresh()?;
    let found = message(region.map());
    ensure!(
        found.contains("EINVAL") && found.contains("no size"),
        "{found}"
    );
    region.set_size(PAGE)?;
    region.restrict(Protection::READ)?;
    let found = message(region.map());
    ensure!(
        found.contains("EPERM") && found.contains("restrict"),
        "{found}"
    );
    let _map = region.map_with(MapOptions::new().protection(Protection::READ))?;
    let found = message(region.set_size(1));
    ensure!(found.contains("keeps its size"), "{found}");
    let found = message(region.unpin(5..));
    ensure!(found.contains("page aligned"), "{found}");
    in_child(|| {
        setuid(Uid::from_raw(1000))?;
        let found = message(region.purge_all_caches());
        ensure!(found.contains("CAP_SYS_ADMIN"), "{found}");
        let found = message(Region::fresh());
        ensure!(
            found.is_empty() || found.contains("EACCES") && found.contains("udev"),
            "{found}"
        );
        Ok(())
    })?;
    in_child(|| {
        nix::unistd::chroot("/sys")?;
        let found = message(Region::fresh());
        ensure!(
            found.contains("ENOENT") && found.contains("modprobe"),
            "{found}"
        );
        Ok(())
    })
}

fn counters_are_those_of_fdinfo() -> anyhow::Result<()> {
    let region = Region::new(c"counters", 2 * N * PAGE - 9)?;
    let (first, second, third) = (region.map()?, region.map()?, region.map()?);
    // None beside another one, so that each is allocated alone.
    for page in (0..12).step_by(2) {
        first.write(page * PAGE, b"x");
    }
    // Each of them is another number: mapped anew, and mapped around.
    second.write(0, b"x");
    byte(&third, 0);
    region.unpin(8 * P..11 * P)?;
    region.purge_all_caches()?;
    let (found, info) = (region.counters()?, Info::parse(&fdinfo(&region)?)?);
    println!("{found:?}");
    ensure!(
        (found.size, found.faults, found.map_faults) == (info.size, info.faults, info.map_faults)
    );
    ensure!((found.huge_faults, found.allocated) == (info.huge_faults, info.allocated));
    ensure!((found.purged, found.resident) == (info.purged, info.resident));
    ensure!(found.unpinned == info.unpinned);
    ensure!((found.size, found.unpinned) == (2 * N as u64 * P - 9, 3));
    ensure!((found.faults, found.map_faults, found.allocated) == (7, 1, 6));
    ensure!((found.purged, found.resident) == (2, 4));
    Ok(())
}

fn page_status_is_exact() -> anyhow::Result<()> {
    let region = Region::new(c"status", N * PAGE)?;
    let map = region.map()?;
    map.write(0, b"x");
    map.write(3 * PAGE, b"x");
    map.write(4 * PAGE, b"x");
    region.unpin(2 * P..4 * P)?;
    region.purge_all_caches()?;
    region.unpin(4 * P..6 * P)?;
    map.write(2 * PAGE, b"x");
    let status = |state, resident| PageStatus { state, resident };
    let expected = [
        status(PageState::Pinned, true),
        status(PageState::Pinned, false),
        status(PageState::Purged, true),
        status(PageState::Purged, false),
        status(PageState::Unpinned, true),
        status(PageState::Unpinned, false),
        status(PageState::Pinned, false),
        status(PageState::Pinned, false),
    ];
    let found = region.page_status(..)?;
    ensure!(found == expected, "{found:?}");
    ensure!(region.page_status(2 * P..5 * P)? == expected[2..5]);
    ensure!(region.page_status(P..P)?.is_empty());
    // Nothing was changed by asking.
    ensure!(region.pin(2 * P..3 * P)?.was_purged());
    Ok(())
}

fn nothing_ends_at_4_gib() -> anyhow::Result<()> {
    // The second is for 32-bit programs: as large as they come.
    let size: u64 = if usize::BITS == 64 { 6 } else { 3 } << 30;
    let region = Region::new(c"large", size as usize)?;
    ensure!(region.size()? == size);
    let last = size - P..;
    let options = MapOptions::new().range(last.clone());
    let found = region.map_with(options);
    ensure!(errno(found) == libc::ENOMEM, "the machine has as much");
    // As it is on no account, it need not fit.
    let twin = crate::region::Region::from_fd(region.as_fd().try_clone_to_owned()?);
    drop(twin.map_as(PAGE, RW, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE)?);
    let map = region.map_with(options)?;
    map.write(0, b"x");
    region.unpin(last.clone())?;
    ensure!(region.is_pinned(..size - P)? && !region.is_pinned(last.clone())?);
    ensure!(region.purge_all_caches()? == 1);
    ensure!(byte(&map, 0) == 0);
    ensure!(region.pin(..size - P)?.keep(), "nothing below was purged");
    ensure!(!region.pin(last)?.keep());
    Ok(())
}
