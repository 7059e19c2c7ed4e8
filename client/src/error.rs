// SPDX-License-Identifier: GPL-2.0-only

//! What failed, and what to do about it.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// What a call of this library gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A call that failed. Displayed in one line: the call, the kernel's answer,
/// and where there is something to be said about it, what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    call: Call,
    errno: Errno,
    hint: &'static str,
}

impl Error {
    /// The kernel's answer to a call.
    pub(crate) fn new(call: Call, errno: Errno) -> Self {
        Self {
            call,
            errno,
            hint: hint(call, errno),
        }
    }

    /// A call that was not made, as the kernel could only have refused it.
    pub(crate) fn refused(call: Call, errno: Errno, hint: &'static str) -> Self {
        Self { call, errno, hint }
    }

    /// The number of the error, as in errno(3): `EPERM` is 1.
    pub fn errno(&self) -> i32 {
        self.errno as i32
    }

    /// What to do about it; empty where there is nothing to be said.
    pub fn hint(&self) -> &str {
        self.hint
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call.name(), self.errno)?;
        if !self.hint.is_empty() {
            write!(f, ": {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Keeps the message and the kind; the number is that of the [`Error`] inside.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    FromFd,
    SetName,
    GetName,
    SetSize,
    GetSize,
    SetMask,
    GetMask,
    FileId,
    PurgeAll,
    Counters,
    PageStatus,
    Pin,
    Unpin,
    PinStatus,
    Map,
}

impl Call {
    /// Its name in a message.
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open /dev/ashmem",
            Self::FromFd => "is this descriptor a region",
            Self::SetName => "ASHMEM_SET_NAME",
            Self::GetName => "ASHMEM_GET_NAME",
            Self::SetSize => "ASHMEM_SET_SIZE",
            Self::GetSize => "ASHMEM_GET_SIZE",
            Self::SetMask => "ASHMEM_SET_PROT_MASK",
            Self::GetMask => "ASHMEM_GET_PROT_MASK",
            Self::FileId => "ASHMEM_GET_FILE_ID",
            Self::PurgeAll => "ASHMEM_PURGE_ALL_CACHES",
            Self::Counters => "ASHMEM_GET_COUNTERS",
            Self::PageStatus => "ASHMEM_GET_PAGE_STATUS",
            Self::Pin => "ASHMEM_PIN",
            Self::Unpin => "ASHMEM_UNPIN",
            Self::PinStatus => "ASHMEM_GET_PIN_STATUS",
            Self::Map => "mmap of a region",
        }
    }
}

/// What to do about an answer of the kernel.
fn hint(call: Call, errno: Errno) -> &'static str {
    match (call, errno) {
        (Call::Open, Errno::ENOENT) => {
            "is the module loaded? `modprobe ashmem`; in a container, is the host's node there?"
        }
        (Call::Open, Errno::ENXIO | Errno::ENODEV) => {
            "this node is no driver's: it was made by hand, or the module is not loaded: \
             `modprobe ashmem`"
        }
        (Call::Open, Errno::EACCES) => {
            "the node's mode forbids it (a udev rule sets it: `KERNEL==\"ashmem\", MODE=\"0666\"`), \
             or it lies on a file system mounted `nodev`"
        }
        (Call::Open, Errno::EPERM) => {
            "in a container: let it use the device (`--device /dev/ashmem`), and look for a mount \
             with `nodev`"
        }
        (Call::FromFd, Errno::ENOTTY) => "it is a descriptor of something else",
        (Call::FromFd, Errno::ENOENT) => {
            "the node that it is compared with is missing: is the module loaded? `modprobe ashmem`"
        }
        (Call::SetName, Errno::EINVAL) => "a region that was mapped keeps its name",
        (Call::SetSize, Errno::EINVAL) => "a region that was mapped keeps its size",
        (Call::SetMask, Errno::EINVAL) => "protection can only be taken away, never given back",
        (Call::FileId, Errno::EINVAL) => "a region has none before it is first mapped",
        (Call::PurgeAll, Errno::EPERM) => "this needs CAP_SYS_ADMIN",
        (Call::Counters | Call::PageStatus, Errno::ENOTTY) => "this ashmem driver cannot tell",
        (Call::Pin | Call::Unpin | Call::PinStatus | Call::PageStatus, Errno::EINVAL) => {
            "the range ends beyond the region, or the region was never mapped"
        }
        (Call::Unpin, Errno::EPERM) => {
            "the module was loaded with strict_unpin=1, and the region may not be written"
        }
        (Call::Map, Errno::EINVAL) => "the region has no size yet, or the range is longer than it",
        (Call::Map, Errno::EPERM) => "this protection was taken away with `restrict`",
        (Call::Map, Errno::EACCES) => "the descriptor was opened for less than that",
        (Call::Map, Errno::ENOMEM) => {
            "more than the machine has (vm.overcommit_memory), or than this process may map"
        }
        (_, Errno::ENOMEM) => "the kernel has no memory for it, or its memory cgroup has not",
        (_, Errno::ENOTTY) => "this is a descriptor of something else",
        _ => "",
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_message_names_call_answer_and_remedy_in_one_line() {
        let text = Error::new(Call::Open, Errno::ENOENT).to_string();
        assert_eq!(
            text,
            "open /dev/ashmem: ENOENT: No such file or directory: is the module loaded? \
             `modprobe ashmem`; in a container, is the host's node there?"
        );
        let text = Error::new(Call::SetSize, Errno::EBADF).to_string();
        assert_eq!(text, "ASHMEM_SET_SIZE: EBADF: Bad file number");
    }

    #[test]
    fn one_answer_means_different_things_to_different_calls() {
        let said = |call, errno| Error::new(call, errno).hint().to_owned();
        for (call, errno, word) in [
            (Call::Open, Errno::EACCES, "udev"),
            (Call::Open, Errno::EPERM, "nodev"),
            (Call::Open, Errno::ENODEV, "modprobe ashmem"),
            (Call::SetSize, Errno::EINVAL, "size"),
            (Call::SetName, Errno::EINVAL, "name"),
            (Call::SetMask, Errno::EINVAL, "taken away"),
            (Call::Pin, Errno::EINVAL, "beyond the region"),
            (Call::Map, Errno::EINVAL, "no size"),
            (Call::Map, Errno::EPERM, "restrict"),
            (Call::Map, Errno::ENOMEM, "overcommit"),
            (Call::PurgeAll, Errno::EPERM, "CAP_SYS_ADMIN"),
            (Call::Counters, Errno::ENOTTY, "driver"),
        ] {
            let hint = said(call, errno);
            assert!(hint.contains(word), "{call:?} {errno:?}: {hint}");
            assert!(!hint.contains('\n') && !hint.contains("  "), "{hint}");
        }
    }

    #[test]
    fn as_an_io_error_it_keeps_kind_message_and_number() {
        let error = Error::new(Call::Open, Errno::ENOENT);
        let io = io::Error::from(error);
        assert_eq!(io.kind(), io::ErrorKind::NotFound);
        assert_eq!(io.to_string(), error.to_string());
        let inner = io.get_ref().and_then(|e| e.downcast_ref::<Error>());
        assert_eq!(inner.map(Error::errno), Some(libc::ENOENT));
    }
}
