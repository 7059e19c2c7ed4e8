// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Test;

pub mod counts;
mod debug;
mod device;
mod futex;
mod mapping;
mod module;
pub mod names;
mod pin;
pub mod process;
mod protection;
mod read;
pub mod reclaim;
mod sharing;
mod transfer;
mod userfaultfd;

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
    reclaim::TESTS,
    futex::TESTS,
    transfer::TESTS,
    debug::TESTS,
    userfaultfd::TESTS,
    module::TESTS,
];
