//! Weights and activations in the layout that the kernels want, made once.
//!
//! The weights of a product lie in panels of up to 64 outputs. Within a panel, four consecutive
//! inputs of each output stand together, and those of the first four inputs stand before those of
//! the next four. A panel is read from its start to its end, whatever the length of a vector, as
//! fast as a cache can deliver it. Outputs and inputs are padded with zeros to `PAD`.

use super::buffer::{Buffer, padded};

/// Most outputs of one panel; the last panel of a product has what is left, a multiple of `PAD`.
pub const PANEL: usize = 64;
/// Consecutive inputs that stand together.
pub const QUAD: usize = 4;

/// One integer product `y = W q` with its requantization (spec/numerics.md, section 5, `linear`).
#[derive(Clone, Debug)]
pub struct Product {
    rows: usize,
    cols: usize,
    pub(crate) weights: Buffer<i8>,
    /// Scale of each output; 0 in the padding.
    pub(crate) scale: Buffer<i32>,
    /// For each output -128 times the sum of its weights: the start of its sum if the kernel adds
    /// 128 to all inputs.
    pub(crate) offset: Buffer<i32>,
    pub(crate) pre: u32,
    pub(crate) shift: u32,
}

impl Product {
    /// Lays out row-major `weights`. The caller has checked the bound of `linear` for `pre`, and
    /// that `shift` is at most 31.
    pub fn new(weights: &[i8], scale: &[u16], pre: u32, shift: u32) -> Self {
        let (rows, cols) = (scale.len(), weights.len() / scale.len());
        assert_eq!(weights.len(), rows * cols);
        let mut product = Self {
            rows,
            cols,
            weights: Buffer::zeroed(padded(rows) * padded(cols)),
            scale: Buffer::zeroed(padded(rows)),
            offset: Buffer::zeroed(padded(rows)),
            pre,
            shift,
        };
        for (row, &scale) in scale.iter().enumerate() {
            product.scale[row] = scale.into();
            for col in 0..cols {
                let at = product.place(row, col);
                product.weights[at] = weights[row * cols + col];
                product.offset[row] -= 128 * i32::from(weights[row * cols + col]);
            }
        }
        product
    }

    /// Outputs: rows of the weight matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs: columns of the weight matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The weight of output `row` and input `col`.
    pub fn weight(&self, row: usize, col: usize) -> i8 {
        self.weights[self.place(row, col)]
    }

    /// The scale of an output.
    pub fn scale(&self, row: usize) -> u16 {
        self.scale[row] as u16
    }

    /// `pre` and `shift` of `linear`.
    pub fn shifts(&self) -> (u32, u32) {
        (self.pre, self.shift)
    }

    /// The place of a weight.
    #[inline]
    fn place(&self, row: usize, col: usize) -> usize {
        let first = row / PANEL * PANEL;
        let outputs = PANEL.min(padded(self.rows) - first);
        first * padded(self.cols) + (col / QUAD * outputs + row - first) * QUAD + col % QUAD
    }

    /// The panels from first to last: the first output of each, its number of outputs, and its
    /// weights.
    pub(crate) fn panels(&self) -> impl Iterator<Item = (usize, usize, &[i8])> {
        let (all, stride) = (padded(self.rows), padded(self.cols));
        (0..all).step_by(PANEL).map(move |first| {
            let outputs = PANEL.min(all - first);
            (first, outputs, &self.weights[first * stride..(first + outputs) * stride])
        })
    }
}

/// Quantized vectors, one per row: element `i` stands for `q[i] * m * 2^e`, up to a constant factor
/// that the scales of the next product include.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    len: usize,
    pub(crate) q: Buffer<i8>,
    /// The same elements plus 128, for a backend whose products need unsigned inputs.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX-512 alone reads it"))]
    pub(crate) raised: Buffer<i8>,
    pub(crate) m: Vec<i32>,
    pub(crate) e: Vec<i32>,
    /// Whether some element of a row may be below zero.
    pub(crate) signed: Vec<bool>,
}

impl Activations {
    /// Room for `rows` vectors of at most `len` elements.
    pub fn new(rows: usize, len: usize) -> Self {
        let room = rows * padded(len);
        Self {
            len,
            q: Buffer::zeroed(room),
            raised: Buffer::zeroed(room),
            m: vec![0; rows],
            e: vec![0; rows],
            signed: vec![true; rows],
        }
    }

    /// Sets the length of the vectors. Their elements mean nothing until the next quantization.
    pub fn set_len(&mut self, len: usize) {
        assert!(self.m.len() * padded(len) <= self.q.len());
        self.len = len;
    }

    /// Elements of a vector.
    #[expect(clippy::len_without_is_empty, reason = "a vector's length, not a collection's")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// One vector with its padding, and its `m` and `e`.
    pub fn row(&self, row: usize) -> (&[i8], i32, i32) {
        let stride = padded(self.len);
        (&self.q[row * stride..(row + 1) * stride], self.m[row], self.e[row])
    }
}

/// The rows of an embedding table with their scales.
#[derive(Clone, Debug)]
pub struct Table {
    stride: usize,
    weights: Buffer<i8>,
    scale: Vec<u16>,
}

impl Table {
    /// Lays out row-major `weights`, with one scale for each row.
    pub fn new(weights: &[i8], scale: &[u16]) -> Self {
        let cols = weights.len() / scale.len();
        assert_eq!(weights.len(), scale.len() * cols);
        let stride = padded(cols);
        let mut table = Self { stride, weights: Buffer::zeroed(scale.len() * stride), scale: scale.to_vec() };
        for (row, from) in weights.chunks_exact(cols).enumerate() {
            table.weights[row * stride..row * stride + cols].copy_from_slice(from);
        }
        table
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        self.scale.len()
    }

    /// One row with its padding, and its scale.
    #[inline]
    pub fn row(&self, row: usize) -> (&[i8], u16) {
        (&self.weights[row * self.stride..(row + 1) * self.stride], self.scale[row])
    }
}
