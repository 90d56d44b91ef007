//! Forward and backward over the rows of the cosines, one pass each.

use ndarray::{Array2, Zip};

use super::view::{Answer, View};
use super::{LogitGradients, NormalizedLogits, for_workers};
use crate::data::{Forward, IGNORED, LogitForm, Reduction, SampleStats, Scale, has_direction};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::math::{LogSumExp, SampleTerms};
use crate::parallel::run_jobs;

/// See [`MarginLoss::forward`](crate::MarginLoss::forward); `answer` evaluates the loss for
/// a sample.
pub(crate) fn forward<F: Real>(
    form: LogitForm,
    logits: &NormalizedLogits<F>,
    labels: &[usize],
    answer: Answer<'_>,
) -> Result<Forward<F>, Error> {
    F::run::<RunForward<'_>>((form, logits, labels, answer))
}

job!(RunForward<'a>, ForwardInput<'a, F> => Result<Forward<F>, Error>, run_forward);
type ForwardInput<'a, F> = (LogitForm, &'a NormalizedLogits<F>, &'a [usize], Answer<'a>);

fn run_forward<F: Real>(
    (form, logits, labels, answer): ForwardInput<'_, F>,
) -> Result<Forward<F>, Error> {
    let view = View::new(form, logits, labels)?;
    let targets = view.targets(answer, |_| 0.0)?;
    let mut stats: Vec<Option<SampleStats>> = vec![None; labels.len()];
    let jobs = stats.iter_mut().zip(&targets).enumerate();
    run_jobs(jobs, &mut for_workers(), |factors: &mut Vec<F>, (i, (stats, target))| {
        *stats = target.as_ref().map(|target| view.stats(i, target, factors));
    });
    let mut forward = Forward::with_samples(labels.len(), form);
    for stats in stats.iter().flatten() {
        forward.record(stats, view.smoothing(), 0.0);
    }
    Ok(forward.with_reduction(None))
}

/// See [`MarginLoss::backward_into`](crate::MarginLoss::backward_into).
pub(crate) fn backward<F: Real>(input: BackwardInput<'_, '_, F>) -> Result<(), Error> {
    F::run::<RunBackward<'_, '_>>(input)
}

job!(RunBackward<'a, 'r>, BackwardInput<'a, 'r, F> => Result<(), Error>, run_backward);
pub(crate) type BackwardInput<'a, 'r, F> = (
    LogitForm,
    &'a NormalizedLogits<F>,
    &'a [usize],
    Answer<'a>,
    &'a Forward<F>,
    Reduction<'r, F>,
    &'a mut LogitGradients<F>,
);

fn run_backward<F: Real>(
    (form, logits, labels, answer, forward, reduction, gradients): BackwardInput<'_, '_, F>,
) -> Result<(), Error> {
    let view = View::new(form, logits, labels)?;
    Error::check_shape("forward", &[labels.len()], forward.losses.shape())?;
    gradients.check(logits)?;
    reduction.check(labels.len())?;
    let counted = (0..labels.len()).filter(|&i| view.label(i).is_some()).count();
    let upstream = |i| reduction.weight(i, counted);
    let targets = view.targets(answer, upstream)?;
    let bounds = view.bounds();
    let differs = |factors: &mut Vec<F>, i: usize| match &targets[i] {
        Some(target) => {
            let (_, negatives, _) = view.negatives(view.row(i, target, factors), &target.nearest);
            let largest = bounds.logit(view.norms(i, labels[i]).0, target.pair.target.value);
            let largest = largest * bounds.negatives.1;
            let fits = forward.fits(i, form, &target.pair);
            let (known, classes) = (forward.negatives[i], logits.cosines.ncols());
            !(fits && equal_to_rounding::<F>(negatives, known, largest, classes))
        }
        None => forward.predictions()[i] != IGNORED,
    };
    let mut different = vec![false; labels.len()];
    run_jobs(different.iter_mut().enumerate(), &mut for_workers(), |factors, (i, different)| {
        *different = differs(factors, i);
    });
    if let Some(row) = different.into_iter().position(|different| different) {
        return Err(Error::Forward { row });
    }
    let terms: Vec<Option<SampleTerms>> = (targets.iter().enumerate())
        .map(|(i, target)| Some(view.terms(forward.negatives[i], target.as_ref()?, upstream(i))))
        .collect();
    let classes = logits.cosines.ncols();
    gradients.set_labels(labels, logits);
    if !gradients.cosines.is_standard_layout() {
        gradients.cosines = Array2::zeros(logits.cosines.dim());
    }
    let rows = super::slice_mut(&mut gradients.cosines).chunks_exact_mut(classes);
    let vectors = gradients.target_angles.iter_mut().zip(&mut gradients.feature_norms);
    let jobs = rows.zip(vectors).enumerate();
    run_jobs(jobs, &mut for_workers(), |factors: &mut Vec<F>, (i, (row, (angle, norm)))| {
        (*angle, *norm) = match (&targets[i], &terms[i]) {
            (Some(target), Some(terms)) => {
                let logits = view.row(i, target, factors);
                view.row_gradient(i, logits, target, (terms, upstream(i)), row)
            }
            _ => {
                row.fill(F::zero());
                (F::zero(), F::zero())
            }
        };
    });
    gradients.bias_gradient = forward.reduced_bias(reduction);
    view.column_gradients(&targets, &terms, gradients);
    Ok(())
}

/// See [`MarginLoss::margin_free_logits`](crate::MarginLoss::margin_free_logits).
pub(crate) fn margin_free<F: Real>(
    form: LogitForm,
    logits: &NormalizedLogits<F>,
) -> Result<Array2<F>, Error> {
    let unlabeled = vec![IGNORED; logits.cosines.nrows()];
    let labels = &unlabeled[..];
    let view = View { logits, labels, form, log_prior: None, biases: None };
    view.check_form()?;
    view.check_directions(|_| logits.ignored.is_none())?;
    let mut out = logits.cosines.clone();
    let mut bounds = view.bounds();
    for (i, mut row) in out.rows_mut().into_iter().enumerate() {
        let norm = view.norms(i, 0).0;
        if !(form.plain || has_direction::<F>(norm)) {
            row.fill(F::zero()); // of a sample that is left out
            continue;
        }
        bounds.check::<F>(i, norm, None, 0.0)?;
        let scale = form.row_scale(norm);
        match form.scale {
            Scale::Unnormalized => Zip::indexed(&mut row).for_each(|j, c| {
                *c *= F::narrow(scale * view.norms(i, j).1);
            }),
            Scale::Fixed(_) | Scale::FeatureNorm => row.mapv_inplace(|c| F::narrow(scale) * c),
        }
        if let Some(bias) = &logits.bias {
            row += bias;
        }
    }
    Ok(out)
}

/// Whether two log-sum-exps, or sums of softplus, may be of the same negatives: a pass of
/// [`Head`](crate::Head) over the same batch rounds in another order. By docs/math.md, section 9.2,
/// each is right to 16ε·(1 + `largest`), the largest logit times how steeply it changes with the cosine.
fn equal_to_rounding<F: Real>(a: LogSumExp, b: LogSumExp, largest: f64, classes: usize) -> bool {
    // Of a sum below this, softplus may have underflowed.
    let floor = classes as f64 * F::min_positive_value().widen() / F::epsilon().widen();
    let difference = (a.max - b.max) + (a.sum.max(floor) / b.sum.max(floor)).ln();
    a == b || difference.abs() <= 32.0 * F::epsilon().widen() * (1.0 + largest)
}
