// SPDX-License-Identifier: GPL-2.0-only

//! What mmap semantics must hold.

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::MsFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mremap;
use nix::sys::mman::msync;
use nix::sys::mman::munmap;
use nix::sys::signal::Signal;
use nix::sys::uio::pread;

use crate::harness::tests;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::dies_of;
use crate::tests::process::spawn;

tests! {
    touch_past_the_end_is_sigbus,
    mapping_outlives_the_descriptor,
    madv_remove_punches_a_hole,
    msync_succeeds,
    partial_munmap_keeps_the_rest,
    grown_mapping_ends_where_the_region_ends,
    failed_memory_never_reads_as_zeros,
}

fn touch_past_the_end_is_sigbus() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(PAGE + 1)?;
    let map = region.map(2)?;
    // The last page is whole, whatever the size says.
    map.write(2 * PAGE - 1, 1);
    // Behind it, there is nothing: map the region from its second page on.
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let shifted = unsafe {
        nix::sys::mman::mmap(
            None,
            (2 * PAGE).try_into()?,
            RW,
            MapFlags::MAP_SHARED,
            &region,
            PAGE as i64,
        )
    }?;
    let touch = |page: usize| {
        // SAFETY: The offset lies in the mapping.
        let byte = unsafe { shifted.cast::<u8>().add(page * PAGE) };
        // SAFETY: It is mapped; what happens is what this test is about.
        unsafe { byte.write_volatile(1) }
    };
    touch(0);
    ensure!(map.read(PAGE) == 1);
    dies_of(Signal::SIGBUS, || touch(1))?;
    // SAFETY: Nobody uses it any more.
    unsafe { munmap(shifted, 2 * PAGE) }?;
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

fn madv_remove_punches_a_hole() -> anyhow::Result<()> {
    let region = Region::sized(6)?;
    let map = region.map(6)?;
    let twin = region.map(6)?;
    map.stamp(0..6, 4);
    ensure!(twin.picture(4) == "xxxxxx");
    let at = std::ptr::NonNull::new((map.base() + 2 * PAGE) as *mut libc::c_void)
        .context("no address")?;
    // SAFETY: Content of a mapping of this test goes.
    unsafe { madvise(at, 2 * PAGE, MmapAdvise::MADV_REMOVE) }?;
    ensure!(map.picture(4) == "xx00xx");
    ensure!(twin.picture(4) == "xx00xx");
    // The pictures were read faults, which filled the hole with zeros.
    ensure!(region.info()?.resident == 6);
    ensure!(!region.pin(0..6)?, "what its owner removed was not purged");
    Ok(())
}

fn msync_succeeds() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..2, 1);
    for flags in [MsFlags::MS_SYNC, MsFlags::MS_ASYNC] {
        // SAFETY: It writes nothing back, and changes nothing.
        unsafe { msync(map.pointer(), map.len(), flags) }.with_context(|| format!("{flags:?}"))?;
    }
    Ok(())
}

fn partial_munmap_keeps_the_rest() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    let twin = region.map(4)?;
    map.stamp(0..4, 1);
    let at =
        std::ptr::NonNull::new((map.base() + PAGE) as *mut libc::c_void).context("no address")?;
    // SAFETY: Of this mapping only the pages 0 and 3 are used from here on.
    unsafe { munmap(at, 2 * PAGE) }?;
    ensure!(map.read(0) == 1 && map.read(3 * PAGE) == 1);
    ensure!(twin.picture(1) == "xxxx");
    dies_of(Signal::SIGSEGV, || {
        map.read(PAGE);
    })
}

fn grown_mapping_ends_where_the_region_ends() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..2, 6);
    // SAFETY: The old mapping is gone after this, and is not used any more.
    let grown = unsafe {
        mremap(
            map.pointer(),
            map.len(),
            4 * PAGE,
            MRemapFlags::MREMAP_MAYMOVE,
            None,
        )
    };
    map.leak();
    let grown = grown?;
    let byte = |page: usize| {
        // SAFETY: The offset lies in the mapping.
        let byte = unsafe { grown.cast::<u8>().add(page * PAGE) };
        // SAFETY: It is mapped; what happens is what this test is about.
        unsafe { byte.read_volatile() }
    };
    ensure!(byte(0) == 6 && byte(1) == 6);
    dies_of(Signal::SIGBUS, || {
        byte(2);
    })?;
    // SAFETY: Nobody uses it any more.
    unsafe { munmap(grown, 4 * PAGE) }?;
    ensure!(region.set_size(PAGE) == Err(Errno::EINVAL));
    Ok(())
}

fn failed_memory_never_reads_as_zeros() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..4, 8);
    // In a child, which the kernel may choose to kill.
    let child = spawn(|| {
        let at = std::ptr::NonNull::new((map.base() + 2 * PAGE) as *mut libc::c_void)
            .context("no address")?;
        // SAFETY: The page's content is lost, as this test wants it.
        unsafe { madvise(at, PAGE, MmapAdvise::MADV_HWPOISON) }?;
        Ok(())
    })?;
    child.wait()?;

    dies_of(Signal::SIGBUS, || {
        map.read(2 * PAGE);
    })?;
    let fresh = region.map(4)?;
    dies_of(Signal::SIGBUS, || {
        fresh.read(2 * PAGE);
    })?;
    let mut buffer = [0; 16];
    ensure!(pread(&region, &mut buffer, 2 * PAGE as i64) == Err(Errno::EIO));
    ensure!(
        pread(&region, &mut buffer, 2 * PAGE as i64 - 8)? == 8,
        "up to it"
    );
    ensure!(
        map.read(PAGE) == 8 && fresh.read(3 * PAGE) == 8,
        "its neighbours"
    );
    // Purging leaves it, so that it stays known.
    region.unpin(0..4)?;
    ensure!(region.purge_all()? == 3);
    dies_of(Signal::SIGBUS, || {
        fresh.read(2 * PAGE);
    })
}
