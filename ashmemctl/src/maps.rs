// SPDX-License-Identifier: GPL-2.0-only

//! What a line of `/proc/PID/maps` says of a mapping. The procfs crate reads
//! no line whose name is not UTF-8, and with it none of that process.

use std::str;

use crate::name::Name;

/// The numbers of a device, major and minor.
pub type Device = (u32, u32);

/// A mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// Whether it is of the file itself, not a copy.
    pub shared: bool,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// That the file's inode is of.
    pub device: Device,
    /// The file's.
    pub inode: u64,
    /// The rest of the line. A newline in it is `\012`, and a backslash a
    /// backslash, so that not every name can be told from it.
    pub path: Vec<u8>,
}

impl Mapping {
    /// Reads a line; none if it is not one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let len = rest
                .iter()
                .position(|byte| *byte == b' ')
                .unwrap_or(rest.len());
            let (word, tail) = rest.split_at(len);
            rest = tail.get(1..).unwrap_or_default();
            str::from_utf8(word).ok()
        };
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let (start, end) = word()?.split_once('-')?;
        let rights = word()?;
        let offset = hex(word()?)?;
        let (major, minor) = word()?.split_once(':')?;
        let inode = word()?.parse().ok()?;
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            shared: rights.ends_with('s'),
            offset,
            device: (hex(major)?.try_into().ok()?, hex(minor)?.try_into().ok()?),
            inode,
            path: rest.trim_ascii_start().to_vec(),
        })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has no bytes, which no mapping has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The name in the path of a region's mapping, `/dev/ashmem/NAME (deleted)`.
pub fn name_in(path: &[u8]) -> Option<Name> {
    let name = path
        .strip_suffix(b" (deleted)")?
        .strip_prefix(b"/dev/ashmem/")?;
    Some(Name::new(name))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn every_field_of_a_line_is_found() {
        let line = b"7f4de6946000-7f4de6986000 rw-s 00003000 00:1e 1089                       /dev/ashmem/a b (deleted)";
        let expected = Mapping {
            start: 0x7f4d_e694_6000,
            end: 0x7f4d_e698_6000,
            shared: true,
            offset: 0x3000,
            device: (0, 0x1e),
            inode: 1089,
            path: b"/dev/ashmem/a b (deleted)".to_vec(),
        };
        assert_eq!(Mapping::parse(line), Some(expected));
        let found =
            Mapping::parse(b"1000-2000 r-xp 00000000 fd:10d 4294967296 /x\xff").expect("a line");
        assert_eq!(
            (found.device, found.inode, found.shared),
            ((0xfd, 0x10d), 1 << 32, false)
        );
        assert_eq!(
            (found.path.as_slice(), found.len()),
            (&b"/x\xff"[..], 0x1000)
        );
        let anonymous = Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0 ").expect("a line");
        assert_eq!(anonymous.path, b"");
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in [
            &b""[..],
            b"1000-2000",
            b"1000 rw-p 00000000 00:00 0",
            b"1000-2000 rw-p x 00:00 0",
            b"1000-2000 rw-p 0 0000 0",
            b"1000-2000 rw-p 0 00:00 y",
            b"\xff-2000 rw-p 0 00:00 0",
        ] {
            assert_eq!(Mapping::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn names_are_what_stands_between_folder_and_deleted() {
        let named = |path: &str| name_in(path.as_bytes()).map(|name| name.lossy());
        assert_eq!(named("/dev/ashmem/x (deleted)").as_deref(), Some("x"));
        assert_eq!(
            named("/dev/ashmem/ /(deleted) (deleted) (deleted)").as_deref(),
            Some(" /(deleted) (deleted)")
        );
        assert_eq!(named("/dev/ashmem (deleted)"), None);
        assert_eq!(named("/dev/ashmem/x"), None);
    }
}
