//! The matrix product of a step's tiles, at the level and precision of its packed factor.

use super::bf16::Precision;
use super::matrix::Mat;
use super::packed::Packed;
use super::pairs;
use super::product::{Product, multiply};
use super::real::Real;

/// C = AB, or C += AB with `accumulate`, on the calling thread, at the level and precision of B. The
/// rows of C follow each other.
pub(crate) fn gemm<F: Real>(c: &mut [F], accumulate: bool, a: Mat<'_, F>, b: &Packed<F>) {
    assert!(c.len() == a.rows * b.columns && a.cols == b.depth);
    let level = b.level.expect("a packed factor");
    let rounded = b.precision == Precision::Bf16;
    let product = Product { c, columns: b.columns, accumulate, a, b: &b.data, rounded };
    if rounded && level.has_bf16() {
        if let Some(product) = product.of_pairs(&b.pairs) {
            pairs::multiply(level, product);
        }
    } else {
        multiply(level, product);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bf16::rounded;
    use super::super::dispatch::Level;
    use super::super::pairs::add_pair;
    use super::super::product::KC;
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
        let old = numbers::<F>(rows * cols);
        let rounds = precision == Precision::Bf16;
        // Under Miri each two of the choices in all four combinations.
        let cases: &[usize] = if cfg!(miri) { &[0, 3, 5, 6] } else { &[0, 1, 2, 3, 4, 5, 6, 7] };
        for case in cases {
            let [a_by_columns, b_by_columns, accumulate] = [1, 2, 4].map(|bit| case & bit != 0);
            let a = matrix(&a_data, rows, depth, a_by_columns);
            let b = matrix(&b_data, depth, cols, b_by_columns);
            let (mut c, mut packed) = (old.clone(), Packed::default());
            let packed = packed.pack(level, precision, b);
            gemm(&mut c, accumulate, a, packed);
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
                    let start = accumulate.then_some(old[i * cols + j]);
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
                    let found = c[i * cols + j];
                    assert_eq!(
                        found.widen().to_bits(),
                        expected.widen().to_bits(),
                        "{level:?}, {precision:?}, {rows}×{cols}×{depth}, case {case}, ({i}, {j})"
                    );
                }
            }
        }
    }

    /// Whole blocks and panels of every level, every kind of rest, less than a block, and more
    /// than one group of panels.
    const SHAPES: [[usize; 3]; 12] = [
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

    #[test]
    fn products_have_the_bits_of_the_model_at_every_level() {
        for level in Level::available() {
            for &shape in &SHAPES[..if cfg!(miri) { 5 } else { SHAPES.len() }] {
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
}
