//! The vectors of the cosines.

use ndarray::{Array2, ArrayRef2, Axis};

use crate::data::{check_matrices, check_norm, has_direction, norm_of};
use crate::error::Error;
use crate::kernel::{self, Level, Mat, Packed, Precision, Real};
use crate::math::{CLASS_WEIGHT, EMBEDDING, Pair};
use crate::parallel::run_jobs;

/// The vectors of the cosines. Angles of target pairs and gradients are computed from them. Arrays
/// hold what embeddings have, then what class weights have.
#[derive(Debug, Clone)]
pub(crate) struct Source<F> {
    pub vectors: [Array2<F>; 2],
    pub norms: [Vec<f64>; 2],
    /// Whether each is so short or so long that under Softmax its gradients do not pass through
    /// cosines and norms: zero, or such that the product of two such norms may leave the range of
    /// `F`.
    pub extreme: [Vec<bool>; 2],
}

impl<F: Real> Source<F> {
    /// The vectors of embeddings `x` and class weights `w`, which are copied.
    pub fn new(x: &ArrayRef2<F>, w: &ArrayRef2<F>) -> Result<Self, Error> {
        check_matrices(x, w)?;
        let norms = [norms("embeddings", x)?, norms("class weights", w)?];
        let vectors = [x, w].map(|matrix| matrix.as_standard_layout().into_owned());
        let is_extreme = |norm: &f64| !has_direction::<F>(norm * norm);
        let extreme = norms.each_ref().map(|norms| norms.iter().map(is_extreme).collect());
        Ok(Source { vectors, norms, extreme })
    }

    pub fn row(&self, side: usize, row: usize) -> &[F] {
        let dims = self.vectors[side].ncols();
        &slice(&self.vectors[side])[row * dims..(row + 1) * dims]
    }

    /// Embedding `i` and class weight `j`.
    pub fn pair(&self, i: usize, j: usize) -> Pair {
        let [x, w] = [self.row(EMBEDDING, i), self.row(CLASS_WEIGHT, j)];
        Pair::new(x, w, self.norms[EMBEDDING][i], self.norms[CLASS_WEIGHT][j])
    }

    /// Of `count` rows from `first` on, that at the smallest angle from sample `i`; the first of
    /// equals. In f64, where the cosines near ±1 are equal already.
    pub fn nearest_row(&self, i: usize, first: usize, count: usize) -> usize {
        let mut nearest = (f64::INFINITY, first);
        for j in first..first + count {
            let theta = if count > 1 { self.pair(i, j).angle.theta } else { 0.0 };
            if theta < nearest.0 {
                nearest = (theta, j);
            }
        }
        nearest.1
    }

    /// c_ij in f64, 0 for a zero row.
    pub fn cosine(&self, i: usize, j: usize) -> F {
        let (r, q) = (self.norms[EMBEDDING][i], self.norms[CLASS_WEIGHT][j]);
        if r == 0.0 || q == 0.0 {
            return F::zero();
        }
        let terms = self.row(EMBEDDING, i).iter().zip(self.row(CLASS_WEIGHT, j));
        F::narrow(terms.map(|(x, w)| (x.widen() / r) * (w.widen() / q)).sum())
    }

    /// c_ij (N, C).
    pub fn cosines(&self) -> Array2<F> {
        const ROWS: usize = 64;
        let Source { vectors: [x, w], norms: [x_norms, w_norms], .. } = self;
        let (n, dims) = x.dim();
        let units = units(x, x_norms);
        let (level, mut packed) = (Level::detect(), Packed::default());
        let weights = packed.pack(level, Precision::Full, Mat::new(slice(w), w.nrows(), dims).t());
        let inverse = |&norm: &f64| if has_direction::<F>(norm) { norm.recip() } else { 0.0 };
        let factors: Vec<F> = w_norms.iter().map(|norm| F::narrow(inverse(norm))).collect();
        let mut cosines = Array2::zeros((n, w.nrows()));
        let blocks = cosines.axis_chunks_iter_mut(Axis(0), ROWS).zip(units.chunks(ROWS * dims));
        run_jobs(blocks, &mut for_workers::<()>(), |(), (mut block, units)| {
            let (rows, classes) = block.dim();
            let out = slice_mut(&mut block);
            let units = Mat::new(units, rows, dims);
            kernel::gemm(out, false, units, weights);
            for row in out.chunks_exact_mut(classes) {
                for (c, &factor) in row.iter_mut().zip(&factors) {
                    *c *= factor;
                }
            }
        });
        // Rows so short or so long that only Softmax accepts them: their cosines in f64, one by one.
        let undirected = |norms: &[f64]| {
            let undirected = |&i: &usize| !has_direction::<F>(norms[i]);
            (0..norms.len()).filter(undirected).collect::<Vec<usize>>()
        };
        for i in undirected(x_norms) {
            (0..w.nrows()).for_each(|j| cosines[[i, j]] = self.cosine(i, j));
        }
        for j in undirected(w_norms) {
            (0..n).for_each(|i| cosines[[i, j]] = self.cosine(i, j));
        }
        cosines
    }
}

fn norms<F: Real>(argument: &'static str, matrix: &ArrayRef2<F>) -> Result<Vec<f64>, Error> {
    let mut buffer = Vec::new();
    let rows = matrix.rows().into_iter().enumerate();
    rows.map(|(row, values)| check_norm(argument, row, values, norm_of(values, &mut buffer), false))
        .collect()
}

/// The entries of a matrix that this module allocated.
pub(super) fn slice<F>(matrix: &ArrayRef2<F>) -> &[F] {
    matrix.as_slice().expect(OWN_LAYOUT)
}

pub(super) fn slice_mut<F>(matrix: &mut ArrayRef2<F>) -> &mut [F] {
    matrix.as_slice_mut().expect(OWN_LAYOUT)
}

const OWN_LAYOUT: &str = "matrices made here, and blocks of their rows, are in standard layout";

/// The rows of a matrix divided by their norms; zeros where a row has no direction.
pub(super) fn units<F: Real>(x: &Array2<F>, norms: &[f64]) -> Vec<F> {
    let rows = x.rows().into_iter().zip(norms);
    let unit = |v: F, norm: f64| if has_direction::<F>(norm) { v.widen() / norm } else { 0.0 };
    rows.flat_map(|(row, &norm)| row.into_iter().map(move |&v| F::narrow(unit(v, norm)))).collect()
}

/// A buffer for each thread.
pub(super) fn for_workers<T: Default>() -> Vec<T> {
    (0..rayon::current_num_threads()).map(|_| T::default()).collect()
}
