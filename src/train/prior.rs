//! What the symbols of c cost: a prior over each symbol given the one before, learned by counting.

/// Counts of symbols by the symbol before, in which older ones count less.
#[derive(Clone, Debug)]
pub struct Prior {
    symbols: usize,
    max: usize,
    /// `[symbols + 1][symbols + 1]`: the last row is that of the beginning, the last column that of
    /// the end.
    counts: Vec<f32>,
}

/// The part of the counts that is kept from one batch to the next.
const KEEP: f32 = 0.998;
/// Weight of all rows together in each row.
const SMOOTHING: f64 = 24.0;

impl Prior {
    /// A prior that has counted nothing, for sequences of at most `max` symbols.
    pub fn new(symbols: usize, max: usize) -> Self {
        let side = symbols + 1;
        Self { symbols, max, counts: vec![0.0; side * side] }
    }

    /// The prior with the counts of a checkpoint; `None` if their number does not fit.
    pub fn from_counts(symbols: usize, max: usize, counts: Vec<f32>) -> Option<Self> {
        (counts.len() == (symbols + 1) * (symbols + 1)).then_some(Self { symbols, max, counts })
    }

    /// The counts, `[symbols + 1][symbols + 1]`.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// Pairs of row and column that coding `c` uses.
    fn steps<'a>(&self, c: &'a [u16]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let end = (c.len() < self.max).then_some(self.symbols);
        let symbols = c.iter().map(|&symbol| usize::from(symbol)).chain(end);
        let before = std::iter::once(self.symbols).chain(c.iter().map(|&symbol| usize::from(symbol)));
        before.zip(symbols)
    }

    /// Counts the sequences of a batch.
    pub fn count(&mut self, cs: &[Vec<u16>]) {
        self.counts.iter_mut().for_each(|count| *count *= KEEP);
        let side = self.symbols + 1;
        for c in cs {
            for (row, column) in self.steps(c) {
                self.counts[row * side + column] += 1.0;
            }
        }
    }

    /// Probabilities, `[symbols + 1][symbols + 1]`: each row is smoothed by all rows together, and
    /// these by the even distribution.
    fn probabilities(&self) -> Vec<f64> {
        let side = self.symbols + 1;
        let mut all = vec![0.5; side];
        for row in self.counts.chunks_exact(side) {
            all.iter_mut().zip(row).for_each(|(all, &count)| *all += f64::from(count));
        }
        let total: f64 = all.iter().sum();
        let mut out = Vec::with_capacity(self.counts.len());
        for row in self.counts.chunks_exact(side) {
            let sum: f64 = row.iter().map(|&count| f64::from(count)).sum();
            let smoothed =
                row.iter().zip(&all).map(|(&count, all)| f64::from(count) + SMOOTHING * all / total);
            out.extend(smoothed.map(|count| count / (sum + SMOOTHING)));
        }
        out
    }

    /// Bits of each symbol of `c` and of its end.
    pub fn bits(&self) -> impl Fn(&[u16]) -> Vec<f64> {
        let (probabilities, prior) = (self.probabilities(), self.clone());
        let side = self.symbols + 1;
        move |c| prior.steps(c).map(|(row, column)| -probabilities[row * side + column].log2()).collect()
    }

    /// Coder slots for the model file, 1 to 2^16.
    pub fn slots(&self) -> Vec<u32> {
        self.probabilities().into_iter().map(|p| ((p * 65_535.0).round() as u32).clamp(1, 1 << 16)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_costs_little() {
        let mut prior = Prior::new(4, 3);
        for _ in 0..100 {
            prior.count(&[vec![1], vec![1, 2], vec![1, 2, 2]]);
        }
        let bits = prior.bits();
        let sum = |c: &[u16]| bits(c).iter().sum::<f64>();
        assert!(sum(&[1]) < 2.0 && sum(&[3]) > 4.0, "{} {}", sum(&[1]), sum(&[3]));
        assert_eq!(bits(&[1, 2, 2]).len(), 3);
        assert_eq!(bits(&[]).len(), 1);
        assert!(prior.slots().iter().all(|slot| (1..=1 << 16).contains(slot)));
    }
}
