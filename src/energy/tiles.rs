//! The sums over all pairs, tile by tile.
//!
//! One form serves all: with counts $n_j$, the energy is $\sum_j n_j\sum_{k\ne j} f(d_{jk})$ and
//! the gradient with respect to $v_j$ is $P_j\sum_{k\ne j}(n_j + n_k) \kappa d_{jk}^{-s-2}v_k$,
//! $P_j = I - v_jv_j^\top$. For the whole matrix every count is 1; for a batch it is how often the
//! label occurs. A row that counts meets every row, any other only those that count.
//!
//! A job is a tile of rows against its columns: cosines by a matrix product, forces in place, the
//! forces times the columns by a second product, summed in f64. No two jobs write to the same row
//! and their energies are added in order, so the threads leave no trace.
//!
//! Errors: in the working type $T$ a cosine is off by some $\varepsilon_T$ (unit rows rounded, their
//! product summed), so the forces of pairs that are not near are off by at most some
//! $16\varepsilon_T$ of themselves (`kernel::riesz_row`). Near pairs, whose forces grow without
//! bound, come from the rows' difference in f64: off by $\varepsilon_{f64}/d$, in f32 too. Each row
//! has itself among them, which is passed over.

use ndarray::{Array2, ArrayRef2, ArrayView2, ArrayViewMut1};
use rayon::prelude::*;

use crate::error::Error;
use crate::geometry::{SINGULAR, check_norm};
use crate::head::{contiguous, norm_of};
use crate::kernel::{self, Level, Mat, MatMut, Moments, Real};
use crate::parallel::work;

/// Rows in a job: enough to feed the matrix product, few enough that the classes of a batch
/// occupy several threads.
const ROWS: usize = 64;
/// Columns that a job meets at a time: with the rows they fit in the second-level cache.
const COLUMNS: usize = 128;
/// Rows whose norms are taken at a time.
const BLOCK: usize = 256;
/// Multiplications below which threads cost more than they save.
const WORTH_THREADS: usize = 1 << 20;

/// The loops of one exponent in one space.
#[derive(Clone, Copy)]
pub(super) struct Law<F> {
    row: fn(&mut [F], F, &[F], &mut Vec<usize>) -> f64,
    pair: fn(f64, f64) -> (f64, f64),
    opposites: f64,
}

impl<F: Real> Law<F> {
    pub fn new<const S: u8, const HALF: bool>() -> Self {
        Law {
            row: kernel::riesz_row::<F, S, HALF>,
            pair: kernel::riesz_pair::<S, HALF>,
            opposites: kernel::riesz_pair::<S, false>(4.0, 0.0).0,
        }
    }

    /// $f_s(2)$: the energy of a direction and its opposite.
    pub fn opposites(&self) -> f64 {
        self.opposites
    }
}

/// The directions and how often each counts.
pub(super) struct Sphere<'a, F> {
    weights: ArrayView2<'a, F>,
    inverse_norms: Vec<f64>,
    counts: Vec<usize>,
    law: Law<F>,
    workers: usize,
}

/// A row of the gradient.
struct Row<'a, F> {
    index: usize,
    gradient: ArrayViewMut1<'a, F>,
}

/// What one worker needs for itself.
#[derive(Default)]
struct Scratch<F> {
    /// Unit rows of the job (rows × dims) and of its present columns (columns × dims).
    rows: Vec<F>,
    columns: Vec<F>,
    /// $n_k$ of the present columns.
    counts: Vec<F>,
    /// Cosines, then forces (rows × columns).
    forces: Vec<F>,
    /// Forces times columns (rows × dims), and their sum over all columns.
    product: Vec<F>,
    sum: Vec<f64>,
    /// One unit row in f64.
    unit: Vec<f64>,
    near: Vec<usize>,
    x: Vec<F>,
    w: Vec<F>,
}

impl<'a, F: Real> Sphere<'a, F> {
    /// Checks every row and takes its norm.
    pub fn new(w: &'a ArrayRef2<F>, counts: Vec<usize>, law: Law<F>) -> Result<Self, Error> {
        Error::check_not_empty("class weights", w.shape())?;
        let counting = counts.iter().filter(|&&n| n > 0).count();
        let products = counting.saturating_mul(w.len());
        let workers = if products < WORTH_THREADS { 1 } else { rayon::current_num_threads() };
        let inverse_norms = inverse_norms(w.view(), workers > 1)?;
        Ok(Sphere { weights: w.view(), inverse_norms, counts, law, workers })
    }

    /// The energy and its gradient, both times `scale`.
    pub fn energy(&self, scale: f64) -> Result<(f64, Array2<F>), Error> {
        let mut gradient = Array2::zeros(self.weights.dim());
        let rows = gradient.rows_mut().into_iter().enumerate();
        let (mut counting, mut others): (Vec<_>, Vec<_>) = rows
            .map(|(index, gradient)| Row { index, gradient })
            .partition(|row| self.counts[row.index] > 0);
        let all: Vec<usize> = (0..self.counts.len()).collect();
        let targets: Vec<usize> = counting.iter().map(|row| row.index).collect();

        // The long jobs first: the short ones then fill the threads evenly.
        let long = counting.chunks_mut(ROWS).map(|rows| (rows, &all[..]));
        let short = others.chunks_mut(ROWS).map(|rows| (rows, &targets[..]));
        let mut energies = vec![Ok(0.0); long.len() + short.len()];
        let jobs = long.chain(short).zip(&mut energies);
        let mut workers: Vec<Scratch<F>> = Vec::new();
        workers.resize_with(self.workers, Scratch::default);
        work(jobs, &mut workers, |scratch, ((rows, columns), energy)| {
            *energy = self.meet(scratch, rows, columns).and_then(|energy| {
                self.finish(scratch, rows, scale)?;
                Ok(energy)
            });
        });
        let energy = energies.into_iter().try_fold(0.0, |sum, energy| Ok(sum + energy?))?;
        Ok((energy * scale, gradient))
    }

    /// Sums the forces on a tile of rows into `scratch.sum` and answers the rows' energy.
    fn meet(
        &self,
        scratch: &mut Scratch<F>,
        rows: &[Row<'_, F>],
        columns: &[usize],
    ) -> Result<f64, Error> {
        let dims = self.weights.ncols();
        self.pack(rows.iter().map(|row| row.index), &mut scratch.rows);
        scratch.sum.clear();
        scratch.sum.resize(rows.len() * dims, 0.0);
        scratch.product.resize(rows.len() * dims, F::zero());
        let mut energy = 0.0;
        for columns in columns.chunks(COLUMNS) {
            let n = columns.len();
            self.pack(columns.iter().copied(), &mut scratch.columns);
            scratch.counts.clear();
            scratch.counts.extend(columns.iter().map(|&k| F::narrow(self.counts[k] as f64)));
            scratch.forces.resize(rows.len() * n, F::zero());

            let row_matrix = Mat::new(&scratch.rows, rows.len(), dims);
            let column_matrix = Mat::new(&scratch.columns, n, dims);
            let cosines = MatMut::new(&mut scratch.forces, rows.len(), n, n);
            kernel::gemm(Level::detect(), cosines, false, row_matrix, column_matrix.t());
            for (i, row) in rows.iter().enumerate() {
                energy += self.row(scratch, (i, row.index), columns)?;
            }
            let forces = Mat::new(&scratch.forces, rows.len(), n);
            let column_matrix = Mat::new(&scratch.columns, n, dims);
            let product = MatMut::new(&mut scratch.product, rows.len(), dims, dims);
            kernel::gemm(Level::detect(), product, false, forces, column_matrix);
            kernel::add_scaled(&mut scratch.sum, 1.0, &scratch.product, 1.0);
        }
        Ok(energy)
    }

    /// Turns the cosines of row `i` of the tile, row `j` of the matrix, into forces, adds those of
    /// its near pairs to its sum, and answers its energy.
    fn row(
        &self,
        scratch: &mut Scratch<F>,
        (i, j): (usize, usize),
        columns: &[usize],
    ) -> Result<f64, Error> {
        let Scratch { forces, counts, sum, near, x, w, .. } = scratch;
        let (n, dims) = (columns.len(), self.weights.ncols());
        let (forces, sum) = (&mut forces[i * n..(i + 1) * n], &mut sum[i * dims..(i + 1) * dims]);
        let count = self.counts[j] as f64;
        let mut energy = (self.law.row)(forces, F::narrow(count), counts, near);
        for &k in near.iter().map(|&at| &columns[at]).filter(|&&k| k != j) {
            let row = (contiguous(self.weights.row(j), x), self.inverse_norms[j]);
            let other = (contiguous(self.weights.row(k), w), self.inverse_norms[k]);
            let Moments { difference, sum: opposite } =
                kernel::moments(row.0, other.0, row.1, other.1);
            let distance = difference.min(opposite).sqrt();
            if distance <= SINGULAR {
                return Err(Error::Pole { rows: [j, k], opposed: opposite < difference, distance });
            }
            let (value, force) = (self.law.pair)(difference, opposite);
            energy += value;
            // v_k − cos θ v_j: what is left of v_k in the tangent space at v_j.
            let tangent = (1.0 - 0.5 * difference, 0.0);
            let weight = count + self.counts[k] as f64;
            kernel::add_tangent(sum, row, other, tangent, weight * force);
        }
        Ok(count * energy)
    }

    /// From the sums of forces to the gradients: projected, divided by the norm, scaled.
    fn finish(
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
            let w = contiguous(self.weights.row(*index), &mut scratch.w);
            let inverse = self.inverse_norms[*index];
            kernel::add_scaled(&mut scratch.unit, 0.0, w, inverse);
            let along = kernel::dot(sum, &scratch.unit);
            kernel::add_scaled(sum, 1.0, &scratch.unit, -along);
            for (out, sum) in gradient.iter_mut().zip(sum) {
                let value = *sum * scale * inverse;
                *out = F::narrow(value);
                if !out.is_finite() {
                    let quantity = "the gradient of the energy";
                    let (bound, maximum) = (value.abs(), F::MAX);
                    return Err(Error::Overflow { quantity, row: *index, bound, maximum });
                }
            }
        }
        Ok(())
    }

    /// Unit rows, one after the other.
    fn pack(&self, rows: impl ExactSizeIterator<Item = usize>, out: &mut Vec<F>) {
        let (mut copy, dims) = (Vec::new(), self.weights.ncols());
        out.resize(rows.len() * dims, F::zero());
        for (out, j) in out.chunks_exact_mut(dims).zip(rows) {
            let row = contiguous(self.weights.row(j), &mut copy);
            kernel::scaled(out, row, self.inverse_norms[j]);
        }
    }
}

/// The inverse norm of every row; of several bad rows the first is named.
fn inverse_norms<F: Real>(w: ArrayView2<'_, F>, parallel: bool) -> Result<Vec<f64>, Error> {
    let mut inverse_norms = vec![0.0; w.nrows()];
    let fill = |(block, inverse_norms): (usize, &mut [f64])| {
        let mut copy = Vec::new();
        inverse_norms.iter_mut().zip(block * BLOCK..).find_map(|(inverse, index)| {
            let row = w.row(index);
            let norm = check_norm("class weights", index, row, norm_of(row, &mut copy));
            norm.map(|norm| *inverse = norm.recip()).err()
        })
    };
    let refused = if parallel {
        inverse_norms.par_chunks_mut(BLOCK).enumerate().find_map_first(fill)
    } else {
        inverse_norms.chunks_mut(BLOCK).enumerate().find_map(fill)
    };
    refused.map_or(Ok(inverse_norms), Err)
}
