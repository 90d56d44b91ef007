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

use super::bf16;
use super::dispatch::Op;
use super::matrix::{Mat, MatMut};
use super::packed::Block;
use super::real::{Element, Real};
use super::simd::{Isa, MAX_SIDE, Unaligned, Vector, prefetch};

/// Steps of the depth that are summed in registers. In f32 at AVX2, a strip and a panel then take
/// 6 and 16 KB of the first-level cache.
pub(super) const KC: usize = 256;
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

/// A product of a matrix and panels.
pub(super) struct Product<'a, F> {
    pub c: MatMut<'a, F>,
    pub accumulate: bool,
    pub a: Mat<'a, F>,
    pub b: &'a [F],
    /// Whether strips are rounded to bf16, as the panels are.
    pub rounded: bool,
}

impl<'a, F: Real> Product<'a, F> {
    /// The same product with panels of pairs, which are for `f32` only.
    pub fn of_pairs(self, b: &'a [f32]) -> Option<Product<'a, f32>> {
        let Product { c, accumulate, a, rounded, .. } = self;
        let Mat { data, rows, cols, row_stride, col_stride } = a;
        let a = Mat { data: F::as_f32(data)?, rows, cols, row_stride, col_stride };
        let MatMut { data, rows, cols, stride } = c;
        let c = MatMut { data: F::as_f32_mut(data)?, rows, cols, stride };
        Some(Product { c, accumulate, a, b, rounded })
    }
}

/// What a product makes of the numbers of its factors.
pub(super) trait Multiply<F: Element, I: Isa> {
    /// Numbers along the depth to an entry of a strip or panel.
    const NUMBERS: usize;

    /// Turns a strip of numbers, rounded to bf16 if they are to be, into one of entries, which may
    /// lie in `other`.
    fn entries<'s>(strip: &'s mut [F], rounded: bool, height: usize, other: &'s mut [F])
    -> &'s [F];

    /// What one step does with an entry of the strip, in all lanes, and a vector of the panel.
    ///
    /// # Safety
    /// The CPU has the instructions that the implementation needs.
    unsafe fn multiply_add(a: F::Vector<I>, b: F::Vector<I>, sum: F::Vector<I>) -> F::Vector<I>;
}

/// Entries are the numbers.
enum Numbers {}

impl<F: Real, I: Isa> Multiply<F, I> for Numbers {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn entries<'s>(strip: &'s mut [F], rounded: bool, _: usize, _: &'s mut [F]) -> &'s [F] {
        if rounded {
            strip.iter_mut().for_each(|value| *value = bf16::rounded(*value));
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
        self.run_with::<I, Numbers>();
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
                    let a = M::entries(a, self.rounded, height, &mut other);
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
        // A block of fewer columns is summed whole elsewhere; C takes what it has columns for. One
        // call for both: there is much code behind it.
        let mut sums = (columns < width).then(|| [F::zero(); MOST_ENTRIES]);
        let (out, out_stride) = match &mut sums {
            Some(sums) => (&mut sums[..], width),
            None => (&mut *c, stride),
        };
        assert!(out.len() >= (rows.len() - 1) * out_stride + width);
        let out = (out.as_mut_ptr(), out_stride);
        // SAFETY: the factors are as long as depth, rows and width say, and `out` holds the block.
        // The CPU: see `run_with`.
        unsafe { sum::<F, I, M>(rows.len(), factors, depth, out, accumulate && columns == width) };
        let Some(sums) = sums else { return };
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
                prefetch(c.wrapping_add(r * stride + line));
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
    use super::*;

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
