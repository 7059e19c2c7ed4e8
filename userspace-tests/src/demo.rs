// SPDX-License-Identifier: GPL-2.0-only

//! The demonstration: what the module is good for, readably.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::sys::utsname::uname;

use crate::region::Info;
use crate::region::PAGE;
use crate::region::Region;
use crate::region::fdinfo;
use crate::tests::counts::Step;
use crate::tests::counts::settle;
use crate::tests::counts::watch;
use crate::tests::names::line_at;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::tests::reclaim::free_pages;
use crate::tests::reclaim::occupy;

/// Pages of the small region.
const N: usize = 64;
/// Pages in a mebibyte.
const MIB: usize = (1 << 20) / PAGE;

/// Shows it on standard output, which the host streams.
pub fn run() -> anyhow::Result<()> {
    let system = uname()?;
    println!(
        "This is Linux {}, as Debian ships it, with the module loaded.",
        system.release().to_string_lossy()
    );
    name_and_map()?;
    count_faults()?;
    purge_under_pressure()
}

fn heading(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

fn name_and_map() -> anyhow::Result<()> {
    heading("A region is made, named, and mapped by two processes");
    let (here, there) = sockets()?;
    let other = spawn(|| {
        let region = ashmem::Region::try_from(receive_fd(&there)?)?;
        let map = region.map()?;
        println!(
            "  process B   got it over a socket: name \"{}\", {} KiB, page 3 begins with {}",
            region.name()?.to_string_lossy(),
            region.size()? / 1024,
            byte(&map, 3 * PAGE)
        );
        map.write(5 * PAGE, &[77]);
        println!("  process B   writes 77 into page 5 and exits");
        Ok(())
    })?;
    let region = ashmem::Region::new(c"picture-cache", N * PAGE)?;
    let map = region.map()?;
    println!("  process A   {}", line_at(map.as_ptr() as usize)?);
    map.write(3 * PAGE, &[42]);
    println!("  process A   writes 42 into page 3 and sends the descriptor to process B");
    send_fd(&here, region.as_fd())?;
    other.join()?;
    println!("  process A   page 5 begins with {}", byte(&map, 5 * PAGE));
    ensure!(byte(&map, 5 * PAGE) == 77);
    Ok(())
}

/// One byte of a mapping.
fn byte(map: &ashmem::Mapping<'_>, at: usize) -> u8 {
    map.bytes()[at].load(Ordering::Relaxed)
}

fn row(what: &str, step: Step, why: &str) {
    println!(
        "  {what:<29}{:>8}{:>8}{:>11}{:>9}   {why}",
        step.faults, step.map_faults, step.allocated, step.minor
    );
}

fn count_faults() -> anyhow::Result<()> {
    heading(&format!("{N} pages are touched, one byte in each"));
    settle()?;
    let region = Region::sized(N)?;
    let (first, second, third) = (region.map(N)?, region.map(N)?, region.map(N)?);
    println!("                                 driver: its    map_     pages     getrusage:");
    println!("                                  handler   pages  allocated   minor faults");
    row(
        "first mapping, written",
        watch(&region, || first.write_pages(0..N))?,
        "in sequence: each fault takes more, up to 16 pages",
    );
    row(
        "the same again",
        watch(&region, || first.write_pages(0..N))?,
        "all is mapped: no fault at all",
    );
    row(
        "second mapping, written",
        watch(&region, || second.write_pages(0..N))?,
        "same memory: nothing is allocated",
    );
    row(
        "third mapping, read",
        watch(&region, || {
            third.read_pages(0..N);
        })?,
        "a folio or what is around it at a time: same memory",
    );
    region.unpin(0..N)?;
    region.purge_all()?;
    row(
        "first mapping after a purge",
        watch(&region, || first.write_pages(0..N))?,
        "the pages were taken back: all anew",
    );
    let single = Region::sized(N)?;
    let map = single.map(N)?.single()?;
    row(
        "another region, MADV_RANDOM",
        watch(&single, || map.write_pages(0..N))?,
        "a handler call and a fresh page each",
    );
    Ok(())
}

fn purge_under_pressure() -> anyhow::Result<()> {
    heading("Unpinned memory is taken back when another process needs it");
    let (all, kept) = (96 * MIB, 16 * MIB);
    let free = free_pages()?;
    occupy(free.saturating_sub(160 * MIB), true)?;

    let region = ashmem::Region::new(c"thumbnails", all * PAGE)?;
    let map = region.map()?;
    for page in 0..all {
        map.write(page * PAGE, &[7]);
    }
    let may_go = (kept * PAGE) as u64..;
    region.unpin(may_go.clone())?;
    println!("  96 MiB are written, the first 16 stay pinned, 80 are unpinned");
    println!("  {} MiB of the machine are free", free_pages()? / MIB);

    let wanted = free_pages()? + 40 * MIB;
    in_child(|| {
        occupy(wanted, false)?;
        println!(
            "  another process wants {} MiB, and gets them",
            wanted / MIB
        );
        Ok(())
    })
    .context("the one that wants memory")?;
    // From here on nothing more is taken.
    let pinned = region.pin(may_go)?;
    let info = Info::parse(&fdinfo(&region)?)?;
    println!(
        "  the kernel took {} MiB from the region; {} MiB are left",
        info.purged as usize / MIB,
        info.resident as usize / MIB
    );
    ensure!(info.purged > 0, "there was no pressure");
    println!(
        "  PIN of the 80 MiB says: {}",
        if pinned.was_purged() {
            "1, was purged. What is gone reads as zeros, and is made again:"
        } else {
            "0, not purged"
        }
    );
    let mut gone = 0;
    for page in 0..all {
        let found = byte(&map, page * PAGE);
        if found != 7 {
            ensure!(page >= kept, "a pinned page was lost");
            ensure!(found == 0, "a page is torn");
            map.write(page * PAGE, &[7]);
            gone += 1u64;
        }
    }
    println!("  {gone} pages were gone, none of the {kept} that were pinned");
    ensure!(
        pinned.was_purged() && gone == info.purged,
        "{gone} pages, {info:?}"
    );

    println!("\n  /proc/self/fdinfo says of it:");
    for line in fdinfo(&region)?.lines() {
        println!("    {line}");
    }
    let used = fs::read_to_string("/proc/modules")?;
    let line = used
        .lines()
        .find(|l| l.starts_with("ashmem "))
        .context("no module")?;
    println!("\n  /proc/modules: {line}");
    Ok(())
}
