//! Kinds of text, found by k-means over token frequencies: what the symbols of c stand for before
//! the actor has learned anything.
//!
//! The first symbol is the kind. Each further symbol, from an alphabet of its own, describes most
//! of what the symbols before it leave unexplained of the frequencies (residual vector
//! quantization).
//!
//! Without kinds, all symbols would mean the same at first, and a policy gradient would have no
//! difference between them to follow.

use super::random::Random;

/// Rounds of k-means.
const ROUNDS: usize = 12;

/// Centers in the space of square roots of token frequencies (Hellinger distance): first those of
/// the kinds, then those of what is left.
#[derive(Clone, Debug)]
pub struct Clusters {
    vocab: usize,
    kinds: usize,
    centers: Vec<f32>,
}

/// A vector as a list of its entries that are not zero.
type Sparse = Vec<(usize, f32)>;

/// Square roots of the frequencies of tokens.
fn features(tokens: &[u32]) -> Sparse {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    let n = tokens.len().max(1) as f32;
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0] as usize, (run.len() as f32 / n).sqrt())).collect()
}

fn dot(point: &[(usize, f32)], center: &[f32]) -> f32 {
    point.iter().map(|&(token, v)| center[token] * v).sum()
}

/// What is left of a point without the multiple of a center that comes closest to it.
fn rest(point: &[(usize, f32)], center: &[f32]) -> Sparse {
    let share = dot(point, center);
    let mut rest: Vec<f32> = center.iter().map(|c| -share * c).collect();
    point.iter().for_each(|&(token, v)| rest[token] += v);
    rest.into_iter().enumerate().filter(|&(_, v)| v != 0.0).collect()
}

/// The index of the center to which a point is most similar.
fn nearest(centers: &[f32], vocab: usize, point: &[(usize, f32)]) -> usize {
    let likeness = centers.chunks_exact(vocab).map(|center| dot(point, center)).enumerate();
    likeness.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(row, _)| row)
}

/// `count` centers of length 1 by k-means.
fn k_means(points: &[Sparse], vocab: usize, count: usize, random: &mut Random) -> Vec<f32> {
    let mut centers = vec![0.0; count * vocab];
    let mut begin = |center: &mut [f32]| {
        if !points.is_empty() {
            points[random.below(points.len())].iter().for_each(|&(token, v)| center[token] = v);
        }
    };
    centers.chunks_exact_mut(vocab).for_each(&mut begin);
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0; count * vocab];
        let mut sizes = vec![0usize; count];
        for point in points {
            let row = nearest(&centers, vocab, point);
            sizes[row] += 1;
            point.iter().for_each(|&(token, v)| sums[row * vocab + token] += v);
        }
        for (sum, &size) in sums.chunks_exact_mut(vocab).zip(&sizes) {
            if size == 0 {
                // A center that nothing belongs to starts again elsewhere.
                begin(sum);
            }
            let norm = sum.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
            sum.iter_mut().for_each(|v| *v /= norm);
        }
        centers = sums;
    }
    centers
}

impl Clusters {
    /// Finds `kinds` kinds of the texts, each given as its tokens, and `finer` centers of what
    /// these leave.
    pub fn find(texts: &[&[u32]], vocab: usize, (kinds, finer): (usize, usize), random: &mut Random) -> Self {
        let mut points: Vec<_> = texts.iter().map(|tokens| features(tokens)).collect();
        let mut centers = k_means(&points, vocab, kinds, random);
        if finer > 0 {
            for point in &mut points {
                let kind = nearest(&centers, vocab, point);
                *point = rest(point, &centers[kind * vocab..][..vocab]);
            }
            centers.extend(k_means(&points, vocab, finer, random));
        }
        Self { vocab, kinds, centers }
    }

    /// The clusters with the centers of a checkpoint; `None` if their number does not fit.
    pub fn from_centers(vocab: usize, kinds: usize, centers: Vec<f32>) -> Option<Self> {
        let fits = vocab > 0 && centers.len().is_multiple_of(vocab) && centers.len() / vocab >= kinds;
        fits.then_some(Self { vocab, kinds, centers })
    }

    /// All centers, `[kinds + finer][vocab]`.
    pub fn centers(&self) -> &[f32] {
        &self.centers
    }

    /// The kind of a text.
    pub fn kind(&self, tokens: &[u32]) -> usize {
        nearest(&self.centers[..self.kinds * self.vocab], self.vocab, &features(tokens))
    }

    /// The c of a text of this kind, of at most `len` symbols.
    pub fn describe(&self, tokens: &[u32], kind: u16, len: usize) -> Vec<u16> {
        let (kinds, finer) = self.centers.split_at(self.kinds * self.vocab);
        let mut c = vec![kind];
        if len < 2 || finer.is_empty() {
            return c;
        }
        let mut point = rest(&features(tokens), &kinds[usize::from(kind) * self.vocab..][..self.vocab]);
        while c.len() < len {
            let row = nearest(finer, self.vocab, &point);
            c.push((self.kinds + row) as u16);
            point = rest(&point, &finer[row * self.vocab..][..self.vocab]);
        }
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_different_tokens_are_of_different_kinds() {
        let mut random = Random::new(1);
        let text = |from: u32, random: &mut Random| -> Vec<u32> {
            (0..200).map(|_| from + random.below(10) as u32).collect()
        };
        let texts: Vec<Vec<u32>> = (0..60).map(|i| text(20 * (i % 3), &mut random)).collect();
        let views: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let clusters = Clusters::find(&views, 60, (6, 0), &mut random);
        let kinds: Vec<usize> = texts.iter().map(|t| clusters.kind(t)).collect();
        for i in 0..60 {
            for j in 0..60 {
                assert!(kinds[i] != kinds[j] || i % 3 == j % 3);
            }
        }
    }
    #[test]
    fn further_symbols_tell_what_the_kind_leaves() {
        let mut random = Random::new(2);
        // Two kinds by half of the tokens, and within each two sorts by the other half.
        let text = |i: u32, random: &mut Random| -> Vec<u32> {
            let places = [20 * (i % 2), 40 + 20 * (i / 2 % 2)];
            (0..400).map(|t| places[usize::from(t % 4 == 0)] + random.below(10) as u32).collect()
        };
        let texts: Vec<Vec<u32>> = (0..80).map(|i| text(i, &mut random)).collect();
        let views: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let clusters = Clusters::find(&views, 80, (2, 4), &mut random);
        let cs: Vec<_> = texts.iter().map(|t| clusters.describe(t, clusters.kind(t) as u16, 2)).collect();
        for (i, a) in cs.iter().enumerate() {
            assert!(a.len() == 2 && a[0] < 2 && (2..6).contains(&a[1]));
            for (j, b) in cs.iter().enumerate() {
                assert!(a != b || i % 4 == j % 4, "{i} {j} {a:?}");
            }
        }
        assert_eq!(clusters.describe(&texts[0], 1, 1), [1]);
    }
}
