//! Fused operations are compared with the same sublayers composed of candle's own: values and
//! gradients.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::compose;
use super::embed::NONE;
use super::loss::{CLASSES, HeadLoss, Targets};
use crate::train::net::{Batch, Net};
use crate::train::random::Random;
use crate::train::sizes::{NetConfig, Steering};

fn config() -> NetConfig {
    NetConfig {
        vocab: 300,
        width: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 8,
        ff: 40,
        window: 9,
        orders: vec![1, 3],
        seconds: vec![3],
        ngrams: vec![(2, 5)],
        copy: true,
        adapt: 0.0,
        steering: Some(Steering { symbols: 6, max: 3, experts: 1, rows: true, layers: 0, ff: 0 }),
    }
}

fn batch(config: &NetConfig, sequences: usize, len: usize) -> Batch {
    let mut random = Random::new(5);
    let n = sequences * len;
    let tables = config.tables();
    let rows = (0..n * config.rows_per_position())
        .map(|_| if random.below(4) == 0 { NONE } else { random.below(tables.rows) as u32 })
        .collect();
    let slots = config.slots();
    let targets = Targets {
        tokens: (0..n).map(|_| random.below(config.vocab) as u32).collect(),
        // Few candidates, so that some coincide.
        candidates: (0..n * slots)
            .map(|_| if random.below(3) == 0 { NONE } else { random.below(5) as u32 })
            .collect(),
        classes: (0..n * slots).map(|_| random.below(17) as u8).collect(),
    };
    Batch { len, rows: Arc::new(rows), targets: Arc::new(targets), bytes: n, chunks: vec![], kinds: vec![] }
}

/// A network none of whose parameters is zero.
fn net() -> Net {
    filled(config())
}

fn filled(config: NetConfig) -> Net {
    let net = Net::new(config, 3, &Device::Cpu).unwrap();
    let mut random = Random::new(9);
    for param in &net.params {
        let values: Vec<f32> = (0..param.var.elem_count()).map(|_| random.normal() * 0.3).collect();
        let tensor = candle_core::Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap();
        param.var.set(&tensor).unwrap();
    }
    net
}

#[test]
fn fused_operations_equal_the_composed_ones() {
    let mut net = net();
    // 150 positions: blocks of queries and of rows end in the middle.
    let batch = batch(&net.config, 5, 150);
    let cs = [vec![], vec![1, 1, 4], vec![0], vec![5, 2], vec![3]];
    let (fused, fused_nats) = net.loss_with(&batch, &cs).unwrap();
    let fused_grads = fused.backward().unwrap();
    assert_eq!(net.nats(&batch, &cs).unwrap(), fused_nats);
    net.fused = false;
    let (composed, composed_nats) = net.loss_with(&batch, &cs).unwrap();
    let composed_grads = composed.backward().unwrap();
    let (a, b) = (fused.to_vec1::<f32>().unwrap()[0], composed.to_vec1::<f32>().unwrap()[0]);
    assert!((a - b).abs() < 1e-4, "loss {a} and {b}");
    for (a, b) in fused_nats.iter().zip(&composed_nats) {
        assert!((a - b).abs() < 1e-4 * b, "a sequence's nats {a} and {b}");
    }
    for param in &net.params {
        let flat = |g: &candle_core::backprop::GradStore| -> Vec<f32> {
            g.get(param.var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (f, c) = (flat(&fused_grads), flat(&composed_grads));
        let top = c.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (i, (f, c)) in f.iter().zip(&c).enumerate() {
            assert!((f - c).abs() < 1e-4 * top + 1e-7, "{} element {i}: {f} and {c}", param.name);
        }
    }
}

#[test]
fn each_sequence_is_computed_by_the_expert_that_its_c_names() {
    let mut config = config();
    config.steering = Some(Steering { symbols: 6, max: 3, experts: 3, rows: true, layers: 1, ff: 16 });
    let net = filled(config);
    let batch = batch(&net.config, 5, 40);
    let cs = [vec![], vec![1, 1, 4], vec![0], vec![4, 2], vec![5]];
    let (loss, together) = net.loss_with(&batch, &cs).unwrap();
    for (place, c) in cs.iter().enumerate() {
        let alone = net.nats(&batch.select(&[place]), &cs[place..=place]).unwrap()[0];
        assert!((alone - together[place]).abs() < 1e-3, "{c:?}: {alone} and {}", together[place]);
    }
    // Expert 0 has one sequence, experts 1 and 2 have two each: one of the latter learns, and no
    // other.
    let grads = loss.backward().unwrap();
    let learns = |expert: usize| grads.get(net.set(expert)[0].var.as_tensor()).is_some();
    assert_eq!((0..3).filter(|&expert| learns(expert)).count(), 1);
    assert!(!learns(0));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let batch = batch(&config(), 5, 64);
    let run = |threads: usize| -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let net = net();
            let cs = [vec![0], vec![], vec![2, 5], vec![1, 1, 1], vec![]];
            let grads = net.loss_with(&batch, &cs).unwrap().0.backward().unwrap();
            let all = net.params.iter().map(|p| grads.get(p.var.as_tensor()).unwrap().flatten_all().unwrap());
            all.flat_map(|g| g.to_vec1::<f32>().unwrap()).collect()
        })
    };
    assert_eq!(run(1), run(3));
}

/// The bias that learns within a sequence, for each position, by its definition.
fn biases(logits: &[Vec<f32>], tokens: &[u32], len: usize, rate: f32) -> Vec<f32> {
    let vocab = logits[0].len();
    let mut bias = vec![0.0f32; vocab];
    let mut all = Vec::new();
    for (i, (row, &token)) in logits.iter().zip(tokens).enumerate() {
        if i % len == 0 {
            bias.fill(0.0);
        }
        all.extend_from_slice(&bias);
        let exp: Vec<f32> = row.iter().zip(&bias).map(|(z, b)| (z + b).exp()).collect();
        let sum: f32 = exp.iter().sum();
        bias.iter_mut().zip(&exp).for_each(|(b, e)| *b -= rate * e / sum);
        bias[token as usize] += rate;
    }
    all
}

#[test]
fn the_bias_that_learns_follows_its_definition() {
    let (vocab, slots, d, len, sequences, rate) = (60, 2, 16, 70, 3, 0.3);
    let n = sequences * len;
    let mut random = Random::new(4);
    let mut tensor = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    };
    let (x, packed) = (tensor(&[n, d]), tensor(&[(vocab + slots) * d + slots * CLASSES]));
    let targets = Targets {
        // Few tokens, so that the bias has something to learn.
        tokens: (0..n).map(|i| (i * i % 7) as u32).collect(),
        candidates: (0..n * slots).map(|i| if i % 3 == 0 { NONE } else { (i % 11) as u32 }).collect(),
        classes: (0..n * slots).map(|i| (i % CLASSES) as u8).collect(),
    };
    let logits = compose::logits(&x, &packed, vocab, slots, &targets, None).unwrap();
    let bias = biases(&logits.to_vec2().unwrap(), &targets.tokens, len, rate);
    let bias = Tensor::from_vec(bias, (n, vocab), &Device::Cpu).unwrap();
    let log_softmax = candle_nn::ops::log_softmax(&(logits + bias).unwrap(), 1).unwrap();
    let index = Tensor::from_vec(targets.tokens.clone(), (n, 1), &Device::Cpu).unwrap();
    let composed = log_softmax.gather(&index, 1).unwrap().mean_all().unwrap().neg().unwrap();
    let op = HeadLoss::new(d, vocab, slots, len, Arc::new(targets)).adapting(rate);
    let fused = x.apply_op2(&packed, op).unwrap();
    let value = fused.to_vec1::<f32>().unwrap()[0];
    assert!((value - composed.to_scalar::<f32>().unwrap()).abs() < 1e-4);
    let (fused, composed) = (fused.backward().unwrap(), composed.backward().unwrap());
    for var in [&x, &packed] {
        let flat = |g: &candle_core::backprop::GradStore| -> Vec<f32> {
            g.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (fused, composed) = (flat(&fused), flat(&composed));
        let top = composed.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(fused.iter().zip(&composed).all(|(f, c)| (f - c).abs() < 1e-4 * top + 1e-7));
    }
}
