// SPDX-License-Identifier: GPL-2.0-only

//! The tests of the driver, by concern.

use crate::harness::Case;
use crate::harness::Test;

mod advice;
mod c_library;
mod charge;
mod client;
mod clients;
pub mod counts;
#[cfg(target_pointer_width = "64")]
mod ctl;
mod debug;
mod device;
mod examples;
mod extensions;
pub mod failing;
mod folios;
mod futex;
// It catches signals of touches by registers of this processor.
#[cfg(target_pointer_width = "64")]
mod fuzz;
pub mod group;
mod history;
mod hwpoison;
mod kunit;
mod locks;
pub mod mapping;
pub mod memory;
mod migration;
pub mod module;
pub mod names;
mod pin;
pub mod pin_model;
mod pressure;
mod private;
pub mod process;
mod protection;
mod races;
mod read;
pub mod reclaim;
mod remap;
mod secure_boot;
mod seen;
mod sharing;
mod states;
mod stress;
mod stressors;
pub mod transfer;
mod userfaultfd;

/// Every test, in the order in which they run; the last two tables are of those
/// that reload the module, and a KUnit test that fails may leave it in use.
pub const ALL: &[&[Test]] = &[
    device::TESTS,
    states::TESTS,
    names::TESTS,
    protection::TESTS,
    mapping::TESTS,
    remap::TESTS,
    advice::TESTS,
    migration::TESTS,
    hwpoison::TESTS,
    sharing::TESTS,
    read::TESTS,
    seen::TESTS,
    private::TESTS,
    counts::TESTS,
    folios::TESTS,
    pin::TESTS,
    extensions::TESTS,
    pin_model::TESTS,
    failing::TESTS,
    reclaim::TESTS,
    races::TESTS,
    pressure::TESTS,
    charge::TESTS,
    clients::TESTS,
    history::TESTS,
    client::TESTS,
    c_library::TESTS,
    examples::TESTS,
    #[cfg(target_pointer_width = "64")]
    ctl::TESTS,
    futex::TESTS,
    transfer::TESTS,
    debug::TESTS,
    userfaultfd::TESTS,
    stressors::TESTS,
    #[cfg(target_pointer_width = "64")]
    fuzz::TESTS,
    locks::TESTS,
    stress::TESTS,
    module::TESTS,
    kunit::TESTS,
];

/// What programs rely on, so that it must hold for 32-bit programs as well: the
/// program built for i386 runs these once more. What the kernel does behind it
/// is one for both.
pub const ABI: &[&[Test]] = &[
    device::TESTS,
    states::TESTS,
    names::TESTS,
    protection::TESTS,
    mapping::TESTS,
    remap::TESTS,
    advice::TESTS,
    hwpoison::TESTS,
    sharing::TESTS,
    read::TESTS,
    seen::TESTS,
    private::TESTS,
    pin::TESTS,
    extensions::TESTS,
    clients::TESTS,
    history::TESTS,
    client::TESTS,
    futex::TESTS,
    transfer::TESTS,
    debug::TESTS,
    userfaultfd::TESTS,
];

/// What is to run: [`in_order`], or the tests for a machine with Secure Boot.
pub fn wanted(secure_boot: bool) -> Box<dyn Iterator<Item = Case>> {
    if secure_boot {
        Box::new(secure_boot::TESTS.iter().map(Case::here))
    } else {
        Box::new(in_order())
    }
}

/// Everything that is to run in other machines: the i386 tests come after the others, and what
/// reloads the module after all.
pub fn in_order() -> impl Iterator<Item = Case> {
    let (first, last) = ALL.split_at(ALL.len() - 2);
    let here = |tables: &'static [&[Test]]| tables.iter().copied().flatten().map(Case::here);
    here(first)
        .chain(ABI.iter().copied().flatten().map(Case::i386))
        .chain(here(last))
}
