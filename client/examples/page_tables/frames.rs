// SPDX-License-Identifier: GPL-2.0-only

//! Who else has the same frames: other mappings, and children.

use std::collections::HashMap;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;

use anyhow::ensure;
use ashmem::Region;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::fork;
use procfs::process::MemoryPageFlags;

use crate::memory::Memory;
use crate::pagemap;

/// Letters for folios, in the order in which they are first seen.
#[derive(Default)]
pub struct Letters(HashMap<u64, char>);

impl Letters {
    /// That of a frame's folio.
    pub fn of(&mut self, frame: u64) -> anyhow::Result<char> {
        let next = char::from(b'a' + self.0.len() as u8);
        Ok(*self.0.entry(pagemap::folio(frame)?).or_insert(next))
    }

    /// One for each page; a dot where none is mapped.
    fn line(&mut self, frames: &[Option<u64>]) -> anyhow::Result<String> {
        let letter = |frame: &Option<u64>| frame.map_or(Ok('.'), |frame| self.of(frame));
        frames.iter().map(letter).collect()
    }
}

/// Runs a question about frames in a forked child.
fn in_child(
    pages: usize,
    ask: impl FnOnce() -> anyhow::Result<Vec<Option<u64>>>,
) -> anyhow::Result<Vec<Option<u64>>> {
    let (mut here, mut there) = UnixStream::pair()?;
    // SAFETY: This program has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let answered = ask().and_then(|frames| {
                let words = frames.iter().flat_map(|f| f.unwrap_or(0).to_ne_bytes());
                Ok(there.write_all(&words.collect::<Vec<u8>>())?)
            });
            if let Err(error) = &answered {
                eprintln!("child: {error:#}");
            }
            // SAFETY: It ends the process, as is meant.
            unsafe { libc::_exit(answered.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            drop(there);
            let mut answer = vec![0; pages * 8];
            let read = here.read_exact(&mut answer);
            ensure!(waitpid(child, None)? == WaitStatus::Exited(child, 0));
            read?;
            let words = answer.chunks_exact(8);
            Ok(words
                .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
                .map(|frame| (frame != 0).then_some(frame))
                .collect())
        }
    }
}

/// Shows it.
pub fn show(region: &Region, memory: Memory) -> anyhow::Result<()> {
    let status = region.page_status(..)?;
    let touch = |memory: Memory| {
        for page in (0..memory.pages).filter(|page| status[*page].resident) {
            memory.read(page);
        }
    };
    let mut names = Letters::default();
    println!("\none region, one set of frames: of each page the folio that it is mapped from");
    let mut show = |text: &str, frames: &[Option<u64>]| -> anyhow::Result<()> {
        println!("  {text:46} {}", names.line(frames)?);
        Ok(())
    };
    let before = memory.frames()?;
    show("the mapping above", &before)?;
    let second = Memory::of_region(region.map()?)?;
    let none = second.frames()?;
    show("a second one, made now", &none)?;
    touch(second);
    let all = second.frames()?;
    show("the same, when all that has memory was read", &all)?;
    let unread = in_child(memory.pages, || memory.frames())?;
    show("a forked child: the mapping above", &unread)?;
    let read = in_child(memory.pages, || {
        touch(memory);
        memory.frames()
    })?;
    show("the same, when all that has memory was read", &read)?;
    for (page, status) in status.iter().enumerate() {
        ensure!(all[page].is_some() == status.resident);
        ensure!(before[page].is_none() || before[page] == all[page]);
    }
    ensure!(none.iter().flatten().count() == 0 && unread == none && read == all);
    // Page by page, as others may have mapped what lies around a page that they read.
    let entries = second.entries()?;
    let both = (0..memory.pages).filter(|page| before[*page].is_some());
    let alone = |page: &usize| entries[*page].contains(MemoryPageFlags::MMAP_EXCLUSIVE);
    let alone = both.clone().filter(alone).count();
    println!(
        "  of the {} entries that both have, with `x`: {alone}",
        both.count()
    );
    ensure!(alone == 0);
    Ok(())
}
