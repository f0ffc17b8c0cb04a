//! Arrays of zeros that start on a cache line, so that no vector straddles two lines.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Rows are padded with zeros to a multiple of this many elements, so that kernels need no special
/// case for the end of a row.
pub const PAD: usize = 16;

/// The padded length of a row of `len` elements.
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(PAD)
}

mod sealed {
    pub trait Plain: Copy {}
    impl Plain for i8 {}
    impl Plain for i16 {}
    impl Plain for i32 {}
    impl Plain for u32 {}
}
use sealed::Plain;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A fixed-length array of integers, aligned to 64 bytes.
#[derive(Clone)]
pub struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(64);
        Self { lines: vec![Line([0; 64]); lines], len, elements: PhantomData }
    }
}

impl<T: Plain> Default for Buffer<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len` elements of `T`, initialized and aligned to 64
        // bytes; `T` is an integer of at most 4 bytes, for which every bit pattern is a value.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} elements)", self.len)
    }
}
