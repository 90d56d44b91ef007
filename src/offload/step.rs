//! A step as far as its first sweep, and its losses.

use ndarray::{Array2, ArrayRef1, ArrayRef2, ArrayView2};

use super::classes::OffloadedClasses;
use crate::data::{
    Classes, IGNORED, LogitForm, Reduction, Samples, Scale, check_finite, check_norm,
    has_direction, norm_of,
};
use crate::error::Error;
use crate::head::{Engine, Head};
use crate::kernel::{BinaryLogits, Real, job};
use crate::loss::MarginLoss;
use crate::math::{LogSumExp, Smoothing};
use crate::step::{PreparedSample, StepInput, Workspace};

/// What the first sweep over the classes found for one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepStats {
    /// The log-sum-exp of all logits but that of the sample's own class and those `apart`, hard
    /// negatives up-weighted and the class prior added. Of a binary loss Σ_j softplus(z_j) of these
    /// logits, with a maximum of 0: `LogSumExp::new(0.0, sum)`.
    pub negatives: LogSumExp,
    /// The same without class prior; `negatives` where there is none.
    pub margin_free_negatives: LogSumExp,
    /// The sum of these logits, where labels are smoothed; of a binary loss that of their sigmoids.
    pub logit_sum: f64,
    /// The place among the swept classes, its own among them, of the one with the largest logit
    /// without margin and class prior and before hard negatives are up-weighted; the lowest of equals.
    pub nearest: usize,
    /// The same without the sample's own class; `None` where there is no other.
    pub nearest_negative: Option<NegativeLogit>,
    /// The negatives that the sums leave out, without their offsets: any that have at least the
    /// [`top_negatives`](OffloadedStep::top_negatives) nearest among them.
    pub apart: Vec<NegativeLogit>,
}

/// A class other than the sample's own, and its logit without margin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NegativeLogit {
    /// The place of the class among the swept classes.
    pub place: usize,
    /// The logit.
    pub logit: f64,
}

/// How hard negatives are up-weighted, in units of the logits: a logit z above the threshold
/// becomes `constant` + `linear`·z + `quadratic`·z². One number per row of the batch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HardNegativeLogits<F> {
    /// The thresholds (N).
    pub threshold: Vec<F>,
    /// The constant terms (N).
    pub constant: Vec<F>,
    /// The factor of the logit.
    pub linear: F,
    /// The factors of its square (N).
    pub quadratic: Vec<F>,
}

/// One step of [`Head`] whose sweeps over the classes run elsewhere, such as on a graphics card:
/// all that is exact in f64 on the CPU, for an engine of your own.
///
/// 1. [`Head::offload`] checks the batch and computes norms and target pairs from the embeddings and
///    the rows of the samples' own classes alone.
/// 2. The first sweep forms the logits z_ij = x̂_i·v_j + b_j of [`scaled_embeddings`] x̂ with the
///    class weights of [`swept_rows`], which are divided by their norms where [`is_normalized`] says
///    so, up-weights those of [`hard_negative_logits`], or makes them those of [`binary_logits`], adds
///    [`offsets`] and [`log_prior`], and finds [`SweepStats`].
/// 3. [`nearest_rows`] says which other class weights are read: none unless nearest negatives have a
///    margin or class weights are not normalized. With these, [`complete`] turns the statistics
///    into losses, and into what the second sweep needs.
/// 4. The second sweep turns logits into gradients by
///    [`OffloadedBackward`](super::OffloadedBackward).
///
/// [`swept_rows`]: OffloadedClasses::swept_rows
/// [`offsets`]: OffloadedClasses::offsets
/// [`log_prior`]: Self::log_prior
/// [`scaled_embeddings`]: Self::scaled_embeddings
/// [`is_normalized`]: Self::is_normalized
/// [`hard_negative_logits`]: Self::hard_negative_logits
/// [`binary_logits`]: Self::binary_logits
/// [`nearest_rows`]: Self::nearest_rows
/// [`complete`]: Self::complete
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head, Reduction};
/// use margin_softmax::offload::{LogSumExp, NegativeLogit, OffloadedClasses, SweepStats};
/// use ndarray::{array, Axis};
///
/// let (x, w) = (array![[0.9, 0.1]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let head = Head::new(ArcFace::new(8.0, 0.5)?);
/// let classes = OffloadedClasses::new(&[0], None, (2, 1))?;
/// let own = w.select(Axis(0), classes.own_rows());
/// let step = head.offload(&classes, (&x, &own, None), Some(Reduction::Mean))?;
///
/// // The sweep of an engine that has one other class, whose norm is 1.
/// let logits = step.scaled_embeddings().dot(&w.t());
/// let negatives = LogSumExp::new(logits[[0, 1]], 1.0);
/// let nearest_negative = Some(NegativeLogit { place: 1, logit: logits[[0, 1]] });
/// let mut stats = [SweepStats {
///     negatives,
///     margin_free_negatives: negatives,
///     logit_sum: 0.0,
///     nearest: 0,
///     nearest_negative,
///     apart: Vec::new(),
/// }];
/// let read = w.select(Axis(0), &step.nearest_rows(&mut stats)?);
/// let (forward, backward) = step.complete(&stats, (1.0, 1.0), &read)?;
/// assert_eq!(forward.losses, head.forward(&Batch::new(&x, &w, &[0]))?.losses);
/// assert_eq!(backward.logit_factors().shift[0], logits[[0, 1]]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct OffloadedStep<'a, F> {
    pub(super) classes: &'a OffloadedClasses<'a>,
    pub(super) input: StepInput<'a, F>,
    pub(super) form: LogitForm,
    pub(super) workspace: Workspace<F>,
    pub(super) smoothing: Smoothing,
}

impl<L: MarginLoss> Head<L> {
    /// Starts a step whose sweeps over the classes run elsewhere: embeddings (N, D), the `own` class
    /// weights, which are the rows of [`OffloadedClasses::own_rows`], and for Softmax the whole bias;
    /// the reduction where gradients follow.
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), but for what only the other class weights
    /// can be wrong with.
    pub fn offload<'a, F: Real>(
        &self,
        classes: &'a OffloadedClasses<'_>,
        (x, own, bias): (&'a ArrayRef2<F>, &'a ArrayRef2<F>, Option<&'a ArrayRef1<F>>),
        reduction: Option<Reduction<'a, F>>,
    ) -> Result<OffloadedStep<'a, F>, Error> {
        offload(self.engine(), classes, (x, own, bias), reduction)
    }
}

job!(
    fn offload<'a, 'c: 'a, 'e>(
        engine: Engine<'e, F>,
        classes: &'a OffloadedClasses<'c>,
        vectors: (&'a ArrayRef2<F>, &'a ArrayRef2<F>, Option<&'a ArrayRef1<F>>),
        reduction: Option<Reduction<'a, F>>,
    ) -> Result<OffloadedStep<'a, F>, Error> {
        let (x, own, bias) = vectors;
        let Engine { loss, settings, .. } = engine;
        let OffloadedClasses { ref own_rows, samples, .. } = *classes;
        let Samples { labels, sub_centers, .. } = samples;
        Error::check_not_empty("embeddings", x.shape())?;
        Error::check_shape("class weights", &[own_rows.len(), x.ncols()], own.shape())?;
        if let Some(bias) = bias {
            Error::check_shape("bias", &[classes.classes * sub_centers], bias.shape())?;
        }
        if let Some(labels) = labels {
            Error::check_shape("labels", &[x.nrows()], &[labels.len()])?;
            loss.check_classes(classes.classes)?;
        }
        let gathered = Classes::gathered(own.view(), bias.map(|bias| bias.view()), own_rows);
        let input = StepInput {
            embeddings: x.view(),
            classes: Classes { sub_centers, ..gathered },
            samples: Samples { sample: None, ..samples },
            range: 0..classes.classes,
            whole: true,
            settings,
            most: 0,
            reduction,
        };
        let mut workspace = Workspace::default();
        let form = workspace.prepare_without_sweeps(loss, &input)?;
        form.check_correction(classes.offsets::<F>().is_some())?;
        workspace.write_targets(x.nrows());
        workspace.set_hard(form, |norm| form.offloaded_scale::<F>(norm));
        let smoothing = Smoothing::new(form.smoothing, classes.active());
        Ok(OffloadedStep { classes, input, form, workspace, smoothing })
    }
);

impl<'a, F: Real> OffloadedStep<'a, F> {
    /// The same step with a class prior `p` (C), as
    /// [`Batch::with_log_prior`](crate::Batch::with_log_prior).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_log_prior(mut self, p: &'a ArrayRef1<F>) -> Result<Self, Error> {
        Error::check_shape("log prior", &[self.classes.classes], p.shape())?;
        check_finite("log prior", &p.view())?;
        self.input.classes.log_prior = Some(p.view());
        for sample in &mut self.workspace.samples {
            if let (Some(target), Some(class)) = (&mut sample.target, sample.class) {
                target.add_log_prior(self.input.classes.log_prior_of(class).widen());
            }
        }
        Ok(self)
    }

    /// The class prior of each class that is swept, which is added to its logit, up-weighted or not;
    /// `None` without, and in inference.
    pub fn log_prior(&self) -> Option<Vec<F>> {
        let prior = self.input.classes.log_prior.filter(|_| self.input.has_log_prior())?;
        let places = 0..self.classes.active();
        Some(places.map(|place| prior[self.classes.class_at(place)]).collect())
    }

    /// The embeddings times the scale of their cosines, a_i·u_i (N, D); zeros for samples that do
    /// not count. A fixed scale below the ε of `F` is ε here: smaller logits are as good as 0 to the
    /// exponential, and products with a tiny scale leave the range of `F`.
    pub fn scaled_embeddings(&self) -> Array2<F> {
        let mut all = Array2::zeros(self.input.embeddings.dim());
        let rows = self.workspace.embeddings.chunks_exact(all.ncols());
        for (sample, from) in self.workspace.samples.iter().zip(rows) {
            all.row_mut(sample.row).iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        all
    }

    /// The rows of the batch whose samples count, ascending.
    pub fn counted_rows(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.workspace.samples.iter().map(|sample| sample.row).collect();
        rows.sort_unstable();
        rows
    }

    /// Whether the class weights are divided by their norms.
    pub fn is_normalized(&self) -> bool {
        self.form.scale != Scale::Unnormalized
    }

    /// Whether labels are smoothed, so that the first sweep sums the logits.
    pub fn is_smoothed(&self) -> bool {
        self.form.smoothing > 0.0
    }

    /// How hard negatives are up-weighted; `None` where the loss up-weights none.
    pub fn hard_negative_logits(&self) -> Option<HardNegativeLogits<F>> {
        let [_, linear, _] = self.form.hard?.coefficients();
        let [threshold, constant, quadratic] = &self.workspace.hard;
        Some(HardNegativeLogits {
            threshold: self.by_row(|i| threshold[i]),
            constant: self.by_row(|i| constant[i]),
            linear: F::narrow(linear),
            quadratic: self.by_row(|i| quadratic[i]),
        })
    }

    /// How the logits of negatives become those of a binary loss, before a class prior; `None` for any
    /// other loss.
    pub fn binary_logits(&self) -> Option<BinaryLogits<F>> {
        self.form.binary_logits()
    }

    /// Whether class weights with norms in this range are valid. Where they are not,
    /// [`check_class_weights`](Self::check_class_weights) names the row.
    pub fn accepts_norms(&self, (least, most): (f64, f64)) -> bool {
        let valid = |norm: f64| has_direction::<F>(norm) || (self.form.plain && norm.is_finite());
        valid(least) && valid(most)
    }

    /// Refuses class weights that are not finite, or that have no direction where they need one;
    /// `first` is the place of the first row in the sweep. Returns their smallest and largest norm.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::DegenerateNorm`].
    pub fn check_class_weights(
        &self,
        rows: ArrayView2<'_, F>,
        first: usize,
    ) -> Result<(f64, f64), Error> {
        let mut buffer = Vec::new();
        let swept = self.classes.swept_rows();
        let number = |place| swept.as_ref().map_or(Some(place), |rows| rows.get(place).copied());
        let rows = rows.rows().into_iter().zip(first..);
        rows.into_iter().try_fold((f64::INFINITY, 0.0_f64), |(least, most), (row, place)| {
            let norm = norm_of(row, &mut buffer);
            let (directed, number) = (!self.form.plain, number(place).unwrap_or(place));
            let norm = check_norm("class weights", number, row, norm, directed)?;
            Ok((least.min(norm), most.max(norm)))
        })
    }

    /// The nearest class of every embedding, from what the first sweep found; [`IGNORED`] for one
    /// that does not count.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Label`] as [`complete`](Self::complete).
    pub fn predictions(&self, stats: &[SweepStats]) -> Result<Vec<usize>, Error> {
        self.check_places(stats)?;
        let mut predictions = vec![IGNORED; stats.len()];
        for &PreparedSample { row, .. } in &self.workspace.samples {
            predictions[row] = self.classes.class_at(stats[row].nearest);
        }
        Ok(predictions)
    }

    /// Refuses a batch whose logits or gradients may leave the range of `F`; `weight_norms` are the
    /// smallest and the largest norm of a class weight. [`complete`](Self::complete) does so, too.
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub fn check_range(&self, weight_norms: (f64, f64)) -> Result<(), Error> {
        let (samples, classes) = (&self.workspace.samples, self.smoothing.classes());
        self.input.check_range(self.form, samples, weight_norms, classes).map(|_| ())
    }

    /// A number for each row of the batch, from those of the samples that count; 0 for others.
    pub(super) fn by_row(&self, number: impl Fn(usize) -> F) -> Vec<F> {
        let mut all = vec![F::zero(); self.input.embeddings.nrows()];
        for (i, sample) in self.workspace.samples.iter().enumerate() {
            all[sample.row] = number(i);
        }
        all
    }
}
