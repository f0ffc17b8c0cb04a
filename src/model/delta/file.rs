//! The bytes of a delta: writing and reading.

use byteorder::{ByteOrder, LittleEndian};

use super::bits::{Bit, Coder};
use super::matrix::Contexts;
use super::parts::{Part, parts};
use crate::coder::{Damaged, Decoder, Encoder};
use crate::error::{Error, Result};
use crate::model::config::Config;

const MAGIC: &[u8; 8] = b"s3adelta";
const VERSION: u8 = 1;
/// Bytes of magic, version, fingerprint of the base, and two lengths.
const HEAD: usize = 8 + 1 + 32 + 1 + 2;
/// Bits of a step.
const STEP_BITS: u32 = 24;
/// The largest step.
pub const LARGEST_STEP: u32 = (1 << STEP_BITS) - 1;

/// Differences of one matrix, row-major, in steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The matrix's name, one of `parts`.
    pub name: String,
    /// What a difference of 1 is worth, in the unit of weights times scale, or of a bias: 1 to 2^24
    /// - 1.
    pub step: u32,
    /// The difference of each element.
    pub differences: Vec<i32>,
}

/// What a delta says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The name of the resulting model.
    pub name: String,
    /// A JSON value that says how the delta was learned.
    pub training: String,
    /// Number of the set of weights that replaces the first one before the changes; 0 for none.
    pub first: u8,
    /// The matrices that change.
    pub changes: Vec<Change>,
}

/// Whether a file is a delta.
pub fn is_delta(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// The fingerprint of the base that a delta names.
pub fn base_fingerprint(file: &[u8]) -> Option<[u8; 32]> {
    (is_delta(file) && file.get(8) == Some(&VERSION)).then(|| file.get(9..41)?.try_into().ok()).flatten()
}

fn bad(rule: &str) -> Error {
    Error::BadModel { name: "of a difference".into(), rule: rule.into() }
}

/// The bytes of a delta to the model that has this header and fingerprint.
///
/// # Errors
/// `BadModel` if the delta names a matrix that the base does not have, or holds a value that the
/// format cannot express.
pub fn write(delta: &Delta, base: &Config, fingerprint: &[u8; 32]) -> Result<Vec<u8>> {
    let mut file = MAGIC.to_vec();
    file.push(VERSION);
    file.extend(fingerprint);
    file.push(u8::try_from(delta.name.len()).map_err(|_| bad("its name is too long"))?);
    let training = u16::try_from(delta.training.len()).map_err(|_| bad("its record is too long"))?;
    file.extend(training.to_le_bytes());
    file.extend(delta.name.bytes());
    file.extend(delta.training.bytes());
    let mut encoder = Encoder::new();
    let all = parts(base);
    let known = |change: &&Change| all.iter().any(|part| part.name == change.name);
    if delta.changes.iter().filter(known).count() != delta.changes.len() {
        return Err(bad("it changes what the base has not"));
    }
    body(&mut encoder, &mut delta.clone(), &all, base.sets().len())
        .map_err(|_| bad("a step is too large"))?;
    file.extend(encoder.finish());
    Ok(file)
}

impl Delta {
    /// Reads a delta to the model that has this header.
    ///
    /// # Errors
    /// `BadModel` with the rule that the file breaks.
    pub fn read(file: &[u8], base: &Config) -> Result<Self> {
        if base_fingerprint(file).is_none() || file.len() < HEAD {
            return Err(bad("not a difference of models, or one of another version"));
        }
        let name_len = usize::from(file[41]);
        let training_len = usize::from(LittleEndian::read_u16(&file[42..44]));
        let text = |range: std::ops::Range<usize>| -> Result<String> {
            let bytes = file.get(range).ok_or_else(|| bad("it is cut short"))?;
            String::from_utf8(bytes.to_vec()).map_err(|_| bad("its name or its record is no text"))
        };
        let name = text(HEAD..HEAD + name_len)?;
        let training = text(HEAD + name_len..HEAD + name_len + training_len)?;
        let mut delta = Self { name, training, first: 0, changes: Vec::new() };
        let mut decoder = Decoder::new(&file[HEAD + name_len + training_len..]);
        let damaged = |_: Damaged| bad("its differences are damaged");
        body(&mut decoder, &mut delta, &parts(base), base.sets().len()).map_err(damaged)?;
        Ok(delta)
    }
}

/// Codes what follows the texts: writes it, or reads it into `delta`, whose list of changes is then
/// empty before the call.
fn body(
    coder: &mut impl Coder,
    delta: &mut Delta,
    all: &[Part],
    sets: usize,
) -> std::result::Result<(), Damaged> {
    let first = coder.raw(8, delta.first.into())?;
    if first as usize >= sets {
        return Err(Damaged);
    }
    delta.first = first as u8;
    let mut given = std::mem::take(&mut delta.changes);
    let mut changes = Bit::new(1 << 13);
    for part in all {
        let len = part.rows * part.cols;
        let own = given.iter_mut().find(|change| change.name == part.name);
        if !coder.bit(&mut changes, own.is_some())? {
            continue;
        }
        let mut change = own.map_or_else(
            || Change { name: part.name.clone(), step: 0, differences: vec![0; len] },
            |own| Change {
                name: own.name.clone(),
                step: own.step,
                differences: std::mem::take(&mut own.differences),
            },
        );
        if change.step >> STEP_BITS != 0 || change.differences.len() != len {
            return Err(Damaged);
        }
        change.step = coder.raw(STEP_BITS, change.step)?;
        Contexts::new(part.kind()).code(coder, &mut change.differences, part.cols)?;
        if change.step == 0 {
            return Err(Damaged);
        }
        delta.changes.push(change);
    }
    Ok(())
}
