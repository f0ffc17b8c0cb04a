//! A directory with a Hugging Face T5: its configuration, weights and vocabulary.

use std::path::Path;

use candle_core::Device;

use super::pieces::Pieces;
use crate::error::{Error, Result};
use crate::model::config::MAX_SIZE;
use crate::model::tokens::{MAX_TOKENS, Vocabulary};
use crate::train::t5::config::T5Config;
use crate::train::t5::network::T5;

/// A T5 that was read from a directory.
pub struct Folder {
    /// The network.
    pub t5: T5,
    /// The pieces of its tokenizer.
    pub pieces: Pieces,
}

/// An error of candle while a T5 is computed.
pub(crate) fn failed(error: candle_core::Error) -> Error {
    Error::Training(format!("the T5 cannot be computed: {error}"))
}

pub(crate) fn bad(path: &Path, rule: impl ToString) -> Error {
    Error::BadModel { name: path.display().to_string(), rule: rule.to_string() }
}

/// Checks that the engine can hold a model of these sizes; an error says what it cannot hold, in
/// the words of the configuration.
fn check_sizes(c: &T5Config) -> Result<(), String> {
    let sizes = [("d_model", c.d_model), ("d_ff", c.d_ff), ("num_heads x d_kv", c.inner())];
    if let Some((name, size)) = sizes.iter().find(|(_, size)| *size > MAX_SIZE) {
        return Err(format!("{name} is {size}, and the engine takes at most 2,048"));
    }
    if c.num_layers == 0 || c.decoder_layers() == 0 {
        return Err("it lacks an encoder or a decoder".into());
    }
    Ok(())
}

impl Folder {
    /// Reads `config.json`, `model.safetensors` and `tokenizer.json` of a directory.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|e| Error::io(&path, e))
        };
        let path = folder.join("config.json");
        let config: T5Config = serde_json::from_slice(&read("config.json")?)
            .map_err(|e| bad(&path, format!("not a T5: {e}")))?;
        config.check().and_then(|()| check_sizes(&config)).map_err(|rule| bad(&path, rule))?;
        let path = folder.join("tokenizer.json");
        let json = serde_json::from_slice(&read("tokenizer.json")?).map_err(|e| bad(&path, e))?;
        let limit = u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
        let special = [config.pad_token_id, config.eos_token_id, config.start()];
        let pieces =
            super::pieces::read(&json, limit, &special, config.pad_token_id).map_err(|e| bad(&path, e))?;
        if pieces.tokens.len() > MAX_TOKENS {
            return Err(bad(&path, format!("{} pieces, at most 65,535 are possible", pieces.tokens.len())));
        }
        let path = folder.join("model.safetensors");
        let file = read("model.safetensors")?;
        let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu);
        let t5 = tensors.and_then(|tensors| T5::load(config, &tensors)).map_err(|e| bad(&path, e))?;
        Ok(Self { t5, pieces })
    }

    /// The vocabulary for the engine.
    pub(crate) fn vocabulary(&self) -> Result<Vocabulary> {
        Vocabulary::new(&self.pieces.tokens)
    }

    /// The T5's ids of a text, tokenized as the engine does it.
    pub(crate) fn ids(&self, vocabulary: &Vocabulary, text: &[u8]) -> Vec<u32> {
        let tokens = vocabulary.tokenize(text);
        tokens.into_iter().map(|token| self.pieces.ids[usize::from(token)]).collect()
    }
}
