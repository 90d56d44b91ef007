//! What the second sweep needs.

use ndarray::Array2;

use super::complete::OffloadedBackward;
use super::step::OffloadedStep;
use crate::data::{Scale, contiguous};
use crate::kernel::Real;
use crate::step::{NearestPair, Workspace};

/// What turns logits into their gradients in the second sweep: coefficient_i·e^{z_ij − shift_i} −
/// uniform_i for the negatives, times the derivative of their up-weighting; of a binary loss
/// coefficient_i·sigmoid(z_ij), times the derivative of [`BinaryLogits`](super::BinaryLogits). One number
/// per row of the batch; 0 for samples that do not count. A gradient of a logit below the smallest number
/// of `F`, as of a class that is nearly certain, loses its digits.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogitFactors<F> {
    /// What is subtracted before the exponential (N).
    pub shift: Vec<F>,
    /// What multiplies the exponential (N).
    pub coefficient: Vec<F>,
    /// What label smoothing subtracts (N); all 0 without.
    pub uniform: Vec<F>,
    /// The places of the classes of nearest negatives with a margin of their own (N lists): as for
    /// the sample's own class, no gradient comes from the sweep.
    pub apart: Vec<Vec<usize>>,
}

/// How Σ_j G_ij·v_j becomes the gradient of embedding i, where G are the gradients of the logits of
/// [`LogitFactors`] and v the class weights that the logits are products with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EmbeddingGradient<F> {
    /// Under a fixed scale: s as the scaled embeddings have it, and s/‖x_i‖ (N; 0 for samples that do
    /// not count). The sum loses its
    /// part along the unit embedding x̂_i/s, and is multiplied by s/‖x_i‖.
    pub projected: Option<(F, Vec<F>)>,
    /// Where the up-weighting of negatives depends on the norm: 1/‖x_i‖ (N). With R_i the sum over
    /// the negatives of G_ij/N′(z_ij)·(N(z_ij) − z_ij·N′(z_ij)), R_i/‖x_i‖ along the unit embedding
    /// is added.
    pub inverse_norms: Option<Vec<F>>,
    /// What the samples' own classes, the margins and the penalty add (N, D).
    pub targets: Array2<F>,
}

/// What the samples' own classes, and the nearest negatives with a margin of their own, add to the
/// gradients of class weights and bias.
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
        let OffloadedStep { classes, form, .. } = self.step;
        let Workspace { samples, nearest, .. } = &self.workspace;
        let mut apart = vec![Vec::new(); self.step.input.embeddings.nrows()];
        for NearestPair { class, sample, .. } in nearest {
            let row = classes.place_of(self.rows[*class]);
            apart[samples[*sample].row].push(row / self.step.input.classes.sub_centers);
        }
        // The scaled embeddings have another scale than s where that is tiny.
        let lift = |i: usize| {
            let norm = samples[i].norm;
            form.made_up(norm, form.offloaded_scale::<F>(norm))
        };
        LogitFactors {
            shift: self.step.by_row(|i| F::narrow(samples[i].terms.shift)),
            coefficient: self.step.by_row(|i| F::narrow(samples[i].terms.coefficient * lift(i))),
            uniform: self.step.by_row(|i| F::narrow(samples[i].terms.uniform * lift(i))),
            apart,
        }
    }

    /// How the second sweep's sums become gradients of the embeddings.
    pub fn embedding_gradient(&self) -> EmbeddingGradient<F> {
        let (form, samples) = (self.step.form, &self.workspace.samples);
        let by_norm = form.hard.is_some() && form.scale == Scale::FeatureNorm;
        let mut targets = Array2::zeros(self.step.input.embeddings.dim());
        let (mut sum, mut copy) = (vec![0.0; targets.ncols()], Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            sum.fill(0.0);
            let class = sample.class;
            let w = class.map(|class| contiguous(self.step.input.classes.weight(class), &mut copy));
            let x = self.step.input.embeddings;
            self.workspace.finish_embedding(form, x, w, (i, 0.0), &mut sum);
            let row = targets.row_mut(sample.row).into_iter();
            row.zip(&sum).for_each(|(to, from)| *to = F::narrow(*from));
        }
        let projected = match form.scale {
            Scale::Fixed(_) => {
                let s = form.offloaded_scale::<F>(0.0);
                Some((F::narrow(s), self.step.by_row(|i| F::narrow(s / samples[i].norm))))
            }
            Scale::FeatureNorm | Scale::Unnormalized => None,
        };
        let inverse_norms =
            by_norm.then(|| self.step.by_row(|i| F::narrow(samples[i].norm.recip())));
        EmbeddingGradient { projected, inverse_norms, targets }
    }

    /// What the samples' own classes, and the nearest negatives with a margin of their own, add to the
    /// gradients of class weights and bias.
    pub fn target_gradients(&self) -> TargetGradients<F> {
        let Workspace { samples, nearest, .. } = &self.workspace;
        let (classes, x) = (&self.step.input.classes, self.step.input.embeddings);
        let dims = x.ncols();
        let own = samples.iter().filter_map(|sample| sample.class);
        let pairs = nearest.iter().map(|pair| self.rows[pair.class]);
        let mut numbers: Vec<usize> = own.map(|class| classes.row_of(class)).chain(pairs).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (mut rows, mut bias, mut sum) = (Vec::new(), Vec::new(), vec![0.0; dims]);
        let (mut weights, mut copy) = (Array2::zeros((numbers.len(), dims)), Vec::new());
        // The samples are sorted by class.
        let before = |class| samples.partition_point(|s| s.class.is_some_and(|own| own < class));
        for (number, mut row) in numbers.into_iter().zip(weights.rows_mut()) {
            let own = self.step.classes.own_rows.binary_search(&number).ok();
            let targets = own.map_or(0..0, |class| before(class)..before(class + 1));
            let pair = self.rows.binary_search(&number).ok();
            let nearest = pair.map_or(&[][..], |class| self.workspace.nearest_of(class..class + 1));
            let w = own.map(|class| classes.weight(class));
            let w = w.or(pair.map(|class| self.read.row(class)));
            let (Some(w), Some(row)) = (w, row.as_slice_mut()) else { continue };
            rows.push(self.step.classes.place_of(number));
            let (w, pairs) = (contiguous(w, &mut copy), (targets, nearest));
            let of_bias = self.workspace.add_pairs(self.step.form, x, w, pairs, row, &mut sum);
            bias.push(F::narrow(of_bias));
        }
        TargetGradients { rows, weights, bias }
    }
}
