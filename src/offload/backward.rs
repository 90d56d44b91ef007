//! What the second sweep needs.

use ndarray::Array2;

use super::step::OffloadedBackward;
use crate::data::{Scale, contiguous};
use crate::kernel::Real;
use crate::step::Prepared;

/// What turns logits into their gradients in the second sweep: coefficient_i·e^{z_ij − shift_i} −
/// uniform_i for the negatives, times the derivative of their up-weighting; of a binary loss
/// coefficient_i·sigmoid(z_ij), times the derivative of [`BinaryLogits`](super::BinaryLogits). One number
/// per row of the batch; 0 for samples that do not count.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogitFactors<F> {
    /// What is subtracted before the exponential (N).
    pub shift: Vec<F>,
    /// What multiplies the exponential (N).
    pub coefficient: Vec<F>,
    /// What label smoothing subtracts (N); all 0 without.
    pub uniform: Vec<F>,
}

/// How Σ_j G_ij·v_j becomes the gradient of embedding i, where G are the gradients of the logits of
/// [`LogitFactors`] and v the class weights that the logits are products with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EmbeddingGradient<F> {
    /// Under a fixed scale: s, and s/‖x_i‖ (N; 0 for samples that do not count). The sum loses its
    /// part along the unit embedding x̂_i/s, and is multiplied by s/‖x_i‖.
    pub projected: Option<(F, Vec<F>)>,
    /// Where the up-weighting of negatives depends on the norm: 1/‖x_i‖ (N). With R_i the sum over
    /// the negatives of G_ij/N′(z_ij)·(N(z_ij) − z_ij·N′(z_ij)), R_i/‖x_i‖ along the unit embedding
    /// is added.
    pub inverse_norms: Option<Vec<F>>,
    /// What the samples' own classes, the margin and the penalty add (N, D).
    pub targets: Array2<F>,
}

/// What the samples' own classes add to the gradients of class weights and bias.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TargetGradients<F> {
    /// The places of rows of class weights in the sweep, ascending, each once.
    pub rows: Vec<usize>,
    /// What is added to the gradients of these rows.
    pub weights: Array2<F>,
    /// What is added to the gradients of their bias.
    pub bias: Vec<F>,
}

impl<F: Real> OffloadedBackward<'_, '_, F> {
    /// How the second sweep turns logits into gradients.
    pub fn logit_factors(&self) -> LogitFactors<F> {
        LogitFactors {
            shift: self.step.by_row(|i| F::narrow(self.terms[i].shift)),
            coefficient: self.step.by_row(|i| F::narrow(self.terms[i].coefficient)),
            uniform: self.step.by_row(|i| F::narrow(self.terms[i].uniform)),
        }
    }

    /// How the second sweep's sums become gradients of the embeddings.
    pub fn embedding_gradient(&self) -> EmbeddingGradient<F> {
        let Prepared { form, samples, .. } = &self.step.prepared;
        let by_norm = form.hard.is_some() && form.scale == Scale::FeatureNorm;
        let mut targets = Array2::zeros(self.step.input.embeddings.dim());
        let (mut sum, mut copy) = (vec![0.0; targets.ncols()], Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            sum.fill(0.0);
            let class = sample.class;
            let w = class.map(|class| contiguous(self.step.input.classes.weight(class), &mut copy));
            let samples = (self.step.input.embeddings, &self.terms[..]);
            self.step.prepared.finish_embedding(samples, (w, None), (i, 0.0), &mut sum);
            let row = targets.row_mut(sample.row).into_iter();
            row.zip(&sum).for_each(|(to, from)| *to = F::narrow(*from));
        }
        let projected = match form.scale {
            Scale::Fixed(s) => {
                Some((F::narrow(s), self.step.by_row(|i| F::narrow(s / samples[i].norm))))
            }
            Scale::FeatureNorm | Scale::Unnormalized => None,
        };
        let inverse_norms =
            by_norm.then(|| self.step.by_row(|i| F::narrow(samples[i].norm.recip())));
        EmbeddingGradient { projected, inverse_norms, targets }
    }

    /// What the samples' own classes add to the gradients of class weights and bias.
    pub fn target_gradients(&self) -> TargetGradients<F> {
        let Prepared { samples, .. } = &self.step.prepared;
        let (classes, dims) = (&self.step.input.classes, self.step.input.embeddings.ncols());
        let (mut rows, mut bias, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sum, mut copy) = (vec![0.0; dims], Vec::new());
        let mut first = 0;
        // The samples are sorted by class.
        for group in samples.chunk_by(|a, b| a.class == b.class) {
            let targets = first..first + group.len();
            first = targets.end;
            let Some(class) = group[0].class else { continue };
            let terms = self.terms[targets.clone()].iter();
            bias.push(F::narrow(terms.map(|terms| terms.target_gradient).sum()));
            rows.push(self.step.classes.place_of(classes.row_of(class)));
            let start = weights.len();
            weights.resize(start + dims, F::zero());
            let w = contiguous(classes.weight(class), &mut copy);
            let of_batch = (self.step.input.embeddings, &self.terms[..]);
            let row = &mut weights[start..];
            self.step.prepared.add_pairs(of_batch, w, (targets, &[]), row, &mut sum);
        }
        let mut matrix = Array2::zeros((rows.len(), dims));
        matrix.iter_mut().zip(weights).for_each(|(to, from)| *to = from);
        TargetGradients { rows, weights: matrix, bias }
    }
}
