// SPDX-License-Identifier: GPL-2.0-only

//! What counts.
//!
//! The machine has one processor and a clock that goes on by a nanosecond with each
//! instruction, and so does its time stamp counter. The same run gives the same numbers
//! anywhere; they are no time on any hardware.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::time::Duration;

use ashmem_figures::Clock;
use nix::time::ClockId;
use nix::time::clock_gettime;

use super::clock;
use super::wait_for_a_tick;
use crate::region::PAGE;

/// How often what is short is tried.
const TRIES: usize = 20;

/// What the clock shows.
pub fn now() -> u64 {
    match clock() {
        // SAFETY: Every x86-64 has the counter, and Linux lets programs read it.
        Clock::Instructions => unsafe { _rdtsc() },
        Clock::Nanoseconds => time(ClockId::CLOCK_MONOTONIC).as_nanos() as u64,
    }
}

fn time(clock: ClockId) -> Duration {
    clock_gettime(clock).expect("these clocks exist").into()
}

/// The time of the last tick.
pub fn coarse() -> Duration {
    time(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// What the clock shows, without what other tasks take meanwhile: for what is so long that the
/// kernel's own do something in it. It goes on by a nanosecond with each instruction as well.
pub fn own() -> u64 {
    match clock() {
        Clock::Instructions => time(ClockId::CLOCK_THREAD_CPUTIME_ID).as_nanos() as u64,
        Clock::Nanoseconds => now(),
    }
}

/// What passed by one of these since then, without what it takes to look twice.
pub fn since(start: u64, shows: fn() -> u64) -> f64 {
    let took = shows() - start;
    let look = shows();
    took.saturating_sub(shows() - look) as f64
}

/// To a hundredth: more says nothing.
pub fn rounded(cost: f64) -> f64 {
    (cost * 100.0).round() / 100.0
}

/// What `body` takes, done `times` times: the least of some tries, as a timer's interrupt may
/// be in the others.
pub fn least(times: usize, body: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    least_of(TRIES, times, body)
}

/// The same of so many tries.
pub fn least_of(
    tries: usize,
    times: usize,
    mut body: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let mut least = f64::MAX;
    wait_for_a_tick();
    for _ in 0..tries {
        let start = now();
        for _ in 0..times {
            body()?;
        }
        least = least.min(since(start, now));
    }
    Ok(rounded(least / times as f64))
}

/// What it costs to clear a page.
///
/// The kernel does it with one `rep stosb` on a processor that says it is good at that, as
/// QEMU's does and all of this century's second decade and later do. The same instruction for a
/// page and for no byte at all, with all around it equal, differs by just that.
pub fn clearing() -> f64 {
    let mut page = vec![1u8; PAGE];
    let mut least = |len: usize| {
        (0..TRIES)
            .map(|_| {
                let start = now();
                // SAFETY: It writes `len` bytes, at most as many as are there, and the
                // registers that it changes are named.
                unsafe {
                    asm!(
                        "rep stosb",
                        inout("rdi") page.as_mut_ptr() => _,
                        inout("rcx") len => _,
                        in("al") 0u8,
                        options(nostack, preserves_flags),
                    );
                }
                since(start, now)
            })
            .fold(f64::MAX, f64::min)
    };
    least(PAGE) - least(0)
}
