// SPDX-License-Identifier: GPL-2.0-only

//! Which code of the driver was reached: kcov, where the kernel has it and the
//! module was built with it (`KCOV_INSTRUMENT` in Kbuild).

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::kernel;
use crate::region::Mapping;
use crate::region::RW;

const KCOV: &str = "/sys/kernel/debug/kcov";
/// Addresses that one call can leave; further ones are not noted.
const WORDS: usize = 16 << 10;

/// Where the module lies, and which of its addresses were reached: a byte for
/// each, in memory that forked processes share.
pub struct Coverage {
    base: u64,
    seen: Mapping,
}

// SAFETY: What is behind the mapping is only used as atomic.
unsafe impl Sync for Coverage {}

impl Coverage {
    /// Nothing was reached yet. `None`: this kernel cannot tell.
    pub fn new() -> anyhow::Result<Option<Self>> {
        if !fs::exists(KCOV)? {
            return Ok(None);
        }
        let modules = fs::read_to_string("/proc/modules").context("/proc/modules")?;
        let mut words = modules
            .lines()
            .find(|line| line.starts_with("ashmem "))
            .context("the module is not loaded")?
            .split(' ');
        let size: usize = words.nth(1).context("its size")?.parse()?;
        let address = words.nth(3).context("its address")?;
        let base = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        Ok(Some(Self {
            base,
            seen: super::shared_memory(size)?,
        }))
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        let address = (self.seen.base() + offset) as *mut u8;
        assert!(offset < self.seen.len());
        // SAFETY: Mapped as long as `self`, and only used as atomic.
        unsafe { AtomicU8::from_ptr(address) }
    }

    /// How many places of the module were reached so far.
    pub fn count(&self) -> usize {
        let all = 0..self.seen.len();
        all.filter(|at| self.byte(*at).load(Relaxed) != 0).count()
    }

    /// Has this thread's calls noted from here on.
    pub fn of_this_thread(&self) -> anyhow::Result<Trace<'_>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(KCOV)
            .context(KCOV)?;
        let ioctl = |request: u32, arg: usize| {
            // SAFETY: These ioctls take a number.
            Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), request.into(), arg) })
                .context("kcov")
        };
        ioctl(kernel::KERNEL_KCOV_INIT_TRACE, WORDS)?;
        let area = Mapping::new(&file, WORDS * 8, RW, MapFlags::MAP_SHARED, 0)?;
        ioctl(kernel::KERNEL_KCOV_ENABLE, kernel::KCOV_TRACE_PC as usize)?;
        Ok(Trace {
            coverage: self,
            area,
            _file: file,
        })
    }
}

/// What one thread's calls reach; ends with the thread.
pub struct Trace<'a> {
    coverage: &'a Coverage,
    area: Mapping,
    _file: File,
}

impl Trace<'_> {
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < WORDS);
        let address = (self.area.base() + at * 8) as *mut u64;
        // SAFETY: Aligned, mapped as long as `self`, and only used as atomic.
        unsafe { AtomicU64::from_ptr(address) }
    }

    /// Notes what the calls since the last time reached.
    pub fn collect(&self) {
        let count = self.word(0).load(Relaxed) as usize;
        for at in 1..=count.min(WORDS - 1) {
            let offset = self.word(at).load(Relaxed).wrapping_sub(self.coverage.base);
            if offset < self.coverage.seen.len() as u64 {
                self.coverage.byte(offset as usize).store(1, Relaxed);
            }
        }
        self.word(0).store(0, Relaxed);
    }
}
