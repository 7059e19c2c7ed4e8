// SPDX-License-Identifier: GPL-2.0-only

//! Which entries can be written through, and which were.

use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use anyhow::Context;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Region;
use linux_raw_sys::general::PAGE_IS_WRITTEN;
use linux_raw_sys::general::PM_SCAN_CHECK_WPASYNC;
use linux_raw_sys::general::PM_SCAN_WP_MATCHING;
use linux_raw_sys::general::UFFD_API;
use linux_raw_sys::general::UFFD_FEATURE_WP_ASYNC;
use linux_raw_sys::general::UFFD_FEATURE_WP_UNPOPULATED;
use linux_raw_sys::general::UFFDIO_REGISTER_MODE_WP;
use linux_raw_sys::general::uffdio_api;
use linux_raw_sys::general::uffdio_range;
use linux_raw_sys::general::uffdio_register;
use nix::errno::Errno;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use procfs::process::MemoryPageFlags;

use crate::READ;
use crate::UNPINNED;
use crate::memory::Memory;
use crate::pagemap::PAGE;
use crate::purge;

nix::ioctl_readwrite!(api, 0xaa, 0x3f, uffdio_api);
nix::ioctl_readwrite!(register, 0xaa, 0x00, uffdio_register);

/// A mapping of which it is noted what is written through it, by userfaultfd(2) in its asynchronous
/// mode: the kernel write-protects the entries, and makes each writable again when it is written through.
struct Tracked {
    memory: Memory,
    /// It ends when this is closed.
    _userfaultfd: OwnedFd,
}

impl Tracked {
    /// Begins.
    fn new(memory: Memory) -> anyhow::Result<Self> {
        // SAFETY: It takes a number and gives a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = Errno::result(fd).context("userfaultfd")?;
        // SAFETY: The kernel just made it for us.
        let userfaultfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut wanted = uffdio_api {
            api: UFFD_API.into(),
            features: (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED).into(),
            ioctls: 0,
        };
        // SAFETY: It is the structure for this number.
        unsafe { api(userfaultfd.as_raw_fd(), &raw mut wanted) }.context("UFFDIO_API")?;
        let mut range = uffdio_register {
            range: uffdio_range {
                start: memory.address() as u64,
                len: (memory.pages * PAGE) as u64,
            },
            mode: UFFDIO_REGISTER_MODE_WP.into(),
            ioctls: 0,
        };
        // SAFETY: As above.
        unsafe { register(userfaultfd.as_raw_fd(), &raw mut range) }.context("UFFDIO_REGISTER")?;
        let this = Self {
            memory,
            _userfaultfd: userfaultfd,
        };
        this.written()?;
        Ok(this)
    }

    /// The pages that were written since this was asked last.
    fn written(&self) -> anyhow::Result<Vec<usize>> {
        let flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
        let found = self.memory.scan(PAGE_IS_WRITTEN, flags)?;
        let pages = found.into_iter().enumerate();
        Ok(pages
            .filter_map(|(page, found)| (found != 0).then_some(page))
            .collect())
    }
}

/// Minor faults that writing a page takes.
fn faults(memory: Memory, page: usize) -> anyhow::Result<i64> {
    let before = getrusage(UsageWho::RUSAGE_SELF)?.minor_page_faults();
    memory.write(page);
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.minor_page_faults() - before)
}

/// Shows both.
pub fn show(region: &Region, memory: Memory, beside: Memory) -> anyhow::Result<()> {
    let private = Memory::of_region(region.map_with(MapOptions::new().private())?)?;
    private.read(READ);
    let shared = private.frames()?[READ];
    ensure!(shared == memory.frames()?[READ] && shared.is_some());
    let ours = faults(memory, READ)?;
    let theirs = faults(beside, READ)?;
    let copied = faults(private, READ)?;
    println!(
        "\nnone of these says whether an entry is writable; page {READ} was read, and is written now"
    );
    println!("  region                     {ours} faults: its entry was writable");
    println!("  memfd                      {theirs} faults: so was this one");
    println!("  region, mapped privately   {copied} fault, and it has a copy, of no file");
    ensure!((ours, theirs, copied) == (0, 0, 1));
    ensure!(private.frames()?[READ] != shared && memory.frames()?[READ] == shared);
    ensure!(!private.entries()?[READ].contains(MemoryPageFlags::FILE));

    let mapping = Memory::of_region(region.map()?)?;
    let tracked = Tracked::new(mapping)?;
    mapping.read(0);
    mapping.write(READ);
    memory.write(16);
    purge(region, UNPINNED)?;
    let written = tracked.written()?;
    println!(
        "\nPAGEMAP_SCAN says what was written through a mapping, if userfaultfd is set upon it"
    );
    println!("  page 0 is read, {READ} written, 16 written by another mapping, {UNPINNED} purged");
    println!("  written: {written:?}");
    ensure!(written == [READ] && tracked.written()?.is_empty());
    Ok(())
}
