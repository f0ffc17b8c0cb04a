//! Parameters that every token uses, and the price of changing them: a step of Adam, then a step
//! back toward the base.

use super::rows::{choose, shrink};

/// A range of parameters with the same rate and price.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub range: std::ops::Range<usize>,
    pub rate: f32,
    /// The price of one unit, in nats of mean loss.
    pub price: f32,
    /// What one step of the format is worth.
    pub unit: f32,
}

/// Parameters, their base, and Adam's moments.
pub(super) struct Dense {
    pub values: Vec<f32>,
    pub base: Vec<f32>,
    spans: Vec<Span>,
    first: Vec<f32>,
    second: Vec<f32>,
    step: i32,
    /// The parameters that may still change, once they are chosen.
    free: Option<Vec<bool>>,
}

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;

impl Dense {
    pub fn new(base: Vec<f32>, spans: Vec<Span>) -> Self {
        let zeros = vec![0.0; base.len()];
        Self { values: base.clone(), base, spans, first: zeros.clone(), second: zeros, step: 0, free: None }
    }

    /// One step with the rates times `factor`.
    pub fn learn(&mut self, gradient: &[f32], factor: f32) {
        self.step += 1;
        let (c1, c2) = (1.0 - BETA1.powi(self.step), 1.0 - BETA2.powi(self.step));
        for span in &self.spans {
            let at = span.range.clone();
            let moments = self.first[at.clone()].iter_mut().zip(&mut self.second[at.clone()]);
            let values = self.values[at.clone()].iter_mut().zip(&self.base[at.clone()]);
            let free = self.free.as_ref().map(|free| &free[at.clone()]);
            for (i, (((value, base), (m, v)), g)) in values.zip(moments).zip(&gradient[at]).enumerate() {
                if free.is_some_and(|free| !free[i]) {
                    continue;
                }
                *m += (1.0 - BETA1) * (g - *m);
                *v += (1.0 - BETA2) * (g * g - *v);
                let rate = factor * span.rate / ((*v / c2).sqrt() + 1e-9);
                *value -= rate * *m / c1;
                shrink(std::slice::from_mut(value), std::slice::from_ref(base), rate * span.price);
            }
        }
    }

    /// Chooses which parameters change, as `Rows::choose` does; `least` gives the least change of
    /// each span.
    pub fn choose(&mut self, least: impl Fn(&Span) -> f32) {
        let mut free = vec![false; self.values.len()];
        for span in &mut self.spans {
            let at = span.range.clone();
            let chosen = choose(&mut self.values[at.clone()], &self.base[at.clone()], least(span));
            free[at].copy_from_slice(&chosen);
            span.price = 0.0;
        }
        self.free = Some(free);
    }
}
