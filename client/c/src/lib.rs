// SPDX-License-Identifier: GPL-2.0-only

//! The functions of `include/cutils/ashmem.h`, which documents them.
//!
//! Each gives -1 and sets errno where it fails.

use std::ffi::CStr;
use std::ops::Bound;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;

use client::Protection;
use client::Region;
use client::abi;
use libc::c_char;
use libc::c_int;
use nix::errno::Errno;

/// The number of an error.
type Failed = c_int;

fn number(error: client::Error) -> Failed {
    error.errno()
}

/// As C has it: the result, or -1 and errno.
fn answer(result: Result<c_int, Failed>) -> c_int {
    result.unwrap_or_else(|errno| {
        Errno::set_raw(errno);
        -1
    })
}

/// Does something with the region that a descriptor stands for: `EBADF` if it
/// is none, `ENOTTY` if it is one of something else.
fn with(
    fd: c_int,
    body: impl FnOnce(&Region<BorrowedFd<'_>>) -> Result<c_int, Failed>,
) -> Result<c_int, Failed> {
    if fd < 0 {
        return Err(libc::EBADF);
    }
    // SAFETY: It is the caller's, who keeps it open through this call. If it is
    // not open, the kernel says so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    body(&Region::try_from(fd).map_err(number)?)
}

/// As the ioctls have it: a length of 0 reaches to the end.
fn range(offset: usize, len: usize) -> Result<(Bound<u64>, Bound<u64>), Failed> {
    let end = match len {
        0 => Bound::Unbounded,
        _ => Bound::Excluded(offset.checked_add(len).ok_or(libc::EINVAL)? as u64),
    };
    Ok((Bound::Included(offset as u64), end))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ashmem_valid(fd: c_int) -> c_int {
    with(fd, |_| Ok(1)).unwrap_or(0)
}

/// See the header.
///
/// # Safety
///
/// `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ashmem_create_region(name: *const c_char, size: usize) -> c_int {
    let create = || {
        let region = Region::fresh()?;
        if !name.is_null() {
            // SAFETY: The caller's promise.
            region.set_name(unsafe { CStr::from_ptr(name) })?;
        }
        region.set_size(size)?;
        Ok(region.into_raw_fd())
    };
    answer(create().map_err(number))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ashmem_set_prot_region(fd: c_int, prot: c_int) -> c_int {
    answer(with(fd, |region| {
        region
            .restrict(Protection::from_bits(prot))
            .map_err(number)?;
        Ok(0)
    }))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ashmem_pin_region(fd: c_int, offset: usize, len: usize) -> c_int {
    answer(with(fd, |region| {
        let pinned = region.pin(range(offset, len)?).map_err(number)?;
        Ok(if pinned.keep() {
            abi::ASHMEM_NOT_PURGED as c_int
        } else {
            abi::ASHMEM_WAS_PURGED as c_int
        })
    }))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ashmem_unpin_region(fd: c_int, offset: usize, len: usize) -> c_int {
    answer(with(fd, |region| {
        region.unpin(range(offset, len)?).map_err(number)?;
        Ok(0)
    }))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ashmem_get_size_region(fd: c_int) -> c_int {
    answer(with(fd, |region| {
        let size = region.size().map_err(number)?;
        c_int::try_from(size).map_err(|_| libc::EOVERFLOW)
    }))
}
