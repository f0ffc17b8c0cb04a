//! The parameters of a network: how segments lie in tensors, and how they begin.

use candle_core::Var;

/// How the optimizer treats a part of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A hidden matrix.
    Matrix,
    /// Rows that are looked up.
    Embedding,
    /// The output head.
    Head,
    /// Biases and gates.
    Bias,
    /// Rows of the symbols of c.
    Steer,
}

/// A named matrix within a packed tensor.
#[derive(Clone, Debug)]
pub struct Segment {
    pub name: String,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub role: Role,
    pub init: Init,
}

/// Initial values of a segment.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Independent normal values of this standard deviation.
    Normal(f32),
    /// This value everywhere.
    Constant(f32),
}

/// One packed parameter tensor.
pub struct Param {
    pub name: String,
    pub var: Var,
    pub segments: Vec<Segment>,
}

/// Segments of one tensor, one behind the other.
#[derive(Default)]
pub(crate) struct Packer {
    pub segments: Vec<Segment>,
    pub len: usize,
}

impl Packer {
    pub fn add(&mut self, name: &str, rows: usize, cols: usize, role: Role, init: Init) {
        self.segments.push(Segment { name: name.to_owned(), offset: self.len, rows, cols, role, init });
        self.len += rows * cols;
    }
}
