// SPDX-License-Identifier: GPL-2.0-only

//! Boots a kernel with the test guest in QEMU, and judges what the guest
//! reports.
//!
//! - [`initramfs`] packs the guest's programs
//! - [`machine`] runs QEMU and records what comes out of it, within a limit
//! - [`accel`] decides between KVM and emulation
//! - [`secure_boot`] makes keys, and a firmware that trusts them
//! - [`tap`] reads the guest's report line by line
//! - [`verdict`] judges one run: pure code
//! - [`host_tests`] runs `cargo test` and reads its result
//! - [`display`] is what people see
//! - [`bench`] shows what the benchmark measured
//! - [`kernels`] shows what became of each kernel
//! - [`readme`] puts what was recorded into the README

pub mod accel;
pub mod bench;
pub mod display;
pub mod host_tests;
pub mod initramfs;
pub mod kernels;
pub mod machine;
pub mod readme;
pub mod secure_boot;
pub mod tap;
pub mod verdict;
