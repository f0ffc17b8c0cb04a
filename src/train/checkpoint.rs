//! Checkpoints: parameters, state of the optimizer, vocabulary and progress of the training, in one
//! file.
//!
//! It is a safetensors file that is written beside its final name and then renamed, so that a
//! failed write leaves the last good checkpoint in place.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::corpus::Weights;
use super::net::Net;
use super::optimizer::{Optimizer, OptimizerConfig};
use super::pair_config::PairConfig;
use super::replace::replace;
use super::sizes::NetConfig;
use crate::error::{Error, Result};

/// What a checkpoint holds besides tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Sizes of the network.
    pub net: NetConfig,
    /// Configuration of the optimizer.
    #[serde(alias = "optimiser")]
    pub optimizer: OptimizerConfig,
    /// Steps done so far.
    pub step: usize,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The files that the network was trained on, for people.
    pub data: String,
    /// Bytes of these files.
    pub data_bytes: u64,
    /// Megabytes that each kind of files counted as, where kinds were weighted.
    #[serde(default)]
    pub weights: Weights,
    /// Strings of all tokens, in the order of their ids.
    pub vocabulary: Vec<Vec<u8>>,
    /// The training record of the network that this one started from.
    #[serde(default)]
    pub from: Option<serde_json::Value>,
    /// How the compressor is trained beside the network, if there is one.
    #[serde(default)]
    pub pair: Option<PairConfig>,
}

impl Head {
    /// The training record for the header of a model file.
    pub fn record(&self) -> serde_json::Value {
        let mut record = serde_json::json!({
            "data": self.data,
            "data_bytes": self.data_bytes,
            "steps": self.step,
            "tokens": self.tokens,
            "seed": self.seed,
        });
        if !self.weights.is_empty() {
            record["weights"] = serde_json::json!(self.weights);
        }
        if let Some(from) = &self.from {
            record["from"] = from.clone();
        }
        record
    }
}

const KEY: &str = "s3a-checkpoint";

fn bad(path: &Path, rule: impl ToString) -> Error {
    Error::BadModel { name: path.display().to_string(), rule: rule.to_string() }
}

/// Writes a checkpoint; `more` are the tensors of what is trained beside the network.
pub fn save(
    path: &Path,
    head: &Head,
    net: &Net,
    optimizer: &Optimizer,
    more: Vec<(String, Tensor)>,
) -> Result<()> {
    let mut tensors: HashMap<String, Tensor> = more.into_iter().collect();
    for param in &net.params {
        tensors.insert(format!("param.{}", param.name), param.var.as_tensor().clone());
    }
    for (name, var) in optimizer.tensors(net) {
        tensors.insert(name, var.as_tensor().clone());
    }
    let json = serde_json::to_string(head).map_err(|e| bad(path, e))?;
    let meta = HashMap::from([(KEY.to_owned(), json)]);
    let data = safetensors::serialize(&tensors, Some(meta)).map_err(|e| bad(path, e))?;
    replace(path, &data)
}

/// Reads what a checkpoint holds besides tensors.
pub fn head(path: &Path) -> Result<Head> {
    let data = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let (_, meta) = safetensors::SafeTensors::read_metadata(&data).map_err(|e| bad(path, e))?;
    let json =
        meta.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| bad(path, "not a checkpoint"))?;
    serde_json::from_str(json).map_err(|e| bad(path, e))
}

/// Reads the values of all tensors of a checkpoint.
pub fn tensors(path: &Path) -> Result<HashMap<String, Vec<f32>>> {
    let tensors =
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).map_err(|e| bad(path, e))?;
    let values = tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.flatten_all()?.to_vec1()?)));
    values.collect::<candle_core::Result<_>>().map_err(|e| bad(path, e))
}

/// Loads the tensors of a checkpoint into a network of the same sizes, and into its optimizer.
pub fn load(path: &Path, net: &Net, optimizer: Option<&mut Optimizer>, step: usize) -> Result<()> {
    let tensors = candle_core::safetensors::load(path, &net.device).map_err(|e| bad(path, e))?;
    let set = |name: &str, var: &candle_core::Var| -> Result<()> {
        let tensor = tensors.get(name).ok_or_else(|| bad(path, format!("lacks {name}")))?;
        if tensor.shape() != var.shape() || tensor.dtype() != DType::F32 {
            return Err(bad(path, format!("{name} has another shape: the checkpoint is of another network")));
        }
        var.set(tensor).map_err(|e| bad(path, e))
    };
    for param in &net.params {
        set(&format!("param.{}", param.name), &param.var)?;
    }
    if let Some(optimizer) = optimizer {
        for (name, var) in optimizer.tensors(net) {
            set(&name, &var)?;
        }
        optimizer.step = step;
    }
    Ok(())
}
