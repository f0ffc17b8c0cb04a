//! Which models an archive names, and the model files that it carries (spec/format.md, section 5).

use super::cursor::{Cursor, put_varint};
use super::limits;
use crate::error::Result;

/// A model as an archive names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// BLAKE3 of the model file.
    pub fingerprint: [u8; 32],
    /// The model's name, for people; at most 255 bytes.
    pub name: String,
    /// Whether the archive carries the model file.
    pub embedded: bool,
}

impl ModelRef {
    /// The fingerprint in hexadecimal digits, as users see it.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.fingerprint).to_hex().to_string()
    }
}

/// Appends the content of a MODELS frame to `out`; the INDEX frame has the same record.
pub fn write_models(models: &[ModelRef], out: &mut Vec<u8>) {
    put_varint(out, models.len() as u64);
    for model in models {
        out.extend(model.fingerprint);
        out.push(model.embedded.into());
        put_varint(out, model.name.len() as u64);
        out.extend_from_slice(model.name.as_bytes());
    }
}

/// Reads the content of a MODELS frame. Fails with `Error::Corrupt` where a rule is broken.
pub fn read_models(input: &mut Cursor<'_>) -> Result<Vec<ModelRef>> {
    let count = input.bounded_len(limits::MODELS, "the archive names too many models")?;
    let mut models = Vec::new();
    for _ in 0..count {
        let fingerprint = input.array()?;
        let embedded = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(input.corrupt("a model has unknown flags")),
        };
        let len = input.bounded_len(limits::MODEL_NAME, "a model's name is too long")?;
        let name =
            str::from_utf8(input.bytes(len)?).map_err(|_| input.corrupt("a model's name is not UTF-8"))?;
        models.push(ModelRef { fingerprint, name: name.to_owned(), embedded });
    }
    Ok(models)
}

/// Splits the content of a MODEL frame into the model's number and the bytes of its file.
pub fn read_model<'a>(input: &mut Cursor<'a>) -> Result<(u8, &'a [u8])> {
    Ok((input.u8()?, input.bytes(input.remaining())?))
}

/// The content of a MODEL frame: the model's number and the bytes of its file.
pub fn write_model(index: u8, file: &[u8]) -> Vec<u8> {
    [&[index], file].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_come_back() {
        let models = vec![
            ModelRef { fingerprint: [3; 32], name: "small".into(), embedded: false },
            ModelRef { fingerprint: [9; 32], name: "größer".into(), embedded: true },
        ];
        let mut bytes = Vec::new();
        write_models(&models, &mut bytes);
        let mut input = Cursor::inside(&bytes, 0);
        assert_eq!(read_models(&mut input).unwrap(), models);
        input.finish().unwrap();
        for cut in 0..bytes.len() {
            assert!(read_models(&mut Cursor::inside(&bytes[..cut], 0)).is_err());
        }
    }
}
