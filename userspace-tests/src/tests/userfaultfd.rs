// SPDX-License-Identifier: GPL-2.0-only

//! userfaultfd(2): who wants to answer faults is refused, who wants to know of
//! writes is not.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::unistd::ftruncate;

use crate::harness::skip;
use crate::harness::tests;
use crate::kernel;
use crate::kernel::KERNEL_UFFDIO_REGISTER_MODE_MINOR as MINOR;
use crate::kernel::KERNEL_UFFDIO_REGISTER_MODE_MISSING as MISSING;
use crate::kernel::KERNEL_UFFDIO_REGISTER_MODE_WP as WP;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::in_child;

tests! {
    missing_and_minor_faults_are_refused => "map.userfaultfd",
    asynchronous_write_protection_tells_of_writes => "map.userfaultfd-wp",
    purge_is_no_write_and_keeps_the_protection => "map.userfaultfd-wp",
    write_protection_needs_the_mask => "map.userfaultfd-wp",
}

/// Writes are noted, and nobody is asked.
const ASYNC: u32 = kernel::UFFD_FEATURE_WP_ASYNC | kernel::UFFD_FEATURE_WP_UNPOPULATED;

/// What userfaultfd(2) gives.
struct Userfaultfd(OwnedFd);

impl Userfaultfd {
    /// One that is asked about every fault.
    fn synchronous() -> anyhow::Result<Self> {
        Self::new(0)?.context("without features")
    }

    /// One that only takes notes.
    fn asynchronous() -> anyhow::Result<Self> {
        match Self::new(ASYNC)? {
            Some(this) => Ok(this),
            None => skip("this kernel has no CONFIG_PTE_MARKER_UFFD_WP"),
        }
    }

    /// `None`: this kernel lacks one of the features.
    fn new(features: u32) -> anyhow::Result<Option<Self>> {
        // SAFETY: It takes a number and gives a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = Errno::result(fd).context("userfaultfd")?;
        // SAFETY: The kernel just made it for us.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
        let mut api = kernel::uffdio_api {
            api: kernel::KERNEL_UFFD_API,
            features: features.into(),
            ..Default::default()
        };
        match ioctl(&this.0, kernel::KERNEL_UFFDIO_API, &mut api) {
            Ok(_) => Ok(Some(this)),
            Err(Errno::EINVAL) if features != 0 => Ok(None),
            Err(error) => Err(error).context("UFFDIO_API"),
        }
    }

    fn register(&self, map: &Mapping, mode: u64) -> nix::Result<()> {
        let mut register = kernel::uffdio_register {
            range: range(map),
            mode,
            ..Default::default()
        };
        ioctl(&self.0, kernel::KERNEL_UFFDIO_REGISTER, &mut register).map(drop)
    }

    fn protect(&self, map: &Mapping) -> nix::Result<()> {
        let mut protect = kernel::uffdio_writeprotect {
            range: range(map),
            mode: kernel::KERNEL_UFFDIO_WRITEPROTECT_MODE_WP,
        };
        ioctl(&self.0, kernel::KERNEL_UFFDIO_WRITEPROTECT, &mut protect).map(drop)
    }
}

/// An ioctl whose argument is a structure of the kernel's ABI.
fn ioctl<T>(fd: impl AsFd, request: u32, argument: &mut T) -> nix::Result<libc::c_int> {
    // SAFETY: The callers pass the structure that belongs to the request.
    Errno::result(unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            request as libc::Ioctl,
            &raw mut *argument,
        )
    })
}

fn range(map: &Mapping) -> kernel::uffdio_range {
    kernel::uffdio_range {
        start: map.base() as u64,
        len: map.len() as u64,
    }
}

/// Asks which pages of a mapping were written: `w`, else a dot; protects these
/// again if `again`.
fn written(map: &Mapping, again: bool) -> anyhow::Result<String> {
    let mut regions = vec![kernel::page_region::default(); map.pages()];
    let mut scan = kernel::pm_scan_arg {
        size: size_of::<kernel::pm_scan_arg>() as u64,
        flags: if again {
            u64::from(kernel::PM_SCAN_WP_MATCHING | kernel::PM_SCAN_CHECK_WPASYNC)
        } else {
            0
        },
        start: map.base() as u64,
        end: (map.base() + map.len()) as u64,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_mask: kernel::PAGE_IS_WRITTEN.into(),
        return_mask: kernel::PAGE_IS_WRITTEN.into(),
        ..Default::default()
    };
    let pagemap = File::open("/proc/self/pagemap")?;
    let found = ioctl(&pagemap, kernel::KERNEL_PAGEMAP_SCAN, &mut scan).context("PAGEMAP_SCAN")?;
    let mut picture = vec!['.'; map.pages()];
    for region in &regions[..found as usize] {
        let page = |address: u64| (address as usize - map.base()) / PAGE;
        picture[page(region.start)..page(region.end)].fill('w');
    }
    Ok(picture.into_iter().collect())
}

/// Which pages /proc/self/pagemap shows as protected: `p`, else a dot.
fn protected(map: &Mapping) -> anyhow::Result<String> {
    const UFFD_WP: u64 = 1 << 57;
    let pagemap = File::open("/proc/self/pagemap")?;
    (0..map.pages())
        .map(|page| {
            let mut entry = [0; 8];
            let number = (map.base() / PAGE + page) as u64;
            pagemap.read_exact_at(&mut entry, number * 8)?;
            let protected = u64::from_ne_bytes(entry) & UFFD_WP != 0;
            Ok(if protected { 'p' } else { '.' })
        })
        .collect()
}

fn missing_and_minor_faults_are_refused() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let maps = [
        region.map(4)?,
        region.map_as(4 * PAGE, RW, MapFlags::MAP_PRIVATE)?,
    ];
    let uffds = [0, ASYNC].map(Userfaultfd::new);
    for uffd in uffds.into_iter().filter_map(Result::transpose) {
        let uffd = uffd?;
        for map in &maps {
            map.stamp(0..2, 1);
            for mode in [MISSING, MINOR, MISSING | WP, MINOR | WP, MISSING | MINOR] {
                let found = uffd.register(map, mode);
                ensure!(found == Err(Errno::EINVAL), "{mode:#x}: {found:?}");
            }
            // No fault waits for an answer.
            ensure!(map.picture(1) == "xx00");
        }
    }
    // Where somebody would have to answer, write-protection is refused too.
    let uffd = Userfaultfd::synchronous()?;
    for map in &maps {
        ensure!(uffd.register(map, WP) == Err(Errno::EINVAL));
    }
    // It is the region that is refused: a memfd is not.
    let memfd = memfd_create(c"control", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&memfd, 4 * PAGE as libc::off_t)?;
    for mode in [MISSING, MINOR] {
        let control = Mapping::new(&memfd, 4 * PAGE, RW, MapFlags::MAP_SHARED, 0)?;
        Userfaultfd::synchronous()?.register(&control, mode)?;
    }
    Ok(())
}

fn asynchronous_write_protection_tells_of_writes() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = region.map(8)?;
    let twin = region.map(8)?;
    map.stamp(0..4, 1);
    let uffd = Userfaultfd::asynchronous()?;
    uffd.register(&map, WP)?;
    uffd.protect(&map)?;
    // Pages that are there, and holes.
    ensure!(protected(&map)? == "pppppppp", "{}", protected(&map)?);
    ensure!(written(&map, false)? == "........");

    // Reading is not writing, and needs no answer.
    ensure!(map.picture(1) == "xxxx0000");
    ensure!(written(&map, false)? == "........");
    map.stamp(1..2, 1);
    map.stamp(6..7, 1);
    ensure!(protected(&map)? == "p.pppp.p", "{}", protected(&map)?);
    // Others' writes are none of this mapping.
    twin.stamp(3..4, 1);
    ensure!(twin.picture(1) == "xxxx00x0");
    // Told once, and from then on anew.
    ensure!(written(&map, true)? == ".w....w.");
    ensure!(written(&map, false)? == "........");
    map.stamp(2..3, 1);
    ensure!(written(&map, true)? == "..w.....");
    // The kernel's own writes count.
    let zero = File::open("/dev/zero")?;
    let buffer = map.iovec(4..5);
    // SAFETY: The buffer is mapped, and as shared memory may change at any time.
    Errno::result(unsafe { libc::readv(zero.as_raw_fd(), &raw const buffer, 1) })?;
    ensure!(written(&map, true)? == "....w...");

    let protects = |map: &Mapping| written(map, true).is_ok();
    ensure!(protects(&map) && !protects(&twin));
    drop(uffd);
    ensure!(map.picture(1) == "xxxx00x0" && !protects(&map));
    map.stamp(0..8, 1);
    ensure!(twin.picture(1) == "xxxxxxxx");
    Ok(())
}

fn purge_is_no_write_and_keeps_the_protection() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = region.map(8)?;
    map.stamp(0..6, 1);
    let uffd = Userfaultfd::asynchronous()?;
    uffd.register(&map, WP)?;
    uffd.protect(&map)?;
    map.stamp(1..2, 1);
    region.unpin(3..8)?;
    ensure!(region.purge_all()? == 5);
    // As where a hole is punched in a memfd: who copies what was written has to
    // ask PIN for the rest.
    ensure!(
        written(&map, false)? == ".w......",
        "{}",
        written(&map, false)?
    );
    ensure!(protected(&map)? == "p.pppppp", "{}", protected(&map)?);
    ensure!(map.picture(1) == "xxx00000");
    ensure!(written(&map, true)? == ".w......");
    // What comes to be in place of what was purged is told.
    map.stamp(4..5, 1);
    map.stamp(7..8, 1);
    ensure!(written(&map, true)? == "....w..w");
    ensure!(region.pin(3..8)? && map.picture(1) == "xxx0x00x");
    // A child has no such descriptor, and its mapping is not protected.
    in_child(|| {
        ensure!(protected(&map)? == "........");
        map.stamp(0..1, 2);
        Ok(())
    })?;
    ensure!(written(&map, true)? == "........");
    ensure!(map.read(0) == 2);
    Ok(())
}

fn write_protection_needs_the_mask() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    region.set_mask(ProtFlags::PROT_READ)?;
    let uffd = Userfaultfd::asynchronous()?;
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        let map = region.map_as(2 * PAGE, ProtFlags::PROT_READ, flags)?;
        let found = uffd.register(&map, WP);
        ensure!(found == Err(Errno::EPERM), "{flags:?}: {found:?}");
    }
    Ok(())
}
