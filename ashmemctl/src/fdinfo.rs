// SPDX-License-Identifier: GPL-2.0-only

//! What `/proc/PID/fdinfo/N` says of a region.

use std::collections::HashMap;
use std::str;

use serde::Serialize;

use crate::name::Name;

/// A region as its descriptor tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdInfo {
    /// As in `/proc/PID/maps`; none before it is first mapped.
    pub inode: Option<u64>,
    /// If one was set.
    pub name: Option<Name>,
    /// In bytes, as it was set.
    pub size: u64,
    /// What the driver counts.
    pub counters: Counters,
}

/// What the driver counts: since the region was opened, and, the last two, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Runs of the fault handler.
    pub faults: u64,
    /// Faults that mapped pages which were there already.
    pub map_faults: u64,
    /// Runs of the fault handler that mapped a huge page.
    pub huge_faults: u64,
    /// Pages allocated.
    pub allocated: u64,
    /// Pages whose memory was taken while they were unpinned.
    pub purged: u64,
    /// Pages that have memory.
    pub resident: u64,
    /// Pages that are not pinned.
    pub unpinned: u64,
}

impl FdInfo {
    /// Reads the text; none if it is of something else than a region of this
    /// driver, as a descriptor opened with `O_PATH` is.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let values: HashMap<&[u8], &[u8]> = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| {
                let at = line.windows(2).position(|pair| pair == b":\t")?;
                Some((&line[..at], &line[at + 2..]))
            })
            .collect();
        let number = |key: &str| {
            str::from_utf8(values.get(key.as_bytes())?)
                .ok()?
                .parse()
                .ok()
        };
        Some(Self {
            inode: number("inode"),
            name: values
                .get(&b"name"[..])
                .map(|name| Name::new(unescaped(name))),
            size: number("size")?,
            counters: Counters {
                faults: number("faults")?,
                map_faults: number("map_faults")?,
                huge_faults: number("huge_faults")?,
                allocated: number("allocated")?,
                purged: number("purged")?,
                resident: number("resident")?,
                unpinned: number("unpinned")?,
            },
        })
    }
}

/// Without the kernel's escapes: `\012` is a newline, `\134` a backslash.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if *first == b'\\' => {
                let byte = ((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0');
                (byte, tail)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

#[cfg(test)]
mod unit {
    use super::*;

    const COUNTERS: &str = "size:\t10000\nfaults:\t1\nmap_faults:\t2\nhuge_faults:\t3\nallocated:\t4\npurged:\t5\nresident:\t6\nunpinned:\t7\n";

    fn parse(before: &[u8]) -> Option<FdInfo> {
        let vfs = b"pos:\t0\nflags:\t02100002\nmnt_id:\t30\nino:\t110\n";
        FdInfo::parse(&[vfs, before, COUNTERS.as_bytes()].concat())
    }

    #[test]
    fn every_value_is_found_in_its_place() {
        let found = parse(b"inode:\t353\nname:\tthumbnails\n").expect("a region");
        let counters = Counters {
            faults: 1,
            map_faults: 2,
            huge_faults: 3,
            allocated: 4,
            purged: 5,
            resident: 6,
            unpinned: 7,
        };
        let expected = FdInfo {
            inode: Some(353),
            name: Some(Name::new("thumbnails")),
            size: 10000,
            counters,
        };
        assert_eq!(found, expected);
        let fresh = parse(b"").expect("a region");
        assert_eq!((fresh.inode, fresh.name), (None, None));
    }

    #[test]
    fn escapes_of_a_name_are_undone() {
        for (text, name) in [
            (&b"a\\012size:\\1341"[..], &b"a\nsize:\\1"[..]),
            (b"\\134012", b"\\012"),
            (b"\\", b"\\"),
            (b"\\12", b"\\12"),
            (b"\\412", b"\\412"),
            (b"\xff:\tx", b"\xff:\tx"),
            (b" ", b" "),
        ] {
            let found = parse(&[b"name:\t", text, b"\n"].concat()).expect("a region");
            assert_eq!(found.name, Some(Name::new(name)));
        }
    }

    #[test]
    fn what_is_no_region_is_none() {
        assert_eq!(FdInfo::parse(b""), None);
        assert_eq!(
            FdInfo::parse(b"pos:\t0\nflags:\t0\nmnt_id:\t1\nino:\t2\n"),
            None
        );
        // What other drivers show of theirs.
        let buffer = b"pos:\t0\nsize:\t4096\ncount:\t1\nname:\tx\n";
        assert_eq!(FdInfo::parse(buffer), None);
        assert_eq!(FdInfo::parse(COUNTERS.replace('7', "x").as_bytes()), None);
    }
}
