//! The pieces of a `tokenizer.json` as byte strings, which are the vocabulary of an imported model.
//!
//! Unigram and BPE are read, with the sentencepiece mark for a space, with byte pieces `<0x0A>`, or
//! with GPT-2's characters for bytes. Special tokens have no bytes and are left out, as are pieces
//! that the engine's vocabulary cannot hold (spec/numerics.md, section 2). Every single byte that
//! is missing is added, with the rows of the unknown token.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::model::tokens::MAX_TOKEN_LEN;

/// Token strings, and the tokenizer's id of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// The token strings.
    pub tokens: Vec<Vec<u8>>,
    /// For each token the tokenizer's id.
    pub ids: Vec<u32>,
    /// How many single bytes no piece stands for.
    pub added: usize,
}

impl Pieces {
    /// The ids as runs of consecutive ids: the first and the number of each run.
    pub fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = vec![];
        for &id in &self.ids {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == id => *count += 1,
                _ => runs.push((id, 1)),
            }
        }
        runs
    }
}

/// How pieces are written.
enum Style {
    /// Characters of GPT-2, one for each byte.
    Bytes,
    /// UTF-8, with this in place of a space.
    Mark(String),
    /// UTF-8 as it is.
    Plain,
}

/// Reads the pieces of ids below `limit`; `special` are ids that stand for no text, `unknown` is
/// that of bytes without a piece.
///
/// # Errors
/// What is wrong with the tokenizer, or cannot be used.
pub fn read(json: &Value, limit: u32, special: &[u32], unknown: u32) -> Result<Pieces, String> {
    let model = json.get("model").ok_or("it has no model")?;
    let mut vocab = vocabulary(model)?;
    let unknown = unknown_id(model, &vocab).filter(|&id| id < limit).unwrap_or(unknown);
    let mut skipped: BTreeSet<u32> = special.iter().copied().chain([unknown]).collect();
    let mut literal = BTreeMap::new();
    for added in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let id = added.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(text)) = (id, added.get("content").and_then(Value::as_str)) else { continue };
        if added.get("special").and_then(Value::as_bool).unwrap_or(false) {
            skipped.insert(id);
        } else {
            literal.insert(id, text.as_bytes().to_vec());
            vocab.entry(id).or_default();
        }
    }
    let style = style(json, model);
    let fallback = model.get("byte_fallback").and_then(Value::as_bool).unwrap_or(false);
    let mut pieces = Pieces::default();
    let mut seen = HashSet::new();
    let mut bytes: BTreeMap<u8, u32> = BTreeMap::new();
    for (&id, text) in vocab.iter().filter(|(id, _)| **id < limit && !skipped.contains(id)) {
        let token = match literal.remove(&id) {
            Some(token) => Some(token),
            None => match byte_piece(text).filter(|_| fallback) {
                Some(byte) => {
                    bytes.entry(byte).or_insert(id);
                    None
                }
                None => style.bytes(text),
            },
        };
        let fits = |token: &Vec<u8>| (1..=MAX_TOKEN_LEN).contains(&token.len());
        if let Some(token) = token.filter(fits)
            && seen.insert(token.clone())
        {
            pieces.tokens.push(token);
            pieces.ids.push(id);
        }
    }
    // The piece of a single byte is used only where no better one exists.
    for byte in (0..=255u8).filter(|&byte| !seen.contains(&[byte][..])) {
        pieces.tokens.push(vec![byte]);
        pieces.ids.push(bytes.get(&byte).copied().unwrap_or(unknown));
        pieces.added += usize::from(!bytes.contains_key(&byte));
    }
    Ok(pieces)
}

/// Pieces by id.
fn vocabulary(model: &Value) -> Result<BTreeMap<u32, String>, String> {
    let kind = model.get("type").and_then(Value::as_str).unwrap_or_default();
    let affix = |key: &str| model.get(key).and_then(Value::as_str).is_some_and(|affix| !affix.is_empty());
    if affix("continuing_subword_prefix") || affix("end_of_word_suffix") {
        return Err("its pieces have prefixes or suffixes, which are not supported".into());
    }
    let pieces: Option<BTreeMap<u32, String>> = match (kind, model.get("vocab")) {
        ("Unigram", Some(Value::Array(pieces))) => {
            let text = |pair: &Value| pair.get(0).and_then(Value::as_str).map(str::to_owned);
            (0..).zip(pieces).map(|(id, pair)| Some((id, text(pair)?))).collect()
        }
        ("BPE", Some(Value::Object(pieces))) => {
            pieces.iter().map(|(text, id)| Some((u32::try_from(id.as_u64()?).ok()?, text.clone()))).collect()
        }
        _ => return Err(format!("a tokenizer of type \"{kind}\" is not supported; Unigram and BPE are")),
    };
    pieces.ok_or_else(|| "its vocabulary cannot be read".into())
}

fn unknown_id(model: &Value, vocab: &BTreeMap<u32, String>) -> Option<u32> {
    if let Some(id) = model.get("unk_id").and_then(Value::as_u64) {
        return u32::try_from(id).ok();
    }
    let token = model.get("unk_token").and_then(Value::as_str)?;
    vocab.iter().find(|(_, text)| *text == token).map(|(&id, _)| id)
}

/// The byte of a piece such as `<0x0A>`.
fn byte_piece(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn style(json: &Value, model: &Value) -> Style {
    let parts = || ["decoder", "pre_tokenizer"].into_iter().filter_map(|key| json.get(key));
    if parts().any(|part| find(part, &|kind, _| (kind == "ByteLevel").then_some(())).is_some()) {
        return Style::Bytes;
    }
    let mark = |kind: &str, part: &Value| -> Option<String> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        match kind {
            "Metaspace" => Some(text(part.get("replacement")).unwrap_or_else(|| "\u{2581}".into())),
            "Replace" if part.get("content").and_then(Value::as_str) == Some(" ") => {
                text(part.get("pattern").and_then(|pattern| pattern.get("String")))
            }
            _ => None,
        }
    };
    match parts().find_map(|part| find(part, &mark)) {
        Some(mark) if !mark.is_empty() => Style::Mark(mark),
        _ if model.get("type").and_then(Value::as_str) == Some("Unigram") => Style::Mark("\u{2581}".into()),
        _ => Style::Plain,
    }
}

/// The first of a component and the parts of a sequence for which `pick` finds something.
fn find<T>(part: &Value, pick: &dyn Fn(&str, &Value) -> Option<T>) -> Option<T> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    pick(kind, part).or_else(|| {
        let lists = ["decoders", "pretokenizers"].into_iter().filter_map(|key| part.get(key)?.as_array());
        lists.flatten().find_map(|part| find(part, pick))
    })
}

impl Style {
    fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Bytes => text.chars().map(character_byte).collect(),
            Self::Mark(mark) => Some(text.replace(mark.as_str(), " ").into_bytes()),
            Self::Plain => Some(text.as_bytes().to_vec()),
        }
    }
}

/// GPT-2's map: printable characters of Latin-1 stand for themselves, the other 68 bytes follow
/// from U+0100 on.
fn character_byte(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u32::from(c) {
        code @ 0..=255 => Some(code as u8).filter(|&byte| printable(byte)),
        code => (0..=255u8).filter(|&byte| !printable(byte)).nth((code - 256) as usize),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token<'a>(pieces: &'a Pieces, text: &[u8]) -> Option<&'a u32> {
        pieces.tokens.iter().position(|token| token == text).map(|at| &pieces.ids[at])
    }

    #[test]
    fn sentencepiece_marks_are_spaces_and_specials_are_left_out() {
        let long = "x".repeat(33);
        let json = json!({
            "added_tokens": [
                {"id": 0, "content": "<pad>", "special": true},
                {"id": 8, "content": "<note>", "special": false},
                {"id": 9, "content": "<extra>", "special": true},
            ],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u{2581}"}]},
            "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": true, "vocab": [
                ["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["<0x0A>", 0], ["<0x41>", 0], ["\u{2581}the", -1],
                ["A", -2], [" the", -3], ["<note>", 0], ["<extra>", 0], [long, -4], ["", -5], ["\u{e9}", -6],
                ["beyond", -7]]},
        });
        let pieces = read(&json, 13, &[0, 1], 0).unwrap();
        assert_eq!(token(&pieces, b" the"), Some(&5));
        assert_eq!(token(&pieces, b"A"), Some(&6), "a piece goes before a byte piece");
        assert_eq!(token(&pieces, b"\n"), Some(&3));
        assert_eq!(token(&pieces, b"<note>"), Some(&8));
        assert_eq!(token(&pieces, "\u{e9}".as_bytes()), Some(&12));
        for absent in [&b"<pad>"[..], b"</s>", b"<unk>", b"<extra>", b"beyond", b"<0x0A>", long.as_bytes()] {
            assert_eq!(token(&pieces, absent), None);
        }
        assert_eq!(token(&pieces, b"B"), Some(&2), "the unknown token's");
        assert_eq!((pieces.tokens.len(), pieces.added), (4 + 255, 254));
        let ids = pieces.runs().into_iter().flat_map(|(first, count)| first..first + count);
        assert_eq!(ids.collect::<Vec<_>>(), pieces.ids);
        crate::model::tokens::Vocabulary::new(&pieces.tokens).unwrap();
    }

    #[test]
    fn characters_of_gpt2_are_bytes() {
        let json = json!({
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "unk_token": null, "vocab": {
                "\u{120}the": 3, "\u{10a}": 4, "\u{e9}": 5, "\u{143}": 6, "\u{2581}": 7}},
        });
        let pieces = read(&json, 100, &[], 9).unwrap();
        assert_eq!(token(&pieces, b" the"), Some(&3));
        assert_eq!(token(&pieces, b"\n"), Some(&4));
        assert_eq!(token(&pieces, &[0xe9]), Some(&5));
        assert_eq!(token(&pieces, &[0xad]), Some(&6));
        assert_eq!(token(&pieces, b"a"), Some(&9));
        assert_eq!(pieces.tokens.len(), 1 + 256, "a character that is no byte is left out");
    }

    #[test]
    fn other_tokenizers_are_refused() {
        for (json, rule) in [
            (json!({}), "no model"),
            (json!({"model": {"type": "WordPiece", "vocab": {}}}), "\"WordPiece\" is not supported"),
            (json!({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}}}), "suffixes"),
            (json!({"model": {"type": "Unigram", "vocab": [[1]]}}), "cannot be read"),
        ] {
            let error = read(&json, 100, &[], 0).unwrap_err();
            assert!(error.contains(rule), "{error}");
        }
    }
}
