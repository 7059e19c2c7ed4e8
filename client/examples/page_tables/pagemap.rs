// SPDX-License-Identifier: GPL-2.0-only

//! What /proc tells of memory that this process has mapped, and of frames.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use linux_raw_sys::general::page_region;
use linux_raw_sys::general::pm_scan_arg;
use procfs::KPageFlags;
use procfs::PhysicalPageFlags;
use procfs::process::MemoryPageFlags;
use procfs::process::PageInfo;
use procfs::process::Pfn;
use procfs::process::Process;

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, pm_scan_arg);

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// What the page table has for each page from an address on: /proc/self/pagemap.
pub fn entries(address: usize, pages: usize) -> anyhow::Result<Vec<MemoryPageFlags>> {
    let first = address / PAGE;
    let mut file = Process::myself()?.pagemap()?;
    let found = file.get_range_info(first..first + pages)?.into_iter();
    found
        .map(|info| match info {
            PageInfo::MemoryPage(entry) => Ok(entry),
            PageInfo::SwapPage(_) => bail!("a page is swapped out, or is being moved"),
        })
        .collect()
}

/// The number of the frame that an entry points to, if it does.
pub fn frame(entry: MemoryPageFlags) -> anyhow::Result<Option<u64>> {
    if !entry.contains(MemoryPageFlags::PRESENT) {
        return Ok(None);
    }
    let Pfn(frame) = entry.get_page_frame_number();
    ensure!(frame != 0, "only root is told the numbers of frames");
    Ok(Some(frame))
}

/// The frame of each page that is mapped, from an address on.
pub fn frames(address: usize, pages: usize) -> anyhow::Result<Vec<Option<u64>>> {
    entries(address, pages)?.into_iter().map(frame).collect()
}

/// The categories (`PAGE_IS_*`) of each page from an address on, among those asked for: PAGEMAP_SCAN.
pub fn scan(address: usize, pages: usize, asked: u32, flags: u32) -> anyhow::Result<Vec<u32>> {
    // SAFETY: Zeros are integers.
    let mut ranges: Vec<page_region> = vec![unsafe { std::mem::zeroed() }; pages];
    let mut scan = pm_scan_arg {
        size: size_of::<pm_scan_arg>() as u64,
        flags: flags.into(),
        start: address as u64,
        end: (address + pages * PAGE) as u64,
        walk_end: 0,
        vec: ranges.as_mut_ptr() as u64,
        vec_len: pages as u64,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: asked.into(),
        return_mask: asked.into(),
    };
    let file = File::open("/proc/self/pagemap")?;
    // SAFETY: There is room for a range for each page, and the kernel writes no more.
    let found = unsafe { pagemap_scan(file.as_raw_fd(), &raw mut scan) }.context("PAGEMAP_SCAN")?;
    let mut categories = vec![0; pages];
    for range in &ranges[..found as usize] {
        let page = |at: u64| (at as usize - address) / PAGE;
        categories[page(range.start)..page(range.end)].fill(range.categories as u32);
    }
    Ok(categories)
}

/// What the kernel notes of each frame from one on: /proc/kpageflags.
pub fn flags(first: u64, frames: usize) -> anyhow::Result<Vec<PhysicalPageFlags>> {
    let end = Pfn(first + frames as u64);
    let mut file = KPageFlags::new().context("/proc/kpageflags")?;
    Ok(file.get_range_info(Pfn(first), end)?)
}

/// The first frame of the folio that a frame belongs to.
pub fn folio(frame: u64) -> anyhow::Result<u64> {
    // A folio lies on a multiple of its size, and none of shared memory is larger than 512.
    let first = frame / 512 * 512;
    let flags = flags(first, (frame - first) as usize + 1)?;
    let tail = |flags: &PhysicalPageFlags| flags.contains(PhysicalPageFlags::COMPOUND_TAIL);
    let head = flags.iter().rposition(|flags| !tail(flags));
    Ok(first + head.context("a tail without a head")? as u64)
}
