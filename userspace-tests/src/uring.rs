// SPDX-License-Identifier: GPL-2.0-only

//! io_uring, with one request at a time, and with buffers that the kernel holds
//! as it would for a device.

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::kernel;
use crate::region::Mapping;
use crate::region::RW;

/// Requests that it has room for.
const ENTRIES: u32 = 4;

/// A ring.
pub struct Ring {
    fd: OwnedFd,
    params: kernel::io_uring_params,
    /// Both queues' heads and tails, and what was completed.
    queues: Mapping,
    /// What was submitted.
    requests: Mapping,
}

impl Ring {
    /// An empty one.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = kernel::io_uring_params {
            // The n-th request stands in the n-th place.
            flags: kernel::IORING_SETUP_NO_SQARRAY,
            ..Default::default()
        };
        // SAFETY: The kernel writes into `params`, which lives.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
        let fd = Errno::result(fd).context("io_uring_setup")?;
        // SAFETY: The kernel just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
        ensure!(params.features & kernel::IORING_FEAT_SINGLE_MMAP != 0);

        let map = |len: usize, offset: u32| {
            Mapping::new(
                &fd,
                len,
                RW,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                offset.into(),
            )
            .context("mapping a ring")
        };
        let cqe = size_of::<kernel::io_uring_cqe>();
        let queues = map(
            params.cq_off.cqes as usize + params.cq_entries as usize * cqe,
            kernel::IORING_OFF_SQ_RING,
        )?;
        let requests = map(
            params.sq_entries as usize * size_of::<kernel::io_uring_sqe>(),
            kernel::IORING_OFF_SQES,
        )?;
        Ok(Self {
            fd,
            params,
            queues,
            requests,
        })
    }

    fn control(
        &self,
        operation: libc::c_uint,
        buffers: *const libc::iovec,
        count: usize,
    ) -> nix::Result<()> {
        // SAFETY: What `buffers` points to lives during the call, and names
        // pages of a mapping of shared memory, which anybody may write to.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd.as_raw_fd(),
                operation,
                buffers,
                count,
            )
        })
        .map(drop)
    }

    /// Has the kernel hold pages of a mapping, as fixed buffer 0: until
    /// [`Self::unregister`], or until a moment after the ring is dropped.
    pub fn register(&self, map: &Mapping, pages: Range<usize>) -> anyhow::Result<()> {
        let buffer = map.iovec(pages);
        self.control(kernel::IORING_REGISTER_BUFFERS, &raw const buffer, 1)
            .context("IORING_REGISTER_BUFFERS")
    }

    /// Lets go of the fixed buffer.
    pub fn unregister(&self) -> anyhow::Result<()> {
        self.control(kernel::IORING_UNREGISTER_BUFFERS, ptr::null(), 0)
            .context("IORING_UNREGISTER_BUFFERS")
    }

    /// Reads from a file into a part of the fixed buffer; gives the number of bytes.
    pub fn read_fixed(&self, file: impl AsFd, part: &libc::iovec) -> anyhow::Result<usize> {
        self.transfer(kernel::IORING_OP_READ_FIXED, file.as_fd(), part)
    }

    /// Writes a part of the fixed buffer to a file; gives the number of bytes.
    pub fn write_fixed(&self, file: impl AsFd, part: &libc::iovec) -> anyhow::Result<usize> {
        self.transfer(kernel::IORING_OP_WRITE_FIXED, file.as_fd(), part)
    }

    /// From or to the beginning of a file.
    fn transfer(
        &self,
        operation: kernel::io_uring_op,
        file: BorrowedFd<'_>,
        part: &libc::iovec,
    ) -> anyhow::Result<usize> {
        let mut request = kernel::io_uring_sqe {
            opcode: operation.try_into()?,
            fd: file.as_raw_fd(),
            len: part.iov_len.try_into()?,
            ..Default::default()
        };
        request.__bindgen_anon_2.addr = part.iov_base as u64;

        let (sq, cq) = (&self.params.sq_off, &self.params.cq_off);
        let queues = &self.queues;
        let place = |position: u32, mask: u32, size: usize| {
            let mask = queues.atomic(mask as usize).load(Ordering::Relaxed);
            (position & mask) as usize * size
        };
        // Only we submit, and only we take completions away.
        let tail = queues.atomic(sq.tail as usize);
        let at = tail.load(Ordering::Relaxed);
        let size = size_of::<kernel::io_uring_sqe>();
        // SAFETY: A structure of integers, which has no padding.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const request).cast(), size) };
        self.requests.store(place(at, sq.ring_mask, size), bytes);
        // Whoever sees the new tail sees the request.
        tail.store(at.wrapping_add(1), Ordering::Release);

        // SAFETY: It reads and writes the fixed buffer, which is memory that is
        // shared with others anyway.
        let submitted = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                1,
                1,
                kernel::IORING_ENTER_GETEVENTS,
                ptr::null::<libc::c_void>(),
                0,
            )
        })
        .context("io_uring_enter")?;
        ensure!(submitted == 1, "{submitted} requests were submitted");

        let head = queues.atomic(cq.head as usize);
        let at = head.load(Ordering::Relaxed);
        // The completion is there once its tail is.
        let tail = queues.atomic(cq.tail as usize).load(Ordering::Acquire);
        ensure!(tail == at.wrapping_add(1), "completions {at}..{tail}");
        let completion = cq.cqes as usize
            + place(at, cq.ring_mask, size_of::<kernel::io_uring_cqe>())
            + std::mem::offset_of!(kernel::io_uring_cqe, res);
        let result = queues.atomic(completion).load(Ordering::Relaxed) as i32;
        head.store(at.wrapping_add(1), Ordering::Release);
        if result < 0 {
            return Err(Errno::from_raw(-result)).context("a request to the ring");
        }
        Ok(result as usize)
    }
}
