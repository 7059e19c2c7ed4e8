// SPDX-License-Identifier: GPL-2.0-only

//! What one process has. A process that ends meanwhile has nothing.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::process::id;

use ashmem::MapOptions;
use ashmem::Protection;
use ashmem::Region;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::PidfdGetfdFlags;
use rustix::process::pidfd_getfd;
use rustix::process::pidfd_open;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::error::is_gone;
use crate::fdinfo::FdInfo;
use crate::maps;
use crate::maps::Mapping;
use crate::name::Name;

/// By which numbers mappings of regions are known from others: those of the file system that is
/// behind the node. It is mounted nowhere, so that no other file has them, whatever it is called.
#[derive(Clone, Copy, Debug)]
pub struct Device(maps::Device);

impl Device {
    /// Looks at a region that is made for it, and is gone when this returns.
    pub fn find() -> Result<Self> {
        let region = Region::new(c"ashmemctl", 1)?;
        let map = region.map_with(MapOptions::new().protection(Protection::READ))?;
        let start = map.as_ptr() as u64;
        let ours = mappings("self")
            .map_err(|error| Error::answer("/proc/self/maps", &error))?
            .into_iter()
            .find(|mapping| mapping.start == start)
            .ok_or_else(|| Error::new(Kind::Other, "/proc/self/maps lacks a mapping of our own"))?;
        Ok(Self(ours.device))
    }
}

/// The numbers of all processes, in order.
pub fn all() -> io::Result<Vec<u32>> {
    let mut found = numbers("/proc")?;
    found.sort_unstable();
    Ok(found)
}

/// The names in a folder that are numbers.
fn numbers<T: std::str::FromStr>(folder: &str) -> io::Result<Vec<T>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        found.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok()),
        );
    }
    Ok(found)
}

/// A process of this number.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// A descriptor of a region.
#[derive(Debug)]
pub struct Descriptor {
    /// Its number in that process.
    pub number: i32,
    /// What it says.
    pub info: FdInfo,
}

impl Process {
    /// Whether it can have descriptors and memory: no part of the kernel, and not dead.
    pub fn is_program(self) -> bool {
        // Anybody may read it; if not, that it cannot be looked at shows soon enough.
        let Ok(status) = fs::read(format!("/proc/{}/status", self.0)) else {
            return true;
        };
        let says = |start: &[u8]| {
            let mut lines = status.split(|byte| *byte == b'\n');
            lines.any(|line| line.starts_with(start))
        };
        !says(b"Kthread:\t1") && !says(b"State:\tZ") && !says(b"State:\tX")
    }

    /// Its command's name, of at most 15 bytes.
    pub fn command(self) -> Name {
        let mut name = fs::read(format!("/proc/{}/comm", self.0)).unwrap_or_default();
        name.truncate(name.len().saturating_sub(1));
        Name::new(name)
    }

    /// Its descriptors of regions.
    pub fn descriptors(self) -> io::Result<Vec<Descriptor>> {
        let mut found = vec![];
        let mut numbers = numbers::<i32>(&format!("/proc/{}/fdinfo", self.0))?;
        numbers.sort_unstable();
        for number in numbers {
            match self.descriptor(number) {
                Ok(info) => found.extend(info.map(|info| Descriptor { number, info })),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What one of its descriptors says; none if it is of something else.
    ///
    /// The kernel alone answers. To stat(2) an unknown file may wait for its file system, and to
    /// close a second descriptor of it too, for a FUSE server that never answers and beyond any
    /// signal.
    fn descriptor(self, number: i32) -> io::Result<Option<FdInfo>> {
        let text = fs::read(format!("/proc/{}/fdinfo/{number}", self.0))?;
        Ok(FdInfo::parse(&text))
    }

    /// A second descriptor of the open file that it has under this number, if that is the region
    /// of this inode.
    pub fn get(self, number: i32, inode: u64) -> io::Result<Option<Region>> {
        // Again, as long ago it may have been another one: see `descriptor`.
        let is_meant = |info: Option<FdInfo>| info.is_some_and(|info| info.inode == Some(inode));
        if !is_meant(self.descriptor(number)?) {
            return Ok(None);
        }
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        let fd = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .and_then(|process| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()))?;
        // And since then.
        if !is_meant(Process(id()).descriptor(fd.as_raw_fd())?) {
            return Ok(None);
        }
        Ok(Region::try_from(fd).ok())
    }

    /// Its mappings of regions.
    pub fn mappings(self, device: Device) -> io::Result<Vec<Mapping>> {
        let mut found = mappings(&self.0.to_string())?;
        found.retain(|mapping| mapping.device == device.0);
        Ok(found)
    }

    /// The name of the region that it maps there.
    pub fn name_of(self, mapping: &Mapping) -> Option<Name> {
        if !mapping.path.windows(4).any(|bytes| bytes == b"\\012") {
            return maps::name_in(&mapping.path);
        }
        // A newline, or what looks like one: the link shows which, as long as it is there.
        let Mapping { start, end, .. } = mapping;
        let link = fs::read_link(format!("/proc/{}/map_files/{start:x}-{end:x}", self.0));
        let path = link.map(|path| path.into_os_string().into_vec());
        maps::name_in(path.as_ref().unwrap_or(&mapping.path))
    }
}

/// All mappings of a process, named as /proc has it.
fn mappings(process: &str) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{process}/maps"))?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(Mapping::parse).collect())
}

/// The order of two descriptors, each of a process, by their open files: equal if they are one. It
/// is any order, but always the same. None where a descriptor was closed meanwhile, and on a kernel
/// that cannot tell.
pub fn compare(one: (Process, i32), other: (Process, i32)) -> Option<Ordering> {
    // Of <linux/kcmp.h>.
    const KCMP_FILE: libc::c_int = 0;
    let [pids, fds] = [[one.0.0, other.0.0], [one.1 as u32, other.1 as u32]];
    // SAFETY: It takes numbers only.
    let answer =
        unsafe { libc::syscall(libc::SYS_kcmp, pids[0], pids[1], KCMP_FILE, fds[0], fds[1]) };
    match answer {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}
