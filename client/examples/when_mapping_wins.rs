// SPDX-License-Identifier: GPL-2.0-only

//! When mapping wins: what it takes by size to get at memory, mapped or by read(2).
//!
//! It does both, counts system calls, faults and bytes copied, and puts beside them the instructions that
//! `make bench` has counted for the same (docs/bench.json).

use std::io::Read;
use std::os::fd::AsFd;

use anyhow::Context;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Region;
use ashmem_figures::Results;
use ashmem_figures::Sweep;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;

/// What was measured.
const RECORDED: &str = include_str!("../../docs/bench.json");
/// In bytes.
const PAGE: usize = 4096;
/// The largest of the sizes, in bytes.
const LARGEST: usize = 64 << 20;
/// What is read by one call at most, in bytes.
const BLOCK: usize = 1 << 20;

/// Minor faults of this process so far.
fn faults() -> anyhow::Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.minor_page_faults())
}

/// A number of bytes, which is a power of two.
fn text(size: usize) -> String {
    match size {
        0..0x400 => format!("{size} B"),
        0x400..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// What `make bench` found for a way and a size: instructions for all of it.
fn recorded(sweep: &Sweep, way: usize, size: usize) -> anyhow::Result<f64> {
    let way = sweep.ways.get(way).context("no such way is recorded")?;
    let point = way.points.iter().find(|(at, _)| *at == size as u64);
    let (size, cost) = point.context("that size is not recorded")?;
    Ok(*size as f64 * cost)
}

/// The number of calls of read(2), and of bytes that they copied.
fn by_read(region: &Region, size: usize, buffer: &mut [u8]) -> anyhow::Result<(usize, usize)> {
    // Of the same description: a region is read like any file.
    let mut file = std::fs::File::from(region.as_fd().try_clone_to_owned()?);
    std::io::Seek::rewind(&mut file)?;
    let (mut calls, mut copied) = (0, 0);
    while copied < size {
        let block = &mut buffer[..BLOCK.min(size - copied)];
        let n = file.read(block)?;
        ensure!(n != 0, "the region ends at {copied} bytes");
        ensure!(block[..n].iter().step_by(PAGE).all(|byte| *byte == 1));
        calls += 1;
        copied += n;
    }
    Ok((calls, copied))
}

/// The number of faults of a mapping of the first bytes, of which one is read in each page.
fn by_mapping(region: &Region, size: usize) -> anyhow::Result<i64> {
    let options = MapOptions::new().range(..size as u64);
    let memory = region.map_with(options)?;
    let mut byte = [0];
    let before = faults()?;
    for at in (0..size).step_by(PAGE) {
        memory.read(at, &mut byte);
        ensure!(byte == [1]);
    }
    Ok(faults()? - before)
}

fn main() -> anyhow::Result<()> {
    let results: Results = serde_json::from_str(RECORDED).context("docs/bench.json")?;
    let [reading, _, making] = &results.sweeps[..] else {
        anyhow::bail!("docs/bench.json has other sweeps than this program knows");
    };
    let region = Region::new(c"read", LARGEST)?;
    let memory = region.map()?;
    for at in (0..LARGEST).step_by(PAGE) {
        memory.write(at, &[1]);
    }
    let mut buffer = vec![0; BLOCK];
    // What is touched first costs faults of its own.
    by_read(&region, LARGEST, &mut buffer)?;

    println!(
        "memory that is there: by read(2), or mapped for it, a byte of each page read, and unmapped"
    );
    println!("  instructions are those that make bench has counted, without the copying\n");
    println!("            read(2)                              mmap(2) and munmap(2)");
    println!("  size      calls    copied      instructions    faults      instructions");
    for size in (0..)
        .map(|step| 64 << (2 * step))
        .take_while(|size| *size <= LARGEST)
    {
        let before = faults()?;
        let (calls, copied) = by_read(&region, size, &mut buffer)?;
        ensure!(copied == size && calls == size.div_ceil(BLOCK));
        ensure!(
            faults()? == before,
            "read(2) into memory that is there faults"
        );
        let mapped = by_mapping(&region, size)?;
        ensure!(mapped > 0 && mapped as usize <= size.div_ceil(PAGE));
        let (read, map) = (recorded(reading, 3, size)?, recorded(reading, 0, size)?);
        println!(
            "  {:8} {calls:6}  {:>8}   {:>15}    {:>6}   {:>15}",
            text(size),
            text(copied),
            format!("~{read:.0}"),
            format!("~{mapped}"),
            format!("~{map:.0}")
        );
    }
    let [mapped, standing, called, uncopied] = &reading.ways[..] else {
        anyhow::bail!("other ways to read are recorded");
    };
    let from = |first: &ashmem_figures::Way, other| first.cheaper_from(other).unwrap_or(0) / 1024;
    println!(
        "\nmapping it is cheaper from ~{} KiB on, or from ~{} KiB on if copying cost nothing",
        from(mapped, called),
        from(mapped, uncopied)
    );
    let always = standing
        .points
        .iter()
        .zip(&uncopied.points)
        .all(|(a, b)| a.1 < b.1);
    ensure!(always, "what is mapped already is not the cheapest");
    println!("what is mapped already is cheaper at every size");

    let [ours, memfd] = &making.ways[..] else {
        anyhow::bail!("other kinds of memory are recorded");
    };
    let for_a_page =
        |at: Option<&(u64, f64)>| at.map(|(_, cost)| cost * PAGE as f64).context("none");
    println!("\nmany small regions and few large ones: to make, map, touch, unmap and close them");
    println!(
        "  a page of a region of one page costs ~{:.0} instructions, a memfd's ~{:.0}",
        for_a_page(ours.points.first())?,
        for_a_page(memfd.points.first())?
    );
    println!(
        "  a page of a region of 64 MiB costs ~{:.0}, a memfd's ~{:.0}",
        for_a_page(ours.points.last())?,
        for_a_page(memfd.points.last())?
    );
    println!(
        "  a region is cheaper than a memfd from ~{} KiB on",
        from(ours, memfd)
    );
    Ok(())
}
