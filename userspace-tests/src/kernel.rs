// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's ABI as bindgen reads it from its headers, as far as neither
//! libc nor nix has it.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/kernel.rs"));
