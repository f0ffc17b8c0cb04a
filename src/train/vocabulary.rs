//! Learning the vocabulary: byte-pair encoding trained with `tokenizers`.
//!
//! `tokenizers` works on text and the product on bytes. Each byte is represented by one character
//! here, so that any bytes can be learned from. Only the resulting byte strings are used: encoding
//! is greedy (spec/numerics.md, section 2).

use std::collections::{HashMap, HashSet};

use tokenizers::Trainer;
use tokenizers::models::bpe::{BPE, BpeTrainer};

use crate::error::{Error, Result};

/// Longest token in bytes.
const MAX_LEN: usize = 32;

/// The character that represents a byte: printable, and different for each byte.
fn to_char(byte: u8) -> char {
    char::from_u32(0x100 + u32::from(byte)).unwrap_or('?')
}

fn to_byte(c: char) -> u8 {
    (u32::from(c) & 0xFF) as u8
}

/// Learns `size` tokens from samples: the 256 bytes and the most useful longer strings.
pub fn learn(samples: &[&[u8]], size: usize) -> Result<Vec<Vec<u8>>> {
    if !(256..=65_535).contains(&size) {
        return Err(Error::Usage(format!(
            "a vocabulary of {size} tokens: between 256 and 65,535 are possible"
        )));
    }
    let mut counts: HashMap<&[u8], u64> = HashMap::new();
    for sample in samples {
        for piece in pieces(sample) {
            *counts.entry(piece).or_default() += 1;
        }
    }
    let mut words: Vec<(&[u8], u64)> = counts.into_iter().filter(|(w, n)| *n > 1 && w.len() > 1).collect();
    words.sort_unstable();
    let alphabet: HashSet<char> = (0..=255).map(to_char).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .initial_alphabet(alphabet)
        .max_token_length(Some(MAX_LEN))
        .show_progress(false)
        .build();
    let failed = |e: tokenizers::Error| Error::Usage(format!("the vocabulary could not be learned: {e}"));
    // The trainer counts what it is given. A word that occurs often is given as often as it occurs,
    // up to a bound that preserves the proportions of all but the most common words.
    let texts: Vec<String> = words.iter().map(|(w, _)| w.iter().map(|&b| to_char(b)).collect()).collect();
    let fed =
        texts.iter().zip(&words).flat_map(|(t, &(_, n))| std::iter::repeat_n(t, n.min(200_000) as usize));
    trainer.feed(fed, |s| Ok(vec![s.to_owned()])).map_err(failed)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;
    let mut learned: Vec<(u32, Vec<u8>)> = tokenizers::Model::get_vocab(&model)
        .into_iter()
        .map(|(text, id)| (id, text.chars().map(to_byte).collect()))
        .collect();
    learned.sort_unstable();
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    tokens.extend(learned.into_iter().map(|(_, t)| t).filter(|t| t.len() > 1).take(size - 256));
    Ok(tokens)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        b' ' | b'\t' | b'\r' | b'\n' => Class::Space,
        _ => Class::Other,
    }
}

/// Cuts bytes into the pieces within which tokens may form: words with a space or a sign before
/// them, up to three digits, runs of blanks, runs of signs with the end of the line behind them.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|r| !r.is_empty())?;
        let len = piece_len(rest);
        at += len;
        Some(&rest[..len])
    })
}

fn piece_len(rest: &[u8]) -> usize {
    let run = |from: usize, of: Class| rest[from..].iter().take_while(|&&b| class(b) == of).count();
    let first = class(rest[0]);
    let second = rest.get(1).map(|&b| class(b));
    let len = match (first, second) {
        (Class::Letter, _) => run(0, Class::Letter),
        (Class::Digit, _) => run(0, Class::Digit).min(3),
        (Class::Space, Some(Class::Letter)) if rest[0] == b' ' => 1 + run(1, Class::Letter),
        (Class::Space, Some(Class::Other)) if rest[0] == b' ' => 1 + run(1, Class::Other),
        (Class::Space, _) => {
            // The last blank before a word goes with the word.
            let n = run(0, Class::Space);
            if n > 1
                && rest.get(n).is_some_and(|&b| class(b) == Class::Letter)
                && rest[n - 1] == b' '
                && rest[n - 2] != b' '
            {
                n - 1
            } else {
                n
            }
        }
        (Class::Other, _) => {
            let n = run(0, Class::Other);
            if n == 1 && second == Some(Class::Letter) {
                1 + run(1, Class::Letter)
            } else {
                n + rest[n..].iter().take_while(|&&b| b == b'\n').count()
            }
        }
    };
    len.clamp(1, MAX_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_bytes() {
        let text = b"fn main() {\n    println!(\"caf\xc3\xa9 12345\");\n}\n\n\0\xff end";
        let all: Vec<u8> = pieces(text).flatten().copied().collect();
        assert_eq!(all, text);
    }

    #[test]
    fn a_vocabulary_holds_every_byte_and_what_is_common() {
        let text = "the quick brown fox; the lazy dog; the end\n".repeat(50);
        let tokens = learn(&[text.as_bytes()], 300).unwrap();
        assert_eq!(tokens.len(), tokens.iter().collect::<HashSet<_>>().len());
        for b in 0..=255u8 {
            assert_eq!(tokens[usize::from(b)], [b]);
        }
        assert!(tokens.contains(&b" the".to_vec()));
    }
}
