// SPDX-License-Identifier: GPL-2.0-only

//! When mapping wins: what it takes by size to get at memory, and to have it at all.
//!
//! What the program does with each byte is the same in all ways and not in them: of a mapping, a byte of
//! each page is touched. Of what the kernel copies, the copying is in the one figure and not in the other:
//! counted by instructions it is as dear as a byte can be, and no memory is that slow.

use std::os::fd::BorrowedFd;

use anyhow::Context;
use anyhow::ensure;
use ashmem_figures::Sweep;
use ashmem_figures::Target;
use ashmem_figures::Way;
use nix::sys::uio::pread;
use nix::sys::uio::pwrite;

use super::clock;
use super::targets::Memory;
use crate::region::Mapping;
use crate::region::PAGE;

/// The largest size, in bytes.
const LARGEST: usize = 1 << 30;
/// What is read or written by one call at most, in bytes.
const BLOCK: usize = 1 << 20;
/// Of the regions that are made, all together, in bytes.
const ALL_REGIONS: usize = 64 << 20;

/// Reads or writes one block at an offset, with a buffer of the same size; gives how much.
type Call = fn(BorrowedFd<'_>, &mut [u8], i64) -> nix::Result<usize>;

/// Touches a byte of each of the first pages.
type Touch = fn(&Mapping, usize);

/// Measures all of it. `clearing` is what it takes to clear a page.
pub fn measure(clearing: f64) -> anyhow::Result<Vec<Sweep>> {
    let read: Touch = |map, pages| {
        for page in 0..pages {
            map.read(page * PAGE);
        }
    };
    let write: Touch = |map, pages| {
        for page in 0..pages {
            map.write(page * PAGE, 1);
        }
    };
    // What is copied costs what is cleared.
    let copying = clearing / PAGE as f64;
    let by_read: Call = |fd, bytes, at| pread(fd, bytes, at);
    let by_write: Call = |fd, bytes, at| pwrite(fd, bytes, at);
    let memfd = ("write", "write(2) to a memfd");
    Ok(vec![
        copied(("read", "read(2)"), Target::Ashmem, read, by_read, copying)?,
        copied(memfd, Target::Memfd, write, by_write, copying)?,
        allocated(clearing)?,
    ])
}

/// Each fourfold size from the first to the last.
fn sizes(first: usize, last: usize) -> impl Iterator<Item = usize> {
    (0..)
        .map(move |step| first << (2 * step))
        .take_while(move |size| *size <= last)
}

/// What `body` takes for each of `size` bytes, of which there are enough for a good figure.
fn for_a_byte(size: usize, body: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (tries, times) = match size {
        ..=0xffff => (20, 20),
        0x10000..=0xfffff => (5, 2),
        _ => (2, 1),
    };
    Ok(clock::least_of(tries, times, body)? / size as f64)
}

/// Memory that is there, through mappings and through calls, of which a file of the kind `other` is the
/// target.
fn copied(
    (what, call_name): (&str, &str),
    other: Target,
    touch: Touch,
    call: Call,
    copying: f64,
) -> anyhow::Result<Sweep> {
    println!("{what}, by size");
    let region = Memory::new(Target::Ashmem, LARGEST / PAGE)?;
    let standing = region.map()?;
    standing.write_pages(0..LARGEST / PAGE);
    let file = match other {
        Target::Ashmem => None,
        other => Some(Memory::new(other, BLOCK / PAGE)?),
    };
    let fd = file
        .as_ref()
        .unwrap_or(&region)
        .fd()
        .context("a descriptor")?;
    let mut buffer = vec![1; BLOCK];

    let [mut anew, mut again, mut called, mut uncopied] = [const { vec![] }; 4];
    for size in sizes(64, LARGEST) {
        let pages = size.div_ceil(PAGE);
        let point = |cost| (size as u64, cost);
        anew.push(point(for_a_byte(size, || {
            let map = region.map_pages(pages)?;
            touch(&map, pages);
            Ok(())
        })?));
        again.push(point(for_a_byte(size, || {
            touch(&standing, pages);
            Ok(())
        })?));
        let cost = for_a_byte(size, || {
            for at in (0..size).step_by(BLOCK) {
                let block = &mut buffer[..size.min(BLOCK)];
                // A memfd has one block, which is written again and again.
                let at = if file.is_some() { 0 } else { at as i64 };
                ensure!(call(fd, block, at)? == block.len(), "less than a block");
            }
            Ok(())
        })?;
        called.push(point(cost));
        uncopied.push(point(cost - copying));
    }
    let way = |name: &str, points| Way {
        name: name.into(),
        points,
    };
    Ok(Sweep {
        name: format!("{what} what is there"),
        size: "at once".into(),
        ways: vec![
            way("mapped for it", anew),
            way("mapped already", again),
            way(&format!("{call_name}, up to 1 MiB a call"), called),
            way(&format!("{call_name}, but for the copying"), uncopied),
        ],
    })
}

/// Many small pieces of memory, and few large ones.
fn allocated(clearing: f64) -> anyhow::Result<Sweep> {
    println!("many small regions and few large ones");
    let ways = [("this driver", Target::Ashmem), ("memfd", Target::Memfd)];
    let ways = ways.into_iter().map(|(name, target)| {
        let points = sizes(PAGE, ALL_REGIONS).map(|size| {
            let count = (ALL_REGIONS / size).min(64);
            let cost = clock::least_of(2, 1, || {
                for _ in 0..count {
                    let memory = Memory::new(target, size / PAGE)?;
                    memory.map()?.write_pages(0..size / PAGE);
                }
                Ok(())
            })?;
            Ok((
                size as u64,
                cost / (count * size) as f64 - clearing / PAGE as f64,
            ))
        });
        Ok(Way {
            name: name.into(),
            points: points.collect::<anyhow::Result<_>>()?,
        })
    });
    Ok(Sweep {
        name: "make, map, touch all, unmap and close".into(),
        size: "of a region".into(),
        ways: ways.collect::<anyhow::Result<_>>()?,
    })
}
