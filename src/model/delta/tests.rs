//! Deltas of random models.

use super::*;
use crate::model::config::{Config, Latent};
use crate::model::load::read_header;
use crate::model::sample::{Draw, Random, model_file};
use crate::model::weights::Model;

fn base() -> Vec<u8> {
    let mut config = Config::new("base", 16, 1, 256);
    config.orders = vec![1, 3];
    config.ngrams = vec![(2, 6)];
    config.copy = true;
    config.window = 8;
    config.latent = Some(Latent { symbols: 2, max: 1, layers: 0, ff: 0, steer: false, experts: 3 });
    model_file(config, Draw::Even, 7).unwrap()
}

/// A delta that changes a few elements of every matrix, and puts set 2 in the place of the first.
fn delta(base: &[u8], first: u8) -> Delta {
    let config = read_header(base).unwrap();
    let mut random = Random::new(5);
    let change = |part: Part| {
        let mut differences = vec![0; part.rows * part.cols];
        for _ in 0..2 + part.rows / 8 {
            let at = random.below(differences.len() as u32) as usize;
            differences[at] = random.between(-3, 3);
        }
        differences[0] = 1;
        let step = if part.bias { 50 } else { 90 };
        Change { name: part.name, step, differences }
    };
    let changes = parts(&config).into_iter().map(change).collect();
    Delta { name: "learned".into(), training: "{\"steps\":1}".into(), first, changes }
}

fn bytes(base: &[u8], delta: &Delta) -> Vec<u8> {
    write(delta, &read_header(base).unwrap(), blake3::hash(base).as_bytes()).unwrap()
}

#[test]
fn a_delta_survives_and_names_its_base() {
    let base = base();
    let delta = delta(&base, 2);
    let file = bytes(&base, &delta);
    assert!(is_delta(&file) && !is_delta(&base));
    assert_eq!(base_fingerprint(&file), Some(*blake3::hash(&base).as_bytes()));
    assert_eq!(Delta::read(&file, &read_header(&base).unwrap()).unwrap(), delta);
}

#[test]
fn rows_change_by_steps_and_others_stay() {
    let base = base();
    let delta = delta(&base, 0);
    let file = bytes(&base, &delta);
    let (old, new) = (Model::from_bytes(&base).unwrap(), Model::from_delta(&base, &file).unwrap());
    assert_eq!(new.fingerprint(), *blake3::hash(&file).as_bytes());
    assert_eq!((new.config().name.as_str(), &new.config().training["steps"]), ("learned", &1.into()));
    let change = delta.change("embed.token").unwrap();
    let mut changed = 0;
    for row in 0..old.token.rows() {
        let ((old, old_scale), (new, new_scale)) = (old.token.row(row), new.token.row(row));
        let differences = &change.differences[row * 16..(row + 1) * 16];
        if differences.iter().all(|&d| d == 0) {
            assert_eq!((old, old_scale), (new, new_scale));
            continue;
        }
        changed += 1;
        for i in 0..16 {
            let wanted = i64::from(old[i]) * i64::from(old_scale) + i64::from(differences[i]) * 90;
            let got = i64::from(new[i]) * i64::from(new_scale);
            assert!((wanted - got).abs() <= i64::from(new_scale) / 2 + 1, "{wanted} {got}");
        }
    }
    assert!(changed > 10);
}

#[test]
fn a_set_takes_the_place_of_the_first() {
    let base = base();
    let none = Delta { changes: vec![], ..delta(&base, 2) };
    let old = Model::from_bytes(&base).unwrap();
    let new = Model::from_delta(&base, &bytes(&base, &none)).unwrap();
    let layer = |model: &Model, set: usize| format!("{:?}", model.sets[set]);
    assert_eq!(layer(&new, 0), layer(&old, 2));
    assert_eq!(layer(&new, 1), layer(&old, 1));
    assert_eq!(layer(&new, 2), layer(&old, 2));
}

#[test]
fn what_is_no_delta_of_the_base_is_refused() {
    let base = base();
    let config = read_header(&base).unwrap();
    let file = bytes(&base, &delta(&base, 1));
    for cut in 0..60 {
        assert!(Model::from_delta(&base, &file[..cut]).is_err(), "{cut}");
    }
    let mut random = Random::new(1);
    for _ in 0..300 {
        let mut hostile = file.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(hostile.len() as u32) as usize;
            hostile[at] ^= 1 << random.below(8);
        }
        hostile.truncate(file.len() - random.below(4) as usize);
        // Another delta, or none; never a panic, and what loads has passed the checks of any model.
        let _ = Model::from_delta(&base, &hostile);
    }
    let with = |change: fn(&mut Delta)| {
        let mut wrong = delta(&base, 0);
        change(&mut wrong);
        write(&wrong, &config, &[0; 32]).and_then(|file| Model::from_delta(&base, &file))
    };
    assert!(with(|_| {}).is_ok());
    assert!(with(|d| d.changes[0].name = "embed.none".into()).is_err());
    assert!(with(|d| d.changes[0].step = LARGEST_STEP + 1).is_err());
    assert!(with(|d| d.changes[0].differences.truncate(5)).is_err());
    assert!(with(|d| d.changes[0].differences[3] = i32::MAX).is_err());
    assert!(with(|d| d.name = "a/b".into()).is_err());
    assert!(with(|d| d.training = "{".into()).is_err());
    assert!(with(|d| d.first = 3).is_err());
}
