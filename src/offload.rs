//! A step whose sweeps over the classes run elsewhere, such as on a graphics card.

use std::borrow::Cow;

use ndarray::{Array2, ArrayRef1, ArrayRef2, ArrayView2};

use crate::data::{
    ClassSample, Classes, Forward, IGNORED, Reduction, SampleStats, Scale, TargetLogit, check_norm,
    check_sub_centers, contiguous, has_direction, norm_of,
};
use crate::error::Error;
use crate::head::{Engine, Head};
use crate::kernel::{Real, job};
use crate::loss::MarginLoss;
pub use crate::math::{LogSumExp, SampleTerms, Smoothing, sample_terms};
use crate::step::{HardSamples, Prepared, PreparedSample, StepInput};

/// The classes of an [`OffloadedStep`], and the rows of their weights that it reads in main memory:
/// those of the samples' own classes.
#[derive(Debug, Clone, PartialEq)]
pub struct OffloadedClasses<'a> {
    labels: Option<&'a [usize]>,
    ignored: Option<usize>,
    own_rows: Vec<usize>,
    classes: usize,
    sub_centers: usize,
    sample: Option<&'a ClassSample>,
}

impl<'a> OffloadedClasses<'a> {
    /// All of C `classes`, each with `sub_centers` rows of class weights, for samples with these
    /// `labels`; those with the label `ignored` do not count.
    ///
    /// # Errors
    /// [`Error::Label`] for a label ≥ C, [`Error::Parameter`] for zero sub-centers.
    pub fn new(
        labels: &'a [usize],
        ignored: Option<usize>,
        (classes, sub_centers): (usize, usize),
    ) -> Result<Self, Error> {
        Error::check_labels(labels, classes, ignored)?;
        let mut own: Vec<usize> = labels.to_vec();
        own.retain(|label| Some(*label) != ignored);
        own.sort_unstable();
        own.dedup();
        let k = check_sub_centers(sub_centers)?;
        let own_rows = own.into_iter().flat_map(|class| class * k..(class + 1) * k).collect();
        let (labels, sample) = (Some(labels), None);
        Ok(OffloadedClasses { labels, ignored, own_rows, classes, sub_centers, sample })
    }

    /// All of C `classes` for embeddings without labels: predictions.
    ///
    /// # Errors
    /// [`Error::Parameter`] for zero sub-centers.
    pub fn for_inference((classes, sub_centers): (usize, usize)) -> Result<Self, Error> {
        let unlabeled = OffloadedClasses::new(&[], None, (classes, sub_centers))?;
        Ok(OffloadedClasses { labels: None, ..unlabeled })
    }

    /// The same, where only the classes of `sample` are active.
    ///
    /// # Errors
    /// [`Error::Sample`] and [`Error::SampledRange`] for a sample that does not fit.
    pub fn with_sample(self, sample: &'a ClassSample) -> Result<Self, Error> {
        sample.check(self.labels, self.ignored, &(0..self.classes))?;
        Ok(OffloadedClasses { sample: Some(sample), ..self })
    }

    /// The rows of class weights that the step reads, ascending, each once: to be gathered.
    pub fn own_rows(&self) -> &[usize] {
        &self.own_rows
    }

    /// The rows of class weights to sweep over, ascending, in the order of their places; `None` for
    /// all rows, each at its own number.
    pub fn swept_rows(&self) -> Option<Cow<'a, [usize]>> {
        self.sample.map(|sample| sample.selected(self.sub_centers))
    }

    /// What is added to the logit of each row that is swept, where a sample is corrected for: no
    /// parameter, so without a gradient.
    pub fn offsets<F: Real>(&self) -> Option<Vec<F>> {
        let corrected = self.sample.filter(|_| self.labels.is_some());
        corrected.and_then(|sample| sample.offsets(self.sub_centers))
    }

    /// The place of each sample's own class among the classes that are swept (N), whose rows start
    /// at K times that place: its logit is none of the sample's negatives. `None` without labels;
    /// arbitrary for a sample that does not count.
    pub fn own_places(&self) -> Option<&'a [usize]> {
        let labels = self.labels?;
        Some(self.sample.map_or(labels, |sample| &sample.labels))
    }

    /// How many classes are swept.
    fn active(&self) -> usize {
        self.sample.map_or(self.classes, |sample| sample.classes.len())
    }

    /// The class at this place of the sweep, which there is.
    fn class_at(&self, place: usize) -> usize {
        self.sample.map_or(place, |sample| sample.classes[place])
    }

    /// The place in the sweep of a row of class weights that is swept.
    fn place_of(&self, row: usize) -> usize {
        let k = self.sub_centers;
        self.sample.map_or(row, |sample| {
            sample.classes.partition_point(|&class| class < row / k) * k + row % k
        })
    }
}

/// What the first sweep over the classes found for one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SweepStats {
    /// The log-sum-exp of all logits but that of the sample's own class, hard negatives up-weighted.
    pub negatives: LogSumExp,
    /// The sum of these logits, where labels are smoothed.
    pub logit_sum: f64,
    /// The place among the swept classes, its own among them, of the one with the largest logit
    /// without margin and before hard negatives are up-weighted; the lowest of equals.
    pub nearest: usize,
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

/// What turns logits into their gradients in the second sweep: coefficient_i·e^{z_ij − shift_i} −
/// uniform_i for the negatives, times the derivative of their up-weighting. One number per row of
/// the batch; 0 for samples that do not count.
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

/// One step of [`Head`] whose sweeps over the classes run elsewhere, such as on a graphics card:
/// all that is exact in f64 on the CPU, for an engine of your own.
///
/// 1. [`Head::offload`] checks the batch and computes norms and target pairs from the embeddings and
///    the rows of the samples' own classes alone.
/// 2. The first sweep forms the logits z_ij = x̂_i·v_j + b_j of [`scaled_embeddings`] x̂ with the
///    class weights of [`swept_rows`], which are divided by their norms where [`is_normalized`] says
///    so, adds [`offsets`], up-weights those of [`hard_negative_logits`], and finds [`SweepStats`].
/// 3. [`complete`] turns these into losses, and into what the second sweep needs.
/// 4. The second sweep turns logits into gradients by [`OffloadedBackward`].
///
/// [`swept_rows`]: OffloadedClasses::swept_rows
/// [`offsets`]: OffloadedClasses::offsets
/// [`scaled_embeddings`]: Self::scaled_embeddings
/// [`is_normalized`]: Self::is_normalized
/// [`hard_negative_logits`]: Self::hard_negative_logits
/// [`complete`]: Self::complete
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head, Reduction};
/// use margin_softmax::offload::{LogSumExp, OffloadedClasses, SweepStats};
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
/// let stats = [SweepStats { negatives, logit_sum: 0.0, nearest: 0 }];
/// let (forward, backward) = step.complete(&stats, (1.0, 1.0))?;
/// assert_eq!(forward, head.forward(&Batch::new(&x, &w, &[0]))?);
/// assert_eq!(backward.logit_factors().shift[0], logits[[0, 1]]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct OffloadedStep<'a, F> {
    classes: &'a OffloadedClasses<'a>,
    input: StepInput<'a, F>,
    prepared: Prepared<F>,
    hard: HardSamples<F>,
    smoothing: Smoothing,
}

/// What the second sweep of an [`OffloadedStep`] needs: [`logit_factors`](Self::logit_factors) turn
/// logits into their gradients; [`embedding_gradient`](Self::embedding_gradient) and
/// [`target_gradients`](Self::target_gradients) say what is left to add.
#[derive(Debug)]
pub struct OffloadedBackward<'s, 'a, F> {
    step: &'s OffloadedStep<'a, F>,
    terms: Vec<SampleTerms>,
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
        F::run::<Offload<'_, '_, '_>>((self.engine(), classes, (x, own, bias), reduction))
    }
}

job!(
    Offload<'a, 'c: 'a, 'e>,
    OffloadInput<'a, 'c, 'e, F> => Result<OffloadedStep<'a, F>, Error>,
    offload
);
type OffloadInput<'a, 'c, 'e, F> = (
    Engine<'e, F>,
    &'a OffloadedClasses<'c>,
    (&'a ArrayRef2<F>, &'a ArrayRef2<F>, Option<&'a ArrayRef1<F>>),
    Option<Reduction<'a, F>>,
);

fn offload<'a, F: Real>(
    (engine, classes, (x, own, bias), reduction): OffloadInput<'a, '_, '_, F>,
) -> Result<OffloadedStep<'a, F>, Error> {
    let Engine { loss, settings, .. } = engine;
    let OffloadedClasses { ref own_rows, labels, ignored, sub_centers, .. } = *classes;
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
        labels,
        ignored,
        range: 0..classes.classes,
        whole: true,
        sample: None,
        settings,
        most: 0,
        reduction,
    };
    let prepared = Prepared::without_sweeps(loss, &input)?;
    let Prepared { form, samples, .. } = &prepared;
    let target = |sample: &PreparedSample| sample.target.map_or(0.0, |t| t.target.value);
    let mut hard = HardSamples::default();
    hard.set(*form, samples.iter().map(|s| (s.norm, F::narrow(target(s)).widen())));
    let smoothing = Smoothing::new(form.smoothing, classes.active());
    Ok(OffloadedStep { classes, input, prepared, hard, smoothing })
}

impl<'a, F: Real> OffloadedStep<'a, F> {
    /// The embeddings times the scale of their cosines, a_i·u_i (N, D); zeros for samples that do
    /// not count.
    pub fn scaled_embeddings(&self) -> Array2<F> {
        let mut all = Array2::zeros(self.input.embeddings.dim());
        let rows = self.prepared.embeddings.chunks_exact(all.ncols());
        for (sample, from) in self.prepared.samples.iter().zip(rows) {
            all.row_mut(sample.row).iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        all
    }

    /// The rows of the batch whose samples count, ascending.
    pub fn counted_rows(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.prepared.samples.iter().map(|sample| sample.row).collect();
        rows.sort_unstable();
        rows
    }

    /// Whether the class weights are divided by their norms.
    pub fn is_normalized(&self) -> bool {
        self.prepared.form.scale != Scale::Unnormalized
    }

    /// Whether labels are smoothed, so that the first sweep sums the logits.
    pub fn is_smoothed(&self) -> bool {
        self.prepared.form.smoothing > 0.0
    }

    /// How hard negatives are up-weighted; `None` where the loss up-weights none.
    pub fn hard_negative_logits(&self) -> Option<HardNegativeLogits<F>> {
        let [_, linear, _] = self.prepared.form.hard?.coefficients();
        let hard = &self.hard;
        Some(HardNegativeLogits {
            threshold: self.by_row(|i| hard.threshold[i]),
            constant: self.by_row(|i| hard.constant[i]),
            linear: F::narrow(linear),
            quadratic: self.by_row(|i| hard.quadratic[i]),
        })
    }

    /// Whether class weights with norms in this range are valid. Where they are not,
    /// [`check_class_weights`](Self::check_class_weights) names the row.
    pub fn accepts_norms(&self, (least, most): (f64, f64)) -> bool {
        let valid =
            |norm: f64| has_direction::<F>(norm) || (self.prepared.form.plain && norm.is_finite());
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
            let (directed, number) = (!self.prepared.form.plain, number(place).unwrap_or(place));
            let norm = check_norm("class weights", number, row, norm, directed)?;
            Ok((least.min(norm), most.max(norm)))
        })
    }

    /// Turns what the first sweep found, for every row of the batch, into losses; `weight_norms` are
    /// the smallest and the largest norm of a class weight.
    ///
    /// # Errors
    /// [`Error::Overflow`] where a logit or a gradient may leave the range of `F`; [`Error::Shape`]
    /// unless there are as many `stats` as samples; [`Error::Label`] where the nearest class of one
    /// that counts is no place of the sweep.
    pub fn complete(
        &self,
        stats: &[SweepStats],
        weight_norms: (f64, f64),
    ) -> Result<(Forward<F>, OffloadedBackward<'_, 'a, F>), Error> {
        self.check_range(weight_norms)?;
        let predictions = self.predictions(stats)?;
        let mut forward = Forward::with_samples(predictions.len(), self.prepared.form);
        let terms = self.prepared.samples.iter().map(|sample| {
            let prediction = predictions[sample.row];
            let stats = self.sample_stats(sample, &stats[sample.row], prediction);
            forward.record(&stats, self.smoothing, sample.upstream)
        });
        let terms = terms.collect();
        Ok((forward, OffloadedBackward { step: self, terms }))
    }

    /// The nearest class of every embedding, from what the first sweep found; [`IGNORED`] for one
    /// that does not count.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Label`] as [`complete`](Self::complete).
    pub fn predictions(&self, stats: &[SweepStats]) -> Result<Vec<usize>, Error> {
        let rows = self.input.embeddings.nrows();
        Error::check_shape("stats of the sweep", &[rows], &[stats.len()])?;
        let mut predictions = vec![IGNORED; rows];
        for &PreparedSample { row, .. } in &self.prepared.samples {
            let (label, classes) = (stats[row].nearest, self.classes.active());
            if label >= classes {
                return Err(Error::Label { row, label, classes });
            }
            predictions[row] = self.classes.class_at(label);
        }
        Ok(predictions)
    }

    /// Refuses a batch whose logits or gradients may leave the range of `F`; `weight_norms` are the
    /// smallest and the largest norm of a class weight. [`complete`](Self::complete) does so, too.
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub fn check_range(&self, weight_norms: (f64, f64)) -> Result<(), Error> {
        let Prepared { form, samples, .. } = &self.prepared;
        let classes = self.smoothing.classes();
        self.input.check_range(*form, samples, weight_norms, classes).map(|_| ())
    }

    fn sample_stats(
        &self,
        sample: &PreparedSample,
        stats: &SweepStats,
        prediction: usize,
    ) -> SampleStats {
        let classes = &self.input.classes;
        let sub_center = sample.class.map_or(0, |class| classes.sub_center_of(class));
        SampleStats {
            row: sample.row,
            label: sample.class.map_or(IGNORED, |class| classes.label_of(class)),
            norm: sample.norm,
            negatives: stats.negatives,
            mean_share: self.smoothing.share(stats.logit_sum),
            target: sample.target.map(|pair| TargetLogit::new(&pair, sub_center)),
            prediction,
            best: stats.negatives.max,
        }
    }

    /// A number for each row of the batch, from those of the samples that count; 0 for others.
    fn by_row(&self, number: impl Fn(usize) -> F) -> Vec<F> {
        let mut all = vec![F::zero(); self.input.embeddings.nrows()];
        for (i, sample) in self.prepared.samples.iter().enumerate() {
            all[sample.row] = number(i);
        }
        all
    }
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
            self.step.prepared.finish_embedding(samples, w, (i, 0.0), &mut sum);
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
            self.step.prepared.add_target_pairs(of_batch, w, targets, row, &mut sum);
        }
        let mut matrix = Array2::zeros((rows.len(), dims));
        matrix.iter_mut().zip(weights).for_each(|(to, from)| *to = from);
        TargetGradients { rows, weights: matrix, bias }
    }
}
