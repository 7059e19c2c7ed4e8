// SPDX-License-Identifier: GPL-2.0-only

//! Memory that has failed, as `MADV_HWPOISON` pretends. Each page costs the
//! guest 4 KiB.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::sendfile::sendfile;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;
use nix::sys::uio::pread;
use nix::sys::wait::WaitStatus;
use nix::unistd::pipe;

use crate::harness::tests;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::Child;
use crate::tests::process::await_go;
use crate::tests::process::go;
use crate::tests::process::in_child;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::tests::process::touches;
use crate::tests::transfer;

tests! {
    failed_memory_is_sigbus_in_every_mapping => "map.hwpoison",
    failed_memory_is_eio_by_read => "map.hwpoison",
    purge_leaves_failed_memory => "map.hwpoison",
    removed_failed_memory_is_a_hole => "map.hwpoison",
    who_wants_to_know_early_is_told => "map.hwpoison",
    failed_copy_is_not_the_regions,
    folio_is_split_where_a_page_of_it_fails => "map.hwpoison",
    folio_that_cannot_be_split_fails_as_a_whole => "map.hwpoison",
}

/// Pages of each region here.
const N: usize = 6;
/// The one whose memory fails.
const BAD: usize = 2;

/// Single pages.
fn labelled() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    map.label();
    Ok((region, map))
}

/// Has the memory of page `BAD` fail, in a child: the kernel kills who does so.
fn fail(map: &Mapping) -> anyhow::Result<()> {
    let child = spawn(|| {
        map.advise(BAD..BAD + 1, libc::MADV_HWPOISON)?;
        Ok(())
    })?;
    match child.wait()? {
        WaitStatus::Signaled(_, Signal::SIGBUS, _) => Ok(()),
        other => bail!("MADV_HWPOISON: {other:?}"),
    }
}

/// Where SIGBUS is expected.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
/// What a child's exit code is with the signal's code added.
const CODE: libc::c_int = 100;

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel gives it to handlers that were set with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS has an address.
    let at = unsafe { info.si_addr() } as usize;
    let code = match at == EXPECTED.load(Ordering::SeqCst) {
        true => CODE + info.si_code,
        false => CODE,
    };
    // SAFETY: It may be called in a handler, and ends the process.
    unsafe { libc::_exit(code) }
}

/// Asserts that page `BAD` is dead, and no other one, in the mapping through which it failed, in
/// another one, in one that had not touched it, in a private one without a copy, and in a fresh one.
fn dead_in_each(maps: [&Mapping; 5]) -> anyhow::Result<()> {
    const WHAT: [&str; 5] = [
        "the one through which it failed",
        "another one",
        "one that had not touched it",
        "a private one without a copy",
        "a fresh one",
    ];
    for (what, map) in WHAT.into_iter().zip(maps) {
        dead(map, BAD).context(what)?;
        neighbours(map).context(what)?;
    }
    Ok(())
}

/// Touches the page's first byte in this process. What SIGBUS says of the
/// reason is the exit code.
fn touch(map: &Mapping, page: usize, write: bool) -> anyhow::Result<()> {
    EXPECTED.store(map.base() + page * PAGE, Ordering::SeqCst);
    let action = SigAction::new(
        SigHandler::SigAction(on_sigbus),
        SaFlags::SA_SIGINFO,
        SigSet::empty(),
    );
    // SAFETY: The handler calls nothing that it may not.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    if write {
        map.write(page * PAGE, 1);
    } else {
        map.read(page * PAGE);
    }
    Ok(())
}

/// Asserts that a child that called [`touch`] was told that memory had failed
/// which it needed.
fn told(child: Child) -> anyhow::Result<()> {
    let status = child.wait()?;
    let expected = CODE + libc::BUS_MCEERR_AR;
    ensure!(
        matches!(status, WaitStatus::Exited(_, code) if code == expected),
        "{status:?}, expected {expected}"
    );
    Ok(())
}

/// Asserts that this process cannot have the page's content: the kernel, when
/// it reads it for this process, finds in the page table what a touch would.
fn dead_here(map: &Mapping, page: usize) -> anyhow::Result<()> {
    let (_out, into) = pipe()?;
    let at = map.page(page).as_ptr();
    // SAFETY: The kernel reads from there, or says why not.
    let found = Errno::result(unsafe { libc::write(into.as_raw_fd(), at, 1) });
    ensure!(found == Err(Errno::EFAULT), "page {page}: {found:?}");
    Ok(())
}

/// Asserts that reading and writing the page is SIGBUS, here and in children,
/// whose page tables are empty.
fn dead(map: &Mapping, page: usize) -> anyhow::Result<()> {
    dead_here(map, page)?;
    for write in [false, true] {
        told(spawn(|| touch(map, page, write))?).with_context(|| format!("write: {write}"))?;
    }
    Ok(())
}

/// Asserts that all pages but `BAD` are as they were.
fn neighbours(map: &Mapping) -> anyhow::Result<()> {
    let all = ('a'..='z').take(map.pages()).enumerate();
    for (page, letter) in all.filter(|(page, _)| *page != BAD) {
        ensure!(map.letter(page) == letter, "page {page}");
    }
    Ok(())
}

fn failed_memory_is_sigbus_in_every_mapping() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    let untouched = region.map(N)?;
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let copied = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    copied.stamp(BAD..BAD + 1, b'p');
    ensure!(twin.labels() == "abcdef" && private.labels() == "abcdef");
    let (here, there) = sockets()?;
    let child = spawn(|| {
        let own = region.map(N)?;
        ensure!(own.labels() == "abcdef");
        go(&there)?;
        await_go(&there)?;
        dead(&own, BAD)?;
        neighbours(&own)?;
        // It was in its page table when it failed.
        touch(&own, BAD, false)
    })?;
    await_go(&here)?;
    fail(&map)?;
    go(&here)?;
    told(child).context("in another process")?;

    let fresh = region.map(N)?;
    dead_in_each([&map, &twin, &untouched, &private, &fresh])?;
    ensure!(copied.letter(BAD) == 'p', "a copy is other memory");
    neighbours(&copied)?;
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (N as u64, N as u64));
    Ok(())
}

fn failed_memory_is_eio_by_read() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    fail(&map)?;
    let mut buffer = [0; 3 * PAGE];
    let mut read = |from: usize, len: usize| {
        let found = pread(&region, &mut buffer[..len], from as libc::off_t);
        (found, buffer[0])
    };
    ensure!(read(BAD * PAGE, 16).0 == Err(Errno::EIO));
    ensure!(read(BAD * PAGE + PAGE - 1, 2).0 == Err(Errno::EIO));
    // Up to it, and behind it.
    ensure!(read(BAD * PAGE - 1, 16) == (Ok(1), b'b'));
    ensure!(read(BAD * PAGE - PAGE, 3 * PAGE) == (Ok(PAGE), b'b'));
    ensure!(read((BAD + 1) * PAGE, 16) == (Ok(16), b'd'));
    let (out, into) = pipe()?;
    let mut offset = (BAD * PAGE) as libc::off_t;
    let found = sendfile(&into, &region, Some(&mut offset), PAGE);
    ensure!(found == Err(Errno::EIO), "sendfile: {found:?}");
    drop(out);
    // It is data still, not a hole.
    let found = nix::unistd::lseek(&region, offset, nix::unistd::Whence::SeekData);
    ensure!(found == Ok(offset), "{found:?}");
    Ok(())
}

fn purge_leaves_failed_memory() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    fail(&map)?;
    region.unpin(0..N)?;
    ensure!(region.purge_all()? == N - 1);
    let info = region.info()?;
    ensure!(
        (info.resident, info.purged, info.unpinned) == (1, N as u64 - 1, N as u64),
        "{info:?}"
    );
    let fresh = region.map(N)?;
    dead(&map, BAD)?;
    dead(&fresh, BAD)?;
    ensure!(
        (0..N)
            .filter(|page| *page != BAD)
            .all(|page| fresh.letter(page) == '0')
    );
    let mut byte = [0];
    let found = pread(&region, &mut byte, (BAD * PAGE) as libc::off_t);
    ensure!(found == Err(Errno::EIO));
    // It was not purged, and nobody says so.
    ensure!(region.purge_all()? == 0);
    ensure!(!region.pin(BAD..BAD + 1)?);
    ensure!(region.pin(0..N)?);
    Ok(())
}

fn removed_failed_memory_is_a_hole() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    fail(&map)?;
    twin.advise(BAD..BAD + 1, libc::MADV_REMOVE)?;
    ensure!(region.info()?.resident == N as u64 - 1);
    let mut byte = [1];
    ensure!(pread(&region, &mut byte, (BAD * PAGE) as libc::off_t)? == 1 && byte == [0]);
    // Memory that is sound, for those that come anew.
    let fresh = region.map(N)?;
    ensure!(fresh.letter(BAD) == '0');
    fresh.stamp(BAD..BAD + 1, b'z');
    // Who had it mapped when it failed is told until he lets go of it.
    dead_here(&map, BAD)?;
    map.advise(BAD..BAD + 1, libc::MADV_DONTNEED)?;
    ensure!(map.labels() == "abzdef" && twin.labels() == "abzdef");
    ensure!(region.info()?.allocated == N as u64 + 1);
    region.unpin(0..N)?;
    ensure!(region.purge_all()? == N);
    ensure!(map.labels() == "000000");
    Ok(())
}

fn who_wants_to_know_early_is_told() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let (here, there) = sockets()?;
    let early = spawn(|| {
        // SAFETY: It changes what this process is told.
        Errno::result(unsafe {
            libc::prctl(
                libc::PR_MCE_KILL,
                libc::PR_MCE_KILL_SET as libc::c_ulong,
                libc::PR_MCE_KILL_EARLY as libc::c_ulong,
                0 as libc::c_ulong,
                0 as libc::c_ulong,
            )
        })
        .context("PR_MCE_KILL")?;
        let own = region.map(N)?;
        ensure!(own.labels() == "abcdef");
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGBUS);
        signals.thread_block()?;
        go(&there)?;
        let patience = libc::timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        // SAFETY: All bytes zero is a siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: All three live long enough.
        let signal =
            unsafe { libc::sigtimedwait(signals.as_ref(), &raw mut info, &raw const patience) };
        ensure!(Errno::result(signal)? == libc::SIGBUS);
        ensure!(info.si_code == libc::BUS_MCEERR_AO, "{}", info.si_code);
        // SAFETY: SIGBUS has an address.
        let at = unsafe { info.si_addr() } as usize;
        // The mapping that fork gave covers the page too, touched or not.
        ensure!(
            [own.base(), map.base()].contains(&(at - BAD * PAGE)),
            "{at:#x} is not page {BAD}"
        );
        neighbours(&own)
    })?;
    // By default one is told when one touches it, and not before.
    let late = spawn(|| {
        let own = region.map(N)?;
        ensure!(own.labels() == "abcdef");
        go(&there)?;
        await_go(&there)?;
        neighbours(&own)?;
        touch(&own, BAD, true)
    })?;
    await_go(&here)?;
    await_go(&here)?;
    fail(&map)?;
    early.join().context("early")?;
    go(&here)?;
    told(late).context("late")
}

fn failed_copy_is_not_the_regions() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    in_child(|| {
        let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
        private.stamp(BAD..BAD + 1, b'p');
        fail(&private)?;
        dead(&private, BAD)?;
        neighbours(&private)
    })?;
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    ensure!(private.labels() == "abcdef" && map.labels() == "abcdef");
    ensure!(region.purge_all()? == 0);
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (N as u64, N as u64));
    let mut byte = [0];
    ensure!(pread(&region, &mut byte, (BAD * PAGE) as libc::off_t)? == 1 && byte == *b"c");
    Ok(())
}

/// A large folio.
fn labelled_folio() -> anyhow::Result<(Region, Mapping)> {
    let (region, map) = Region::large(1)?;
    map.label();
    Ok((region, map))
}

/// What read(2) gives of each page of a folio: its letter, `0`, or `E` for `EIO`.
fn letters_read(region: &Region) -> anyhow::Result<String> {
    (0..LARGE)
        .map(|page| {
            let mut byte = [0xff];
            Ok(
                match pread(region, &mut byte, (page * PAGE) as libc::off_t) {
                    Ok(1) if byte == [0] => '0',
                    Ok(1) if byte[0].is_ascii_lowercase() => char::from(byte[0]),
                    Err(Errno::EIO) => 'E',
                    other => bail!("page {page}: {other:?}, {byte:?}"),
                },
            )
        })
        .collect()
}

fn folio_is_split_where_a_page_of_it_fails() -> anyhow::Result<()> {
    let (region, map) = labelled_folio()?;
    let twin = region.map(LARGE)?;
    let untouched = region.map(LARGE)?;
    let private = region.map_as(LARGE * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let labels = map.labels();
    ensure!(twin.labels() == labels && private.labels() == labels);
    let before = map.frames()?;
    // To be split, the folio is taken out of every page table. So nobody has the page mapped when
    // the core looks whom to kill, not even who says that it failed.
    let found = map.advise(BAD..BAD + 1, libc::MADV_HWPOISON);
    ensure!(found == Err(Errno::EBUSY), "{found:?}");
    for map in [&map, &twin, &private] {
        ensure!(map.table()? == "-".repeat(LARGE), "{}", map.table()?);
    }

    let fresh = region.map(LARGE)?;
    dead_in_each([&map, &twin, &untouched, &private, &fresh])?;
    let mut expected = "s".repeat(LARGE);
    expected.replace_range(BAD..=BAD, "-");
    ensure!(map.folios()? == expected, "{}", map.folios()?);
    // All others are where they were.
    let mut after = map.frames()?;
    after[BAD] = before[BAD];
    ensure!(after == before);
    let found = letters_read(&region)?;
    ensure!(found == labels.replace('c', "E"), "{found}");
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (LARGE as u64, LARGE as u64));

    region.unpin(0..LARGE)?;
    ensure!(region.purge_all()? == LARGE - 1);
    let mut expected = "p".repeat(LARGE);
    expected.replace_range(BAD..=BAD, "U");
    let found = region.status_picture(0..LARGE as u64)?;
    ensure!(found == expected, "{found}");
    dead(&map, BAD)?;
    ensure!(letters_read(&region)? == expected.replace('p', "0").replace('U', "E"));
    ensure!(!region.pin(BAD..BAD + 1)? && region.pin(0..LARGE)?);
    Ok(())
}

fn folio_that_cannot_be_split_fails_as_a_whole() -> anyhow::Result<()> {
    /// Another page of the folio, of which somebody has a reference.
    const HELD: usize = 9;
    let (region, map) = labelled_folio()?;
    let labels = map.labels();
    let (mut from, to) = transfer::pipe()?;
    transfer::vmsplice(&to, &map, HELD..HELD + 1)?;
    // Who says that it failed is killed, as with a single page.
    fail(&map)?;

    // The core leaves it in page tables, sound pages and the failed one, which only real hardware
    // would tell from them. (So does the kernel for tmpfs.)
    ensure!(map.table()? == "m".repeat(LARGE), "{}", map.table()?);
    ensure!(map.folios()?.starts_with("ht"), "it was split");
    neighbours(&map)?;
    // Children have nothing in theirs: of what they read, `map_pages` gives them what is sound. The
    // driver knows of the folio alone, and gives them none of it, nor does read(2).
    let mut expected = ".".repeat(LARGE);
    expected.replace_range(BAD..=BAD, "B");
    let found = touches(&map, false)?;
    ensure!(found == expected, "{found}");
    told(spawn(|| touch(&map, BAD, false))?)?;
    let found = touches(&map, true)?;
    ensure!(found == "B".repeat(LARGE), "{found}");
    told(spawn(|| touch(&map, BAD + 1, true))?)?;
    let found = letters_read(&region)?;
    ensure!(found == "E".repeat(LARGE), "{found}");

    // It stays, as it is, with all of its pages.
    region.unpin(0..LARGE)?;
    ensure!(region.purge_all()? == 0);
    let mut piped = [0; PAGE];
    from.read_exact(&mut piped)?;
    ensure!(piped[0] == labels.as_bytes()[HELD], "{}", piped[0]);
    ensure!(region.purge_all()? == 0);
    let found = region.status_picture(0..LARGE as u64)?;
    ensure!(found == "U".repeat(LARGE), "{found}");
    ensure!(!region.pin(0..LARGE)?, "nothing was purged");

    // Now that nobody has a reference, what failed can be cut out, and all others are there.
    map.advise(BAD..BAD + 1, libc::MADV_REMOVE)?;
    let labels = labels.replace('c', "0");
    ensure!(
        letters_read(&region)? == labels,
        "{}",
        letters_read(&region)?
    );
    ensure!(map.labels() == labels, "{}", map.labels());
    map.stamp(0..LARGE, b'z');
    ensure!(region.map(LARGE)?.labels() == "z".repeat(LARGE));
    region.unpin(0..LARGE)?;
    ensure!(region.purge_all()? == LARGE);
    Ok(())
}
