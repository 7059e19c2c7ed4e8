// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Test;

pub mod counts;
mod device;
mod extensions;
mod mapping;
mod module;
pub mod names;
mod pin;
pub mod pin_model;
pub mod process;
mod protection;
mod read;
pub mod reclaim;
mod sharing;

/// Every test, in the order in which they run; those that reload the module
/// come last.
pub const ALL: &[&[Test]] = &[
    device::TESTS,
    names::TESTS,
    protection::TESTS,
    mapping::TESTS,
    sharing::TESTS,
    read::TESTS,
    counts::TESTS,
    pin::TESTS,
    extensions::TESTS,
    pin_model::TESTS,
    reclaim::TESTS,
    module::TESTS,
];
