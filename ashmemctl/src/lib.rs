// SPDX-License-Identifier: GPL-2.0-only

//! What `ashmemctl` is made of, apart from its command line.
//!
//! - [`fdinfo`], [`maps`]: what /proc says of a descriptor and of a mapping
//! - [`process`]: what one process has
//! - [`snapshot`]: the regions of all processes, each once, with its holders
//! - [`pages`]: the pages of one region, and a picture of them
//! - [`text`]: what is printed
//! - [`error`]: how it can fail, and the exit codes
//!
//! To look changes nothing: no page is touched, no state set. To list takes
//! what /proc tells. What that cannot tell, the state of pages, is asked through
//! a second descriptor of the same open file, as opening `/proc/PID/fd/N` would
//! make a new region.

pub mod error;
pub mod fdinfo;
pub mod maps;
pub mod name;
pub mod pages;
pub mod process;
pub mod snapshot;
pub mod text;
