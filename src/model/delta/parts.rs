//! The matrices of a model that a delta may change, in the order of the format.

use super::matrix::Kind;
use crate::model::config::Config;
use crate::model::matcher::CLASSES;

/// A matrix by the name of its tensor: a table or a product, named without `.weight`, or a bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name.
    pub name: String,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Whether the elements are biases of 32 bits, rather than weights with a scale for each row.
    pub bias: bool,
}

impl Part {
    pub(super) fn kind(&self) -> Kind {
        match () {
            () if self.bias => Kind::Bias,
            () if self.name.starts_with("embed.ngram") => Kind::Ngram,
            () if self.name.starts_with("embed") => Kind::Table,
            () => Kind::Product,
        }
    }
}

/// All matrices that a delta may change in a model with this header.
pub fn parts(config: &Config) -> Vec<Part> {
    let tables = config.tables().into_iter().filter(|(name, _)| name.starts_with("embed."));
    let mut all: Vec<Part> =
        tables.map(|(name, rows)| Part { name, rows, cols: config.width, bias: false }).collect();
    let products = config.products().into_iter().filter(|product| !product.name.starts_with("latent."));
    all.extend(products.map(|p| Part { name: p.name, rows: p.rows, cols: p.cols, bias: false }));
    if config.copy {
        let biases = config.sets().into_iter().map(|set| format!("{set}copy.bias"));
        all.extend(biases.map(|name| Part { name, rows: config.slots(), cols: CLASSES, bias: true }));
    }
    all
}
