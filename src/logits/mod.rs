//! The materialised level: cosines of every embedding with every class, held as a matrix.

mod gradients;
mod rows;

pub use gradients::LogitGradients;
pub(crate) use rows::{backward, forward, margin_free};

use ndarray::{Array1, Array2, ArrayRef1, ArrayRef2, ArrayView1, Axis};

use crate::batch::{Gradients, check_finite, check_matrices};
use crate::error::Error;
use crate::geometry::check_norm;
use crate::head::norm_of;
use crate::kernel::{self, Level, Mat, MatMut, Real};
use crate::parallel::work;

/// Cosines made elsewhere may exceed 1 by this much: rounding, not a mistake.
const COSINE_SLACK: f64 = 1e-3;

/// The cosines of N embeddings with C class weights, and the norms that they were freed of.
///
/// $$ c_{ij} = \frac{x_i\cdot w_j}{\lVert x_i\rVert\lVert w_j\rVert} $$
///
/// It holds N×C numbers, to be looked at or changed; [`Head`](crate::Head) gives the same losses
/// and gradients without holding them. Losses and gradients are those of
/// [`MarginLoss::forward`](crate::MarginLoss::forward) and
/// [`backward`](crate::MarginLoss::backward).
///
/// ```
/// use margin_softmax::{ArcFace, MarginLoss, NormalizedLogits, Reduction};
/// use ndarray::array;
///
/// let x = array![[3.0, 0.0], [1.0, 1.0]];
/// let w = array![[2.0, 0.0], [0.0, 5.0]];
/// let logits = NormalizedLogits::new(&x, &w)?;
/// assert_eq!(logits.cosines()[[0, 0]], 1.0);
/// assert_eq!(logits.feature_norms()[0], 3.0);
/// let (loss, labels) = (ArcFace::new(16.0, 0.5)?, [0, 1]);
/// let forward = loss.forward(&logits, &labels)?;
/// let gradients = loss.backward(&logits, &labels, &forward, Reduction::Mean)?;
/// let gradients = logits.backward(&gradients)?;
/// assert_eq!(gradients.embeddings.dim(), (2, 2));
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct NormalizedLogits<F> {
    cosines: Array2<F>,
    feature_norms: Array1<F>,
    weight_norms: Array1<F>,
    bias: Option<Array1<F>>,
    source: Option<Source<F>>,
}

/// What the cosines were made of: the target pairs' angles and the gradients come from here.
#[derive(Debug, Clone)]
struct Source<F> {
    x: Array2<F>,
    w: Array2<F>,
    x_norms: Vec<f64>,
    w_norms: Vec<f64>,
}

impl<F: Real> Source<F> {
    fn x(&self, i: usize) -> &[F] {
        row(&self.x, i)
    }

    fn w(&self, j: usize) -> &[F] {
        row(&self.w, j)
    }
}

/// Row `i` of a matrix in standard layout.
fn row<F>(matrix: &Array2<F>, i: usize) -> &[F] {
    let columns = matrix.ncols();
    &matrix.as_slice().unwrap_or_default()[i * columns..(i + 1) * columns]
}

impl<F: Real> NormalizedLogits<F> {
    /// The cosines of embeddings `x` (N, D) with class weights `w` (C, D), in any layout. Both are
    /// copied: the angles of the target pairs, which a cosine near ±1 no longer holds, are taken
    /// from them.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::DegenerateNorm`].
    pub fn new(x: &ArrayRef2<F>, w: &ArrayRef2<F>) -> Result<Self, Error> {
        check_matrices(x, w)?;
        let x_norms = norms("embeddings", x)?;
        let w_norms = norms("class weights", w)?;
        let narrow = |norms: &[f64]| norms.iter().map(|&norm| F::narrow(norm)).collect();
        let (x, w) = (x.as_standard_layout().into_owned(), w.as_standard_layout().into_owned());
        Ok(NormalizedLogits {
            cosines: cosines(&x, &w, &x_norms, &w_norms),
            feature_norms: narrow(&x_norms),
            weight_norms: narrow(&w_norms),
            bias: None,
            source: Some(Source { x, w, x_norms, w_norms }),
        })
    }

    /// Cosines (N, C) made elsewhere; all norms are taken as 1. Gradients end at the cosines and
    /// the target angles. The angle of a target pair is that of its cosine, with the digits that
    /// the cosine still holds.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NonFinite`], and [`Error::Cosine`] for what exceeds 1 by more
    /// than 1e-3. Up to there cosines are taken as they come; only the target's angle reads them
    /// as 1.
    pub fn from_cosines(cosines: Array2<F>) -> Result<Self, Error> {
        Error::check_not_empty("cosines", cosines.shape())?;
        let is_cosine = |c: &F| (0.0..=1.0 + COSINE_SLACK).contains(&c.widen().abs());
        if let Some(((row, column), value)) = cosines.indexed_iter().find(|(_, c)| !is_cosine(c)) {
            let value = value.widen();
            return Err(if value.is_finite() {
                Error::Cosine { row, column, value }
            } else {
                Error::NonFinite { argument: "cosines", row, column, value }
            });
        }
        let (n, c) = cosines.dim();
        let cosines = if cosines.is_standard_layout() {
            cosines
        } else {
            cosines.as_standard_layout().into_owned()
        };
        Ok(NormalizedLogits {
            cosines,
            feature_norms: Array1::ones(n),
            weight_norms: Array1::ones(c),
            bias: None,
            source: None,
        })
    }

    /// The same cosines with the norms `r` (N) of the embeddings, for losses whose scale is the
    /// feature norm.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], [`Error::DegenerateNorm`].
    pub fn with_feature_norms(self, r: Array1<F>) -> Result<Self, Error> {
        Error::check_shape("feature norms", &[self.cosines.nrows()], r.shape())?;
        for (row, norm) in r.iter().enumerate() {
            check_norm(
                "feature norms",
                row,
                ArrayView1::from(std::slice::from_ref(norm)),
                norm.widen(),
            )?;
        }
        Ok(NormalizedLogits { feature_norms: r, ..self })
    }

    /// The same logits with a bias `b` (C). Only Softmax takes it; any other loss answers
    /// [`Error::Bias`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_bias(self, b: &ArrayRef1<F>) -> Result<Self, Error> {
        Error::check_shape("bias", &[self.cosines.ncols()], b.shape())?;
        check_finite("bias", &b.view())?;
        Ok(NormalizedLogits { bias: Some(b.to_owned()), ..self })
    }

    /// The cosines (N, C).
    pub fn cosines(&self) -> &Array2<F> {
        &self.cosines
    }

    /// The norms of the embeddings (N).
    pub fn feature_norms(&self) -> &Array1<F> {
        &self.feature_norms
    }

    /// The norms of the class weights (C).
    pub fn weight_norms(&self) -> &Array1<F> {
        &self.weight_norms
    }

    /// The bias (C), where there is one.
    pub fn bias(&self) -> Option<&Array1<F>> {
        self.bias.as_ref()
    }

    /// Carries gradients on through the normalisation, to embeddings and class weights.
    ///
    /// A target pair's share is taken from `target_angles`, which is exact at every angle; its
    /// entry in `cosines` is not read.
    ///
    /// # Errors
    /// [`Error::Detached`] where the logits were built [`from_cosines`](Self::from_cosines);
    /// [`Error::Shape`] or [`Error::Label`] where the gradients are those of other logits.
    pub fn backward(&self, gradients: &LogitGradients<F>) -> Result<Gradients<F>, Error> {
        let source = self.source.as_ref().ok_or(Error::Detached)?;
        gradients.check(self)?;
        gradients.check_labels(self)?;
        Ok(gradients::through_normalisation(source, gradients))
    }
}

fn norms<F: Real>(argument: &'static str, matrix: &ArrayRef2<F>) -> Result<Vec<f64>, Error> {
    let mut buffer = Vec::new();
    let rows = matrix.rows().into_iter().enumerate();
    rows.map(|(row, values)| check_norm(argument, row, values, norm_of(values, &mut buffer)))
        .collect()
}

fn cosines<F: Real>(x: &Array2<F>, w: &Array2<F>, x_norms: &[f64], w_norms: &[f64]) -> Array2<F> {
    const ROWS: usize = 64;
    let (n, dims) = x.dim();
    let units = units(x, x_norms);
    let weights = Mat::new(w.as_slice().unwrap_or_default(), w.nrows(), dims).t();
    let factors: Vec<F> = w_norms.iter().map(|norm| F::narrow(norm.recip())).collect();
    let mut cosines = Array2::zeros((n, w.nrows()));
    let blocks = cosines.axis_chunks_iter_mut(Axis(0), ROWS).zip(units.chunks(ROWS * dims));
    work(blocks, &mut vec![(); workers()], |(), (mut block, units)| {
        let (rows, classes) = block.dim();
        let slice = block.as_slice_mut().unwrap_or_default();
        let units = Mat::new(units, rows, dims);
        kernel::gemm(
            Level::detect(),
            MatMut::new(slice, rows, classes, classes),
            false,
            units,
            weights,
        );
        for row in slice.chunks_exact_mut(classes) {
            for (c, &factor) in row.iter_mut().zip(&factors) {
                *c *= factor;
            }
        }
    });
    cosines
}

/// The rows of a matrix divided by their norms.
fn units<F: Real>(x: &Array2<F>, norms: &[f64]) -> Vec<F> {
    let rows = x.rows().into_iter().zip(norms);
    rows.flat_map(|(row, norm)| row.into_iter().map(move |v| F::narrow(v.widen() / norm))).collect()
}

fn workers() -> usize {
    rayon::current_num_threads()
}
