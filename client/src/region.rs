// SPDX-License-Identifier: GPL-2.0-only

//! A region: the descriptor, and what it is asked by ioctl.

use std::ffi::CStr;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::ops::BitOr;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::stat::stat;
use nix::unistd::SysconfVar;
use nix::unistd::sysconf;

use crate::Error;
use crate::Result;
use crate::abi;
use crate::error::Call;

/// Bytes of a page.
pub(crate) fn page_size() -> u64 {
    match sysconf(SysconfVar::PAGE_SIZE) {
        Ok(Some(bytes)) => bytes as u64,
        _ => unreachable!("sysconf(3) always knows the size of a page"),
    }
}

/// Any ioctl; what it gives if it is not an error.
///
/// # Safety
///
/// `arg` is what the kernel expects for `request`: where that is the address of
/// something, it lives through the call and is as large as the kernel thinks.
pub(crate) unsafe fn ioctl(fd: BorrowedFd<'_>, request: u32, arg: usize) -> nix::Result<i32> {
    // SAFETY: The caller's promise.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, arg) })
}

/// The nodes, the one to be tried first in front. Android's newer programs know
/// only the one whose name ends in the boot's id.
fn nodes() -> &'static [PathBuf] {
    static NODES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    NODES.get_or_init(|| {
        let plain = PathBuf::from("/dev/ashmem");
        match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(id) => vec![format!("/dev/ashmem{}", id.trim()).into(), plain],
            Err(_) => vec![plain],
        }
    })
}

/// The result of the first node for which `f` has one, or else the last error.
/// Where one was found, there the next one is looked for.
fn first_node<T>(mut f: impl FnMut(&PathBuf) -> nix::Result<T>) -> nix::Result<T> {
    static FOUND: OnceLock<&PathBuf> = OnceLock::new();
    let mut last = Err(Errno::ENOENT);
    for node in FOUND.get().copied().into_iter().chain(nodes()) {
        last = f(node);
        if last.is_ok() {
            FOUND.get_or_init(|| node);
            break;
        }
    }
    last
}

/// A region of shared memory: a descriptor of `/dev/ashmem`.
///
/// A new region can be named and sized until it is first mapped; from then on
/// name and size stay. Its memory is [`mapped`](Self::map), zeros to begin with,
/// and goes when the last descriptor and the last mapping are gone.
///
/// `Region<BorrowedFd<'_>>` is one whose descriptor belongs to somebody else.
pub struct Region<F = OwnedFd>(F);

impl Region {
    /// A region with a name (of which 255 bytes are kept) and a size in bytes.
    ///
    /// # Errors
    ///
    /// As [`fresh`](Self::fresh).
    pub fn new(name: &CStr, size: usize) -> Result<Self> {
        let region = Self::fresh()?;
        region.set_name(name)?;
        region.set_size(size)?;
        Ok(region)
    }

    /// A region without name and size, which cannot be mapped yet.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no node, most likely because the module is not loaded.
    /// `EACCES`, `EPERM`: this process may not use it. `EMFILE` and others of
    /// open(2).
    pub fn fresh() -> Result<Self> {
        first_node(|node| open(node, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()))
            .map(Self)
            .map_err(|errno| Error::new(Call::Open, errno))
    }
}

impl<F: AsFd> Region<F> {
    /// Takes a descriptor if it is one of the device: `ENOTTY` if not, and
    /// `ENOENT` if there is no node to compare it with.
    fn checked(fd: F) -> Result<Self> {
        let check = || {
            let found = fstat(&fd)?;
            if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFCHR {
                return Err(Errno::ENOTTY);
            }
            let expected = first_node(stat)?;
            if found.st_rdev != expected.st_rdev {
                return Err(Errno::ENOTTY);
            }
            Ok(())
        };
        check().map_err(|errno| Error::new(Call::FromFd, errno))?;
        Ok(Self(fd))
    }

    /// An ioctl whose argument is no address.
    fn by_value(&self, call: Call, request: u32, arg: usize) -> Result<i32> {
        // SAFETY: The callers pass numbers for which the argument is a value.
        unsafe { ioctl(self.as_fd(), request, arg) }.map_err(|errno| Error::new(call, errno))
    }

    /// Names it, for `/proc/PID/maps`: the first 255 bytes are kept.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it was mapped already.
    pub fn set_name(&self, name: &CStr) -> Result<()> {
        // SAFETY: The kernel reads up to the NUL, or ASHMEM_NAME_LEN bytes.
        unsafe { ioctl(self.as_fd(), abi::ABI_SET_NAME, name.as_ptr() as usize) }
            .map(drop)
            .map_err(|errno| Error::new(Call::SetName, errno))
    }

    /// Its name; `dev/ashmem` if it has none.
    pub fn name(&self) -> Result<CString> {
        let mut buffer = [0u8; abi::ASHMEM_NAME_LEN as usize];
        // SAFETY: The kernel writes at most ASHMEM_NAME_LEN bytes.
        unsafe {
            ioctl(
                self.as_fd(),
                abi::ABI_GET_NAME,
                buffer.as_mut_ptr() as usize,
            )
        }
        .map_err(|errno| Error::new(Call::GetName, errno))?;
        CStr::from_bytes_until_nul(&buffer)
            .map(CStr::to_owned)
            .map_err(|_| Error::new(Call::GetName, Errno::EILSEQ))
    }

    /// Sets its size in bytes; what is mapped are whole pages.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it was mapped already.
    pub fn set_size(&self, bytes: usize) -> Result<()> {
        self.by_value(Call::SetSize, abi::ABI_SET_SIZE, bytes)
            .map(drop)
    }

    /// Its size in bytes, as it was set; 0 before that. A driver that has
    /// Android's ioctls only gives it modulo 4 GiB.
    pub fn size(&self) -> Result<u64> {
        match self.counters() {
            Ok(counters) => Ok(counters.size),
            Err(error) if error.errno() == libc::ENOTTY => {
                let size = self.by_value(Call::GetSize, abi::ABI_GET_SIZE, 0)?;
                // The result of an ioctl is an int, so the upper half is lost
                // and 2 GiB is a negative number.
                Ok(u64::from(size as u32))
            }
            Err(error) => Err(Error::new(Call::GetSize, Errno::from_raw(error.errno()))),
        }
    }

    /// What mappings may be allowed from now on.
    pub fn protection(&self) -> Result<Protection> {
        self.by_value(Call::GetMask, abi::ABI_GET_PROT_MASK, 0)
            .map(Protection)
    }

    /// Takes protection away from all later mappings, in every process, for
    /// good. Mappings made before keep what they have.
    ///
    /// # Errors
    ///
    /// `EINVAL`: something would be given that was taken away before.
    pub fn restrict(&self, to: Protection) -> Result<()> {
        // What is no protection must not become some by being cut: it is
        // extended, and the kernel refuses it.
        self.by_value(Call::SetMask, abi::ABI_SET_PROT_MASK, to.0 as usize)
            .map(drop)
    }

    /// The number that stands as inode in `/proc/PID/maps`; no two regions of
    /// one boot have the same.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it was never mapped.
    pub fn file_id(&self) -> Result<u64> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: The kernel writes an unsigned long.
        unsafe { ioctl(self.as_fd(), abi::ABI_GET_FILE_ID, &raw mut id as usize) }
            .map_err(|errno| Error::new(Call::FileId, errno))?;
        #[allow(clippy::useless_conversion, reason = "it is shorter on 32 bits")]
        Ok(u64::from(id))
    }

    /// Takes back all that is unpinned, of every region of the machine; gives
    /// the number of pages.
    ///
    /// # Errors
    ///
    /// `EPERM`: it needs `CAP_SYS_ADMIN`.
    pub fn purge_all_caches(&self) -> Result<usize> {
        self.by_value(Call::PurgeAll, abi::ABI_PURGE_ALL_CACHES, 0)
            .map(|pages| pages as usize)
    }

    /// What the driver counts for it.
    ///
    /// # Errors
    ///
    /// `ENOTTY`: the driver is another one, and does not count.
    pub fn counters(&self) -> Result<Counters> {
        let mut found = abi::ashmem_counters::default();
        // SAFETY: The number has the struct's size, and no more is written.
        unsafe { ioctl(self.as_fd(), abi::ABI_GET_COUNTERS, &raw mut found as usize) }
            .map_err(|errno| Error::new(Call::Counters, errno))?;
        Ok(Counters {
            size: found.size,
            faults: found.faults,
            map_faults: found.map_faults,
            huge_faults: found.huge_faults,
            allocated: found.allocated,
            purged: found.purged,
            resident: found.resident,
            unpinned: found.unpinned,
        })
    }
}

/// What somebody sent: checked to be a region.
impl TryFrom<OwnedFd> for Region {
    type Error = Error;

    /// `ENOTTY`: it is a descriptor of something else. `ENOENT`: there is no
    /// node to compare it with. It is closed then.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        Self::checked(fd)
    }
}

/// What belongs to somebody else: checked to be a region.
impl<'fd> TryFrom<BorrowedFd<'fd>> for Region<BorrowedFd<'fd>> {
    type Error = Error;

    /// As for [`OwnedFd`], but that it is not closed.
    fn try_from(fd: BorrowedFd<'fd>) -> Result<Self> {
        Self::checked(fd)
    }
}

impl<F: AsFd> AsFd for Region<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: AsFd> AsRawFd for Region<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl From<Region> for OwnedFd {
    fn from(region: Region) -> Self {
        region.0
    }
}

impl IntoRawFd for Region {
    fn into_raw_fd(self) -> RawFd {
        self.0.into_raw_fd()
    }
}

impl<F: AsFd> fmt::Debug for Region<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Region").field(&self.as_raw_fd()).finish()
    }
}

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection(i32);

impl Protection {
    /// Nothing.
    pub const NONE: Self = Self(libc::PROT_NONE);
    /// To be read.
    pub const READ: Self = Self(libc::PROT_READ);
    /// To be written.
    pub const WRITE: Self = Self(libc::PROT_WRITE);
    /// To be executed.
    pub const EXEC: Self = Self(libc::PROT_EXEC);
    /// To be read and written.
    pub const READ_WRITE: Self = Self(libc::PROT_READ | libc::PROT_WRITE);

    /// The `PROT_*` bits of mmap(2); those that are none are refused by the
    /// calls that take this.
    pub const fn from_bits(bits: i32) -> Self {
        Self(bits)
    }

    /// The `PROT_*` bits of mmap(2).
    pub const fn bits(self) -> i32 {
        self.0
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Protection {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the driver counts for a region: the same as in `/proc/PID/fdinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Bytes, as they were set.
    pub size: u64,
    /// Since it was opened: runs of the fault handler.
    pub faults: u64,
    /// Since it was opened: faults that mapped pages which were there already.
    pub map_faults: u64,
    /// Since it was opened: runs of the fault handler that mapped a huge page.
    pub huge_faults: u64,
    /// Since it was opened: pages allocated.
    pub allocated: u64,
    /// Since it was opened: pages whose memory was taken while they were
    /// unpinned.
    pub purged: u64,
    /// Now: pages that have memory.
    pub resident: u64,
    /// Now: pages that are not pinned.
    pub unpinned: u64,
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn descriptors_of_other_things_are_refused() {
        let file = fs::File::open("/proc/self/status").expect("/proc is mounted");
        let found = Region::try_from(OwnedFd::from(file)).map(drop);
        assert_eq!(found.map_err(|e| e.errno()), Err(libc::ENOTTY));
        let null = fs::File::open("/dev/null").expect("it can be read");
        let found = Region::try_from(null.as_fd()).map(drop);
        // Without a node there is nothing to compare it with.
        let errno = found.expect_err("it is no region").errno();
        assert!([libc::ENOTTY, libc::ENOENT].contains(&errno), "{errno}");
    }

    #[test]
    fn the_node_of_this_boot_is_tried_first() {
        let names: Vec<_> = nodes().iter().filter_map(|path| path.to_str()).collect();
        let [of_this_boot, "/dev/ashmem"] = names[..] else {
            panic!("{names:?}")
        };
        let id = of_this_boot.strip_prefix("/dev/ashmem").expect("the same");
        assert_eq!((id.len(), id.trim()), (36, id));
    }

    #[test]
    fn protection_is_a_set() {
        let both = Protection::READ | Protection::WRITE;
        assert_eq!(both, Protection::READ_WRITE);
        assert!(both.contains(Protection::WRITE) && both.contains(Protection::NONE));
        assert!(!both.contains(Protection::EXEC | Protection::READ));
    }
}
