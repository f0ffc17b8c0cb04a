//! A base and a delta make a model file.

use std::collections::BTreeMap;

use byteorder::{ByteOrder, LittleEndian};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::file::{Change, read};
use super::matrix::changed;
use super::parts::parts;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::tokens::Vocabulary;
use crate::model::weights::{BIAS_MAX, HEADER_KEY, Model, add, first_set, nibbles, numbers};
use crate::model::write::{Tensor, TensorData, serialise};

/// The file of the model that `base`, the file of a model, and `delta` make. It is not checked here; the loader
/// of models does.
///
/// # Errors
/// `BadModel` with the rule that either breaks.
pub fn model_file(base: &[u8], delta: &[u8]) -> Result<Vec<u8>> {
    let unreadable = |error: safetensors::SafeTensorError| Error::BadModel {
        name: "of unknown name".into(),
        rule: format!("not a safetensors file: {error}"),
    };
    let (_, metadata) = SafeTensors::read_metadata(base).map_err(unreadable)?;
    let header = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER_KEY)).cloned();
    let mut config = Config::parse(&header.unwrap_or_default())?;
    let delta = read(delta, &config)?;
    let tensors = SafeTensors::deserialize(base).map_err(unreadable)?;
    let mut file = Tensors::read(&config, &tensors)?;
    if delta.first > 0 {
        file.put_first(&mut config, &format!("expert.{}.", delta.first))?;
    }
    for change in &delta.changes {
        file.change(&config, change)?;
    }
    let vocabulary = file.vocabulary(&config)?;
    config.name = delta.name;
    config.training =
        serde_json::from_str(&delta.training).map_err(|e| config.bad(format!("its record: {e}")))?;
    config.check()?;
    let tensors: Vec<Tensor> = file.0.into_values().collect();
    serialise(&config, &vocabulary, &tensors)
}

/// The model that `base`, the file of a model, and `delta` make; its fingerprint is that of the delta.
///
/// # Errors
/// `BadModel` with the rule that either breaks.
pub fn model(base: &[u8], delta: &[u8]) -> Result<Model> {
    let file = model_file(base, delta)?;
    Ok(Model::from_bytes(&file)?.with_fingerprint(*blake3::hash(delta).as_bytes()))
}

/// The tensors of a model by name.
struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    fn read(config: &Config, file: &SafeTensors<'_>) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (name, view) in file.tensors() {
            let shape = view.shape().to_vec();
            let bytes = view.data();
            let data = match view.dtype() {
                Dtype::I8 => TensorData::I8(bytes.iter().map(|&byte| byte as i8).collect()),
                Dtype::U16 => TensorData::U16(numbers(bytes, LittleEndian::read_u16_into)),
                Dtype::I32 => TensorData::I32(numbers(bytes, LittleEndian::read_i32_into)),
                Dtype::U32 => TensorData::U32(numbers(bytes, LittleEndian::read_u32_into)),
                Dtype::U8 => TensorData::U8(bytes.to_vec()),
                _ => return Err(config.bad(format!("tensor `{name}` has another type"))),
            };
            all.insert(name.clone(), Tensor { name, shape, data });
        }
        Ok(Self(all))
    }

    fn missing(config: &Config, name: &str) -> Error {
        config.bad(format!("tensor `{name}` is missing"))
    }

    /// The weights of a matrix, whole: halves of bytes and differences to the first set become what they stand for.
    fn whole(&mut self, config: &Config, name: &str, (rows, cols): (usize, usize)) -> Result<()> {
        let full = format!("{name}.weight");
        let Some(tensor) = self.0.get(&full) else { return Err(Self::missing(config, &full)) };
        let TensorData::U8(bytes) = &tensor.data else { return Ok(()) };
        let weights: Vec<i8> = match first_set(&full).map(|first| self.0.get(first)) {
            None => nibbles(bytes),
            Some(Some(Tensor { data: TensorData::I8(first), .. })) => {
                let first: Vec<u8> = first.iter().map(|&weight| weight as u8).collect();
                let mut bytes = bytes.clone();
                add(&mut bytes, &first);
                bytes.into_iter().map(|byte| byte as i8).collect()
            }
            Some(_) => return Err(config.bad(format!("`{name}` is a difference to no tensor"))),
        };
        config
            .require(weights.len() == rows * cols, &format!("tensor `{full}` has another type or shape"))?;
        self.0.insert(full.clone(), Tensor::i8(full, &[rows, cols], weights));
        Ok(())
    }

    /// Whole weights of the products of all sets: before the first set changes, to which others are differences.
    fn whole_products(&mut self, config: &Config) -> Result<()> {
        for product in config.products() {
            self.whole(config, &product.name, (product.rows, product.cols))?;
        }
        Ok(())
    }

    /// Puts the set of weights whose names begin with `set` in the place of the first.
    fn put_first(&mut self, config: &mut Config, set: &str) -> Result<()> {
        self.whole_products(config)?;
        let copies: Vec<Tensor> = self.0.range(set.to_owned()..).map(|(_, tensor)| tensor).cloned().collect();
        for tensor in copies.into_iter().filter(|tensor| tensor.name.starts_with(set)) {
            let name = tensor.name[set.len()..].to_owned();
            self.0.insert(name.clone(), Tensor { name, ..tensor });
        }
        let shifts: Vec<_> = config.shifts.iter().map(|(name, shift)| (name.clone(), *shift)).collect();
        for (name, shift) in shifts {
            if let Some(name) = name.strip_prefix(set) {
                config.shifts.insert(name.to_owned(), shift);
            }
        }
        let number = config.sets().iter().position(|known| known == set).unwrap_or(0);
        if let Some(&rate) = config.adapt.get(number) {
            config.adapt[0] = rate;
        }
        Ok(())
    }

    fn change(&mut self, config: &Config, change: &Change) -> Result<()> {
        let part = parts(config).into_iter().find(|part| part.name == change.name);
        let part = part.ok_or_else(|| Self::missing(config, &change.name))?;
        if part.bias {
            let tensor = self.0.get_mut(&part.name).ok_or_else(|| Self::missing(config, &part.name))?;
            let TensorData::I32(values) = &mut tensor.data else {
                return Err(config.bad(format!("tensor `{}` has another type or shape", part.name)));
            };
            for (value, &difference) in values.iter_mut().zip(&change.differences) {
                let sum = i64::from(*value) + i64::from(difference) * i64::from(change.step);
                *value = sum.clamp(-i64::from(BIAS_MAX), i64::from(BIAS_MAX)) as i32;
            }
            return Ok(());
        }
        let is_table = part.name.starts_with("embed.");
        if is_table {
            self.whole(config, &part.name, (part.rows, part.cols))?;
        } else {
            self.whole_products(config)?;
        }
        let pre = if is_table { None } else { Some(config.product_shift(&part.name)?.0) };
        let names = [format!("{}.weight", part.name), format!("{}.scale", part.name)];
        let [Some(mut weights), Some(mut scales)] = names.clone().map(|name| self.0.remove(&name)) else {
            return Err(Self::missing(config, &part.name));
        };
        let (TensorData::I8(w), TensorData::U16(s)) = (&mut weights.data, &mut scales.data) else {
            return Err(config.bad(format!("tensor `{}` has another type or shape", part.name)));
        };
        if w.len() != part.rows * part.cols || s.len() != part.rows {
            return Err(config.bad(format!("tensor `{}` has another type or shape", part.name)));
        }
        let rows = w.chunks_exact_mut(part.cols).zip(s).zip(change.differences.chunks_exact(part.cols));
        for ((row, scale), differences) in rows.filter(|(_, differences)| differences.iter().any(|&d| d != 0))
        {
            let Some((new, new_scale)) = changed(row, *scale, differences, change.step, pre) else {
                return Err(config.bad(format!("a row of `{}` changes beyond its bounds", part.name)));
            };
            row.copy_from_slice(&new);
            *scale = new_scale;
        }
        let [weight, scale] = names;
        self.0.insert(weight, weights);
        self.0.insert(scale, scales);
        Ok(())
    }

    fn vocabulary(&mut self, config: &Config) -> Result<Vocabulary> {
        let [Some(bytes), Some(lengths)] = ["vocab.bytes", "vocab.lengths"].map(|name| self.0.remove(name))
        else {
            return Err(Self::missing(config, "vocab.bytes"));
        };
        let (TensorData::U8(bytes), TensorData::U8(lengths)) = (&bytes.data, &lengths.data) else {
            return Err(config.bad("its vocabulary has another type"));
        };
        Vocabulary::from_parts(bytes, lengths)
    }
}
