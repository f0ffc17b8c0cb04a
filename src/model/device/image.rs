//! The weights of a model as one sequence of bytes. A place is an offset in it.

use super::shape::reach;
use crate::kernels::buffer::padded;
use crate::kernels::cache::Bias;
use crate::kernels::gelu::SHARE as GELU_SHARE;
use crate::kernels::pack::{Product, Table};
use crate::model::config::{Config, MAX_WINDOW};
use crate::model::matcher::MAX_SLOTS;
use crate::model::weights::{Layer, Model, Set};

/// Numbers of the structure `Model`: four of its own, then places and sizes of the tables of
/// tokens, candidates, classes and n-grams.
const HEAD: usize = 4 + 2 * (1 + 2 * MAX_SLOTS + 16);

/// A sequence of bytes under construction.
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Puts bytes at the next place that is a multiple of 16, and returns that place.
    fn put(&mut self, bytes: impl IntoIterator<Item = u8>) -> Option<u32> {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let at = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.extend(bytes);
        Some(at)
    }

    fn numbers(&mut self, numbers: &[u32]) -> Option<u32> {
        self.put(numbers.iter().flat_map(|number| number.to_le_bytes()))
    }

    fn table(&mut self, table: &Table) -> Option<[u32; 2]> {
        let rows = 0..table.rows();
        let weights = self.put(rows.clone().flat_map(|row| table.row(row).0.iter().map(|&w| w as u8)))?;
        Some([weights, self.put(rows.flat_map(|row| table.row(row).1.to_le_bytes()))?])
    }

    /// Weights as the threads of a warp read them: for 16 rows and 32 columns, thread `t` has four
    /// words of four columns, from column `t % 4 * 4` on: of row `t / 4`, of the eighth row after
    /// it, and of the same two rows 16 columns further.
    fn product(&mut self, product: &Product) -> Option<[u32; 4]> {
        let (rows, cols) = (product.rows(), product.cols());
        let weight = |row: usize, col: usize| {
            if row < rows && col < cols { product.weight(row, col) as u8 } else { 0 }
        };
        let mut all = Vec::with_capacity(rows.next_multiple_of(16) * cols.next_multiple_of(32));
        for row in (0..rows).step_by(16) {
            for col in (0..cols).step_by(32) {
                for thread in 0..32 {
                    let (row, col) = (row + thread / 4, col + thread % 4 * 4);
                    for (row, col) in [(row, col), (row + 8, col), (row, col + 16), (row + 8, col + 16)] {
                        all.extend((col..col + 4).map(|col| weight(row, col)));
                    }
                }
            }
        }
        let weights = self.put(all)?;
        let scales = self.put((0..rows).flat_map(|row| product.scale(row).to_le_bytes()))?;
        let (pre, shift) = product.shifts();
        Some([weights, scales, pre, shift])
    }

    fn bias(&mut self, bias: &Bias, config: &Config) -> Option<u32> {
        let own = if config.window == 0 { MAX_WINDOW } else { config.window };
        let reach = reach(config);
        // Entries beyond the window are never read.
        let entry = |head, distance| if distance < own { bias.before(head, distance) } else { 0 };
        let all = (0..config.heads).flat_map(|head| (0..reach).map(move |distance| (head, distance)));
        self.put(all.flat_map(|(head, distance)| entry(head, distance).to_le_bytes()))
    }

    fn layer(&mut self, layer: &Layer, config: &Config) -> Option<Vec<u32>> {
        let mut numbers = Vec::with_capacity(28);
        for product in [&layer.qkv, &layer.out, &layer.up, &layer.down] {
            numbers.extend(self.product(product)?);
        }
        for product in [layer.cross.as_ref().map(|c| &c.q), layer.cross.as_ref().map(|c| &c.out)] {
            numbers.extend(product.map_or(Some([0; 4]), |product| self.product(product))?);
        }
        let cross_shift = layer.cross.as_ref().map_or(0, |cross| cross.score_shift);
        numbers.extend([self.bias(&layer.bias, config)?, layer.score_shift, cross_shift, layer.gelu]);
        Some(numbers)
    }

    fn set(&mut self, set: &Set, config: &Config) -> Option<Vec<u32>> {
        let mut numbers = Vec::from(self.product(&set.head)?);
        match &set.copy {
            Some(copy) => {
                numbers.extend(self.product(&copy.gates)?);
                let biases = copy.bias.iter().flatten().flat_map(|bias| bias.to_le_bytes());
                numbers.push(self.put(biases)?);
            }
            None => numbers.extend([0; 5]),
        }
        numbers.extend([set.adapt, 0, 0]);
        for layer in &set.layers {
            numbers.extend(self.layer(layer, config)?);
        }
        Some(numbers)
    }
}

/// The bytes of a model; `None` if they exceed the 4 GiB that places can address.
pub fn image(model: &Model) -> Option<Vec<u8>> {
    let config = model.config();
    let mut writer = Writer { bytes: vec![0; HEAD * 4] };
    let mut head = vec![model.embed_shift];
    let vocabulary = model.vocabulary();
    // No token is longer than 32 bytes.
    let lengths = (0..config.vocab).map(|token| vocabulary.token(token as u16).len() as u8);
    head.push(writer.put(lengths)?);
    let mut sets = Vec::new();
    for set in &model.sets {
        sets.extend(writer.set(set, config)?);
    }
    head.push(writer.numbers(&sets)?);
    head.push(writer.put(GELU_SHARE.iter().flat_map(|share| share.to_le_bytes()))?);
    head.extend(writer.table(&model.token)?);
    let mut slots = [[0; 2]; MAX_SLOTS];
    let mut classes = slots;
    for (k, (candidates, of_class)) in model.matches.iter().enumerate() {
        (slots[k], classes[k]) = (writer.table(candidates)?, writer.table(of_class)?);
    }
    let mut ngrams = [[0; 2]; 16];
    for (n, table) in model.ngrams.iter().enumerate() {
        ngrams[n] = writer.table(table)?;
    }
    head.extend(slots.into_iter().chain(classes).chain(ngrams).flatten());
    debug_assert_eq!(head.len(), HEAD);
    for (at, number) in head.into_iter().enumerate() {
        writer.bytes[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
    }
    // The place of a row is that of its table plus its number times this.
    debug_assert_eq!(model.token.row(0).0.len(), padded(config.width));
    writer.put([]).map(|_| writer.bytes)
}
