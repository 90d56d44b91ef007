//! Factors of products, in the order in which a product reads them.
//!
//! A right factor lies in panels of two vectors of columns, a strip of a left one has at most
//! [`Isa::ROWS`] rows: for every step along the depth of the product, the entries of one panel or
//! strip lie side by side.

use std::ops::Range;

use super::bf16::{Precision, pair_rows, rounded};
use super::dispatch::{Level, Op, dispatch};
use super::matrix::Mat;
use super::real::Real;
use super::simd::{Isa, MAX_SIDE, Vector};

/// Rows of a source that are copied to one panel after the other while they stay in the first-level
/// cache.
const CHUNK: usize = 16;

/// A right factor of products at one level. The buffers stay when another matrix is packed.
#[derive(Debug)]
pub(crate) struct Packed<F> {
    pub(super) level: Option<Level>,
    pub(super) precision: Precision,
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// The entries, and before they are paired those of pairs.
    pub(super) data: Vec<F>,
    /// Where the level multiplies pairs of bf16: two steps of the depth in the bits of an `f32`.
    pub(super) pairs: Vec<f32>,
}

impl<F> Default for Packed<F> {
    fn default() -> Self {
        let (data, pairs) = (Vec::new(), Vec::new());
        Packed { level: None, precision: Precision::Full, depth: 0, columns: 0, data, pairs }
    }
}

impl<F: Real> Packed<F> {
    /// Packs the right factor `b` of products at this level, rounded to `precision`.
    pub fn pack(&mut self, level: Level, precision: Precision, b: Mat<'_, F>) -> &Self {
        (self.level, self.precision) = (Some(level), precision);
        (self.depth, self.columns) = (b.rows, b.cols);
        dispatch(level, Pack { b, level, precision, packed: self });
        self
    }
}

struct Pack<'a, F> {
    b: Mat<'a, F>,
    level: Level,
    precision: Precision,
    packed: &'a mut Packed<F>,
}

impl<F: Real> Op for Pack<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let Pack { b, level, precision, packed } = self;
        let width = 2 * F::Vector::<I>::LANES;
        let panels = b.cols.div_ceil(width);
        // Beside the last entry, for a block that is transposed.
        packed.data.resize(panels * width * b.rows + MAX_SIDE, F::zero());
        // Rows by the chunk, so that a line of the source is read once for all panels.
        let chunk = if b.row_stride == 1 { b.rows } else { CHUNK };
        for start in (0..b.rows).step_by(chunk) {
            for panel in 0..panels {
                let columns = panel * width..b.cols.min((panel + 1) * width);
                let rows = start..b.rows.min(start + chunk);
                let out = &mut packed.data[panel * width * b.rows + start * width..];
                Block { source: &b, rows, columns, width }.write::<I>(out);
            }
        }
        if precision == Precision::Full {
            return;
        }
        if !level.has_bf16() {
            return packed.data.iter_mut().for_each(|value| *value = rounded(*value));
        }
        let half = b.rows.div_ceil(2);
        packed.pairs.resize(panels * width * half, 0.0);
        let Some(data) = F::as_f32(&packed.data) else { return };
        let panels = data.chunks_exact(width * b.rows);
        for (panel, pairs) in panels.zip(packed.pairs.chunks_exact_mut(width * half)) {
            pair_rows(level, panel, width, pairs);
        }
    }
}

/// Some rows and columns of a matrix, to be written row after row, `width` entries apart.
pub(super) struct Block<'a, F> {
    pub source: &'a Mat<'a, F>,
    pub rows: Range<usize>,
    /// At most `width`.
    pub columns: Range<usize>,
    pub width: usize,
}

impl<F: Real> Block<'_, F> {
    /// Writes the block; entries beyond the last column are numbers, but any. `out` has room for
    /// MAX_SIDE entries more.
    #[inline(always)]
    pub fn write<I: Isa>(&self, out: &mut [F]) {
        if self.source.row_stride == 1 {
            return self.transpose::<I>(out);
        }
        // A copy of a known length is a load and a store.
        macro_rules! of_width {
            ($($width:literal)*) => {
                match self.columns.len() {
                    $($width if self.width == $width => self.copy::<$width>(out),)*
                    _ => self.copy_part(out),
                }
            };
        }
        of_width!(1 2 3 4 5 6 7 8 16 32)
    }

    /// The columns of row `k`, which lie side by side.
    #[inline(always)]
    fn row(&self, k: usize) -> &[F] {
        &self.source.data[k * self.source.row_stride..][self.columns.clone()]
    }

    #[inline(always)]
    fn copy<const WIDTH: usize>(&self, out: &mut [F]) {
        for (k, out) in self.rows.clone().zip(out.as_chunks_mut::<WIDTH>().0) {
            out.copy_from_slice(&self.row(k)[..WIDTH]);
        }
    }

    #[inline(always)]
    fn copy_part(&self, out: &mut [F]) {
        for (k, out) in self.rows.clone().zip(out.chunks_exact_mut(self.width)) {
            let (out, padding) = out.split_at_mut(self.columns.len());
            out.copy_from_slice(self.row(k));
            padding.fill(F::zero());
        }
    }

    /// Where the entries of a column lie side by side. Blocks of SIDE columns are transposed in
    /// registers. One that is narrower repeats its last column and so writes beyond its entries, to
    /// where those of other columns or of the next row are written later: blocks are taken from the
    /// last to the first.
    #[inline(always)]
    fn transpose<I: Isa>(&self, out: &mut [F]) {
        let side = F::Vector::<I>::SIDE;
        let (depth, width) = (self.rows.len(), self.width);
        assert!(out.len() >= depth * width + MAX_SIDE && side <= MAX_SIDE);
        let column = |j: usize| {
            let start = (self.columns.start + j).min(self.columns.end - 1) * self.source.col_stride;
            self.source.data[start..][self.rows.clone()].as_ptr()
        };
        for block in (0..width.div_ceil(side)).rev() {
            let mut columns = [std::ptr::null(); MAX_SIDE];
            for (j, pointer) in columns.iter_mut().take(side).enumerate() {
                *pointer = column(block * side + j);
            }
            let whole = depth / side * side;
            for k in (0..whole).step_by(side) {
                // SAFETY: each column has `depth` ≥ k + SIDE entries. The last row of `out` that is
                // written is k + SIDE − 1 < depth; in it, at most SIDE − 1 entries beyond `width`,
                // for which there is room. The CPU has the level's instructions: `dispatch`.
                unsafe {
                    let to = out.as_mut_ptr().add(k * width + block * side);
                    F::Vector::<I>::transpose(&columns, k, to, width);
                }
            }
            if whole < depth {
                // SAFETY: as above, with the columns' last depth − whole < SIDE entries.
                let rows = unsafe { last_rows::<F, I>(&columns, whole, depth - whole) };
                for (k, row) in rows[..(depth - whole) * side].chunks_exact(side).enumerate() {
                    out[(whole + k) * width + block * side..][..side].copy_from_slice(row);
                }
            }
        }
    }
}

/// Fewer rows than a block has, transposed: `count` rows of SIDE entries, one after the other.
///
/// # Safety
/// Of each of the first SIDE columns, `count` entries from `at` on can be read; the CPU has the
/// instructions of the level.
#[inline(always)]
unsafe fn last_rows<F: Real, I: Isa>(
    columns: &[*const F; MAX_SIDE],
    at: usize,
    count: usize,
) -> [F; MAX_SIDE * MAX_SIDE] {
    let side = F::Vector::<I>::SIDE;
    let mut copies = [[F::zero(); MAX_SIDE]; MAX_SIDE];
    for (copy, &column) in copies.iter_mut().take(side).zip(columns) {
        // SAFETY: the caller's columns have `count` entries from `at` on.
        copy[..count].copy_from_slice(unsafe { std::slice::from_raw_parts(column.add(at), count) });
    }
    let copies = copies.each_ref().map(|copy| copy.as_ptr());
    let mut rows = [F::zero(); MAX_SIDE * MAX_SIDE];
    // SAFETY: each copy has MAX_SIDE ≥ SIDE entries, and `rows` SIDE times as many.
    unsafe { F::Vector::<I>::transpose(&copies, 0, rows.as_mut_ptr(), side) };
    rows
}
