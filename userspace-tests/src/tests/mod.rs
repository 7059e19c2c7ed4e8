// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Test;

mod charge;
mod clients;
pub mod counts;
mod device;
mod history;
mod mapping;
pub mod memory;
mod module;
pub mod names;
mod pin;
mod private;
pub mod process;
mod protection;
mod read;
pub mod reclaim;
mod seen;
mod sharing;
mod states;

/// Every test, in the order in which they run; those that reload the module
/// come last.
pub const ALL: &[&[Test]] = &[
    device::TESTS,
    states::TESTS,
    names::TESTS,
    protection::TESTS,
    mapping::TESTS,
    sharing::TESTS,
    read::TESTS,
    seen::TESTS,
    private::TESTS,
    counts::TESTS,
    pin::TESTS,
    reclaim::TESTS,
    charge::TESTS,
    clients::TESTS,
    history::TESTS,
    module::TESTS,
];
