//! A model file that breaks a rule is refused by that rule in less than a second and with less than
//! 64 MiB, before anything runs on it, whatever it claims.
//!
//! Each case is made from a good file by one change in its header, in its list of tensors or in
//! their values. The tests run one at a time, because they measure the memory of the whole process.

mod common;
mod guard;

use std::collections::BTreeMap;
use std::fs;

use common::{expect, s3a};
use guard::guarded;
use s3a::error::Error;
use s3a::model::Model;
use serde_json::{Value, json};

/// A model file taken apart.
#[derive(Clone)]
struct Forged {
    /// The text of the entry `s3a`; `None` leaves it out.
    config: Option<String>,
    tensors: BTreeMap<String, Tensor>,
    /// Changes the whole header before it is written.
    header: Option<fn(&mut Value)>,
    /// Changes the bytes of the file.
    bytes: Option<fn(&mut Vec<u8>)>,
}

#[derive(Clone)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Forged {
    fn good() -> Self {
        let file = include_bytes!("golden/tiny.safetensors");
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
        let data = &file[8 + len..];
        let mut tensors = BTreeMap::new();
        for (name, tensor) in header.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let at = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
            let dims = tensor["shape"].as_array().unwrap();
            let shape = dims.iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
            let dtype = tensor["dtype"].as_str().unwrap().to_owned();
            tensors.insert(name.clone(), Tensor { dtype, shape, data: data[at(0)..at(1)].to_vec() });
        }
        let config = header["__metadata__"]["s3a"].as_str().unwrap().to_owned();
        Self { config: Some(config), tensors, header: None, bytes: None }
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.get_mut(name).unwrap()
    }

    fn config(&mut self, change: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_str(self.config.as_ref().unwrap()).unwrap();
        change(&mut config);
        self.config = Some(config.to_string());
    }

    fn write(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        if let Some(config) = &self.config {
            header.insert("__metadata__".into(), json!({ "s3a": config }));
        }
        let mut data: Vec<u8> = Vec::new();
        // The format wants tensors in the order of their data; wider types come first.
        let width = |tensor: &Tensor| match tensor.dtype.as_str() {
            "I64" | "F64" => 8,
            "I32" | "U32" | "F32" => 4,
            "I16" | "U16" | "F16" | "BF16" => 2,
            _ => 1,
        };
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by_key(|(name, tensor)| (std::cmp::Reverse(width(tensor)), (*name).clone()));
        for (name, tensor) in tensors {
            let start = data.len();
            data.extend(&tensor.data);
            let place = json!({
                "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
            });
            header.insert(name.clone(), place);
        }
        let mut header = Value::Object(header);
        if let Some(change) = self.header {
            change(&mut header);
        }
        let text = header.to_string();
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.as_bytes());
        file.extend(data);
        if let Some(change) = self.bytes {
            change(&mut file);
        }
        file
    }
}

/// The name of a case, and its change.
type Case<T> = (&'static str, fn(&mut T));

/// The name of each case, and its file.
fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, change: &dyn Fn(&mut Forged)| {
        let mut forged = Forged::good();
        change(&mut forged);
        cases.push((name.to_owned(), forged.write()));
    };

    // The file as a whole.
    let whole: [Case<Vec<u8>>; 12] = [
        ("an empty file", |file| file.clear()),
        ("a file of seven bytes", |file| file.truncate(7)),
        ("a file that ends in its header", |file| file.truncate(100)),
        ("a file that ends in its data", |file| file.truncate(9000)),
        ("a file that lacks its last byte", |file| _ = file.pop()),
        ("a file with a byte more", |file| file.push(0)),
        ("a header of 2^63 bytes", |file| file[..8].copy_from_slice(&(1u64 << 63).to_le_bytes())),
        ("a header of all bytes that there can be", |file| file[..8].fill(0xff)),
        ("a header of no bytes", |file| file[..8].fill(0)),
        ("a header that is no JSON", |file| file[8..40].fill(b'!')),
        ("a header that is not UTF-8", |file| file[12] = 0xff),
        ("a million brackets", |file| {
            *file = [&1_000_000u64.to_le_bytes()[..], &[b'['; 1_000_000]].concat();
        }),
    ];
    for (name, change) in whole {
        add(name, &|forged| forged.bytes = Some(change));
    }

    // Where tensors lie.
    let places: [Case<Value>; 9] = [
        ("tensors that overlap", |header| header["head.weight"]["data_offsets"] = json!([0, 4096])),
        ("a tensor beyond the file", |header| {
            header["vocab.lengths"]["data_offsets"] = json!([20_738, u64::MAX]);
        }),
        ("a tensor that ends before it begins", |header| {
            header["vocab.lengths"]["data_offsets"] = json!([20_994, 20_738]);
        }),
        ("a hole between tensors", |header| header["copy.bias"]["data_offsets"] = json!([4, 136])),
        ("dimensions whose product overflows", |header| {
            header["head.weight"]["shape"] = json!([1u64 << 40, 1u64 << 40]);
        }),
        ("a dimension of 2^64 - 1", |header| header["head.weight"]["shape"] = json!([u64::MAX, 16])),
        ("a negative dimension", |header| header["head.weight"]["shape"] = json!([-1, 16])),
        ("a type that there is not", |header| header["head.weight"]["dtype"] = json!("I7")),
        ("a shape that is a string", |header| header["head.weight"]["shape"] = json!("256x16")),
    ];
    for (name, change) in places {
        add(name, &|forged| forged.header = Some(change));
    }

    // The header of the model.
    add("no header of ours", &|forged| forged.config = None);
    add("an empty header of ours", &|forged| forged.config = Some(String::new()));
    add("a header of ours that is no JSON", &|forged| forged.config = Some("{\"width\": NaN}".into()));
    add("a header with a number that no type holds", &|forged| {
        let config = forged.config.as_mut().unwrap();
        *config = config.replace("\"width\":16", "\"width\":1e999");
    });
    add("a header that goes 100,000 levels deep", &|forged| {
        forged.config(|config| config["training"] = Value::Null);
        let config = forged.config.as_mut().unwrap();
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        *config = config.replace("\"training\":null", &format!("\"training\":{deep}"));
    });
    add("a field twice", &|forged| {
        let config = forged.config.as_mut().unwrap();
        *config = config.replacen('{', "{\"width\":16,", 1);
    });
    let fields: [Case<Value>; 32] = [
        ("another format", |config| config["format"] = json!("t5")),
        ("arithmetic of the future", |config| config["numerics"] = json!(3)),
        ("a name that leads elsewhere", |config| config["name"] = json!("../../etc/passwd")),
        ("a name that steers a terminal", |config| config["name"] = json!("\u{1b}[31mred")),
        ("a name of 65 letters", |config| config["name"] = json!("n".repeat(65))),
        ("no name", |config| config["name"] = json!("")),
        ("a width of zero", |config| config["width"] = json!(0)),
        ("a width of 2^31", |config| config["width"] = json!(1u64 << 31)),
        ("a width of 2^64 - 1", |config| config["width"] = json!(u64::MAX)),
        ("a negative width", |config| config["width"] = json!(-16)),
        ("a broken width", |config| config["width"] = json!(16.5)),
        ("a width that is not the tensors'", |config| config["width"] = json!(24)),
        ("no layers", |config| config["layers"] = json!(0)),
        ("more layers than tensors", |config| config["layers"] = json!(2)),
        ("2^62 layers", |config| config["layers"] = json!(1u64 << 62)),
        ("no heads", |config| config["heads"] = json!(0)),
        ("2^60 heads", |config| config["heads"] = json!(1u64 << 60)),
        ("keys and values of no head", |config| config["kv_heads"] = json!(0)),
        ("a head of twelve", |config| config["head_size"] = json!(12)),
        ("a feed-forward of 2^40", |config| config["ff"] = json!(1u64 << 40)),
        ("a window of 2^32", |config| config["window"] = json!(1u64 << 32)),
        ("an activation that there is not", |config| config["activation"] = json!("softmax")),
        ("a vocabulary of 255", |config| config["vocab"] = json!(255)),
        ("a vocabulary of 2^24", |config| config["vocab"] = json!(1 << 24)),
        ("orders that do not increase", |config| config["orders"] = json!([3, 1])),
        ("an order of 33", |config| config["orders"] = json!([1, 33])),
        ("a table of 2^40 rows", |config| config["ngrams"] = json!([[2, 40]])),
        ("a thousand tables", |config| config["ngrams"] = json!(vec![[2, 3]; 1000])),
        ("copy gates without orders", |config| config["orders"] = json!([])),
        ("a field that nobody knows", |config| config["secret"] = json!(1)),
        ("a learned sequence that nothing reads", |config| {
            config["latent"] = json!({ "symbols": 4, "max": 1, "layers": 0, "ff": 0 });
        }),
        ("more experts than symbols choose from", |config| {
            config["latent"] = json!({ "symbols": 4, "max": 1, "layers": 0, "ff": 0, "experts": 200 });
        }),
    ];
    for (name, change) in fields {
        add(name, &|forged| forged.config(change));
    }
    let shifts: [Case<Value>; 7] = [
        ("no shifts", |config| config["shifts"] = json!({})),
        ("a shift of 32", |config| config["shifts"]["head"]["shift"] = json!(32)),
        ("a shift of -1", |config| config["shifts"]["head"]["pre"] = json!(-1)),
        ("a shift of 300", |config| config["shifts"]["embed"] = json!(300)),
        ("a score shift of 31", |config| config["shifts"]["decoder.0.score"] = json!(31)),
        ("a shift of nothing", |config| config["shifts"]["nothing"] = json!(3)),
        ("a `pre` that lets sums overflow", |config| config["shifts"]["head"]["pre"] = json!(0)),
    ];
    for (name, change) in shifts {
        add(name, &|forged| forged.config(change));
    }

    // Tensors.
    add("a tensor is missing", &|forged| drop(forged.tensors.remove("head.weight")));
    add("a scale is missing", &|forged| drop(forged.tensors.remove("head.scale")));
    add("a tensor that nobody needs", &|forged| {
        let more = forged.tensors["head.weight"].clone();
        forged.tensors.insert("tail.weight".into(), more);
    });
    add("weights in floats", &|forged| {
        let tensor = forged.tensor("head.weight");
        (tensor.dtype, tensor.data) = ("F32".into(), f32::NAN.to_le_bytes().repeat(256 * 16));
    });
    add("weights without a sign", &|forged| forged.tensor("head.weight").dtype = "U8".into());
    add("scales of the wrong width", &|forged| {
        let tensor = forged.tensor("head.scale");
        (tensor.dtype, tensor.data) = ("U32".into(), vec![1; 1024]);
    });
    add("weights the other way round", &|forged| forged.tensor("head.weight").shape = vec![16, 256]);
    add("weights in one row", &|forged| forged.tensor("head.weight").shape = vec![4096]);
    add("weights of three dimensions", &|forged| forged.tensor("head.weight").shape = vec![256, 16, 1]);
    add("no weights at all", &|forged| {
        let tensor = forged.tensor("head.weight");
        (tensor.shape, tensor.data) = (vec![0, 16], vec![]);
    });
    for name in ["head.weight", "embed.token.weight", "decoder.0.qkv.weight", "copy.weight"] {
        add(&format!("the weight -128 in {name}"), &|forged| {
            *forged.tensor(name).data.last_mut().unwrap() = 0x80;
        });
    }
    for name in ["head.scale", "embed.match.1.scale", "decoder.0.down.scale"] {
        add(&format!("a zero in {name}"), &|forged| forged.tensor(name).data[..2].fill(0));
    }
    add("a bias beyond its bound", &|forged| {
        forged.tensor("decoder.0.bias").data[..4].copy_from_slice(&i32::MIN.to_le_bytes());
    });
    add("a copy bias beyond its bound", &|forged| {
        forged.tensor("copy.bias").data[..4].copy_from_slice(&((1 << 20) + 1i32).to_le_bytes());
    });
    add("a bias of no columns", &|forged| {
        let tensor = forged.tensor("decoder.0.bias");
        (tensor.shape, tensor.data) = (vec![1, 0], vec![]);
    });
    add("a bias of more columns than positions", &|forged| {
        let tensor = forged.tensor("decoder.0.bias");
        (tensor.shape, tensor.data) = (vec![1, 4097], vec![0; 4097 * 4]);
    });

    // The vocabulary.
    add("a token twice", &|forged| forged.tensor("vocab.bytes").data[1] = 0);
    add("a token of no bytes", &|forged| forged.tensor("vocab.lengths").data[7] = 0);
    add("a token longer than all bytes", &|forged| forged.tensor("vocab.lengths").data[255] = 255);
    add("bytes that no token has", &|forged| {
        let tensor = forged.tensor("vocab.bytes");
        tensor.data.push(1);
        tensor.shape = vec![257];
    });
    add("a vocabulary of no bytes", &|forged| {
        let tensor = forged.tensor("vocab.bytes");
        (tensor.shape, tensor.data) = (vec![0], vec![]);
    });

    // The learned sequence and its prior.
    let latent = |forged: &mut Forged, rows: usize, slots: Vec<u32>| {
        forged.config(|config| {
            config["latent"] =
                json!({ "symbols": 2, "max": 4, "layers": 0, "ff": 0, "steer": false, "experts": 2 });
            let shifts: Vec<(String, Value)> = ["decoder.0.qkv", "decoder.0.out", "decoder.0.up"]
                .iter()
                .chain(&["decoder.0.down", "decoder.0.score", "head", "copy"])
                .map(|name| (format!("expert.1.{name}"), config["shifts"][name].clone()))
                .collect();
            config["shifts"].as_object_mut().unwrap().extend(shifts);
        });
        let second: Vec<(String, Tensor)> = forged
            .tensors
            .iter()
            .filter(|(name, _)| ["decoder", "head", "copy"].iter().any(|part| name.starts_with(part)))
            .map(|(name, tensor)| (format!("expert.1.{name}"), tensor.clone()))
            .collect();
        forged.tensors.extend(second);
        let data = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        let prior = Tensor { dtype: "U32".into(), shape: vec![rows, 3], data };
        forged.tensors.insert("latent.prior".into(), prior);
    };
    let mut good = Forged::good();
    latent(&mut good, 1, vec![1, 2, 3]);
    Model::from_bytes(&good.write()).expect("what the cases about the prior begin with is good");
    add("a slot of zero in the prior", &|forged| latent(forged, 1, vec![1, 0, 3]));
    add("a slot beyond 65,536 in the prior", &|forged| latent(forged, 1, vec![1, 65_537, 3]));
    add("slots of the prior that overflow together", &|forged| latent(forged, 1, vec![u32::MAX; 3]));
    add("a prior of no rows", &|forged| latent(forged, 0, vec![]));
    add("a prior of two rows", &|forged| latent(forged, 2, vec![1; 6]));
    add("a prior that is missing", &|forged| {
        latent(forged, 1, vec![1; 3]);
        forged.tensors.remove("latent.prior");
    });
    add("a second set that lacks its head", &|forged| {
        latent(forged, 1, vec![1; 3]);
        forged.tensors.remove("expert.1.head.weight");
    });
    cases
}

/// Fails if a file is not refused as it should be.
fn attack(name: &str, file: &[u8]) {
    match guarded(name, "loading", || Model::from_bytes(file)) {
        Err(Error::BadModel { rule, .. }) => {
            assert!(!rule.is_empty() && !rule.chars().any(char::is_control), "{name}: {rule:?}");
        }
        Err(other) => panic!("{name}: another error: {other}"),
        Ok(_) => panic!("{name}: taken"),
    }
}

#[test]
fn hostile_models_are_refused_in_no_time_and_with_little_memory() {
    assert!(Model::from_bytes(&Forged::good().write()).is_ok(), "what the cases begin with is good");
    let cases = cases();
    let failed: Vec<&str> = cases
        .iter()
        .filter(|(name, file)| std::panic::catch_unwind(|| attack(name, file)).is_err())
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), cases.len());
    assert!(cases.len() >= 80, "{}", cases.len());
    println!("{} hostile model files", cases.len());

    // The command reports it, too: one case of each part.
    let dir = tempfile::tempdir().unwrap();
    common::put(dir.path(), b"tree/a", b"text");
    for (name, file) in cases.iter().step_by(12) {
        fs::write(dir.path().join("bad.safetensors"), file).unwrap();
        let said =
            expect(&s3a(dir.path(), &["pack", "tree", "-o", "x.s3a", "--model", "./bad.safetensors"]), 4);
        assert!(said.contains("model file"), "{name}: {said}");
        assert!(!dir.path().join("x.s3a").exists(), "{name}");
    }
}
