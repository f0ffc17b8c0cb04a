//! The vocabulary: token strings, and greedy longest-match tokenization (spec/numerics.md, section
//! 2).
//!
//! A trie is stored as a hash table from (node, byte) to the next node, so its memory is linear in
//! the length of the token strings, whatever a file from outside contains. Every single byte is a
//! token, so all bytes can be tokenized and nothing can fail.

use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, Result};

/// Longest token in bytes.
pub const MAX_TOKEN_LEN: usize = 32;
/// Most tokens of a vocabulary; the id after the last token is the separator.
pub const MAX_TOKENS: usize = 65_535;

const NONE: u32 = u32::MAX;

/// Token strings by id, and the trie over them.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    /// `bytes[starts[id]..starts[id + 1]]` is the token's string.
    starts: Vec<u32>,
    trie: Trie,
}

impl Vocabulary {
    /// The vocabulary of these strings, in the order of their ids. All 256 single bytes must be
    /// among them; strings are distinct and 1 to 32 bytes long. Fails with `Error::BadModel`
    /// otherwise.
    pub fn new<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for token in tokens {
            let token = token.as_ref();
            if token.is_empty() || token.len() > MAX_TOKEN_LEN {
                return Err(bad("a token is empty or longer than 32 bytes"));
            }
            if starts.len() > MAX_TOKENS {
                return Err(bad("more than 65,535 tokens"));
            }
            bytes.extend_from_slice(token);
            starts.push(bytes.len() as u32);
        }
        let trie = Trie::new(&bytes, &starts)?;
        Ok(Self { bytes, starts, trie })
    }

    /// The vocabulary in the form of a model file: all strings concatenated, and the length of
    /// each.
    pub fn from_parts(bytes: &[u8], lengths: &[u8]) -> Result<Self> {
        let sum: usize = lengths.iter().map(|&len| usize::from(len)).sum();
        if sum != bytes.len() {
            return Err(bad("token lengths do not add up to the token bytes"));
        }
        let mut rest = bytes;
        Self::new(lengths.iter().map(|&len| {
            let (token, tail) = rest.split_at(usize::from(len));
            rest = tail;
            token
        }))
    }

    /// The vocabulary of the single bytes, each with its value as id: the smallest one.
    pub fn bytes_only() -> Self {
        match Self::new((0..=255u8).map(|byte| [byte])) {
            Ok(vocabulary) => vocabulary,
            Err(_) => unreachable!("256 distinct bytes are a vocabulary"),
        }
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.starts.len() - 1
    }

    /// The id that stands between chunks in the history: the first that is no token.
    pub fn separator(&self) -> u16 {
        self.size() as u16
    }

    /// The string of token `id`; empty for an id that is no token.
    pub fn token(&self, id: u16) -> &[u8] {
        let id = usize::from(id);
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&from), Some(&to)) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// All token strings, concatenated in the order of ids, as the model file has them.
    pub fn concatenated(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of each token string, in the order of ids.
    pub fn lengths(&self) -> Vec<u8> {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as u8).collect()
    }

    /// The greedy tokenization of `bytes`.
    pub fn tokenize(&self, bytes: &[u8]) -> Vec<u16> {
        let mut tokens = Vec::with_capacity(bytes.len() / 2 + 8);
        self.tokenize_into(bytes, &mut tokens);
        tokens
    }

    /// Appends the greedy tokenization of `bytes` to `tokens`.
    pub fn tokenize_into(&self, bytes: &[u8], tokens: &mut Vec<u16>) {
        let mut rest = bytes;
        while let Some((&first, mut tail)) = rest.split_first() {
            let (mut node, mut token) = self.trie.roots[usize::from(first)];
            let mut after = tail;
            while node != NONE
                && let Some((&byte, next)) = tail.split_first()
                && let Some((child, ends)) = self.trie.child(node, byte)
            {
                (node, tail) = (child, next);
                if let Some(id) = ends {
                    (token, after) = (id, tail);
                }
            }
            tokens.push(token);
            rest = after;
        }
    }
}

/// One edge: `key` is `node << 8 | byte`, plus 1 so that 0 is an empty place.
#[derive(Clone, Copy, Debug, Default)]
struct Edge {
    key: u32,
    /// The node the edge leads to.
    child: u32,
    /// The token that ends there, or `NONE`.
    token: u32,
}

/// Open addressing with linear probing, at most half full.
#[derive(Clone, Debug)]
struct Trie {
    /// Node (or `NONE` for a leaf) and token of each first byte.
    roots: [(u32, u16); 256],
    edges: Vec<Edge>,
    shift: u32,
    /// Drawn anew for each trie, so that no stranger's file can choose edges that all fall
    /// together.
    multiplier: u32,
}

impl Trie {
    fn new(bytes: &[u8], starts: &[u32]) -> Result<Self> {
        let places = (2 * bytes.len() + 2).next_power_of_two();
        let mut trie = Self {
            roots: [(NONE, 0); 256],
            edges: vec![Edge::default(); places],
            shift: 32 - places.trailing_zeros(),
            multiplier: RandomState::new().hash_one(places) as u32 | 1,
        };
        let mut single = [false; 256];
        // Nodes 0 to 255 are the first bytes; there are at most 65,535 x 32 more, so a key fits 32
        // bits.
        let mut nodes = 256;
        for (id, pair) in starts.windows(2).enumerate() {
            let token = &bytes[pair[0] as usize..pair[1] as usize];
            let first = usize::from(token[0]);
            if token.len() == 1 {
                if std::mem::replace(&mut single[first], true) {
                    return Err(bad("a token occurs twice"));
                }
                trie.roots[first].1 = id as u16;
                continue;
            }
            trie.roots[first].0 = first as u32;
            let mut node = first as u32;
            for (place, &byte) in token.iter().enumerate().skip(1) {
                let at = trie.find(node, byte);
                let edge = &mut trie.edges[at];
                if edge.key == 0 {
                    *edge = Edge { key: key(node, byte), child: nodes, token: NONE };
                    nodes += 1;
                }
                if place + 1 == token.len() {
                    if edge.token != NONE {
                        return Err(bad("a token occurs twice"));
                    }
                    edge.token = id as u32;
                }
                node = edge.child;
            }
        }
        if single.contains(&false) {
            return Err(bad("a single byte is not among the tokens"));
        }
        Ok(trie)
    }

    /// The place of the edge, or the empty place where it would go.
    #[inline]
    fn find(&self, node: u32, byte: u8) -> usize {
        let key = key(node, byte);
        let mut at = (key.wrapping_mul(self.multiplier) >> self.shift) as usize;
        while self.edges[at].key != key && self.edges[at].key != 0 {
            at = (at + 1) & (self.edges.len() - 1);
        }
        at
    }

    /// The node behind an edge and the token that ends there.
    #[inline]
    fn child(&self, node: u32, byte: u8) -> Option<(u32, Option<u16>)> {
        let edge = self.edges[self.find(node, byte)];
        let token = (edge.token != NONE).then_some(edge.token as u16);
        (edge.key != 0).then_some((edge.child, token))
    }
}

#[inline]
fn key(node: u32, byte: u8) -> u32 {
    (node << 8 | u32::from(byte)) + 1
}

fn bad(rule: &str) -> Error {
    Error::BadModel { name: "vocabulary".into(), rule: rule.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vocabulary(extra: &[&str]) -> Vocabulary {
        let singles = (0..=255u8).map(|byte| vec![byte]);
        Vocabulary::new(singles.chain(extra.iter().map(|text| text.as_bytes().to_vec()))).unwrap()
    }

    /// The definition in its simplest form, however slow.
    fn greedy(vocabulary: &Vocabulary, mut bytes: &[u8]) -> Vec<u16> {
        let mut tokens = Vec::new();
        while !bytes.is_empty() {
            let ids = 0..vocabulary.size() as u16;
            let id = ids.filter(|&id| bytes.starts_with(vocabulary.token(id)));
            let id = id.max_by_key(|&id| vocabulary.token(id).len()).unwrap();
            bytes = &bytes[vocabulary.token(id).len()..];
            tokens.push(id);
        }
        tokens
    }

    #[test]
    fn the_longest_token_wins_and_a_failed_longer_one_falls_back() {
        let vocabulary = vocabulary(&["ab", "abcde", "cd", "the ", "th"]);
        assert_eq!(vocabulary.tokenize(b"abcdxabcdethe"), [256, 258, 120, 257, 260, 101]);
        assert_eq!(vocabulary.separator(), 261);
        assert!(vocabulary.token(261).is_empty());
    }

    #[test]
    fn vocabularies_that_break_the_rules_are_refused() {
        let singles = || (0..=255u8).map(|byte| vec![byte]);
        assert!(Vocabulary::new(singles().skip(1)).is_err());
        assert!(Vocabulary::new(singles().chain([vec![7]])).is_err());
        assert!(Vocabulary::new(singles().chain([vec![]])).is_err());
        assert!(Vocabulary::new(singles().chain([vec![1; 33]])).is_err());
        assert!(Vocabulary::new(singles().chain([vec![1; 4], vec![1; 4]])).is_err());
        assert!(Vocabulary::new(singles().chain([vec![1; 32]])).is_ok());
        assert!(Vocabulary::from_parts(b"abc", &[1, 1]).is_err());
        assert!(Vocabulary::from_parts(b"abc", &[1, 255]).is_err());
    }

    #[test]
    fn parts_rebuild_the_vocabulary() {
        let before = vocabulary(&["ab", "abc"]);
        let after = Vocabulary::from_parts(before.concatenated(), &before.lengths()).unwrap();
        assert_eq!(after.size(), 258);
        assert_eq!(after.token(257), b"abc");
    }

    proptest! {
        #[test]
        fn tokens_are_greedy_and_rebuild_the_bytes(text in "[abc]{0,80}") {
            let vocabulary = vocabulary(&["ab", "abc", "abcabca", "bb", "ca", "cab", "aaaa"]);
            let tokens = vocabulary.tokenize(text.as_bytes());
            prop_assert_eq!(&tokens, &greedy(&vocabulary, text.as_bytes()));
            let bytes: Vec<u8> = tokens.iter().flat_map(|&id| vocabulary.token(id).to_vec()).collect();
            prop_assert_eq!(bytes, text.as_bytes());
        }
    }
}
