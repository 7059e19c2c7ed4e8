// SPDX-License-Identifier: GPL-2.0-only

//! Every call on a region in every state, and which of several errors wins.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use nix::unistd::getpid;

use crate::abi;
use crate::harness::tests;
use crate::region::Info;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    every_call_in_every_state @ 60 =>
        "state.frozen" "state.for-good" "state.failed-mmap" "state.reopen" "state.shared-file"
        "state.modes" "state.o-path" "name.frozen" "name.fault-first" "size.frozen"
        "mmap.unsized" "mmap.longer" "mmap.longer-first" "mmap.mask" "mmap.mode"
        "mask.frozen" "number.compat-same",
    mmap_errors_come_in_order => "mmap.longer-first" "mmap.mode",
    fresh_region_has_nothing => "state.fresh",
    every_open_is_a_region_of_its_own => "state.own-region",
    reopened_descriptor_is_a_fresh_region => "state.reopen",
    stat_shows_an_empty_device => "state.fstat",
}

const NONE: ProtFlags = ProtFlags::PROT_NONE;
const READ: ProtFlags = ProtFlags::PROT_READ;
const EXEC: ProtFlags = ProtFlags::PROT_EXEC;

/// Bytes of the regions here, which thus have one page: a number that has one digit.
const SIZE: usize = 5;

/// A region in some state, and what must stay for it.
struct Stage(Region, Option<Mapping>);

/// A state: what it is called, how to get there, and what the calls of [`CALLS`] give.
type State = (&'static str, fn() -> anyhow::Result<Stage>, &'static str);

/// A call; gives one letter for its result.
type Call = fn(&Region) -> nix::Result<char>;

/// The calls. One that changed the region in any way that can be seen is the last that meets it.
const CALLS: &[(&str, &[Call])] = &[
    (
        "SET_NAME: a name, a bad pointer",
        &[set_name, |r| bad(r, abi::ABI_SET_NAME)],
    ),
    (
        "GET_NAME: its first letter, a bad pointer",
        &[name, |r| bad(r, abi::ABI_GET_NAME)],
    ),
    ("SET_SIZE", &[|r| digit(r.ioctl(abi::ABI_SET_SIZE, 3))]),
    ("GET_SIZE", &[|r| digit(r.ioctl(abi::ABI_GET_SIZE, 0))]),
    (
        "SET_PROT_MASK: nothing, read, an unknown bit",
        &[|r| mask(r, 0), |r| mask(r, 1), |r| mask(r, 9)],
    ),
    (
        "GET_PROT_MASK",
        &[|r| digit(r.ioctl(abi::ABI_GET_PROT_MASK, 0))],
    ),
    (
        "PIN: everything, a bad pointer, an odd offset",
        &[
            |r| range(r, abi::ABI_PIN, 0),
            |r| bad(r, abi::ABI_PIN),
            |r| range(r, abi::ABI_PIN, 1),
        ],
    ),
    (
        "UNPIN: the same",
        &[
            |r| range(r, abi::ABI_UNPIN, 0),
            |r| bad(r, abi::ABI_UNPIN),
            |r| range(r, abi::ABI_UNPIN, 1),
        ],
    ),
    (
        "GET_PIN_STATUS: the same",
        &[
            |r| range(r, abi::ABI_GET_PIN_STATUS, 0),
            |r| bad(r, abi::ABI_GET_PIN_STATUS),
            |r| range(r, abi::ABI_GET_PIN_STATUS, 1),
        ],
    ),
    (
        "PURGE_ALL_CACHES",
        &[|r| digit(r.ioctl(abi::ABI_PURGE_ALL_CACHES, 0))],
    ),
    (
        "GET_FILE_ID: i if there is one, a bad pointer",
        &[
            |r| r.file_id().map(|id| if id == 0 { '0' } else { 'i' }),
            |r| bad(r, abi::ABI_GET_FILE_ID),
        ],
    ),
    (
        "number 12, SET_NAME of another size, SET_SIZE of another direction",
        &[
            |r| digit(r.ioctl(0x0000_770c, 0)),
            |r| bad(r, 0x4004_7701),
            |r| digit(r.ioctl(0x8008_7703, 3)),
        ],
    ),
    (
        "mmap, shared: nothing, read, read and write, execute",
        &[
            |r| map(r, 1, NONE, MapFlags::MAP_SHARED),
            |r| map(r, 1, READ, MapFlags::MAP_SHARED),
            |r| map(r, 1, RW, MapFlags::MAP_SHARED),
            |r| map(r, 1, EXEC, MapFlags::MAP_SHARED),
        ],
    ),
    (
        "mmap, private: nothing, read and write",
        &[
            |r| map(r, 1, NONE, MapFlags::MAP_PRIVATE),
            |r| map(r, 1, RW, MapFlags::MAP_PRIVATE),
        ],
    ),
    (
        "mmap of a page too many: nothing, read and write",
        &[
            |r| map(r, 2, NONE, MapFlags::MAP_SHARED),
            |r| map(r, 2, RW, MapFlags::MAP_SHARED),
        ],
    ),
];

/// A digit for a result, `d` and `n` for the default name and for another, and for errors:
/// A EACCES, B EBADF, F EFAULT, I EINVAL, M ENOMEM, P EPERM, T ENOTTY.
#[rustfmt::skip]
const STATES: &[State] = &[
    // Names: two. Sizes: one each. The mask: three, one. Ranges: thrice three. Purge: one. The
    // file: two. Unknown: three. Mappings: four, two, two.
    ("fresh",                       fresh,              "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT IIII II II"),
    ("fresh, read-only",            fresh_r,            "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT IIAI II IA"),
    ("fresh, write-only",           fresh_w,            "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT AAAA AA AA"),
    ("O_PATH",                      o_path,             "BB BB B B BBB B BBB BBB BBB B BB BBB BBBB BB BB"),
    ("named",                       named,              "0F nF 0 0 00I 7 IFI IFI IFI 0 II TTT IIII II II"),
    ("mask: none",                  mask_none,          "0F dF 0 0 0II 0 IFI IFI IFI 0 II TTT IIII II II"),
    ("sized",                       sized,              "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT 0000 00 II"),
    ("sized, read-only",            sized_r,            "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT 00A0 00 IA"),
    ("sized, write-only",           sized_w,            "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT AAAA AA AA"),
    ("sized, mask: read",           sized_mask_r,       "0F dF 0 5 00I 1 IFI IFI IFI 0 II TTT 00PP 0P II"),
    ("sized, mask: none",           sized_mask_none,    "0F dF 0 5 0II 0 IFI IFI IFI 0 II TTT 0PPP 0P II"),
    ("sized, read-only, mask: none", sized_r_mask_none, "0F dF 0 5 0II 0 IFI IFI IFI 0 II TTT 0PAP 0P IA"),
    ("sized to 0 again",            sized_to_0,         "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT IIII II II"),

    ("failed mmap: no size",        failed_unsized,     "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT IIII II II"),
    ("failed mmap: too long",       failed_long,        "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT 0000 00 II"),
    ("failed mmap: mask",           failed_mask,        "0F dF 0 5 00I 1 IFI IFI IFI 0 II TTT 00PP 0P II"),
    ("failed mmap: mode",           failed_mode,        "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT 00A0 00 IA"),
    ("failed mmap: overcommit",     failed_overcommit,  "0F dF 0 5 00I 7 IFI IFI IFI 0 II TTT 0000 00 II"),

    ("mapped",                      mapped,             "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 0000 00 II"),
    ("mapped, named before",        mapped_named,       "IF nF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 0000 00 II"),
    ("mapped, PROT_NONE",           mapped_none,        "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 0000 00 II"),
    ("mapped, private",             mapped_private,     "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 0000 00 II"),
    ("mapped, read-only",           mapped_r,           "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 00A0 00 IA"),
    ("mapped, then mask: read",     mapped_mask_r,      "IF dF I 5 00I 1 0FI 0FI 1FI 0 iF TTT 00PP 0P II"),
    ("mapped, then mask: none",     mapped_mask_none,   "IF dF I 5 0II 0 0FI 0FI 1FI 0 iF TTT 0PPP 0P II"),
    ("unmapped",                    unmapped,           "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 0000 00 II"),
    ("unmapped, read-only",         unmapped_r,         "IF dF I 5 00I 7 0FI 0FI 1FI 0 iF TTT 00A0 00 IA"),
    ("unpinned",                    unpinned,           "IF dF I 5 00I 7 0FI 0FI 0FI 1 iF TTT 0000 00 II"),
    ("purged",                      purged,             "IF dF I 5 00I 7 1FI 0FI 0FI 0 iF TTT 0000 00 II"),

    ("sized by a duplicate",        sized_by_dup,       "0F nF 0 5 00I 1 IFI IFI IFI 0 II TTT 00PP 0P II"),
    ("mapped by a duplicate",       mapped_by_dup,      "IF nF I 5 00I 1 0FI 0FI 1FI 0 iF TTT 00PP 0P II"),
    ("sized by a child",            sized_by_child,     "0F nF 0 5 00I 1 IFI IFI IFI 0 II TTT 00PP 0P II"),
    ("mapped by a child",           mapped_by_child,    "IF nF I 5 00I 1 0FI 0FI 1FI 0 iF TTT 00PP 0P II"),
    ("sent by a stranger, sized",   sent_sized,         "0F nF 0 5 00I 1 IFI IFI IFI 0 II TTT 00PP 0P II"),
    ("sent by a stranger, mapped",  sent_mapped,        "IF nF I 5 00I 1 0FI 0FI 1FI 0 iF TTT 00PP 0P II"),
    ("mapped by a receiver",        mapped_by_receiver, "IF nF I 5 00I 1 0FI 0FI 1FI 0 iF TTT 00PP 0P II"),
    ("a mapped one reopened",       reopened,           "0F dF 0 0 00I 7 IFI IFI IFI 0 II TTT IIII II II"),
];

fn digit(result: nix::Result<i32>) -> nix::Result<char> {
    result.map(|n| {
        u32::try_from(n)
            .ok()
            .and_then(|n| char::from_digit(n, 10))
            .unwrap_or('?')
    })
}

fn bad(region: &Region, request: u32) -> nix::Result<char> {
    digit(region.ioctl(request, 8))
}

fn set_name(region: &Region) -> nix::Result<char> {
    region.set_name(c"new").map(|()| '0')
}

fn name(region: &Region) -> nix::Result<char> {
    region.name_buffer().map(|name| name[0].into())
}

fn mask(region: &Region, bits: usize) -> nix::Result<char> {
    digit(region.ioctl(abi::ABI_SET_PROT_MASK, bits))
}

fn range(region: &Region, request: u32, offset: u32) -> nix::Result<char> {
    let pin = abi::ashmem_pin { offset, len: 0 };
    digit(region.ioctl(request, &raw const pin as usize))
}

fn map(region: &Region, pages: usize, prot: ProtFlags, flags: MapFlags) -> nix::Result<char> {
    region.map_as(pages * PAGE, prot, flags).map(|_| '0')
}

fn letter(result: nix::Result<char>) -> char {
    match result {
        Ok(letter) => letter,
        Err(Errno::EACCES) => 'A',
        Err(Errno::EBADF) => 'B',
        Err(Errno::EFAULT) => 'F',
        Err(Errno::EINVAL) => 'I',
        Err(Errno::ENOMEM) => 'M',
        Err(Errno::EPERM) => 'P',
        Err(Errno::ENOTTY) => 'T',
        Err(error) => {
            eprintln!("? is {error}");
            '?'
        }
    }
}

fn fresh() -> anyhow::Result<Stage> {
    Ok(Stage(Region::open()?, None))
}

fn fresh_r() -> anyhow::Result<Stage> {
    Ok(Stage(Region::open_mode(OFlag::O_RDONLY)?, None))
}

fn fresh_w() -> anyhow::Result<Stage> {
    Ok(Stage(Region::open_mode(OFlag::O_WRONLY)?, None))
}

fn o_path() -> anyhow::Result<Stage> {
    Ok(Stage(Region::open_mode(OFlag::O_PATH)?, None))
}

fn named() -> anyhow::Result<Stage> {
    let stage = fresh()?;
    stage.0.set_name(c"name")?;
    Ok(stage)
}

fn mask_none() -> anyhow::Result<Stage> {
    let stage = fresh()?;
    stage.0.set_mask(NONE)?;
    Ok(stage)
}

fn with_size(stage: Stage) -> anyhow::Result<Stage> {
    stage.0.set_size(SIZE)?;
    Ok(stage)
}

fn sized() -> anyhow::Result<Stage> {
    with_size(fresh()?)
}

fn sized_r() -> anyhow::Result<Stage> {
    with_size(fresh_r()?)
}

fn sized_w() -> anyhow::Result<Stage> {
    with_size(fresh_w()?)
}

fn sized_mask_r() -> anyhow::Result<Stage> {
    let stage = sized()?;
    stage.0.set_mask(READ)?;
    Ok(stage)
}

fn sized_mask_none() -> anyhow::Result<Stage> {
    with_size(mask_none()?)
}

fn sized_r_mask_none() -> anyhow::Result<Stage> {
    let stage = sized_r()?;
    stage.0.set_mask(NONE)?;
    Ok(stage)
}

fn sized_to_0() -> anyhow::Result<Stage> {
    let stage = sized()?;
    stage.0.set_size(0)?;
    Ok(stage)
}

/// A shared mapping of `pages` pages must fail like this.
fn fails(stage: Stage, pages: usize, prot: ProtFlags, error: Errno) -> anyhow::Result<Stage> {
    let found = stage.0.map_as(pages * PAGE, prot, MapFlags::MAP_SHARED);
    ensure!(found.err() == Some(error), "the mmap that shall fail");
    Ok(stage)
}

fn failed_unsized() -> anyhow::Result<Stage> {
    fails(fresh()?, 1, RW, Errno::EINVAL)
}

fn failed_long() -> anyhow::Result<Stage> {
    fails(sized()?, 2, RW, Errno::EINVAL)
}

fn failed_mask() -> anyhow::Result<Stage> {
    fails(sized_mask_r()?, 1, RW, Errno::EPERM)
}

fn failed_mode() -> anyhow::Result<Stage> {
    fails(sized_r()?, 1, RW, Errno::EACCES)
}

fn failed_overcommit() -> anyhow::Result<Stage> {
    let stage = fresh()?;
    stage.0.set_size(TOO_MUCH)?;
    with_size(fails(stage, 1, RW, Errno::ENOMEM)?)
}

/// More than the guest has memory, and a 32-bit program can say.
const TOO_MUCH: usize = 0xffff_f000;

fn with_map(stage: Stage, prot: ProtFlags, flags: MapFlags) -> anyhow::Result<Stage> {
    let map = stage.0.map_as(PAGE, prot, flags)?;
    Ok(Stage(stage.0, Some(map)))
}

fn without_map(stage: Stage) -> Stage {
    drop(stage.1);
    Stage(stage.0, None)
}

fn mapped() -> anyhow::Result<Stage> {
    with_map(sized()?, RW, MapFlags::MAP_SHARED)
}

fn mapped_named() -> anyhow::Result<Stage> {
    with_map(with_size(named()?)?, RW, MapFlags::MAP_SHARED)
}

fn mapped_none() -> anyhow::Result<Stage> {
    with_map(sized()?, NONE, MapFlags::MAP_SHARED)
}

fn mapped_private() -> anyhow::Result<Stage> {
    with_map(sized()?, RW, MapFlags::MAP_PRIVATE)
}

fn mapped_r() -> anyhow::Result<Stage> {
    with_map(sized_r()?, READ, MapFlags::MAP_SHARED)
}

fn mapped_mask_r() -> anyhow::Result<Stage> {
    let stage = mapped()?;
    stage.0.set_mask(READ)?;
    Ok(stage)
}

fn mapped_mask_none() -> anyhow::Result<Stage> {
    let stage = mapped()?;
    stage.0.set_mask(NONE)?;
    Ok(stage)
}

fn unmapped() -> anyhow::Result<Stage> {
    Ok(without_map(mapped()?))
}

fn unmapped_r() -> anyhow::Result<Stage> {
    Ok(without_map(mapped_r()?))
}

fn unpinned() -> anyhow::Result<Stage> {
    let stage = mapped()?;
    stage.0.unpin(0..1)?;
    Ok(stage)
}

fn purged() -> anyhow::Result<Stage> {
    let stage = unpinned()?;
    ensure!(stage.0.purge_all()? == 1);
    Ok(stage)
}

/// What other holders of a region do to it here.
fn name_size_and_narrow(region: &Region) -> anyhow::Result<()> {
    region.set_name(c"name")?;
    region.set_size(SIZE)?;
    Ok(region.set_mask(READ)?)
}

/// And then: a mapping that goes at once.
fn and_map(region: &Region) -> anyhow::Result<()> {
    name_size_and_narrow(region)?;
    map(region, 1, READ, MapFlags::MAP_SHARED)?;
    Ok(())
}

fn by_dup(change: impl FnOnce(&Region) -> anyhow::Result<()>) -> anyhow::Result<Stage> {
    let stage = fresh()?;
    change(&Region::from_fd(stage.0.as_fd().try_clone_to_owned()?))?;
    Ok(stage)
}

fn sized_by_dup() -> anyhow::Result<Stage> {
    by_dup(name_size_and_narrow)
}

fn mapped_by_dup() -> anyhow::Result<Stage> {
    by_dup(and_map)
}

fn by_child(change: impl FnOnce(&Region) -> anyhow::Result<()>) -> anyhow::Result<Stage> {
    let stage = fresh()?;
    in_child(|| change(&stage.0))?;
    Ok(stage)
}

fn sized_by_child() -> anyhow::Result<Stage> {
    by_child(name_size_and_narrow)
}

fn mapped_by_child() -> anyhow::Result<Stage> {
    by_child(and_map)
}

/// The stranger has it first, and is gone when we receive it.
fn sent(change: impl FnOnce(&Region) -> anyhow::Result<()>) -> anyhow::Result<Stage> {
    let (here, there) = sockets()?;
    in_child(|| {
        let region = Region::open()?;
        change(&region)?;
        send_fd(&there, region.as_fd())
    })?;
    Ok(Stage(Region::from_fd(receive_fd(&here)?), None))
}

fn sent_sized() -> anyhow::Result<Stage> {
    sent(name_size_and_narrow)
}

fn sent_mapped() -> anyhow::Result<Stage> {
    sent(and_map)
}

fn mapped_by_receiver() -> anyhow::Result<Stage> {
    let (here, there) = sockets()?;
    // Before there is a region, so that it is not inherited.
    let receiver = spawn(|| and_map(&Region::from_fd(receive_fd(&there)?)))?;
    let stage = fresh()?;
    send_fd(&here, stage.0.as_fd())?;
    receiver.join()?;
    Ok(stage)
}

/// Opens what the link in /proc leads to that this process has for a descriptor.
fn reopen(pid: Pid, fd: &impl AsFd, mode: OFlag) -> anyhow::Result<Region> {
    let link = format!("/proc/{pid}/fd/{}", fd.as_fd().as_raw_fd());
    let fd = open(link.as_str(), mode | OFlag::O_CLOEXEC, Mode::empty()).context(link)?;
    Ok(Region::from_fd(fd))
}

fn reopened() -> anyhow::Result<Stage> {
    let old = mapped_by_dup()?;
    Ok(Stage(reopen(getpid(), &old.0, OFlag::O_RDWR)?, None))
}

/// All that can be seen of a region without changing it.
fn looks(region: &Region) -> anyhow::Result<String> {
    let flags = fcntl(region, FcntlArg::F_GETFL)?;
    let mask = region.ioctl(abi::ABI_GET_PROT_MASK, 0);
    Ok(format!("{flags:#x} {mask:?}\n{}", region.fdinfo()?))
}

/// What the calls give, one letter each, in groups as in [`CALLS`].
fn results(state: fn() -> anyhow::Result<Stage>) -> anyhow::Result<String> {
    let mut row = vec![];
    let mut stage = state()?;
    let mut before = looks(&stage.0)?;
    for (what, calls) in CALLS {
        let mut group = String::new();
        for call in *calls {
            let result = call(&stage.0);
            group.push(letter(result));
            let after = looks(&stage.0)?;
            if before == after {
                continue;
            }
            ensure!(
                result.is_ok(),
                "{what} gave {result:?}, and changed it from\n{before}to\n{after}"
            );
            stage = state()?;
            before = looks(&stage.0)?;
        }
        row.push(group);
    }
    Ok(row.join(" "))
}

/// The calls' names, each with a line down to its column.
fn heading(indent: usize) -> String {
    let mut lines = String::new();
    let mut columns = " ".repeat(indent);
    for (what, calls) in CALLS {
        lines += &format!("{columns}{what}\n");
        columns += &format!("|{}", " ".repeat(calls.len()));
    }
    lines
}

fn every_call_in_every_state() -> anyhow::Result<()> {
    const INDENT: usize = 30;
    let mut picture = heading(INDENT);
    let mut wrong = 0;
    for (name, state, expected) in STATES {
        let found = match results(*state) {
            Ok(found) => found,
            Err(error) => format!("{error:#}"),
        };
        picture += &format!("{name:INDENT$}{found}\n");
        if found != *expected {
            wrong += 1;
            let marks: String = std::iter::zip(found.chars(), expected.chars())
                .map(|(found, expected)| if found == expected { ' ' } else { expected })
                .collect();
            picture += &format!("{:>INDENT$}{marks}\n", "and should be ");
        }
    }
    ensure!(wrong == 0, "{wrong} rows are wrong\n{picture}");
    Ok(())
}

fn mmap_errors_come_in_order() -> anyhow::Result<()> {
    const W: ProtFlags = ProtFlags::PROT_WRITE;
    let shared = MapFlags::MAP_SHARED;
    // From line to line what the error was about is mended.
    for (mode, size, mask, prot, pages, expected) in [
        (OFlag::O_RDONLY, 0, NONE, RW, 2, Err(Errno::EACCES)),
        (OFlag::O_RDONLY, SIZE, NONE, RW, 2, Err(Errno::EACCES)),
        (OFlag::O_RDWR, 0, NONE, RW, 2, Err(Errno::EINVAL)),
        (OFlag::O_RDWR, SIZE, NONE, RW, 2, Err(Errno::EINVAL)),
        (OFlag::O_RDWR, SIZE, NONE, RW, 1, Err(Errno::EPERM)),
        (OFlag::O_RDWR, SIZE, READ, RW, 1, Err(Errno::EPERM)),
        (OFlag::O_RDWR, SIZE, W, RW, 1, Err(Errno::EPERM)),
        (OFlag::O_RDWR, SIZE, RW, RW, 1, Ok('0')),
        // What the whole region would take is looked at last.
        (OFlag::O_RDWR, TOO_MUCH, READ, RW, 1, Err(Errno::EPERM)),
        (OFlag::O_RDWR, TOO_MUCH, RW, RW, 1, Err(Errno::ENOMEM)),
    ] {
        let region = Region::open_mode(mode)?;
        region.set_size(size)?;
        region.set_mask(mask)?;
        let found = map(&region, pages, prot, shared);
        ensure!(
            found == expected,
            "{mode:?}, {size} bytes, {mask:?}: {pages} pages {prot:?}: {found:?}"
        );
    }
    Ok(())
}

fn fresh_region_has_nothing() -> anyhow::Result<()> {
    let region = Region::open()?;
    ensure!(region.name()? == "dev/ashmem");
    ensure!(region.ioctl(abi::ABI_GET_SIZE, 0)? == 0);
    ensure!(region.mask()? == RW | EXEC);
    ensure!(region.info()? == Info::default(), "{:?}", region.info()?);
    let fdinfo = region.fdinfo()?;
    ensure!(
        !fdinfo.contains("name:") && !fdinfo.contains("inode:"),
        "{fdinfo}"
    );
    // Nor pages, once it can have some.
    region.set_size(4 * PAGE)?;
    let map = region.map(4)?;
    ensure!(region.info()?.resident == 0);
    ensure!(map.picture(1) == "0000");
    Ok(())
}

fn every_open_is_a_region_of_its_own() -> anyhow::Result<()> {
    let (one, two) = (Region::sized(1)?, Region::open()?);
    one.set_name(c"one")?;
    one.set_mask(RW)?;
    ensure!(two.info()? == Info::default());
    ensure!(two.name()? == "dev/ashmem" && two.mask()? == RW | EXEC);
    two.set_size(PAGE)?;
    let (a, b) = (one.map(1)?, two.map(1)?);
    a.write(0, 1);
    ensure!(b.read(0) == 0);
    ensure!(one.file_id()? != two.file_id()?);
    Ok(())
}

fn reopened_descriptor_is_a_fresh_region() -> anyhow::Result<()> {
    let old = mapped_named()?;
    old.0.set_mask(READ)?;
    let path = open(NODE, OFlag::O_PATH, Mode::empty())?;
    let me = getpid();
    let look = || {
        for mode in [OFlag::O_RDONLY, OFlag::O_WRONLY, OFlag::O_RDWR] {
            for new in [reopen(me, &old.0, mode)?, reopen(me, &path, mode)?] {
                ensure!(
                    new.info()? == Info::default(),
                    "{mode:?}: {:?}",
                    new.info()?
                );
                ensure!(new.name()? == "dev/ashmem" && new.mask()? == RW | EXEC);
                new.set_size(PAGE)?;
                new.set_name(c"another")?;
            }
        }
        Ok(())
    };
    look()?;
    // So it is with the descriptors of another process.
    in_child(look)?;
    ensure!(old.0.name()? == "name" && old.0.ioctl(abi::ABI_GET_SIZE, 0)? == SIZE as i32);
    Ok(())
}

fn stat_shows_an_empty_device() -> anyhow::Result<()> {
    for (name, state, _) in STATES {
        let stat = fstat(&state()?.0)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        ensure!(kind == SFlag::S_IFCHR, "{name}: {kind:?}");
        ensure!(stat.st_size == 0, "{name}: {} bytes", stat.st_size);
    }
    Ok(())
}
