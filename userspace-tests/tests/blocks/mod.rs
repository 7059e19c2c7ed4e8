// SPDX-License-Identifier: GPL-2.0-only

//! The driver's blocks, in a container of the standard library.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::policy::pins::Block;
use crate::policy::pins::Blocks;
use crate::policy::pins::Word;

#[derive(Default)]
pub struct HostWord(AtomicU64);

impl Word for HostWord {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, bits: u64) {
        self.0.fetch_or(bits, Ordering::SeqCst);
    }

    fn clear(&self, bits: u64) {
        self.0.fetch_and(!bits, Ordering::SeqCst);
    }

    fn store(&self, bits: u64) {
        self.0.store(bits, Ordering::SeqCst);
    }
}

#[derive(Default)]
pub struct BlockMap(pub BTreeMap<usize, Block<HostWord>>);

impl Blocks for BlockMap {
    type Word = HostWord;

    fn get(&self, number: usize) -> Option<&Block<HostWord>> {
        self.0.get(&number)
    }

    fn at_or_after(&self, number: usize) -> Option<(usize, &Block<HostWord>)> {
        self.0.range(number..).next().map(|(n, block)| (*n, block))
    }
}
