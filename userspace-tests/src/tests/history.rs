// SPDX-License-Identifier: GPL-2.0-only

//! What was broken in ashmem and in its forks, and must not be here. SECURITY.md
//! tells what it was; some of it is tested where it belongs, as that table says.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mprotect;
use nix::sys::signal::Signal;
use nix::sys::uio::pread;

use crate::abi;
use crate::harness::is_debug_kernel;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::names::line_of;
use crate::tests::process::dies_of;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    cve_2011_1149_mask_holds_at_mprotect => "mask.mprotect" "mask.not-retroactive",
    cve_2017_13216_size_that_mmap_saw_is_the_size @ 60 => "size.frozen" "state.frozen",
    cve_2020_0009_mapping_again_brings_no_right_back => "mask.mprotect" "map.remap-file-pages",
    unpin_by_a_reader_does_not_go_unseen => "pin.any-holder" "pin.was-purged",
    read_implies_exec_maps_nothing_executable => "mmap.mask" "mask.mprotect",
    arguments_in_purged_memory_do_not_deadlock @ 60,
    longest_name_is_whole_where_it_is_seen => "name.cut" "seen.maps",
}

const NONE: ProtFlags = ProtFlags::PROT_NONE;
const READ: ProtFlags = ProtFlags::PROT_READ;
const EXEC: ProtFlags = ProtFlags::PROT_EXEC;
const ALL: ProtFlags = RW.union(EXEC);

/// mprotect(2) of some pages of a mapping.
fn protect(map: &Mapping, first: usize, pages: usize, prot: ProtFlags) -> nix::Result<()> {
    let at = NonNull::new((map.base() + first * PAGE) as *mut libc::c_void).ok_or(Errno::EFAULT)?;
    // SAFETY: It is this mapping's protection that changes, if any.
    unsafe { mprotect(at, pages * PAGE, prot) }
}

/// Android before 2.3 kept the system's properties in a region whose mask was
/// `PROT_READ`, and any program could make its mapping of it writable.
fn cve_2011_1149_mask_holds_at_mprotect() -> anyhow::Result<()> {
    let (here, there) = sockets()?;
    let program = spawn(|| {
        let properties = Region::from_fd(receive_fd(&there)?);
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            let map = properties.map_as(4 * PAGE, READ, flags)?;
            for prot in [ProtFlags::PROT_WRITE, RW, EXEC, READ | EXEC, ALL] {
                for (first, pages) in [(0, 4), (0, 1), (1, 2), (3, 1)] {
                    let found = protect(&map, first, pages, prot);
                    ensure!(
                        found == Err(Errno::EACCES),
                        "{flags:?} {prot:?}, {pages} from {first}: {found:?}"
                    );
                }
            }
            // Nor by way of less.
            protect(&map, 1, 2, NONE)?;
            ensure!(protect(&map, 1, 2, RW) == Err(Errno::EACCES));
            protect(&map, 1, 2, READ)?;
            ensure!(map.picture(1) == "xxxx");
            dies_of(Signal::SIGSEGV, || map.write(0, 2))?;
        }
        // What it may do is take the rest away, for those who come later.
        properties.set_mask(NONE)?;
        Ok(())
    })?;

    let properties = Region::sized(4)?;
    let map = properties.map(4)?;
    map.stamp(0..4, 1);
    properties.set_mask(READ)?;
    send_fd(&here, properties.as_fd())?;
    program.join()?;
    ensure!(map.picture(1) == "xxxx");
    map.stamp(0..4, 2);
    let late = properties.map_as(PAGE, READ, MapFlags::MAP_SHARED).err();
    ensure!(late == Some(Errno::EPERM));
    Ok(())
}

/// SET_SIZE looked whether the region was mapped, and wrote the size, without
/// the lock that mmap held.
fn cve_2017_13216_size_that_mmap_saw_is_the_size() -> anyhow::Result<()> {
    // It takes some luck: as many rounds as a few seconds allow.
    const ROUNDS: usize = 250;
    const AT_LEAST: usize = 50;
    const OVER: u32 = u32::MAX;
    const SELDOM: usize = 5;
    const SMALL: usize = PAGE;
    const LARGE: usize = 16 * PAGE;
    const SIZES: [usize; 4] = [SMALL, LARGE, 2 * PAGE, 15 * PAGE];

    let regions: Vec<_> = (0..ROUNDS)
        .map(|_| Region::sized(1))
        .collect::<Result<_, _>>()?;
    let words = Region::sized(1)?;
    let words = words.map(1)?;
    // Rounds that have begun, those whose region is mapped, and those that a
    // resizer is done with, each counted from 1.
    let (begun, mapped) = (words.atomic(0), words.atomic(4));
    let resize = |sizes: &[usize], every: usize, done: &AtomicU32| -> anyhow::Result<()> {
        for (round, region) in regions.iter().enumerate().step_by(every) {
            let number = round as u32 + 1;
            while begun.load(Ordering::SeqCst) < number {
                thread::yield_now();
            }
            if begun.load(Ordering::SeqCst) == OVER {
                return Ok(());
            }
            loop {
                let frozen = mapped.load(Ordering::SeqCst) == number;
                for size in sizes {
                    let result = region.set_size(*size);
                    ensure!(
                        matches!(result, Ok(()) | Err(Errno::EINVAL)),
                        "round {round}: {result:?}"
                    );
                    ensure!(
                        !frozen || result.is_err(),
                        "round {round}: resized while mapped"
                    );
                }
                if frozen {
                    break;
                }
            }
            done.store(number, Ordering::SeqCst);
        }
        Ok(())
    };
    let resizers = [
        spawn(|| resize(&SIZES[..2], 1, words.atomic(8)))?,
        // Seldom, since two processors run three processes one after the other.
        spawn(|| resize(&SIZES[2..], SELDOM, words.atomic(12)))?,
    ];

    // Whether a page is there, without dying of it.
    let there = |region: &Region, page: usize| -> anyhow::Result<bool> {
        let map = region.map_far(PAGE, READ, MapFlags::MAP_SHARED, (page * PAGE) as i64)?;
        match map.advise(0..1, libc::MADV_POPULATE_READ) {
            Ok(()) => Ok(true),
            Err(Errno::EFAULT) => Ok(false),
            Err(other) => Err(other).context("MADV_POPULATE_READ"),
        }
    };
    let started = Instant::now();
    let mut refused = 0;
    for (round, region) in regions.iter().enumerate() {
        let number = round as u32 + 1;
        let len = if round % 2 == 0 { LARGE } else { SMALL };
        if round >= AT_LEAST && started.elapsed() > Duration::from_secs(6) {
            break;
        }
        begun.store(number, Ordering::SeqCst);
        for _ in 0..round % 7 {
            ensure!(SIZES.contains(&region.size()?));
        }
        let map = loop {
            match region.map_as(len, RW, MapFlags::MAP_SHARED) {
                Ok(map) => break map,
                Err(Errno::EINVAL) => refused += 1,
                Err(other) => return Err(other).context("mmap"),
            }
        };
        let size = region.size()?;
        mapped.store(number, Ordering::SeqCst);
        ensure!(
            SIZES.contains(&size) && size >= len,
            "round {round}: {len} bytes of {size} are mapped"
        );
        map.write(len - 1, 1);
        for (done, every) in [(8, 1), (12, SELDOM)] {
            while round % every == 0 && words.atomic(done).load(Ordering::SeqCst) < number {
                thread::yield_now();
            }
        }
        let later = region.size()?;
        ensure!(later == size, "round {round}: {size}, then {later}");
        ensure!(
            there(region, size / PAGE - 1)? && !there(region, size / PAGE)?,
            "round {round}: the file behind the mapping has not {size} bytes"
        );
    }
    begun.store(OVER, Ordering::SeqCst);
    for resizer in resizers {
        resizer.join()?;
    }
    println!("{refused} mappings were refused");
    ensure!(refused > 0, "nobody ever changed a size before an mmap");
    Ok(())
}

/// A mapping's file could be mapped once more, by remap_file_pages(2), and what
/// came of it knew of no mask.
fn cve_2020_0009_mapping_again_brings_no_right_back() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let writer = region.map(4)?;
    writer.stamp(0..4, 1);
    region.set_mask(READ)?;
    let map = region.map_as(4 * PAGE, READ, MapFlags::MAP_SHARED)?;
    let from = |first: usize| {
        let (length, flags) = (2 * PAGE, 0usize);
        // SAFETY: It would show other pages of the same region, if it worked.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_remap_file_pages,
                map.base(),
                length,
                0usize,
                first,
                flags,
            )
        })
    };
    for first in [0, 1, 2] {
        let found = from(first);
        ensure!(found == Err(Errno::ENODEV), "from {first}: {found:?}");
        ensure!(map.picture(1) == "xxxx");
        ensure!(protect(&map, 0, 4, RW) == Err(Errno::EACCES));
    }
    Ok(())
}

/// Who may only read can unpin, by the ABI: what others lose by it, they are told.
/// `strict_unpin` forbids it.
fn unpin_by_a_reader_does_not_go_unseen() -> anyhow::Result<()> {
    let (here, there) = sockets()?;
    let reader = spawn(|| {
        let region = Region::from_fd(receive_fd(&there)?);
        let map = region.map_as(4 * PAGE, READ, MapFlags::MAP_SHARED)?;
        ensure!(map.picture(1) == "xxxx");
        region.unpin(1..3)?;
        Ok(())
    })?;
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..4, 1);
    region.set_mask(READ)?;
    send_fd(&here, region.as_fd())?;
    reader.join()?;
    ensure!(region.picture(4)? == ".uu.");
    // The owner asks before the memory is gone, and has lost nothing,
    ensure!(!region.pin(0..4)?);
    ensure!(region.purge_all()? == 0);
    ensure!(map.picture(1) == "xxxx");
    // or after it, and is told.
    region.unpin(1..3)?;
    ensure!(region.purge_all()? == 2);
    ensure!(region.pin(0..4)?);
    ensure!(map.picture(1) == "x00x");
    Ok(())
}

/// The personality that makes what can be read executable.
fn read_implies_exec_maps_nothing_executable() -> anyhow::Result<()> {
    let made = |mask| -> anyhow::Result<(Region, Mapping)> {
        let region = Region::sized(1)?;
        region.set_mask(mask)?;
        let map = region.map_as(PAGE, NONE, MapFlags::MAP_SHARED)?;
        Ok((region, map))
    };
    let (open, open_map) = made(ALL)?;
    let (closed, closed_map) = made(RW)?;
    in_child(|| {
        // SAFETY: It changes this process's personality only.
        Errno::result(unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) })?;
        let rights = |map: &Mapping| -> anyhow::Result<String> {
            let line = line_of(map)?;
            Ok(line.split_whitespace().nth(1).unwrap_or("").to_owned())
        };
        // It does what it says where nothing forbids it.
        protect(&open_map, 0, 1, READ)?;
        ensure!(rights(&open_map)? == "r-xs", "{}", rights(&open_map)?);
        let fresh = open.map_as(PAGE, READ, MapFlags::MAP_SHARED)?;
        ensure!(rights(&fresh)? == "r-xs", "{}", rights(&fresh)?);

        protect(&closed_map, 0, 1, READ)?;
        ensure!(rights(&closed_map)? == "r--s", "{}", rights(&closed_map)?);
        let found = closed.map_as(PAGE, READ, MapFlags::MAP_SHARED).err();
        ensure!(found == Some(Errno::EPERM), "{found:?}");
        Ok(())
    })
}

/// Where nothing is ever mapped.
const HOLE: usize = 8;

/// What everybody does in [`arguments_in_purged_memory_do_not_deadlock`].
struct Struggle<'a> {
    region: &'a Region,
    /// Where the region is mapped.
    base: usize,
    pages: usize,
    until: Instant,
}

impl Struggle<'_> {
    /// Repeats `body` until the time is up, and counts.
    fn repeat(
        &self,
        count: &AtomicU32,
        mut body: impl FnMut(usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut round = 0;
        while Instant::now() < self.until {
            body(round).with_context(|| format!("round {round}"))?;
            count.fetch_add(1, Ordering::SeqCst);
            round += 1;
        }
        Ok(())
    }

    /// Every ioctl that reads or writes user memory, and read(2), with memory
    /// of the region itself, of which any page may be purged at any time.
    fn ioctls(&self, round: usize) -> anyhow::Result<()> {
        let page = self.base + round % self.pages * PAGE;
        // Nobody ever writes there: zeros, which stand for the whole region.
        let zeros = page + 1024;
        let status = abi::ashmem_page_status {
            offset: 0,
            len: 0,
            status: page as u64 + 2048,
        };
        let status = &raw const status as usize;
        let counters = page + 3072;
        let name = page;
        let id = page + 512;

        for (request, argument, least, most) in [
            (abi::ABI_UNPIN, zeros, 0, 0),
            (abi::ABI_GET_NAME, name, 0, 0),
            (abi::ABI_GET_PIN_STATUS, zeros, 0, 1),
            (abi::ABI_GET_FILE_ID, id, 0, 0),
            (abi::ABI_PIN, zeros, 0, 1),
            (abi::ABI_UNPIN_RANGE, zeros, 0, 0),
            (abi::ABI_GET_COUNTERS, counters, 64, 64),
            (abi::ABI_GET_RANGE_PIN_STATUS, zeros, 0, 1),
            (abi::ABI_GET_PAGE_STATUS, status, 0, 0),
            (abi::ABI_PIN_RANGE, zeros, 0, 1),
            (abi::ABI_UNPIN, zeros, 0, 0),
        ] {
            let found = self.region.ioctl(request, argument);
            ensure!(
                found.is_ok_and(|found| (least..=most).contains(&found)),
                "{request:#x}: {found:?}"
            );
            let found = self.region.ioctl(request, HOLE);
            ensure!(found == Err(Errno::EFAULT), "{request:#x}: {found:?}");
        }
        let found = self.region.ioctl(abi::ABI_SET_NAME, name);
        ensure!(found == Err(Errno::EINVAL), "{found:?}");
        let found = self.region.ioctl(abi::ABI_SET_NAME, HOLE);
        ensure!(found == Err(Errno::EFAULT), "{found:?}");

        let bytes = (page + 2048) as *mut u8;
        // SAFETY: They are mapped, and only the kernel writes there.
        let buffer = unsafe { std::slice::from_raw_parts_mut(bytes, 256) };
        ensure!(
            pread(
                self.region,
                buffer,
                (round % self.pages * PAGE) as libc::off_t
            )? == 256
        );
        Ok(())
    }

    /// Mappings come and go, and change.
    fn mappings(&self, round: usize) -> anyhow::Result<()> {
        let map = self.region.map(self.pages)?;
        map.write(round % self.pages * PAGE + 4000, 1);
        protect(&map, 1, self.pages / 2, READ)?;
        map.read(PAGE);
        Ok(())
    }

    /// A region from its first to its last moment.
    fn lives(&self) -> anyhow::Result<()> {
        let region = Region::sized(16)?;
        region.set_name(c"short-lived")?;
        let map = region.map(16)?;
        map.write_pages(0..16);
        region.unpin(2..14)?;
        map.advise(0..4, libc::MADV_REMOVE)?;
        in_child(|| {
            map.read_pages(0..16);
            Ok(())
        })?;
        region.pin(0..8)?;
        drop(region);
        map.write_pages(0..16);
        Ok(())
    }
}

/// The kernel takes memory back as often as it can.
fn reclaim(round: usize) -> anyhow::Result<()> {
    // Of the nodes, where there are any: with all that vmscan holds.
    const NODE: &str = "/sys/devices/system/node/node0/reclaim";
    if round % 2 == 1 && Path::new(NODE).exists() {
        match fs::write(NODE, "1M") {
            Err(e) if e.raw_os_error() != Some(libc::EAGAIN) => return Err(e).context(NODE),
            // There may be less to be had.
            _ => return Ok(()),
        }
    }
    fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")
}

fn arguments_in_purged_memory_do_not_deadlock() -> anyhow::Result<()> {
    const PAGES: usize = 64;
    // From here on drop_caches says nothing in the kernel log.
    fs::write("/proc/sys/vm/drop_caches", "4").context("drop_caches")?;
    let region = Region::sized(PAGES)?;
    region.set_name(c"struggle")?;
    let map = region.map(PAGES)?;
    let words = Region::sized(1)?;
    let words = words.map(1)?;
    let seconds = if is_debug_kernel() { 6 } else { 3 };
    let all = Struggle {
        region: &region,
        base: map.base(),
        pages: PAGES,
        until: Instant::now() + Duration::from_secs(seconds),
    };
    let count = |participant: usize| words.atomic(4 * participant);

    let children = [
        // Threads, since only these have a lock of mappings in common.
        spawn(|| {
            let (ioctls, mappings, purges) = (count(0), count(1), count(2));
            thread::scope(|scope| {
                let threads = [
                    scope.spawn(|| all.repeat(ioctls, |round| all.ioctls(round))),
                    scope.spawn(|| all.repeat(mappings, |round| all.mappings(round))),
                    scope.spawn(|| {
                        all.repeat(purges, |_| {
                            all.region.purge_all()?;
                            Ok(())
                        })
                    }),
                ];
                for thread in threads {
                    match thread.join() {
                        Ok(result) => result?,
                        Err(_) => bail!("a thread panicked"),
                    }
                }
                Ok(())
            })
        })?,
        spawn(|| all.repeat(count(3), |round| all.ioctls(round + PAGES / 2)))?,
        spawn(|| all.repeat(count(4), reclaim))?,
        spawn(|| all.repeat(count(5), |_| all.lives()))?,
    ];
    for child in children {
        child.join()?;
    }

    let rounds: Vec<_> = (0..6)
        .map(|participant| count(participant).load(Ordering::SeqCst))
        .collect();
    println!("rounds of each: {rounds:?}");
    ensure!(
        rounds.iter().all(|rounds| *rounds > 2),
        "somebody stood still: {rounds:?}"
    );
    region.pin(0..PAGES)?;
    let info = region.info()?;
    println!("{info:?}");
    ensure!(info.purged > PAGES as u64, "hardly anything was purged");
    ensure!(info.resident == info.allocated - info.purged, "{info:?}");
    ensure!(info.unpinned == 0, "{info:?}");
    Ok(())
}

/// Names ran over the buffers in which the driver put a prefix before them.
fn longest_name_is_whole_where_it_is_seen() -> anyhow::Result<()> {
    let limit = abi::ASHMEM_NAME_LEN as usize - 1;
    for len in [limit - 1, limit, limit + 1, 4 * limit] {
        let region = Region::sized(1)?;
        let text = ('a'..='z').cycle().take(len).collect::<String>();
        region.set_name(&CString::new(text.clone())?)?;
        let map = region.map(1)?;
        let kept = &text[..len.min(limit)];
        ensure!(region.name()? == kept);
        let line = line_of(&map)?;
        ensure!(
            line.ends_with(&format!(" /dev/ashmem/{kept} (deleted)")),
            "{len} bytes: {line}"
        );
        ensure!(region.fdinfo()?.contains(&format!("name:\t{kept}\n")));
    }
    Ok(())
}
