//! One matrix of a delta: the differences of its rows, and the rows that result from them.

use super::bits::{Bit, Coder, UNARY};
use crate::coder::Damaged;
use crate::model::file::row_bound_holds;

/// What kind of matrix it is; each kind has statistics of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Ngram,
    Product,
    Bias,
}

/// The contexts of one matrix.
pub(super) struct Contexts {
    /// Whether a row changes, given whether the two rows before changed.
    row: [Bit; 4],
    /// Whether an element changes, given the changes near it in its row and in its column.
    element: [[Bit; 4]; 5],
    /// Whether an element falls, given the last change in its column.
    falls: [Bit; 3],
    magnitude: [[Bit; UNARY]; 2],
}

impl Contexts {
    pub fn new(kind: Kind) -> Self {
        let (row, element) = match kind {
            Kind::Ngram => (1 << 11, 1 << 14),
            Kind::Table => (1 << 14, 1 << 14),
            Kind::Product | Kind::Bias => (3 << 14, 1 << 13),
        };
        Self {
            row: [Bit::new(row); 4],
            element: [[Bit::new(element); 4]; 5],
            falls: [Bit::new(1 << 15); 3],
            magnitude: [[Bit::new(1 << 14); UNARY]; 2],
        }
    }

    /// Codes the differences of a matrix of `cols` columns, row by row: an encoder writes them, a
    /// decoder reads them over the values passed.
    pub fn code(
        &mut self,
        coder: &mut impl Coder,
        differences: &mut [i32],
        cols: usize,
    ) -> Result<(), Damaged> {
        let mut before = 0;
        let mut columns = vec![(0u32, 0i32); cols];
        for row in differences.chunks_exact_mut(cols.max(1)) {
            let changes = coder.bit(&mut self.row[before], row.iter().any(|&d| d != 0))?;
            before = (before << 1 | usize::from(changes)) & 3;
            if changes {
                self.row(coder, row, &mut columns)?;
            } else {
                row.fill(0);
            }
        }
        Ok(())
    }

    fn row(
        &mut self,
        coder: &mut impl Coder,
        row: &mut [i32],
        columns: &mut [(u32, i32)],
    ) -> Result<(), Damaged> {
        let mut near = 0u32;
        for (difference, (activity, last)) in row.iter_mut().zip(columns) {
            let crowd = match near.count_ones() {
                0 => 0,
                1 => 1,
                2..4 => 2,
                4..8 => 3,
                _ => 4,
            };
            let column = match *activity {
                0..64 => 0,
                64..256 => 1,
                256..512 => 2,
                _ => 3,
            };
            let changes = coder.bit(&mut self.element[crowd][column], *difference != 0)?;
            near = (near << 1 | u32::from(changes)) & 0xffff;
            *activity = *activity - (*activity >> 3) + if changes { 128 } else { 0 };
            if !changes {
                *difference = 0;
                continue;
            }
            let before = (1 + last.signum()) as usize;
            let falls = coder.bit(&mut self.falls[before], *difference < 0)?;
            let large = usize::from(last.abs() > 1);
            let size = coder.magnitude(&mut self.magnitude[large], difference.unsigned_abs())?;
            let size = i32::try_from(size).map_err(|_| Damaged)?;
            *difference = if falls { -size } else { size };
            *last = *difference;
        }
        Ok(())
    }
}

/// A row of weights with its scale, changed by `differences` times `step` in the unit of weights
/// times scale. The scale is the least one that keeps all bounds, and the weights are the nearest
/// ones. `pre` is the shift of a product, whose rows have a bound on the sum of their magnitudes.
/// `None` if no scale of 16 bits keeps the bounds.
pub(super) fn changed(
    weights: &[i8],
    scale: u16,
    differences: &[i32],
    step: u32,
    pre: Option<u32>,
) -> Option<(Vec<i8>, u16)> {
    let values: Vec<i64> = weights
        .iter()
        .zip(differences)
        .map(|(&weight, &d)| i64::from(weight) * i64::from(scale) + i64::from(d) * i64::from(step))
        .collect();
    let top = values.iter().map(|value| value.unsigned_abs()).max().unwrap_or(0);
    let mut scale = top.div_ceil(127).max(1);
    loop {
        let short = u16::try_from(scale).ok()?;
        let divisor = i64::from(short);
        let nearest = |value: &i64| (2 * value + divisor).div_euclid(2 * divisor) as i8;
        let weights: Vec<i8> = values.iter().map(nearest).collect();
        let sum = weights.iter().map(|&weight| u32::from(weight.unsigned_abs())).sum();
        if pre.is_none_or(|pre| row_bound_holds(sum, pre)) {
            return Some((weights, short));
        }
        scale += scale / 32 + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coder::{Decoder, Encoder};

    #[test]
    fn differences_survive() {
        let mut differences = vec![0; 40 * 16];
        for i in (0..640).step_by(7).filter(|i| i % 5 > 0) {
            differences[i] = (i as i32 % 61) - 30;
        }
        differences[3] = i32::MAX;
        let mut encoder = Encoder::new();
        let mut same = differences.clone();
        Contexts::new(Kind::Table).code(&mut encoder, &mut same, 16).unwrap();
        let payload = encoder.finish();
        let mut read = vec![1; differences.len()];
        Contexts::new(Kind::Table).code(&mut Decoder::new(&payload), &mut read, 16).unwrap();
        assert_eq!(read, differences);
    }

    #[test]
    fn rows_keep_their_bounds() {
        let (weights, scale) = changed(&[10, -20, 0], 100, &[0, 0, 5], 300, None).unwrap();
        assert_eq!((weights, scale), (vec![63, -125, 94], 16));
        assert_eq!(changed(&[127, 0], 65_535, &[1, 0], 65_535, None), None);
        let (weights, _) = changed(&[127; 64], 10, &[1; 64], 1, Some(3)).unwrap();
        assert!(row_bound_holds(weights.iter().map(|w| u32::from(w.unsigned_abs())).sum(), 3));
    }
}
