//! The parameters of a network: how segments lie in tensors, and their initial values.

use candle_core::Var;

/// How the optimizer treats a segment of a tensor.
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
    /// The segment's name, as in the model file without `.weight`.
    pub name: String,
    /// Index of its first element in the tensor.
    pub offset: usize,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// How the optimizer treats it.
    pub role: Role,
    /// Its initial values.
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
    /// The tensor's name.
    pub name: String,
    /// The values.
    pub var: Var,
    /// The matrices in it, one after the other.
    pub segments: Vec<Segment>,
}

/// Collects the segments of one tensor, one after the other.
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
