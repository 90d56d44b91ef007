//! Matrix products, single-threaded: by a kernel of our own where the CPU has AVX-512, else by the
//! library that the build has.

pub(super) mod libraries;
pub(super) mod registers;

use super::dispatch::has_avx512;
use super::real::Real;

/// A matrix that is read: rows of `data`, a stride apart, or its transpose.
#[derive(Clone, Copy)]
pub struct Mat<'a, F> {
    data: &'a [F],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    /// The same as [`pack`] laid it out, or nothing.
    panels: &'a [F],
}

impl<'a, F> Mat<'a, F> {
    /// `rows` × `cols`, row after row.
    pub fn new(data: &'a [F], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0 && rows * cols <= data.len());
        Mat { data, rows, cols, row_stride: cols, col_stride: 1, panels: &[] }
    }

    /// The transpose; nothing moves.
    pub fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            panels: &[],
        }
    }

    /// The same, which [`pack`] has laid out as `panels`.
    pub fn in_panels(self, panels: &'a [F]) -> Self {
        Mat { panels, ..self }
    }
}

/// A matrix that is written: rows of `data`, `stride` apart.
pub struct MatMut<'a, F> {
    data: &'a mut [F],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, F> MatMut<'a, F> {
    /// `rows` × `cols`, each row `stride` entries after the one before.
    pub fn new(data: &'a mut [F], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows > 0 && cols > 0 && cols <= stride);
        assert!((rows - 1) * stride + cols <= data.len());
        MatMut { data, rows, cols, stride }
    }
}

/// $C = AB$, or $C \mathrel{+}= AB$ with `accumulate`, on the calling thread.
pub fn gemm<F: Real>(c: MatMut<'_, F>, accumulate: bool, a: Mat<'_, F>, b: Mat<'_, F>) {
    assert!(c.rows == a.rows && a.cols == b.rows && b.cols == c.cols);
    let at_hand = b.col_stride == 1 || !b.panels.is_empty();
    if has_avx512() && at_hand && a.rows >= registers::ROWS {
        F::gemm_in_registers(c, accumulate, a, b);
    } else {
        F::gemm_by_library(c, accumulate, a, b);
    }
}

/// Lays out a matrix that will be the right factor of many products as these read it, where they
/// are the kernel's own; `panels` is left empty where they are a library's.
pub fn pack<F: Real>(b: Mat<'_, F>, panels: &mut Vec<F>) {
    panels.clear();
    if has_avx512() {
        F::pack(b, panels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::dispatch::Op;
    use crate::kernel::real::Element;
    use registers::{Pack, Product, columns};

    /// Numbers of either sign that a shift register makes.
    fn numbers<F: Real>(count: usize) -> Vec<F> {
        let mut state = 1_u32;
        let next = || {
            state = (state >> 1) ^ (0xd000_0001 & (state & 1).wrapping_neg());
            F::narrow(f64::from(state) / 2.0_f64.powi(31) - 1.0)
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// Every product of the shape, by `multiply` and with B in panels where there are any.
    fn check<F: Real>(
        (rows, cols, depth): (usize, usize, usize),
        panels: bool,
        multiply: impl Fn(MatMut<'_, F>, bool, Mat<'_, F>, Mat<'_, F>),
        pack: impl Fn(Mat<'_, F>, &mut Vec<F>),
    ) {
        let (a_data, b_data) = (numbers::<F>(rows * depth), numbers::<F>(depth * cols));
        let stride = cols + 3;
        let old = numbers::<F>(rows * stride);
        for case in 0..8 {
            let [a_by_columns, b_by_columns, accumulate] = [1, 2, 4].map(|bit| case & bit != 0);
            let matrix = |data, rows, cols, by_columns| {
                if by_columns { Mat::new(data, cols, rows).t() } else { Mat::new(data, rows, cols) }
            };
            let a = matrix(&a_data, rows, depth, a_by_columns);
            let b = matrix(&b_data, depth, cols, b_by_columns);
            if b_by_columns && !panels {
                continue;
            }
            let mut packed = Vec::new();
            if panels {
                pack(b, &mut packed);
            }
            let mut c = old.clone();
            let target = MatMut::new(&mut c, rows, cols, stride);
            multiply(target, accumulate, a, b.in_panels(&packed));

            let entry = |m: &Mat<F>, i: usize, j: usize| {
                m.data[i * m.row_stride + j * m.col_stride].widen()
            };
            for i in 0..rows {
                for j in 0..cols {
                    let terms = (0..depth).map(|k| entry(&a, i, k) * entry(&b, k, j));
                    let start = if accumulate { old[i * stride + j].widen() } else { 0.0 };
                    let (sum, size) = terms.fold((start, start.abs()), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                    // Each of at most depth + 2 roundings errs by ε/2 of at most the size so far.
                    let bound = (depth + 2) as f64 * F::epsilon().widen() * size;
                    let error = (c[i * stride + j].widen() - sum).abs();
                    assert!(error <= bound, "{rows}×{cols}×{depth}, case {case}: {error:e}");
                }
                let beside = i * stride + cols..(i + 1) * stride;
                assert_eq!(c[beside.clone()], old[beside], "case {case}: wrote beside C");
            }
        }
    }

    /// Whole blocks and panels, and every kind of rest.
    const SHAPES: [(usize, usize, usize); 5] =
        [(8, 32, 4), (9, 33, 1), (15, 31, 7), (24, 70, 257), (11, 16, 300)];

    fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
        SHAPES.into_iter().take(if cfg!(miri) { 3 } else { SHAPES.len() })
    }

    #[test]
    fn product_in_registers_is_exact_to_rounding_for_every_layout() {
        for shape in shapes() {
            for panels in [false, true] {
                check::<f32>(
                    shape,
                    panels,
                    |c, accumulate, a, b| {
                        Product::<_, { columns::<f32>() }> { c, accumulate, a, b }.run::<true>()
                    },
                    |b, panels| Pack::<_, { columns::<f32>() }> { b, panels }.run::<true>(),
                );
                check::<f64>(
                    shape,
                    panels,
                    |c, accumulate, a, b| {
                        Product::<_, { columns::<f64>() }> { c, accumulate, a, b }.run::<false>()
                    },
                    |b, panels| Pack::<_, { columns::<f64>() }> { b, panels }.run::<false>(),
                );
            }
        }
    }

    #[test]
    fn product_by_the_library_is_exact_to_rounding_for_every_layout() {
        for shape in shapes().chain([(1, 1, 1), (7, 5, 3)]) {
            check::<f32>(shape, true, f32::gemm_by_library, |_, _| ());
            check::<f64>(shape, true, f64::gemm_by_library, |_, _| ());
        }
    }
}
