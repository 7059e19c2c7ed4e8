// SPDX-License-Identifier: GPL-2.0-only

//! What is done to each page of much memory.

use ashmem_figures::Per;
use ashmem_figures::Target;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Bench;
use super::targets::Memory;
use crate::region::Mapping;
use crate::region::PAGE;

/// Pages of the memory, 64 MiB.
pub const PAGES: usize = 64 << 20 >> 12;

/// Pages of what is touched here and there, 1 GiB, and how far apart that is.
const FAR: usize = 1 << 30 >> 12;
const APART: usize = 64;

/// Writes to each of these pages.
fn write(map: &Mapping, pages: &[usize]) -> anyhow::Result<()> {
    for page in pages {
        map.write(page * PAGE, 1);
    }
    Ok(())
}

/// Reads each of these pages.
fn read(map: &Mapping, pages: &[usize]) -> anyhow::Result<()> {
    for page in pages {
        map.read(page * PAGE);
    }
    Ok(())
}

/// Measures one kind of memory.
pub fn measure(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let forwards: Vec<usize> = (0..PAGES).collect();
    let backwards: Vec<usize> = (0..PAGES).rev().collect();
    let mut random = forwards.clone();
    random.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    second_mappings(bench, target, &forwards, &random)?;
    life(bench, target, &backwards)?;
    by_reading(bench, target, &forwards)?;
    at_once(bench, target)?;
    taken_away(bench, target, &random)?;
    here_and_there(bench, target, "every 64th page of 1 GiB", None)?;
    if target.is_huge() {
        return Ok(());
    }
    let advice = Some(libc::MADV_RANDOM);
    here_and_there(bench, target, "the same, MADV_RANDOM", advice)
}

fn page(name: &str) -> (&str, Per, usize) {
    (name, Per::Page, PAGES)
}

/// Touched in sequence, mapped again, unmapped, and closed.
fn second_mappings(
    bench: &mut Bench,
    target: Target,
    forwards: &[usize],
    random: &[usize],
) -> anyhow::Result<()> {
    let base = bench.held()?;
    let memory = Memory::new(target, PAGES)?;
    let first = memory.map()?;
    let what = page("first touch, written in sequence");
    bench.step(what, target, base, Some(&first), || write(&first, forwards))?;

    type Touch = fn(&Mapping, &[usize]) -> anyhow::Result<()>;
    let again: [(&str, &[usize], Touch); 3] = [
        ("second mapping, written in sequence", forwards, write),
        ("second mapping, read in sequence", forwards, read),
        ("second mapping, written at random", random, write),
    ];
    for (what, order, touch) in again {
        if let Some(map) = memory.map_again(&first)? {
            bench.step(page(what), target, base, Some(&map), || touch(&map, order))?;
        }
    }
    if memory.fd().is_some() {
        bench.step(page("munmap"), target, base, None, || {
            drop(first);
            Ok(())
        })?;
        bench.step(page("close"), target, base, None, || {
            drop(memory);
            Ok(())
        })?;
    }
    Ok(())
}

/// Touched backwards, and given back.
fn life(bench: &mut Bench, target: Target, backwards: &[usize]) -> anyhow::Result<()> {
    let base = bench.held()?;
    let memory = Memory::new(target, PAGES)?;
    let map = memory.map()?;
    let what = page("first touch, written backwards");
    bench.step(what, target, base, Some(&map), || write(&map, backwards))?;
    bench.step(page("munmap and close"), target, base, None, || {
        drop(map);
        drop(memory);
        Ok(())
    })
}

/// Touched at random, taken away, and touched again.
fn taken_away(bench: &mut Bench, target: Target, random: &[usize]) -> anyhow::Result<()> {
    let base = bench.held()?;
    let memory = Memory::new(target, PAGES)?;
    let map = memory.map()?;
    let what = page("first touch, written at random");
    bench.step(what, target, base, Some(&map), || write(&map, random))?;
    take_away(
        bench,
        target,
        "the same, touched at random",
        base,
        (&memory, &map),
    )?;
    let what = page("touched again after that");
    bench.step(what, target, base, Some(&map), || write(&map, random))
}

/// Touched by reading.
fn by_reading(bench: &mut Bench, target: Target, forwards: &[usize]) -> anyhow::Result<()> {
    let base = bench.held()?;
    let memory = Memory::new(target, PAGES)?;
    let map = memory.map()?;
    let what = page("first touch, read in sequence");
    bench.step(what, target, base, Some(&map), || read(&map, forwards))
}

/// Populated, and taken away.
fn at_once(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let base = bench.held()?;
    let memory = Memory::new(target, PAGES)?;
    let map = memory.map()?;
    let what = page("MADV_POPULATE_WRITE");
    bench.step(what, target, base, Some(&map), || {
        Ok(map.advise(0..PAGES, libc::MADV_POPULATE_WRITE)?)
    })?;
    take_away(
        bench,
        target,
        "purge, or a hole punched",
        base,
        (&memory, &map),
    )
}

/// All that a mapping of all of the memory has is taken away.
fn take_away(
    bench: &mut Bench,
    target: Target,
    what: &str,
    base: i64,
    (memory, map): (&Memory, &Mapping),
) -> anyhow::Result<()> {
    bench.step(page(what), target, base, Some(map), || {
        memory.take_away(map)
    })?;
    if let Some(region) = memory.region() {
        anyhow::ensure!(region.pin(0..PAGES)?, "nothing was purged");
    }
    Ok(())
}

/// Touched here and there: what counts is how much memory that takes.
fn here_and_there(
    bench: &mut Bench,
    target: Target,
    what: &str,
    advice: Option<libc::c_int>,
) -> anyhow::Result<()> {
    let pages: Vec<usize> = (0..FAR).step_by(APART).collect();
    let base = bench.held()?;
    let memory = Memory::new(target, FAR)?;
    let map = memory.map()?;
    if let Some(advice) = advice {
        map.advise(0..FAR, advice)?;
    }
    let what = (what, Per::Page, pages.len());
    bench.step(what, target, base, Some(&map), || write(&map, &pages))
}
