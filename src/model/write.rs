//! Writing a model file: named tensors and a header in one safetensors file, which the loader
//! checks.
//!
//! The same tensors give the same bytes, so a model's fingerprint follows from its contents.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::tensor::{Dtype, View, serialize};

use super::config::Config;
use super::file::{HEADER_KEY, first_set, row_bound_holds};
use super::tokens::Vocabulary;
use crate::error::{Error, Result};

/// One tensor of a model file. The two tensors of the vocabulary are made from it and not passed.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The tensor's name in the file.
    pub name: String,
    /// Sizes of the dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: TensorData,
}

/// Elements of a tensor, row-major.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// Weights.
    I8(Vec<i8>),
    /// Bytes: parts of the vocabulary, pairs of half bytes, or differences of weights.
    U8(Vec<u8>),
    /// Scales.
    U16(Vec<u16>),
    /// Biases.
    I32(Vec<i32>),
    /// Slots of the prior of c.
    U32(Vec<u32>),
}

impl Tensor {
    /// A tensor of weights.
    pub fn i8(name: impl Into<String>, shape: &[usize], data: Vec<i8>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data: TensorData::I8(data) }
    }

    /// A tensor of values from -8 to 7, stored as half bytes; the number of columns is even.
    pub fn nibbles(name: impl Into<String>, shape: &[usize; 2], data: &[i8]) -> Self {
        let half = |v: i8| (v.clamp(-8, 7) + 8) as u8;
        let data = data.as_chunks().0.iter().map(|&[low, high]| half(low) | half(high) << 4).collect();
        Self { name: name.into(), shape: vec![shape[0], shape[1] / 2], data: TensorData::U8(data) }
    }

    /// A tensor of scales.
    pub fn u16(name: impl Into<String>, shape: &[usize], data: Vec<u16>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data: TensorData::U16(data) }
    }

    /// A tensor of biases.
    pub fn i32(name: impl Into<String>, shape: &[usize], data: Vec<i32>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data: TensorData::I32(data) }
    }

    /// A tensor of slots.
    pub fn u32(name: impl Into<String>, shape: &[usize], data: Vec<u32>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data: TensorData::U32(data) }
    }

    fn u8(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.into(), shape: vec![data.len()], data: TensorData::U8(data) }
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        match self.data {
            TensorData::I8(_) => Dtype::I8,
            TensorData::U8(_) => Dtype::U8,
            TensorData::U16(_) => Dtype::U16,
            TensorData::I32(_) => Dtype::I32,
            TensorData::U32(_) => Dtype::U32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.data {
            TensorData::I8(data) => data.iter().map(|&x| x as u8).collect(),
            TensorData::U8(data) => data.into(),
            TensorData::U16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TensorData::I32(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TensorData::U32(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        match &self.data {
            TensorData::I8(data) => data.len(),
            TensorData::U8(data) => data.len(),
            TensorData::U16(data) => 2 * data.len(),
            TensorData::I32(data) => 4 * data.len(),
            TensorData::U32(data) => 4 * data.len(),
        }
    }
}

/// The bytes of a model file with these tensors, of which spec/numerics.md, section 11, has the
/// names; those of the vocabulary are added.
///
/// # Errors
/// `BadModel` if the loader would refuse the file.
pub fn write_model(config: &Config, vocabulary: &Vocabulary, tensors: &[Tensor]) -> Result<Vec<u8>> {
    config.check()?;
    let bytes = model_bytes(config, vocabulary, tensors)?;
    super::weights::Model::from_bytes(&bytes)?;
    Ok(bytes)
}

/// The bytes of the file, which are not checked.
pub(crate) fn model_bytes(config: &Config, vocabulary: &Vocabulary, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let json = serde_json::to_string(config).map_err(|error| config.bad(error.to_string()))?;
    let vocab = [
        Tensor::u8("vocab.bytes", vocabulary.concatenated().to_vec()),
        Tensor::u8("vocab.lengths", vocabulary.lengths()),
    ];
    let all = vocab.iter().chain(tensors).map(|tensor| (tensor.name.as_str(), tensor));
    let header = HashMap::from([(HEADER_KEY.to_string(), json)]);
    serialize(all, Some(header))
        .map_err(|error| Error::BadModel { name: config.name.clone(), rule: error.to_string() })
}

/// Stores the weights of all sets but the first as differences to the first, modulo 256. Sets that
/// were trained from one another are similar, so a file of differences is smaller once it is
/// packed.
pub fn store_differences(tensors: &mut [Tensor]) {
    let weights = |data: &TensorData| if let TensorData::I8(data) = data { Some(data.clone()) } else { None };
    let first: HashMap<String, Vec<i8>> = tensors
        .iter()
        .filter(|tensor| first_set(&tensor.name).is_none())
        .filter_map(|tensor| Some((tensor.name.clone(), weights(&tensor.data)?)))
        .collect();
    for tensor in tensors {
        let Some(first) = first_set(&tensor.name).and_then(|name| first.get(name)) else { continue };
        if let TensorData::I8(data) = &tensor.data {
            let differences =
                data.iter().zip(first).map(|(&own, &first)| (own as u8).wrapping_sub(first as u8));
            tensor.data = TensorData::U8(differences.collect());
        }
    }
}

/// The least `pre` with which every row keeps the bound of `linear` (spec/numerics.md, section 5):
/// `127 * sum |w| < 2^(14 + pre) - 2^pre`.
pub fn least_pre(weights: &[i8], cols: usize) -> u8 {
    let rows = weights.chunks_exact(cols);
    let largest = rows.map(|row| row.iter().map(|&w| u32::from(w.unsigned_abs())).sum()).max();
    (0..31).find(|&pre| row_bound_holds(largest.unwrap_or(0), pre)).map_or(31, |pre| pre as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_pre_keeps_the_bound_and_one_less_does_not() {
        assert_eq!(least_pre(&[0; 4], 2), 0);
        assert_eq!(least_pre(&[127, 1, 1, 0], 2), 0);
        assert_eq!(least_pre(&[127, -2, 1, 0], 2), 1);
        assert_eq!(least_pre(&[127; 2048], 2048), 11);
    }
}
