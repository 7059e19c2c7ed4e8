// SPDX-License-Identifier: GPL-2.0-only

//! The protection mask, at mmap and at mprotect.

use std::iter::zip;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mprotect;
use nix::sys::mman::mremap;
use nix::sys::mman::munmap;
use nix::sys::signal::Signal;
use nix::sys::uio::pread;

use crate::abi;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::reserve;
use crate::tests::process::dies_of;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    mask_only_shrinks => "mask.default" "mask.shrinks" "mask.frozen",
    unknown_bits_are_refused => "mask.unknown",
    mmap_outside_the_mask_is_eperm => "mmap.mask",
    mprotect_outside_the_mask_is_eacces => "mask.mprotect" "mask.not-retroactive",
    mprotect_after_mremap_is_as_before => "mask.mremap" "mask.not-retroactive",
    mask_is_not_retroactive => "mask.not-retroactive",
    mask_belongs_to_the_open_file => "mask.open-file",
    read_takes_no_notice_of_the_mask => "mask.read",
    read_implies_exec_brings_nothing_back => "mask.read-implies-exec",
    write_to_a_read_only_mapping_is_sigsegv,
}

const NONE: ProtFlags = ProtFlags::PROT_NONE;
const READ: ProtFlags = ProtFlags::PROT_READ;
const WRITE: ProtFlags = ProtFlags::PROT_WRITE;
const EXEC: ProtFlags = ProtFlags::PROT_EXEC;
const ALL: ProtFlags = RW.union(EXEC);

/// The eight masks, which are also the eight protections.
fn each() -> impl Iterator<Item = ProtFlags> {
    (0..8).map(ProtFlags::from_bits_retain)
}

/// A region of two pages with this mask.
fn masked(mask: ProtFlags) -> anyhow::Result<Region> {
    let region = Region::sized(2)?;
    region.set_mask(mask)?;
    Ok(region)
}

/// `rw-`
fn show(prot: ProtFlags) -> String {
    zip("rwx".chars(), [READ, WRITE, EXEC])
        .map(|(letter, bit)| if prot.contains(bit) { letter } else { '-' })
        .collect()
}

/// A line for each mask, in it a letter for each of the eight: `.` for success,
/// A EACCES, I EINVAL, P EPERM.
fn table(
    mut cell: impl FnMut(ProtFlags, ProtFlags) -> anyhow::Result<char>,
) -> anyhow::Result<String> {
    let mut picture = String::from("     ");
    picture.extend(each().map(|prot| show(prot) + " "));
    for mask in each() {
        picture += &format!("\n{}  ", show(mask));
        for prot in each() {
            picture.push(cell(mask, prot)?);
            picture += "   ";
        }
    }
    Ok(picture)
}

/// What a mask admits is `.`, and all else this.
fn expected(refused: char) -> anyhow::Result<String> {
    table(|mask, prot| Ok(if mask.contains(prot) { '.' } else { refused }))
}

fn letter<T>(result: nix::Result<T>) -> anyhow::Result<char> {
    match result {
        Ok(_) => Ok('.'),
        Err(Errno::EACCES) => Ok('A'),
        Err(Errno::EINVAL) => Ok('I'),
        Err(Errno::EPERM) => Ok('P'),
        Err(other) => bail!("{other}"),
    }
}

fn ensure_same(what: &str, found: &str, expected: &str) -> anyhow::Result<()> {
    ensure!(
        found == expected,
        "{what}\n{found}\nand should be\n{expected}"
    );
    Ok(())
}

fn mask_only_shrinks() -> anyhow::Result<()> {
    ensure!(Region::open()?.mask()? == ALL);
    let expected = expected('I')?;
    // Not sized, sized, frozen, unmapped: it makes no difference.
    for (pages, maps) in [(0, 0), (2, 0), (2, 1), (2, 2)] {
        let found = table(|old, new| {
            let region = Region::sized(pages)?;
            let map = if maps == 0 {
                None
            } else {
                Some(region.map_as(PAGE, NONE, MapFlags::MAP_SHARED)?)
            };
            let map = map.filter(|_| maps == 1);
            region.set_mask(old)?;
            let answer = region.set_mask(new);
            let now = if answer.is_ok() { new } else { old };
            ensure!(region.mask()? == now, "a refused mask is kept, or none");
            drop(map);
            letter(answer)
        })?;
        ensure_same(&format!("{pages} pages, {maps}"), &found, &expected)?;
    }
    Ok(())
}

fn unknown_bits_are_refused() -> anyhow::Result<()> {
    for old in [ALL, READ, NONE] {
        let region = Region::open()?;
        region.set_mask(old)?;
        for bit in 3..usize::BITS {
            for known in [NONE, READ, old] {
                let mask = (1 << bit) | known.bits() as usize;
                let found = region.ioctl(abi::ABI_SET_PROT_MASK, mask);
                ensure!(found == Err(Errno::EINVAL), "{mask:#x}: {found:?}");
                ensure!(region.mask()? == old, "{mask:#x}");
            }
        }
    }
    Ok(())
}

fn mmap_outside_the_mask_is_eperm() -> anyhow::Result<()> {
    let expected = expected('P')?;
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        for frozen in [false, true] {
            let found = table(|mask, prot| {
                let region = masked(mask)?;
                if frozen {
                    region.map_as(PAGE, NONE, MapFlags::MAP_SHARED)?;
                }
                letter(region.map_as(PAGE, prot, flags))
            })?;
            ensure_same(&format!("{flags:?}, frozen: {frozen}"), &found, &expected)?;
        }
    }
    Ok(())
}

/// Some mapped addresses.
#[derive(Clone, Copy)]
struct Span(NonNull<u8>, usize);

impl Span {
    fn of(map: &Mapping) -> Self {
        Self(map.pointer().cast(), map.len())
    }

    fn protect(self, prot: ProtFlags) -> nix::Result<()> {
        // SAFETY: It is a test's mapping whose protection changes, if any.
        unsafe { mprotect(self.0.cast(), self.1, prot) }
    }

    /// mremap(2) of `old` bytes to this length.
    fn remap(self, old: usize, flags: MRemapFlags, to: Option<NonNull<u8>>) -> nix::Result<Self> {
        // SAFETY: Nobody has a pointer into it but the test, which goes on with the new one.
        let new = unsafe { mremap(self.0.cast(), old, self.1, flags, to.map(NonNull::cast)) }?;
        Ok(Self(new.cast(), self.1))
    }
}

/// What became of a mapping: where it is, or all the places where it is.
type Way = (&'static str, fn(Span) -> anyhow::Result<Vec<Span>>);

fn moved(map: Span) -> anyhow::Result<Vec<Span>> {
    let to = reserve(map.1 / PAGE, NONE)?;
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    let new = map.remap(map.1, flags, Some(to))?;
    ensure!(new.0 == to);
    Ok(vec![new])
}

/// In place: first it is moved to where there is room.
fn grown(map: Span) -> anyhow::Result<Vec<Span>> {
    let room = reserve(2 * map.1 / PAGE, NONE)?;
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    let new = map.remap(map.1, flags, Some(room))?;
    // SAFETY: It lies in what was reserved.
    let behind = unsafe { room.add(map.1) };
    // SAFETY: Nobody uses it.
    unsafe { munmap(behind.cast(), map.1) }?;
    let long = Span(new.0, 2 * map.1);
    let new = long.remap(map.1, MRemapFlags::empty(), None)?;
    ensure!(new.0 == room);
    Ok(vec![new])
}

fn moved_and_grown(map: Span) -> anyhow::Result<Vec<Span>> {
    let to = reserve(2 * map.1 / PAGE, NONE)?;
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    Ok(vec![Span(map.0, 2 * map.1).remap(
        map.1,
        flags,
        Some(to),
    )?])
}

fn moved_and_left(map: Span) -> anyhow::Result<Vec<Span>> {
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_DONTUNMAP;
    Ok(vec![map, map.remap(map.1, flags, None)?])
}

fn duplicated(map: Span) -> anyhow::Result<Vec<Span>> {
    Ok(vec![map, map.remap(0, MRemapFlags::MREMAP_MAYMOVE, None)?])
}

/// What mprotect(2) answers to each of the eight, for a mapping made under this mask with this
/// protection, once it went this way. `narrowed`: all is taken from the mask before.
fn answers(
    (mask, prot): (ProtFlags, ProtFlags),
    flags: MapFlags,
    narrowed: bool,
    way: fn(Span) -> anyhow::Result<Vec<Span>>,
) -> anyhow::Result<String> {
    let region = masked(mask)?;
    let map = region.map_as(2 * PAGE, prot, flags)?;
    if narrowed {
        region.set_mask(NONE)?;
    }
    let spans = way(Span::of(&map))?;
    // What it was may be somebody else's addresses by now.
    map.leak();
    let mut rows = vec![];
    for span in &spans {
        let mut row = String::new();
        for new in each() {
            row.push(letter(span.protect(new))?);
            // Whatever it is now, it can be again.
            span.protect(prot).context("back to what it was")?;
        }
        rows.push(row);
        // SAFETY: Nobody uses it any more.
        unsafe { munmap(span.0.cast(), span.1) }?;
    }
    rows.dedup();
    ensure!(rows.len() == 1, "not the same everywhere: {rows:?}");
    Ok(rows.swap_remove(0))
}

fn mprotect_is_limited(ways: &[Way], flags: MapFlags) -> anyhow::Result<()> {
    for (name, way) in ways {
        let mut picture = String::new();
        let mut right = true;
        for mask in each() {
            for prot in each().filter(|prot| mask.contains(*prot)) {
                let expected: String = each()
                    .map(|new| if mask.contains(new) { '.' } else { 'A' })
                    .collect();
                for narrowed in [false, true] {
                    let found = answers((mask, prot), flags, narrowed, *way)
                        .with_context(|| format!("{name}: {}, {}", show(mask), show(prot)))?;
                    right &= found == expected;
                    picture += &format!(
                        "{} {} {}  {found}  should be {expected}\n",
                        show(mask),
                        show(prot),
                        if narrowed { "---" } else { "   " },
                    );
                }
            }
        }
        ensure!(
            right,
            "{name}, {flags:?}: mask, mapping, later mask; mprotect to ---, r--, -w-, rw-, --x, \
             r-x, -wx, rwx\n{picture}"
        );
    }
    Ok(())
}

fn mprotect_outside_the_mask_is_eacces() -> anyhow::Result<()> {
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        mprotect_is_limited(&[("as it was mapped", |map| Ok(vec![map]))], flags)?;
    }
    Ok(())
}

fn mprotect_after_mremap_is_as_before() -> anyhow::Result<()> {
    let ways: &[Way] = &[
        ("moved", moved),
        ("grown", grown),
        ("moved and grown", moved_and_grown),
        ("moved, and left where it was", moved_and_left),
    ];
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        mprotect_is_limited(ways, flags)?;
    }
    // There is no such thing for private ones.
    mprotect_is_limited(&[("duplicated", duplicated)], MapFlags::MAP_SHARED)
}

fn mask_is_not_retroactive() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    let map = region.map(1)?;
    region.set_mask(READ)?;
    map.write(0, 5);
    let read_only = region.map_as(PAGE, READ, MapFlags::MAP_SHARED)?;
    ensure!(read_only.read(0) == 5);
    region.set_mask(NONE)?;
    map.write(0, 6);
    ensure!(read_only.read(0) == 6 && map.read(0) == 6);
    // A child inherits mappings with their rights.
    in_child(|| {
        map.write(0, 7);
        ensure!(read_only.read(0) == 7);
        ensure!(Span::of(&map).protect(RW | EXEC).is_ok());
        ensure!(Span::of(&read_only).protect(RW) == Err(Errno::EACCES));
        Ok(())
    })?;
    Ok(())
}

fn mask_belongs_to_the_open_file() -> anyhow::Result<()> {
    let narrow = |region: &Region| Ok(region.set_mask(READ)?);
    let sees = |region: &Region| {
        ensure!(region.mask()? == READ);
        let found = region.map_as(PAGE, RW, MapFlags::MAP_SHARED).err();
        ensure!(found == Some(Errno::EPERM), "{found:?}");
        ensure!(region.set_mask(RW) == Err(Errno::EINVAL));
        region.map_as(PAGE, READ, MapFlags::MAP_SHARED)?;
        Ok(())
    };

    // By a duplicate, and seen by one.
    let region = Region::sized(1)?;
    let twin = Region::from_fd(region.as_fd().try_clone_to_owned()?);
    narrow(&twin)?;
    sees(&region)?;
    sees(&twin)?;

    // By a child, and seen by one.
    let region = Region::sized(1)?;
    in_child(|| narrow(&region))?;
    sees(&region)?;
    in_child(|| sees(&region))?;

    // By who received it, and seen by one. They start before there is a region to inherit.
    for narrow_first in [false, true] {
        let (here, there) = sockets()?;
        let stranger = spawn(|| {
            let region = Region::from_fd(receive_fd(&there)?);
            if !narrow_first {
                narrow(&region)?;
            }
            sees(&region)
        })?;
        let region = Region::sized(1)?;
        if narrow_first {
            narrow(&region)?;
        }
        send_fd(&here, region.as_fd())?;
        stranger.join()?;
        sees(&region)?;
    }
    Ok(())
}

fn read_takes_no_notice_of_the_mask() -> anyhow::Result<()> {
    for mask in each() {
        let region = Region::sized(2)?;
        let map = region.map(2)?;
        map.stamp(0..1, 3);
        region.set_mask(mask)?;
        let mut buffer = [9; 2 * PAGE];
        ensure!(pread(&region, &mut buffer, 0)? == 2 * PAGE, "{mask:?}");
        ensure!(buffer[0] == 3 && buffer[PAGE - 1] == 3 && buffer[PAGE..] == [0; PAGE]);
    }
    // Nor when it was never mapped otherwise.
    let region = masked(NONE)?;
    let _map = region.map_as(PAGE, NONE, MapFlags::MAP_SHARED)?;
    let mut buffer = [9; 10];
    ensure!(pread(&region, &mut buffer, 0)? == 10 && buffer == [0; 10]);
    Ok(())
}

fn read_implies_exec_brings_nothing_back() -> anyhow::Result<()> {
    let implied = |prot: ProtFlags| {
        if prot.contains(READ) {
            prot | EXEC
        } else {
            prot
        }
    };
    let expected = table(|old, new| Ok(if old.contains(implied(new)) { '.' } else { 'I' }))?;
    in_child(|| {
        // SAFETY: It changes this process's personality only.
        Errno::result(unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) })?;
        // With it, PROT_READ asks for PROT_EXEC, which may have been taken away.
        let found = table(|old, new| {
            let region = Region::sized(1)?;
            in_plain_child(&region, old)?;
            ensure!(region.mask()? == old);
            let answer = region.set_mask(new);
            let now = if answer.is_ok() { implied(new) } else { old };
            ensure!(
                region.mask()? == now,
                "{old:?}, {new:?}: {:?}",
                region.mask()?
            );
            letter(answer)
        })?;
        ensure_same("under READ_IMPLIES_EXEC", &found, &expected)?;

        // mmap(2) asks for it as well: that is the kernel's.
        let region = Region::sized(1)?;
        in_plain_child(&region, RW)?;
        let found = region.map_as(PAGE, READ, MapFlags::MAP_SHARED).err();
        ensure!(found == Some(Errno::EPERM), "{found:?}");
        region.map_as(PAGE, WRITE, MapFlags::MAP_SHARED)?;
        Ok(())
    })
}

/// Sets a mask where nothing implies anything.
fn in_plain_child(region: &Region, mask: ProtFlags) -> anyhow::Result<()> {
    in_child(|| {
        // SAFETY: As above.
        Errno::result(unsafe { libc::personality(0) })?;
        Ok(region.set_mask(mask)?)
    })
}

fn write_to_a_read_only_mapping_is_sigsegv() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    let map = region.map_as(PAGE, READ, MapFlags::MAP_SHARED)?;
    dies_of(Signal::SIGSEGV, || map.write(0, 1))
}
