// SPDX-License-Identifier: GPL-2.0-only

//! What is decided without a kernel: `core` only, no locks, no allocation, no `unsafe`.
//!
//! The same files are compiled into the host's tests, where every operation is compared with a
//! model.

pub(crate) mod growth;
pub(crate) mod page_range;
pub(crate) mod pins;
