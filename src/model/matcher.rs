//! The match input: where the last few elements of the history stood before, and what followed them
//! there (spec/numerics.md, section 3).
//!
//! Each order has one hash table, which is overwritten at every position, so that a look-up costs
//! one table read and one comparison, whatever the data. Decoder, encoder and trainer share this
//! code, so a model sees the same features that it was trained on.

use crate::error::{Error, Result};
use crate::kernels::prefetch::prefetch;

/// Most match slots of a model: one for each order, and the second candidates of some.
pub const MAX_SLOTS: usize = 8;
/// Longest context of a match order, in elements; also the most elements that are compared before
/// it.
pub const MAX_ORDER: usize = 32;
/// Classes of a slot: one for no candidate, and four of hits times four of length.
pub const CLASSES: usize = 17;
/// The largest sum of raw lengths, of a chunk and the chunks it refers to, for which positions fit
/// 24 bits.
pub const MAX_CAPACITY: usize = (1 << 24) - 64;

const EMPTY: u64 = u64::MAX;

/// What one slot found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The match candidate: the token that followed the context before.
    pub candidate: u16,
    /// How reliable the candidate is, 1 to 16; 0 means that there is none.
    pub class: u8,
}

/// What an update needs to know of the look-up at the same position.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// The hits of the table entry, if its context was verified.
    hits: Option<u8>,
    /// The element that followed there; it may be a separator.
    follower: u16,
    /// The last follower that differed from it; the separator if there was none.
    second: u16,
}

/// The history array of a chunk and its match tables.
#[derive(Clone, Debug)]
pub struct Matcher {
    orders: Vec<u8>,
    /// The indexes in `orders` of those that have a second slot.
    seconds: Vec<u8>,
    separator: u16,
    elements: Vec<u16>,
    bits: u32,
    /// One table of `2^bits` entries for each order, one after the other:
    /// `pos | hits << 24 | second << 32`, or `EMPTY`. All that is known of a context lies in one
    /// cache line.
    tables: Vec<u64>,
    /// Index in `tables` of each order's entry at the current position.
    index: [u32; MAX_SLOTS],
    /// Hashes of the orders' contexts at the current position, for orders with enough elements
    /// before it.
    hashes: [u32; MAX_SLOTS],
    found: [Found; MAX_SLOTS],
    slots: [Slot; MAX_SLOTS],
    looked_up: bool,
}

/// Checks that positions of a history of this many bytes fit 24 bits.
///
/// # Errors
/// `Limit` if they do not.
pub fn check_capacity(capacity: usize) -> Result<()> {
    if capacity <= MAX_CAPACITY {
        return Ok(());
    }
    let (got, max) = (capacity as u64, MAX_CAPACITY as u64);
    Err(Error::Limit { what: "bytes of a chunk and its references", got, max })
}

/// Binary logarithm of the entries of a table, for this sum of raw lengths.
pub fn table_bits(capacity: usize) -> u32 {
    (usize::BITS - capacity.saturating_sub(1).leading_zeros()).clamp(10, 20)
}

impl Matcher {
    /// An empty history. `orders` are increasing, 1 to 32. `seconds` are those of them whose second
    /// candidate has a slot too; there are at most eight slots in all. `capacity` is the sum of the
    /// raw lengths, in bytes, of the referenced chunks and of the chunk itself.
    ///
    /// # Errors
    /// `Limit` if the capacity exceeds `MAX_CAPACITY`.
    ///
    /// # Panics
    /// If the orders break their rule; those of a loaded model never do.
    pub fn new(orders: &[u8], seconds: &[u8], capacity: usize, separator: u16) -> Result<Self> {
        assert!(
            orders.len() + seconds.len() <= MAX_SLOTS && orders.is_sorted_by(|a, b| a < b),
            "orders increase"
        );
        assert!(orders.iter().all(|&order| (1..=MAX_ORDER).contains(&usize::from(order))));
        check_capacity(capacity)?;
        let bits = table_bits(capacity);
        Ok(Self {
            orders: orders.to_vec(),
            seconds: seconds
                .iter()
                .filter_map(|second| orders.iter().position(|order| order == second).map(|k| k as u8))
                .collect(),
            separator,
            elements: Vec::with_capacity(capacity / 2 + 16),
            bits,
            tables: vec![EMPTY; orders.len() << bits],
            index: [0; MAX_SLOTS],
            hashes: [0; MAX_SLOTS],
            found: [Found::default(); MAX_SLOTS],
            slots: [Slot::default(); MAX_SLOTS],
            looked_up: false,
        })
    }

    /// The history so far.
    pub fn elements(&self) -> &[u16] {
        &self.elements
    }

    /// Bytes of memory of the tables.
    pub fn table_bytes(&self) -> usize {
        size_of_val(&self.tables[..])
    }

    /// Asks the CPU to fetch the places of the history that the next look-up compares. Their table
    /// entries were asked for by the last update and should have arrived by now.
    pub fn ask(&self) {
        for &index in &self.index[..self.orders.len()] {
            // For an empty entry, this is a place beyond the end.
            prefetch(&self.elements, (self.tables[index as usize] & 0x00ff_ffff) as usize);
        }
    }

    /// What each slot finds for the next element, in the order of the slots.
    pub fn look_up(&mut self) -> &[Slot] {
        if !self.looked_up {
            self.looked_up = true;
            let last = self.orders.len().saturating_sub(1);
            for k in 0..self.orders.len() {
                let order = usize::from(self.orders[k]);
                (self.slots[k], self.found[k]) = self.look_up_slot(order, self.index[k], k == last);
            }
            for (s, &k) in self.seconds.iter().enumerate() {
                self.slots[self.orders.len() + s] = self.second_slot(self.found[usize::from(k)]);
            }
        }
        &self.slots[..self.orders.len() + self.seconds.len()]
    }

    #[inline]
    fn look_up_slot(&self, order: usize, index: u32, with_length: bool) -> (Slot, Found) {
        let none = (Slot::default(), Found::default());
        let Some(context) = self.elements.len().checked_sub(order) else { return none };
        let entry = self.tables[index as usize];
        if entry == EMPTY {
            return none;
        }
        // An entry is written at positions `i >= order` only, and `a[i]` follows in the history.
        let (pos, hits) = ((entry & 0x00ff_ffff) as usize, (entry >> 24) as u8);
        let a = &self.elements[..];
        if !self.same(pos, order) {
            return none;
        }
        let candidate = a[pos];
        let found = Found { hits: Some(hits), follower: candidate, second: (entry >> 32) as u16 };
        if candidate == self.separator {
            return (Slot::default(), found);
        }
        let length = if with_length { self.length_class(pos - order, context) } else { 0 };
        (Slot { candidate, class: 1 + hits.min(3) + 4 * length }, found)
    }

    /// Whether the `order` elements before `pos` equal the last `order` elements of the history.
    #[inline]
    fn same(&self, pos: usize, order: usize) -> bool {
        let a = &self.elements[..];
        // Eight elements of two bytes are compared at once; the last `order` of them count.
        if let (1..=8, Some(there), Some(here)) = (order, a[..pos].last_chunk(), a.last_chunk()) {
            return (eight(there) ^ eight(here)) >> (16 * (8 - order)) == 0;
        }
        a[pos - order..pos] == a[a.len() - order..]
    }

    /// What a second slot offers beside the first candidate of its order.
    fn second_slot(&self, found: Found) -> Slot {
        match found.hits {
            Some(hits) if found.second != self.separator => {
                Slot { candidate: found.second, class: 1 + hits.min(3) }
            }
            _ => Slot::default(),
        }
    }

    /// A class for how many elements before two equal contexts agree: 0 below 4, 1 below 16, 2
    /// below 32, else 3.
    fn length_class(&self, there: usize, here: usize) -> u8 {
        let before = |at: usize| self.elements[at.saturating_sub(MAX_ORDER)..at].iter().rev();
        let len = before(there).zip(before(here)).take_while(|(a, b)| a == b).count();
        match len {
            0..4 => 0,
            4..16 => 1,
            16..32 => 2,
            _ => 3,
        }
    }

    /// Appends an element to the history and enters it into the tables.
    pub fn update(&mut self, element: u16) {
        self.look_up();
        let i = self.elements.len();
        for (k, &order) in self.orders.iter().enumerate() {
            if i >= usize::from(order) {
                let found = self.found[k];
                let (hits, second) = match found.hits {
                    Some(hits) if found.follower == element => (hits.saturating_add(1), found.second),
                    Some(_) => (0, found.follower),
                    None => (0, self.separator),
                };
                // `i < 2^24 - 1`: tokens have at least a byte, and `MAX_CAPACITY` leaves room for
                // separators.
                self.tables[self.index[k] as usize] =
                    i as u64 | u64::from(hits) << 24 | u64::from(second) << 32;
            }
        }
        self.elements.push(element);
        self.looked_up = false;
        self.index_tables();
    }

    /// Appends one referenced chunk to the history: a separator, then its tokens. Without tokens,
    /// this is a separator only.
    pub fn extend(&mut self, tokens: &[u16]) {
        self.update(self.separator);
        for &token in tokens {
            self.update(token);
        }
    }

    /// Hash of the last `order` elements; elements before the start count as separators.
    pub fn hash(&self, order: usize) -> u32 {
        if let Some(k) = self.orders.iter().position(|&known| usize::from(known) == order)
            && order <= self.elements.len()
        {
            return self.hashes[k];
        }
        let recent = self.elements.iter().rev().copied().chain(std::iter::repeat(self.separator));
        recent.take(order).fold(0, step)
    }

    fn index_tables(&mut self) {
        let (mut hash, mut done) = (0, 0);
        for (k, &order) in self.orders.iter().enumerate() {
            let order = usize::from(order);
            if order > self.elements.len() {
                break;
            }
            let (newer, from) = (self.elements.len() - done, self.elements.len() - order);
            hash = self.elements[from..newer].iter().rev().copied().fold(hash, step);
            done = order;
            self.index[k] = ((k as u32) << self.bits) + (hash >> (32 - self.bits));
            self.hashes[k] = hash;
            prefetch(&self.tables, self.index[k] as usize);
        }
    }
}

/// Eight elements as one number, in which the last element has the highest place.
#[inline]
fn eight(elements: &[u16; 8]) -> u128 {
    elements.iter().rev().fold(0, |all, &element| all << 16 | u128::from(element))
}

#[inline]
fn step(hash: u32, element: u16) -> u32 {
    (hash ^ (u32::from(element) + 1)).wrapping_mul(2_654_435_769)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Section 3, word for word, with maps for tables.
    struct Plain {
        orders: Vec<u8>,
        separator: u16,
        bits: u32,
        a: Vec<u16>,
        tables: Vec<HashMap<u32, (usize, u32, u16)>>,
    }

    impl Plain {
        fn slot(&self, k: usize) -> (u8, u16, bool, u32) {
            let (i, n, a) = (self.a.len(), usize::from(self.orders[k]), &self.a);
            if i < n {
                return (0, 0, false, 0);
            }
            let index = self.index(n);
            let Some(&(pos, hits, _)) = self.tables[k].get(&index) else { return (0, 0, false, 0) };
            if (1..=n).any(|j| a[pos - j] != a[i - j]) {
                return (0, 0, false, 0);
            }
            if a[pos] == self.separator {
                return (0, 0, true, hits);
            }
            let mut length = 0;
            if k + 1 == self.orders.len() {
                while length < 32 && n + length < pos && a[pos - n - length - 1] == a[i - n - length - 1] {
                    length += 1;
                }
            }
            let class = match length {
                0..=3 => 0,
                4..=15 => 1,
                16..=31 => 2,
                _ => 3,
            };
            (1 + hits.min(3) as u8 + 4 * class, a[pos], true, hits)
        }

        fn index(&self, n: usize) -> u32 {
            let mut h: u32 = 0;
            for j in 1..=n {
                h = (h ^ (u32::from(self.a[self.a.len() - j]) + 1)).wrapping_mul(2_654_435_769);
            }
            h >> (32 - self.bits)
        }

        fn second(&self, k: usize) -> Slot {
            let (.., verified, hits) = self.slot(k);
            if !verified {
                return Slot::default();
            }
            let second = self.tables[k][&self.index(usize::from(self.orders[k]))].2;
            if second == self.separator {
                return Slot::default();
            }
            Slot { candidate: second, class: 1 + hits.min(3) as u8 }
        }

        fn update(&mut self, element: u16) {
            let i = self.a.len();
            for k in 0..self.orders.len() {
                if i >= usize::from(self.orders[k]) {
                    let index = self.index(usize::from(self.orders[k]));
                    let (_, _, verified, hits) = self.slot(k);
                    let same = verified && self.a[self.tables[k][&index].0] == element;
                    let second = match (verified, same) {
                        (true, true) => self.tables[k][&index].2,
                        (true, false) => self.a[self.tables[k][&index].0],
                        (false, _) => self.separator,
                    };
                    self.tables[k].insert(index, (i, if same { (hits + 1).min(255) } else { 0 }, second));
                }
            }
            self.a.push(element);
        }
    }

    fn same_as_plain(orders: &[u8], seconds: &[u8], elements: &[u16], capacity: usize, bits: u32) {
        let mut matcher = Matcher::new(orders, seconds, capacity, 9).unwrap();
        let tables = orders.iter().map(|_| HashMap::new()).collect();
        let mut plain = Plain { orders: orders.to_vec(), separator: 9, bits, a: vec![], tables };
        for (i, &element) in elements.iter().enumerate() {
            if i % 3 != 1 {
                // Updates without a look-up must give the same tables.
                let slots = matcher.look_up();
                assert_eq!(slots.len(), orders.len() + seconds.len());
                for (second, slot) in seconds.iter().zip(&slots[orders.len()..]) {
                    let k = orders.iter().position(|order| order == second).unwrap();
                    assert_eq!(*slot, plain.second(k), "second slot of {second} at {i}");
                }
                for (k, slot) in slots[..orders.len()].iter().enumerate() {
                    let (class, candidate, ..) = plain.slot(k);
                    assert_eq!((slot.class, slot.candidate), (class, candidate), "slot {k} at {i}");
                }
            }
            matcher.update(element);
            plain.update(element);
        }
        assert_eq!(matcher.elements(), elements);
    }

    #[test]
    fn slots_are_those_of_the_plain_definition() {
        let mut seed = 1u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % n
        };
        // Miri is too slow for more.
        let (count, last) = if cfg!(miri) { (260, 40) } else { (3000, 400) };
        let mut elements: Vec<u16> = (0..count).map(|_| next(3) as u16 * next(4) as u16).collect();
        for _ in 0..12 {
            let from = next(count * 5 / 6) as usize;
            let len = 20 + next(count / 30) as usize;
            elements.extend_from_within(from..from + len);
        }
        elements.extend(vec![7; last]);
        same_as_plain(&[1, 2, 3, 4, 6], &[2, 3], &elements, 1000, 10);
        same_as_plain(&[2], &[2], &elements, 5000, 13);
        same_as_plain(&[1, 5, 32], &[], &elements, 4096, 12);
        same_as_plain(&[], &[], &elements, 4097, 13);
    }

    #[test]
    fn separators_are_never_candidates_but_keep_their_hits() {
        let mut matcher = Matcher::new(&[1], &[], 100, 9).unwrap();
        for _ in 0..3 {
            matcher.extend(&[5]);
        }
        assert_eq!(matcher.look_up(), [Slot::default()]);
        matcher.update(9);
        assert_eq!(matcher.look_up(), [Slot { candidate: 5, class: 1 + 2 + 4 }]);
    }

    #[test]
    fn hashes_pad_with_separators() {
        let mut matcher = Matcher::new(&[3], &[], 100, 9).unwrap();
        let padded = [9, 9, 9].iter().copied().fold(0, step);
        assert_eq!(matcher.hash(3), padded);
        matcher.update(1);
        assert_eq!(matcher.hash(2), step(step(0, 1), 9));
    }

    #[test]
    fn a_capacity_beyond_the_positions_is_refused() {
        assert!(Matcher::new(&[1], &[], MAX_CAPACITY + 1, 9).is_err());
    }
}
