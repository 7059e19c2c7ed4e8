// SPDX-License-Identifier: GPL-2.0-only

//! The device's file without a mapping: read(2), lseek(2), sendfile(2),
//! splice(2).

use std::fs::File;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::SpliceFFlags;
use nix::fcntl::copy_file_range;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::fcntl::splice;
use nix::sys::mman::MapFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::munmap;
use nix::sys::sendfile::sendfile64;
use nix::sys::stat::Mode;
use nix::sys::uio::preadv;
use nix::sys::uio::pwrite;
use nix::sys::uio::readv;
use nix::sys::uio::writev;
use nix::unistd::Whence;
use nix::unistd::lseek64;
use nix::unistd::pipe;
use nix::unistd::read;
use nix::unistd::write;

use crate::abi;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::tests::process::until;

tests! {
    states_before_the_first_mapping =>
        "read.unsized" "read.unmapped" "seek.unsized" "seek.unmapped",
    read_gives_content_up_to_the_unrounded_size => "read.content" "read.size",
    holes_read_as_zeros_and_stay_holes => "read.holes",
    read_ends_at_a_fault_in_the_destination,
    region_is_read_into_a_mapping_of_itself,
    read_beside_a_purge_gives_whole_pages,
    write_is_einval => "read.write",
    lseek_moves_the_position => "seek.common",
    position_is_shared_by_duplicates => "seek.dup",
    seek_finds_data_and_holes => "seek.data" "seek.enxio",
    what_lies_far_behind_is_read_and_found => "read.content" "seek.data",
    sendfile_copies_the_region => "read.sendfile" "read.holes",
    splice_fills_a_pipe_and_goes_on => "read.sendfile" "read.holes",
    nothing_is_spliced_into_a_region => "read.write",
    copy_file_range_is_einval => "read.copy-file-range",
}

/// Where lseek(2) is asked to go from.
const WHENCES: [Whence; 5] = [
    Whence::SeekSet,
    Whence::SeekCur,
    Whence::SeekEnd,
    Whence::SeekData,
    Whence::SeekHole,
];

/// pread(2) with an offset of 64 bits, whatever the program is built for.
fn pread(fd: impl AsFd, buffer: &mut [u8], offset: i64) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: The kernel writes to the buffer, no further than its length.
    let read = unsafe { libc::pread64(fd, buffer.as_mut_ptr().cast(), buffer.len(), offset) };
    Errno::result(read).map(|n| n as usize)
}

/// The byte that [`patterned`] puts here.
fn pattern(at: usize) -> u8 {
    // No multiple of it is a page: no two pages are alike.
    1 + (at % 251) as u8
}

/// A region of `size` bytes where each third page is a hole, from page 1 on,
/// and the content that it has.
fn patterned(size: usize) -> anyhow::Result<(Region, Mapping, Vec<u8>)> {
    let region = Region::open()?;
    region.set_size(size)?;
    let map = region.map(size.div_ceil(PAGE))?;
    let mut content = vec![0; size];
    for (at, byte) in content.iter_mut().enumerate() {
        if at / PAGE % 3 != 1 {
            *byte = pattern(at);
            map.write(at, *byte);
        }
    }
    Ok((region, map, content))
}

/// Pages of [`patterned`] that have memory.
fn resident(size: usize) -> u64 {
    (0..size.div_ceil(PAGE))
        .filter(|page| page % 3 != 1)
        .count() as u64
}

fn states_before_the_first_mapping() -> anyhow::Result<()> {
    let reads = |region: &Region| {
        let mut buffer = [1; 16];
        let mut other = [1; 16];
        let found = [
            read(region, &mut buffer),
            pread(region, &mut buffer, 0),
            pread(region, &mut buffer, 1 << 40),
            readv(
                region,
                &mut [IoSliceMut::new(&mut buffer), IoSliceMut::new(&mut other)],
            ),
            preadv(region, &mut [IoSliceMut::new(&mut other)], 5),
        ];
        (found, buffer == [1; 16] && other == [1; 16])
    };
    let seeks = |region: &Region| WHENCES.map(|whence| lseek64(region, 0, whence));

    let region = Region::open()?;
    for _ in 0..2 {
        let (found, untouched) = reads(&region);
        ensure!(found == [Ok(0); 5] && untouched, "unsized: {found:?}");
        let found = seeks(&region);
        ensure!(found == [Err(Errno::EINVAL); 5], "unsized: {found:?}");

        region.set_size(PAGE)?;
        let (found, untouched) = reads(&region);
        ensure!(
            found == [Err(Errno::EBADF); 5] && untouched,
            "unmapped: {found:?}"
        );
        let found = seeks(&region);
        ensure!(found == [Err(Errno::EBADF); 5], "unmapped: {found:?}");
        // Once more: a region may become one without a size again.
        region.set_size(0)?;
    }
    region.set_size(PAGE)?;
    drop(region.map(1)?);
    let (found, _) = reads(&region);
    ensure!(
        found == [Ok(16), Ok(16), Ok(0), Ok(32), Ok(16)],
        "mapped once: {found:?}"
    );
    Ok(())
}

fn read_gives_content_up_to_the_unrounded_size() -> anyhow::Result<()> {
    let size = 2 * PAGE + 10;
    let (region, map, content) = patterned(size)?;
    // Behind the size, but within the last page: it can be mapped, not read.
    map.write(size, 0xee);
    map.write(3 * PAGE - 1, 0xee);

    let mut buffer = vec![0xaa; 4 * PAGE];
    ensure!(read(&region, &mut buffer)? == size);
    ensure!(buffer[..size] == content);
    ensure!(
        buffer[size..].iter().all(|byte| *byte == 0xaa),
        "more was written than was said"
    );
    ensure!(read(&region, &mut buffer)? == 0, "at the end");
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == size as i64);

    for (offset, len, expected) in [
        (0, 0, 0),
        (0, 1, 1),
        (PAGE - 50, 100, 100),
        (PAGE, PAGE, PAGE),
        (2 * PAGE - 1, 3, 3),
        (size - 1, 1, 1),
        (size - 1, 5, 1),
        (size, 5, 0),
        (3 * PAGE - 1, 1, 0),
        (3 * PAGE, 1, 0),
    ] {
        let found = pread(&region, &mut buffer[..len], offset as i64)?;
        ensure!(found == expected, "{offset} {len}: {found}");
        ensure!(
            buffer[..found] == content[offset.min(size)..][..found],
            "{offset} {len}"
        );
    }
    for offset in [1 << 32, 1 << 62, i64::MAX - 100] {
        ensure!(pread(&region, &mut buffer[..9], offset)? == 0, "{offset}");
    }
    for offset in [-1, i64::MIN] {
        let found = pread(&region, &mut buffer, offset);
        ensure!(found == Err(Errno::EINVAL), "{offset}: {found:?}");
    }
    ensure!(
        lseek64(&region, 0, Whence::SeekCur)? == size as i64,
        "pread moved the position"
    );

    lseek64(&region, 5, Whence::SeekSet)?;
    let (head, tail) = buffer.split_at_mut(7);
    let two = &mut [IoSliceMut::new(head), IoSliceMut::new(&mut tail[..9])];
    ensure!(readv(&region, two)? == 16);
    ensure!(buffer[..16] == content[5..21]);
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 21);
    let (head, tail) = buffer.split_at_mut(PAGE);
    let two = &mut [IoSliceMut::new(head), IoSliceMut::new(tail)];
    ensure!(preadv(&region, two, 30)? == size - 30);
    ensure!(buffer[..size - 30] == content[30..]);
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 21);
    Ok(())
}

fn holes_read_as_zeros_and_stay_holes() -> anyhow::Result<()> {
    let size = 7 * PAGE;
    let (region, map, content) = patterned(size)?;
    let before = region.info()?;
    let mut buffer = vec![0xaa; size];
    ensure!(read(&region, &mut buffer)? == size);
    ensure!(buffer == content);
    let after = region.info()?;
    ensure!(after == before, "{before:?}, after read(2) {after:?}");
    ensure!(after.resident == resident(size), "{after:?}");

    // A page that was purged is a hole like any other.
    region.unpin(2..4)?;
    ensure!(region.purge_all()? == 2);
    let before = region.info()?;
    ensure!(pread(&region, &mut buffer, 0)? == size);
    ensure!(buffer[PAGE..4 * PAGE].iter().all(|byte| *byte == 0));
    ensure!(buffer[4 * PAGE..] == content[4 * PAGE..]);
    let after = region.info()?;
    ensure!(after == before, "{before:?}, after pread(2) {after:?}");
    ensure!(map.read(5 * PAGE) == pattern(5 * PAGE));
    Ok(())
}

fn read_ends_at_a_fault_in_the_destination() -> anyhow::Result<()> {
    let (region, _map, content) = patterned(3 * PAGE)?;
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe {
        mmap_anonymous(
            None,
            NonZeroUsize::new(3 * PAGE).context("no length")?,
            RW,
            MapFlags::MAP_PRIVATE,
        )
    }?;
    let at = |offset: usize| (base.as_ptr() as usize + offset) as *mut libc::c_void;
    // SAFETY: Its first page stays, and the others are not used any more.
    unsafe { munmap(NonNull::new(at(PAGE)).context("no address")?, 2 * PAGE) }?;
    let pread_to = |to: *mut libc::c_void, offset: usize| {
        // SAFETY: The kernel refuses to write to what is not mapped.
        Errno::result(unsafe {
            libc::pread64(region.as_fd().as_raw_fd(), to, 2 * PAGE, offset as i64)
        })
    };
    let page = || {
        // SAFETY: The page is mapped, and nobody else writes to it.
        unsafe { std::slice::from_raw_parts(base.as_ptr().cast::<u8>(), PAGE) }
    };
    for offset in [0, 100, PAGE, PAGE + 1] {
        let found = pread_to(at(0), offset);
        // Whole pages, at least, are copied before that.
        let least = PAGE - offset % PAGE;
        ensure!(
            matches!(found, Ok(n) if (least..=PAGE).contains(&(n as usize))),
            "{offset}: {found:?}"
        );
        let found = found? as usize;
        ensure!(page()[..found] == content[offset..][..found], "{offset}");
    }
    for (to, offset) in [(at(PAGE), 0), (at(PAGE), PAGE), (8 as *mut _, 2 * PAGE)] {
        let found = pread_to(to, offset);
        ensure!(found == Err(Errno::EFAULT), "{offset}: {found:?}");
    }
    ensure!(
        region.info()?.resident == 2,
        "reading into nowhere allocated a page"
    );
    // SAFETY: Nobody uses it any more.
    unsafe { munmap(base, PAGE) }?;
    Ok(())
}

fn region_is_read_into_a_mapping_of_itself() -> anyhow::Result<()> {
    let region = Region::sized(6)?;
    let map = region.map(6)?;
    map.stamp(0..1, 7);
    map.stamp(2..3, 9);
    // The destination has no memory yet: it gets some while read(2) runs.
    let pread_to = |page: usize, len: usize| {
        let to = (map.base() + page * PAGE) as *mut libc::c_void;
        // SAFETY: The mapping is there, and only looked at byte by byte.
        Errno::result(unsafe { libc::pread64(region.as_fd().as_raw_fd(), to, len, 0) })
    };
    ensure!(pread_to(3, 3 * PAGE)? == 3 * PAGE as isize);
    let found = map.picture(7);
    ensure!(found == "x0?x0?", "{found}");
    ensure!(map.read(5 * PAGE) == 9);
    Ok(())
}

fn read_beside_a_purge_gives_whole_pages() -> anyhow::Result<()> {
    const PAGES: usize = 64;
    for round in 1..=20 {
        let single = round % 2 == 0;
        let region = Region::sized(PAGES)?;
        let mut map = region.map(PAGES)?;
        if single {
            map = map.single()?;
        }
        for at in 0..PAGES * PAGE {
            map.write(at, 7);
        }
        region.unpin(0..PAGES)?;
        let (out, into) = pipe()?;
        let reader = spawn(|| {
            let mut gone = [false; PAGES];
            let mut buffer = vec![0; PAGES * PAGE];
            let mut told = false;
            // Until all is gone, which it is in the end.
            while gone.contains(&false) {
                ensure!(pread(&region, &mut buffer, 0)? == buffer.len());
                for (page, bytes) in buffer.chunks(PAGE).enumerate() {
                    let first = bytes[0];
                    ensure!(
                        bytes.iter().all(|byte| *byte == first),
                        "page {page} is torn"
                    );
                    ensure!(first == 0 || first == 7, "page {page} has {first}");
                    ensure!(
                        !(gone[page] && first == 7),
                        "page {page} came back after it was gone"
                    );
                    gone[page] = first == 0;
                }
                if !told {
                    write(&into, b"!")?;
                    told = true;
                }
            }
            Ok(())
        })?;
        drop(into);
        ensure!(read(&out, &mut [0])? == 1, "the reader has ended");
        // Once while the other reads, in rounds of different sizes.
        region.pin(0..round)?;
        let purged = region.purge_all()?;
        ensure!(purged <= PAGES - round, "{purged}");
        // A large folio of which a page is being read cannot be split: it is left for later, or its
        // pages are zeros that keep their memory.
        ensure!(!single || purged == PAGES - round, "{purged}");
        region.unpin(0..round)?;
        until("all is purged", || {
            region.purge_all()?;
            let statuses = region.statuses(0..PAGES as u64)?;
            Ok(statuses.iter().all(|status| {
                u32::from(*status) & !abi::ASHMEM_PAGE_RESIDENT == abi::ASHMEM_PAGE_PURGED
            }))
        })?;
        reader.join().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn write_is_einval() -> anyhow::Result<()> {
    let region = Region::open()?;
    let writes = |state: &str| -> anyhow::Result<()> {
        let found = [
            write(&region, b"x"),
            pwrite(&region, b"x", 0),
            writev(&region, &[IoSlice::new(b"x"), IoSlice::new(b"y")]),
        ];
        ensure!(found == [Err(Errno::EINVAL); 3], "{state}: {found:?}");
        let nothing = writev(&region, &[IoSlice::new(b"")]);
        ensure!(nothing == Ok(0), "{state}, of nothing: {nothing:?}");
        Ok(())
    };
    writes("fresh")?;
    region.set_size(PAGE)?;
    writes("sized")?;
    let map = region.map(1)?;
    writes("frozen")?;
    ensure!(map.read(0) == 0 && map.read(1) == 0);
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 0);
    Ok(())
}

fn lseek_moves_the_position() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(1000)?;
    let map = region.map(1)?;
    for at in 0..1000 {
        map.write(at, pattern(at));
    }
    let size = 1000;
    let max = i64::MAX;
    let einval = Err(Errno::EINVAL);
    // One after the other: each starts where the one before left it.
    for (offset, whence, expected) in [
        (10, Whence::SeekSet, Ok(10)),
        (5, Whence::SeekCur, Ok(15)),
        (-15, Whence::SeekCur, Ok(0)),
        (-1, Whence::SeekCur, einval),
        (-1, Whence::SeekSet, einval),
        (i64::MIN, Whence::SeekSet, einval),
        (0, Whence::SeekEnd, Ok(size)),
        (-size, Whence::SeekEnd, Ok(0)),
        (-size - 1, Whence::SeekEnd, einval),
        (-1, Whence::SeekEnd, Ok(size - 1)),
        // Past the end there is nothing, but one may go there.
        (7, Whence::SeekEnd, Ok(size + 7)),
        (1 << 50, Whence::SeekSet, Ok(1 << 50)),
        (max, Whence::SeekSet, Ok(max)),
        (1, Whence::SeekCur, einval),
        (max, Whence::SeekEnd, einval),
        (0, Whence::SeekCur, Ok(max)),
        (-max, Whence::SeekCur, Ok(0)),
    ] {
        let before = lseek64(&region, 0, Whence::SeekCur)?;
        let found = lseek64(&region, offset, whence);
        ensure!(found == expected, "{offset} {whence:?}: {found:?}");
        let after = lseek64(&region, 0, Whence::SeekCur)?;
        ensure!(
            after == expected.unwrap_or(before),
            "{offset} {whence:?}: then at {after}"
        );
        let mut byte = [0];
        if after < size {
            ensure!(read(&region, &mut byte)? == 1 && byte[0] == pattern(after as usize));
            lseek64(&region, -1, Whence::SeekCur)?;
        } else if after < max {
            ensure!(read(&region, &mut byte)? == 0, "{after}: past the end");
        }
    }
    // SAFETY: It takes any number.
    let found = Errno::result(unsafe { libc::lseek64(region.as_fd().as_raw_fd(), 0, 5) });
    ensure!(found == Err(Errno::EINVAL), "an unknown whence: {found:?}");
    Ok(())
}

fn position_is_shared_by_duplicates() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let _map = region.map(2)?;
    let twin = region.as_fd().try_clone_to_owned()?;
    lseek64(&region, 999, Whence::SeekSet)?;
    ensure!(lseek64(&twin, 0, Whence::SeekCur)? == 999, "of dup");
    in_child(|| {
        ensure!(lseek64(&twin, 0, Whence::SeekCur)? == 999, "of fork");
        ensure!(read(&twin, &mut [0; 100])? == 100);
        Ok(())
    })?;
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 1099);
    // Another region has another.
    let other = Region::sized(2)?;
    let _map = other.map(2)?;
    ensure!(lseek64(&other, 0, Whence::SeekCur)? == 0);
    Ok(())
}

fn seek_finds_data_and_holes() -> anyhow::Result<()> {
    let region = Region::open()?;
    let size = 2000 * PAGE - 100;
    region.set_size(size)?;
    let map = region.map(2000)?;
    let at = |page: usize| (page * PAGE) as i64;
    let size = size as i64;
    let enxio = Err(Errno::ENXIO);
    let check = |cases: &[(i64, nix::Result<i64>, nix::Result<i64>)]| -> anyhow::Result<()> {
        for (from, data, hole) in cases {
            for (whence, expected) in [(Whence::SeekData, data), (Whence::SeekHole, hole)] {
                lseek64(&region, 11, Whence::SeekSet)?;
                let found = lseek64(&region, *from, whence);
                ensure!(found == *expected, "{whence:?} from {from}: {found:?}");
                let now = lseek64(&region, 0, Whence::SeekCur)?;
                ensure!(
                    now == expected.unwrap_or(11),
                    "{whence:?} from {from}: at {now}"
                );
            }
        }
        Ok(())
    };
    check(&[
        (0, enxio, Ok(0)),
        (at(7) + 3, enxio, Ok(at(7) + 3)),
        (size - 1, enxio, Ok(size - 1)),
        (size, enxio, enxio),
    ])?;
    // Data in 3..5, across a boundary of what the driver counts together, and
    // in the last page.
    for page in [3, 4, 511, 512, 1999] {
        map.write(page * PAGE, 1);
    }
    check(&[
        (0, Ok(at(3)), Ok(0)),
        (at(3) - 1, Ok(at(3)), Ok(at(3) - 1)),
        (at(3), Ok(at(3)), Ok(at(5))),
        (at(3) + 5, Ok(at(3) + 5), Ok(at(5))),
        (at(5), Ok(at(511)), Ok(at(5))),
        (at(511), Ok(at(511)), Ok(at(513))),
        (at(600), Ok(at(1999)), Ok(at(600))),
        (at(1999), Ok(at(1999)), Ok(size)),
        (size - 1, Ok(size - 1), Ok(size)),
        (size, enxio, enxio),
        (at(2000), enxio, enxio),
        (i64::MAX, enxio, enxio),
        (-1, enxio, enxio),
        (i64::MIN, enxio, enxio),
    ])?;
    // What is gone is a hole, in whatever way it went.
    region.unpin(1999..2000)?;
    ensure!(region.purge_all()? == 1);
    map.advise(4..5, libc::MADV_REMOVE)?;
    check(&[
        (0, Ok(at(3)), Ok(0)),
        (at(3), Ok(at(3)), Ok(at(4))),
        (at(4), Ok(at(511)), Ok(at(4))),
        (at(513), enxio, Ok(at(513))),
        (at(1999), enxio, Ok(at(1999))),
    ])?;
    // Neither reading nor seeking makes pages, a touch does.
    ensure!(region.info()?.resident == 3);
    ensure!(map.read(1000 * PAGE) == 0);
    check(&[(at(513), Ok(at(1000)), Ok(at(513)))])
}

fn what_lies_far_behind_is_read_and_found() -> anyhow::Result<()> {
    // A 32-bit program cannot say more than 4 GiB.
    const SIZE: u64 = if cfg!(target_pointer_width = "64") {
        (6 << 30) + 5
    } else {
        (3 << 29) + 5
    };
    let page = PAGE as u64;
    let far = SIZE / page - 1;
    let region = Region::open()?;
    region.set_size(usize::try_from(SIZE)?)?;
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe {
        mmap(
            None,
            NonZeroUsize::new(2 * PAGE).context("no length")?,
            RW,
            MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
            &region,
            libc::off_t::try_from(far * page)?,
        )
    }?
    .cast::<u8>();
    // SAFETY: The page lies in the mapping, and nobody else knows it.
    unsafe { base.write_volatile(42) };
    let at = (far * page) as i64;
    ensure!(lseek64(&region, 0, Whence::SeekEnd)? == SIZE as i64);
    for (from, whence, expected) in [
        (0, Whence::SeekData, Ok(at)),
        (at, Whence::SeekData, Ok(at)),
        (at, Whence::SeekHole, Ok(at + PAGE as i64)),
        (at + PAGE as i64, Whence::SeekData, Err(Errno::ENXIO)),
        (at + PAGE as i64, Whence::SeekHole, Ok(at + PAGE as i64)),
        (SIZE as i64 - 1, Whence::SeekHole, Ok(SIZE as i64 - 1)),
        (SIZE as i64, Whence::SeekHole, Err(Errno::ENXIO)),
    ] {
        let found = lseek64(&region, from, whence);
        ensure!(found == expected, "{whence:?} from {from}: {found:?}");
    }
    let mut buffer = vec![0xaa; 3 * PAGE];
    let expected = 2 * PAGE + 5;
    ensure!(pread(&region, &mut buffer, at - PAGE as i64)? == expected);
    ensure!(buffer[PAGE] == 42);
    let sum: usize = buffer[..expected].iter().map(|b| usize::from(*b)).sum();
    ensure!(sum == 42, "more than one byte is there");
    lseek64(&region, at, Whence::SeekSet)?;
    ensure!(read(&region, &mut buffer)? == PAGE + 5);
    ensure!(buffer[0] == 42);
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == SIZE as i64);
    ensure!(region.info()?.resident == 1);
    // SAFETY: Nobody uses it any more.
    unsafe { munmap(base.cast(), 2 * PAGE) }?;
    Ok(())
}

/// A file on a tmpfs, without a name.
fn scratch() -> anyhow::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(open("/tmp", flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .context("O_TMPFILE")?
        .into())
}

fn sendfile_copies_the_region() -> anyhow::Result<()> {
    // More than any of its targets takes at once, and no multiple of a page.
    let size = 50 * PAGE + 77;
    let (region, _map, content) = patterned(size)?;

    // To a pipe, as much as it takes.
    let (out, into) = pipe()?;
    let mut offset = 100;
    let len = 3 * PAGE;
    let sent = sendfile64(&into, &region, Some(&mut offset), len)?;
    ensure!(sent == len && offset == 100 + len as i64, "{sent} {offset}");
    drop(into);
    let mut found = vec![];
    File::from(out).read_to_end(&mut found)?;
    ensure!(found == content[100..100 + len], "to a pipe");
    ensure!(
        lseek64(&region, 0, Whence::SeekCur)? == 0,
        "sendfile with an offset moved the position"
    );

    // To a file, all of it, and no more than there is.
    let mut file = scratch()?;
    let mut offset = 0;
    let sent = sendfile64(&file, &region, Some(&mut offset), size + 5 * PAGE)?;
    ensure!(sent == size && offset == size as i64, "{sent} {offset}");
    let mut found = vec![];
    file.rewind()?;
    file.read_to_end(&mut found)?;
    ensure!(found == content, "to a file");
    ensure!(
        sendfile64(&file, &region, Some(&mut offset), 10)? == 0,
        "at the end"
    );

    // To a socket, from the position on, which moves.
    let (here, there) = sockets()?;
    let expected = content[PAGE + 5..].to_vec();
    let stranger = spawn(|| {
        let mut found = vec![0; expected.len()];
        File::from(there.try_clone()?).read_exact(&mut found)?;
        ensure!(found == expected, "to a socket");
        Ok(())
    })?;
    lseek64(&region, PAGE as i64 + 5, Whence::SeekSet)?;
    let mut sent = 0;
    while sent < expected.len() {
        let now = sendfile64(&here, &region, None, size)?;
        ensure!(now > 0, "nothing was sent after {sent}");
        sent += now;
    }
    ensure!(sent == expected.len());
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == size as i64);
    stranger.join()?;

    let info = region.info()?;
    ensure!(
        info.resident == resident(size) && info.allocated == resident(size),
        "sendfile filled holes: {info:?}"
    );
    Ok(())
}

fn splice_fills_a_pipe_and_goes_on() -> anyhow::Result<()> {
    let size = 40 * PAGE + 9;
    let (region, map, content) = patterned(size)?;
    let (out, into) = pipe()?;
    let room = fcntl(&into, FcntlArg::F_GETPIPE_SZ)? as usize;
    ensure!(room < size, "the pipe takes all at once");
    let nonblock = SpliceFFlags::SPLICE_F_NONBLOCK;

    let mut found = vec![];
    let mut offset = 3;
    while found.len() < size - 3 {
        let left = size - 3 - found.len();
        let start = offset;
        let moved = splice(&region, Some(&mut offset), &into, None, size, nonblock)?;
        ensure!(moved == left.min(room), "{moved} of {left}");
        ensure!(offset == start + moved as i64, "{offset}");
        if moved == room {
            let full = splice(&region, Some(&mut offset), &into, None, 1, nonblock);
            ensure!(full == Err(Errno::EAGAIN), "into a full pipe: {full:?}");
        }
        // What is in the pipe is a copy.
        let page = (start as usize).div_ceil(PAGE);
        if page % 3 != 1 {
            map.write(page * PAGE, 0);
        }
        let from = found.len();
        found.resize(from + moved, 0xaa);
        File::from(out.try_clone()?).read_exact(&mut found[from..])?;
    }
    ensure!(found == content[3..]);
    let end = splice(&region, Some(&mut offset), &into, None, 1, nonblock)?;
    ensure!(end == 0, "at the end");
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 0);

    // Without an offset it is the position that moves; from the pipe it goes
    // on to a file.
    lseek64(&region, size as i64 - 100, Whence::SeekSet)?;
    ensure!(splice(&region, None, &into, None, 60, nonblock)? == 60);
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == size as i64 - 40);
    let file = scratch()?;
    let mut to = 1000;
    ensure!(splice(&out, None, &file, Some(&mut to), 60, nonblock)? == 60);
    ensure!(to == 1060);
    let mut bytes = [0; 60];
    ensure!(pread(&file, &mut bytes, 1000)? == 60);
    ensure!(bytes == content[size - 100..size - 40]);
    ensure!(region.info()?.allocated == resident(size));

    // As read(2) before there is anything to read.
    let fresh = Region::open()?;
    ensure!(splice(&fresh, None, &into, None, 10, nonblock)? == 0);
    fresh.set_size(PAGE)?;
    let found = splice(&fresh, None, &into, None, 10, nonblock);
    ensure!(found == Err(Errno::EBADF), "never mapped: {found:?}");
    Ok(())
}

fn nothing_is_spliced_into_a_region() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    let (out, into) = pipe()?;
    write(&into, b"abc")?;
    for offset in [None, Some(0)] {
        let mut at = offset;
        let found = splice(&out, None, &region, at.as_mut(), 3, SpliceFFlags::empty());
        ensure!(found == Err(Errno::EINVAL), "{offset:?}: {found:?}");
    }
    let mut bytes = [0; 3];
    ensure!(read(&out, &mut bytes)? == 3 && bytes == *b"abc", "the pipe");

    let mut file = scratch()?;
    file.write_all(b"abc")?;
    let other = Region::sized(1)?;
    let _other_map = other.map(1)?;
    let found = sendfile64(&region, &file, Some(&mut 0), 3);
    ensure!(found == Err(Errno::EINVAL), "from a file: {found:?}");
    let found = sendfile64(&region, &other, Some(&mut 0), 3);
    ensure!(found == Err(Errno::EINVAL), "from a region: {found:?}");
    ensure!(map.picture(1) == "00");
    Ok(())
}

fn copy_file_range_is_einval() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..2, 1);
    let mut file = scratch()?;
    file.write_all(&[2; 100])?;
    let found = copy_file_range(&region, Some(&mut 0), &file, Some(&mut 0), 50);
    ensure!(found == Err(Errno::EINVAL), "from a region: {found:?}");
    let found = copy_file_range(&file, Some(&mut 0), &region, Some(&mut 0), 50);
    ensure!(found == Err(Errno::EINVAL), "into one: {found:?}");
    let found = copy_file_range(&region, Some(&mut 0), &region, Some(&mut 4096), 50);
    ensure!(found == Err(Errno::EINVAL), "within one: {found:?}");
    ensure!(map.picture(1) == "xx");
    let mut bytes = [0; 100];
    ensure!(pread(&file, &mut bytes, 0)? == 100 && bytes == [2; 100]);
    Ok(())
}
