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

use super::bf16;
use super::dispatch::op;
use super::matrix::Mat;
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
    /// Rows of `columns` entries, one after the other.
    pub c: &'a mut [F],
    pub columns: usize,
    pub accumulate: bool,
    pub a: Mat<'a, F>,
    pub b: &'a [F],
    /// Whether strips are rounded to bf16, as the panels are.
    pub rounded: bool,
}

impl<'a, F: Real> Product<'a, F> {
    /// The same product with panels of pairs, which are for `f32` only.
    pub fn of_pairs(self, b: &'a [f32]) -> Option<Product<'a, f32>> {
        let Product { c, columns, accumulate, a, rounded, .. } = self;
        let Mat { data, rows, cols, row_stride, col_stride } = a;
        let a = Mat { data: F::as_f32(data)?, rows, cols, row_stride, col_stride };
        Some(Product { c: F::as_f32_mut(c)?, columns, accumulate, a, b, rounded })
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

op! {
    /// The product of numbers.
    pub(super) fn multiply<I at level>[F: Real](product: Product<'_, F>) {
        product.run_with::<I, Numbers>();
    }
}

impl<F: Real> Product<'_, F> {
    /// The CPU must have the instructions of `I` and `M`: see [`multiply`].
    #[inline(always)]
    pub fn run_with<I: Isa, M: Multiply<F, I>>(self) {
        let Product { c, columns, accumulate, a, b, rounded } = self;
        let width = 2 * F::Vector::<I>::LANES;
        let group = (GROUP_BYTES / (size_of::<F>() * KC * width)).max(1);
        let panels = columns.div_ceil(width);
        let depth = a.cols.div_ceil(M::NUMBERS);
        assert!(b.len() >= panels * width * depth);
        let mut strip = [F::zero(); MOST_ROWS * 2 * KC + MAX_SIDE];
        let mut other = [F::zero(); MOST_ROWS * KC];
        let source = &a.t();
        for first in (0..depth).step_by(KC) {
            let last = depth.min(first + KC);
            let numbers = first * M::NUMBERS..a.cols.min(last * M::NUMBERS);
            for start in (0..panels).step_by(group) {
                let mut row = 0;
                while row < a.rows {
                    let height = height(row, a.rows, I::ROWS);
                    let (rows, entries) = (numbers.clone(), row..row + height);
                    let packed = Block { source, rows, columns: entries, width: height };
                    packed.write::<I>(&mut strip);
                    let entries = &mut strip[..numbers.len() * height];
                    let entries = M::entries(entries, rounded, height, &mut other);
                    for panel in start..panels.min(start + group) {
                        let b = &b[panel * width * depth..][first * width..last * width];
                        let column = panel * width;
                        let c = (&mut c[row * columns + column..], columns);
                        let accumulate = accumulate || first > 0;
                        block::<F, I, M>(height, [entries, b], c, columns - column, accumulate);
                    }
                    row += height;
                }
            }
        }
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

/// Writes or adds the product of a strip of `height` rows and a panel to the block at the start of
/// C, whose rows are `stride` apart and end after `columns` entries.
///
/// The CPU must have the instructions of `I` and `M`.
#[inline(always)]
fn block<F: Real, I: Isa, M: Multiply<F, I>>(
    height: usize,
    factors: [&[F]; 2],
    (c, stride): (&mut [F], usize),
    columns: usize,
    accumulate: bool,
) {
    let width = 2 * F::Vector::<I>::LANES;
    let depth = factors[1].len() / width;
    assert!(factors[0].len() >= depth * height);
    // A block of fewer columns is summed whole elsewhere; C takes what it has columns for. One
    // call for both: there is much code behind it.
    let mut sums = (columns < width).then(|| [F::zero(); MOST_ENTRIES]);
    let (out, out_stride) = match &mut sums {
        Some(sums) => (&mut sums[..], width),
        None => (&mut *c, stride),
    };
    assert!(out.len() >= (height - 1) * out_stride + width);
    let out = (out.as_mut_ptr(), out_stride);
    macro_rules! of_height {
        ($($rows:literal)*) => {
            match height {
                // No code for higher blocks, whose sums would not fit the registers.
                // SAFETY: the factors are as long as depth, rows and width say, and `out` holds the
                // block. The caller answers for the CPU.
                $($rows if $rows <= I::ROWS => unsafe {
                    sum_rows::<F, I, M, $rows>(factors, depth, out, accumulate && columns >= width)
                },)*
                _ => unreachable!("a strip has at most {} rows", I::ROWS),
            }
        };
    }
    const { assert!(I::ROWS <= MOST_ROWS) };
    of_height!(1 2 3 4 5 6 7 8);
    let Some(sums) = sums else { return };
    for (c, sums) in c.chunks_mut(stride).zip(sums.chunks_exact(width)).take(height) {
        for (c, &sum) in c.iter_mut().zip(&sums[..columns]) {
            *c = if accumulate { *c + sum } else { sum };
        }
    }
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
