//! Matrix products, single-threaded.
//!
//! A panel of B, NR columns wide and at most [`KC`] deep, stays in the first-level cache while MR
//! rows of A after the other go by. Their MR × NR block of C stays in registers: each entry of A
//! is broadcast once for two multiply-adds. A is read where it lies, by rows or by columns, or in
//! strips of MR rows: columns that lie a power of two apart compete for the same few places in the
//! cache, so that reading them once and packing them costs less than reading them for every panel.

use std::ops::Range;

use super::bf16::{PairProduct, Precision, fill_all_pairs, rounded};
use super::blocks::{BlockOp, Blocked, KC, put, put_part, sweep_strips};
use super::dispatch::{Isa, Level, dispatch, madd};
use super::matrix::{Mat, MatMut, Panels};
use super::real::Real;

/// C = AB, or C += AB with `accumulate`, on the calling thread.
pub(crate) fn gemm<F: Real>(
    level: Level,
    c: MatMut<'_, F>,
    accumulate: bool,
    a: Mat<'_, F>,
    b: Mat<'_, F>,
) {
    assert!(c.rows == a.rows && a.cols == b.rows && b.cols == c.cols);
    if let (Some(strips), Some(panels)) = (a.strips, b.panels)
        && strips.in_pairs
        && panels.in_pairs
    {
        return PairProduct { c, accumulate, factors: [strips, panels] }.run(level);
    }
    dispatch(level, Blocked(Product { c, accumulate, a, b }));
}

/// Packs a matrix that is a right factor of products at this level, rounded to `precision`.
pub(crate) fn pack<F: Real>(
    level: Level,
    precision: Precision,
    b: Mat<'_, F>,
    panels: &mut Panels<F>,
) {
    pack_factor(level, precision, b, panels, false);
}

/// Packs a matrix that is a left factor of products at this level, rounded to `precision`: its
/// transpose in panels as wide as a block has rows.
pub(crate) fn pack_left<F: Real>(
    level: Level,
    precision: Precision,
    a: Mat<'_, F>,
    strips: &mut Panels<F>,
) {
    pack_factor(level, precision, a.t(), strips, true);
}

fn pack_factor<F: Real>(
    level: Level,
    precision: Precision,
    b: Mat<'_, F>,
    panels: &mut Panels<F>,
    left: bool,
) {
    dispatch(level, Blocked(Pack { b, panels, left, precision, level }));
}

struct Product<'a, F> {
    c: MatMut<'a, F>,
    accumulate: bool,
    a: Mat<'a, F>,
    b: Mat<'a, F>,
}

impl<F: Real> BlockOp for Product<'_, F> {
    type Number = F;

    #[inline(always)]
    fn run<I: Isa, const MR: usize, const NR: usize>(self) {
        let Product { mut c, accumulate, a, b } = self;
        let packed = b.panels.map(|panels| {
            assert!(panels.nr == NR && !panels.in_pairs, "packed for another level");
            panels.data.as_chunks::<NR>().0
        });
        let strips = a.strips.map(|strips| {
            assert!(strips.nr == MR && !strips.in_pairs, "packed for another level");
            strips.data.as_chunks::<MR>().0
        });
        let mut copy = packed.is_none().then(|| [[F::zero(); NR]; KC]);
        for first in (0..a.cols).step_by(KC) {
            let depth = KC.min(a.cols - first);
            let accumulate = accumulate || first > 0;
            for column in (0..b.cols).step_by(NR) {
                let panel = match (&mut copy, packed) {
                    (Some(copy), _) => {
                        fill(&mut copy[..depth], &b, first, column);
                        &copy[..depth]
                    }
                    (None, Some(packed)) => &packed[column / NR * b.rows + first..][..depth],
                    (None, None) => &[],
                };
                let columns = column..b.cols.min(column + NR);
                if let Some(strips) = strips {
                    let strips = strips.chunks_exact(a.cols).map(|s| &s[first..first + depth]);
                    sweep_strips(
                        &mut c,
                        accumulate,
                        strips,
                        columns,
                        #[inline(always)]
                        |strip| multiply::<F, I, MR, NR>(strip.iter().copied().zip(panel)),
                    );
                } else if a.rows >= MR {
                    sweep::<F, I, MR, NR>(&mut c, accumulate, &a, first, panel, columns);
                } else {
                    sweep::<F, I, 1, NR>(&mut c, accumulate, &a, first, panel, columns);
                }
            }
        }
    }
}

/// All rows of A, MR at a time, with one panel; A has at least MR rows.
#[inline(always)]
fn sweep<F: Real, I: Isa, const MR: usize, const NR: usize>(
    c: &mut MatMut<'_, F>,
    accumulate: bool,
    a: &Mat<'_, F>,
    first: usize,
    panel: &[[F; NR]],
    columns: Range<usize>,
) {
    for row in (0..a.rows).step_by(MR) {
        // The last block reaches back to rows that are done, which it does not write again.
        let start = row.min(a.rows - MR);
        let block = microkernel::<F, I, MR, NR>(a, start, first, panel);
        if columns.len() == NR && start == row {
            put(c, row, columns.start, &block, accumulate);
        } else {
            let rows = row..start + MR;
            put_part(c, rows.clone(), columns.clone(), &block[MR - rows.len()..], accumulate);
        }
    }
}

/// The product of MR rows of A from `row` on, in the columns from `first` on, and a panel.
#[inline(always)]
fn microkernel<F: Real, I: Isa, const MR: usize, const NR: usize>(
    a: &Mat<'_, F>,
    row: usize,
    first: usize,
    panel: &[[F; NR]],
) -> [[F; NR]; MR] {
    if a.col_stride == 1 {
        // Slices as long as the panel: their entries are read without a check.
        let mut rows = [&a.data[..0]; MR];
        for (r, slice) in rows.iter_mut().enumerate() {
            *slice = &a.data[(row + r) * a.row_stride + first..][..panel.len()];
        }
        multiply::<F, I, MR, NR>(panel.iter().enumerate().map(
            #[inline(always)]
            |(k, b)| {
                // Not `rows.map`, which is a call where the library's generics are not inlined.
                let mut column = [F::zero(); MR];
                for (entry, row) in column.iter_mut().zip(&rows) {
                    *entry = row[k];
                }
                (column, b)
            },
        ))
    } else {
        // The entries of a column lie side by side.
        let columns = a.data[first * a.col_stride + row..].chunks(a.col_stride);
        let entries =
            |column: &[F]| -> [F; MR] { column[..MR].try_into().expect("a slice of MR entries") };
        multiply::<F, I, MR, NR>(columns.map(entries).zip(panel))
    }
}

/// The sum of the outer products of columns of A and rows of B.
#[inline(always)]
fn multiply<'a, F: Real, I: Isa, const MR: usize, const NR: usize>(
    pairs: impl Iterator<Item = ([F; MR], &'a [F; NR])>,
) -> [[F; NR]; MR] {
    let mut sums = [[F::zero(); NR]; MR];
    for (a, &b) in pairs {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = madd::<_, I>(a, b, *sum);
            }
        }
    }
    sums
}

struct Pack<'a, F> {
    b: Mat<'a, F>,
    panels: &'a mut Panels<F>,
    /// Whether the panels are as wide as a block is high, not as it is wide.
    left: bool,
    precision: Precision,
    level: Level,
}

impl<F: Real> BlockOp for Pack<'_, F> {
    type Number = F;

    #[inline(always)]
    fn run<I: Isa, const MR: usize, const NR: usize>(self) {
        if self.left {
            self.fill::<MR>();
        } else {
            self.fill::<NR>();
        }
    }
}

impl<F: Real> Pack<'_, F> {
    #[inline(always)]
    fn fill<const NR: usize>(self) {
        let Pack { b, panels, precision, level, .. } = self;
        match precision {
            Precision::Full => fill_all::<F, NR>(panels, b),
            Precision::Bf16 if level.has_bf16() => fill_all_pairs::<F, NR>(panels, b),
            Precision::Bf16 => {
                fill_all::<F, NR>(panels, b);
                panels.data.iter_mut().for_each(|value| *value = rounded(*value));
            }
        }
    }
}

#[inline(always)]
fn fill_all<F: Real, const NR: usize>(panels: &mut Panels<F>, b: Mat<'_, F>) {
    panels.begin(&b, NR, false);
    panels.data.resize(b.cols.div_ceil(NR) * b.rows * NR, F::zero());
    let (rows, _) = panels.data.as_chunks_mut::<NR>();
    for (index, panel) in rows.chunks_exact_mut(b.rows).enumerate() {
        // The last panel may have columns beyond the last of B: zeros.
        if b.cols < (index + 1) * NR {
            panel.fill([F::zero(); NR]);
        }
        fill(panel, &b, 0, index * NR);
    }
}

/// Copies the rows of B from `first` on, NR of its columns from `column` on, into a panel. What
/// lies beyond the last column is left as it was.
#[inline(always)]
fn fill<F: Real, const NR: usize>(
    panel: &mut [[F; NR]],
    b: &Mat<'_, F>,
    first: usize,
    column: usize,
) {
    let width = NR.min(b.cols - column);
    if b.col_stride != 1 {
        for j in 0..width {
            // Columns lie `col_stride` apart, the entries of one side by side.
            let b = &b.data[(column + j) * b.col_stride + first..];
            for (out, &b) in panel.iter_mut().zip(b) {
                out[j] = b;
            }
        }
    } else {
        for (k, out) in (first..).zip(panel) {
            let row = &b.data[k * b.row_stride + column..];
            // A copy of a known length is two loads and two stores.
            if width == NR {
                out.copy_from_slice(&row[..NR]);
            } else {
                out[..width].copy_from_slice(&row[..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of either sign that a shift register makes.
    fn numbers<F: Real>(count: usize) -> Vec<F> {
        let mut state = 1_u32;
        let next = || {
            state = (state >> 1) ^ (0xd000_0001 & (state & 1).wrapping_neg());
            F::narrow(f64::from(state) / 2.0_f64.powi(31) - 1.0)
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn matrix<F>(data: &[F], rows: usize, cols: usize, by_columns: bool) -> Mat<'_, F> {
        if by_columns { Mat::new(data, cols, rows).t() } else { Mat::new(data, rows, cols) }
    }

    fn entry<F: Real>(m: &Mat<'_, F>, i: usize, j: usize) -> F {
        m.data[i * m.row_stride + j * m.col_stride]
    }

    /// Every product of the shape: each factor by rows or by columns, packed or not, C written or
    /// added to. Factors that are rounded are packed in any case.
    fn check<F: Real>(
        level: Level,
        precision: Precision,
        (rows, cols, depth): (usize, usize, usize),
    ) {
        let (a_data, b_data) = (numbers::<F>(rows * depth), numbers::<F>(depth * cols));
        let stride = cols + 3;
        let old = numbers::<F>(rows * stride);
        let rounds = precision == Precision::Bf16;
        let value = |v: F| if rounds { rounded(v).widen() } else { v.widen() };
        // Miri is slow: each of the five choices both ways, but not all together.
        for case in (0..32).step_by(if cfg!(miri) { 5 } else { 1 }) {
            let [a_by_columns, b_by_columns, accumulate, packed, in_strips] =
                [1, 2, 4, 8, 16].map(|bit| case & bit != 0);
            let a = matrix(&a_data, rows, depth, a_by_columns);
            let b = matrix(&b_data, depth, cols, b_by_columns);
            let mut panels = Panels::default();
            pack(level, precision, b, &mut panels);
            let b = if packed || rounds { b.in_panels(&panels) } else { b };
            let mut strips = Panels::default();
            pack_left(level, precision, a, &mut strips);
            let a = if in_strips || rounds { a.in_strips(&strips) } else { a };
            let mut c = old.clone();
            gemm(level, MatMut::new(&mut c, rows, cols, stride), accumulate, a, b);
            for i in 0..rows {
                for j in 0..cols {
                    let terms = (0..depth).map(|k| value(entry(&a, i, k)) * value(entry(&b, k, j)));
                    let start = if accumulate { old[i * stride + j].widen() } else { 0.0 };
                    let (sum, size) = terms.fold((start, start.abs()), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                    // Each of at most depth + 2 roundings errs by ε/2 of at most the size so far.
                    let bound = (depth + 2) as f64 * F::epsilon().widen() * size;
                    let error = (c[i * stride + j].widen() - sum).abs();
                    let what = format_args!("{level:?}, {rows}×{cols}×{depth}, case {case}");
                    assert!(error <= bound, "{what}: {error:e}");
                }
                let beside = i * stride + cols..(i + 1) * stride;
                assert_eq!(c[beside.clone()], old[beside], "{level:?}, case {case}: beside C");
            }
        }
    }

    /// Whole blocks and panels of every level, every kind of rest, and less than a block.
    const SHAPES: [(usize, usize, usize); 10] = [
        (1, 1, 1),
        (3, 2, 5),
        (8, 32, 4),
        (9, 33, 1),
        (15, 31, 7),
        (12, 16, 3),
        (1, 40, 300),
        (5, 9, 257),
        (24, 70, 257),
        (11, 16, 600),
    ];

    #[test]
    fn product_is_exact_to_rounding_at_every_level_and_in_every_layout() {
        for level in Level::available() {
            for &shape in &SHAPES[..if cfg!(miri) { 4 } else { SHAPES.len() }] {
                check::<f32>(level, Precision::Full, shape);
                check::<f64>(level, Precision::Full, shape);
                check::<f32>(level, Precision::Bf16, shape);
            }
        }
    }

    #[test]
    fn packing_again_forgets_what_was_packed_before() {
        for level in Level::available() {
            let data = numbers::<f32>(7 * 5);
            let (mut panels, mut fresh) = (Panels::default(), Panels::default());
            pack(level, Precision::Full, Mat::new(&numbers::<f32>(40 * 40), 40, 40), &mut panels);
            for b in [Mat::new(&data, 7, 5), Mat::new(&data, 5, 7).t()] {
                pack(level, Precision::Full, b, &mut panels);
                pack(level, Precision::Full, b, &mut fresh);
                assert_eq!(panels.data, fresh.data);
            }
        }
    }

    #[test]
    #[should_panic(expected = "packed for another level")]
    fn panels_of_another_level_are_refused() {
        let data = [1.0_f32; 6];
        let mut panels = Panels::default();
        pack(Level::detect(), Precision::Full, Mat::new(&data, 2, 3), &mut panels);
        panels.nr += 1;
        let b = Mat::new(&data, 2, 3).in_panels(&panels);
        gemm(Level::detect(), MatMut::new(&mut [0.0; 9], 3, 3, 3), false, Mat::new(&data, 3, 2), b);
    }
}
