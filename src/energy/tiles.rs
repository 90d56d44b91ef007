//! The sums over all pairs of directions, tile by tile.
//!
//! One form covers both energies. With counts n_j,
//!
//! ```text
//! energy                  Σ_j n_j · Σ_{k≠j} f(d_jk)
//! gradient by v_j         P_j · Σ_{k≠j} (n_j + n_k) · κ · d_jk^(−s−2) · v_k,   P_j = I − v_j·v_jᵀ
//! ```
//!
//! For the whole matrix every count is 1; for a batch it is the number of times the label occurs.
//! A row with n_j > 0 is paired with every other row, a row with n_j = 0 only with those where
//! n_k > 0.
//!
//! A job is a tile of rows against its columns: cosines by a matrix product, forces computed in
//! place, the forces times the columns by a second product, summed in f64. No two jobs write to the
//! same row, and their energies are added in order, so that the result does not depend on the
//! number of threads.
//!
//! Rounding errors: in the number type T, with rounding unit ε_T, a cosine is off by a few ε_T
//! (unit rows are rounded, and their product is summed), so that the forces of pairs that are not
//! near have a relative error of at most about 16·ε_T (`kernel::riesz_row`). The forces of near
//! pairs grow without bound. They are computed in f64 for f32 too: from the difference of the two
//! unit vectors with an error of `ε_f64 / d`, and the closest from an exact difference of the rows,
//! with one of a few ε_f64. Each row is near itself; that pair is skipped.

use std::ops::Range;

use ndarray::{Array2, ArrayRef2, ArrayView2, ArrayViewMut1, CowArray, Ix2};

use crate::data::{check_norm, norm_of};
use crate::error::Error;
use crate::kernel::{self, Level, Mat, Packed, Precision, Real};
use crate::math::SINGULAR;
use crate::parallel::run_jobs;

/// Rows per job: enough for an efficient matrix product, few enough that the classes of a batch
/// occupy several threads.
const ROW_TILE: usize = 64;
/// Columns per matrix product of a job: with the rows they fit in the second-level cache.
const COLUMN_TILE: usize = 128;
/// Rows per task of the norm computation.
const NORM_BLOCK: usize = 256;
/// A pair at a smaller distance, whose unit vectors have rounded much of it away, is computed from
/// the rows themselves.
const CLOSE: f64 = 1e-4;
/// Ratios of norms for which that is possible.
const RATIOS: Range<f64> = 1e-200..1e200;
/// Multiplications below which threads cost more than they save.
const MIN_PARALLEL_PRODUCTS: usize = 1 << 20;

/// The class weights, row after row, their inverse norms and the count n_j of each row, for the
/// exponent S in one space, which is the half one or not.
pub(super) struct PairSums<'a, F, const S: u8, const HALF: bool> {
    weights: CowArray<'a, F, Ix2>,
    inverse_norms: Vec<f64>,
    counts: Vec<usize>,
    workers: usize,
}

/// A row of the gradient and its index.
struct Row<'a, F> {
    index: usize,
    gradient: ArrayViewMut1<'a, F>,
}

/// The buffers of one worker.
#[derive(Default)]
struct Scratch<F> {
    /// Unit rows of the job (rows × dims) and of the current columns (columns × dims).
    rows: Vec<F>,
    columns: Vec<F>,
    /// n_k of the current columns.
    counts: Vec<F>,
    /// Cosines, overwritten by forces (rows × columns).
    forces: Vec<F>,
    /// Forces times columns (rows × dims), and their sum over all columns.
    product: Vec<F>,
    sum: Vec<f64>,
    /// One unit row in f64.
    unit: Vec<f64>,
    /// The right factor of a product.
    right: Packed<F>,
    /// Positions of the near pairs of one row.
    near: Vec<usize>,
}

impl<'a, F: Real, const S: u8, const HALF: bool> PairSums<'a, F, S, HALF> {
    /// Checks every row and computes its norm.
    pub fn new(w: &'a ArrayRef2<F>, counts: Vec<usize>) -> Result<Self, Error> {
        Error::check_not_empty("class weights", w.shape())?;
        let counted = counts.iter().filter(|&&n| n > 0).count();
        let products = counted.saturating_mul(w.len());
        let workers =
            if products < MIN_PARALLEL_PRODUCTS { 1 } else { rayon::current_num_threads() };
        let weights = w.as_standard_layout();
        let inverse_norms = inverse_norms(weights.view(), workers)?;
        Ok(PairSums { weights, inverse_norms, counts, workers })
    }

    /// A row, and its inverse norm.
    fn row(&self, j: usize) -> (&[F], f64) {
        let (dims, weights) = (self.weights.ncols(), self.weights.as_slice());
        (&weights.expect("standard layout")[j * dims..(j + 1) * dims], self.inverse_norms[j])
    }

    /// The energy and its gradient, both multiplied by `scale`.
    pub fn energy(&self, scale: f64) -> Result<(f64, Array2<F>), Error> {
        let mut gradient = Array2::zeros(self.weights.dim());
        let rows = gradient.rows_mut().into_iter().enumerate();
        let (mut counted, mut others): (Vec<_>, Vec<_>) = rows
            .map(|(index, gradient)| Row { index, gradient })
            .partition(|row| self.counts[row.index] > 0);
        let all: Vec<usize> = (0..self.counts.len()).collect();
        let targets: Vec<usize> = counted.iter().map(|row| row.index).collect();

        // Long jobs run first, so that the short ones even out the load of the threads.
        let long = counted.chunks_mut(ROW_TILE).map(|rows| (rows, &all[..]));
        let short = others.chunks_mut(ROW_TILE).map(|rows| (rows, &targets[..]));
        let mut energies = vec![Ok(0.0); long.len() + short.len()];
        let jobs = long.chain(short).zip(&mut energies);
        let mut workers: Vec<_> = (0..self.workers).map(|_| Scratch::default()).collect();
        run_jobs(jobs, &mut workers, |scratch, ((rows, columns), energy)| {
            let sum = self.sum_forces(scratch, rows, columns);
            *energy = sum.and_then(|sum| self.write_gradients(scratch, rows, scale).map(|()| sum));
        });
        let energy = energies.into_iter().try_fold(0.0, |sum, energy| Ok(sum + energy?))?;
        Ok((energy * scale, gradient))
    }

    /// Sums the forces on a tile of rows into `scratch.sum` and returns the energy of the rows.
    fn sum_forces(
        &self,
        scratch: &mut Scratch<F>,
        rows: &[Row<'_, F>],
        columns: &[usize],
    ) -> Result<f64, Error> {
        const FULL: Precision = Precision::Full;
        let (dims, level) = (self.weights.ncols(), Level::detect());
        self.pack(rows.iter().map(|row| row.index), &mut scratch.rows);
        scratch.sum.clear();
        scratch.sum.resize(rows.len() * dims, 0.0);
        scratch.product.resize(rows.len() * dims, F::zero());
        let mut energy = 0.0;
        for columns in columns.chunks(COLUMN_TILE) {
            let n = columns.len();
            self.pack(columns.iter().copied(), &mut scratch.columns);
            scratch.counts.clear();
            scratch.counts.extend(columns.iter().map(|&k| F::narrow(self.counts[k] as f64)));
            scratch.forces.resize(rows.len() * n, F::zero());

            let column_matrix = Mat::new(&scratch.columns, n, dims);
            let right = scratch.right.pack(level, FULL, column_matrix.t());
            let left = Mat::new(&scratch.rows, rows.len(), dims);
            kernel::gemm(&mut scratch.forces, false, left, right);
            for (i, row) in rows.iter().enumerate() {
                energy += self.row_forces(scratch, (i, row.index), columns)?;
            }
            let right = scratch.right.pack(level, FULL, Mat::new(&scratch.columns, n, dims));
            let left = Mat::new(&scratch.forces, rows.len(), n);
            kernel::gemm(&mut scratch.product, false, left, right);
            kernel::add_scaled(&mut scratch.sum, 1.0, &scratch.product, 1.0);
        }
        Ok(energy)
    }

    /// Replaces the cosines of one row by forces, adds the forces of its near pairs to its sum, and
    /// returns its energy. `i` is the row's index in the tile, `j` its index in the matrix.
    fn row_forces(
        &self,
        scratch: &mut Scratch<F>,
        (i, j): (usize, usize),
        columns: &[usize],
    ) -> Result<f64, Error> {
        let Scratch { forces, counts, sum, unit, near, .. } = scratch;
        let (n, dims) = (columns.len(), self.weights.ncols());
        unit.resize(dims, 0.0);
        let (forces, sum) = (&mut forces[i * n..(i + 1) * n], &mut sum[i * dims..(i + 1) * dims]);
        let count = self.counts[j] as f64;
        let mut energy = kernel::riesz_row::<F, S, HALF>(forces, F::narrow(count), counts, near);
        for &k in near.iter().map(|&at| &columns[at]).filter(|&&k| k != j) {
            let (row, other) = (self.row(j), self.row(k));
            let [difference, opposite] = kernel::moments([row.0, other.0], [row.1, other.1]);
            let distance = difference.min(opposite).sqrt();
            if distance <= SINGULAR {
                return Err(Error::Pole { rows: [j, k], opposed: opposite < difference, distance });
            }
            let weight = count + self.counts[k] as f64;
            if distance < CLOSE && RATIOS.contains(&(row.1 / other.1)) {
                let side = if difference < opposite { 1.0 } else { -1.0 };
                let square = kernel::part_across(unit, row, other, side);
                // Of the chord of the angle, from its sine.
                let square = 2.0 * square / (1.0 + (1.0 - square).sqrt());
                let squares =
                    if side > 0.0 { (square, 4.0 - square) } else { (4.0 - square, square) };
                let (value, force) = kernel::riesz_pair::<S, HALF>(squares.0, squares.1);
                energy += value;
                kernel::add_scaled(sum, 1.0, unit, weight * force);
                continue;
            }
            let (value, force) = kernel::riesz_pair::<S, HALF>(difference, opposite);
            energy += value;
            // v_k − cos θ · v_j: the projection of v_k onto the tangent space at v_j.
            let tangent = (1.0 - 0.5 * difference, 0.0);
            kernel::add_tangent(sum, row, other, tangent, weight * force);
        }
        Ok(count * energy)
    }

    /// Computes the gradients from the summed forces: projects onto the tangent space, divides by
    /// the norm and scales.
    fn write_gradients(
        &self,
        scratch: &mut Scratch<F>,
        rows: &mut [Row<'_, F>],
        scale: f64,
    ) -> Result<(), Error> {
        let dims = self.weights.ncols();
        scratch.unit.resize(dims, 0.0);
        for (Row { index, gradient }, sum) in
            rows.iter_mut().zip(scratch.sum.chunks_exact_mut(dims))
        {
            let (w, inverse) = self.row(*index);
            kernel::add_scaled(&mut scratch.unit, 0.0, w, inverse);
            let along = kernel::dot(sum, &scratch.unit);
            kernel::add_scaled(sum, 1.0, &scratch.unit, -along);
            for (out, sum) in gradient.iter_mut().zip(sum) {
                let value = *sum * scale * inverse;
                *out = F::narrow(value);
                if !out.is_finite() {
                    let quantity = "the gradient of the energy";
                    let (bound, maximum) = (value.abs(), F::MAX);
                    return Err(Error::Overflow { quantity, row: Some(*index), bound, maximum });
                }
            }
        }
        Ok(())
    }

    /// Writes the unit vectors of these rows to `out`, one after the other.
    fn pack(&self, rows: impl ExactSizeIterator<Item = usize>, out: &mut Vec<F>) {
        let dims = self.weights.ncols();
        out.resize(rows.len() * dims, F::zero());
        for (out, j) in out.chunks_exact_mut(dims).zip(rows) {
            let (row, inverse) = self.row(j);
            kernel::scaled(out, row, inverse);
        }
    }
}

/// The inverse norm of every row. The error names the first bad row.
fn inverse_norms<F: Real>(w: ArrayView2<'_, F>, workers: usize) -> Result<Vec<f64>, Error> {
    let mut inverse_norms = vec![0.0; w.nrows()];
    let mut refused = vec![Ok(()); w.nrows().div_ceil(NORM_BLOCK)];
    let blocks = inverse_norms.chunks_mut(NORM_BLOCK).zip(&mut refused).enumerate();
    run_jobs(blocks, &mut vec![(); workers], |(), (block, (inverse_norms, refused))| {
        let mut rows = inverse_norms.iter_mut().zip(block * NORM_BLOCK..);
        *refused = rows.try_for_each(|(inverse, index)| {
            let (row, argument) = (w.row(index), "class weights");
            let norm = check_norm(argument, index, row, norm_of(row, &mut Vec::new()), true)?;
            *inverse = norm.recip();
            Ok(())
        });
    });
    refused.into_iter().collect::<Result<(), _>>()?;
    Ok(inverse_norms)
}
