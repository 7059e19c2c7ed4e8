// SPDX-License-Identifier: GPL-2.0-only

//! The node, the numbers of the ioctls, sizes, and how much mmap(2) admits.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::abi;
use crate::harness::tests;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::Edge;
use crate::tests::process::touches;
use crate::tests::reclaim::number;

tests! {
    node_is_a_character_device,
    opcodes_are_androids => "number.values",
    other_numbers_are_enotty => "number.unknown" "number.extensions",
    four_byte_encodings_are_for_32_bit_programs => "number.compat",
    file_id_of_four_bytes_is_for_32_bit_programs => "number.compat-file-id",
    size_is_given_back_as_it_was_set => "size.unrounded" "size.again" "size.int",
    mapping_may_be_as_long_as_the_rounded_size => "mmap.longer",
    largest_region_is_the_largest_file => "mmap.largest",
    overcommit_policy_is_asked_for_the_whole_region => "mmap.overcommit" "mmap.noreserve",
    offsets_are_not_limited_but_touches_are => "mmap.offset" "mmap.sigbus",
}

/// Whether this program is one of 32 bits; the kernel has 64.
const NARROW: bool = cfg!(target_pointer_width = "32");

fn node_is_a_character_device() -> anyhow::Result<()> {
    let meta = fs::metadata(NODE).context(NODE)?;
    ensure!(meta.file_type().is_char_device());
    Ok(())
}

/// The numbers, from Android's programs and not from our header: as this
/// program's compiler makes them.
const NUMBERS: [u32; 11] = [
    0x4100_7701,
    0x8100_7702,
    if NARROW { 0x4004_7703 } else { 0x4008_7703 },
    0x0000_7704,
    if NARROW { 0x4004_7705 } else { 0x4008_7705 },
    0x0000_7706,
    0x4008_7707,
    0x4008_7708,
    0x0000_7709,
    0x0000_770a,
    if NARROW { 0x8004_770b } else { 0x8008_770b },
];

/// Those that only programs of one width have, as the other makes them:
/// SET_SIZE, SET_PROT_MASK and GET_FILE_ID. 32-bit programs may use both.
const WIDE: [u32; 3] = [0x4008_7703, 0x4008_7705, 0x8008_770b];
const SHORT: [u32; 3] = [0x4004_7703, 0x4004_7705, 0x8004_770b];

fn opcodes_are_androids() -> anyhow::Result<()> {
    let found = [
        abi::ABI_SET_NAME,
        abi::ABI_GET_NAME,
        abi::ABI_SET_SIZE,
        abi::ABI_GET_SIZE,
        abi::ABI_SET_PROT_MASK,
        abi::ABI_GET_PROT_MASK,
        abi::ABI_PIN,
        abi::ABI_UNPIN,
        abi::ABI_GET_PIN_STATUS,
        abi::ABI_PURGE_ALL_CACHES,
        abi::ABI_GET_FILE_ID,
    ];
    ensure!(found == NUMBERS, "{found:#x?}");
    let found = [
        abi::ABI_SET_SIZE_32,
        abi::ABI_SET_PROT_MASK_32,
        abi::ABI_GET_FILE_ID_32,
    ];
    ensure!(found == SHORT, "{found:#x?}");
    Ok(())
}

fn other_numbers_are_enotty() -> anyhow::Result<()> {
    let fresh = Region::open()?;
    let frozen = Region::sized(1)?;
    let _map = frozen.map(1)?;
    let extensions = [
        abi::ABI_PIN_RANGE,
        abi::ABI_UNPIN_RANGE,
        abi::ABI_GET_RANGE_PIN_STATUS,
        abi::ABI_GET_PAGE_STATUS,
    ];
    let mut known: BTreeSet<u32> = NUMBERS.into_iter().chain(extensions).collect();
    if NARROW {
        known.extend(WIDE);
    }
    // All sizes that structures are likely to have, and those around them.
    let sizes: Vec<u32> = (0..=40)
        .chain((6..14).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        .collect();
    let mut asked = 0;
    for number in 0..=0xff {
        for direction in 0..4 {
            // GET_COUNTERS has one for each size.
            if (number, direction) == (32, 2) {
                continue;
            }
            for size in &sizes {
                let request = (direction << 30) | (size << 16) | 0x7700 | number;
                if known.contains(&request) {
                    continue;
                }
                for region in [&fresh, &frozen] {
                    let found = region.ioctl(request, 0);
                    ensure!(found == Err(Errno::ENOTTY), "{request:#x}: {found:?}");
                }
                asked += 1;
            }
        }
    }
    let all = (256 * 4 - 1) * sizes.len();
    ensure!(asked == all - known.len(), "{asked} of {all}");
    // Other drivers' letters.
    for letter in (0..=0xff).filter(|letter| *letter != 0x77) {
        for request in NUMBERS {
            let request = (request & !0xff00) | (letter << 8);
            let found = fresh.ioctl(request, 0);
            ensure!(found == Err(Errno::ENOTTY), "{request:#x}: {found:?}");
        }
    }
    ensure!(fresh.info()?.size == 0 && fresh.name()? == "dev/ashmem");
    Ok(())
}

/// What a 32-bit program gets by its own encodings, and a 64-bit one never.
fn four_byte_encodings_are_for_32_bit_programs() -> anyhow::Result<()> {
    let region = Region::open()?;
    let expected = if NARROW { Ok(0) } else { Err(Errno::ENOTTY) };
    ensure!(region.ioctl(SHORT[0], 5001) == expected);
    ensure!(region.ioctl(SHORT[1], 3) == expected);
    let (size, mask) = if NARROW { (5001, 3) } else { (0, 7) };
    ensure!(region.ioctl(abi::ABI_GET_SIZE, 0) == Ok(size));
    ensure!(region.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(mask));
    // The wide encodings are there for both.
    ensure!(region.ioctl(WIDE[0], 77) == Ok(0));
    ensure!(region.ioctl(WIDE[1], 1) == Ok(0));
    ensure!(region.ioctl(abi::ABI_GET_SIZE, 0) == Ok(77));
    ensure!(region.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(1));
    if NARROW {
        // A size is no signed number.
        ensure!(region.ioctl(SHORT[0], 0xffff_f001) == Ok(0));
        ensure!(region.info()?.size == 0xffff_f001);
        ensure!(region.ioctl(SHORT[1], 3) == Err(Errno::EINVAL));
        let _map = region.map_as(
            PAGE,
            nix::sys::mman::ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
        )?;
        ensure!(region.ioctl(SHORT[0], 1) == Err(Errno::EINVAL));
    }
    Ok(())
}

fn file_id_of_four_bytes_is_for_32_bit_programs() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    let edge = Edge::new()?;
    let early = if NARROW { Errno::EINVAL } else { Errno::ENOTTY };
    ensure!(region.ioctl(SHORT[2], edge.before(4)) == Err(early));
    let map = region.map(1)?;
    let line = crate::tests::names::line_of(&map)?;
    let inode: u32 = line
        .split_whitespace()
        .nth(4)
        .context("no inode")?
        .parse()?;
    // Four bytes are written, and eight: not more, and not less.
    for (request, len, works) in [(SHORT[2], 4, NARROW), (WIDE[2], 8, true)] {
        edge.put(&[0xaa; 16]);
        let found = region.ioctl(request, edge.before(len));
        let mut expected = vec![0xaa; 16 - len];
        if works {
            ensure!(found == Ok(0), "{request:#x}: {found:?}");
            expected.extend_from_slice(&u64::from(inode).to_le_bytes()[..len]);
        } else {
            ensure!(found == Err(Errno::ENOTTY), "{request:#x}: {found:?}");
            expected.resize(16, 0xaa);
        }
        ensure!(edge.get(16) == expected, "{:x?}", edge.get(16));
        if works {
            ensure!(region.ioctl(request, edge.before(len - 1)) == Err(Errno::EFAULT));
        }
    }
    Ok(())
}

const GIB: u64 = 1 << 30;

fn size_is_given_back_as_it_was_set() -> anyhow::Result<()> {
    let region = Region::open()?;
    let page = PAGE as u64;
    for size in [
        1,
        page - 1,
        page,
        page + 1,
        3 * page + 5,
        0,
        5001,
        2 * GIB - 1,
        2 * GIB,
        3 * GIB,
        4 * GIB - page,
        4 * GIB - page + 1,
        4 * GIB - 515,
        4 * GIB - 1,
        4 * GIB,
        4 * GIB + 5,
        7 * GIB + 1,
        1 << 40,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
        u64::MAX - page,
        u64::MAX,
        1,
    ] {
        let Ok(fits) = usize::try_from(size) else {
            continue;
        };
        region.set_size(fits)?;
        // An int, and the last 4095 of those are errors to a C library: -1 and errno.
        let expected = match size as u32 as i32 {
            error @ -4095..0 => Err(Errno::from_raw(-error)),
            size => Ok(size),
        };
        // The VFS has one errno that it replaces.
        let expected = match expected {
            Err(_) if size as u32 as i32 == -515 => Err(Errno::ENOTTY),
            other => other,
        };
        let found = region.ioctl(abi::ABI_GET_SIZE, 0);
        ensure!(found == expected, "{size:#x}: {found:?}, not {expected:?}");
        let found = region.info()?.size;
        ensure!(found == size, "{size:#x}: fdinfo has {found:#x}");
    }
    Ok(())
}

/// Asks for no reservation, so that it is not the overcommit policy that says no.
const UNRESERVED: MapFlags = MapFlags::MAP_SHARED.union(MapFlags::MAP_NORESERVE);

fn mapping_may_be_as_long_as_the_rounded_size() -> anyhow::Result<()> {
    let page = PAGE as u64;
    for size in [
        1,
        page - 1,
        page,
        page + 1,
        5 * page,
        5 * page + 1,
        GIB - 1,
        4 * GIB + 1,
        5 * GIB,
    ] {
        let (Ok(bytes), Ok(longest)) = (
            usize::try_from(size),
            usize::try_from(size.next_multiple_of(page)),
        ) else {
            continue;
        };
        for flags in [UNRESERVED, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE] {
            let region = Region::open()?;
            region.set_size(bytes)?;
            for too_long in [longest + 1, longest + PAGE, 2 * longest + PAGE] {
                let found = region.map_as(too_long, RW, flags).err();
                ensure!(
                    found == Some(Errno::EINVAL),
                    "{size:#x}: {too_long:#x}: {found:?}"
                );
            }
            ensure!(region.file_id() == Err(Errno::EINVAL), "frozen by nothing");
            for len in [longest, longest - PAGE + 1] {
                region
                    .map_as(len, RW, flags)
                    .with_context(|| format!("{size:#x}: {len:#x}"))?;
            }
            // Frozen, it is no different.
            let found = region.map_as(longest + 1, RW, flags).err();
            ensure!(found == Some(Errno::EINVAL), "{size:#x}: {found:?}");
        }
    }
    Ok(())
}

fn largest_region_is_the_largest_file() -> anyhow::Result<()> {
    // What is left of the largest offset when it is rounded down to pages.
    let largest = i64::MAX as u64 / PAGE as u64 * PAGE as u64;
    let page = PAGE as u64;
    for (size, expected) in [
        (u64::from(u32::MAX), None),
        (1 << 40, None),
        (largest - page, None),
        (largest - 1, None),
        (largest, None),
        (largest + 1, Some(Errno::EINVAL)),
        (largest + page, Some(Errno::EINVAL)),
        (largest + page + 1, Some(Errno::EINVAL)),
        (u64::MAX - page + 1, Some(Errno::EINVAL)),
        (u64::MAX, Some(Errno::EINVAL)),
    ] {
        let Ok(bytes) = usize::try_from(size) else {
            continue;
        };
        let region = Region::open()?;
        region.set_size(bytes)?;
        let map = region.map_as(PAGE, RW, UNRESERVED);
        match (&map, expected) {
            // It is one that works.
            (Ok(map), None) => {
                map.stamp(0..1, 1);
                ensure!(region.info()?.resident == 1);
            }
            (Err(found), Some(error)) if *found == error => {
                region.set_size(PAGE).context("it was frozen")?;
                region.map(1)?;
            }
            _ => anyhow::bail!("{size:#x}: {:?}, not {expected:?}", map.err()),
        }
    }
    Ok(())
}

/// A setting of the kernel's, put back when dropped.
struct Setting(&'static str, String);

impl Setting {
    fn keep(path: &'static str) -> anyhow::Result<Self> {
        Ok(Self(path, fs::read_to_string(path).context(path)?))
    }

    fn set(&self, value: &str) -> anyhow::Result<()> {
        fs::write(self.0, value).context(self.0)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.1) {
            panic!("{error:#}");
        }
    }
}

/// A number of bytes that /proc/meminfo shows.
fn meminfo(key: &str) -> anyhow::Result<usize> {
    let kib = number("/proc/meminfo", key)?;
    kib.checked_mul(1024).context("more than fits")
}

fn overcommit_policy_is_asked_for_the_whole_region() -> anyhow::Result<()> {
    let policy = Setting::keep("/proc/sys/vm/overcommit_memory")?;
    let memory = meminfo("MemTotal")? + meminfo("SwapTotal")?;
    let plain = MapFlags::MAP_SHARED;
    let map = |size, flags| -> anyhow::Result<_> {
        let region = Region::open()?;
        region.set_size(size)?;
        Ok(region.map_as(PAGE, RW, flags).err())
    };
    let no = Some(Errno::ENOMEM);
    for (name, size, expected, unreserved) in [
        // By guess: what all memory and swap could hold.
        ("0", memory, None, None),
        ("0", memory + 1, no, None),
        ("1", memory + 1, None, None),
        // It takes no notice of MAP_NORESERVE.
        ("2", memory + 1, no, no),
    ] {
        policy.set(name)?;
        for (flags, expected) in [(plain, expected), (UNRESERVED, unreserved)] {
            let found = map(size, flags)?;
            ensure!(
                found == expected,
                "policy {name}, {size} bytes of {memory}, {flags:?}: {found:?}"
            );
        }
    }

    // It is the first mapping that counts, for the whole region, until that is gone.
    policy.set("0")?;
    let charged = || meminfo("Committed_AS");
    let before = charged()?;
    let grown = |by: usize| -> anyhow::Result<bool> {
        // This process's own heap may grow meanwhile.
        Ok((by..by + (1 << 20)).contains(&charged()?.saturating_sub(before)))
    };
    let region = Region::open()?;
    region.set_size(memory)?;
    ensure!(grown(0)?, "sized");
    let map = region.map_as(PAGE, RW, plain)?;
    ensure!(grown(memory)?, "the first mapping");
    let more = region.map_as(2 * PAGE, RW, plain)?;
    ensure!(grown(memory)?, "another one");
    drop(map);
    drop(region);
    ensure!(grown(memory)?, "a mapping is left");
    drop(more);
    ensure!(grown(0)?, "it is gone");

    let region = Region::open()?;
    region.set_size(memory + 1)?;
    let _map = region.map_as(PAGE, RW, UNRESERVED)?;
    region.map_as(PAGE, RW, plain).context("not the first")?;
    ensure!(grown(0)?, "unreserved");
    Ok(())
}

fn offsets_are_not_limited_but_touches_are() -> anyhow::Result<()> {
    let far = if NARROW { 1 << 43 } else { i64::MAX };
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        // The second page is whole, whatever the size says.
        let region = Region::open()?;
        region.set_size(PAGE + 1)?;
        for (offset, expected) in [
            (0, ".."),
            (1, ".B"),
            (2, "BB"),
            (3, "BB"),
            // Where 32 bits of bytes wrap, where those of pages do nearly.
            (1 << 20, "BB"),
            ((1 << 31) - 1, "BB"),
            (far / PAGE as i64 - 2, "BB"),
        ] {
            let map = region
                .map_far(2 * PAGE, RW, flags, offset * PAGE as i64)
                .with_context(|| format!("{flags:?} from page {offset:#x} on"))?;
            for write in [false, true] {
                let found = touches(&map, write)?;
                ensure!(
                    found == expected,
                    "{flags:?} from page {offset:#x} on, write: {write}: {found}"
                );
            }
        }
        let map = region.map_far(PAGE, RW, flags, PAGE as i64)?;
        map.write(PAGE - 1, 9);
        let shared = region.map(2)?.read(2 * PAGE - 1);
        ensure!((shared == 9) == (flags == MapFlags::MAP_SHARED));
    }
    Ok(())
}
