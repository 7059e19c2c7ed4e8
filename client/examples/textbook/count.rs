// SPDX-License-Identifier: GPL-2.0-only

//! Parent and child count in memory that they share, and take turns.
//!
//! Whose turn it is, the counter says itself: the parent's if it is even. Who waits sleeps in futex(2).

use std::fs;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::process::Stdio;
use std::process::exit;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::Region;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::fork;

use crate::PAGE;
use crate::program;

/// Where the shared memory comes from: what it is called on the command line, and in print.
const KINDS: [(&str, &str); 3] = [
    ("zero", "MAP_SHARED of /dev/zero"),
    ("anonymous", "MAP_SHARED | MAP_ANONYMOUS"),
    ("ashmem", "a region of /dev/ashmem"),
];

/// Where they stop.
const END: u32 = 6;

/// A counter in memory that a child of fork(2) has as well. It stays mapped to the program's end.
fn shared_counter(kind: &str) -> anyhow::Result<&'static AtomicU32> {
    let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let page = NonZeroUsize::new(PAGE).context("a page has bytes")?;
    let base = match kind {
        "zero" => {
            let zero = fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/zero")?;
            // SAFETY: Without MAP_FIXED a mapping replaces nothing.
            unsafe { mmap(None, page, rw, MapFlags::MAP_SHARED, zero, 0) }?.as_ptr()
        }
        // SAFETY: As above.
        "anonymous" => unsafe { mmap_anonymous(None, page, rw, MapFlags::MAP_SHARED) }?.as_ptr(),
        "ashmem" => {
            let memory = Region::new(c"counter", PAGE)?.map()?.detach();
            ManuallyDrop::new(memory).as_ptr().cast()
        }
        _ => bail!("there is no kind {kind}"),
    };
    // SAFETY: It is mapped for good, begins at a page, and is changed by atomic operations only.
    Ok(unsafe { AtomicU32::from_ptr(base.cast()) })
}

/// Waits until the counter is another than this. May return without cause.
fn wait(counter: &AtomicU32, while_it_is: u32) {
    // Not FUTEX_PRIVATE_FLAG: two processes use it. That it has changed already is an answer, too.
    // SAFETY: The kernel reads the counter, and without a time it waits forever.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            counter.as_ptr(),
            libc::FUTEX_WAIT,
            while_it_is,
            ptr::null::<libc::timespec>(),
        )
    };
}

/// Wakes the one that waits.
fn wake(counter: &AtomicU32) -> anyhow::Result<()> {
    // SAFETY: The kernel looks for who waits at this address, and reads nothing.
    let woken = unsafe { libc::syscall(libc::SYS_futex, counter.as_ptr(), libc::FUTEX_WAKE, 1) };
    Errno::result(woken)?;
    Ok(())
}

/// One of the two: adds one whenever the counter's lowest bit says that it is its turn.
fn take_turns(counter: &AtomicU32, who: &str, turn: u32) -> anyhow::Result<()> {
    loop {
        let found = counter.load(Ordering::Acquire);
        if found == END {
            return Ok(());
        }
        if found % 2 != turn {
            wait(counter, found);
            continue;
        }
        // Before the other one is let on, or the lines would be in any order.
        println!("{who} finds {found}, makes it {}", found + 1);
        counter.store(found + 1, Ordering::Release);
        wake(counter)?;
    }
}

/// The program, with memory of one kind.
pub fn run(kind: &str) -> anyhow::Result<()> {
    let counter = shared_counter(kind)?;
    // SAFETY: This process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let done = take_turns(counter, "child ", 1);
            exit(i32::from(done.is_err()));
        }
        ForkResult::Parent { child } => {
            take_turns(counter, "parent", 0)?;
            let status = waitpid(child, None)?;
            ensure!(status == WaitStatus::Exited(child, 0), "{status:?}");
            Ok(())
        }
    }
}

/// What `/proc/PID/maps` calls memory of one kind.
fn called(kind: &str) -> anyhow::Result<String> {
    let address = shared_counter(kind)?.as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps
        .lines()
        .find(|line| line.starts_with(&format!("{address:08x}-")))
        .context("it is not mapped")?;
    let name = line.splitn(6, ' ').last().context("it has no name")?;
    Ok(name.trim().to_owned())
}

/// Runs it with memory of each kind, and compares.
pub fn show() -> anyhow::Result<()> {
    println!("parent and child count in memory that they share, and take turns");
    let expected: Vec<String> = (0..END)
        .map(|n| {
            let who = ["parent", "child "][n as usize % 2];
            format!("{who} finds {n}, makes it {}\n", n + 1)
        })
        .collect();
    for (kind, text) in KINDS {
        let output = program(&["count", kind])?
            .stderr(Stdio::inherit())
            .output()?;
        let found = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.success() && found == expected.concat(),
            "{kind}:\n{found}"
        );
        println!("  {text:27}in /proc/PID/maps: {}", called(kind)?);
    }
    println!("  with all three it prints the same:");
    for line in &expected {
        print!("    {line}");
    }
    Ok(())
}
