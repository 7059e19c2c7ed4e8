// SPDX-License-Identifier: GPL-2.0-only

//! The node, the numbers of the ioctls, and the states of a region.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::stat::fstat;

use crate::abi;
use crate::harness::tests;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;

tests! {
    node_is_a_character_device,
    opcodes_are_androids,
    unknown_ioctls_are_enotty,
    size_is_unrounded_and_freezes_with_the_first_mmap,
    failed_mmap_freezes_nothing,
    every_open_is_a_region_of_its_own,
    descriptors_of_every_mode_take_ioctls,
    file_id_is_the_inode_of_the_mapping,
    region_beyond_memory_is_enomem,
}

fn node_is_a_character_device() -> anyhow::Result<()> {
    let meta = fs::metadata(NODE).context(NODE)?;
    ensure!(meta.file_type().is_char_device());
    let region = Region::sized(3)?;
    ensure!(
        fstat(&region)?.st_size == 0,
        "a character device has no size"
    );
    Ok(())
}

fn opcodes_are_androids() -> anyhow::Result<()> {
    // From Android's programs, not from our header.
    let [set_size, set_prot_mask, get_file_id] = if cfg!(target_pointer_width = "64") {
        [0x4008_7703, 0x4008_7705, 0x8008_770b]
    } else {
        [0x4004_7703, 0x4004_7705, 0x8004_770b]
    };
    let expected = [
        (abi::ABI_SET_NAME, 0x4100_7701),
        (abi::ABI_GET_NAME, 0x8100_7702),
        (abi::ABI_SET_SIZE, set_size),
        (abi::ABI_GET_SIZE, 0x0000_7704),
        (abi::ABI_SET_PROT_MASK, set_prot_mask),
        (abi::ABI_GET_PROT_MASK, 0x0000_7706),
        (abi::ABI_PIN, 0x4008_7707),
        (abi::ABI_UNPIN, 0x4008_7708),
        (abi::ABI_GET_PIN_STATUS, 0x0000_7709),
        (abi::ABI_PURGE_ALL_CACHES, 0x0000_770a),
        (abi::ABI_GET_FILE_ID, get_file_id),
        (abi::ABI_SET_SIZE_32, 0x4004_7703),
        (abi::ABI_SET_PROT_MASK_32, 0x4004_7705),
        (abi::ABI_GET_FILE_ID_32, 0x8004_770b),
    ];
    for (found, expected) in expected {
        ensure!(found == expected, "{found:#x}, expected {expected:#x}");
    }
    Ok(())
}

fn unknown_ioctls_are_enotty() -> anyhow::Result<()> {
    let region = Region::open()?;
    // The next number, other sizes, other directions, another type.
    let unknown = [
        0x0000_770c,
        0x0000_7700,
        0x4004_7701,
        0x4010_7707,
        0x8008_7703,
        0x0000_7604,
    ];
    for request in unknown {
        let found = region.ioctl(request, 0);
        ensure!(found == Err(Errno::ENOTTY), "{request:#x}: {found:?}");
    }
    // Of the numbers that depend on the width a 64-bit program has its own, and
    // a 32-bit one, as with Android's driver, both.
    let others = if cfg!(target_pointer_width = "64") {
        [
            (abi::ABI_SET_SIZE_32, Err(Errno::ENOTTY)),
            (abi::ABI_SET_PROT_MASK_32, Err(Errno::ENOTTY)),
            (abi::ABI_GET_FILE_ID_32, Err(Errno::ENOTTY)),
        ]
    } else {
        [
            (0x4008_7703, Ok(0)),
            (0x4008_7705, Ok(0)),
            // Not before the first mmap.
            (0x8008_770b, Err(Errno::EINVAL)),
        ]
    };
    for (request, expected) in others {
        let found = region.ioctl(request, 0);
        ensure!(found == expected, "{request:#x}: {found:?}");
    }
    Ok(())
}

fn size_is_unrounded_and_freezes_with_the_first_mmap() -> anyhow::Result<()> {
    let region = Region::open()?;
    ensure!(region.size()? == 0, "fresh");
    for size in [1, PAGE - 1, 3 * PAGE + 5, 0, 5001] {
        region.set_size(size)?;
        ensure!(region.size()? == size);
    }
    // Mapped up to the rounded size, not beyond.
    let too_long = region.map_as(3 * PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(too_long.err() == Some(Errno::EINVAL));
    let map = region.map(2)?;
    ensure!(region.set_size(PAGE) == Err(Errno::EINVAL));
    ensure!(region.set_name(c"late") == Err(Errno::EINVAL));
    drop(map);
    ensure!(
        region.set_size(PAGE) == Err(Errno::EINVAL),
        "thawed by munmap"
    );
    ensure!(region.size()? == 5001);
    Ok(())
}

fn failed_mmap_freezes_nothing() -> anyhow::Result<()> {
    let region = Region::open()?;
    let unsized_map = region.map_as(PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(unsized_map.err() == Some(Errno::EINVAL));
    region.set_size(PAGE)?;
    region.set_mask(ProtFlags::PROT_READ)?;
    // The length is checked before the protection.
    let long = region.map_as(2 * PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(long.err() == Some(Errno::EINVAL));
    let forbidden = region.map_as(PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(forbidden.err() == Some(Errno::EPERM));
    ensure!(region.file_id() == Err(Errno::EINVAL));
    region.set_size(2 * PAGE)?;
    region.set_name(c"still open")?;
    Ok(())
}

fn every_open_is_a_region_of_its_own() -> anyhow::Result<()> {
    let (one, two) = (Region::sized(1)?, Region::sized(1)?);
    let (a, b) = (one.map(1)?, two.map(1)?);
    a.write(0, 1);
    ensure!(b.read(0) == 0);
    ensure!(one.file_id()? != two.file_id()?);
    Ok(())
}

fn descriptors_of_every_mode_take_ioctls() -> anyhow::Result<()> {
    for mode in [OFlag::O_RDONLY, OFlag::O_WRONLY] {
        let region = Region::open_mode(mode)?;
        region.set_name(c"mode")?;
        region.set_size(PAGE)?;
        ensure!(region.size()? == PAGE);
    }
    let map = |mode, prot| -> anyhow::Result<_> {
        let region = Region::open_mode(mode)?;
        region.set_size(PAGE)?;
        Ok(region.map_as(PAGE, prot, MapFlags::MAP_SHARED).err())
    };
    ensure!(map(OFlag::O_RDONLY, ProtFlags::PROT_READ)?.is_none());
    ensure!(map(OFlag::O_RDONLY, RW)? == Some(Errno::EACCES));
    ensure!(map(OFlag::O_WRONLY, ProtFlags::PROT_WRITE)? == Some(Errno::EACCES));
    let path = Region::open_mode(OFlag::O_PATH)?;
    ensure!(path.size() == Err(Errno::EBADF));
    Ok(())
}

fn file_id_is_the_inode_of_the_mapping() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    ensure!(
        region.file_id() == Err(Errno::EINVAL),
        "before the first mmap"
    );
    let map = region.map(1)?;
    let id = region.file_id()?;
    let line = crate::tests::names::line_of(&map)?;
    let inode = line.split_whitespace().nth(4).context("no inode")?;
    ensure!(inode == id.to_string(), "{id}: {line}");
    ensure!(region.fdinfo()?.contains(&format!("inode:\t{id}\n")));
    Ok(())
}

fn region_beyond_memory_is_enomem() -> anyhow::Result<()> {
    let region = Region::open()?;
    // 1 TiB, or 3 GiB where that is no number: no guest of these tests has it.
    let beyond = usize::try_from(1u64 << 40).unwrap_or(3 << 30);
    region.set_size(beyond)?;
    let charged = region.map_as(PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(charged.err() == Some(Errno::ENOMEM));
    region
        .set_size(beyond + PAGE)
        .context("a failed mmap froze it")?;
    region.map_as(PAGE, RW, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE)?;

    let region = Region::open()?;
    region.set_size(usize::MAX)?;
    let found = region.map_as(PAGE, RW, MapFlags::MAP_SHARED);
    // Rounded up to pages it is no size; that of a 32-bit program is 4 GiB.
    let expected = if cfg!(target_pointer_width = "64") {
        Errno::EINVAL
    } else {
        Errno::ENOMEM
    };
    ensure!(found.err() == Some(expected));
    Ok(())
}
