// SPDX-License-Identifier: GPL-2.0-only

//! What a record of a log costs: stored into memory that several processes have mapped, or given to
//! write(2).

use std::os::fd::BorrowedFd;

use anyhow::Context;
use anyhow::ensure;
use ashmem_figures::Per;
use ashmem_figures::Target;
use nix::sys::uio::pread;
use nix::sys::uio::pwrite;

use super::Bench;
use super::calls::COPIES;
use super::targets::Memory;
use crate::region::Mapping;
use crate::region::PAGE;

/// The log of the example: what is measured is what it shows.
#[path = "../../../client/examples/log/journal.rs"]
#[allow(dead_code, reason = "the example has more to do")]
mod journal;

/// Pages of the log. All of them have memory before something is measured; where the log ends, it begins
/// anew.
const PAGES: usize = 4 << 20 >> 12;

/// Measures one kind of memory.
pub fn measure(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let memory = Memory::new(target, PAGES)?;
    let map = memory.map()?;
    map.write_pages(0..PAGES);
    match target {
        Target::Ashmem | Target::Memfd => by_mapping(bench, target, &map),
        // What write(2) does to a memfd is the same: it is such a file.
        Target::Tmpfs => by_write(bench, target, memory.fd().context("it is a file")?),
        _ => Ok(()),
    }
}

fn by_mapping(bench: &mut Bench, target: Target, map: &Mapping) -> anyhow::Result<()> {
    // SAFETY: Nobody else knows of the mapping, which lives longer.
    let mut log = unsafe { journal::Journal::new(map.pointer().cast(), PAGES * PAGE) };
    // Of what touched the memory.
    log.clear();
    for (size, text, times) in COPIES {
        let payload = vec![1; size];
        let what = format!("log record by mapping, {text}");
        bench.calls((&what, Per::Copy), target, 0.0, times, || {
            if !log.append(&payload) {
                log.clear();
                ensure!(log.append(&payload), "a log of one record is full");
            }
            Ok(())
        })?;
        let (next, mut last) = (log.next(), vec![]);
        log.recover(|_, found| last = found.to_vec());
        ensure!(log.next() == next && last == payload, "records are lost");
    }
    Ok(())
}

fn by_write(bench: &mut Bench, target: Target, file: BorrowedFd<'_>) -> anyhow::Result<()> {
    let (mut number, mut offset) = (1, 0);
    for (size, text, times) in COPIES {
        // The payload is where the record is made: nothing is copied but by write(2).
        let mut record = vec![1; journal::HEADER + size];
        let what = format!("log record by write(2), {text}");
        bench.calls((&what, Per::Copy), target, 0.0, times, || {
            let head = journal::head(number, &record[journal::HEADER..]);
            record[..8].copy_from_slice(&head.to_ne_bytes());
            record[8..journal::HEADER].copy_from_slice(&number.to_ne_bytes());
            if offset + record.len() > PAGES * PAGE {
                offset = 0;
            }
            let written = pwrite(file, &record, offset as i64)?;
            ensure!(written == record.len(), "{written} bytes");
            (number, offset) = (number + 1, offset + written);
            Ok(())
        })?;
        let mut found = vec![0; record.len()];
        let at = offset - record.len();
        ensure!(pread(file, &mut found, at as i64)? == found.len() && found == record);
    }
    Ok(())
}
