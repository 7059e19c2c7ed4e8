// SPDX-License-Identifier: GPL-2.0-only

//! Where a region is seen: /proc.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::id;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mlock;
use nix::sys::mman::munlock;
use nix::sys::stat::FchmodatFlags;
use nix::sys::stat::Mode;
use nix::sys::stat::fchmodat;
use nix::unistd::Uid;
use nix::unistd::chown;
use nix::unistd::getppid;
use nix::unistd::truncate;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts::settle;
use crate::tests::names::line_of;
use crate::tests::process::in_child;

tests! {
    maps_show_a_mapping => "seen.maps" "seen.maps-default",
    maps_cannot_be_forged => "seen.maps",
    file_id_is_the_inode_of_the_mapping => "seen.file-id" "seen.file-id-early",
    map_files_lead_nowhere => "seen.map-files",
    smaps_tell_shared_from_private => "seen.smaps",
    smaps_rollup_counts_a_region_as_a_file => "seen.smaps",
    pagemap_shows_pages_of_a_file => "seen.smaps",
    fdinfo_has_each_key_once_and_in_order => "seen.fdinfo",
    fdinfo_counts => "seen.fdinfo",
    fdinfo_cannot_be_forged => "seen.fdinfo-escape",
    another_process_sees_the_same => "seen.maps" "seen.smaps" "seen.fdinfo",
}

const KB: usize = PAGE / 1024;

/// What smaps tells of a mapping: the first line, as in maps, and the others.
#[derive(Debug)]
pub struct Smaps(Vec<String>);

impl Smaps {
    fn read(pid: &str, map: &Mapping) -> anyhow::Result<Self> {
        let start = format!("{:x}-", map.base());
        let text = fs::read(format!("/proc/{pid}/smaps"))?;
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
        let mut found = vec![];
        found.extend(lines.next().map(str::to_owned));
        ensure!(!found.is_empty(), "the mapping is not in smaps");
        // The first line of the next mapping is the first whose first word is
        // no key.
        found.extend(
            lines
                .take_while(|line| line.split(' ').next().is_some_and(|key| key.ends_with(':')))
                .map(str::to_owned),
        );
        Ok(Self(found))
    }

    fn value(&self, key: &str) -> anyhow::Result<&str> {
        self.0
            .iter()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("no `{key}` in {:#?}", self.0))
    }

    /// A line that gives kB.
    pub fn kb(&self, key: &str) -> anyhow::Result<usize> {
        let value = self.value(key)?;
        value
            .strip_suffix(" kB")
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{key}: {value}"))
    }

    fn flags(&self) -> anyhow::Result<Vec<&str>> {
        Ok(self.value("VmFlags")?.split(' ').collect())
    }
}

/// What smaps tells of a mapping of this process.
pub fn smaps_of(map: &Mapping) -> anyhow::Result<Smaps> {
    Smaps::read("self", map)
}

fn maps_show_a_mapping() -> anyhow::Result<()> {
    let private = MapFlags::MAP_PRIVATE;
    let shared = MapFlags::MAP_SHARED;
    let read = ProtFlags::PROT_READ;
    for (name, path) in [
        (None, "/dev/ashmem"),
        (Some(c""), "/dev/ashmem"),
        (Some(c"x"), "/dev/ashmem/x"),
        (
            Some(c"dalvik-main space/with a path"),
            "/dev/ashmem/dalvik-main space/with a path",
        ),
    ] {
        let region = Region::sized(2)?;
        if let Some(name) = name {
            region.set_name(name)?;
        }
        for (prot, flags, rights) in [
            (RW, shared, "rw-s"),
            (read, shared, "r--s"),
            (ProtFlags::PROT_NONE, shared, "---s"),
            (RW, private, "rw-p"),
            (read | ProtFlags::PROT_EXEC, private, "r-xp"),
        ] {
            let map = region.map_as(2 * PAGE, prot, flags)?;
            let line = line_of(&map)?;
            let inode = region.file_id()?.to_string();
            let range = format!("{:x}-{:x}", map.base(), map.base() + 2 * PAGE);
            let mut words = line.split_whitespace();
            ensure!(words.next() == Some(&range), "{line}");
            ensure!(words.next() == Some(rights), "{line}");
            ensure!(words.next() == Some("00000000"), "{line}");
            ensure!(
                words.next().is_some_and(|device| device.len() == 5),
                "{line}"
            );
            ensure!(words.next() == Some(&inode), "{line}");
            let shown = line.find('/').map(|at| &line[at..]);
            ensure!(shown == Some(&format!("{path} (deleted)")), "{line}");
        }
    }
    Ok(())
}

fn maps_cannot_be_forged() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_name(c"a\n0-1000 rwxp 00000000 00:00 0 [stack]\\b")?;
    let lines = || -> anyhow::Result<usize> {
        Ok(fs::read_to_string("/proc/self/maps")?
            .lines()
            .filter(|line| line.starts_with("0-1000 "))
            .count())
    };
    let map = region.map(1)?;
    ensure!(lines()? == 0, "a name made a line of its own");
    let line = line_of(&map)?;
    ensure!(
        line.ends_with(" /dev/ashmem/a\\0120-1000 rwxp 00000000 00:00 0 [stack]\\b (deleted)"),
        "{line}"
    );
    Ok(())
}

fn file_id_is_the_inode_of_the_mapping() -> anyhow::Result<()> {
    let region = Region::open()?;
    ensure!(region.file_id() == Err(Errno::EINVAL), "without a size");
    region.set_size(PAGE)?;
    ensure!(
        region.file_id() == Err(Errno::EINVAL),
        "before the first mmap"
    );
    let map = region.map(1)?;
    let id = region.file_id()?;
    let line = line_of(&map)?;
    let inode = line.split_whitespace().nth(4).context("no inode")?;
    ensure!(inode == id.to_string(), "{id}: {line}");
    ensure!(region.fdinfo()?.contains(&format!("inode:\t{id}\n")));
    drop(map);
    ensure!(region.file_id()? == id, "without a mapping");
    // Two regions are two files.
    let other = Region::sized(1)?;
    let _map = other.map(1)?;
    ensure!(other.file_id()? != id);
    Ok(())
}

fn map_files_lead_nowhere() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    region.set_name(c"a name")?;
    let map = region.map(8)?;
    map.stamp(0..8, 5);
    region.unpin(4..8)?;
    let path = format!(
        "/proc/self/map_files/{:x}-{:x}",
        map.base(),
        map.base() + map.len()
    );
    let path = path.as_str();
    let link = fs::read_link(path).context("readlink")?;
    ensure!(
        link.as_os_str() == "/dev/ashmem/a name (deleted)",
        "{link:?}"
    );
    // Another mapping of it would not have the protection mask, another size
    // would take pinned pages away.
    for mode in [
        OFlag::O_RDONLY,
        OFlag::O_WRONLY,
        OFlag::O_RDWR,
        OFlag::O_RDWR | OFlag::O_TRUNC,
    ] {
        let found = open(path, mode, Mode::empty()).err();
        ensure!(found == Some(Errno::ENXIO), "{mode:?}: {found:?}");
    }
    for size in [0, 4 * PAGE, 16 * PAGE] {
        let found = truncate(path, size as libc::off_t);
        ensure!(found == Err(Errno::EPERM), "truncate to {size}: {found:?}");
    }
    let found = fchmodat(AT_FDCWD, path, Mode::S_IRWXU, FchmodatFlags::FollowSymlink);
    ensure!(found == Err(Errno::EPERM), "chmod: {found:?}");
    let found = chown(path, Some(Uid::from_raw(1000)), None);
    ensure!(found == Err(Errno::EPERM), "chown: {found:?}");
    ensure!(map.picture(5) == "xxxxxxxx");
    ensure!(region.purge_all()? == 4);
    ensure!(map.picture(5) == "xxxx0000");
    Ok(())
}

/// Asserts how many pages smaps finds in memory, shared, private and locked.
/// A region's pages are always dirty: nobody can write them back.
fn expect(map: &Mapping, expected: [usize; 4], pss: usize, what: &str) -> anyhow::Result<()> {
    let smaps = smaps_of(map)?;
    println!("{what}: {smaps:?}");
    let kb = |key: &str| smaps.kb(key);
    let found = [
        kb("Rss")?,
        kb("Shared_Dirty")?,
        kb("Private_Dirty")?,
        kb("Locked")?,
    ];
    ensure!(
        found == expected.map(|pages| pages * KB),
        "{what}: [Rss, Shared_Dirty, Private_Dirty, Locked] {found:?} kB, expected {expected:?} pages"
    );
    ensure!(kb("Pss")? == pss, "{what}: Pss {} kB", kb("Pss")?);
    ensure!(kb("Pss_Dirty")? == pss, "{what}");
    for key in ["Shared_Clean", "Private_Clean", "Anonymous", "Swap"] {
        ensure!(kb(key)? == 0, "{what}: {key}");
    }
    ensure!(kb("Size")? == map.pages() * KB, "{what}");
    Ok(())
}

fn smaps_tell_shared_from_private() -> anyhow::Result<()> {
    let region = Region::sized(20)?;
    region.set_name(c"smaps")?;
    let map = region.map(20)?.single()?;
    expect(&map, [0; 4], 0, "untouched")?;
    map.write_pages(0..12);
    expect(&map, [12, 0, 12, 0], 12 * KB, "one has 12")?;
    let first = smaps_of(&map)?.0.remove(0);
    ensure!(first == line_of(&map)?, "{first}");

    // A second one, in the same process, has some of them.
    let read = ProtFlags::PROT_READ;
    let twin = region.map_as(20 * PAGE, read, MapFlags::MAP_SHARED)?;
    in_child(|| {
        // The child's are empty: page tables of shared mappings are not copied.
        expect(&map, [0; 4], 0, "in the child")?;
        map.write_pages(0..4);
        // Shared by two.
        expect(&map, [4, 4, 0, 0], 4 * KB / 2, "the child has 4")?;
        map.write_pages(12..15);
        expect(&map, [7, 4, 3, 0], 4 * KB / 2 + 3 * KB, "and 3 of its own")?;
        Ok(())
    })?;
    expect(&map, [12, 0, 12, 0], 12 * KB, "the child is gone")?;
    // What the child made is there, and is mapped by nobody.
    ensure!(region.info()?.resident == 15);

    // A fault of a reader maps what is around it, too: up to 16 pages.
    for page in 0..15 {
        twin.read(page * PAGE);
    }
    expect(&twin, [15, 12, 3, 0], 12 * KB / 2 + 3 * KB, "the twin")?;
    expect(&map, [12, 12, 0, 0], 12 * KB / 2, "beside the twin")?;
    drop(twin);

    // SAFETY: It is mapped, and locking changes no content.
    unsafe { mlock(map.pointer(), 4 * PAGE) }?;
    // It is two mappings now.
    let smaps = smaps_of(&map)?;
    ensure!(smaps.kb("Size")? == 4 * KB && smaps.kb("Locked")? == 4 * KB);
    // SAFETY: As above.
    unsafe { munlock(map.pointer(), 4 * PAGE) }?;

    region.unpin(0..5)?;
    ensure!(region.purge_all()? == 5);
    expect(&map, [7, 0, 7, 0], 7 * KB, "5 are purged")?;

    // Rights, and what mprotect(2) might make of them.
    let has = |map: &Mapping, flags: &[&str], lacks: &[&str]| -> anyhow::Result<()> {
        let smaps = smaps_of(map)?;
        let found = smaps.flags()?;
        ensure!(
            flags.iter().all(|flag| found.contains(flag))
                && !lacks.iter().any(|flag| found.contains(flag)),
            "{found:?}"
        );
        Ok(())
    };
    let never = ["io", "pf", "mm", "de", "dd"];
    has(&map, &["rd", "wr", "sh", "mr", "mw", "me", "ms"], &never)?;
    region.set_mask(read)?;
    let reader = region.map_as(PAGE, read, MapFlags::MAP_SHARED)?;
    has(&reader, &["rd", "mr", "ms"], &["wr", "mw", "me"])?;

    // A kernel with NUMA tells on which node the pages are.
    if let Ok(text) = fs::read_to_string("/proc/self/numa_maps") {
        let start = format!("{:08x} ", map.base());
        let line = text
            .lines()
            .find(|line| line.starts_with(&start))
            .context("the mapping is not in numa_maps")?;
        ensure!(
            line.contains(" file=/dev/ashmem/smaps\\040(deleted) ") && line.contains(" N0=7 "),
            "{line}"
        );
    }
    Ok(())
}

fn smaps_rollup_counts_a_region_as_a_file() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(100)?;
    let map = region.map(100)?;
    let rollup = || -> anyhow::Result<_> {
        let text = fs::read_to_string("/proc/self/smaps_rollup")?;
        let smaps = Smaps(text.lines().map(str::to_owned).collect());
        Ok([
            smaps.kb("Rss")?,
            smaps.kb("Pss_File")?,
            smaps.kb("Pss_Shmem")?,
            smaps.kb("Private_Dirty")?,
        ])
    };
    // Twice, so that it has the memory that it takes to read it.
    rollup()?;
    let before = rollup()?;
    map.write_pages(0..70);
    let after = rollup()?;
    let grown: Vec<usize> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    // Of a large folio all pages are mapped.
    let has = region.info()?.resident as usize * KB;
    ensure!(
        has >= 70 * KB && grown == [has, has, 0, has],
        "[Rss, Pss_File, Pss_Shmem, Private_Dirty] grew by {grown:?} kB"
    );
    Ok(())
}

fn pagemap_shows_pages_of_a_file() -> anyhow::Result<()> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    const EXCLUSIVE: u64 = 1 << 56;
    const FRAME: u64 = (1 << 55) - 1;

    let pagemap = fs::File::open("/proc/self/pagemap")?;
    let entry = |map: &Mapping, page: usize| -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        pagemap.read_exact_at(&mut bytes, ((map.base() / PAGE + page) * 8) as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    };
    // `.`: nothing, `F`: the region's, `P`: a copy; small if others map it too.
    let picture = |map: &Mapping| -> anyhow::Result<String> {
        (0..map.pages())
            .map(|page| {
                let entry = entry(map, page)?;
                let kind = match (entry & PRESENT != 0, entry & FILE != 0) {
                    (true, true) => 'F',
                    (true, false) => 'P',
                    (false, false) => '.',
                    (false, true) => '?',
                };
                ensure!(entry & SWAPPED == 0, "page {page} is swapped");
                Ok(if entry & EXCLUSIVE == 0 {
                    kind.to_ascii_lowercase()
                } else {
                    kind
                })
            })
            .collect()
    };
    let region = Region::sized(8)?;
    let map = region.map(8)?.single()?;
    ensure!(picture(&map)? == "........");
    map.write_pages(1..5);
    ensure!(picture(&map)? == ".FFFF...", "{}", picture(&map)?);
    let copy = region.map_as(8 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    copy.write_pages(4..7);
    ensure!(picture(&copy)? == "....PPP.", "{}", picture(&copy)?);
    let twin = region.map(8)?;
    twin.write_pages(1..3);
    ensure!(picture(&map)? == ".ffFF...", "{}", picture(&map)?);
    ensure!(picture(&twin)? == ".ff.....", "{}", picture(&twin)?);
    for page in 1..3 {
        let (one, two) = (entry(&map, page)? & FRAME, entry(&twin, page)? & FRAME);
        ensure!(one == two && one != 0, "page {page}: two frames");
    }
    region.unpin(2..4)?;
    ensure!(region.purge_all()? == 2);
    ensure!(picture(&map)? == ".f..F...", "{}", picture(&map)?);
    ensure!(picture(&twin)? == ".f......", "{}", picture(&twin)?);
    ensure!(picture(&copy)? == "....PPP.", "{}", picture(&copy)?);
    Ok(())
}

/// The lines of a region's fdinfo: key and value.
fn lines(text: &str) -> anyhow::Result<Vec<(&str, &str)>> {
    ensure!(text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| {
            line.split_once(":\t")
                .with_context(|| format!("no key in `{line}`"))
        })
        .collect()
}

/// The VFS's lines.
const GENERAL: [&str; 4] = ["pos", "flags", "mnt_id", "ino"];
/// The lines that every region has.
const OURS: [&str; 8] = [
    "size",
    "faults",
    "map_faults",
    "huge_faults",
    "allocated",
    "purged",
    "resident",
    "unpinned",
];

fn fdinfo_has_each_key_once_and_in_order() -> anyhow::Result<()> {
    let keys = |region: &Region, between: &[&str]| -> anyhow::Result<()> {
        let text = region.fdinfo()?;
        let found: Vec<_> = lines(&text)?.into_iter().map(|(key, _)| key).collect();
        ensure!(found == [&GENERAL, between, &OURS].concat(), "{text}");
        Ok(())
    };
    let region = Region::open()?;
    keys(&region, &[])?;
    region.set_name(c"abc")?;
    keys(&region, &["name"])?;
    region.set_name(c"")?;
    keys(&region, &[])?;
    region.set_size(5 * PAGE)?;
    keys(&region, &[])?;
    let map = region.map(5)?;
    keys(&region, &["inode"])?;
    drop(map);
    keys(&region, &["inode"])?;

    let region = Region::sized(1)?;
    region.set_name(c"abc")?;
    let map = region.map(1)?;
    keys(&region, &["inode", "name"])?;
    let text = region.fdinfo()?;
    let expected = format!("inode:\t{}\nname:\tabc\nsize:\t4096\n", region.file_id()?);
    ensure!(text.contains(&expected), "{text}");
    ensure!(line_of(&map)?.contains(&format!(" {} ", region.file_id()?)));
    Ok(())
}

fn fdinfo_counts() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(10 * PAGE + 1)?;
    let ours = |expected: [u64; 8]| -> anyhow::Result<()> {
        let text = region.fdinfo()?;
        let found: Vec<_> = lines(&text)?.split_off(text.lines().count() - 8);
        let expected = OURS.iter().copied().zip(expected);
        for ((key, value), expected) in found.into_iter().zip(expected) {
            ensure!(
                (key, value) == (expected.0, expected.1.to_string().as_str()),
                "{expected:?}:\n{text}"
            );
        }
        Ok(())
    };
    let size = 10 * PAGE as u64 + 1;
    ours([size, 0, 0, 0, 0, 0, 0, 0])?;
    let map = region.map(11)?.single()?;
    ours([size, 0, 0, 0, 0, 0, 0, 0])?;
    map.write_pages(0..6);
    ours([size, 6, 0, 0, 6, 0, 6, 0])?;
    region.unpin(4..9)?;
    ours([size, 6, 0, 0, 6, 0, 6, 5])?;
    ensure!(region.purge_all()? == 5);
    ours([size, 6, 0, 0, 6, 2, 4, 5])?;
    ensure!(region.pin(0..5)?);
    ours([size, 6, 0, 0, 6, 2, 4, 4])?;
    map.write_pages(4..5);
    ours([size, 7, 0, 0, 7, 2, 5, 4])?;
    let twin = region.map(11)?;
    twin.read(0);
    ours([size, 7, 1, 0, 7, 2, 5, 4])?;
    // The position is the VFS's line; it is the region's nonetheless.
    nix::unistd::lseek(&region, 77, nix::unistd::Whence::SeekSet)?;
    ensure!(region.fdinfo()?.starts_with("pos:\t77\n"));
    Ok(())
}

fn fdinfo_cannot_be_forged() -> anyhow::Result<()> {
    let names: [(&CStr, &[u8]); 5] = [
        (c"x\nsize:\t99\\", b"x\\012size:\t99\\134"),
        (c"\n\n", b"\\012\\012"),
        (c"\\012", b"\\134012"),
        (c"\r\t %s {} \"", b"\r\t %s {} \""),
        (c"\xff\xfe\x01", b"\xff\xfe\x01"),
    ];
    for (name, shown) in names {
        let region = Region::sized(1)?;
        region.set_name(name)?;
        let path = format!("/proc/self/fdinfo/{}", region.as_fd().as_raw_fd());
        let text = fs::read(path)?;
        let found: Vec<_> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"name:") || line.starts_with(b"size:"))
            .collect();
        let line = [b"name:\t", shown].concat();
        ensure!(found == [line.as_slice(), b"size:\t4096"], "{name:?}");
    }
    // The longest that there is, four times as long as shown.
    let region = Region::sized(1)?;
    region.set_name(&CString::new([b'\n'; 255])?)?;
    let text = region.fdinfo()?;
    let line = format!("name:\t{}\nsize:\t4096\n", "\\012".repeat(255));
    ensure!(text.contains(&line), "{text}");
    ensure!(region.info()?.size == PAGE as u64);
    Ok(())
}

fn another_process_sees_the_same() -> anyhow::Result<()> {
    let region = Region::sized(6)?;
    region.set_name(c"seen by\nothers")?;
    let map = region.map(6)?;
    map.write_pages(0..3);
    region.unpin(2..6)?;
    let (line, fdinfo) = (line_of(&map)?, region.fdinfo()?);
    let fd = region.as_fd().as_raw_fd();
    let me = id();
    in_child(|| {
        ensure!(getppid().as_raw() as u32 == me);
        let maps = fs::read_to_string(format!("/proc/{me}/maps"))?;
        ensure!(maps.lines().any(|found| found == line), "{maps}");
        let found = fs::read_to_string(format!("/proc/{me}/fdinfo/{fd}"))?;
        ensure!(found == fdinfo, "{found}\nthere, here\n{fdinfo}");
        // Here nothing is mapped yet, there it is.
        let smaps = Smaps::read(&me.to_string(), &map)?;
        // Of a large folio all pages are mapped.
        let has = region.info()?.resident as usize * KB;
        ensure!(has >= 3 * KB && smaps.kb("Rss")? == has && smaps.kb("Private_Dirty")? == has);
        let link = fs::read_link(format!("/proc/{me}/fd/{fd}"))?;
        ensure!(link.as_os_str() == crate::region::NODE, "{link:?}");
        Ok(())
    })
}
