//! Kinds of text, found by k-means over token frequencies: what the first symbol of c stands for
//! before the actor has learned anything.
//!
//! Without it all symbols mean the same at first, and a policy gradient finds no difference between
//! them to follow.

use super::random::Random;

/// Rounds of k-means.
const ROUNDS: usize = 12;

/// Centres in the space of square roots of token frequencies (Hellinger's distance).
#[derive(Clone, Debug)]
pub struct Clusters {
    vocab: usize,
    centres: Vec<f32>,
}

/// Square roots of the frequencies of tokens, as pairs of token and value.
fn features(tokens: &[u32]) -> Vec<(usize, f32)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    let n = tokens.len().max(1) as f32;
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0] as usize, (run.len() as f32 / n).sqrt())).collect()
}

impl Clusters {
    /// `count` kinds of the texts, each given as its tokens.
    pub fn find(texts: &[&[u32]], vocab: usize, count: usize, random: &mut Random) -> Self {
        let points: Vec<_> = texts.iter().map(|tokens| features(tokens)).collect();
        let mut centres = vec![0.0; count * vocab];
        for centre in centres.chunks_exact_mut(vocab) {
            if !points.is_empty() {
                points[random.below(points.len())].iter().for_each(|&(token, v)| centre[token] = v);
            }
        }
        let mut found = Self { vocab, centres };
        for _ in 0..ROUNDS {
            let mut sums = vec![0.0; count * vocab];
            let mut sizes = vec![0usize; count];
            for point in &points {
                let kind = found.nearest(point);
                sizes[kind] += 1;
                point.iter().for_each(|&(token, v)| sums[kind * vocab + token] += v);
            }
            for (kind, size) in sizes.iter().enumerate() {
                let sum = &mut sums[kind * vocab..][..vocab];
                if *size == 0 && !points.is_empty() {
                    // A kind that nothing belongs to starts again elsewhere.
                    points[random.below(points.len())].iter().for_each(|&(token, v)| sum[token] = v);
                }
                let norm = sum.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
                sum.iter_mut().for_each(|v| *v /= norm);
            }
            found.centres = sums;
        }
        found
    }

    /// From the centres of a checkpoint.
    pub fn from_centres(vocab: usize, centres: Vec<f32>) -> Option<Self> {
        (vocab > 0 && centres.len().is_multiple_of(vocab)).then_some(Self { vocab, centres })
    }

    pub fn centres(&self) -> &[f32] {
        &self.centres
    }

    fn nearest(&self, point: &[(usize, f32)]) -> usize {
        let likeness = |centre: &[f32]| point.iter().map(|&(token, v)| centre[token] * v).sum::<f32>();
        let kinds = self.centres.chunks_exact(self.vocab).map(likeness).enumerate();
        kinds.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(kind, _)| kind)
    }

    /// The kind of a text.
    pub fn kind(&self, tokens: &[u32]) -> usize {
        self.nearest(&features(tokens))
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
        let clusters = Clusters::find(&views, 60, 6, &mut random);
        let kinds: Vec<usize> = texts.iter().map(|t| clusters.kind(t)).collect();
        for i in 0..60 {
            for j in 0..60 {
                assert!(kinds[i] != kinds[j] || i % 3 == j % 3);
            }
        }
    }
}
