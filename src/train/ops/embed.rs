//! Sums of embedding rows: `x[i] = sum over r of table[rows[i][r]]`, where rows `NONE` add nothing.
//!
//! All embedding tables of a network stand in one tensor, so that a single operation makes the
//! decoder's input.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::floats;

/// The row number that adds nothing.
pub const NONE: u32 = u32::MAX;

/// The operation on a table `[rows][d]`; the result is `[n][d]`.
pub struct EmbedSum {
    /// Width of a row.
    pub d: usize,
    /// Rows to add for each position.
    pub per: usize,
    /// The `n * per` row numbers.
    pub rows: Arc<Vec<u32>>,
}

impl CustomOp1 for EmbedSum {
    fn name(&self) -> &'static str {
        "embed-sum"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let table = floats(storage, layout)?;
        let d = self.d;
        if self.rows.iter().any(|&r| r != NONE && (r as usize + 1) * d > table.len()) {
            bail!("an embedding row is out of range");
        }
        let n = self.rows.len() / self.per;
        let mut out = vec![0.0f32; n * d];
        out.par_chunks_mut(256 * d).zip(self.rows.par_chunks(256 * self.per)).for_each(|(out, rows)| {
            for (to, rows) in out.chunks_exact_mut(d).zip(rows.chunks_exact(self.per)) {
                for &row in rows.iter().filter(|&&r| r != NONE) {
                    let from = &table[row as usize * d..][..d];
                    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                }
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((n, d))))
    }

    fn bwd(&self, table: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = self.d;
        let dx = super::values(grad)?;
        let mut sums = vec![0.0f32; table.elem_count()];
        // Each thread owns a range of rows and reads the whole list, so that no sum is shared.
        let rows_each = (sums.len() / d).div_ceil(super::GROUPS);
        sums.par_chunks_mut(rows_each * d).enumerate().for_each(|(part, sums)| {
            let first = part * rows_each;
            let range = first..first + sums.len() / d;
            for (from, rows) in dx.chunks_exact(d).zip(self.rows.chunks_exact(self.per)) {
                for &row in rows {
                    if range.contains(&(row as usize)) {
                        let to = &mut sums[(row as usize - first) * d..][..d];
                        to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                    }
                }
            }
        });
        Ok(Some(Tensor::from_vec(sums, table.shape(), table.device())?))
    }
}
