// SPDX-License-Identifier: GPL-2.0-only

//! Touches of memory that may not be there, without dying of it.

use std::arch::global_asm;

use anyhow::Context;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;

global_asm!(
    ".globl guest_touch_read, guest_touch_write, guest_touch_end",
    "guest_touch_read: movzbl (%rdi), %eax",
    "ret",
    "guest_touch_write: movb %sil, (%rdi)",
    "xorl %eax, %eax",
    "guest_touch_end: ret",
    options(att_syntax),
);

unsafe extern "C" {
    fn guest_touch_read(address: usize) -> i32;
    fn guest_touch_write(address: usize, byte: u8) -> i32;
    fn guest_touch_end();
}

/// Reads a byte. An error is the signal that this raised.
pub fn read(address: usize) -> Result<i64, i32> {
    // SAFETY: It reads a byte that nobody in this program relies on; where there is none, the
    // signal is caught.
    answer(unsafe { guest_touch_read(address) })
}

/// Writes a byte, to memory that belongs to no object of this program. An error is the signal
/// that this raised.
///
/// # Safety
///
/// Nobody may rely on what is there.
pub unsafe fn write(address: usize, byte: u8) -> Result<i64, i32> {
    // SAFETY: The caller says that it may be written; where it cannot, the signal is caught.
    answer(unsafe { guest_touch_write(address, byte) })
}

fn answer(found: i32) -> Result<i64, i32> {
    if found < 0 {
        Err(-found)
    } else {
        Ok(found.into())
    }
}

/// Catches the signals of touches, and of nothing else.
pub fn catch_signals() -> anyhow::Result<()> {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        let handler = SigHandler::SigAction(on_signal);
        let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: The handler only looks at its arguments, and changes registers of a touch.
        unsafe { sigaction(signal, &action) }.context("sigaction")?;
    }
    Ok(())
}

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: The kernel passes one, and it is ours until this function returns.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let touch = guest_touch_read as usize as i64..guest_touch_end as usize as i64;
    let rip = &mut registers[libc::REG_RIP as usize];
    if touch.contains(rip) {
        *rip = touch.end;
        registers[libc::REG_RAX as usize] = (-signal).into();
        return;
    }
    // Not one of ours: it happens again, and ends the process.
    // SAFETY: The default action is no function that could misbehave.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
