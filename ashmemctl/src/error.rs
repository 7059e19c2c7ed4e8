// SPDX-License-Identifier: GPL-2.0-only

//! How it can fail, and the exit codes.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// What the exit code tells apart; 2 is clap's, for a command line that it does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything else.
    Other = 1,
    /// There is no such region, or the name is that of several.
    NoSuchRegion = 3,
    /// The kernel does not permit it.
    NotPermitted = 4,
}

/// Why it failed, in one line.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// What a part of this program gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What the kernel answered when something was done to `what`.
    pub fn answer(what: impl fmt::Display, error: &io::Error) -> Self {
        let errno = errno(error);
        let kind = match errno {
            Errno::EPERM | Errno::EACCES => Kind::NotPermitted,
            _ => Kind::Other,
        };
        Self::new(kind, format!("{what}: {errno}"))
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The client's messages say already what to do.
impl From<ashmem::Error> for Error {
    fn from(error: ashmem::Error) -> Self {
        let kind = match Errno::from_raw(error.errno()) {
            Errno::EPERM | Errno::EACCES => Kind::NotPermitted,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
    }
}

/// The number, which says its name when it is printed.
pub fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Whether what was looked at ended meanwhile, or was closed: no error.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(errno(error), Errno::ENOENT | Errno::ESRCH | Errno::EBADF)
}
