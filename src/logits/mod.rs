//! The materialized level: cosines of every embedding with every class, held as a matrix.

mod gradients;
mod source;

use gradients::Backprop;
pub use gradients::LogitGradients;
pub(crate) use source::Source;
use source::{for_workers, slice, slice_mut, units};

use ndarray::{Array1, Array2, ArrayRef1, ArrayRef2, ArrayView1};

use crate::data::{Gradients, Samples, check_finite, check_norm, check_rows_of_sub_centers};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::math::CLASS_WEIGHT;

/// Given cosines may exceed 1 by this much: rounding, not a mistake.
const COSINE_SLACK: f64 = 1e-3;

/// The cosines of N embeddings with C class weights, and the norms that were divided out.
///
/// ```text
/// c_ij = x_i·w_j / (‖x_i‖·‖w_j‖)
/// ```
///
/// It holds N×C numbers, which can be read or changed; [`Head`](crate::Head) gives the same losses
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
    pub(crate) cosines: Array2<F>,
    pub(crate) feature_norms: Array1<F>,
    pub(crate) weight_norms: Array1<F>,
    pub(crate) bias: Option<Array1<F>>,
    pub(crate) log_prior: Option<Array1<F>>,
    /// Without labels, which the methods of a loss are given.
    pub(crate) samples: Samples<'static>,
    /// For each sample and class the nearest of the rows (N, C); empty where there is one row.
    nearest: Array2<u32>,
    pub(crate) source: Option<Source<F>>,
}

impl<F: Real> NormalizedLogits<F> {
    /// The cosines of embeddings `x` (N, D) with class weights `w` (C, D), in any layout. Both are
    /// copied: the angles of the target pairs, which a cosine near ±1 no longer holds, are taken
    /// from them. A zero row has cosine 0 with everything; only Softmax accepts one, and any other
    /// loss returns [`Error::DegenerateNorm`].
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`].
    pub fn new(x: &ArrayRef2<F>, w: &ArrayRef2<F>) -> Result<Self, Error> {
        from_vectors(x, w)
    }

    fn of(cosines: Array2<F>, norms: [Array1<F>; 2], source: Option<Source<F>>) -> Self {
        let [feature_norms, weight_norms] = norms;
        NormalizedLogits {
            cosines,
            feature_norms,
            weight_norms,
            bias: None,
            log_prior: None,
            samples: Samples::new(None),
            nearest: Array2::zeros((0, 0)),
            source,
        }
    }

    /// Cosines (N, C) computed elsewhere; all norms are taken as 1. Gradients end at the cosines
    /// and the target angles. The angle of a target pair is that of its cosine, with the digits
    /// that the cosine still holds.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NonFinite`], and [`Error::Cosine`] for what exceeds 1 by more
    /// than 1e-3. Smaller excesses are kept; only the target's angle treats them as 1.
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
        Ok(Self::of(cosines, [n, c].map(Array1::ones), None))
    }

    /// The same logits, built from cosines, with the norms `r` (N) of the embeddings, for losses
    /// whose scale is the feature norm.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for logits that were built from embeddings and hold their norms;
    /// [`Error::Shape`], [`Error::NonFinite`], [`Error::DegenerateNorm`].
    pub fn with_feature_norms(self, r: Array1<F>) -> Result<Self, Error> {
        let reason = "these logits hold the norms of the embeddings they were built from: only \
                      logits of NormalizedLogits::from_cosines take feature norms";
        Error::check_supported(self.source.is_none(), reason)?;
        Error::check_shape("feature norms", &[self.cosines.nrows()], r.shape())?;
        for (row, norm) in r.iter().enumerate() {
            let values = ArrayView1::from(std::slice::from_ref(norm));
            check_norm("feature norms", row, values, norm.widen(), true)?;
        }
        Ok(NormalizedLogits { feature_norms: r, ..self })
    }

    /// The same logits with a bias `b` (C). Only Softmax takes it; any other loss returns
    /// [`Error::Bias`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_bias(self, b: &ArrayRef1<F>) -> Result<Self, Error> {
        Ok(NormalizedLogits { bias: Some(self.of_classes("bias", b)?), ..self })
    }

    /// The same logits with a class prior `p` (C), for any loss: it is added to the logits of
    /// [`MarginLoss::forward`](crate::MarginLoss::forward) and
    /// [`backward`](crate::MarginLoss::backward), but not to
    /// [`margin_free_logits`](crate::MarginLoss::margin_free_logits). As
    /// [`Batch::with_log_prior`](crate::Batch::with_log_prior).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_log_prior(self, p: &ArrayRef1<F>) -> Result<Self, Error> {
        Ok(NormalizedLogits { log_prior: Some(self.of_classes("log prior", p)?), ..self })
    }

    /// A copy of finite numbers, one for each class.
    fn of_classes(&self, argument: &'static str, v: &ArrayRef1<F>) -> Result<Array1<F>, Error> {
        Error::check_shape(argument, &[self.cosines.ncols()], v.shape())?;
        check_finite(argument, &v.view())?;
        // Collected: a copy by `to_owned` would keep the order of a reversed view.
        Ok(v.iter().copied().collect())
    }

    /// The same logits with K sub-centers per class: of every `k` cosines of a sample in turn the
    /// largest is that of the class, the first of equals, so that the cosines are (N, C) for C·K rows
    /// of class weights. As [`Batch::with_sub_centers`](crate::Batch::with_sub_centers), but once:
    /// the cosines with the other rows are gone then.
    ///
    /// Softmax, whose logits are no cosines, returns [`Error::Unsupported`].
    ///
    /// ```
    /// use margin_softmax::NormalizedLogits;
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
    /// let logits = NormalizedLogits::new(&array![[0.0, 2.0]], &w)?.with_sub_centers(2)?;
    /// assert_eq!(logits.cosines(), array![[1.0, 0.0]]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Parameter`] for K = 0 and where K has been set, [`Error::Shape`] where the rows are no
    /// multiple of K.
    pub fn with_sub_centers(self, k: usize) -> Result<Self, Error> {
        let unset = self.samples.sub_centers == 1;
        Error::check_parameter("sub-centers per class k", k as f64, "set once", unset)?;
        let classes = check_rows_of_sub_centers(self.cosines.ncols(), k)?;
        if k == 1 {
            return Ok(self);
        }
        let mut cosines = Array2::zeros((self.cosines.nrows(), classes));
        let mut nearest = Array2::zeros(cosines.dim());
        let entries = cosines.iter_mut().zip(&mut nearest);
        for ((cosine, nearest), rows) in entries.zip(slice(&self.cosines).chunks_exact(k)) {
            *cosine = rows[0];
            for (&c, row) in rows.iter().zip(0_u32..) {
                if c > *cosine {
                    (*cosine, *nearest) = (c, row);
                }
            }
        }
        let samples = Samples { sub_centers: k, ..self.samples };
        Ok(NormalizedLogits { cosines, samples, nearest, ..self })
    }

    /// The same logits without the samples of this label: their loss and gradient are 0, they count
    /// neither in the mean nor in the accuracy, and their prediction is
    /// [`IGNORED`](crate::IGNORED). `label` is the number of a class, or
    /// [`IGNORED`](crate::IGNORED), which no class has.
    pub fn with_ignored_label(self, label: usize) -> Self {
        NormalizedLogits { samples: Samples { ignored: Some(label), ..self.samples }, ..self }
    }

    /// As [`Batch::with_first_row`](crate::Batch::with_first_row).
    pub fn with_first_row(self, first: usize) -> Self {
        NormalizedLogits { samples: Samples { first_row: first, ..self.samples }, ..self }
    }

    /// The cosines (N, C).
    pub fn cosines(&self) -> &Array2<F> {
        &self.cosines
    }

    /// The norms of the embeddings (N); infinite for a row of finite numbers whose norm is beyond `F`.
    pub fn feature_norms(&self) -> &Array1<F> {
        &self.feature_norms
    }

    /// The norms of the rows of class weights (C), as [`feature_norms`](Self::feature_norms); with K
    /// sub-centers (C·K).
    pub fn weight_norms(&self) -> &Array1<F> {
        &self.weight_norms
    }

    /// Which of the rows of class `j` is nearest to sample `i`.
    pub(crate) fn nearest(&self, i: usize, j: usize) -> usize {
        self.nearest.get([i, j]).map_or(0, |&nearest| nearest as usize)
    }

    /// The norms of the rows of class weights, in f64 where the vectors are known.
    pub(crate) fn norms_of_weights(&self) -> Vec<f64> {
        match &self.source {
            Some(source) => source.norms[CLASS_WEIGHT].clone(),
            None => self.weight_norms.iter().map(|norm| norm.widen()).collect(),
        }
    }

    /// The bias (C), where there is one.
    pub fn bias(&self) -> Option<&Array1<F>> {
        self.bias.as_ref()
    }

    /// The class prior (C), where there is one.
    pub fn log_prior(&self) -> Option<&Array1<F>> {
        self.log_prior.as_ref()
    }

    /// Propagates gradients through the normalization, to embeddings and class weights.
    ///
    /// A target pair's share is taken from `target_angles`, which is exact at every angle; its
    /// entry in `cosines` is not read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the logits were built [`from_cosines`](Self::from_cosines), and
    /// for gradients filled by hand without
    /// [`with_labels`](LogitGradients::with_labels); [`Error::Shape`] or [`Error::Label`] where the
    /// gradients are those of other logits.
    pub fn backward(&self, gradients: &LogitGradients<F>) -> Result<Gradients<F>, Error> {
        backward(self, gradients)
    }
}

job!(
    fn from_vectors<'a>(
        x: &'a ArrayRef2<F>,
        w: &'a ArrayRef2<F>,
    ) -> Result<NormalizedLogits<F>, Error> {
        let source = Source::new(x, w)?;
        let narrow = |norms: &[f64]| norms.iter().map(|&norm| F::narrow(norm)).collect();
        let norms = source.norms.each_ref().map(|norms| narrow(norms));
        Ok(NormalizedLogits::of(source.cosines(), norms, Some(source)))
    }
);

job!(
    fn backward<'a>(
        logits: &'a NormalizedLogits<F>,
        gradients: &'a LogitGradients<F>,
    ) -> Result<Gradients<F>, Error> {
        let detached = Error::Unsupported(
            "these logits were built from cosines: build them with NormalizedLogits::new to get \
             gradients of embeddings and weights",
        );
        let source = logits.source.as_ref().ok_or(detached)?;
        Ok(Backprop::new(logits, source, gradients)?.run())
    }
);
