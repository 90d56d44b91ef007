//! Matrix products, single-threaded.
//!
//! A strip of the left factor, at most [`KC`] deep, is packed into the first-level cache and stays
//! there while the panels of the right factor go by. The block of C that strip and panel give is
//! summed in registers: at every step along the depth, two vectors of the panel are multiplied by
//! one entry after the other of the strip.
//!
//! An entry of C is summed over KC steps of the depth, one multiply-add after the other, and these
//! sums are added up in turn. Its bits depend neither on strips and panels nor on the level, where
//! that has a fused multiply-add.

use std::ops::Range;

use super::bf16::{Precision, multiply_pairs, rounded};
use super::dispatch::{Op, dispatch};
use super::matrix::{Mat, MatMut};
use super::packed::{Block, Packed};
use super::real::{Element, Real};
use super::simd::{Isa, MAX_SIDE, Unaligned, Vector};

/// Steps of the depth that are summed in registers. In f32 at AVX2, a strip and a panel then take
/// 6 and 16 KB of the first-level cache.
const KC: usize = 256;
/// Bytes of the panels that go by together: what a second-level cache of 512 KB holds beside
/// everything else.
const GROUP_BYTES: usize = 256 << 10;
/// Steps of the depth without a check between them.
const UNROLLED: usize = 4;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// The largest [`Isa::ROWS`], and the entries of the largest block.
const MOST_ROWS: usize = 8;
const MOST_ENTRIES: usize = MOST_ROWS * 32;

/// C = AB, or C += AB with `accumulate`, on the calling thread, at the level and precision of B.
pub(crate) fn gemm<F: Real>(c: MatMut<'_, F>, accumulate: bool, a: Mat<'_, F>, b: &Packed<F>) {
    assert!(c.rows == a.rows && a.cols == b.depth && b.columns == c.cols);
    let level = b.level.expect("a packed factor");
    let product = Product { c, accumulate, a, b: &b.data };
    match b.precision {
        Precision::Full => dispatch(level, product),
        Precision::Bf16 if level.has_bf16() => {
            if let Some(product) = product.of_pairs(&b.pairs) {
                multiply_pairs(level, product);
            }
        }
        Precision::Bf16 => dispatch(level, Rounded(product)),
    }
}

/// A product of a matrix and panels.
pub(super) struct Product<'a, F> {
    c: MatMut<'a, F>,
    accumulate: bool,
    a: Mat<'a, F>,
    b: &'a [F],
}

impl<'a, F: Real> Product<'a, F> {
    /// The same product with panels of pairs, which are for `f32` only.
    fn of_pairs(self, b: &'a [f32]) -> Option<Product<'a, f32>> {
        let Product { c, accumulate, a, .. } = self;
        let Mat { data, rows, cols, row_stride, col_stride } = a;
        let a = Mat { data: F::as_f32(data)?, rows, cols, row_stride, col_stride };
        let MatMut { data, rows, cols, stride } = c;
        let c = MatMut { data: F::as_f32_mut(data)?, rows, cols, stride };
        Some(Product { c, accumulate, a, b })
    }
}

/// What a product makes of the numbers of its factors.
pub(super) trait Multiply<F: Element, I: Isa> {
    /// Numbers along the depth to an entry of a strip or panel.
    const NUMBERS: usize;

    /// Turns a strip of numbers into one of entries, which may lie in `other`.
    fn entries<'s>(strip: &'s mut [F], height: usize, other: &'s mut [F]) -> &'s [F];

    /// What one step does with an entry of the strip, in all lanes, and a vector of the panel.
    ///
    /// # Safety
    /// The CPU has the instructions that the implementation needs.
    unsafe fn multiply_add(a: F::Vector<I>, b: F::Vector<I>, sum: F::Vector<I>) -> F::Vector<I>;
}

/// Entries are the numbers, or the numbers rounded to bf16.
enum Numbers<const ROUNDED: bool> {}

impl<F: Real, I: Isa, const ROUNDED: bool> Multiply<F, I> for Numbers<ROUNDED> {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn entries<'s>(strip: &'s mut [F], _: usize, _: &'s mut [F]) -> &'s [F] {
        if ROUNDED {
            strip.iter_mut().for_each(|value| *value = rounded(*value));
        }
        strip
    }

    #[inline(always)]
    unsafe fn multiply_add(a: F::Vector<I>, b: F::Vector<I>, sum: F::Vector<I>) -> F::Vector<I> {
        // SAFETY: the caller answers for the CPU.
        unsafe { a.multiply_add(b, sum) }
    }
}

impl<F: Real> Op for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        self.run_with::<I, Numbers<false>>();
    }
}

/// A product whose strips are rounded to bf16, as its panels are.
struct Rounded<'a, F>(Product<'a, F>);

impl<F: Real> Op for Rounded<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        self.0.run_with::<I, Numbers<true>>();
    }
}

impl<F: Real> Product<'_, F> {
    /// The CPU must have the instructions of `I` and `M`: an [`Op`] calls this.
    #[inline(always)]
    pub fn run_with<I: Isa, M: Multiply<F, I>>(mut self) {
        let width = 2 * F::Vector::<I>::LANES;
        let group = (GROUP_BYTES / (size_of::<F>() * KC * width)).max(1);
        let panels = self.c.cols.div_ceil(width);
        let depth = self.a.cols.div_ceil(M::NUMBERS);
        assert!(self.b.len() >= panels * width * depth);
        let mut strip = [F::zero(); MOST_ROWS * 2 * KC + MAX_SIDE];
        let mut other = [F::zero(); MOST_ROWS * KC];
        for first in (0..depth).step_by(KC) {
            let steps = first..depth.min(first + KC);
            for start in (0..panels).step_by(group) {
                let mut row = 0;
                while row < self.c.rows {
                    let height = height(row, self.c.rows, I::ROWS);
                    let rows = row..row + height;
                    let a = self.strip::<I, M>(&steps, rows.clone(), &mut strip);
                    let a = M::entries(a, height, &mut other);
                    for panel in start..panels.min(start + group) {
                        let b = &self.b[panel * width * depth..][..width * depth];
                        let b = &b[steps.start * width..steps.end * width];
                        self.c.block::<I, M>(
                            &rows,
                            panel * width,
                            [a, b],
                            self.accumulate || first > 0,
                        );
                    }
                    row += height;
                }
            }
        }
    }

    /// Packs a strip: some rows of A, over these steps of the depth.
    #[inline(always)]
    fn strip<'s, I: Isa, M: Multiply<F, I>>(
        &self,
        steps: &Range<usize>,
        rows: Range<usize>,
        strip: &'s mut [F],
    ) -> &'s mut [F] {
        let numbers = steps.start * M::NUMBERS..self.a.cols.min(steps.end * M::NUMBERS);
        let (height, depth) = (rows.len(), numbers.len());
        let source = self.a.t();
        let block = Block { source: &source, rows: numbers, columns: rows, width: height };
        block.write::<I>(strip);
        &mut strip[..depth * height]
    }
}

/// The height of the strip that begins at row `first` of `rows`: where the rows are no multiple of
/// `most`, the last two strips share what is left, since a low one keeps the multipliers waiting.
#[inline(always)]
fn height(first: usize, rows: usize, most: usize) -> usize {
    let left = rows - first;
    if left <= most {
        left
    } else if left >= 2 * most || 3 * (left - most) >= 2 * most {
        most
    } else {
        left.div_ceil(2)
    }
}

impl<F: Real> MatMut<'_, F> {
    /// Writes or adds the block of these rows, from `column` on: the product of a strip and a
    /// panel.
    #[inline(always)]
    fn block<I: Isa, M: Multiply<F, I>>(
        &mut self,
        rows: &Range<usize>,
        column: usize,
        factors: [&[F]; 2],
        accumulate: bool,
    ) {
        let width = 2 * F::Vector::<I>::LANES;
        let depth = factors[1].len() / width;
        assert!(factors[0].len() >= depth * rows.len() && rows.end <= self.rows);
        let columns = width.min(self.cols - column);
        let (c, stride) = (&mut self.data[rows.start * self.stride + column..], self.stride);
        if columns == width {
            assert!(c.len() >= (rows.len() - 1) * stride + width);
            let c = (c.as_mut_ptr(), stride);
            // SAFETY: the factors are as long as depth, rows and width say, and the block lies
            // inside C. The CPU: see `run_with`.
            return unsafe { sum::<F, I, M>(rows.len(), factors, depth, c, accumulate) };
        }
        // Into a whole block, of which C takes what it has columns for.
        let mut sums = [F::zero(); MOST_ENTRIES];
        let whole = (sums.as_mut_ptr(), width);
        // SAFETY: as above, and `sums` holds the largest block.
        unsafe { sum::<F, I, M>(rows.len(), factors, depth, whole, false) };
        for (r, sums) in sums.chunks_exact(width).take(rows.len()).enumerate() {
            for (c, &sum) in c[r * stride..][..columns].iter_mut().zip(sums) {
                *c = if accumulate { *c + sum } else { sum };
            }
        }
    }
}

/// [`sum_rows`] for a height that is not known before.
///
/// # Safety
/// As for [`sum_rows`].
#[inline(always)]
unsafe fn sum<F: Real, I: Isa, M: Multiply<F, I>>(
    height: usize,
    factors: [&[F]; 2],
    depth: usize,
    c: (*mut F, usize),
    accumulate: bool,
) {
    macro_rules! of_height {
        ($($rows:literal)*) => {
            match height {
                // No code for higher blocks, whose sums would not fit the registers.
                // SAFETY: the caller's.
                $($rows if $rows <= I::ROWS => unsafe {
                    sum_rows::<F, I, M, $rows>(factors, depth, c, accumulate)
                },)*
                _ => unreachable!("a strip has at most {} rows", I::ROWS),
            }
        };
    }
    const { assert!(I::ROWS <= MOST_ROWS) };
    of_height!(1 2 3 4 5 6 7 8)
}

/// A block of C of ROWS rows and two vectors, the rows `stride` apart: its sums over the depth of
/// a strip and a panel.
///
/// # Safety
/// The factors hold ROWS and two vectors of entries for each step of the depth; the rows of C can
/// be read and written; the CPU has the instructions of `I` and `M`.
#[inline(always)]
unsafe fn sum_rows<F: Real, I: Isa, M: Multiply<F, I>, const ROWS: usize>(
    [a, b]: [&[F]; 2],
    depth: usize,
    (c, stride): (*mut F, usize),
    accumulate: bool,
) {
    let lanes = F::Vector::<I>::LANES;
    // SAFETY: the caller answers for slices, C and CPU.
    unsafe {
        // Long before they are needed.
        for r in 0..ROWS {
            for line in (0..2 * lanes).step_by(LINE_BYTES / size_of::<F>()) {
                I::prefetch(c.wrapping_add(r * stride + line));
            }
        }
        let mut sums = [[F::Vector::<I>::splat(F::zero()); 2]; ROWS];
        // As arrays, not by pointers: a build with debug assertions checks every pointer that is
        // read, and a branch between the multiply-adds keeps the sums out of the registers.
        let panel = b.as_ptr().cast::<[Unaligned<F::Vector<I>>; 2]>();
        let (b, b_rest) = std::slice::from_raw_parts(panel, depth).as_chunks::<UNROLLED>();
        let (a, a_rest) = a.as_chunks::<ROWS>().0[..depth].as_chunks::<UNROLLED>();
        for (a, b) in a.iter().zip(b) {
            for k in 0..UNROLLED {
                step::<F, I, M, ROWS>(&a[k], &b[k], &mut sums);
            }
        }
        for (a, b) in a_rest.iter().zip(b_rest) {
            step::<F, I, M, ROWS>(a, b, &mut sums);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                let c = c.wrapping_add(r * stride + half * lanes);
                let sum = if accumulate { F::Vector::<I>::load(c).add(sum) } else { sum };
                sum.store(c);
            }
        }
    }
}

/// One step along the depth.
///
/// # Safety
/// The CPU has the instructions of `I` and `M`.
#[inline(always)]
unsafe fn step<F: Real, I: Isa, M: Multiply<F, I>, const ROWS: usize>(
    a: &[F; ROWS],
    &[Unaligned(first), Unaligned(second)]: &[Unaligned<F::Vector<I>>; 2],
    sums: &mut [[F::Vector<I>; 2]; ROWS],
) {
    for (sums, &a) in sums.iter_mut().zip(a) {
        // SAFETY: the caller answers for the CPU.
        unsafe {
            let a = F::Vector::<I>::splat(a);
            sums[0] = M::multiply_add(a, first, sums[0]);
            sums[1] = M::multiply_add(a, second, sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bf16::add_pair;
    use super::super::dispatch::Level;
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

    /// An entry of C as the module's first lines define it: `terms` adds one step to a sum.
    fn model<F: Real>(start: Option<F>, steps: usize, term: impl Fn(usize, F) -> F) -> F {
        let sums = (0..steps)
            .step_by(KC)
            .map(|first| (first..steps.min(first + KC)).fold(F::zero(), |sum, k| term(k, sum)));
        start.into_iter().chain(sums).reduce(|c, sum| c + sum).unwrap_or(F::zero())
    }

    /// Every product of the shape, each factor by rows or by columns, C written or added to, has
    /// the bits of the model.
    fn check<F: Real>(level: Level, precision: Precision, [rows, cols, depth]: [usize; 3]) {
        let (a_data, b_data) = (numbers::<F>(rows * depth), numbers::<F>(depth * cols));
        let stride = cols + 3;
        let old = numbers::<F>(rows * stride);
        let rounds = precision == Precision::Bf16;
        // Under Miri each two of the choices in all four combinations.
        let cases: &[usize] = if cfg!(miri) { &[0, 3, 5, 6] } else { &[0, 1, 2, 3, 4, 5, 6, 7] };
        for case in cases {
            let [a_by_columns, b_by_columns, accumulate] = [1, 2, 4].map(|bit| case & bit != 0);
            let a = matrix(&a_data, rows, depth, a_by_columns);
            let b = matrix(&b_data, depth, cols, b_by_columns);
            let (mut c, mut packed) = (old.clone(), Packed::default());
            let packed = packed.pack(level, precision, b);
            gemm(MatMut::new(&mut c, rows, cols, stride), accumulate, a, packed);
            let value = |m: &Mat<'_, F>, i, j| {
                let value = if i < m.rows && j < m.cols { entry(m, i, j) } else { F::zero() };
                if rounds { rounded(value) } else { value }
            };
            let pair = |m: &Mat<'_, F>, at: [[usize; 2]; 2]| {
                let bits = at.map(|[i, j]| (value(m, i, j).widen() as f32).to_bits() >> 16);
                f32::from_bits(bits[0] | bits[1] << 16)
            };
            for i in 0..rows {
                for j in 0..cols {
                    let start = accumulate.then_some(old[i * stride + j]);
                    let expected = if rounds && level.has_bf16() {
                        model(start, depth.div_ceil(2), |k, sum| {
                            let a = pair(&a, [[i, 2 * k], [i, 2 * k + 1]]);
                            let b = pair(&b, [[2 * k, j], [2 * k + 1, j]]);
                            F::narrow(add_pair(a, b, sum.widen() as f32).into())
                        })
                    } else if !level.has_fma() {
                        model(start, depth, |k, sum| value(&a, i, k) * value(&b, k, j) + sum)
                    } else {
                        model(start, depth, |k, sum| value(&a, i, k).mul_add(value(&b, k, j), sum))
                    };
                    let found = c[i * stride + j];
                    assert_eq!(
                        found.widen().to_bits(),
                        expected.widen().to_bits(),
                        "{level:?}, {precision:?}, {rows}×{cols}×{depth}, case {case}, ({i}, {j})"
                    );
                }
                let beside = i * stride + cols..(i + 1) * stride;
                assert_eq!(c[beside.clone()], old[beside], "{level:?}, case {case}: beside C");
            }
        }
    }

    /// Whole blocks and panels of every level, every kind of rest, less than a block, and more
    /// than one group of panels.
    const SHAPES: &[[usize; 3]] = &[
        [1, 1, 1],
        [3, 2, 5],
        [8, 32, 4],
        [9, 33, 1],
        [15, 31, 7],
        [12, 16, 3],
        [1, 40, 300],
        [5, 9, 257],
        [7, 8, 256],
        [24, 70, 257],
        [11, 16, 600],
        [6, 700, 9],
    ];
    /// Whole and partial blocks of every level, four steps and a rest of one, also in pairs.
    const SHAPES_UNDER_MIRI: &[[usize; 3]] = &[[8, 17, 5], [2, 33, 9]];

    #[test]
    fn products_have_the_bits_of_the_model_at_every_level() {
        for level in Level::available() {
            for &shape in if cfg!(miri) { SHAPES_UNDER_MIRI } else { SHAPES } {
                check::<f32>(level, Precision::Full, shape);
                check::<f64>(level, Precision::Full, shape);
                check::<f32>(level, Precision::Bf16, shape);
            }
        }
    }

    #[test]
    fn products_of_every_small_shape_have_the_bits_of_the_model() {
        let most = if cfg!(miri) { 3 } else { 17 };
        for level in Level::available() {
            for rows in 1..most {
                for depth in 1..most {
                    check::<f32>(level, Precision::Full, [rows, rows + depth, depth]);
                    check::<f64>(level, Precision::Full, [rows, rows + depth, depth]);
                    check::<f32>(level, Precision::Bf16, [rows, rows + depth, depth]);
                }
            }
        }
    }

    #[test]
    fn strips_cover_all_rows_and_the_last_two_are_alike() {
        for most in [4, 6, 8] {
            for rows in 1..100 {
                let mut heights = Vec::new();
                while heights.iter().sum::<usize>() < rows {
                    heights.push(height(heights.iter().sum(), rows, most));
                }
                assert_eq!(heights.iter().sum::<usize>(), rows);
                let (last, before) = heights.split_last().expect("a strip");
                assert!(before.iter().all(|&h| h == most || h.abs_diff(*last) <= 1));
            }
        }
        assert_eq!([height(252, 256, 6), height(504, 512, 6), height(508, 512, 6)], [4, 4, 4]);
    }
}
