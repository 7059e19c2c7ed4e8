// SPDX-License-Identifier: GPL-2.0-only

//! Shared memory of `/dev/ashmem`: it has a name, travels between processes as
//! a descriptor, and the kernel may take back what its users have unpinned.
//!
//! ```no_run
//! use ashmem::Region;
//!
//! # fn main() -> ashmem::Result<()> {
//! let region = Region::new(c"thumbnails", 1 << 20)?;
//! let memory = region.map()?;
//! memory.write(0, b"made at some cost");
//!
//! // Not needed for now: the kernel may take it back when memory is short.
//! region.unpin(..)?;
//!
//! // Needed: it stays until `pinned` is dropped.
//! let pinned = region.pin(..)?;
//! if pinned.was_purged() {
//!     // What was taken reads as zeros.
//!     memory.write(0, b"made at some cost");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`Region`]: the descriptor; its name, size and protection, and which of
//!   its pages are pinned
//! - [`Mapping`]: its memory
//! - [`Pinned`]: a range that the kernel leaves alone
//! - [`Error`]: which call failed, and what to do about it
//! - [`abi`]: the raw numbers
//!
//! # Sending a region to another process
//!
//! A [`Region`] is a descriptor ([`AsFd`](std::os::fd::AsFd), and into and from
//! [`OwnedFd`](std::os::fd::OwnedFd)). What arrives is checked:
//!
//! ```no_run
//! # fn received(descriptor: std::os::fd::OwnedFd) -> ashmem::Result<()> {
//! let region = ashmem::Region::try_from(descriptor)?;
//! let memory = region.map()?;
//! # Ok(())
//! # }
//! ```
//!
//! Whoever sends one can forbid writing beforehand, for good, also to itself
//! but for what it has mapped already: [`Region::restrict`].

pub mod abi;
mod error;
mod mapping;
mod pin;
mod region;
mod span;

pub use error::Error;
pub use error::Result;
pub use mapping::MapOptions;
pub use mapping::Mapping;
pub use pin::PageState;
pub use pin::PageStatus;
pub use pin::Pinned;
pub use region::Counters;
pub use region::Protection;
pub use region::Region;
