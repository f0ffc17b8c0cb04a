//! What a delta changes, as the loader of its base asks for it.

use super::file::{Change, Delta};
use super::matrix::changed;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::file::BIAS_MAX;

impl Delta {
    /// Applies the changes to the header of the base.
    ///
    /// # Errors
    /// `BadModel` if the name or the training record is not one that a header may have.
    pub fn change_header(&self, config: &mut Config) -> Result<()> {
        let record =
            serde_json::from_str(&self.training).map_err(|e| config.bad(format!("its record: {e}")))?;
        (config.name, config.training) = (self.name.clone(), record);
        if self.first > 0 {
            let set = self.set();
            let shifts: Vec<_> = config.shifts.iter().map(|(name, shift)| (name.clone(), *shift)).collect();
            for (name, shift) in shifts {
                if let Some(name) = name.strip_prefix(&set) {
                    config.shifts.insert(name.to_owned(), shift);
                }
            }
            if let Some(&rate) = config.adapt.get(usize::from(self.first)) {
                config.adapt[0] = rate;
            }
        }
        config.check()
    }

    /// The beginning of the names of the set of weights that replaces the first one.
    fn set(&self) -> String {
        format!("expert.{}.", self.first)
    }

    /// The name in the base of the tensor that becomes `name`.
    pub fn source(&self, name: &str) -> String {
        let of_set = ["decoder", "head", "copy"].contains(&name.split('.').next().unwrap_or(name));
        if of_set && self.first > 0 { format!("{}{name}", self.set()) } else { name.to_owned() }
    }

    /// The changes of a matrix, by its name.
    pub fn change(&self, name: &str) -> Option<&Change> {
        self.changes.iter().find(|change| change.name == name)
    }
}

impl Change {
    /// Applies the changes to weights and scales of rows of `cols` columns; `pre` is the shift of a
    /// product. Returns whether all rows keep their bounds.
    pub fn rows(&self, (weights, scales): (&mut [i8], &mut [u16]), cols: usize, pre: Option<u32>) -> bool {
        let rows = weights.chunks_exact_mut(cols).zip(scales).zip(self.differences.chunks_exact(cols));
        for ((row, scale), differences) in rows.filter(|(_, own)| own.iter().any(|&d| d != 0)) {
            let Some((new, new_scale)) = changed(row, *scale, differences, self.step, pre) else {
                return false;
            };
            row.copy_from_slice(&new);
            *scale = new_scale;
        }
        true
    }

    /// Applies the changes to biases.
    pub fn biases(&self, values: &mut [i32]) {
        for (value, &difference) in values.iter_mut().zip(&self.differences) {
            let sum = i64::from(*value) + i64::from(difference) * i64::from(self.step);
            *value = sum.clamp(-i64::from(BIAS_MAX), i64::from(BIAS_MAX)) as i32;
        }
    }
}
