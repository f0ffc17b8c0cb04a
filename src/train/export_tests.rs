//! A network of floats and the integer model that is exported from it code a chunk in nearly the
//! same number of bits.

use std::f64::consts::LN_2;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::checkpoint::Head;
use super::corpus::Featuriser;
use super::export::export;
use super::net::Net;
use super::random::Random;
use super::sizes::{NetConfig, Steering};
use super::vocabulary;
use crate::codec::neural::chunk_model::Neural;
use crate::model::tokens::Vocabulary;
use crate::model::weights::Model;

const TEXT: &[u8] = include_bytes!("../../LICENSE-APACHE");

/// A network in which every weight has an effect.
fn network(steering: Steering, vocab: usize) -> Net {
    let config = NetConfig {
        vocab,
        width: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_size: 16,
        ff: 48,
        window: 32,
        orders: vec![1, 3],
        seconds: vec![],
        ngrams: vec![(2, 8)],
        copy: true,
        adapt: 0.1,
        steering: Some(steering),
    };
    let net = Net::new(config, 5, &Device::Cpu).unwrap();
    let mut random = Random::new(6);
    for param in &net.params {
        let old = param.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values: Vec<f32> = old.iter().map(|v| v * 0.5 + random.normal() * 0.1).collect();
        param.var.set(&Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    net
}

/// Bits of the chunk under the network of floats, and bits of its payload, for each c.
fn bits(steering: Steering, cs: &[Vec<u16>]) -> Vec<(f64, f64)> {
    let tokens = vocabulary::learn(&[TEXT], 300).unwrap();
    let vocabulary = Vocabulary::new(&tokens).unwrap();
    let net = network(steering, tokens.len());
    let chunk = &TEXT[..4000];
    let batch = Featuriser::whole(&net.config, &vocabulary, chunk).unwrap();
    let samples: Vec<_> = cs.iter().map(|c| (batch.clone(), vec![c.clone()])).collect();
    let head = Head {
        weights: Default::default(),
        net: net.config.clone(),
        optimizer: Default::default(),
        step: 0,
        tokens: 0,
        seed: 0,
        seconds: 0.0,
        data: String::new(),
        data_bytes: 0,
        vocabulary: tokens,
        from: None,
        pair: None,
    };
    let prior = vec![1 << 10; (steering.symbols + 1) * (steering.symbols + 1)];
    let file = export("tiny", &head, &net, &vocabulary, &samples, Some(prior)).unwrap();
    let neural = Neural::new(Arc::new(Model::from_bytes(&file).unwrap()));
    let of = |c: &Vec<u16>| {
        let nats: f64 = net.nats(&batch, std::slice::from_ref(c)).unwrap().iter().sum();
        let payload = neural.encode_with(chunk, &[], c).unwrap().payload;
        (nats / LN_2, 8.0 * payload.len() as f64)
    };
    cs.iter().map(of).collect()
}

#[test]
fn an_export_codes_in_the_bits_of_its_network_whatever_reads_c() {
    let cs = [vec![], vec![3], vec![0, 4, 2]];
    let none = Steering { symbols: 6, max: 3, experts: 1, rows: false, layers: 0, ff: 0 };
    let encoder = Steering { layers: 2, ff: 40, ..none };
    for steering in [encoder, Steering { experts: 3, ..none }, Steering { rows: true, experts: 3, ..encoder }]
    {
        let all = bits(steering, &cs);
        for (float, coded) in &all {
            assert!((coded / float - 1.0).abs() < 0.01, "{steering:?}: {float} and {coded} bits");
        }
        // The effect of c is larger than the difference between floats and integers.
        let differ = |a: f64, b: f64| (a / b - 1.0).abs() > 0.002;
        assert!(differ(all[0].0, all[1].0) && differ(all[1].0, all[2].0), "{all:?}");
    }
}
