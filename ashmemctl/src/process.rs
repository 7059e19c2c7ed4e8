// SPDX-License-Identifier: GPL-2.0-only

//! What one process has. A process that ends meanwhile has nothing.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use ashmem::MapOptions;
use ashmem::Protection;
use ashmem::Region;
use nix::errno::Errno;
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

/// By which numbers a region is known from other files.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Those of the node, for descriptors.
    node: u64,
    /// Those of the file system that is behind it, for mappings. It is mounted nowhere, so that no
    /// other file has them, whatever it is called.
    files: maps::Device,
}

impl Device {
    /// Looks at a region that is made for it, and is gone when this returns.
    pub fn find() -> Result<Self> {
        let region = Region::new(c"ashmemctl", 1)?;
        let map = region.map_with(MapOptions::new().protection(Protection::READ))?;
        let node = own_descriptor(&region, "fd")
            .and_then(fs::metadata)
            .map_err(|error| Error::answer("a region of our own", &error))?
            .rdev();
        let start = map.as_ptr() as u64;
        let files = mappings("self")
            .map_err(|error| Error::answer("/proc/self/maps", &error))?
            .into_iter()
            .find(|mapping| mapping.start == start)
            .ok_or_else(|| Error::new(Kind::Other, "/proc/self/maps lacks a mapping of our own"))?
            .device;
        Ok(Self { node, files })
    }
}

/// Where /proc has one of our own descriptors.
fn own_descriptor(fd: &impl AsRawFd, folder: &str) -> io::Result<String> {
    Ok(format!("/proc/self/{folder}/{}", fd.as_raw_fd()))
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
    /// The same open file, where it could be had.
    pub region: Option<Region>,
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
    pub fn descriptors(self, device: Device) -> io::Result<Vec<Descriptor>> {
        let mut found = vec![];
        let mut numbers = numbers::<i32>(&format!("/proc/{}/fdinfo", self.0))?;
        numbers.sort_unstable();
        for number in numbers {
            match self.descriptor(number, device) {
                Ok(descriptor) => found.extend(descriptor),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// One of its descriptors; none if it is of something else.
    fn descriptor(self, number: i32, device: Device) -> io::Result<Option<Descriptor>> {
        // To ask for this may not wait for another file system, as stat(2) may.
        let Some(info) = FdInfo::parse(&fs::read(self.path("fdinfo", number))?) else {
            return Ok(None);
        };
        match self.get(number) {
            Ok(fd) => {
                // By now it may be another one.
                let Ok(region) = Region::try_from(fd) else {
                    return Ok(None);
                };
                let info = FdInfo::parse(&fs::read(own_descriptor(&region, "fdinfo")?)?);
                Ok(info.map(|info| Descriptor {
                    number,
                    info,
                    region: Some(region),
                }))
            }
            Err(Errno::ESRCH | Errno::EBADF) => Ok(None),
            // That takes more rights than to look, and a number of our own that is free.
            Err(_) => {
                let is_ours = fs::metadata(self.path("fd", number))?.rdev() == device.node;
                Ok(is_ours.then_some(Descriptor {
                    number,
                    info,
                    region: None,
                }))
            }
        }
    }

    /// A second descriptor of the open file that it has under this number.
    pub fn get(self, number: i32) -> nix::Result<OwnedFd> {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        pid.ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .and_then(|process| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()))
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }

    /// Its mappings of regions.
    pub fn mappings(self, device: Device) -> io::Result<Vec<Mapping>> {
        let mut found = mappings(&self.0.to_string())?;
        found.retain(|mapping| mapping.device == device.files);
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

    /// Where /proc has one of its descriptors.
    fn path(self, folder: &str, number: i32) -> String {
        format!("/proc/{}/{folder}/{number}", self.0)
    }
}

/// All mappings of a process, named as /proc has it.
fn mappings(process: &str) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{process}/maps"))?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(Mapping::parse).collect())
}

/// Whether two descriptors are of one region: of one open file.
pub fn are_same(one: &Region, other: &Region) -> bool {
    let query = linux_raw_sys::general::F_DUPFD_QUERY as libc::c_int;
    // SAFETY: It compares two numbers of descriptors, both open.
    let answer = unsafe { libc::fcntl(one.as_raw_fd(), query, other.as_raw_fd()) };
    answer == 1
}
