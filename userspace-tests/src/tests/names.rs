// SPDX-License-Identifier: GPL-2.0-only

//! Names, and where they are seen.

use std::ffi::CString;
use std::fs;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

use crate::abi;
use crate::harness::tests;
use crate::region::BAD_POINTERS;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::Edge;

tests! {
    default_name_is_dev_ashmem => "name.default",
    name_may_be_set_again => "name.again",
    names_are_cut_and_read_back_and_no_byte_more =>
        "name.reads-256" "name.cut" "name.exact-length" "name.end-of-page",
    names_may_have_any_byte => "name.any-bytes",
    name_that_runs_into_a_hole_is_efault => "name.fault" "name.end-of-page" "name.reads-256",
    pointers_are_checked_by_what_is_done_with_them => "name.fault" "name.exact-length",
    bad_pointer_leaves_the_name => "name.fault" "name.fault-first" "name.frozen",
}

/// The line of /proc/self/maps for a mapping.
pub fn line_of(map: &Mapping) -> anyhow::Result<String> {
    line_at(map.base())
}

/// The line of /proc/self/maps for the mapping that begins at this address.
pub fn line_at(base: usize) -> anyhow::Result<String> {
    let start = format!("{base:x}-");
    fs::read_to_string("/proc/self/maps")?
        .lines()
        .find(|line| line.starts_with(&start))
        .map(str::to_owned)
        .context("the mapping is not in /proc/self/maps")
}

fn default_name_is_dev_ashmem() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    ensure!(region.name()? == "dev/ashmem");
    for before in [c"", c"something"] {
        region.set_name(before)?;
        region.set_name(c"")?;
        ensure!(region.name()? == "dev/ashmem", "an empty name is none");
    }
    let map = region.map(1)?;
    let line = line_of(&map)?;
    ensure!(line.ends_with(" /dev/ashmem (deleted)"), "{line}");
    ensure!(!region.fdinfo()?.contains("name:"));
    Ok(())
}

fn name_may_be_set_again() -> anyhow::Result<()> {
    let region = Region::open()?;
    for name in [c"first, and longer", c"second", c"third one", c"", c"last"] {
        region.set_name(name)?;
        let expected = if name.is_empty() {
            "dev/ashmem"
        } else {
            name.to_str()?
        };
        ensure!(region.name()? == expected);
    }
    region.set_size(PAGE)?;
    region.set_name(c"when sized")?;
    ensure!(region.name()? == "when sized");
    let map = region.map(1)?;
    // It is the last one that everybody sees.
    let line = line_of(&map)?;
    ensure!(
        line.ends_with(" /dev/ashmem/when sized (deleted)"),
        "{line}"
    );
    Ok(())
}

/// Sets a name whose bytes, the NUL included, end where memory does; gives
/// what GET_NAME writes, with what is behind it: 0xaa.
fn through(region: &Region, name: &[u8]) -> anyhow::Result<[u8; LIMIT]> {
    let edge = Edge::new()?;
    region
        .ioctl(abi::ABI_SET_NAME, edge.put(name))
        .context("SET_NAME")?;
    Ok(region.name_buffer()?)
}

/// Bytes of a name, its NUL included.
const LIMIT: usize = abi::ASHMEM_NAME_LEN as usize;

fn names_are_cut_and_read_back_and_no_byte_more() -> anyhow::Result<()> {
    for len in [0, 1, 2, 7, 8, 9, 253, 254, 255, 256, 257, 300, 4000] {
        let region = Region::open()?;
        let mut name: Vec<u8> = (0..len).map(|at| b'a' + (at % 26) as u8).collect();
        let mut expected = name.clone();
        if expected.is_empty() {
            expected = b"dev/ashmem".to_vec();
        }
        expected.truncate(LIMIT - 1);
        expected.push(0);
        expected.resize(LIMIT, 0xaa);
        name.push(0);
        let found = through(&region, &name)?;
        ensure!(found[..] == expected, "{len}: {found:?}");
    }
    Ok(())
}

fn names_may_have_any_byte() -> anyhow::Result<()> {
    let all: Vec<u8> = (1..=255).collect();
    let names: [&[u8]; 5] = [
        &all,
        b"\xff",
        b"\xc3(\xa0\xa1 \xf0\x28\x8c\x28",
        b"\x80\xed\xa0\x80",
        b"/\n\\ (deleted)",
    ];
    for name in names {
        let region = Region::sized(1)?;
        let found = through(&region, &CString::new(name)?.into_bytes_with_nul())?;
        ensure!(&found[..name.len()] == name, "{name:x?}: {found:x?}");
        ensure!(found[name.len()] == 0);
        // And it can be mapped.
        let _map = region.map(1)?;
        ensure!(region.name_buffer()? == found);
    }
    Ok(())
}

fn name_that_runs_into_a_hole_is_efault() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_name(c"kept")?;
    // What is before the hole has no NUL.
    for len in [0, 1, 7, 8, 9, 254, 255] {
        let edge = Edge::new()?;
        let at = edge.put(&vec![b'n'; len]);
        let found = region.ioctl(abi::ABI_SET_NAME, at);
        ensure!(found == Err(Errno::EFAULT), "{len} bytes: {found:?}");
        ensure!(region.name()? == "kept", "{len} bytes");
    }
    // It is not looked for behind 256 bytes.
    for len in [256, 257, 4096] {
        let found = through(&region, &vec![b'n'; len])?;
        let mut expected = [b'n'; LIMIT];
        expected[LIMIT - 1] = 0;
        ensure!(found == expected, "{len} bytes: {found:?}");
    }
    Ok(())
}

fn pointers_are_checked_by_what_is_done_with_them() -> anyhow::Result<()> {
    const NONE: ProtFlags = ProtFlags::PROT_NONE;
    const READ: ProtFlags = ProtFlags::PROT_READ;
    let fresh = Region::open()?;
    let frozen = Region::sized(1)?;
    frozen.set_name(c"four")?;
    let _map = frozen.map(1)?;
    let (name, pin) = (&b"five\0"[..], &[0; size_of::<abi::ashmem_pin>()][..]);
    let (buffer, number) = (&[0xaa; 5][..], &[0xaa; 8][..size_of::<libc::c_ulong>()]);
    // At bad addresses; in memory to read and write, to read, and none; and with the last byte
    // behind the edge.
    let (reads, writes) = ("FFFF ..FF", "FFFF .FFF");
    let mut picture = String::new();
    let mut right = true;
    for (what, region, request, bytes, expected) in [
        ("SET_NAME", &fresh, abi::ABI_SET_NAME, name, reads),
        ("GET_NAME", &frozen, abi::ABI_GET_NAME, buffer, writes),
        ("PIN", &frozen, abi::ABI_PIN, pin, reads),
        ("UNPIN", &frozen, abi::ABI_UNPIN, pin, reads),
        ("STATUS", &frozen, abi::ABI_GET_PIN_STATUS, pin, reads),
        ("FILE_ID", &frozen, abi::ABI_GET_FILE_ID, number, writes),
    ] {
        let ask = |pointer| match region.ioctl(request, pointer) {
            Ok(_) => '.',
            Err(Errno::EFAULT) => 'F',
            Err(_) => '?',
        };
        let mut found: String = BAD_POINTERS.into_iter().map(ask).collect();
        found.push(' ');
        for (prot, missing) in [(RW, 0), (READ, 0), (NONE, 0), (RW, 1)] {
            let edge = Edge::new()?;
            let at = edge.put(&bytes[..bytes.len() - missing]);
            edge.protect(prot)?;
            found.push(ask(at));
        }
        // As many bad ones as there are.
        let expected = expected.replacen("FFFF", &"F".repeat(BAD_POINTERS.len()), 1);
        right &= found == expected;
        picture += &format!("{what:10}{found}\n  should be {expected}\n");
    }
    ensure!(right, "\n{picture}");

    // What is written is exactly that, at any alignment.
    let inode = frozen.file_id()?.to_ne_bytes();
    for shift in 0..8 {
        for (request, answer) in [
            (abi::ABI_GET_NAME, &b"four\0"[..]),
            (abi::ABI_GET_FILE_ID, &inode[..number.len()]),
        ] {
            let edge = Edge::new()?;
            frozen.ioctl(request, edge.before(24) + shift)?;
            let mut expected = [0xaa; 32];
            expected[8 + shift..][..answer.len()].copy_from_slice(answer);
            ensure!(edge.get(32) == expected, "{shift}: {:x?}", edge.get(32));
        }
    }
    Ok(())
}

fn bad_pointer_leaves_the_name() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_name(c"kept")?;
    for frozen in [false, true] {
        let _map = if frozen { Some(region.map(1)?) } else { None };
        // The pointer is looked at first, even when the answer would be no anyway.
        for pointer in BAD_POINTERS {
            let found = region.ioctl(abi::ABI_SET_NAME, pointer);
            ensure!(found == Err(Errno::EFAULT), "{pointer:#x}: {found:?}");
        }
        let found = region.set_name(c"new").err();
        ensure!(found == frozen.then_some(Errno::EINVAL), "{found:?}");
        ensure!(region.name()? == if frozen { "kept" } else { "new" });
        if !frozen {
            region.set_name(c"kept")?;
        }
    }
    Ok(())
}
