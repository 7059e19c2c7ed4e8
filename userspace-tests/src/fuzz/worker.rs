// SPDX-License-Identifier: GPL-2.0-only

//! Makes random calls and judges the answers.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use anyhow::Context;
use anyhow::ensure;
use libc::EACCES;
use libc::EAGAIN;
use libc::EBADF;
use libc::EBUSY;
use libc::EEXIST;
use libc::EFAULT;
use libc::EFBIG;
use libc::EINVAL;
use libc::EIO;
use libc::ENODEV;
use libc::ENOMEM;
use libc::ENOTDIR;
use libc::ENOTTY;
use libc::ENXIO;
use libc::EOPNOTSUPP;
use libc::EOVERFLOW;
use libc::EPERM;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::socketpair;
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::Answer;
use super::DROP_CACHES;
use super::call;
use super::model::Content;
use super::model::Expect;
use super::model::Model;
use super::touch;
use crate::abi;
use crate::region::BAD_POINTERS;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;

/// Pages of a region that several processes share.
pub const SHARED_PAGES: usize = 40;

/// Where mappings are made with an address, and how many pages are for them. The kernel, which
/// looks for addresses from the top, never comes here: what is unmapped stays free.
const ARENA: usize = 0x10_0000_0000;
const ARENA_PAGES: usize = 256;
/// Descriptors and regions that a worker has at most.
const DESCRIPTORS: usize = 12;
const REGIONS: usize = 6;
/// Mappings where the kernel chose the address.
const ELSEWHERE: usize = 8;
/// Larger ones are unmapped at once.
const LARGE: usize = 16 << 20;

/// A larger region is never mapped: each 8 GiB of it that are unpinned take a node, and all the
/// machine's memory is soon gone.
const HUGE: usize = 1 << 42;

/// Pages that a buffer may have; the last one ends where nothing is mapped.
const BUFFER_PAGES: usize = 16;
/// Bytes that a call writes to at most.
const BUFFER: usize = (BUFFER_PAGES - 1) * PAGE;

/// The ioctls, by the structures that they take.
const NUMBERS: &[u32] = &[
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
    abi::ABI_GET_COUNTERS,
    abi::ABI_PIN_RANGE,
    abi::ABI_UNPIN_RANGE,
    abi::ABI_GET_RANGE_PIN_STATUS,
    abi::ABI_GET_PAGE_STATUS,
];

/// A pair of sockets that keep messages apart.
pub fn connection() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).context("socketpair")
}

/// Descriptors of one's own.
pub fn copies(regions: &[Region]) -> anyhow::Result<Vec<OwnedFd>> {
    let copies = regions.iter().map(|r| r.as_fd().try_clone_to_owned());
    Ok(copies.collect::<Result<_, _>>()?)
}

/// A descriptor.
struct Descriptor {
    fd: OwnedFd,
    /// `O_RDONLY`, `O_WRONLY`, `O_RDWR` or `O_PATH`.
    mode: i32,
    /// Which of the models; of no use if others have the region too.
    region: usize,
}

impl Descriptor {
    fn reads(&self) -> bool {
        self.mode == libc::O_RDONLY || self.mode == libc::O_RDWR
    }

    fn writes(&self) -> bool {
        self.mode == libc::O_WRONLY || self.mode == libc::O_RDWR
    }
}

/// What a pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pointer {
    /// Into the buffer, with room for all that a call may write.
    Good(usize),
    /// So many bytes before memory that is not mapped.
    Edge(usize),
    /// To a page that cannot be written.
    ReadOnly,
    /// To no memory of a program's.
    Bad(usize),
    /// To a mapping of a region, or to nothing.
    Arena(usize),
}

/// Makes calls.
pub struct Worker<'a> {
    random: ChaCha8Rng,
    /// Nobody else has these regions.
    alone: bool,
    fds: Vec<Descriptor>,
    models: Vec<Option<Model>>,
    /// [`BUFFER_PAGES`], a page that is not mapped, and one that cannot be written.
    buffer: Mapping,
    elsewhere: Vec<(usize, usize)>,
    sockets: Option<&'a (OwnedFd, OwnedFd)>,
    own_sockets: (OwnedFd, OwnedFd),
    shrinker: Option<(String, u64)>,
}

impl<'a> Worker<'a> {
    /// A worker with the regions of others, or without.
    pub fn new(
        seed: u64,
        number: usize,
        regions: Vec<OwnedFd>,
        sockets: Option<&'a (OwnedFd, OwnedFd)>,
    ) -> anyhow::Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The numbers of one seed, but others for each.
        random.set_stream(number as u64);
        let buffer = Mapping::reserve(BUFFER_PAGES + 2)?;
        protect(buffer.base(), BUFFER_PAGES * PAGE, RW)?;
        let read_only = buffer.base() + (BUFFER_PAGES + 1) * PAGE;
        protect(read_only, PAGE, ProtFlags::PROT_READ)?;
        let fds = regions.into_iter().map(|fd| Descriptor {
            fd,
            mode: libc::O_RDWR,
            region: 0,
        });
        Ok(Self {
            random,
            alone: sockets.is_none(),
            fds: fds.collect(),
            models: vec![],
            buffer,
            elsewhere: vec![],
            sockets,
            own_sockets: connection()?,
            shrinker: shrinker()?,
        })
    }

    /// Makes one call; `note` is told of it before. Whether it succeeded; an error is a finding.
    pub fn step(&mut self, note: impl Fn(&str)) -> anyhow::Result<bool> {
        let note = &note;
        if self.fds.is_empty() {
            return self.open(note);
        }
        match self.random.random_range(0..100) {
            0..=5 => self.open(note),
            6..=8 => self.copy(note),
            9..=10 => self.close(note),
            11..=43 => self.ioctl(note),
            44..=47 => self.read(note),
            48..=49 => self.seek(note),
            50..=51 => self.write(note),
            52..=63 => self.map(note),
            64..=75 => self.touch(note),
            76..=82 => self.advise(note),
            83..=89 => self.change_mapping(note),
            90..=94 => self.stamp(note),
            95 => self.inspect(note),
            96..=97 => self.press(note),
            98 => self.purge_all(note),
            _ => self.fork(note),
        }
    }

    /// Looks at all that should be there still.
    pub fn end(mut self) -> anyhow::Result<()> {
        for region in 0..self.models.len() {
            self.check_all(region)?;
        }
        Ok(())
    }

    // What calls are about. ------------------------------------------------------------------

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("there are some")
    }

    fn any_fd(&mut self) -> usize {
        self.random.random_range(0..self.fds.len())
    }

    /// The model of what a descriptor stands for, if there is one.
    fn model(&mut self, fd: usize) -> Option<&mut Model> {
        if !self.alone {
            return None;
        }
        let region = self.fds[fd].region;
        self.models.get_mut(region)?.as_mut()
    }

    /// A page of the arena.
    fn place(&mut self) -> usize {
        ARENA + self.random.random_range(0..ARENA_PAGES) * PAGE
    }

    /// Some of it: address, and length in bytes.
    fn span(&mut self) -> (usize, usize) {
        let start = self.random.random_range(0..ARENA_PAGES);
        let most = ARENA_PAGES - start;
        let pages = match self.random.random_range(0..4) {
            0 => 1,
            1 | 2 => self.random.random_range(1..=most.min(16)),
            _ => self.random.random_range(1..=most),
        };
        (ARENA + start * PAGE, pages * PAGE)
    }

    /// Any number, often one at a limit.
    fn number(&mut self) -> u64 {
        let page = PAGE as u64;
        match self.random.random_range(0..4) {
            0 => self.random.random_range(0..64) * page,
            1 => self.pick(&[
                0,
                1,
                page - 1,
                page,
                page + 1,
                u32::MAX as u64,
                1 << 32,
                u32::MAX as u64 & !(page - 1),
                1 << 47,
                i64::MAX as u64,
                i64::MAX as u64 & !(page - 1),
                1 << 63,
                u64::MAX & !(page - 1),
                u64::MAX,
            ]),
            2 => self.random.random_range(0..1 << 20),
            _ => self.random.random(),
        }
    }

    /// An offset or a length, most often of something that is there.
    fn range_number(&mut self, fd: usize) -> u64 {
        if self.one_in(8) {
            return self.number();
        }
        let pages = match self.model(fd) {
            Some(model) => (model.size.div_ceil(PAGE) as u64).clamp(1, 1 << 20),
            None => SHARED_PAGES as u64,
        };
        if self.one_in(6) {
            return pages * PAGE as u64;
        }
        self.random.random_range(0..pages) * PAGE as u64
    }

    fn pointer(&mut self) -> Pointer {
        match self.random.random_range(0..16) {
            0..=9 => Pointer::Good(self.random.random_range(0..PAGE / 8) * 8),
            10..=11 => {
                let most = self.pick(&[1, 8, 16, 64, 256, 300]);
                Pointer::Edge(self.random.random_range(0..=most))
            }
            12 => Pointer::ReadOnly,
            13..=14 => Pointer::Bad(self.pick(&BAD_POINTERS)),
            // Not the first and the last byte of a page, which are stamped; not near its end.
            _ => Pointer::Arena(self.place() + self.random.random_range(1..256) * 8),
        }
    }

    fn address(&self, pointer: Pointer) -> usize {
        let base = self.buffer.base();
        match pointer {
            Pointer::Good(at) => base + at,
            Pointer::Edge(bytes) => base + BUFFER_PAGES * PAGE - bytes,
            Pointer::ReadOnly => base + (BUFFER_PAGES + 1) * PAGE,
            Pointer::Bad(address) | Pointer::Arena(address) => address,
        }
    }

    /// Puts an argument behind a pointer; what the kernel finds there. `None`: it may find
    /// nothing, or anything.
    fn pass(&self, pointer: Pointer, bytes: &[u8]) -> Passed {
        let fits = match pointer {
            Pointer::Good(_) => bytes.len(),
            Pointer::Edge(fits) => bytes.len().min(fits),
            Pointer::ReadOnly => return Passed::Found(vec![0; bytes.len()]),
            Pointer::Bad(_) => return Passed::Fault,
            Pointer::Arena(_) => return Passed::Anything,
        };
        let at = self.address(pointer) - self.buffer.base();
        self.buffer.store(at, &bytes[..fits]);
        if fits == bytes.len() {
            Passed::Found(bytes.to_vec())
        } else {
            Passed::Fault
        }
    }

    /// Adds the errors of a pointer to so many bytes that a call writes.
    fn writing(&self, expect: Expect, pointer: Pointer, bytes: usize) -> Expect {
        match pointer {
            _ if bytes == 0 => expect,
            Pointer::Good(_) => expect,
            Pointer::Edge(fits) if fits >= bytes => expect,
            Pointer::Arena(_) => expect.or(&[EFAULT]),
            _ => Expect::error(EFAULT),
        }
    }

    fn judge(&self, what: &str, expect: &Expect, found: Answer) -> anyhow::Result<bool> {
        let told = match found {
            Ok(value) => value.to_string(),
            Err(error) => Errno::from_raw(error).to_string(),
        };
        ensure!(
            expect.admits(found),
            "{what}: gave {told}, and may give {expect}"
        );
        Ok(found.is_ok())
    }

    // Descriptors. ---------------------------------------------------------------------------

    fn open(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        self.make_room()?;
        let mode = match self.random.random_range(0..16) {
            0 => libc::O_RDONLY,
            1 => libc::O_WRONLY,
            2 => libc::O_PATH,
            _ => libc::O_RDWR,
        };
        let mut flags = mode | libc::O_CLOEXEC;
        let mut expect = Expect::values(0..=i32::MAX.into()).or(&[ENOMEM]);
        if mode != libc::O_PATH && self.one_in(4) {
            let extra = self.pick(&[
                (libc::O_APPEND, None),
                (libc::O_NONBLOCK, None),
                (libc::O_TRUNC, None),
                (libc::O_SYNC, None),
                (libc::O_CREAT | libc::O_EXCL, Some(EEXIST)),
                (libc::O_DIRECTORY, Some(ENOTDIR)),
                (libc::O_DIRECT, Some(EINVAL)),
            ]);
            flags |= extra.0;
            if let Some(error) = extra.1 {
                expect = Expect::error(error);
            }
        }
        let from = if !self.fds.is_empty() && self.one_in(4) {
            let fd = self.any_fd();
            format!("/proc/self/fd/{}", self.fds[fd].fd.as_raw_fd())
        } else {
            NODE.into()
        };
        if from != NODE && flags & libc::O_EXCL != 0 {
            flags &= !(libc::O_CREAT | libc::O_EXCL);
            expect = Expect::values(0..=i32::MAX.into()).or(&[ENOMEM]);
        }
        let what = format!("open {from} {flags:#o}");
        note(&what);
        let path = CString::new(from)?;
        // SAFETY: It reads a C string.
        let found = unsafe {
            call(
                libc::SYS_openat,
                [
                    libc::AT_FDCWD as usize,
                    path.as_ptr() as usize,
                    flags as usize,
                ],
            )
        };
        let done = self.judge(&what, &expect, found)?;
        if let Ok(fd) = found {
            // SAFETY: The kernel just made it for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            let region = self.new_model();
            self.fds.push(Descriptor { fd, mode, region });
            if self.alone && mode == libc::O_RDWR && !self.one_in(4) {
                self.settle()?;
            }
        }
        Ok(done)
    }

    /// A place for a region's model.
    fn new_model(&mut self) -> usize {
        let fresh = Some(Model::fresh());
        match self.models.iter().position(Option::is_none) {
            Some(free) => {
                self.models[free] = fresh;
                free
            }
            None => {
                self.models.push(fresh);
                self.models.len() - 1
            }
        }
    }

    /// Gives the newest region a size and a home.
    fn settle(&mut self) -> anyhow::Result<()> {
        let pages = self.pick(&[1, 2, 7, 16, 40, 63, 64, 65, 600]);
        let fd = self.fds.len() - 1;
        let size = pages * PAGE - self.pick(&[0, 0, 1, PAGE - 1]);
        let file = self.fds[fd].fd.as_fd();
        // SAFETY: It takes a number.
        let sized = unsafe {
            libc::ioctl(
                file.as_raw_fd(),
                abi::ABI_SET_SIZE.into(),
                size as libc::c_ulong,
            )
        };
        ensure!(sized == 0, "SET_SIZE of a fresh region: {}", Errno::last());
        let flags = MapFlags::MAP_SHARED;
        let home = Mapping::new(file, pages * PAGE, RW, flags, 0).context("a first mapping")?;
        if let Some(model) = self.model(fd) {
            model.size = size;
            model.freeze();
            model.home = Some(home);
        }
        Ok(())
    }

    /// Closes some if there are too many.
    fn make_room(&mut self) -> anyhow::Result<()> {
        while self.fds.len() >= DESCRIPTORS
            || self.models.iter().flatten().count() >= REGIONS && self.alone
        {
            self.drop_fd(0)?;
        }
        Ok(())
    }

    fn drop_fd(&mut self, at: usize) -> anyhow::Result<()> {
        let Descriptor { fd, region, .. } = self.fds.remove(at);
        drop(fd);
        if self.alone && self.fds.iter().all(|fd| fd.region != region) {
            // What is mapped is pinned now, and stays.
            if let Some(model) = self.models.get_mut(region).and_then(Option::take) {
                check_mapping(&model).context("after the last close")?;
            }
        }
        Ok(())
    }

    fn close(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let at = self.any_fd();
        note(&format!("close {}", self.fds[at].fd.as_raw_fd()));
        self.drop_fd(at)?;
        Ok(true)
    }

    /// dup(2), or over a socket.
    fn copy(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let at = self.any_fd();
        let Descriptor {
            mut mode, region, ..
        } = self.fds[at];
        if self.fds.len() >= DESCRIPTORS {
            return self.close(note);
        }
        let fd = self.fds[at].fd.as_fd();
        let number = fd.as_raw_fd();
        let fd = if self.random.random() {
            note(&format!("dup {number}"));
            fd.try_clone_to_owned().context("dup")?
        } else {
            note(&format!("send and receive {number}"));
            let sockets = self.sockets.unwrap_or(&self.own_sockets);
            let sent = send_fd(&sockets.0, fd);
            // Of several workers one may have filled it, another one emptied it.
            match receive_fd(&sockets.1) {
                Ok(fd) => {
                    // It may be another worker's.
                    let flags = fcntl(&fd, FcntlArg::F_GETFL).context("F_GETFL")?;
                    mode = flags & (libc::O_PATH | libc::O_ACCMODE);
                    fd
                }
                Err(_) if !self.alone => return Ok(false),
                Err(error) => return Err(sent.err().unwrap_or(error)),
            }
        };
        self.fds.push(Descriptor { fd, mode, region });
        Ok(true)
    }

    // ioctl. ---------------------------------------------------------------------------------

    fn ioctl(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let mut request = self.pick(NUMBERS);
        match self.random.random_range(0..40) {
            // The size, the direction, the number.
            0 => request ^= 1 << self.random.random_range(16..30),
            1 => request ^= 1 << self.random.random_range(30..32),
            2 => request = request & !0xff | self.random.random_range(0..256),
            3 => request = 0x7700 | self.random::<u32>() & 0xffff_00ff,
            4 => {
                let size: u32 = self.pick(&[0, 8, 16, 63, 72, 4096]);
                request = abi::ABI_GET_COUNTERS & !0x3fff_0000 | (size << 16)
            }
            // Most of what can go wrong, goes wrong here.
            5..=20 => {
                request = self.pick(&[
                    abi::ABI_PIN,
                    abi::ABI_UNPIN,
                    abi::ABI_PIN_RANGE,
                    abi::ABI_UNPIN_RANGE,
                ]);
            }
            _ => {}
        }
        let closed = self.one_in(50);
        let fd = self.any_fd();
        let number = if closed {
            -1
        } else {
            self.fds[fd].fd.as_raw_fd()
        };
        let path = self.fds[fd].mode == libc::O_PATH;
        let pointer = self.pointer();
        let address = self.address(pointer);

        let mut argument = address;
        let mut told = format!("{pointer:x?}");
        let mut after = After::Nothing;
        let expect = match request {
            abi::ABI_SET_NAME => {
                let mut name: Vec<u8> = (0..self.pick(&[0, 1, 10, 254, 255, 256, 300]))
                    .map(|_| self.random.random_range(1..=255))
                    .collect();
                name.push(0);
                told += &format!(" {} bytes", name.len());
                self.expect_set_name(fd, pointer, name, &mut after)
            }
            abi::ABI_GET_NAME => {
                let len = self.model(fd).map(|model| match model.name.len() {
                    0 => abi::ASHMEM_NAME_DEF.len(),
                    len => len + 1,
                });
                match len {
                    Some(len) => self.writing(Expect::value(0), pointer, len),
                    None => Expect::value(0).or(&[EFAULT]),
                }
            }
            abi::ABI_SET_SIZE => {
                argument = match self.random.random_range(0..3) {
                    0 => self.number() as usize,
                    _ => self.random.random_range(0..70 * PAGE),
                };
                if !self.alone {
                    // Nobody keeps an eye on what is mapped.
                    argument %= HUGE;
                }
                told = format!("{argument:#x}");
                after = After::Size(argument);
                match self.model(fd) {
                    Some(model) if model.frozen => Expect::error(EINVAL),
                    Some(_) => Expect::value(0).or(&[ENOMEM]),
                    None => Expect::value(0).or(&[EINVAL, ENOMEM]),
                }
            }
            abi::ABI_GET_SIZE => match self.model(fd).map(|model| model.size as i32) {
                // What a C library takes for an error.
                Some(size @ -4095..=-1) => Expect::error(-size),
                Some(size) => Expect::value(size.into()),
                None => Expect::values(i32::MIN.into()..=i32::MAX.into()).or(&[EPERM]),
            },
            abi::ABI_SET_PROT_MASK => {
                argument = match self.random.random_range(0..8) {
                    0 => self.number() as usize,
                    1 => self.random.random_range(0..16),
                    _ => self.pick(&[7, 7, 7, 3, 3, 1]),
                };
                told = format!("{argument:#x}");
                after = After::Mask(argument as i32);
                match self.model(fd) {
                    Some(model) if argument & !(model.mask as usize) != 0 => Expect::error(EINVAL),
                    Some(_) => Expect::value(0),
                    None => Expect::value(0).or(&[EINVAL]),
                }
            }
            abi::ABI_GET_PROT_MASK => match self.model(fd) {
                Some(model) => Expect::value(model.mask.into()),
                None => Expect::values(0..=7),
            },
            abi::ABI_PIN
            | abi::ABI_UNPIN
            | abi::ABI_GET_PIN_STATUS
            | abi::ABI_PIN_RANGE
            | abi::ABI_UNPIN_RANGE
            | abi::ABI_GET_RANGE_PIN_STATUS => {
                self.expect_range(fd, request, pointer, &mut told, &mut after)
            }
            abi::ABI_GET_PAGE_STATUS => self.expect_page_status(fd, pointer, &mut told, &mut after),
            abi::ABI_PURGE_ALL_CACHES => return self.purge_all(note),
            abi::ABI_GET_FILE_ID => match self.model(fd) {
                Some(model) if !model.frozen => Expect::error(EINVAL),
                Some(_) => self.writing(Expect::value(0), pointer, 8),
                None => Expect::value(0).or(&[EINVAL, EFAULT]),
            },
            _ => {
                let size = (request >> 16) as usize & 0x3fff;
                let counters = request & !0x3fff_0000 == abi::ABI_GET_COUNTERS & !0x3fff_0000;
                if counters && size != 0 && size % 8 == 0 {
                    // No more than there is between a pointer and the end of its page.
                    if let (Pointer::Arena(_), 1025..) = (pointer, size) {
                        argument = self.address(Pointer::Good(0));
                        told = "into the buffer".into();
                        Expect::value(size_of::<abi::ashmem_counters>() as i64)
                    } else {
                        let known = size_of::<abi::ashmem_counters>() as i64;
                        self.writing(Expect::value(known), pointer, size)
                    }
                } else {
                    Expect::error(ENOTTY)
                }
            }
        };
        let expect = if closed || path {
            Expect::error(EBADF)
        } else {
            expect
        };
        let what = format!("ioctl {number} {request:#x} {told}");
        note(&what);
        // SAFETY: What it may write to is the buffer, or memory of a region.
        let found = unsafe {
            call(
                libc::SYS_ioctl,
                [number as usize, request as usize, argument],
            )
        };
        let done = self.judge(&what, &expect, found)?;
        match found {
            Ok(value) => self.follow(fd, &after, value)?,
            // It may have failed in the middle of what it was told by nobody knows whom.
            Err(_) if matches!(after, After::Forget) => self.follow(fd, &after, 0)?,
            Err(_) => {}
        }
        Ok(done)
    }

    fn random<T>(&mut self) -> T
    where
        rand::distr::StandardUniform: rand::distr::Distribution<T>,
    {
        self.random.random()
    }

    fn expect_set_name(
        &mut self,
        fd: usize,
        pointer: Pointer,
        name: Vec<u8>,
        after: &mut After,
    ) -> Expect {
        // No more than 256 bytes are read.
        let most = abi::ASHMEM_NAME_LEN as usize;
        let read = &name[..name.len().min(most)];
        let found = match self.pass(pointer, read) {
            Passed::Found(found) => found,
            Passed::Fault => return Expect::error(EFAULT),
            Passed::Anything => {
                *after = After::NameUnknown;
                return match self.model(fd) {
                    Some(model) if model.frozen => Expect::error(EINVAL).or(&[EFAULT]),
                    _ => Expect::value(0).or(&[EINVAL, EFAULT]),
                };
            }
        };
        let end = found.iter().position(|byte| *byte == 0);
        let len = end.unwrap_or(most).min(most - 1);
        *after = After::Name(found[..len.min(found.len())].to_vec());
        match self.model(fd) {
            Some(model) if model.frozen => Expect::error(EINVAL),
            Some(_) => Expect::value(0),
            None => Expect::value(0).or(&[EINVAL]),
        }
    }

    fn expect_range(
        &mut self,
        fd: usize,
        request: u32,
        pointer: Pointer,
        told: &mut String,
        after: &mut After,
    ) -> Expect {
        let wide = ![abi::ABI_PIN, abi::ABI_UNPIN, abi::ABI_GET_PIN_STATUS].contains(&request);
        let offset = self.range_number(fd);
        let mut len = self.range_number(fd);
        if self.random.random() {
            // So that it ends within the region more often than not.
            len = len.saturating_sub(offset);
        }
        *told += &format!(" {offset:#x}+{len:#x}");
        let bytes = if wide {
            [offset.to_ne_bytes(), len.to_ne_bytes()].concat()
        } else {
            [(offset as u32).to_ne_bytes(), (len as u32).to_ne_bytes()].concat()
        };
        let unpins = request == abi::ABI_UNPIN || request == abi::ABI_UNPIN_RANGE;
        let pins = request == abi::ABI_PIN || request == abi::ABI_PIN_RANGE;
        let values = if unpins { 0..=0 } else { 0..=1 };
        let memory: &[i32] = if unpins || pins { &[ENOMEM] } else { &[] };
        let found = match self.pass(pointer, &bytes) {
            Passed::Found(found) => found,
            Passed::Fault => return Expect::error(EFAULT),
            Passed::Anything => {
                if unpins || pins {
                    *after = After::Forget;
                }
                return Expect::values(values).or(memory).or(&[EINVAL, EFAULT]);
            }
        };
        let half = found.len() / 2;
        let number = |bytes: &[u8]| {
            let bytes = bytes.iter().rev();
            bytes.fold(0, |sum: u64, byte| (sum << 8) | u64::from(*byte))
        };
        let (offset, len) = (number(&found[..half]), number(&found[half..]));
        let Some(model) = self.model(fd) else {
            return Expect::values(values).or(memory).or(&[EINVAL]);
        };
        let max = if wide { u64::MAX } else { u32::MAX.into() };
        let Some(pages) = model.range(offset, len, max) else {
            return Expect::error(EINVAL);
        };
        let expect = if unpins {
            *after = After::Unpin(pages);
            Expect::values(values)
        } else if pins {
            let values = model.pin_answers(&pages);
            *after = After::Pin(pages);
            Expect::values(values)
        } else {
            Expect::values(model.status_answers(&pages))
        };
        expect.or(memory)
    }

    fn expect_page_status(
        &mut self,
        fd: usize,
        pointer: Pointer,
        told: &mut String,
        after: &mut After,
    ) -> Expect {
        let (offset, len) = (self.range_number(fd), self.range_number(fd));
        // Behind the structure, if that is in the buffer, too.
        let out = match self.pointer() {
            Pointer::Good(_) => Pointer::Good(PAGE + 64),
            Pointer::Arena(_) => Pointer::Bad(0),
            Pointer::Edge(_) if matches!(pointer, Pointer::Edge(_)) => Pointer::Good(PAGE + 64),
            other => other,
        };
        *told += &format!(" {offset:#x}+{len:#x} to {out:x?}");
        let wanted = [offset, len, self.address(out) as u64];
        let bytes: Vec<u8> = wanted.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let words = match self.pass(pointer, &bytes) {
            // The read-only page has zeros, which is all of it to address 0.
            Passed::Found(found) => found,
            Passed::Fault => return Expect::error(EFAULT),
            Passed::Anything => return Expect::value(0).or(&[EINVAL, EFAULT]),
        };
        let (offset, len, out) = if words == bytes {
            (offset, len, out)
        } else {
            (0, 0, Pointer::Bad(0))
        };
        let Some(model) = self.model(fd) else {
            return Expect::value(0).or(&[EINVAL, EFAULT]);
        };
        let Some(pages) = model.range(offset, len, u64::MAX) else {
            return Expect::error(EINVAL);
        };
        let count = (pages.end - pages.start) as usize;
        match out {
            Pointer::Good(at) if count <= BUFFER - 2 * PAGE => {
                *after = After::Statuses(pages, at);
                Expect::value(0)
            }
            Pointer::Good(_) => Expect::error(EFAULT),
            out => self.writing(Expect::value(0), out, count),
        }
    }

    /// What a call that succeeded means for the model, and what it wrote.
    fn follow(&mut self, fd: usize, after: &After, value: i64) -> anyhow::Result<()> {
        if let After::Statuses(pages, at) = after {
            let count = (pages.end - pages.start) as usize;
            let statuses = self.buffer.load(*at..*at + count);
            if let Some(model) = self.model(fd) {
                for (page, status) in (pages.start as usize..).zip(statuses) {
                    ensure!(
                        model.admits_status(page, status),
                        "GET_PAGE_STATUS says {status:#x} of page {page}, which is {:?}",
                        model.pages.as_ref().map(|pages| pages[page])
                    );
                }
            }
            return Ok(());
        }
        let Some(model) = self.model(fd) else {
            return Ok(());
        };
        match after {
            After::Nothing | After::Statuses(..) => {}
            After::Name(name) => model.name.clone_from(name),
            // Then GET_NAME is no longer predicted well: its length is the longest.
            After::NameUnknown => model.name = vec![b'?'; 255],
            After::Size(size) => model.size = *size,
            After::Mask(mask) => model.mask = *mask,
            After::Pin(pages) => model.pin(pages, value != 0),
            After::Unpin(pages) => model.unpin(pages),
            After::Forget => model.forget(),
        }
        Ok(())
    }

    fn purge_all(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        let number = self.fds[fd].fd.as_raw_fd();
        let what = format!("PURGE_ALL_CACHES {number}");
        note(&what);
        let request = abi::ABI_PURGE_ALL_CACHES;
        // SAFETY: It has no argument.
        let found = unsafe { call(libc::SYS_ioctl, [number as usize, request as usize]) };
        let expect = if self.fds[fd].mode == libc::O_PATH {
            Expect::error(EBADF)
        } else {
            Expect::values(0..=i32::MAX.into())
        };
        let done = self.judge(&what, &expect, found)?;
        if done {
            self.models.iter_mut().flatten().for_each(Model::purged_all);
        }
        Ok(done)
    }

    // read, lseek, write. --------------------------------------------------------------------

    fn read(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        let number = self.fds[fd].fd.as_raw_fd();
        let mut pointer = self.pointer();
        let mut len = match self.random.random_range(0..4) {
            0 => 0,
            1 => self.random.random_range(0..1024),
            _ => self.random.random_range(0..BUFFER - PAGE),
        };
        if matches!(pointer, Pointer::Arena(_)) {
            len = len.min(1024);
        }
        if len > PAGE && self.one_in(2) {
            pointer = Pointer::Good(0);
        }
        let offset = (self.range_number(fd) as i64).wrapping_add(self.pick(&[0, 0, 1, 4095]));
        let kind = self.random.random_range(0..3);
        let what = format!(
            "{} {number} {pointer:x?}+{len:#x} at {offset:#x}",
            ["read", "pread", "readv"][kind]
        );
        note(&what);
        let address = self.address(pointer);
        let vectors = [
            libc::iovec {
                iov_base: address as *mut libc::c_void,
                iov_len: len / 2,
            },
            libc::iovec {
                iov_base: (address + len / 2) as *mut libc::c_void,
                iov_len: len - len / 2,
            },
        ];
        let file = number as usize;
        let (system_call, arguments) = [
            (libc::SYS_read, [file, address, len, 0]),
            (libc::SYS_pread64, [file, address, len, offset as usize]),
            (libc::SYS_readv, [file, vectors.as_ptr() as usize, 2, 0]),
        ][kind];
        // SAFETY: It writes to the buffer, or to memory of a region.
        let found = unsafe { call(system_call, arguments) };
        let reads = self.fds[fd].reads();
        let path = self.fds[fd].mode == libc::O_PATH;
        let exact = (kind == 1 && matches!(pointer, Pointer::Good(_)) && offset >= 0)
            .then(|| self.model(fd).map(|model| (model.size, model.frozen)))
            .flatten();
        let expect = match exact {
            // That is looked at before the descriptor.
            _ if kind == 1 && offset < 0 => Expect::error(EINVAL),
            _ if path || !reads => Expect::error(EBADF),
            // The VFS lets nobody read behind the largest offset.
            Some(_) if offset.checked_add(len as i64).is_none() => Expect::error(EINVAL),
            Some((0, _)) => Expect::value(0),
            Some((_, false)) => Expect::error(EBADF),
            Some((size, true)) => {
                let there = size.saturating_sub(offset as usize).min(len);
                Expect::value(there as i64)
            }
            None => Expect::values(0..=len as i64).or(&[EBADF, EFAULT, EINVAL]),
        };
        self.judge(&what, &expect, found)
    }

    fn seek(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        let number = self.fds[fd].fd.as_raw_fd();
        let offset = match self.random.random_range(0..3) {
            0 => self.number() as i64,
            1 => -self.random.random_range(0..1 << 20),
            _ => self.range_number(fd) as i64,
        };
        let whence = self.random.random_range(-1..7);
        let what = format!("lseek {number} {offset:#x} {whence}");
        note(&what);
        // SAFETY: It takes numbers.
        let found = unsafe {
            call(
                libc::SYS_lseek,
                [number as usize, offset as usize, whence as usize],
            )
        };
        let path = self.fds[fd].mode == libc::O_PATH;
        let any = 0..=i64::MAX;
        let expect = match (self.model(fd), whence) {
            _ if path => Expect::error(EBADF),
            (_, ..0 | 5..) => Expect::error(EINVAL),
            (Some(model), _) if model.size == 0 => Expect::error(EINVAL),
            // The size is no offset.
            (Some(model), _) if model.size > i64::MAX as usize => {
                Expect::error(EINVAL).or(&[EBADF, EOVERFLOW])
            }
            (Some(model), _) if !model.frozen => Expect::error(EBADF),
            (Some(_), libc::SEEK_SET) if offset < 0 => Expect::error(EINVAL),
            (Some(_), libc::SEEK_SET) => Expect::value(offset),
            (Some(model), libc::SEEK_DATA | libc::SEEK_HOLE)
                if offset < 0 || offset as u64 >= model.size as u64 =>
            {
                Expect::error(ENXIO)
            }
            (Some(model), libc::SEEK_HOLE) => Expect::values(offset..=model.size as i64),
            (Some(model), libc::SEEK_DATA) => {
                Expect::values(offset..=model.size as i64 - 1).or(&[ENXIO])
            }
            (Some(_), _) => Expect::values(any).or(&[EINVAL]),
            (None, _) => Expect::values(any).or(&[EINVAL, EBADF, ENXIO]),
        };
        self.judge(&what, &expect, found)
    }

    /// Everything that would change a file.
    fn write(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        let number = self.fds[fd].fd.as_raw_fd();
        let pointer = self.pointer();
        let address = self.address(pointer);
        let len = self.random.random_range(0..1024);
        let offset = self.number() as i64;
        let length = self.number() as i64;
        let mode = self.pick(&[0, 1, 2, 3, 4, 8, 16, 32, -1]);
        let kind = self.random.random_range(0..7);
        let name = [
            "write",
            "pwrite",
            "writev",
            "ftruncate",
            "fallocate",
            "fsync",
            "fdatasync",
        ][kind];
        let what = format!("{name} {number} {pointer:x?}+{len:#x} {mode} {offset:#x} {length:#x}");
        note(&what);
        let vector = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: len,
        };
        let (file, at, vector) = (number as usize, offset as usize, &raw const vector as usize);
        let (system_call, arguments) = [
            (libc::SYS_write, [file, address, len, 0]),
            (libc::SYS_pwrite64, [file, address, len, at]),
            (libc::SYS_writev, [file, vector, 1, 0]),
            (libc::SYS_ftruncate, [file, at, 0, 0]),
            (
                libc::SYS_fallocate,
                [file, mode as usize, at, length as usize],
            ),
            (libc::SYS_fsync, [file, 0, 0, 0]),
            (libc::SYS_fdatasync, [file, 0, 0, 0]),
        ][kind];
        // SAFETY: It reads at most.
        let found = unsafe { call(system_call, arguments) };
        let (path, writes) = (self.fds[fd].mode == libc::O_PATH, self.fds[fd].writes());
        let expect = match kind {
            // That is looked at before the descriptor.
            1 | 3 if offset < 0 => Expect::error(EINVAL),
            _ if path => Expect::error(EBADF),
            0 | 2 if !writes => Expect::error(EBADF),
            // Of no bytes at all the VFS asks nobody.
            2 if len == 0 => Expect::value(0).or(&[EFAULT]),
            0..=2 if matches!(pointer, Pointer::Good(_)) && writes => Expect::error(EINVAL),
            0..=2 => Expect::error(EINVAL).or(&[EBADF, EFAULT]),
            4 => Expect::error(ENODEV).or(&[EINVAL, EBADF, EOPNOTSUPP]),
            _ => Expect::error(EINVAL),
        };
        self.judge(&what, &expect, found)
    }

    // Mappings. ------------------------------------------------------------------------------

    fn map(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        let number = self.fds[fd].fd.as_raw_fd();
        let (address, span) = self.span();
        let page = PAGE as u64;
        let mut len = span;
        if let (Some(rounded), true) = (
            self.model(fd).and_then(|model| model.rounded()),
            self.random.random(),
        ) {
            len = rounded.min(span).max(PAGE);
        }
        let prot = match self.random.random_range(0..8) {
            0 => self.random.random_range(0..8),
            1 => self.random.random::<i32>(),
            2 => libc::PROT_READ,
            _ => libc::PROT_READ | libc::PROT_WRITE,
        };
        let mut flags = self.pick(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]);
        for flag in [libc::MAP_POPULATE, libc::MAP_LOCKED, libc::MAP_NORESERVE] {
            if self.one_in(6) {
                flags |= flag;
            }
        }
        let mut plain = (0..8).contains(&prot);
        if self.one_in(12) {
            plain = false;
            flags ^= self.pick(&[
                libc::MAP_SHARED,
                libc::MAP_SHARED_VALIDATE,
                libc::MAP_GROWSDOWN,
                libc::MAP_NONBLOCK,
                libc::MAP_STACK,
                libc::MAP_HUGETLB,
                libc::MAP_SYNC,
                libc::MAP_DENYWRITE,
                1 << 25,
            ]);
        }
        let anonymous_or_fixed = libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        flags &= !anonymous_or_fixed;
        let offset = match self.random.random_range(0..8) {
            0 => self.number() as i64,
            1 => (self.random.random_range(0..64) * page) as i64,
            _ => 0,
        };
        plain &= offset >= 0 && offset as u64 % page == 0 && offset < 1 << 40;
        let at = match self.random.random_range(0..8) {
            0 => {
                // Where nothing can be replaced any length will do.
                if self.one_in(3) {
                    len = self.number() as usize;
                    flags &= !(libc::MAP_POPULATE | libc::MAP_LOCKED);
                    plain = false;
                }
                0
            }
            1 => {
                flags |= libc::MAP_FIXED_NOREPLACE;
                plain = false;
                address
            }
            2 => address,
            _ => {
                flags |= libc::MAP_FIXED;
                address
            }
        };
        if self.model(fd).is_some_and(|model| model.size > HUGE) {
            // Which the overcommit policy does not admit then.
            flags &= !libc::MAP_NORESERVE;
        }
        let what = format!("mmap {at:#x}+{len:#x} {prot:#x} {flags:#x} {number} {offset:#x}");
        note(&what);
        // SAFETY: Only mappings in the arena are replaced.
        let found = unsafe {
            call(
                libc::SYS_mmap,
                [
                    at,
                    len,
                    prot as usize,
                    flags as usize,
                    number as usize,
                    offset as usize,
                ],
            )
        };
        let expect = self.expect_map(fd, plain, len, prot, flags);
        let done = self.judge(&what, &expect, found)?;
        if let Ok(address) = found {
            if let Some(model) = self.model(fd) {
                model.freeze();
            }
            self.mapped(address as usize, len)?;
        }
        Ok(done)
    }

    fn expect_map(&mut self, fd: usize, plain: bool, len: usize, prot: i32, flags: i32) -> Expect {
        let any = Expect::values(0..=i64::MAX);
        let Descriptor { mode, .. } = self.fds[fd];
        let (reads, writes) = (self.fds[fd].reads(), self.fds[fd].writes());
        let shared = flags & libc::MAP_TYPE == libc::MAP_SHARED;
        let Some(model) = self.model(fd).filter(|_| plain) else {
            return any.or(&[
                EACCES, EAGAIN, EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM,
            ]);
        };
        if mode == libc::O_PATH {
            return Expect::error(EBADF);
        }
        if !reads || shared && prot & libc::PROT_WRITE != 0 && !writes {
            return Expect::error(EACCES);
        }
        let memory = any.or(&[ENOMEM]);
        match model.rounded() {
            _ if model.size == 0 => Expect::error(EINVAL),
            None => Expect::error(EINVAL),
            Some(rounded) if len > rounded => Expect::error(EINVAL),
            _ if prot & !model.mask != 0 => Expect::error(EPERM),
            // Larger than the largest file, or than what is admitted.
            Some(rounded) if rounded > 1 << 26 => memory.or(&[EINVAL]),
            // With MAP_LOCKED the limit may be reached.
            _ => memory.or(&[EAGAIN]),
        }
    }

    /// Remembers a mapping whose address the kernel chose.
    fn mapped(&mut self, address: usize, len: usize) -> anyhow::Result<()> {
        let arena = ARENA..ARENA + ARENA_PAGES * PAGE;
        if arena.contains(&address) {
            return Ok(());
        }
        let len = len.next_multiple_of(PAGE);
        self.elsewhere.push((address, len));
        if len > LARGE {
            self.unmap_elsewhere(self.elsewhere.len() - 1)?;
        } else if self.elsewhere.len() > ELSEWHERE {
            self.unmap_elsewhere(0)?;
        }
        Ok(())
    }

    fn unmap_elsewhere(&mut self, at: usize) -> anyhow::Result<()> {
        let (address, len) = self.elsewhere.remove(at);
        // SAFETY: The kernel made it for us, and nobody else knows of it.
        let found = unsafe { call(libc::SYS_munmap, [address, len]) };
        ensure!(found == Ok(0), "munmap {address:#x}+{len:#x}: {found:?}");
        Ok(())
    }

    fn touch(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let mut done = true;
        // Several at once: it is cheap.
        for _ in 0..self.random.random_range(1..6) {
            let page = match self.elsewhere.choose(&mut self.random) {
                Some((address, len)) if self.random.random_ratio(1, 3) => {
                    address + self.random.random_range(0..len / PAGE) * PAGE
                }
                _ => self.place(),
            };
            let address = page + self.random.random_range(8..PAGE - 8);
            let write = self.random.random();
            let what = format!("{} {address:#x}", if write { "store" } else { "load" });
            note(&what);
            let found = if write {
                // SAFETY: It is a mapping of a region, or none.
                unsafe { touch::write(address, 0x77) }
            } else {
                touch::read(address)
            };
            done &= found.is_ok();
        }
        Ok(done)
    }

    fn advise(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let (address, mut len) = self.span();
        let advice = match self.random.random_range(0..20) {
            0 => self.random.random(),
            1..=3 => libc::MADV_REMOVE,
            4..=5 => libc::MADV_DONTNEED,
            _ => self.random.random_range(0..30),
        };
        // These take frames of the machine out of use, for good.
        if advice == libc::MADV_HWPOISON || advice == libc::MADV_SOFT_OFFLINE {
            return self.touch(note);
        }
        if self.one_in(16) {
            len = self.number() as usize;
            // Which would be for other mappings as well.
            len = len.min(ARENA + ARENA_PAGES * PAGE - address);
        }
        let what = format!("madvise {address:#x}+{len:#x} {advice}");
        note(&what);
        if advice == libc::MADV_REMOVE {
            // Of which regions, is not known here.
            self.models
                .iter_mut()
                .flatten()
                .for_each(Model::forget_content);
        }
        // SAFETY: What lies there belongs to nobody.
        let found = unsafe { call(libc::SYS_madvise, [address, len, advice as usize]) };
        // EFBIG: MADV_REMOVE behind the largest offset of a file.
        let expect = Expect::value(0).or(&[
            EACCES, EAGAIN, EBADF, EBUSY, EFAULT, EFBIG, EINVAL, EIO, ENOMEM,
        ]);
        self.judge(&what, &expect, found)
    }

    /// munmap, mremap, mprotect, msync, mlock, mincore, remap_file_pages, process_vm_readv.
    fn change_mapping(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let (address, len) = self.span();
        if !self.elsewhere.is_empty() && self.one_in(6) {
            let at = self.random.random_range(0..self.elsewhere.len());
            note(&format!("munmap {:x?}", self.elsewhere[at]));
            self.unmap_elsewhere(at)?;
            return Ok(true);
        }
        let kind = self.random.random_range(0..14);
        let (number, arguments, expect) = match kind {
            0..=1 => (
                libc::SYS_munmap,
                [address, len, 0, 0, 0],
                Expect::value(0).or(&[EINVAL, ENOMEM]),
            ),
            2..=5 => return self.remap(note, address, len),
            6..=7 => {
                let prot = if self.one_in(8) {
                    self.random.random::<u32>() as usize
                } else {
                    self.random.random_range(0..8)
                };
                (
                    libc::SYS_mprotect,
                    [address, len, prot, 0, 0],
                    Expect::value(0).or(&[EACCES, EINVAL, ENOMEM]),
                )
            }
            8 => (
                libc::SYS_msync,
                [address, len, self.random.random_range(0..9), 0, 0],
                Expect::value(0).or(&[EBUSY, EINVAL, ENOMEM]),
            ),
            9 => {
                let flags = self.random.random_range(0..3);
                (
                    libc::SYS_mlock2,
                    [address, len, flags, 0, 0],
                    Expect::value(0).or(&[EAGAIN, EINVAL, ENOMEM]),
                )
            }
            10 => (
                libc::SYS_munlock,
                [address, len, 0, 0, 0],
                Expect::value(0).or(&[EINVAL, ENOMEM]),
            ),
            11 => (
                libc::SYS_mincore,
                [address, len, self.buffer.base(), 0, 0],
                Expect::value(0).or(&[EFAULT, EINVAL, ENOMEM]),
            ),
            12 => {
                let (prot, page) = (self.pick(&[0, 0, 0, 3]), self.number() as usize >> 12);
                (
                    libc::SYS_remap_file_pages,
                    [address, len, prot, self.pick(&[0, 1, 3, 40, page]), 0],
                    // A region's own file cannot be mapped by anybody but the driver.
                    Expect::error(ENODEV).or(&[EACCES, EAGAIN, EINVAL, EOVERFLOW, EPERM]),
                )
            }
            _ => return self.read_process(note, address, len),
        };
        let what = format!("system call {number} {arguments:#x?}").replace("\n", "");
        note(&what);
        // SAFETY: It changes mappings in the arena, or writes to the buffer.
        let found = unsafe { call(number, arguments) };
        self.judge(&what, &expect, found)
    }

    fn remap(&mut self, note: &dyn Fn(&str), address: usize, len: usize) -> anyhow::Result<bool> {
        let old = if self.one_in(6) { 0 } else { len };
        let (target, room) = self.span();
        let new = match self.random.random_range(0..4) {
            0 => len,
            1 => self.random.random_range(1..=room / PAGE) * PAGE,
            _ => len.min(room),
        };
        let moves = libc::MREMAP_MAYMOVE as usize;
        let fixed = libc::MREMAP_FIXED as usize;
        let keep = libc::MREMAP_DONTUNMAP as usize;
        let mut flags = self.pick(&[
            0,
            moves,
            moves | fixed,
            moves | fixed,
            moves | keep,
            moves | fixed | keep,
            fixed,
            8,
        ]);
        // Only there it may replace anything.
        if flags & fixed != 0 && new > room {
            flags &= !fixed;
        }
        // In place it must not grow out of the arena.
        let end = ARENA + ARENA_PAGES * PAGE;
        let new = new.min(end - address);
        let what = format!("mremap {address:#x} {old:#x} {new:#x} {flags} {target:#x}");
        note(&what);
        // SAFETY: What it replaces lies in the arena.
        let found = unsafe { call(libc::SYS_mremap, [address, old, new, flags, target]) };
        let expect = Expect::values(0..=i64::MAX).or(&[EAGAIN, EFAULT, EINVAL, ENOMEM]);
        let done = self.judge(&what, &expect, found)?;
        if let Ok(address) = found {
            self.mapped(address as usize, new)?;
        }
        Ok(done)
    }

    fn read_process(
        &mut self,
        note: &dyn Fn(&str),
        address: usize,
        len: usize,
    ) -> anyhow::Result<bool> {
        let len = len.min(BUFFER - PAGE);
        let local = libc::iovec {
            iov_base: self.buffer.base() as *mut libc::c_void,
            iov_len: len,
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: len,
        };
        let what = format!("process_vm_readv {address:#x}+{len:#x}");
        note(&what);
        let (local, remote) = (&raw const local as usize, &raw const remote as usize);
        let arguments = [std::process::id() as usize, local, 1, remote, 1, 0];
        // SAFETY: It writes to the buffer.
        let found = unsafe { call(libc::SYS_process_vm_readv, arguments) };
        let expect = Expect::values(0..=len as i64).or(&[EFAULT]);
        self.judge(&what, &expect, found)
    }

    // Content. -------------------------------------------------------------------------------

    fn settled(&mut self) -> Option<usize> {
        if !self.alone {
            return None;
        }
        let settled: Vec<usize> = (0..self.models.len())
            .filter(|at| self.models[*at].as_ref().is_some_and(|m| m.home.is_some()))
            .collect();
        settled.choose(&mut self.random).copied()
    }

    /// Writes stamps, and reads some.
    fn stamp(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let Some(region) = self.settled() else {
            return self.touch(note);
        };
        let byte = self.random.random_range(1..=255);
        let (first, count) = (
            self.random::<u64>() as usize,
            self.random.random_range(1..16),
        );
        let Some(model) = &mut self.models[region] else {
            return Ok(false);
        };
        let pages = model.size.div_ceil(PAGE);
        let first = first % pages;
        note(&format!(
            "stamp region {region} from page {first}, {count}, with {byte}"
        ));
        for page in (first..pages).take(count) {
            model.stamp(page, byte);
        }
        self.check_page(region, (first + 3 * count) % pages)?;
        Ok(true)
    }

    /// Whether a page has what it should, through the mapping and by pread(2).
    fn check_page(&self, region: usize, page: usize) -> anyhow::Result<()> {
        let Some(model) = &self.models[region] else {
            return Ok(());
        };
        let Some(home) = &model.home else {
            return Ok(());
        };
        let found = (home.read(page * PAGE), home.read(page * PAGE + PAGE - 1));
        if let Some(wrong) = model.wrong(page, found) {
            anyhow::bail!("region {region}: {wrong}");
        }
        let fd = self.fds.iter().find(|fd| fd.region == region && fd.reads());
        let (Some(fd), true) = (fd, (page + 1) * PAGE <= model.size) else {
            return Ok(());
        };
        let read = |at: usize| -> anyhow::Result<u8> {
            let mut byte = [0xaa];
            let count = nix::sys::uio::pread(&fd.fd, &mut byte, at as i64).context("pread")?;
            ensure!(count == 1, "pread gave {count} bytes");
            Ok(byte[0])
        };
        let found = (read(page * PAGE)?, read(page * PAGE + PAGE - 1)?);
        if let Some(wrong) = model.wrong(page, found) {
            anyhow::bail!("region {region}, by pread: {wrong}");
        }
        Ok(())
    }

    fn check_all(&mut self, region: usize) -> anyhow::Result<()> {
        let pages = match &self.models[region] {
            Some(model) if self.alone => model.content.len(),
            _ => 0,
        };
        for page in 0..pages {
            self.check_page(region, page)?;
        }
        Ok(())
    }

    /// What fdinfo and GET_COUNTERS say.
    fn inspect(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let fd = self.any_fd();
        note(&format!("fdinfo {}", self.fds[fd].fd.as_raw_fd()));
        let text = crate::region::fdinfo(&self.fds[fd].fd)?;
        if self.fds[fd].mode == libc::O_PATH {
            return Ok(true);
        }
        let info = crate::region::Info::parse(&text)?;
        if let Some(model) = self.model(fd) {
            ensure!(info.size == model.size as u64, "{info:?}");
            if let Some(pages) = &model.pages {
                let pinned = super::model::Page::Pinned;
                let unpinned = pages.iter().filter(|page| **page != pinned).count();
                ensure!(
                    info.unpinned == unpinned as u64 && info.resident <= pages.len() as u64,
                    "{info:?}, and {unpinned} pages are unpinned"
                );
            }
        }
        Ok(true)
    }

    // Others. --------------------------------------------------------------------------------

    /// The shrinker, asked by name, and all caches.
    fn press(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        // The same numbers, whatever the kernel has.
        let all = self.one_in(8);
        let pages = self.random.random_range(0..300);
        let which = self.random.random_range(1..4);
        match &self.shrinker {
            Some((path, group)) if !all => {
                note(&format!("shrink by {pages}"));
                fs::write(path, format!("{group} 0 {pages}\n")).context("scan")?;
            }
            _ => {
                note(&format!("drop_caches {which}"));
                fs::write(DROP_CACHES, which.to_string()).context("drop_caches")?;
            }
        }
        Ok(true)
    }

    /// A child that touches what it inherits, unmaps some of it, and ends or is killed.
    fn fork(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<bool> {
        let (address, len) = self.span();
        let places: Vec<usize> = (0..8)
            .map(|_| self.place() + self.random.random_range(8..PAGE - 8))
            .collect();
        let killed: bool = self.random.random();
        note(&format!(
            "fork; the child unmaps {address:#x}+{len:#x}, killed: {killed}"
        ));
        // SAFETY: The child makes system calls and touches only, as it must where there were
        // other threads.
        match unsafe { libc::fork() } {
            -1 => {
                let found = Errno::last();
                ensure!(
                    [Errno::ENOMEM, Errno::EAGAIN].contains(&found),
                    "fork: {found}"
                );
                Ok(false)
            }
            0 => {
                for (at, place) in places.iter().enumerate() {
                    // SAFETY: It is a mapping of a region, or none.
                    let _ = unsafe { touch::write(*place, 0x66) };
                    if at == places.len() / 2 {
                        // SAFETY: It changes mappings in the arena.
                        unsafe { libc::syscall(libc::SYS_munmap, address, len) };
                    }
                }
                if killed {
                    // SAFETY: It takes a number.
                    unsafe { libc::raise(libc::SIGKILL) };
                }
                // SAFETY: It takes a number.
                unsafe { libc::_exit(0) }
            }
            child => {
                let mut status = 0;
                // SAFETY: It writes an integer.
                let found = unsafe { libc::waitpid(child, &raw mut status, 0) };
                ensure!(found == child, "waitpid: {}", Errno::last());
                ensure!(
                    status == if killed { libc::SIGKILL } else { 0 },
                    "the child ended with status {status:#x}"
                );
                Ok(true)
            }
        }
    }
}

/// What the kernel finds behind a pointer.
enum Passed {
    Found(Vec<u8>),
    Fault,
    /// Or nothing.
    Anything,
}

/// What an ioctl means for the model if it succeeds.
enum After {
    Nothing,
    Name(Vec<u8>),
    NameUnknown,
    Size(usize),
    Mask(i32),
    Pin(std::ops::Range<u64>),
    Unpin(std::ops::Range<u64>),
    Statuses(std::ops::Range<u64>, usize),
    Forget,
}

fn protect(address: usize, len: usize, prot: ProtFlags) -> anyhow::Result<()> {
    // SAFETY: It is ours, and nobody has a reference to it.
    let found = unsafe { call(libc::SYS_mprotect, [address, len, prot.bits() as usize]) };
    ensure!(found == Ok(0), "mprotect: {found:?}");
    Ok(())
}

/// Whether what is mapped still has what it should, whoever holds it.
fn check_mapping(model: &Model) -> anyhow::Result<()> {
    let Some(home) = &model.home else {
        return Ok(());
    };
    for (page, content) in model.content.iter().enumerate() {
        if *content == Content::Unknown {
            continue;
        }
        let found = (home.read(page * PAGE), home.read(page * PAGE + PAGE - 1));
        if let Some(wrong) = model.wrong(page, found) {
            anyhow::bail!("{wrong}");
        }
    }
    Ok(())
}

/// The file that has the shrinker free pages, and the cgroup to say, where the kernel has it.
fn shrinker() -> anyhow::Result<Option<(String, u64)>> {
    let Ok(shrinker) = crate::tests::reclaim::shrinker() else {
        return Ok(None);
    };
    let path = shrinker.join("scan").to_string_lossy().into_owned();
    Ok(Some((path, crate::tests::reclaim::root()?)))
}
