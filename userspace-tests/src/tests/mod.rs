// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Test;

mod device;

/// Every test, in the order in which they run.
pub const ALL: &[&[Test]] = &[device::TESTS];
