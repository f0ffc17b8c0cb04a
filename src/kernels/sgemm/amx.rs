//! Products of bfloat16 with sums in single precision, by the tile unit (AMX) of newer Intel CPUs.
//!
//! Both operands are rounded to bfloat16 while they are packed into tiles of 16 lines and 32
//! elements; a line is a row of the left or a column of the right operand. Results differ from
//! single precision in the third digit, as is usual in training.

use core::arch::asm;
use core::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::OnceLock;

use super::mat::Mat;

/// Lines of a tile, and pairs of elements in each.
const SIDE: usize = 16;
/// Elements of a line in a tile.
const DEPTH: usize = 2 * SIDE;
/// Lines of the squares of results that one pass computes: two tiles.
const SQUARE: usize = 2 * SIDE;

/// Proof that this CPU has tiles of bfloat16, and that the kernel lets this process use them.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

impl Amx {
    /// The proof, if it can be given. The kernel is asked once per process.
    pub fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
            // Leaf 7 is there on each CPU that has AVX-512.
            vectors && tiles(__cpuid_count(7, 0).edx) && permitted()
        });
        found.then_some(Self(()))
    }
}

/// Whether the feature bits name tiles and products of bfloat16 on them.
fn tiles(edx: u32) -> bool {
    edx >> 24 & 1 == 1 && edx >> 22 & 1 == 1
}

/// Asks the kernel for permission to use tiles (`arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    let mut result: i64 = 158;
    // SAFETY: the system call takes two numbers and touches no memory of this process.
    unsafe {
        asm!("syscall", inout("rax") result, in("rdi") 0x1023, in("rsi") 18,
             out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// One line of a tile: 16 pairs of bfloat16.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; SIDE]);

#[derive(Default)]
struct Packed {
    lhs: Vec<Line>,
    rhs: Vec<Line>,
}

thread_local! {
    static PACKED: RefCell<Packed> = RefCell::default();
}

/// The configuration of the tile unit: all eight tiles have 16 rows of 64 bytes.
#[repr(align(64))]
struct TileConfig([u8; 64]);

static CONFIG: TileConfig = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = SIDE as u8;
        tile += 1;
    }
    TileConfig(bytes)
};

/// `dst = keep * dst + scale * (lhs x rhs)`, as `sgemm::matmul` defines it and after its checks.
pub(crate) fn matmul(
    amx: Amx,
    dst: &mut [f32],
    stride: usize,
    keep: f32,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
    scale: f32,
) {
    PACKED.with_borrow_mut(|packed| {
        // SAFETY: `amx` proves all features that these functions need.
        unsafe {
            let Amx(()) = amx;
            pack(&mut packed.lhs, lhs, false);
            pack(&mut packed.rhs, rhs.t(), true);
            multiply(packed, dst, stride, [lhs.rows, rhs.cols, lhs.cols], keep, scale);
        }
    });
}

/// Appends the rows of `lines` as tiles, a group of 16 lines after the other, and within a group
/// tile by tile. A tile holds its lines one after the other, or, if `paired`, the first pairs of
/// all lines, then the second pairs and so on, as the right operand needs them.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack(out: &mut Vec<Line>, lines: Mat<'_>, paired: bool) {
    let groups = lines.rows.div_ceil(SQUARE) * 2;
    let depths = lines.cols.div_ceil(DEPTH);
    out.clear();
    out.reserve(groups * depths * SIDE);
    for group in 0..groups {
        let first = group * SIDE;
        let count = lines.rows.saturating_sub(first).min(SIDE);
        for depth in 0..depths {
            let from = depth * DEPTH;
            let elements = (lines.cols - from).min(DEPTH);
            let (tile, is_paired) = if lines.col_stride == 1 {
                (by_line(lines, first, count, from, elements), false)
            } else {
                (by_pair(lines, first, count, from, elements), true)
            };
            let tile = if paired == is_paired { tile } else { transposed(tile) };
            for row in tile {
                // SAFETY: both are 64 bytes of plain numbers.
                out.push(unsafe { core::mem::transmute::<__m512i, Line>(row) });
            }
        }
    }
}

/// A mask of the first `count` of 16 elements.
fn first(count: usize) -> u16 {
    if count >= SIDE { u16::MAX } else { (1 << count) - 1 }
}

/// The elements of 16 lines whose own elements stand side by side in memory.
#[target_feature(enable = "avx512f,avx512bf16")]
fn by_line(lines: Mat<'_>, line: usize, count: usize, from: usize, elements: usize) -> [__m512i; SIDE] {
    let mut tile = [_mm512_setzero_si512(); SIDE];
    for (i, row) in tile.iter_mut().enumerate().take(count) {
        let at = (line + i) * lines.row_stride + from;
        let source = &lines.data[at..at + elements];
        // SAFETY: masked loads touch the first `elements` of the slice only.
        let (low, high) = unsafe {
            let p = source.as_ptr();
            let low = _mm512_maskz_loadu_ps(first(elements), p);
            let rest = elements.saturating_sub(SIDE);
            (low, _mm512_maskz_loadu_ps(first(rest), p.wrapping_add(SIDE)))
        };
        *row = bits(_mm512_cvtne2ps_pbh(high, low));
    }
    tile
}

/// The elements of 16 lines that stand side by side in memory, each pair of elements in a row of
/// its own.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn by_pair(lines: Mat<'_>, line: usize, count: usize, from: usize, elements: usize) -> [__m512i; SIDE] {
    let mut tile = [_mm512_setzero_si512(); SIDE];
    let load = |element: usize| {
        if element >= elements || count == 0 {
            return _mm512_setzero_ps();
        }
        let at = (from + element) * lines.col_stride + line;
        let source = &lines.data[at..at + count];
        // SAFETY: the masked load touches the `count` elements of the slice only.
        unsafe { _mm512_maskz_loadu_ps(first(count), source.as_ptr()) }
    };
    let mut order = [0u16; DEPTH];
    for (i, place) in order.iter_mut().enumerate() {
        *place = (i / 2 + (i % 2) * SIDE) as u16;
    }
    // SAFETY: 64 bytes of plain numbers.
    let order = unsafe { core::mem::transmute::<[u16; DEPTH], __m512i>(order) };
    for (pair, row) in tile.iter_mut().enumerate().take(elements.div_ceil(2)) {
        let both = bits(_mm512_cvtne2ps_pbh(load(2 * pair + 1), load(2 * pair)));
        *row = _mm512_permutexvar_epi16(order, both);
    }
    tile
}

fn bits(v: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { core::mem::transmute(v) }
}

/// The transpose of 16 rows of 16 pairs.
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // Quarter `l` of `b[4 * i + j]` is column `4 * l + j` of rows `4 * i` to `4 * i + 3`.
    let mut b = a;
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + j + 2]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + j + 2]);
        }
    }
    let mut out = b;
    for j in 0..4 {
        let even = |x, y| _mm512_shuffle_i32x4::<0x88>(x, y);
        let odd = |x, y| _mm512_shuffle_i32x4::<0xdd>(x, y);
        let (low, high) = (even(b[j], b[4 + j]), even(b[8 + j], b[12 + j]));
        out[j] = even(low, high);
        out[8 + j] = odd(low, high);
        let (low, high) = (odd(b[j], b[4 + j]), odd(b[8 + j], b[12 + j]));
        out[4 + j] = even(low, high);
        out[12 + j] = odd(low, high);
    }
    out
}

/// The product of the packed operands, square by square.
#[target_feature(enable = "avx512f")]
fn multiply(packed: &Packed, dst: &mut [f32], stride: usize, [m, n, k]: [usize; 3], keep: f32, scale: f32) {
    let depths = k.div_ceil(DEPTH);
    let group = depths * SIDE;
    let mut square = [Line([0; SIDE]); 2 * SQUARE];
    // SAFETY: the configuration is 64 bytes in the form that the unit wants.
    unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIG.0.as_ptr(), options(nostack, readonly)) };
    for (rows, lhs) in packed.lhs.chunks_exact(2 * group).enumerate() {
        for (cols, rhs) in packed.rhs.chunks_exact(2 * group).enumerate() {
            // SAFETY: each operand has two groups of `depths` tiles of 1,024 bytes, and the square
            // room for four tiles.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a} + {line}]",
                    "tileloadd tmm5, [{a2} + {line}]",
                    "tileloadd tmm6, [{b} + {line}]",
                    "tileloadd tmm7, [{b2} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a}, 1024", "add {a2}, 1024", "add {b}, 1024", "add {b2}, 1024",
                    "dec {n}",
                    "jnz 2b",
                    "tilestored [{c} + {row}], tmm0",
                    "tilestored [{c} + {row} + 64], tmm1",
                    "tilestored [{c2} + {row}], tmm2",
                    "tilestored [{c2} + {row} + 64], tmm3",
                    a = inout(reg) lhs.as_ptr() => _, a2 = inout(reg) lhs[group..].as_ptr() => _,
                    b = inout(reg) rhs.as_ptr() => _, b2 = inout(reg) rhs[group..].as_ptr() => _,
                    n = inout(reg) depths => _, line = in(reg) 64usize,
                    c = in(reg) square.as_mut_ptr(), c2 = in(reg) square[SQUARE..].as_mut_ptr(),
                    row = in(reg) 128usize,
                    options(nostack),
                );
            }
            let at = (rows * SQUARE, cols * SQUARE);
            add(&square, dst, stride, at, (m - at.0).min(SQUARE), (n - at.1).min(SQUARE), keep, scale);
        }
    }
    // SAFETY: gives the tiles' state back, which no one else in this thread uses.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Adds a square of results to the part of it that lies in `dst`.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
fn add(
    square: &[Line],
    dst: &mut [f32],
    stride: usize,
    at: (usize, usize),
    rows: usize,
    cols: usize,
    keep: f32,
    scale: f32,
) {
    let (keep_all, scale) = (_mm512_set1_ps(keep), _mm512_set1_ps(scale));
    for row in 0..rows {
        let start = (at.0 + row) * stride + at.1;
        let to = &mut dst[start..start + cols];
        for (to, line) in to.chunks_mut(SIDE).zip(&square[2 * row..]) {
            let mask = first(to.len());
            // SAFETY: masked loads and stores touch what is in the slices only.
            unsafe {
                let mut value = _mm512_mul_ps(_mm512_loadu_ps(line.0.as_ptr().cast()), scale);
                if keep != 0.0 {
                    value = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, to.as_ptr()), keep_all, value);
                }
                _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, value);
            }
        }
    }
}
