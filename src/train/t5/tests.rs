//! The T5 is compared with that of candle-transformers, and its derivatives with differences.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::t5 as oracle;

use super::config::T5Config;
use super::network::T5;
use crate::train::random::Random;

const D: usize = 32;

/// Sizes that are all different, so that none can be taken for another.
fn config(proj: &str, tied: bool) -> serde_json::Value {
    serde_json::json!({
        "vocab_size": 50, "d_model": D, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 3, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0,
        "feed_forward_proj": proj, "tie_word_embeddings": tied, "is_encoder_decoder": true,
        "use_cache": false, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        "architectures": ["T5ForConditionalGeneration"],
    })
}

fn combinations() -> [serde_json::Value; 4] {
    [config("relu", true), config("relu", false), config("gated-gelu", true), config("gated-gelu", false)]
}

/// A network whose gains are not all one and whose relative biases matter.
fn network(json: &serde_json::Value) -> T5 {
    let t5 = T5::new(serde_json::from_value(json.clone()).unwrap(), 5, &Device::Cpu).unwrap();
    let mut random = Random::new(9);
    for (name, var) in t5.vars() {
        let (scale, base) = match name.contains("norm") {
            true => (0.3, 1.0),
            false if name.contains("relative") => (1.0, 0.0),
            false => continue,
        };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| base + scale * random.normal()).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    t5
}

fn ids(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let (shape, mut random) = (shape.into(), Random::new(seed));
    let ids: Vec<u32> = (0..shape.elem_count()).map(|_| random.below(50) as u32).collect();
    Tensor::from_vec(ids, shape, &Device::Cpu).unwrap()
}

fn tensors(t5: &T5) -> HashMap<String, Tensor> {
    t5.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

fn largest(t: &Tensor) -> f32 {
    t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Both networks' logits for ids of `from` positions, decoded over `to` positions, agree.
fn agree(t5: &T5, json: &serde_json::Value, from: usize, to: usize) {
    let builder = VarBuilder::from_tensors(tensors(t5), DType::F32, &Device::Cpu);
    let config: oracle::Config = serde_json::from_value(json.clone()).unwrap();
    // candle-transformers multiplies the states before a tied head by the root that the original
    // divides by.
    let factor = if config.tie_word_embeddings { 1.0 / D as f64 } else { 1.0 };
    let mut oracle = oracle::T5ForConditionalGeneration::load(builder, &config).unwrap();
    let (source, target) = (ids((2, from), 1), ids((2, to), 2));
    let memory = oracle.encode(&source).unwrap();
    let ours = t5.encode(&source).unwrap();
    assert!(largest(&(&memory - &ours).unwrap()) < 1e-4 * largest(&memory), "encoder of {json}");
    let logits = t5.logits(&t5.decode(&target, &ours).unwrap()).unwrap();
    assert_eq!(logits.dims(), [2, to, 50]);
    // It returns logits of the last position only.
    for t in 1..=to {
        let last = oracle.decode(&target.narrow(1, 0, t).unwrap(), &memory).unwrap();
        let last = (last * factor).unwrap();
        let ours = logits.narrow(1, t - 1, 1).unwrap().squeeze(1).unwrap();
        let (difference, top) = (largest(&(&last - &ours).unwrap()), largest(&last));
        assert!(difference < 1e-4 * top, "{difference} of {top} at {t} of {json}");
    }
}

#[test]
fn logits_are_those_of_candle_transformers() {
    for json in combinations() {
        let t5 = network(&json);
        // Its decoder puts distances beyond 8 into other buckets than the original.
        agree(&t5, &json, 150, 9);
        // Where those buckets hold equal values, any distance must agree.
        let name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let (_, bias) = t5.vars().into_iter().find(|(known, _)| known == name).unwrap();
        let far = bias.narrow(0, 8, 1).unwrap().broadcast_as((24, 3)).unwrap();
        bias.set(&Tensor::cat(&[&bias.narrow(0, 0, 8).unwrap(), &far], 0).unwrap()).unwrap();
        agree(&t5, &json, 20, 40);
    }
}

#[test]
fn parameters_survive_loading_and_bad_ones_are_refused() {
    for json in combinations() {
        let t5 = network(&json);
        let mut map = tensors(&t5);
        let again = T5::load(t5.config.clone(), &map).unwrap();
        let names = |t5: &T5| t5.vars().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&t5), names(&again));
        assert_eq!(names(&t5).contains(&"lm_head.weight".into()), !t5.config.tie_word_embeddings);
        let (source, target) = (ids((1, 7), 3), ids((1, 5), 4));
        let run = |t5: &T5| t5.logits(&t5.decode(&target, &t5.encode(&source)?)?)?.flatten_all()?.to_vec1();
        let values: Vec<f32> = run(&t5).unwrap();
        assert_eq!(values, run(&again).unwrap());
        map.remove("encoder.final_layer_norm.weight");
        let error = T5::load(t5.config.clone(), &map).err().unwrap().to_string();
        assert!(error.contains("encoder.final_layer_norm.weight is missing"), "{error}");
        map.insert("encoder.final_layer_norm.weight".into(), ids(3, 1));
        let error = T5::load(t5.config.clone(), &map).err().unwrap().to_string();
        assert!(error.contains("has the shape [3], not [32]"), "{error}");
    }
}

#[test]
fn buckets_are_the_originals() {
    // Distances at which the original's bucket rises, from its own function.
    let both = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
    let causal =
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67]
            .iter()
            .chain(&[77, 87, 99, 113])
            .copied()
            .collect::<Vec<isize>>();
    let config: T5Config = serde_json::from_value(config("relu", true)).unwrap();
    for distance in 0..3000 {
        let count = |steps: &[isize]| steps.iter().filter(|&&step| step <= distance).count() as u32;
        assert_eq!(config.bucket(-distance, true), count(&both), "{distance} back");
        let ahead = if distance == 0 { 0 } else { 16 + count(&both) };
        assert_eq!(config.bucket(distance, true), ahead, "{distance} ahead");
        assert_eq!(config.bucket(-distance, false), count(&causal), "{distance} back, causal");
        assert_eq!(config.bucket(distance, false), 0);
    }
}

#[test]
fn without_memory_there_is_no_cross_attention() {
    let t5 = network(&config("relu", true));
    let target = ids((2, 6), 7);
    let empty = t5.encode(&ids((2, 0), 1)).unwrap();
    assert_eq!(empty.dims(), [2, 0, D]);
    let plain = t5.decode(&target, &empty).unwrap();
    for (name, var) in t5.vars() {
        if name.contains("EncDecAttention.o") {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
    }
    let muted = t5.decode(&target, &t5.encode(&ids((2, 4), 1)).unwrap()).unwrap();
    assert!(largest(&(plain - muted).unwrap()) < 1e-5);
}

#[test]
fn derivatives_are_those_of_differences() {
    for json in [config("relu", true), config("gated-gelu", false)] {
        let t5 = network(&json);
        let (source, target, wanted) = (ids((2, 11), 1), ids((2, 9), 2), ids((2, 9), 3));
        let loss = || -> Result<Tensor> {
            let logits = t5.logits(&t5.decode(&target, &t5.encode(&source)?)?)?.flatten_to(1)?;
            let picked = logits.gather(&wanted.flatten_all()?.unsqueeze(1)?, 1)?.squeeze(1)?;
            let top = logits.detach().max_keepdim(1)?;
            let sum = logits.broadcast_sub(&top)?.exp()?.sum(1)?.log()?;
            ((sum + top.squeeze(1)?)? - picked)?.mean_all()
        };
        let gradients = loss().unwrap().backward().unwrap();
        for (name, var) in t5.vars() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let steepest =
                (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
            let at = steepest.unwrap();
            let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            let moved = |step: f32| -> f64 {
                let mut values = values.clone();
                values[at] += step;
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                f64::from(loss().unwrap().to_scalar::<f32>().unwrap())
            };
            // Of two step sizes, one is free of kinks and of rounding.
            let slopes = [3e-3, 1e-3].map(|step| (moved(step) - moved(-step)) / f64::from(2.0 * step));
            moved(0.0);
            let exact = f64::from(gradient[at]);
            let near = slopes.iter().any(|slope| (slope - exact).abs() < 0.02 * exact.abs() + 3e-4);
            assert!(near, "{name}[{at}]: {exact}, differences {slopes:?}");
        }
    }
}
