//! What the forward pass returns.

use ndarray::Array1;

use super::batch::Reduction;
use super::form::LogitForm;
use super::labels::IGNORED;
use super::sample_stats::SampleStats;
use crate::kernel::Real;
use crate::math::{LogSumExp, SampleTerms, Smoothing};

/// Per-sample losses of a batch, neither reduced nor capped, and metrics to monitor training.
///
/// Accuracy, predictions, target angles and margin-free losses are free of the margin and of a class
/// prior, as they are at inference, and come from the same sweep as the losses. Samples that were left out (an ignored
/// label, a zero embedding under [`ZeroEmbedding::Skip`](crate::ZeroEmbedding)) have loss 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward<F> {
    /// L_i (N).
    pub losses: Array1<F>,
    target_angles: Array1<F>,
    margin_free_losses: Array1<F>,
    norms: Array1<F>,
    predictions: Vec<usize>,
    nearest_negatives: (Vec<usize>, Array1<F>),
    sub_centers: Vec<usize>,
    counted: usize,
    correct: usize,
    form: LogitForm,
    negatives: Vec<LogSumExp>,
    target_logits: Vec<f64>,
    penalties: Vec<f64>,
    /// dL_i/db of a binary loss; empty for any other.
    bias_slopes: Vec<f64>,
    bias_gradient: OfReduction,
}

/// The derivative of the reduced losses by the bias of a binary loss. Passes over the same batch are
/// equal whatever the reduction.
#[derive(Debug, Clone, Copy)]
struct OfReduction(Option<f64>);

impl PartialEq for OfReduction {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<F: Real> Forward<F> {
    /// A pass over `samples`, each left out until it is recorded.
    pub(crate) fn with_samples(samples: usize, form: LogitForm) -> Self {
        Forward {
            losses: Array1::zeros(samples),
            target_angles: Array1::from_elem(samples, F::narrow(std::f64::consts::FRAC_PI_2)),
            margin_free_losses: Array1::zeros(samples),
            norms: Array1::zeros(samples),
            predictions: vec![IGNORED; samples],
            nearest_negatives: (vec![IGNORED; samples], -Array1::<F>::ones(samples)),
            sub_centers: vec![IGNORED; samples],
            counted: 0,
            correct: 0,
            form,
            negatives: vec![LogSumExp::NONE; samples],
            target_logits: vec![0.0; samples],
            penalties: vec![0.0; samples],
            bias_slopes: vec![0.0; if form.binary.is_some() { samples } else { 0 }],
            bias_gradient: OfReduction(None),
        }
    }

    /// The same pass with the derivative of the reduced losses by the bias of a binary loss: of their
    /// mean where they are not reduced.
    pub(crate) fn with_reduction(self, reduction: Option<Reduction<'_, F>>) -> Self {
        let bias_gradient = self.reduced_bias(reduction.unwrap_or(Reduction::Mean));
        Forward { bias_gradient: OfReduction(bias_gradient), ..self }
    }

    /// The derivative of the reduced losses by the bias of a binary loss.
    pub(crate) fn reduced_bias(&self, reduction: Reduction<'_, F>) -> Option<f64> {
        self.form.binary?;
        let slopes = self.bias_slopes.iter().enumerate();
        Some(slopes.map(|(i, slope)| reduction.weight(i, self.counted) * slope).sum())
    }

    /// What lies between the sweeps: counts a sample, once its target is known. Returns its terms,
    /// for a loss that counts `upstream` times.
    pub(crate) fn record(
        &mut self,
        sample: &SampleStats,
        smoothing: Smoothing,
        upstream: f64,
    ) -> SampleTerms {
        let (i, negatives) = (sample.row, sample.negatives);
        let target_logit = sample.target.map_or(f64::INFINITY, |target| target.logit);
        let terms = self.form.terms(negatives, target_logit, upstream);
        if let Some(target) = sample.target {
            let loss = terms.loss + smoothing.loss(target_logit, sample.mean_share);
            self.losses[i] = F::narrow(loss + target.penalty);
            let margin_free =
                self.form.terms(sample.margin_free_negatives, target.margin_free, 0.0);
            self.margin_free_losses[i] = F::narrow(margin_free.loss);
            self.target_angles[i] = F::narrow(target.angle);
            self.norms[i] = F::narrow(sample.norm);
            self.predictions[i] = sample.prediction;
            self.nearest_negatives.0[i] = sample.nearest_negative.label;
            self.nearest_negatives.1[i] = F::narrow(sample.nearest_negative.cosine);
            self.sub_centers[i] = target.sub_center;
            self.negatives[i] = negatives;
            self.target_logits[i] = target.logit;
            self.penalties[i] = target.penalty;
            if let Some(binary) = self.form.binary {
                let sigmoids = sample.mean_share * smoothing.classes() as f64;
                self.bias_slopes[i] = binary.bias_slope(sigmoids, target.logit);
            }
            self.counted += 1;
            self.correct += usize::from(sample.prediction == sample.label);
        }
        smoothing.gradients(terms, upstream)
    }

    /// Whether sample `i` has the same target and, but for rounding, negatives in another pass, which
    /// may round in another order: by docs/math.md, section 9.2, each log-sum-exp, or sum of softplus,
    /// is right to 16ε·(1 + `largest`), the largest logit times how steeply it changes with the cosine.
    pub(crate) fn is_of_same_pass(
        &self,
        other: &Self,
        i: usize,
        (largest, classes): (f64, usize),
    ) -> bool {
        let [a, b] = [self, other].map(|pass| pass.negatives[i]);
        // Of a sum below this, softplus may have underflowed.
        let floor = classes as f64 * F::min_positive_value().widen() / F::epsilon().widen();
        let difference = (a.max - b.max) + (a.sum.max(floor) / b.sum.max(floor)).ln();
        let is_rounding = difference.abs() <= 32.0 * F::epsilon().widen() * (1.0 + largest);
        self.form == other.form
            && self.target_logits[i] == other.target_logits[i]
            && self.penalties[i] == other.penalties[i]
            && self.target_angles[i] == other.target_angles[i]
            && (a == b || is_rounding)
    }

    /// The same pass, in which each sample that counts chose another of its sub-centers.
    pub(crate) fn with_sub_centers(mut self, chosen: impl Fn(usize) -> usize) -> Self {
        for (i, sub_center) in self.sub_centers.iter_mut().enumerate() {
            if *sub_center != IGNORED {
                *sub_center = chosen(i);
            }
        }
        self
    }

    /// The mean loss over the samples that count; 0 where every sample was left out.
    pub fn mean(&self) -> F {
        self.mean_of(&self.losses)
    }

    /// The sum of the losses.
    pub fn sum(&self) -> F {
        F::narrow(self.losses.iter().map(|loss| loss.widen()).sum())
    }

    /// The share of samples whose nearest class is their own, without margin, in [0, 1]. Of
    /// classes that are equally near, the one with the lowest number is taken.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.counted.max(1) as f64
    }

    /// How many samples count: those that were not left out.
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// The nearest class of each sample, without margin (N); [`IGNORED`] for a sample that was left
    /// out.
    pub fn predictions(&self) -> &[usize] {
        &self.predictions
    }

    /// The nearest negative of each sample, without margin: the class other than its own with the
    /// largest logit (N), and its cosine (N). [`IGNORED`] and −1 where there is none: for a sample that
    /// was left out, and without other classes.
    ///
    /// Counted over an epoch they show which classes are mistaken for one another, and, where the
    /// cosine is near 1, which labels may be one and the same.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
    /// let forward = Head::new(ArcFace::default()).forward(&Batch::new(&array![[0.6, 0.8]], &w, &[0]))?;
    /// let (classes, cosines) = forward.nearest_negatives();
    /// assert_eq!(classes, [1]);
    /// approx::assert_relative_eq!(cosines[0], 0.8, max_relative = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn nearest_negatives(&self) -> (&[usize], &Array1<F>) {
        (&self.nearest_negatives.0, &self.nearest_negatives.1)
    }

    /// Which of the K sub-centers of its own class each sample is nearest to (N), from 0 to K − 1: 0
    /// without sub-centers, [`IGNORED`] for a sample that was left out.
    /// [`SubCenterUsage`](crate::sub_centers::SubCenterUsage) counts them.
    pub fn sub_centers(&self) -> &[usize] {
        &self.sub_centers
    }

    /// The angle between each embedding and the weight of its class, in radians (N). π/2 where
    /// there is none: for a sample that was left out, and for a zero vector under Softmax.
    pub fn target_angles(&self) -> &Array1<F> {
        &self.target_angles
    }

    /// The losses as they would be without the margin (N): log(1 + e^{S_i − z°_iy}) with the plain
    /// target logit z°, without label smoothing, penalty and class prior. They show progress while a margin
    /// grows, which raises the losses themselves. Hard negatives count as they do in the losses.
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let batch = Batch::new(&x, &w, &[0]);
    /// let with_margin = Head::new(CosFace::new(16.0, 0.3)?).forward(&batch)?;
    /// let without = Head::new(CosFace::new(16.0, 0.0)?).forward(&batch)?;
    /// assert_eq!(with_margin.margin_free_losses(), without.losses);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn margin_free_losses(&self) -> &Array1<F> {
        &self.margin_free_losses
    }

    /// The norms of the embeddings ‖x_i‖ (N); 0 for a sample that was left out. For logits built
    /// from cosines, the norms that they were given, or 1.
    pub fn norms(&self) -> &Array1<F> {
        &self.norms
    }

    /// The derivative of the reduced losses by the bias b of a binary loss
    /// ([`SphereFace2`](crate::SphereFace2), [`UnifiedCrossEntropy`](crate::UnifiedCrossEntropy)), which
    /// is learned with it; of the mean loss where no gradient was requested. `None` for any other loss.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, UnifiedCrossEntropy};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let loss = UnifiedCrossEntropy::default();
    /// let mut head = Head::new(loss.clone().with_bias(loss.starting_bias(2))?);
    /// let forward = head.forward(&Batch::new(&x, &w, &[0]))?;
    /// let b = head.loss().b() - 0.1 * forward.bias_gradient().unwrap();
    /// *head.loss_mut() = loss.with_bias(b)?;
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn bias_gradient(&self) -> Option<f64> {
        self.bias_gradient.0
    }

    /// The norms of the samples that count, in their order: those to
    /// [`observe`](crate::AdaFace::observe).
    ///
    /// ```
    /// use margin_softmax::{AdaFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[30.0, 40.0], [1.0, 9.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let mut head = Head::new(AdaFace::default());
    /// let forward = head.forward(&Batch::new(&x, &w, &[1, 0]).with_ignored_label(0))?;
    /// assert_eq!(forward.counted_norms(), [50.0]);
    /// head.loss_mut().observe(&forward.counted_norms())?;
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn counted_norms(&self) -> Vec<F> {
        self.of_counted(&self.norms).collect()
    }

    /// The target angles of the samples that count, in their order: those to
    /// [`observe`](crate::CurricularFace::observe).
    pub fn counted_target_angles(&self) -> Vec<F> {
        self.of_counted(&self.target_angles).collect()
    }

    /// The mean target angle of the samples that count, in radians; 0 where every sample was left
    /// out.
    pub fn mean_target_angle(&self) -> F {
        self.mean_of(&self.target_angles)
    }

    /// The mean of the margin-free losses of the samples that count; 0 where every sample was left
    /// out.
    pub fn mean_margin_free_loss(&self) -> F {
        self.mean_of(&self.margin_free_losses)
    }

    fn of_counted(&self, values: &Array1<F>) -> impl Iterator<Item = F> {
        let counted = |(prediction, _): &(&usize, &F)| **prediction != IGNORED;
        self.predictions.iter().zip(values).filter(counted).map(|(_, &value)| value)
    }

    fn mean_of(&self, values: &Array1<F>) -> F {
        let sum: f64 = self.of_counted(values).map(|value| value.widen()).sum();
        F::narrow(sum / self.counted.max(1) as f64)
    }
}
