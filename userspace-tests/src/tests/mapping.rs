// SPDX-License-Identifier: GPL-2.0-only

//! What mmap semantics must hold.

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MsFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mlock;
use nix::sys::mman::mprotect;
use nix::sys::mman::msync;
use nix::sys::mman::munlock;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use nix::unistd::setuid;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::advice::GUARD_INSTALL;
use crate::tests::counts::Step;
use crate::tests::counts::settle;
use crate::tests::counts::watch;
use crate::tests::process::dies_of;
use crate::tests::process::in_child;

tests! {
    touch_past_the_end_is_sigbus => "mmap.sigbus" "mmap.offset",
    mapping_outlives_the_descriptor => "map.outlives" "purge.close",
    partial_munmap_keeps_the_rest => "map.partial-munmap",
    map_fixed_replaces_what_was_there => "map.fixed",
    map_populate_faults_everything_in => "map.populate",
    locked_pages_never_fault_again => "map.locked",
    locking_respects_the_limit => "map.locked",
    mprotect_of_a_part_changes_that_part => "map.mprotect",
    msync_gives_zero => "map.msync",
    mincore_tells_which_pages_are_there => "map.mincore",
}

fn touch_past_the_end_is_sigbus() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(PAGE + 1)?;
    let map = region.map(2)?;
    // The last page is whole, whatever the size says.
    map.write(2 * PAGE - 1, 1);
    // Behind it, there is nothing: map the region from its second page on.
    let shifted = region.map_from(1, 2 * PAGE, RW, MapFlags::MAP_SHARED)?;
    shifted.write(0, 1);
    ensure!(map.read(PAGE) == 1);
    dies_of(Signal::SIGBUS, || shifted.write(PAGE, 1))?;
    // Offsets have no limit; there is just nothing.
    let far = region.map_from(1 << 18, PAGE, RW, MapFlags::MAP_SHARED)?;
    dies_of(Signal::SIGBUS, || {
        far.read(0);
    })?;
    ensure!(region.info()?.allocated == 1);
    Ok(())
}

fn mapping_outlives_the_descriptor() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..2, 3);
    region.unpin(0..4)?;
    drop(region);
    // With the last descriptor all that was not purged is pinned again.
    let other = Region::open()?;
    ensure!(other.purge_all()? == 0);
    ensure!(map.picture(3) == "xx00");
    map.stamp(2..4, 3);
    ensure!(map.picture(3) == "xxxx");
    Ok(())
}

fn partial_munmap_keeps_the_rest() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(8)?;
    let map = region.map(8)?;
    let twin = region.map(8)?;
    map.label();
    // Out of the middle, then from both ends.
    for (gone, rest) in [
        (2..4, vec![0, 1, 4, 5, 6, 7]),
        (0..1, vec![1, 4, 5, 6, 7]),
        (6..8, vec![1, 4, 5]),
    ] {
        map.unmap(gone)?;
        let step = watch(&region, || {
            for page in &rest {
                map.read(page * PAGE);
            }
        })?;
        ensure!(step == Step::NONE, "{rest:?} was touched: {step:?}");
        for page in rest {
            ensure!(map.letter(page) == twin.letter(page), "page {page}");
        }
    }
    for page in [0, 2, 3, 6, 7] {
        dies_of(Signal::SIGSEGV, || {
            map.read(page * PAGE);
        })?;
    }
    ensure!(twin.labels() == "abcdefgh");
    let info = region.info()?;
    ensure!(info.resident == 8 && info.allocated == 8);
    // What is unmapped in between was not the region's.
    region.unpin(0..8)?;
    ensure!(region.purge_all()? == 8);
    for page in [1, 4, 5] {
        ensure!(map.letter(page) == '0');
    }
    Ok(())
}

fn map_fixed_replaces_what_was_there() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let source = region.map(8)?;
    source.label();
    // In place of reserved addresses.
    let place = Mapping::reserve(6)?;
    region.map_onto(&place, 1, 4..8, MapFlags::MAP_FIXED)?;
    ensure!((1..5).all(|page| place.letter(page) == source.letter(page + 3)));
    for page in [0, 5] {
        dies_of(Signal::SIGSEGV, || {
            place.read(page * PAGE);
        })?;
    }
    // In place of another region's pages, which that one keeps.
    let other = Region::sized(6)?;
    let (victim, kept) = (other.map(6)?, other.map(6)?);
    victim.stamp(0..6, b'x');
    ensure!(victim.table()? == "mmmmmm");
    region.map_onto(&victim, 2, 0..2, MapFlags::MAP_FIXED)?;
    ensure!(victim.table()? == "mm--mm");
    ensure!(victim.labels() == "xxabxx");
    ensure!(kept.labels() == "xxxxxx");
    // In place of its own: the same addresses, other pages.
    region.map_onto(&victim, 1, 5..8, MapFlags::MAP_FIXED)?;
    ensure!(victim.labels() == "xfghxx");
    victim.stamp(1..2, b'z');
    ensure!(source.labels() == "abcdezgh");
    ensure!((region.info()?.allocated, other.info()?.allocated) == (8, 6));

    // With MAP_FIXED_NOREPLACE what is there stays there.
    let flags = MapFlags::MAP_FIXED_NOREPLACE;
    ensure!(region.map_onto(&victim, 4, 0..2, flags) == Err(Errno::EEXIST));
    ensure!(victim.labels() == "xzghxx");
    victim.unmap(4..6)?;
    region.map_onto(&victim, 4, 0..2, flags)?;
    ensure!(victim.labels() == "xzghab");
    Ok(())
}

fn map_populate_faults_everything_in() -> anyhow::Result<()> {
    const N: usize = 40;
    settle()?;
    let region = Region::sized(N)?;
    let fill = MapFlags::MAP_POPULATE;
    // Half of it is there already, half of it is fresh.
    region.map(N / 2)?.stamp(0..N / 2, b'x');
    let read = ProtFlags::PROT_READ;
    for (prot, flags, allocated) in [
        (RW, MapFlags::MAP_SHARED, N),
        (read, MapFlags::MAP_SHARED, N),
        (RW, MapFlags::MAP_PRIVATE, N),
        (read, MapFlags::MAP_PRIVATE, N),
    ] {
        let map = region.map_as(N * PAGE, prot, flags | fill)?;
        ensure!(map.table()? == "m".repeat(N), "{prot:?} {flags:?}");
        ensure!(region.info()?.allocated == allocated as u64);
        let step = watch(&region, || {
            map.read_pages(0..N);
            if prot == RW {
                map.write_pages(0..N);
            }
        })?;
        ensure!(step == Step::NONE, "{prot:?} {flags:?}: {step:?}");
    }
    // Without it, nothing is mapped.
    let map = region.map(N)?;
    ensure!(map.table()? == "-".repeat(N));
    // The writes through private mappings went into copies.
    ensure!(map.read(0) == 1 && map.read(PAGE - 1) == b'x');

    // Up to where the region ends: what lies behind is no reason to fail.
    let map = region.map_from(N - 2, 4 * PAGE, RW, MapFlags::MAP_SHARED | fill)?;
    ensure!(map.table()? == "mm--");
    // A private mapping that is written copies: the region gets nothing.
    let fresh = Region::sized(4)?;
    let map = fresh.map_as(4 * PAGE, RW, MapFlags::MAP_PRIVATE | fill)?;
    ensure!(map.table()? == "mmmm");
    ensure!(fresh.info()?.allocated == 0);
    Ok(())
}

/// mlock2(2) with MLOCK_ONFAULT.
fn mlock_on_fault(map: &Mapping) -> nix::Result<()> {
    // SAFETY: It changes no memory.
    let ret = unsafe {
        libc::mlock2(
            map.pointer().as_ptr(),
            map.len(),
            libc::MLOCK_ONFAULT as libc::c_uint,
        )
    };
    Errno::result(ret).map(drop)
}

fn locked_pages_never_fault_again() -> anyhow::Result<()> {
    const N: usize = 20;
    settle()?;
    let region = Region::sized(N)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_LOCKED;
    let map = region.map_as(N * PAGE, RW, flags)?;
    stay_mapped(&region, &map, false).context("populated by mmap(2)")?;

    // One page each, which the core has no reason to split.
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    // SAFETY: It changes no memory.
    unsafe { mlock(map.pointer(), map.len()) }?;
    stay_mapped(&region, &map, true).context("populated by mlock(2)")?;

    // On fault: as they are touched, they stay.
    let region = Region::sized(N)?;
    let lazy = region.map(N)?.single()?;
    mlock_on_fault(&lazy)?;
    ensure!(lazy.table()? == "-".repeat(N), "{}", lazy.table()?);
    lazy.write_pages(3..5);
    ensure!(lazy.table()? == "---mm".to_owned() + &"-".repeat(N - 5));
    ensure!(lazy.smaps()?.flag("lo")? && lazy.smaps()?.flag("lf")?);
    ensure!(region.info()?.allocated == 2);
    Ok(())
}

/// Asserts that the pages of a locked mapping stay mapped. Only compaction may, unless `single`,
/// split a folio, which takes it out of the page table once: the next touch finds it.
fn stay_mapped(region: &Region, map: &Mapping, single: bool) -> anyhow::Result<()> {
    let n = map.pages();
    ensure!(map.table()? == "m".repeat(n));
    ensure!(map.smaps()?.pages("Locked")? == n && map.smaps()?.flag("lo")?);
    ensure!(region.info()?.allocated == n as u64);
    map.label();
    let labels = map.labels();

    // Nothing that takes other pages out of the page table does it here.
    let again = || -> anyhow::Result<()> {
        let step = watch(region, || {
            map.label();
            map.read_pages(0..n);
        })?;
        ensure!(step == Step::NONE, "{step:?}");
        Ok(())
    };
    again()?;
    for advice in [
        libc::MADV_DONTNEED,
        libc::MADV_REMOVE,
        libc::MADV_PAGEOUT,
        libc::MADV_COLD,
        GUARD_INSTALL,
    ] {
        let found = map.advise(0..n, advice);
        ensure!(found == Err(Errno::EINVAL), "advice {advice}: {found:?}");
    }
    // SAFETY: It writes nothing back, and changes nothing.
    let found = unsafe { msync(map.pointer(), map.len(), MsFlags::MS_INVALIDATE) };
    ensure!(found == Err(Errno::EBUSY), "{found:?}");
    std::fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
    if !single {
        let step = watch(region, || map.label())?;
        ensure!(step.allocated == 0, "{step:?}");
    }
    again()?;
    ensure!(map.labels() == labels);

    // munlock(2) of a part, and mlock(2) of one.
    // SAFETY: Its pages may be taken out of the page table from here on.
    unsafe { munlock(map.page(0), 5 * PAGE) }?;
    ensure!(map.smaps()?.pages("Locked")? == 0);
    map.advise(0..5, libc::MADV_DONTNEED)?;
    ensure!(map.table()? == "-----".to_owned() + &"m".repeat(n - 5));
    // SAFETY: It changes no memory.
    unsafe { mlock(map.page(0), 2 * PAGE) }?;
    ensure!(map.table()?.starts_with("mm---m"), "{}", map.table()?);
    ensure!(map.smaps()?.pages("Locked")? == 2);
    ensure!(map.labels() == labels);
    Ok(())
}

fn locking_respects_the_limit() -> anyhow::Result<()> {
    const N: usize = 8;
    let region = Region::sized(N)?;
    drop(region.map(1)?);
    in_child(|| {
        let limit = (N * PAGE / 2) as libc::rlim_t;
        setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit)?;
        setuid(Uid::from_raw(1000))?;
        let lock = MapFlags::MAP_SHARED | MapFlags::MAP_LOCKED;
        let found = region.map_as(N * PAGE, RW, lock).err();
        ensure!(found == Some(Errno::EAGAIN), "MAP_LOCKED: {found:?}");
        let map = region.map(N)?;
        // SAFETY: It changes no memory.
        let found = unsafe { mlock(map.pointer(), map.len()) };
        ensure!(found == Err(Errno::ENOMEM), "mlock: {found:?}");
        ensure!(mlock_on_fault(&map) == Err(Errno::ENOMEM));
        ensure!(region.info()?.allocated == 0, "refused, and faulted in");
        // Half of it fits in, exactly.
        // SAFETY: It changes no memory.
        unsafe { mlock(map.pointer(), map.len() / 2) }?;
        ensure!(region.info()?.allocated == N as u64 / 2);
        // SAFETY: It changes no memory.
        let found = unsafe { mlock(map.page(N / 2), PAGE) };
        ensure!(found == Err(Errno::ENOMEM), "one page more: {found:?}");
        // With the mapping the lock is gone.
        drop(map);
        region.map_as(N * PAGE / 2, RW, lock)?;
        Ok(())
    })
}

fn mprotect_of_a_part_changes_that_part() -> anyhow::Result<()> {
    const N: usize = 6;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let twin = region.map(N)?;
    map.label();
    twin.label();
    let before = region.info()?;
    let protect = |pages: std::ops::Range<usize>, prot| {
        // SAFETY: It is this mapping's protection that changes.
        unsafe { mprotect(map.page(pages.start), pages.len() * PAGE, prot) }
    };
    protect(1..3, ProtFlags::PROT_READ)?;
    protect(4..5, ProtFlags::PROT_NONE)?;
    for page in [0, 1, 2, 3, 5] {
        ensure!(map.letter(page) == twin.letter(page), "page {page}");
    }
    for page in [0, 3, 5] {
        map.stamp(page..page + 1, b'z');
    }
    for page in [1, 2, 4] {
        dies_of(Signal::SIGSEGV, || map.write(page * PAGE, 1))?;
    }
    dies_of(Signal::SIGSEGV, || {
        map.read(4 * PAGE);
    })?;
    ensure!(twin.labels() == "zbczez", "{}", twin.labels());
    // And back: nothing was lost, and nothing has to be faulted in.
    protect(0..N, RW)?;
    ensure!(map.labels() == "zbczez");
    map.label();
    ensure!(twin.labels() == "abcdef");
    ensure!(region.info()? == before, "{:?}", region.info()?);
    // What is purged meanwhile is not there afterwards.
    protect(2..4, ProtFlags::PROT_NONE)?;
    region.unpin(1..3)?;
    ensure!(region.purge_all()? == 2);
    protect(0..N, ProtFlags::PROT_READ)?;
    ensure!(map.labels() == "a00def");
    Ok(())
}

fn msync_gives_zero() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    let read_only = region.map_as(4 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    let private = region.map_as(4 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    map.stamp(0..2, b'x');
    private.stamp(1..3, b'p');
    region.unpin(0..1)?;
    let before = region.info()?;
    let (sync, later) = (MsFlags::MS_SYNC, MsFlags::MS_ASYNC);
    let invalidate = MsFlags::MS_INVALIDATE;
    let call = |map: &Mapping, offset: usize, len: usize, flags| {
        let at = std::ptr::NonNull::new((map.base() + offset) as *mut libc::c_void);
        // SAFETY: It writes nothing back, and changes nothing.
        unsafe { msync(at.expect("not at address 0"), len, flags) }
    };
    for map in [&map, &read_only, &private] {
        for flags in [
            sync,
            later,
            invalidate,
            sync | invalidate,
            later | invalidate,
        ] {
            for (offset, len) in [(0, map.len()), (PAGE, 2 * PAGE), (2 * PAGE, 1), (0, 0)] {
                let found = call(map, offset, len, flags);
                ensure!(found == Ok(()), "{flags:?} {offset}, {len}: {found:?}");
            }
        }
        ensure!(call(map, 0, map.len(), sync | later) == Err(Errno::EINVAL));
        ensure!(call(map, 1, PAGE, sync) == Err(Errno::EINVAL));
    }
    ensure!(region.info()? == before, "{:?}", region.info()?);
    ensure!(region.picture(4)? == "u...");
    ensure!(map.picture(b'x') == "xx00");
    ensure!(private.labels() == "xpp0", "{}", private.labels());
    // Where nothing is mapped, it says so, at the end.
    map.unmap(1..2)?;
    for flags in [sync, later, invalidate] {
        let found = call(&map, 0, map.len(), flags);
        ensure!(found == Err(Errno::ENOMEM), "{flags:?}: {found:?}");
    }
    // Without a descriptor it is the same.
    drop(region);
    call(&map, 2 * PAGE, 2 * PAGE, sync)?;
    Ok(())
}

/// mincore(2): `1` where a page is there.
pub fn resident(map: &Mapping) -> anyhow::Result<String> {
    let mut found = vec![0xff; map.pages()];
    // SAFETY: It writes a byte for each page.
    Errno::result(unsafe { libc::mincore(map.pointer().as_ptr(), map.len(), found.as_mut_ptr()) })
        .context("mincore")?;
    Ok(found
        .iter()
        .map(|byte| match byte {
            0 => '0',
            1 => '1',
            _ => '?',
        })
        .collect())
}

fn mincore_tells_which_pages_are_there() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = region.map(8)?;
    let twin = region.map(8)?;
    let tail = region.map_from(5, 4 * PAGE, RW, MapFlags::MAP_SHARED)?;
    let hidden = region.map_as(8 * PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED)?;
    let private = region.map_as(8 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let everywhere = |expected: &str| -> anyhow::Result<()> {
        for map in [&map, &twin, &hidden, &private] {
            let found = resident(map)?;
            ensure!(found == expected, "{found}, expected {expected}");
        }
        // Behind the region there is nothing.
        let found = resident(&tail)?;
        ensure!(found == expected[5..].to_owned() + "0", "{found}");
        let count = expected.matches('1').count();
        ensure!(region.info()?.resident == count as u64);
        Ok(())
    };
    everywhere("00000000")?;
    map.stamp(1..4, b'x');
    map.stamp(6..8, b'x');
    everywhere("01110011")?;
    map.advise(0..8, libc::MADV_DONTNEED)?;
    everywhere("01110011")?;
    region.unpin(2..7)?;
    everywhere("01110011")?;
    // Purged: 2, 3 and 6, and the holes between them.
    ensure!(region.purge_all()? == 5);
    everywhere("01000001")?;
    twin.read(3 * PAGE);
    everywhere("01010001")?;
    map.advise(1..2, libc::MADV_REMOVE)?;
    everywhere("00010001")?;
    in_child(|| everywhere("00010001"))?;
    // Somebody else who was given the region learns as much.
    in_child(|| {
        setuid(Uid::from_raw(1000))?;
        everywhere("00010001").context("as another user")
    })?;
    // A private mapping has its copy, whatever the region has.
    private.write(4 * PAGE, 1);
    let found = resident(&private)?;
    ensure!(found == "00011001", "{found}");
    ensure!(resident(&map)? == "00010001");
    Ok(())
}
