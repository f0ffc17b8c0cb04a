//! Single-precision matrix products for training: a safe face on the `gemm` crate.
//!
//! Decoding never comes here. Matrices are slices with a row and a column stride, checked against the
//! slice before the product runs; products run on the calling thread.

/// A matrix in a slice: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix whose rows are `stride` elements apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(spans(data.len(), rows, cols, stride), "matrix reaches outside its slice");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `dst = keep * dst + scale * (lhs x rhs)`; `dst` is row-major with rows `stride` elements apart.
/// With `keep == 0` the old values, NaN or not, play no part.
///
/// # Panics
/// If the sizes do not fit each other or `dst`.
pub fn matmul(dst: &mut [f32], stride: usize, keep: f32, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner sizes differ");
    assert!(spans(dst.len(), m, n, stride), "result reaches outside its slice");
    // SAFETY: `Mat::new` and the assertion above prove that every element named by sizes and strides
    // lies in its slice; `dst` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride as isize,
            keep != 0.0,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn spans(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    rows == 0 || cols == 0 || ((rows == 1 || cols <= stride) && (rows - 1) * stride + cols <= len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_equals_its_definition_with_strides_and_transposes() {
        let a: Vec<f32> = (0..60).map(|v| (v % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..60).map(|v| (v % 5) as f32 - 2.0).collect();
        let (m, n, k) = (3, 4, 5);
        let lhs = Mat::new(&a, m, k, 9);
        let rhs = Mat::new(&b, n, k, 7).t();
        let mut dst = vec![1.0; m * 6];
        matmul(&mut dst, 6, 2.0, lhs, rhs, 0.5);
        for i in 0..m {
            for j in 0..n {
                let sum: f32 = (0..k).map(|x| a[i * 9 + x] * b[j * 7 + x]).sum();
                assert_eq!(dst[i * 6 + j], 2.0 + 0.5 * sum);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn a_matrix_that_reaches_outside_its_slice_is_refused() {
        let a = [0.0; 10];
        Mat::new(&a, 3, 4, 4);
    }
}
