//! The result is the same for all kernels, numbers of lanes, and ways to compute positions.

use std::sync::Arc;

use super::chunk_model::Neural;
use super::search::{Compressor, Search};
use crate::codec::job::{DecodeJob, Decoded, EncodeJob};
use crate::codec::model::ChunkModel;
use crate::codec::work::LANES;
use crate::error::Result;
use crate::kernels::backend::Backend;
use crate::model::config::{Activation, Config, Latent};
use crate::model::sample::{Draw, Random, model_file};
use crate::model::weights::Model;
use crate::wire::chunk::Codec;

fn model(config: Config, draw: Draw) -> Arc<Model> {
    Arc::new(Model::from_bytes(&model_file(config, draw, 7).unwrap()).unwrap())
}

fn small() -> Config {
    let mut config = Config::new("small", 40, 2, 300);
    config.heads = 3;
    config.head_size = 16;
    config.ff = 72;
    config.window = 19;
    config.orders = vec![1, 2, 4];
    config.seconds = vec![2];
    config.ngrams = vec![(2, 8), (3, 6)];
    config.copy = true;
    config.set_adapt(vec![60_000]);
    config
}

fn with_latent() -> Config {
    let mut config = small();
    config.kv_heads = 3;
    config.activation = Activation::Relu;
    config.window = 0;
    config.latent = Some(Latent { symbols: 20, max: 9, layers: 2, ff: 50, steer: false, experts: 1 });
    config
}

/// A model that c steers, without an encoder or with one.
fn steered(layers: usize) -> Config {
    let mut config = small();
    config.latent =
        Some(Latent { symbols: 20, max: 9, layers, ff: 50 * layers.min(1), steer: true, experts: 1 });
    config
}

/// A model like an imported T5: with gates, and one row of the prior for all symbols.
fn with_gates() -> Config {
    let mut config = with_latent();
    config.activation = Activation::GatedGelu;
    config.latent = Some(Latent { symbols: 300, max: 6, layers: 1, ff: 44, steer: false, experts: 1 });
    config
}

/// A model with several sets of weights; with `steer` also steered.
fn expert(steer: bool) -> Config {
    let mut config = small();
    config.latent = Some(Latent { symbols: 20, max: 9, layers: 0, ff: 0, steer, experts: 3 });
    config.set_adapt(vec![60_000, 0, (1 << 18) - 1]);
    config
}

/// The same model with the weights of its later sets stored as differences to the first.
fn as_differences(file: &[u8]) -> Vec<u8> {
    use safetensors::tensor::Dtype;

    use crate::model::write::{Tensor, TensorData, model_bytes, store_differences};

    let words = |data: &[u8], size: usize| -> Vec<u32> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        data.chunks_exact(size).map(word).collect()
    };
    let read = safetensors::SafeTensors::deserialize(file).unwrap();
    let mut tensors: Vec<Tensor> = Vec::new();
    for (name, view) in read.tensors().into_iter().filter(|(name, _)| !name.starts_with("vocab.")) {
        let data = match view.dtype() {
            Dtype::I8 => TensorData::I8(view.data().iter().map(|&byte| byte as i8).collect()),
            Dtype::U8 => TensorData::U8(view.data().to_vec()),
            Dtype::U16 => TensorData::U16(words(view.data(), 2).iter().map(|&word| word as u16).collect()),
            Dtype::I32 => TensorData::I32(words(view.data(), 4).iter().map(|&word| word as i32).collect()),
            _ => TensorData::U32(words(view.data(), 4)),
        };
        tensors.push(Tensor { name, shape: view.shape().to_vec(), data });
    }
    let model = Model::from_bytes(file).unwrap();
    let same = model_bytes(model.config(), model.vocabulary(), &tensors).unwrap();
    store_differences(&mut tensors);
    let differences = model_bytes(model.config(), model.vocabulary(), &tensors).unwrap();
    assert!(same != differences);
    differences
}

#[test]
fn sets_that_are_stored_as_differences_give_the_same_bits() {
    let file = model_file(expert(false), Draw::Even, 7).unwrap();
    let whole = Neural::new(Arc::new(Model::from_bytes(&file).unwrap()));
    let differences = Neural::new(Arc::new(Model::from_bytes(&as_differences(&file)).unwrap()));
    let raw = text(700, &mut Random::new(5));
    for c in [&[][..], &[3], &[4]] {
        let payload = whole.encode_with(&raw, &[], c).unwrap().payload;
        assert!(differences.encode_with(&raw, &[], c).unwrap().payload == payload);
        assert_eq!(decode(&differences, &[job(&payload, raw.len(), &[])])[0].as_ref().unwrap(), &raw);
    }
}

/// Text with repeats, in part of bytes that occur in no token but their own.
fn text(len: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = vec![];
    while bytes.len() < len {
        if random.below(3) == 0 && bytes.len() > 40 {
            let from = random.below(bytes.len() as u32 - 30) as usize;
            bytes.extend_from_within(from..from + 30);
        } else if random.below(8) == 0 {
            bytes.push(random.below(256) as u8);
        } else {
            bytes.push(b"etaoinshr dlu"[random.below(13) as usize]);
        }
    }
    bytes.truncate(len);
    bytes
}

fn history(random: &mut Random) -> Vec<Arc<[u8]>> {
    (0..random.below(3)).map(|_| text(1 + random.below(400) as usize, random).into()).collect()
}

fn job<'a>(payload: &'a [u8], raw_len: usize, history: &[Arc<[u8]>]) -> DecodeJob<'a> {
    DecodeJob {
        codec: Codec::Neural,
        model: 0,
        payload,
        raw_len,
        history: history.to_vec(),
        dictionary: None,
    }
}

fn decode(neural: &Neural, jobs: &[DecodeJob<'_>]) -> Vec<Decoded> {
    neural.decode(&jobs.iter().collect::<Vec<_>>())
}

/// Payloads of all backends are equal, and all of them decode, alone and together.
fn round_trip(model: &Arc<Model>, raws: &[Vec<u8>], histories: &[Vec<Arc<[u8]>>], c: &[u16]) {
    let mut expected: Option<Vec<Vec<u8>>> = None;
    for backend in Backend::available() {
        let neural = Neural::with_backend(model.clone(), backend);
        let encode =
            |(raw, history): (&Vec<u8>, &Vec<Arc<[u8]>>)| neural.encode_with(raw, history, c).unwrap();
        let coded: Vec<_> = raws.iter().zip(histories).map(encode).collect();
        for coded in &coded {
            let bits = coded.latent_bits + coded.residual_bits;
            assert!(bits.abs_diff(8 * coded.payload.len() as u64) <= 72);
        }
        let payloads: Vec<Vec<u8>> = coded.into_iter().map(|coded| coded.payload).collect();
        assert!(expected.get_or_insert_with(|| payloads.clone()) == &payloads, "{backend:?}");
        let entries = payloads.iter().zip(raws).zip(histories);
        let jobs: Vec<_> =
            entries.map(|((payload, raw), history)| job(payload, raw.len(), history)).collect();
        for together in [1, 8, jobs.len()] {
            for (jobs, raws) in jobs.chunks(together).zip(raws.chunks(together)) {
                for (result, raw) in decode(&neural, jobs).into_iter().zip(raws) {
                    assert!(result.unwrap() == *raw, "{backend:?}, {together} together");
                }
            }
        }
    }
}

#[test]
fn chunks_survive_on_any_backend_alone_and_in_lockstep() {
    let mut random = Random::new(1);
    let lens = (0..LANES + 20).map(|i| 1 + (i * i) % 190 + i);
    let raws: Vec<_> = lens.map(|len| text(len, &mut random)).collect();
    let histories: Vec<_> = raws.iter().map(|_| history(&mut random)).collect();
    round_trip(&model(small(), Draw::Even), &raws, &histories, &[]);
}

#[test]
fn every_shape_of_model_codes_exactly() {
    let mut random = Random::new(2);
    let raws: Vec<_> = [1, 30, 500].map(|len| text(len, &mut random)).to_vec();
    let histories: Vec<_> = raws.iter().map(|_| history(&mut random)).collect();
    let mut plain = Config::new("plain", 17, 1, 256);
    plain.ff = 5;
    plain.window = 1;
    let mut wide = small();
    (wide.width, wide.heads, wide.kv_heads, wide.head_size) = (130, 4, 2, 8);
    wide.orders = vec![];
    wide.seconds = vec![];
    wide.copy = false;
    wide.window = 300;
    for config in [plain, wide, with_latent(), with_gates(), steered(0), expert(false)] {
        round_trip(&model(config, Draw::Even), &raws, &histories, &[]);
    }
}

#[test]
fn learned_sequences_of_any_length_are_coded_and_change_the_slots() {
    let mut random = Random::new(3);
    let raws: Vec<_> = [60, 200].map(|len| text(len, &mut random)).to_vec();
    let histories = vec![vec![]; 2];
    for config in [with_latent(), steered(0), steered(1), expert(false), expert(true)] {
        let model = model(config, Draw::Even);
        for c in [&[][..], &[3], &[19, 0, 0, 5], &[1; 9]] {
            round_trip(&model, &raws, &histories, c);
        }
        let neural = Neural::new(model);
        let size = |c: &[u16]| neural.encode_with(&raws[1], &[], c).unwrap().residual_bits;
        assert_ne!(size(&[]), size(&[7, 7]));
        assert!(neural.encode_with(&raws[1], &[], &[20]).is_err());
        assert!(neural.encode_with(&raws[1], &[], &[0; 10]).is_err());
    }
    let gates = model(with_gates(), Draw::Even);
    for c in [&[][..], &[299], &[0, 150, 150, 3], &[298; 6]] {
        round_trip(&gates, &raws, &histories, c);
    }
}

struct Writes(Vec<Vec<u16>>);

impl Compressor for Writes {
    fn candidates(&self, _: &[u16], count: usize) -> Vec<Vec<u16>> {
        self.0.iter().take(count).cloned().collect()
    }
}

#[test]
fn candidates_are_no_longer_and_no_more_than_asked_for() {
    let written = vec![vec![3, 1, 2], vec![3, 1, 4], vec![5]];
    let neural = Neural::new(model(with_latent(), Draw::Even));
    let candidates = |effort, longest| {
        let compressor: Arc<dyn Compressor> = Arc::new(Writes(written.clone()));
        neural.clone().searching(Some(compressor), Search { effort, longest }).candidates(b"text")
    };
    let nothing = Vec::<u16>::new();
    assert_eq!(candidates(3, 9), [nothing.clone(), vec![3, 1, 2], vec![3, 1, 4], vec![5]]);
    // Candidates that are the same once they are cut are tried once; those of the prior fill up the
    // rest.
    assert_eq!(candidates(3, 2)[..3], [nothing.clone(), vec![3, 1], vec![5]]);
    assert!(candidates(3, 1).iter().all(|c| c.len() < 2));
    assert!(candidates(3, 0) == candidates(0, 9) && candidates(0, 9) == [nothing]);
}

#[test]
fn chunks_with_and_without_c_decode_together() {
    let mut random = Random::new(4);
    let raws: Vec<_> = (0..7).map(|i| text(40 + 9 * i, &mut random)).collect();
    for config in [with_latent(), steered(0), expert(true)] {
        let neural = Neural::new(model(config, Draw::Even));
        let encode =
            |(i, raw): (usize, &Vec<u8>)| neural.encode_with(raw, &[], &[4, 2, 11][..i % 4]).unwrap().payload;
        let payloads: Vec<_> = raws.iter().enumerate().map(encode).collect();
        let jobs: Vec<_> =
            payloads.iter().zip(&raws).map(|(payload, raw)| job(payload, raw.len(), &[])).collect();
        for (result, raw) in decode(&neural, &jobs).into_iter().zip(&raws) {
            assert_eq!(&result.unwrap(), raw);
        }
    }
}

#[test]
fn extreme_weights_overflow_nothing() {
    let mut random = Random::new(5);
    let raws = [text(300, &mut random)];
    for config in [small(), with_latent(), with_gates(), steered(0), steered(1), expert(true)] {
        let c: &[u16] = if config.latent.is_some() { &[1, 2] } else { &[] };
        round_trip(&model(config, Draw::Extreme), &raws, &[vec![text(100, &mut random).into()]], c);
    }
}

#[test]
fn a_model_without_window_takes_4096_tokens_and_no_more() {
    let mut config = Config::new("no-window", 8, 1, 256);
    (config.head_size, config.ff, config.window) = (8, 8, 0);
    let neural = Neural::new(model(config, Draw::Even));
    let raw = vec![5; 4097];
    let coded = neural.encode_with(&raw[..4096], &[], &[]).unwrap();
    assert_eq!(decode(&neural, &[job(&coded.payload, 4096, &[])])[0].as_ref().unwrap(), &raw[..4096]);
    assert!(decode(&neural, &[job(&coded.payload, 4097, &[])])[0].is_err());
    assert!(neural.encode(&[EncodeJob { raw: &raw, history: vec![] }])[0].is_none());
}

#[test]
fn damaged_payloads_end_in_bytes_of_the_right_length_or_an_error() {
    let mut random = Random::new(6);
    let neural = Neural::new(model(with_latent(), Draw::Even));
    let raw = text(120, &mut random);
    let payload = neural.encode_with(&raw, &[], &[1]).unwrap().payload;
    let mut cases: Vec<Vec<u8>> = (0..payload.len()).map(|len| payload[..len].to_vec()).collect();
    for bit in (0..8 * payload.len()).step_by(3) {
        let mut flipped = payload.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        cases.push(flipped);
    }
    cases.push(vec![255; 40]);
    let jobs: Vec<_> = cases.iter().map(|case| job(case, raw.len(), &[])).collect();
    for result in decode(&neural, &jobs).into_iter().flatten() {
        assert_eq!(result.len(), raw.len());
    }
    let mut longer = payload.clone();
    longer.push(0);
    assert!(decode(&neural, &[job(&longer, raw.len(), &[])])[0].is_err());
    assert!(decode(&neural, &[job(&[], 0, &[])])[0].as_ref().unwrap().is_empty());
}

/// Devices that fail, in every way.
mod devices {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::codec::offload::device::{Device, Output};
    use crate::codec::offload::dispatch::Offload;
    use crate::codec::work::Work;
    use crate::model::device::job::Request;

    type Says = fn(&[Request<'_>]) -> Result<Vec<Output>, String>;

    /// A device that decodes nothing and returns what it was told to.
    struct Broken {
        says: Says,
        asked: Arc<AtomicUsize>,
    }

    impl Device for Broken {
        fn name(&self) -> String {
            "broken".into()
        }

        fn run(&self, _: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            (self.says)(requests)
        }
    }

    #[test]
    fn the_cpu_takes_over_from_a_device_that_fails() {
        let model = model(expert(true), Draw::Even);
        let cpu = Neural::new(model.clone()).searching(None, 2);
        let raws: Vec<Vec<u8>> =
            (1..80u8).map(|n| b"some words, and more words ".repeat(3)[..n as usize].to_vec()).collect();
        let jobs: Vec<_> = raws.iter().map(|raw| EncodeJob { raw, history: vec![] }).collect();
        let payloads = cpu.encode(&jobs);
        let decode: Vec<_> = raws
            .iter()
            .zip(&payloads)
            .map(|(raw, payload)| DecodeJob {
                codec: Codec::Neural,
                model: 0,
                payload: payload.as_ref().unwrap(),
                raw_len: raw.len(),
                history: vec![],
                dictionary: None,
            })
            .collect();
        let decode: Vec<_> = decode.iter().collect();
        let answers: [Says; 2] =
            [|_| Err("it was unplugged".into()), |requests| Ok(vec![Output::Damaged; requests.len() - 1])];
        for says in answers {
            let asked = Arc::new(AtomicUsize::new(0));
            let offload = Arc::new(Offload::to(Box::new(Broken { says, asked: asked.clone() })));
            let neural = cpu.clone().offloading(Some(offload.clone()));
            assert!(neural.takes_bulk(Work::of(1, 1, 1)) && offload.warning().is_none());
            for (raw, decoded) in raws.iter().zip(neural.decode(&decode)) {
                assert_eq!(decoded.unwrap(), *raw);
            }
            assert!(offload.warning().unwrap().contains("broken was given up"));
            assert!(!neural.takes_bulk(Work::of(1000, 1, 1)));
            assert_eq!(neural.encode(&jobs), payloads);
            assert_eq!(asked.load(Ordering::Relaxed), 1, "a device that failed is not asked again");
        }
    }

    #[test]
    fn nonsense_of_a_device_is_an_error_and_never_a_panic() {
        let model = model(small(), Draw::Even);
        let says: [Says; 3] = [
            |requests| Ok(vec![Output::Tokens(vec![u16::MAX]); requests.len()]),
            |requests| Ok(vec![Output::Shares(vec![]); requests.len()]),
            |requests| Ok(vec![Output::Damaged; requests.len()]),
        ];
        for says in says {
            let device = Box::new(Broken { says, asked: Arc::default() });
            let neural = Neural::new(model.clone()).offloading(Some(Arc::new(Offload::to(device))));
            let payload = Neural::new(model.clone()).encode_with(b"abc", &[], &[]).unwrap().payload;
            let job = DecodeJob {
                codec: Codec::Neural,
                model: 0,
                payload: &payload,
                raw_len: 3,
                history: vec![],
                dictionary: None,
            };
            assert!(neural.decode(&[&job])[0].is_err());
            assert_eq!(neural.encode(&[EncodeJob { raw: b"abc", history: vec![] }]), [None]);
            // What needs no device is done.
            let empty = DecodeJob { raw_len: 0, payload: b"", ..job };
            assert_eq!(neural.decode(&[&empty])[0].as_ref().unwrap(), b"");
        }
    }
}

/// All parts of the arithmetic, in models and texts small enough for Miri, which runs this as if on
/// machines of other byte orders and word lengths (tests/miri.sh).
#[test]
fn payloads_are_these_on_every_machine() {
    let mut payloads = blake3::Hasher::new();
    for (mut config, draw) in
        [(small(), Draw::Extreme), (with_gates(), Draw::Even), (expert(true), Draw::Even)]
    {
        (config.width, config.heads, config.kv_heads, config.head_size) = (8, 2, 1, 8);
        (config.layers, config.vocab, config.window, config.ff) = (1, 258, 4, 6);
        (config.orders, config.ngrams) = (vec![1, 2], vec![(2, 4)]);
        let mut c: &[u16] = &[];
        if let Some(latent) = &mut config.latent {
            (latent.symbols, latent.max, latent.ff, c) = (5, 2, 6 * latent.layers.min(1), &[3, 1]);
            config.kv_heads = if latent.layers > 0 { 2 } else { 1 };
        }
        let neural = Neural::with_backend(model(config, draw), Backend::Scalar);
        let (raw, history) = (b"to\xff to", vec![Arc::from(&b"to "[..])]);
        let payload = neural.encode_with(raw, &history, c).unwrap().payload;
        assert_eq!(decode(&neural, &[job(&payload, raw.len(), &history)])[0].as_ref().unwrap(), raw);
        payloads.update(&payload);
    }
    assert_eq!(payloads.finalize().to_hex()[..16], *"efb817fa12eb0bcd");
}
