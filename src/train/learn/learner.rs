//! A network of which only some parts learn: tables, head, copy gates.

use candle_core::{Device, Result, Tensor, Var};

use super::dense::{Dense, Span};
use super::rows::Rows;
use crate::train::net::{Batch, Net};
use crate::train::ops::attention::SelfAttention;
use crate::train::ops::feed_forward::FeedForward;
use crate::train::ops::loss::HeadLoss;
use crate::train::params::Segment;

/// Rates and prices of the parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub rows: f64,
    pub head: f64,
    pub bias: f64,
    /// The price of a unit of a row's element, in nats of mean loss; likewise for the other parts.
    pub row_price: f64,
    pub head_price: f64,
    pub gate_price: f64,
    pub bias_price: f64,
    pub units: [f64; 4],
}

/// The learning network. The layers do not change; the first set of weights is the one that learns.
pub(super) struct Learner {
    net: Net,
    pub rows: Rows,
    pub head: Dense,
}

impl Learner {
    pub fn new(net: Net, rates: Rates) -> Result<Self> {
        let table = net.params[0].var.flatten_all()?.to_vec1()?;
        let head = &net.set(0)[2 * net.config.layers];
        let span = |segment: &Segment| {
            let (rate, price, unit) = match segment.name.as_str() {
                "head" => (rates.head, rates.head_price, rates.units[1]),
                "copy" => (rates.bias / 20.0, rates.gate_price, rates.units[2]),
                _ => (rates.bias, rates.bias_price, rates.units[3]),
            };
            let range = segment.offset..segment.offset + segment.rows * segment.cols;
            Span { range, rate: rate as f32, price: price as f32, unit: unit as f32 }
        };
        let spans = head.segments.iter().map(span).collect();
        let head = Dense::new(head.var.flatten_all()?.to_vec1()?, spans);
        let rows = Rows::new(table, net.config.width, rates.rows as f32, rates.row_price as f32);
        Ok(Self { net, rows, head })
    }

    pub fn net(&self) -> &Net {
        &self.net
    }

    /// One step; returns the mean loss before it, in nats a token.
    pub fn step(&mut self, batch: &Batch, factor: f64) -> Result<f64> {
        let x = Var::from_tensor(&self.input(batch)?)?;
        let head = Var::from_tensor(&self.head_tensor()?)?;
        let loss = self.loss(batch, x.as_tensor(), head.as_tensor())?;
        let gradients = loss.backward()?;
        if let Some(dx) = gradients.get(x.as_tensor()) {
            let dx: Vec<f32> = dx.flatten_all()?.to_vec1()?;
            let per = self.net.config.rows_per_position();
            self.rows.learn(&batch.rows, per, &dx, factor as f32);
        }
        if let Some(d_head) = gradients.get(head.as_tensor()) {
            self.head.learn(&d_head.flatten_all()?.to_vec1::<f32>()?, factor as f32);
        }
        Ok(f64::from(loss.to_vec1::<f32>()?[0]))
    }

    fn input(&self, batch: &Batch) -> Result<Tensor> {
        let c = &self.net.config;
        let per = c.rows_per_position();
        let sums = self.rows.look_up(&batch.rows, per);
        Tensor::from_vec(sums, (batch.rows.len() / per, c.width), &Device::Cpu)
    }

    fn head_tensor(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.head.values, self.head.values.len(), &Device::Cpu)
    }

    fn loss(&self, batch: &Batch, x: &Tensor, head: &Tensor) -> Result<Tensor> {
        let c = &self.net.config;
        let set = self.net.set(0);
        let mut x = x.clone();
        let dims = c.dims(batch.len);
        for layer in 0..c.layers {
            let attention = set[2 * layer].var.as_detached_tensor();
            let feed_forward = set[2 * layer + 1].var.as_detached_tensor();
            x = x.apply_op2(&attention, SelfAttention::new(dims).frozen())?;
            x = x.apply_op2(&feed_forward, FeedForward::new(c.width, c.ff, batch.len).frozen())?;
        }
        let op = HeadLoss::new(c.width, c.vocab, c.gates(), batch.len, batch.targets.clone());
        x.apply_op2(head, op.adapting(c.adapt))
    }
}
