//! Rows of tables that learn with a price on every change.
//!
//! A step uses the rows that its positions look up, a few hundred of some sixty thousand, and only
//! these change: first by Adagrad with one sum per row (as in the tables of recommender systems,
//! Naumov et al. 2019), then each element moves back toward its base by the price of its bits. A
//! row pays the price of steps that did not use it when it is used again (truncated gradient,
//! Langford, Li and Zhang 2009).

use std::collections::HashMap;

use rayon::prelude::*;

use crate::train::ops::embed::NONE;

/// The state of a row.
#[derive(Clone, Copy, Default)]
struct State {
    /// Sum of the mean squares of its gradients.
    sum: f32,
    /// The step up to which its price is paid.
    step: u32,
}

/// The rows of all tables of a network, and the state of those that were used.
pub(super) struct Rows {
    pub values: Vec<f32>,
    pub base: Vec<f32>,
    d: usize,
    states: HashMap<u32, State>,
    step: u32,
    rate: f32,
    /// The sum with which each row begins, so that the first gradient is not overrated.
    begin: f32,
    /// The price of one unit of an element, in nats of mean loss.
    price: f32,
    /// Sums of the rates of the steps so far.
    rates: Vec<f32>,
    /// The elements that may still change, once they are chosen.
    free: Option<Vec<bool>>,
}

impl Rows {
    pub fn new(base: Vec<f32>, d: usize, rate: f32, price: f32) -> Self {
        let values = base.clone();
        Self {
            values,
            base,
            d,
            states: HashMap::new(),
            step: 0,
            rate,
            begin: 0.0,
            price,
            rates: vec![0.0],
            free: None,
        }
    }

    /// The sums of the rows of each position; each position has `per` rows.
    pub fn look_up(&self, rows: &[u32], per: usize) -> Vec<f32> {
        let d = self.d;
        let mut out = vec![0.0f32; rows.len() / per * d];
        out.par_chunks_mut(256 * d).zip(rows.par_chunks(256 * per)).for_each(|(out, rows)| {
            for (to, rows) in out.chunks_exact_mut(d).zip(rows.chunks_exact(per)) {
                for &row in rows.iter().filter(|&&row| row != NONE) {
                    let from = &self.values[row as usize * d..][..d];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                }
            }
        });
        out
    }

    /// One step: `dx` is the gradient of the sums that `look_up` returned for `rows`.
    pub fn learn(&mut self, rows: &[u32], per: usize, dx: &[f32], factor: f32) {
        let d = self.d;
        let mut uses: Vec<(u32, u32)> = rows
            .iter()
            .enumerate()
            .filter(|&(_, &row)| row != NONE)
            .map(|(i, &row)| (row, (i / per) as u32))
            .collect();
        uses.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = uses.chunk_by(|a, b| a.0 == b.0).collect();
        let gradients: Vec<Vec<f32>> = groups
            .par_iter()
            .map(|uses| {
                let mut sum = vec![0.0f32; d];
                for &(_, position) in *uses {
                    let from = &dx[position as usize * d..][..d];
                    sum.iter_mut().zip(from).for_each(|(sum, from)| *sum += from);
                }
                sum
            })
            .collect();
        let square = |gradient: &Vec<f32>| gradient.iter().map(|g| g * g).sum::<f32>() / d as f32;
        if self.step == 0 {
            let sum: f32 = gradients.iter().map(square).sum();
            self.begin = sum / gradients.len().max(1) as f32;
        }
        self.step += 1;
        self.rates.push(self.rates[self.rates.len() - 1] + factor);
        for (uses, gradient) in groups.iter().zip(&gradients) {
            let row = uses[0].0;
            let mut state = self.states.get(&row).copied().unwrap_or_default();
            state.sum += square(gradient);
            let rate = self.rate / (state.sum + self.begin).sqrt();
            let at = row as usize * d..(row as usize + 1) * d;
            let values = &mut self.values[at.clone()];
            match &self.free {
                None => {
                    values.iter_mut().zip(gradient).for_each(|(value, g)| *value -= rate * factor * g);
                }
                Some(free) => {
                    let free = &free[at.clone()];
                    for ((value, g), _) in
                        values.iter_mut().zip(gradient).zip(free).filter(|(_, free)| **free)
                    {
                        *value -= rate * factor * g;
                    }
                }
            }
            let due = rate * self.price * (self.rates[self.step as usize] - self.rates[state.step as usize]);
            shrink(values, &self.base[at], due);
            state.step = self.step;
            self.states.insert(row, state);
        }
    }

    /// Makes all rows pay what they owe.
    pub fn settle(&mut self) {
        let d = self.d;
        let now = self.rates[self.step as usize];
        for (&row, state) in &mut self.states {
            let rate = self.rate / (state.sum + self.begin).sqrt();
            let due = rate * self.price * (now - self.rates[state.step as usize]);
            let at = row as usize * d..(row as usize + 1) * d;
            shrink(&mut self.values[at.clone()], &self.base[at], due);
            state.step = self.step;
        }
    }

    /// Chooses which elements change: those that differ from their base by at least `least`. The
    /// others return to their base, and from now on no change has a price.
    pub fn choose(&mut self, least: f32) {
        self.settle();
        self.price = 0.0;
        self.free = Some(choose(&mut self.values, &self.base, least));
    }
}

/// Moves each value toward its base by `by`, at most onto it.
pub(super) fn shrink(values: &mut [f32], base: &[f32], by: f32) {
    for (value, base) in values.iter_mut().zip(base) {
        let difference = *value - base;
        *value = base + difference.signum() * (difference.abs() - by).max(0.0);
    }
}

/// Sets values back that differ from their base by less than `least`; returns which do not.
pub(super) fn choose(values: &mut [f32], base: &[f32], least: f32) -> Vec<bool> {
    let pairs = values.iter_mut().zip(base);
    pairs
        .map(|(value, base)| {
            let changes = (*value - base).abs() >= least;
            if !changes {
                *value = *base;
            }
            changes
        })
        .collect()
}
