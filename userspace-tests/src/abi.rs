// SPDX-License-Identifier: GPL-2.0-only

//! The ABI as bindgen reads it from the header that users include.

#![allow(missing_docs, non_camel_case_types, dead_code, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
