// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Test;

mod advice;
pub mod counts;
mod device;
mod hwpoison;
mod mapping;
mod migration;
mod module;
pub mod names;
pub mod pin;
pub mod process;
mod protection;
mod read;
pub mod reclaim;
mod remap;
mod sharing;

/// Every test, in the order in which they run; those that reload the module
/// come last.
pub const ALL: &[&[Test]] = &[
    device::TESTS,
    names::TESTS,
    protection::TESTS,
    mapping::TESTS,
    remap::TESTS,
    advice::TESTS,
    migration::TESTS,
    hwpoison::TESTS,
    sharing::TESTS,
    read::TESTS,
    counts::TESTS,
    pin::TESTS,
    reclaim::TESTS,
    module::TESTS,
];
