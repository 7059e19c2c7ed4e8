// SPDX-License-Identifier: GPL-2.0-only

//! The regions of all processes, each once, with those who hold it. Processes go on meanwhile: it
//! is no picture of one moment.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::process::id;
use std::str;

use ashmem::Region as Handle;
use nix::errno::Errno;
use serde::Serialize;
use serde::Serializer;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::error::errno;
use crate::error::is_gone;
use crate::fdinfo::Counters;
use crate::maps::Mapping;
use crate::name::Name;
use crate::process;
use crate::process::Descriptor;
use crate::process::Device;
use crate::process::Process;

/// What was seen.
#[derive(Debug, Default, Serialize)]
pub struct Snapshot {
    /// As they were found: by the process of the lowest number that holds them, there by descriptor,
    /// and then what it only maps. Inodes say nothing of age: each processor has its own.
    pub regions: Vec<Region>,
    /// Processes that could not be looked at.
    pub not_looked_at: Vec<NotLookedAt>,
}

/// A region.
#[derive(Debug)]
pub struct Region {
    /// As in `/proc/PID/maps`; none before it is first mapped.
    pub inode: Option<u64>,
    /// If one was set.
    pub name: Option<Name>,
    /// Bytes, and counters; none where no descriptor was seen.
    pub told: Option<(u64, Counters)>,
    /// In order of their numbers.
    pub holders: Vec<Holder>,
}

/// A process that has a descriptor or a mapping of a region.
#[derive(Debug)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: Name,
    /// The numbers of its descriptors.
    pub descriptors: Vec<i32>,
    /// Its mappings.
    pub mappings: Vec<Mapping>,
}

/// Processes that could not be looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct NotLookedAt {
    /// Name of the error, as in errno(3).
    #[serde(serialize_with = "name_of_errno")]
    pub reason: Errno,
    /// How many.
    pub processes: usize,
}

fn name_of_errno<S: Serializer>(
    errno: &Errno,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{errno:?}"))
}

impl Region {
    fn new(inode: Option<u64>) -> Self {
        Self {
            inode,
            name: None,
            told: None,
            holders: vec![],
        }
    }

    /// The entry of a process, which is the one looked at last if there is one.
    fn holder(&mut self, process: Process) -> &mut Holder {
        if self.holders.last().is_none_or(|last| last.pid != process.0) {
            self.holders.push(Holder {
                pid: process.0,
                command: process.command(),
                descriptors: vec![],
                mappings: vec![],
            });
        }
        let last = self.holders.len() - 1;
        &mut self.holders[last]
    }
}

impl Holder {
    /// Bytes that it maps; those that it maps twice count twice.
    pub fn mapped(&self) -> u64 {
        self.mappings.iter().map(Mapping::len).sum()
    }
}

/// Where a region is in the list.
type At = usize;

/// A snapshot that is being taken. A hostile process may have a great many regions, so that none is
/// looked for one by one.
#[derive(Default)]
struct Looking {
    regions: Vec<Region>,
    by_inode: HashMap<u64, At>,
    /// One descriptor of each that has no inode, in the order of their open files.
    never_mapped: Vec<((Process, i32), At)>,
}

impl Looking {
    fn look_at(&mut self, process: Process, device: Device) -> io::Result<()> {
        for descriptor in process.descriptors()? {
            self.add_descriptor(process, descriptor);
        }
        for mapping in process.mappings(device)? {
            let region = self.by_inode(mapping.inode);
            if region.told.is_none() && region.name.is_none() {
                region.name = process.name_of(&mapping);
            }
            region.holder(process).mappings.push(mapping);
        }
        Ok(())
    }

    fn add_descriptor(&mut self, process: Process, descriptor: Descriptor) {
        let Descriptor { number, info } = descriptor;
        let region = match info.inode {
            Some(inode) => self.by_inode(inode),
            None => self.by_open_file(process, number),
        };
        if region.told.is_none() {
            region.name = info.name;
            region.told = Some((info.size, info.counters));
        }
        region.holder(process).descriptors.push(number);
    }

    fn by_inode(&mut self, inode: u64) -> &mut Region {
        let at = *self.by_inode.entry(inode).or_insert_with(|| {
            self.regions.push(Region::new(Some(inode)));
            self.regions.len() - 1
        });
        &mut self.regions[at]
    }

    fn by_open_file(&mut self, process: Process, number: i32) -> &mut Region {
        let this = (process, number);
        // Where one was closed meanwhile there is no order, and the region may be listed twice.
        let found = self.never_mapped.binary_search_by(|(other, _)| {
            process::compare(*other, this).unwrap_or(Ordering::Less)
        });
        let at = match found {
            Ok(place) => self.never_mapped[place].1,
            Err(place) => {
                self.regions.push(Region::new(None));
                let at = self.regions.len() - 1;
                self.never_mapped.insert(place, (this, at));
                at
            }
        };
        &mut self.regions[at]
    }
}

impl Snapshot {
    /// Looks at all processes but this one.
    pub fn take(device: Device) -> Result<Self> {
        let mut looking = Looking::default();
        let mut refused = BTreeMap::new();
        let pids = process::all().map_err(|error| Error::answer("/proc", &error))?;
        for process in pids.into_iter().map(Process) {
            if process.0 == id() || !process.is_program() {
                continue;
            }
            match looking.look_at(process, device) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => *refused.entry(errno(&error) as i32).or_insert(0) += 1,
            }
        }
        let not_looked_at = refused.into_iter().map(|(errno, processes)| NotLookedAt {
            reason: Errno::from_raw(errno),
            processes,
        });
        Ok(Self {
            regions: looking.regions,
            not_looked_at: not_looked_at.collect(),
        })
    }

    /// The region that somebody means: `PID:FD`, an inode, or a name.
    pub fn find(&self, typed: &[u8]) -> Result<&Region> {
        let text = str::from_utf8(typed).unwrap_or_default();
        let descriptor: Option<(u32, i32)> = text
            .split_once(':')
            .and_then(|(pid, fd)| Some((pid.parse().ok()?, fd.parse().ok()?)));
        let inode: Option<u64> = text.parse().ok();
        let is_meant = |region: &&Region| match (descriptor, inode) {
            (Some((pid, fd)), _) => region
                .holders
                .iter()
                .any(|holder| holder.pid == pid && holder.descriptors.contains(&fd)),
            (_, Some(inode)) => region.inode == Some(inode),
            _ => region.name.as_ref().is_some_and(|name| name.is(typed)),
        };
        let found: Vec<_> = self.regions.iter().filter(is_meant).collect();
        if let [region] = found[..] {
            return Ok(region);
        }
        let typed = Name::new(typed);
        if !found.is_empty() {
            let which: Vec<_> = found.iter().map(|region| region.argument()).collect();
            let message = format!(
                "{} regions are called \"{typed}\": name one of {}",
                found.len(),
                which.join(", ")
            );
            return Err(Error::new(Kind::NoSuchRegion, message));
        }
        let what = match (descriptor, inode) {
            (Some(_), _) => format!("no process has a region as descriptor {typed}"),
            (_, Some(_)) => format!("no region has the inode {typed}"),
            _ => format!("no region is called \"{typed}\""),
        };
        let remedy = match self.refused() {
            0 => "`ashmemctl list` shows what there is".to_owned(),
            1 => "1 process could not be looked at; root sees all".to_owned(),
            n => format!("{n} processes could not be looked at; root sees all"),
        };
        Err(Error::new(Kind::NoSuchRegion, format!("{what}: {remedy}")))
    }

    /// How many processes could not be looked at.
    pub fn refused(&self) -> usize {
        self.not_looked_at.iter().map(|some| some.processes).sum()
    }

    /// Pages that have memory, of all regions of which a descriptor was seen.
    pub fn resident(&self) -> u64 {
        let told = self.regions.iter().filter_map(|region| region.told);
        told.map(|(_, counters)| counters.resident).sum()
    }
}

impl Region {
    /// What to type for it.
    fn argument(&self) -> String {
        let first =
            |holder: &Holder| Some(format!("{}:{}", holder.pid, holder.descriptors.first()?));
        self.inode
            .map(|inode| inode.to_string())
            .or_else(|| self.holders.iter().find_map(first))
            .unwrap_or_default()
    }

    /// A descriptor of our own for it, if it has an inode.
    pub fn open(&self) -> Result<Handle> {
        let inode = self
            .inode
            .ok_or_else(|| Error::new(Kind::Other, "it was never mapped, and has no pages"))?;
        let mut last = None;
        for holder in &self.holders {
            for number in &holder.descriptors {
                match Process(holder.pid).get(*number, inode) {
                    Ok(Some(handle)) => return Ok(handle),
                    Ok(None) => {}
                    Err(error) if is_gone(&error) => {}
                    Err(error) => last = Some((holder.pid, *number, error)),
                }
            }
        }
        if let Some((pid, number, error)) = last {
            let what = format!("pidfd_getfd of {pid}:{number}");
            let error = Error::answer(what, &error);
            let remedy = "to look at pages takes a descriptor of the region, and that the right to \
                          ptrace(2) who holds one: be root, or see kernel.yama.ptrace_scope";
            return Err(Error::new(error.kind(), format!("{error}: {remedy}")));
        }
        let message = if self
            .holders
            .iter()
            .all(|holder| holder.descriptors.is_empty())
        {
            "it is only mapped: its pages are asked for by a descriptor, and no process that could \
             be looked at has one"
        } else {
            "its last descriptor was closed just now"
        };
        Err(Error::new(Kind::Other, message))
    }
}

/// As JSON has it: flat, and null for what is not known.
impl Serialize for Region {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            inode: Option<u64>,
            name: Option<String>,
            name_hex: Option<String>,
            size: Option<u64>,
            faults: Option<u64>,
            map_faults: Option<u64>,
            huge_faults: Option<u64>,
            allocated: Option<u64>,
            purged: Option<u64>,
            resident: Option<u64>,
            unpinned: Option<u64>,
            holders: &'a [Holder],
        }
        let counter = |get: fn(&Counters) -> u64| self.told.as_ref().map(|(_, all)| get(all));
        let flat = Flat {
            inode: self.inode,
            name: self.name.as_ref().map(Name::lossy),
            name_hex: self.name.as_ref().and_then(Name::hex),
            size: self.told.map(|(size, _)| size),
            faults: counter(|all| all.faults),
            map_faults: counter(|all| all.map_faults),
            huge_faults: counter(|all| all.huge_faults),
            allocated: counter(|all| all.allocated),
            purged: counter(|all| all.purged),
            resident: counter(|all| all.resident),
            unpinned: counter(|all| all.unpinned),
            holders: &self.holders,
        };
        flat.serialize(serializer)
    }
}

impl Serialize for Holder {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            pid: u32,
            command: String,
            descriptors: &'a [i32],
            mapped: u64,
        }
        let flat = Flat {
            pid: self.pid,
            command: self.command.lossy(),
            descriptors: &self.descriptors,
            mapped: self.mapped(),
        };
        flat.serialize(serializer)
    }
}

#[cfg(test)]
pub(crate) mod unit {
    use super::*;

    fn mapping(path: &str, inode: u64) -> Mapping {
        let line = format!("1000-41000 rw-s 00000000 00:1e {inode} {path}");
        Mapping::parse(line.as_bytes()).expect("a line")
    }

    fn holder(pid: u32, descriptors: &[i32], mappings: Vec<Mapping>) -> Holder {
        Holder {
            pid,
            command: Name::new(format!("program-{pid}")),
            descriptors: descriptors.to_vec(),
            mappings,
        }
    }

    /// One that two hold, one that is only mapped, one of a hostile name that was never mapped, and
    /// one that has the name of the first.
    pub(crate) fn example() -> Snapshot {
        let counters = Counters {
            faults: 8,
            map_faults: 5,
            huge_faults: 1,
            allocated: 64,
            purged: 16,
            resident: 48,
            unpinned: 32,
        };
        let region = |inode, name: &[u8], size, holders| Region {
            inode,
            name: Some(Name::new(name)),
            told: size,
            holders,
        };
        let idle = Counters {
            faults: 0,
            map_faults: 0,
            huge_faults: 0,
            allocated: 0,
            purged: 0,
            resident: 0,
            unpinned: 0,
        };
        Snapshot {
            regions: vec![
                region(
                    Some(353),
                    b"picture-cache",
                    Some((262_144, counters)),
                    vec![
                        holder(7, &[3, 4], vec![mapping("x", 353)]),
                        holder(412, &[], vec![mapping("x", 353), mapping("x", 353)]),
                    ],
                ),
                Region {
                    name: None,
                    ..region(
                        Some(354),
                        b"",
                        None,
                        vec![holder(412, &[], vec![mapping("x", 354)])],
                    )
                },
                region(
                    Some(355),
                    b"picture-cache",
                    Some((1, idle)),
                    vec![holder(9, &[5], vec![])],
                ),
                region(
                    None,
                    b"\x1b[2J\xff",
                    Some((0, idle)),
                    vec![holder(412, &[11], vec![])],
                ),
            ],
            not_looked_at: vec![NotLookedAt {
                reason: Errno::EACCES,
                processes: 12,
            }],
        }
    }

    #[test]
    fn json_has_every_field_and_null_for_what_is_not_known() {
        let found = serde_json::to_value(example()).expect("JSON");
        let expected = serde_json::json!({
            "regions": [
                {
                    "inode": 353, "name": "picture-cache", "name_hex": null, "size": 262144,
                    "faults": 8, "map_faults": 5, "huge_faults": 1, "allocated": 64, "purged": 16,
                    "resident": 48, "unpinned": 32,
                    "holders": [
                        {"pid": 7, "command": "program-7", "descriptors": [3, 4], "mapped": 0x40000},
                        {"pid": 412, "command": "program-412", "descriptors": [], "mapped": 0x80000},
                    ],
                },
                {
                    "inode": 354, "name": null, "name_hex": null, "size": null,
                    "faults": null, "map_faults": null, "huge_faults": null, "allocated": null,
                    "purged": null, "resident": null, "unpinned": null,
                    "holders": [
                        {"pid": 412, "command": "program-412", "descriptors": [], "mapped": 0x40000},
                    ],
                },
                {
                    "inode": 355, "name": "picture-cache", "name_hex": null, "size": 1,
                    "faults": 0, "map_faults": 0, "huge_faults": 0, "allocated": 0, "purged": 0,
                    "resident": 0, "unpinned": 0,
                    "holders": [
                        {"pid": 9, "command": "program-9", "descriptors": [5], "mapped": 0},
                    ],
                },
                {
                    "inode": null, "name": "\u{1b}[2J\u{fffd}", "name_hex": "1b5b324aff", "size": 0,
                    "faults": 0, "map_faults": 0, "huge_faults": 0, "allocated": 0, "purged": 0,
                    "resident": 0, "unpinned": 0,
                    "holders": [
                        {"pid": 412, "command": "program-412", "descriptors": [11], "mapped": 0},
                    ],
                },
            ],
            "not_looked_at": [{"reason": "EACCES", "processes": 12}],
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_region_is_found_by_inode_descriptor_or_name() {
        let snapshot = example();
        let found = |typed: &[u8]| -> std::result::Result<String, String> {
            let region = snapshot.find(typed).map_err(|error| error.to_string())?;
            Ok(region.argument())
        };
        assert_eq!(found(b"353"), Ok("353".into()));
        assert_eq!(found(b"7:4"), Ok("353".into()));
        assert_eq!(found(b"412:11"), Ok("412:11".into()));
        assert_eq!(found(b"\x1b[2J\xff"), Ok("412:11".into()));
        assert_eq!(found(b"\\u{1b}[2J\\xff"), Ok("412:11".into()));
        for (typed, why) in [
            (&b"352"[..], "no region has the inode 352"),
            (b"7:5", "no process has a region as descriptor 7:5"),
            (b"thumbnails", "no region is called \"thumbnails\""),
            (b"\n", "no region is called \"\\n\""),
            (
                b"picture-cache",
                "2 regions are called \"picture-cache\": name one of 353, 355",
            ),
        ] {
            let error = snapshot.find(typed).expect_err("it is none");
            assert_eq!(error.kind(), Kind::NoSuchRegion);
            assert!(error.to_string().starts_with(why), "{error}");
        }
        let error = snapshot.find(b"x").expect_err("it is none").to_string();
        assert!(
            error.contains("12 processes could not be looked at"),
            "{error}"
        );
    }

    #[test]
    fn what_is_only_mapped_cannot_be_opened() {
        let error = example().regions[1].open().expect_err("it is only mapped");
        assert_eq!(error.kind(), Kind::Other);
        assert!(error.to_string().contains("only mapped"), "{error}");
    }

    #[test]
    fn what_is_gone_cannot_be_opened() {
        let mut region = example().regions.swap_remove(0);
        for holder in &mut region.holders {
            holder.pid = i32::MAX as u32;
        }
        let error = region.open().expect_err("nobody holds it");
        assert_eq!(error.kind(), Kind::Other);
        assert!(error.to_string().contains("closed just now"), "{error}");
    }

    #[test]
    fn pages_are_summed_over_what_is_known() {
        assert_eq!((example().resident(), example().refused()), (48, 12));
    }
}
