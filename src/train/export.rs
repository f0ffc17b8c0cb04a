//! From a network of floats to a model file: int8 rows with scales, as spec/numerics.md defines
//! them.
//!
//! The units of queries, keys, values and hidden values are set from their largest magnitudes on
//! held-out text. The residual stream is scaled as a whole, which normalization undoes.

use super::checkpoint::Head;
use super::encoder::Extents;
use super::error::failed;
use super::net::{Batch, Net};
use super::ops::compose;
use super::quantize::{AttentionUnits, LOGIT_UNIT, NORMALISED, Quantizer, hidden_unit, residual_unit};
use super::sizes::NetConfig;
use crate::error::Result;
use crate::kernels::slots::RATE_END;
use crate::model::config::{Activation, Config, Latent};
use crate::model::steer::GAIN_ONE;
use crate::model::tokens::Vocabulary;
use crate::model::write::{Tensor as Part, store_differences, write_model};

/// A batch and the c of each of its sequences; a list without elements if no sequence has one.
pub type Sample = (Batch, Vec<Vec<u16>>);

/// Largest magnitudes of one layer.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    q: f64,
    k: f64,
    v: f64,
    hidden: f64,
}

/// Largest magnitudes of the residual stream and of all layers of one expert over the batches; and
/// those of the encoder of c and of cross-attention, by name.
fn extents(net: &Net, expert: usize, batches: &[Sample]) -> candle_core::Result<(f64, Vec<Extent>, Extents)> {
    let c = &net.config;
    let top = |t: candle_core::Tensor| -> candle_core::Result<f64> {
        Ok(f64::from(t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
    };
    let set = net.set(expert);
    let mut residual = 0.0f64;
    let mut layers = vec![Extent::default(); c.layers];
    let mut of_c = Extents::new();
    for (batch, cs) in batches {
        let steered = net.steer(cs)?;
        let memory = net.read(cs, Some(&mut of_c))?;
        let mut x = compose::embed(net.params[0].var.as_tensor(), &batch.rows, c.rows_per_position())?;
        if let Some(steered) = &steered {
            x = (&x + compose::spread(&steered.input, x.dim(0)?)?)?;
        }
        residual = residual.max(top(x.clone())?);
        for (l, extent) in layers.iter_mut().enumerate() {
            let (attention, feed_forward) = (&set[2 * l].var, &set[2 * l + 1].var);
            let (q, kv) = (c.heads * c.head_size, c.kv_heads * c.head_size);
            let w = compose::part(attention, 0, q + 2 * kv, c.width)?;
            let qkv = compose::normalize(&x)?.matmul(&w.t()?)?;
            extent.q = extent.q.max(top(qkv.narrow(1, 0, q)?)?);
            extent.k = extent.k.max(top(qkv.narrow(1, q, kv)?)?);
            extent.v = extent.v.max(top(qkv.narrow(1, q + kv, kv)?)?);
            x = compose::attention(&x, attention, c.dims(batch.len))?;
            if let Some(memory) = &memory {
                x = net.attend_to(memory, &x, (expert, l), Some(&mut of_c))?;
            }
            let up = compose::part(feed_forward, 0, c.ff, c.width)?;
            let mut hidden = compose::normalize(&x)?.matmul(&up.t()?)?.relu()?;
            extent.hidden = extent.hidden.max(top(hidden.clone())?);
            let gains = steered.as_ref().map(|steered| &steered.gains[l]);
            if let Some(gains) = gains {
                hidden = (&hidden * compose::spread(gains, hidden.dim(0)?)?)?;
                extent.hidden = extent.hidden.max(top(hidden)?);
            }
            x = compose::feed_forward(&x, feed_forward, c.width, c.ff, gains)?;
            residual = residual.max(top(x.clone())?);
        }
    }
    Ok((residual, layers, of_c))
}

/// The samples on which each expert is measured: the sequences that use it, and some that do not.
fn by_expert(net: &Net, held: &[Sample]) -> Vec<Vec<Sample>> {
    let mut all: Vec<Vec<Sample>> = Vec::new();
    for expert in 0..net.config.sets().len() {
        let mut own: Vec<Sample> = Vec::new();
        for (batch, cs) in held {
            let places: Vec<usize> =
                (0..cs.len()).filter(|&place| net.expert(&cs[place]) == expert).collect();
            if cs.is_empty() && expert == 0 {
                own.push((batch.clone(), vec![]));
            } else if !places.is_empty() {
                own.push((batch.select(&places), places.iter().map(|&place| cs[place].clone()).collect()));
            }
        }
        own.extend(held.iter().take(2).map(|(batch, _)| (batch.clone(), vec![])));
        all.push(own);
    }
    all
}

/// What is collected for the file.
struct Export<'a> {
    net: &'a Net,
    out: Quantizer,
}

impl Export<'_> {
    fn segment(&self, name: &str) -> Result<Vec<f32>> {
        self.net.segment(name).map_err(failed)
    }

    /// Adds the product of this name. Its output row `j` has the unit `unit(j)`, its input the unit
    /// `input`.
    fn product(&mut self, name: &str, cols: usize, input: f64, unit: impl Fn(usize) -> f64) -> Result<()> {
        let values = self.segment(name)?;
        self.out.product(name, &values, cols, input, unit)
    }

    fn bias(&mut self, name: &str, rows: usize) -> Result<()> {
        let values = self.segment(name)?;
        self.out.bias(name, &values, rows);
        Ok(())
    }

    /// Adds the rows of the symbols of c, in the units of the input, the gains and the biases.
    fn steering(&mut self, residual: f64) -> Result<()> {
        for (name, cols) in self.out.config.steer_tables() {
            let unit = match name.rsplit('.').next() {
                Some("input") => residual,
                Some("gain") => f64::from(GAIN_ONE),
                _ => LOGIT_UNIT,
            };
            let table = [(name.clone(), self.segment(&name)?)];
            self.out.tables(&name, &table, cols, unit);
        }
        Ok(())
    }

    /// Adds all embedding tables, in units of the residual stream, with one shift.
    fn embeddings(&mut self, residual: f64) -> Result<()> {
        let names = self.out.config.tables().into_iter().map(|(name, _)| name);
        let names = names.filter(|name| name.starts_with("embed."));
        let tables =
            names.map(|name| Ok((name.clone(), self.segment(&name)?))).collect::<Result<Vec<_>>>()?;
        self.out.tables("embed", &tables, self.out.config.width, residual);
        Ok(())
    }

    fn layer(&mut self, layer: &str, net: &NetConfig, extent: Extent, residual: f64) -> Result<()> {
        let (q, kv, size) = (net.heads * net.head_size, net.kv_heads * net.head_size, net.head_size as f64);
        let units = AttentionUnits::new(extent.q, extent.k, extent.v, LOGIT_UNIT / size.sqrt());
        self.out.shift(&format!("{layer}.score"), units.score);
        self.product(&format!("{layer}.qkv"), net.width, NORMALISED, |j| match j {
            j if j < q => units.query,
            j if j < q + kv => units.key,
            _ => units.value,
        })?;
        self.bias(&format!("{layer}.bias"), net.heads)?;
        self.product(&format!("{layer}.out"), q, units.mixed(), |_| residual)?;
        let hidden = hidden_unit(extent.hidden);
        self.product(&format!("{layer}.up"), net.width, NORMALISED, |_| hidden)?;
        let squared = 1.0 / (127.0 * hidden * hidden);
        self.product(&format!("{layer}.down"), net.ff, squared, |_| residual)
    }

    /// Units of the attention whose queries, keys and values have these names among the extents.
    fn units(extents: &Extents, names: [String; 3], head_size: usize) -> AttentionUnits {
        let [q, k, v] = names.map(|name| extents.get(&name).copied().unwrap_or(1.0));
        AttentionUnits::new(q, k, v, LOGIT_UNIT / (head_size as f64).sqrt())
    }

    /// Adds the attention to c of layer `l`, in the set whose names begin with `set`.
    fn cross(
        &mut self,
        (set, l): (&str, usize),
        net: &NetConfig,
        extents: &Extents,
        residual: f64,
    ) -> Result<()> {
        let inner = net.heads * net.head_size;
        let units =
            Self::units(extents, ["q", "k", "v"].map(|p| format!("decoder.{l}.cross_{p}")), net.head_size);
        let layer = format!("{set}decoder.{l}");
        self.product(&format!("{layer}.cross_q"), net.width, NORMALISED, |_| units.query)?;
        let unit = |j: usize| if j < inner { units.key } else { units.value };
        self.product(&format!("{layer}.cross_kv"), net.width, NORMALISED, unit)?;
        self.product(&format!("{layer}.cross_out"), inner, units.mixed(), |_| residual)?;
        self.out.shift(&format!("{layer}.cross_score"), units.score);
        Ok(())
    }

    /// Adds the encoder of c.
    fn encoder(&mut self, net: &NetConfig, ff: usize, extents: &Extents) -> Result<()> {
        let top = |name: &str| extents.get(name).copied().unwrap_or(1.0);
        let (inner, residual) = (net.heads * net.head_size, residual_unit(top("latent.residual")));
        let table = [("latent.embed".to_owned(), self.segment("latent.embed")?)];
        self.out.tables("latent_embed", &table, net.width, residual);
        for l in 0..net.encoder_layers() {
            let layer = format!("latent.{l}");
            let units = Self::units(extents, ["q", "k", "v"].map(|p| format!("{layer}.{p}")), net.head_size);
            self.out.shift(&format!("{layer}.score"), units.score);
            self.product(&format!("{layer}.qkv"), net.width, NORMALISED, |j| match j / inner {
                0 => units.query,
                1 => units.key,
                _ => units.value,
            })?;
            self.bias(&format!("{layer}.bias"), net.heads)?;
            self.product(&format!("{layer}.out"), inner, units.mixed(), |_| residual)?;
            let hidden = hidden_unit(top(&format!("{layer}.up")));
            self.product(&format!("{layer}.up"), net.width, NORMALISED, |_| hidden)?;
            let squared = 1.0 / (127.0 * hidden * hidden);
            self.product(&format!("{layer}.down"), ff, squared, |_| residual)?;
        }
        Ok(())
    }
}

/// The header of the model file, without shifts.
fn header(name: &str, head: &Head) -> Config {
    let c = &head.net;
    let mut config = Config::new(name, c.width, c.layers, c.vocab);
    config.heads = c.heads;
    config.kv_heads = c.kv_heads;
    config.head_size = c.head_size;
    config.ff = c.ff;
    config.window = c.window;
    config.activation = Activation::Relu2;
    config.orders = c.orders.clone();
    config.seconds = c.seconds.clone();
    config.ngrams = c.ngrams.clone();
    config.copy = c.copy;
    config.latent = c.steering.map(|c| Latent {
        symbols: c.symbols,
        max: c.max,
        layers: c.layers,
        ff: c.ff,
        steer: c.rows,
        experts: c.experts,
    });
    if c.adapt > 0.0 {
        let unit = 256.0 * LOGIT_UNIT;
        let rate = (f64::from(c.adapt) * unit).round().min(f64::from(RATE_END - 1)) as u32;
        config.set_adapt(vec![rate; config.sets().len()]);
    }
    config.training = head.record();
    config
}

/// Quantizes a network into the bytes of a model file.
pub fn export(
    name: &str,
    head: &Head,
    net: &Net,
    vocabulary: &Vocabulary,
    held: &[Sample],
    prior: Option<Vec<u32>>,
) -> Result<Vec<u8>> {
    let samples = by_expert(net, held).into_iter().enumerate();
    let extents =
        samples.map(|(expert, held)| extents(net, expert, &held)).collect::<candle_core::Result<Vec<_>>>();
    let extents = extents.map_err(failed)?;
    let residual = residual_unit(extents.iter().fold(0.0, |top, (residual, ..)| residual.max(top)));
    let mut of_c = Extents::new();
    for (name, &top) in extents.iter().flat_map(|(_, _, of_c)| of_c) {
        let known = of_c.entry(name.clone()).or_insert(0.0);
        *known = known.max(top);
    }
    let mut export = Export { net, out: Quantizer::new(header(name, head)) };
    export.embeddings(residual)?;
    for (set, (_, layers, _)) in head.net.sets().iter().zip(extents) {
        for (l, extent) in layers.into_iter().enumerate() {
            export.layer(&format!("{set}decoder.{l}"), &head.net, extent, residual)?;
            if head.net.encoder_layers() > 0 {
                export.cross((set, l), &head.net, &of_c, residual)?;
            }
        }
        export.product(&format!("{set}head"), head.net.width, NORMALISED, |_| LOGIT_UNIT)?;
        if head.net.copy {
            export.product(&format!("{set}copy"), head.net.width, NORMALISED, |_| LOGIT_UNIT)?;
            export.bias(&format!("{set}copy.bias"), head.net.slots())?;
        }
    }
    if let (Some(prior), Some(latent)) = (prior, &export.out.config.latent) {
        let side = latent.symbols + 1;
        export.out.parts.push(Part::u32("latent.prior", &[side, side], prior));
        let ff = latent.ff;
        export.steering(residual)?;
        if head.net.encoder_layers() > 0 {
            export.encoder(&head.net, ff, &of_c)?;
        }
    }
    store_differences(&mut export.out.parts);
    write_model(&export.out.config, vocabulary, &export.out.parts)
}
