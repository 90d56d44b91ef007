//! Products whose factors are rounded to bf16: products of two such numbers are exact in f32, in
//! which they are summed.
//!
//! For `vdpbf16ps`, factors are packed as pairs: two numbers that are neighbours along the depth of
//! the product share 32 bits. The instruction multiplies 16 pairs by 16 pairs and adds up each
//! pair's products. CPUs without it multiply the same numbers in f32, packed as f32.

// The pairs are for an instruction of x86-64.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use std::ops::Range;

use super::blocks::{KC, sweep_strips};
use super::dispatch::Level;
use super::matrix::{Mat, MatMut, Panels};
use super::real::Real;

/// The numbers that the factors of the three matrix products of a step are rounded to; a choice of
/// [`Head::with_precision`](crate::Head::with_precision).
///
/// Embeddings, class weights, their gradients, target pairs, norms, exponentials and all sums over
/// samples and classes are the same at either precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// Those of the working type: no rounding.
    #[default]
    Full,
    /// bf16, for `f32` data: the range of `f32`, 8 significant bits. Sums are in `f32`.
    ///
    /// With u = 2⁻⁹, the error of rounding to 8 bits, a logit errs by at most
    ///
    /// ```text
    /// |Δz_ij| ≤ a_i·(2u + u²)·Σ_k |u_ik·v_jk| ≤ a_i·(2u + u²)
    /// ```
    ///
    /// where a is the scale, u_i and v_j the normalised vectors. Observed at s = 64 with 1,000
    /// random classes: 0.0066 (D = 512) and 0.013 (D = 128) in root mean square, losses within 1 %
    /// and 2 %, gradients within 1.3 % and 1.9 % of their length.
    ///
    /// Faster where the CPU multiplies bf16 (AVX-512 BF16: Zen 4, Cooper Lake, Sapphire Rapids and
    /// later); elsewhere as exact, but not faster than `f32`. `f64` data are refused with
    /// [`Error::Precision`](crate::Error::Precision).
    Bf16,
}

/// C = AB, or C += AB, of packed pairs.
pub(super) struct PairProduct<'a, F> {
    pub c: MatMut<'a, F>,
    pub accumulate: bool,
    /// A packed in strips and B packed in panels.
    pub factors: [&'a Panels<F>; 2],
}

impl<F: Real> PairProduct<'_, F> {
    /// With the CPU's instruction for pairs; a level without it packs no pairs.
    pub fn run(self, level: Level) {
        assert!(level.has_bf16(), "packed for another level");
        // SAFETY: `has_bf16` has detected the features that the function enables.
        #[cfg(target_arch = "x86_64")]
        self.run_with(|strip, panel| unsafe { native(strip, panel) });
    }

    /// Block by block, as `multiply` computes them.
    #[inline(always)]
    fn run_with<const MR: usize, const NR: usize>(
        self,
        multiply: impl Fn(&[[u32; MR]], &[[u32; NR]]) -> [[f32; NR]; MR],
    ) {
        let PairProduct { mut c, accumulate, factors: [a, b] } = self;
        assert!(a.nr == MR && b.nr == NR, "packed for another level");
        let depth = a.rows.div_ceil(2);
        let (strips, panels) = (a.pairs.as_chunks::<MR>().0, b.pairs.as_chunks::<NR>().0);
        for first in (0..depth).step_by(KC) {
            let part = first..depth.min(first + KC);
            for (index, panel) in panels.chunks_exact(depth).enumerate() {
                let columns = index * NR..c.cols.min((index + 1) * NR);
                let strips = strips.chunks_exact(depth).map(|strip| &strip[part.clone()]);
                sweep_strips(
                    &mut c,
                    accumulate || first > 0,
                    strips,
                    columns,
                    #[inline(always)]
                    |strip| {
                        multiply(strip, &panel[part.clone()])
                            .map(|row| row.map(|sum| F::narrow(sum.into())))
                    },
                );
            }
        }
    }
}

/// The sum of the products of a strip and a panel by `vdpbf16ps`, which takes subnormal numbers as zero.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn native(strip: &[[u32; 8]], panel: &[[u32; 32]]) -> [[f32; 32]; 8] {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::mem::transmute;

    let mut sums = [[_mm512_setzero_ps(); 2]; 8];
    for (a, b) in strip.iter().zip(panel) {
        // SAFETY: all of these types are 64 bytes, or twice 64, of any bits.
        let b = unsafe { transmute::<[u32; 32], [__m512bh; 2]>(*b) };
        for (sums, &a) in sums.iter_mut().zip(a) {
            let a = _mm512_set1_epi32(a.cast_signed());
            // SAFETY: as above.
            let a = unsafe { transmute::<__m512i, __m512bh>(a) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
    }
    // SAFETY: two vectors of 16 numbers are 32 numbers.
    sums.map(|sums| unsafe { transmute(sums) })
}

/// Packs B in panels of pairs of its rows; an odd last row has zeros beside it.
#[inline(always)]
pub(super) fn fill_all_pairs<F: Real, const NR: usize>(panels: &mut Panels<F>, b: Mat<'_, F>) {
    let depth = b.rows.div_ceil(2);
    panels.begin(&b, NR, true);
    panels.pairs.resize(b.cols.div_ceil(NR) * depth * NR, 0);
    let (rows, _) = panels.pairs.as_chunks_mut::<NR>();
    for (index, panel) in rows.chunks_exact_mut(depth).enumerate() {
        let columns = index * NR..b.cols.min((index + 1) * NR);
        if columns.len() < NR || b.rows % 2 == 1 {
            panel.fill([0; NR]);
        }
        fill_pairs(panel, &b, columns);
    }
}

#[inline(always)]
fn fill_pairs<F: Real, const NR: usize>(
    panel: &mut [[u32; NR]],
    b: &Mat<'_, F>,
    columns: Range<usize>,
) {
    if b.col_stride != 1 {
        for (j, column) in columns.enumerate() {
            let column = &b.data[column * b.col_stride..][..b.rows];
            for (out, pair) in panel.iter_mut().zip(column.chunks(2)) {
                out[j] = pair_of(pair[0], pair.get(1).copied().unwrap_or_default());
            }
        }
        return;
    }
    let row = |k: usize| b.data[k * b.row_stride..].get(columns.clone());
    for (k, out) in panel.iter_mut().enumerate() {
        let first = row(2 * k).unwrap_or_default();
        match row(2 * k + 1).filter(|_| 2 * k + 1 < b.rows) {
            // Of a known length: vector instructions.
            Some(second) if first.len() == NR => {
                for ((out, &a), &b) in out.iter_mut().zip(&first[..NR]).zip(&second[..NR]) {
                    *out = pair_of(a, b);
                }
            }
            Some(second) => {
                for ((out, &a), &b) in out.iter_mut().zip(first).zip(second) {
                    *out = pair_of(a, b);
                }
            }
            None => {
                for (out, &a) in out.iter_mut().zip(first) {
                    *out = pair_of(a, F::zero());
                }
            }
        }
    }
}

#[inline(always)]
fn pair_of<F: Real>(first: F, second: F) -> u32 {
    round(first) | round(second) << 16
}

/// The nearest bf16.
#[inline(always)]
pub(super) fn rounded<F: Real>(value: F) -> F {
    F::narrow(f32::from_bits(round(value) << 16).into())
}

/// The bits of the nearest bf16, ties to even. Numbers beyond the largest bf16, which only `f32`
/// has, are rounded to it, not to infinity.
#[inline(always)]
fn round<F: Real>(value: F) -> u32 {
    let bits = (value.widen() as f32).to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if rounded & 0x7f80 == 0x7f80 { bits >> 16 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even_and_never_to_infinity() {
        let step = 2.0_f32.powi(-7);
        assert_eq!(rounded(1.0 + step / 2.0), 1.0);
        assert_eq!(rounded(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(rounded(-1.0 - 0.51 * step), -1.0 - step);
        assert_eq!(rounded(1.0 + step), 1.0 + step);
        assert_eq!(rounded(-0.0_f32).to_bits(), (-0.0_f32).to_bits());
        for most in [f32::MAX, -f32::MAX] {
            assert!(rounded(most).is_finite() && (rounded(most) / most - 1.0).abs() < step);
        }
    }

    /// What `vdpbf16ps` computes, but for the order of its additions.
    fn plain<const MR: usize, const NR: usize>(
        strip: &[[u32; MR]],
        panel: &[[u32; NR]],
    ) -> [[f32; NR]; MR] {
        let first = |pair: u32| f32::from_bits(pair << 16);
        let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        let mut sums = [[0.0; NR]; MR];
        for (a, b) in strip.iter().zip(panel) {
            for (sums, &a) in sums.iter_mut().zip(a) {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum += first(a) * first(b) + second(a) * second(b);
                }
            }
        }
        sums
    }

    /// The product of whole numbers, which is exact, in pairs.
    fn check(rows: usize, cols: usize, depth: usize) {
        let number = |i: usize| ((i * 7919 + 13) % 17) as f32 - 8.0;
        let a: Vec<_> = (0..rows * depth).map(number).collect();
        let b: Vec<_> = (3..3 + depth * cols).map(number).collect();
        let b_by_columns: Vec<_> =
            (0..cols).flat_map(|j| b[j..].iter().step_by(cols).copied()).collect();
        for b_packed in [Mat::new(&b, depth, cols), Mat::new(&b_by_columns, cols, depth).t()] {
            let (mut strips, mut panels) = (Panels::default(), Panels::default());
            fill_all_pairs::<_, 8>(&mut strips, Mat::new(&a, rows, depth).t());
            fill_all_pairs::<_, 32>(&mut panels, b_packed);
            let mut c = vec![0.5; rows * cols];
            let out = MatMut::new(&mut c, rows, cols, cols);
            let product = PairProduct { c: out, accumulate: true, factors: [&strips, &panels] };
            product.run_with(plain::<8, 32>);
            for (i, row) in c.chunks_exact(cols).enumerate() {
                for (j, &found) in row.iter().enumerate() {
                    let terms = (0..depth).map(|k| a[i * depth + k] * b[k * cols + j]);
                    assert_eq!(found, 0.5 + terms.sum::<f32>(), "({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn pairs_multiply_like_the_numbers_in_them() {
        for (rows, cols, depth) in [(1, 1, 1), (9, 33, 3), (8, 32, 4), (3, 5, 8)] {
            check(rows, cols, depth);
        }
        if !cfg!(miri) {
            check(13, 40, 1031);
        }
    }
}
