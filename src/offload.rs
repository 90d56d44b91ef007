//! A step whose sweeps over the classes run elsewhere, such as on a graphics card.

use ndarray::{Array2, ArrayRef1, ArrayRef2, ArrayView2};

use crate::data::{
    ClassSample, Classes, Forward, Reduction, Scale, check_norm, check_sub_centers, contiguous,
    has_direction, norm_of,
};
use crate::error::Error;
use crate::head::{Engine, Head};
use crate::kernel::{Real, job};
use crate::loss::MarginLoss;
pub use crate::math::{LogSumExp, SampleTerms, Smoothing, sample_terms};
use crate::step::{Prepared, PreparedSample, SampleStats, StepInput, TargetLogit};

/// The classes of an [`OffloadedStep`], and the rows of their weights that it reads in main memory:
/// those of the samples' own classes.
#[derive(Debug, Clone, PartialEq)]
pub struct OffloadedClasses<'a> {
    labels: Option<&'a [usize]>,
    ignored: Option<usize>,
    rows: Vec<usize>,
    classes: usize,
    taking_part: usize,
    sub_centers: usize,
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
        let rows = own.into_iter().flat_map(|class| class * k..(class + 1) * k).collect();
        let (labels, taking_part) = (Some(labels), classes);
        Ok(OffloadedClasses { labels, ignored, rows, classes, taking_part, sub_centers })
    }

    /// All of C `classes` for embeddings without labels: predictions.
    ///
    /// # Errors
    /// [`Error::Parameter`] for zero sub-centers.
    pub fn for_inference((classes, sub_centers): (usize, usize)) -> Result<Self, Error> {
        let unlabelled = OffloadedClasses::new(&[], None, (classes, sub_centers))?;
        Ok(OffloadedClasses { labels: None, ..unlabelled })
    }

    /// The same, where only the classes of `sample` are active.
    ///
    /// # Errors
    /// [`Error::Sample`] and [`Error::SampledRange`] for a sample that does not fit.
    pub fn with_sample(self, sample: &ClassSample) -> Result<Self, Error> {
        sample.check(self.labels, self.ignored, &(0..self.classes))?;
        Ok(OffloadedClasses { taking_part: sample.classes.len(), ..self })
    }

    /// The rows of class weights that the step reads, ascending, each once: to be gathered.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }
}

/// What the first sweep over the classes found for one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SweepStats {
    /// The log-sum-exp of all logits but that of the sample's own class, hard negatives up-weighted.
    pub negatives: LogSumExp,
    /// The sum of these logits, where labels are smoothed.
    pub logit_sum: f64,
    /// The class, its own among them, with the largest logit without margin and before hard
    /// negatives are up-weighted; the lowest of equals.
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
    /// The rows of class weights, ascending, each once.
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
///    class weights, which are divided by their norms where [`is_normalized`] says so, up-weights
///    those of [`hard_negative_logits`], and finds [`SweepStats`].
/// 3. [`complete`] turns these into losses.
/// 4. The second sweep turns logits into gradients by [`logit_factors`]; [`embedding_gradient`] and
///    [`target_gradients`] say what is left to add.
///
/// [`scaled_embeddings`]: Self::scaled_embeddings
/// [`is_normalized`]: Self::is_normalized
/// [`hard_negative_logits`]: Self::hard_negative_logits
/// [`complete`]: Self::complete
/// [`logit_factors`]: Self::logit_factors
/// [`embedding_gradient`]: Self::embedding_gradient
/// [`target_gradients`]: Self::target_gradients
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head, Reduction};
/// use margin_softmax::offload::{LogSumExp, OffloadedClasses, SweepStats};
/// use ndarray::{array, Axis};
///
/// let (x, w) = (array![[0.9, 0.1]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let head = Head::new(ArcFace::new(8.0, 0.5)?);
/// let classes = OffloadedClasses::new(&[0], None, (2, 1))?;
/// let own = w.select(Axis(0), classes.rows());
/// let mut step = head.offload(&classes, (&x, &own, None), Some(Reduction::Mean))?;
///
/// // The sweep of an engine that has one other class, whose norm is 1.
/// let logits = step.scaled_embeddings().dot(&w.t());
/// let negatives = LogSumExp::new(logits[[0, 1]], 1.0);
/// let stats = [SweepStats { negatives, logit_sum: 0.0, nearest: 0 }];
/// let forward = step.complete(&stats, (1.0, 1.0))?;
/// assert_eq!(forward, head.forward(&Batch::new(&x, &w, &[0]))?);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct OffloadedStep<'a, F> {
    input: StepInput<'a, F>,
    prepared: Prepared<F>,
    smoothing: Smoothing,
    terms: Vec<SampleTerms>,
}

impl<L: MarginLoss> Head<L> {
    /// Starts a step whose sweeps over the classes run elsewhere: embeddings (N, D), the `own` class
    /// weights, which are the rows of [`OffloadedClasses::rows`], and for Softmax the whole bias;
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
    let OffloadedClasses { ref rows, labels, ignored, taking_part, sub_centers, .. } = *classes;
    Error::check_not_empty("embeddings", x.shape())?;
    Error::check_shape("class weights", &[rows.len(), x.ncols()], own.shape())?;
    if let Some(bias) = bias {
        Error::check_shape("bias", &[classes.classes * sub_centers], bias.shape())?;
    }
    if let Some(labels) = labels {
        Error::check_shape("labels", &[x.nrows()], &[labels.len()])?;
        loss.check_classes(classes.classes)?;
    }
    let gathered = Classes::gathered(own.view(), bias.map(|bias| bias.view()), rows);
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
    let mut prepared = Prepared::default();
    input.collect_samples(loss, &mut prepared)?;
    input.complete_samples(loss, &mut prepared, true)?;
    let Prepared { form, samples, embeddings, hard, .. } = &mut prepared;
    input.scale_embeddings(*form, samples, embeddings);
    let target = |sample: &PreparedSample| sample.target.map_or(0.0, |t| t.target.value);
    let targets = samples.iter().map(|s| (s.norm, F::narrow(target(s)).widen()));
    hard.set(*form, targets);
    let smoothing = Smoothing::new(form.smoothing, taking_part);
    Ok(OffloadedStep { input, prepared, smoothing, terms: Vec::new() })
}

impl<F: Real> OffloadedStep<'_, F> {
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
        let hard = &self.prepared.hard;
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
    /// `first` is the number of the first row. Returns their smallest and largest norm.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::DegenerateNorm`].
    pub fn check_class_weights(
        &self,
        rows: ArrayView2<'_, F>,
        first: usize,
    ) -> Result<(f64, f64), Error> {
        let mut buffer = Vec::new();
        let rows = rows.rows().into_iter().enumerate();
        rows.into_iter().try_fold((f64::INFINITY, 0.0_f64), |(least, most), (j, row)| {
            let norm = norm_of(row, &mut buffer);
            let directed = !self.prepared.form.plain;
            let norm = check_norm("class weights", first + j, row, norm, directed)?;
            Ok((least.min(norm), most.max(norm)))
        })
    }

    /// Turns what the first sweep found, for every row of the batch, into losses; `weight_norms` are
    /// the smallest and the largest norm of a class weight.
    ///
    /// # Errors
    /// [`Error::Overflow`] where a logit or a gradient may leave the range of `F`; [`Error::Shape`]
    /// unless there are as many `stats` as samples.
    pub fn complete(
        &mut self,
        stats: &[SweepStats],
        weight_norms: (f64, f64),
    ) -> Result<Forward<F>, Error> {
        let rows = self.input.embeddings.nrows();
        Error::check_shape("stats of the sweep", &[rows], &[stats.len()])?;
        self.check_range(weight_norms)?;
        let mut forward = Forward::with_samples(rows, self.prepared.form);
        let terms = self.prepared.samples.iter().map(|sample| {
            let stats = self.sample_stats(sample, &stats[sample.row]);
            stats.record(self.smoothing, sample.upstream, &mut forward)
        });
        self.terms = terms.collect();
        Ok(forward)
    }

    /// Refuses a batch whose logits or gradients may leave the range of `F`; `weight_norms` are the
    /// smallest and the largest norm of a class weight. [`complete`](Self::complete) does so, too.
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub fn check_range(&self, weight_norms: (f64, f64)) -> Result<(), Error> {
        let Prepared { form, samples, .. } = &self.prepared;
        let bounds = (weight_norms, self.smoothing.classes());
        self.input.check_range(*form, samples, bounds).map(|_| ())
    }

    fn sample_stats(&self, sample: &PreparedSample, stats: &SweepStats) -> SampleStats {
        let classes = &self.input.classes;
        let target = sample.target.map(|target| TargetLogit {
            logit: target.logit,
            margin_free: target.margin_free_logit,
            angle: target.angle.theta,
            penalty: target.target.penalty,
            sub_center: sample.class.map_or(0, |class| classes.sub_center_of(class)),
        });
        SampleStats {
            row: sample.row,
            label: sample.class.map_or(stats.nearest, |class| classes.label_of(class)),
            norm: sample.norm,
            negatives: stats.negatives,
            mean_share: self.smoothing.share(stats.logit_sum),
            target,
            prediction: stats.nearest,
            best: stats.negatives.max,
        }
    }

    /// How the second sweep turns logits into gradients.
    pub fn logit_factors(&self) -> LogitFactors<F> {
        LogitFactors {
            shift: self.by_row(|i| F::narrow(self.terms[i].shift)),
            coefficient: self.by_row(|i| F::narrow(self.terms[i].coefficient)),
            uniform: self.by_row(|i| F::narrow(self.terms[i].uniform)),
        }
    }

    /// How the second sweep's sums become gradients of the embeddings.
    pub fn embedding_gradient(&self) -> EmbeddingGradient<F> {
        let Prepared { form, samples, .. } = &self.prepared;
        let by_norm = form.hard.is_some() && form.scale == Scale::FeatureNorm;
        let mut targets = Array2::zeros(self.input.embeddings.dim());
        let (mut sum, mut copy) = (vec![0.0; targets.ncols()], Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            sum.fill(0.0);
            let class = sample.class;
            let w = class.map(|class| contiguous(self.input.classes.weight(class), &mut copy));
            let samples = (self.input.embeddings, &self.terms[..]);
            self.prepared.finish_embedding(samples, w, (i, 0.0), &mut sum);
            let row = targets.row_mut(sample.row).into_iter();
            row.zip(&sum).for_each(|(to, from)| *to = F::narrow(*from));
        }
        let projected = match form.scale {
            Scale::Fixed(s) => {
                Some((F::narrow(s), self.by_row(|i| F::narrow(s / samples[i].norm))))
            }
            Scale::FeatureNorm | Scale::Unnormalized => None,
        };
        let inverse_norms = by_norm.then(|| self.by_row(|i| F::narrow(samples[i].norm.recip())));
        EmbeddingGradient { projected, inverse_norms, targets }
    }

    /// What the samples' own classes add to the gradients of class weights and bias.
    pub fn target_gradients(&self) -> TargetGradients<F> {
        let Prepared { samples, .. } = &self.prepared;
        let (classes, dims) = (&self.input.classes, self.input.embeddings.ncols());
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
            rows.push(classes.row_of(class));
            let start = weights.len();
            weights.resize(start + dims, F::zero());
            let w = contiguous(classes.weight(class), &mut copy);
            let of_batch = (self.input.embeddings, &self.terms[..]);
            let row = &mut weights[start..];
            self.prepared.add_target_pairs(of_batch, w, targets, row, &mut sum);
        }
        let mut matrix = Array2::zeros((rows.len(), dims));
        matrix.iter_mut().zip(weights).for_each(|(to, from)| *to = from);
        TargetGradients { rows, weights: matrix, bias }
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
