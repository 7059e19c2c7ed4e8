// SPDX-License-Identifier: GPL-2.0-only

//! The raw numbers and structs, as bindgen reads them from the header that C
//! programs include. `ABI_*` are the ioctl numbers; `*_32` are those that
//! 32-bit programs pass to a 64-bit kernel.
//!
//! For calls that [`Region`](crate::Region) does not have; it needs none of
//! this.

#![allow(missing_docs, non_camel_case_types, clippy::all, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
