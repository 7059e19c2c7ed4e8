// SPDX-License-Identifier: GPL-2.0-only

//! A log in memory that outlives who writes it: a record is there as a whole or not at all.
//!
//! ```text
//!   0   head: length with these 16 bytes (low half), checksum (high half); 0 if there is no record
//!   8   number: one more than that of the record before
//!   16  payload; the next record begins at a multiple of 8
//! ```
//!
//! Where the log ends there is a head that is 0. A record is written behind it and then put in its place, by
//! one store: a process that is killed before leaves what it has begun behind the end, where nobody looks.

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Bytes before the payload.
pub const HEADER: usize = 16;
/// Bytes of the head that is 0.
const END: usize = 8;

/// The head of a record.
pub fn head(number: u64, payload: &[u8]) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(payload);
    (u64::from(sum.finalize()) << 32) | (HEADER + payload.len()) as u64
}

/// A log. Memory that is all zeros is one without a record.
pub struct Journal {
    base: NonNull<u8>,
    len: usize,
    /// The number of the first record.
    first: u64,
    /// Where the next record goes; there is always room for a head.
    end: usize,
    /// The next record's number. They begin at 1, as 0 is what fresh memory has.
    next: u64,
}

impl Journal {
    /// A log that is empty.
    ///
    /// # Safety
    ///
    /// From `base` on, which is a multiple of 8, `len` bytes are mapped to be read and written as long as
    /// this lives. Meanwhile nobody else writes there, in whatever process.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        assert!(base.cast::<AtomicU64>().is_aligned() && len >= END);
        Self {
            base,
            len: len / 8 * 8,
            first: 1,
            end: 0,
            next: 1,
        }
    }

    /// The next record's number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes that its records take.
    pub fn used(&self) -> usize {
        self.end
    }

    /// Appends a record. False: there is no room for it.
    pub fn append(&mut self, payload: &[u8]) -> bool {
        if HEADER + payload.len() > self.room() {
            return false;
        }
        let end = (self.end + HEADER + payload.len()).next_multiple_of(8);
        // The end of the log, when this record is there. What lies behind it may look like a record: it
        // is left from an append that was longer and never finished, or from before a `clear`.
        self.word(end).store(0, Ordering::Relaxed);
        self.word(self.end + 8).store(self.next, Ordering::Relaxed);
        // SAFETY: The offset lies in the memory.
        let to = unsafe { self.base.add(self.end + HEADER) };
        // SAFETY: There is room, the payload lies elsewhere, and nobody looks there before the head is there.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(payload).cast(), payload.len()) };
        // Now it is there. Release: all of the above comes before this, also where a kill falls in between.
        let head = head(self.next, payload);
        self.word(self.end).store(head, Ordering::Release);
        self.end = end;
        self.next += 1;
        true
    }

    /// Finds again, from the first record on, what another writer has left: gives `each` what is whole, in
    /// order, up to the first record that is not. The log goes on there. True: one was begun there, and is
    /// dropped.
    pub fn recover(&mut self, mut each: impl FnMut(u64, &[u8])) -> bool {
        (self.end, self.next) = (0, self.first);
        while let Some(payload) = self.record() {
            each(self.next, payload);
            self.end = (self.end + HEADER + payload.len()).next_multiple_of(8);
            self.next += 1;
        }
        self.word(self.end).store(0, Ordering::Relaxed);
        self.room() >= END && self.word(self.end + 8).swap(0, Ordering::Relaxed) == self.next
    }

    /// Makes it empty; the numbers go on.
    pub fn clear(&mut self) {
        self.word(0).store(0, Ordering::Release);
        (self.first, self.end) = (self.next, 0);
    }

    /// Bytes that the next record may have.
    fn room(&self) -> usize {
        self.len - self.end - END
    }

    /// The payload of the record at the end, if there is one, and if it is whole.
    fn record(&self) -> Option<&[u8]> {
        // Acquire: what its writer stored before the head is seen once the head is.
        let found = self.word(self.end).load(Ordering::Acquire);
        let len = found as u32 as usize;
        if !(HEADER..=self.room()).contains(&len) {
            return None;
        }
        let number = self.word(self.end + 8).load(Ordering::Relaxed);
        // SAFETY: The offset lies in the memory.
        let payload = unsafe { self.base.add(self.end + HEADER) };
        // SAFETY: So do as many bytes, and they change by methods that take `&mut self` only.
        let payload = unsafe { slice::from_raw_parts(payload.as_ptr(), len - HEADER) };
        (number == self.next && found == head(number, payload)).then_some(payload)
    }

    /// The word at an offset.
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.len);
        // SAFETY: The offset lies in the memory.
        let word = unsafe { self.base.add(offset) };
        // SAFETY: It is mapped as long as `self`, and a multiple of 8.
        unsafe { word.cast().as_ref() }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    /// A log in memory of its own.
    fn log(memory: &mut [u64]) -> Journal {
        let len = size_of_val(memory);
        let base = NonNull::from(memory).cast();
        // SAFETY: Each test uses the memory by its last log only, as long as it lives.
        unsafe { Journal::new(base, len) }
    }

    /// What is found in it, and whether something was dropped.
    fn recovered(log: &mut Journal) -> (Vec<Vec<u8>>, bool) {
        let (mut found, first) = (vec![], log.first);
        let torn = log.recover(|number, payload| {
            assert_eq!(number, first + found.len() as u64);
            found.push(payload.to_vec());
        });
        (found, torn)
    }

    /// Takes the last record's head away, as if its writer had been killed before it wrote it.
    fn tear(log: &Journal, start: usize) {
        log.word(start).store(0, Ordering::Relaxed);
    }

    #[test]
    fn what_was_appended_is_found() {
        let mut memory = [0; 100];
        let mut writer = log(&mut memory);
        let records: Vec<Vec<u8>> = (0..10).map(|n| vec![n as u8; n]).collect();
        for record in &records {
            assert!(writer.append(record));
        }
        let mut keeper = log(&mut memory);
        assert_eq!(recovered(&mut keeper), (records.clone(), false));
        assert!(keeper.append(b"and one more"));
        let all = [records, vec![b"and one more".to_vec()]].concat();
        assert_eq!(recovered(&mut keeper), (all, false));
    }

    #[test]
    fn what_was_begun_is_dropped() {
        let mut memory = [0; 100];
        let mut log = log(&mut memory);
        assert!(log.append(b"whole"));
        let start = log.used();
        assert!(log.append(b"not finished"));
        tear(&log, start);
        assert_eq!(recovered(&mut log), (vec![b"whole".to_vec()], true));
        assert_eq!(recovered(&mut log), (vec![b"whole".to_vec()], false));
    }

    #[test]
    fn what_lies_behind_the_end_is_no_record() {
        // A payload that, at the right offset, has the records with the numbers 2 and on.
        let mut image = [0; 100];
        let mut other = log(&mut image);
        for _ in 0..5 {
            assert!(other.append(b"12345678"));
        }
        let image: Vec<u8> = image.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut memory = [0; 200];
        let mut log = log(&mut memory);
        assert!(log.append(&image[8..]));
        tear(&log, 0);
        assert_eq!(recovered(&mut log), (vec![], true));
        assert!(log.append(b""));
        assert_eq!(recovered(&mut log), (vec![vec![]], false));
    }

    #[test]
    fn what_was_cleared_does_not_come_back() {
        let mut memory = [0; 100];
        let mut log = log(&mut memory);
        for _ in 0..3 {
            assert!(log.append(b"old"));
        }
        log.clear();
        assert_eq!(recovered(&mut log), (vec![], false));
        assert!(log.append(b"new"));
        assert_eq!(recovered(&mut log), (vec![b"new".to_vec()], false));
        assert_eq!(log.next(), 5);
    }

    #[test]
    fn a_bit_that_is_wrong_ends_it() {
        const RECORD: usize = HEADER + 8;
        let mut whole = [0; 20];
        let mut writer = log(&mut whole);
        for record in [b"11111111", b"22222222", b"33333333"] {
            assert!(writer.append(record));
        }
        for bit in 0..3 * RECORD * 8 {
            let mut memory = whole;
            memory[bit / 64] ^= 1 << (bit % 64);
            let (found, _) = recovered(&mut log(&mut memory));
            assert_eq!(found.len(), bit / 8 / RECORD, "bit {bit}");
        }
    }

    #[test]
    fn what_has_no_room_changes_nothing() {
        // Header, payload, and the head behind it.
        let payload = b"12345678";
        for (words, len, fits) in [
            (1, 0, false),
            (2, 0, false),
            (3, 0, true),
            (3, 1, false),
            (4, 8, true),
        ] {
            let mut memory = vec![0; words];
            let appended = log(&mut memory).append(&payload[..len]);
            assert_eq!(appended, fits, "{len} bytes in {words} words");
            assert_eq!(memory.iter().any(|word| *word != 0), fits);
            let (found, torn) = recovered(&mut log(&mut memory));
            assert_eq!((found.len(), torn), (usize::from(fits), false));
        }
    }
}
