//! Forward and backward over the rows of the cosines, one pass each.

use ndarray::Array2;

use super::view::{Answer, RowTarget, View};
use super::{LogitGradients, NormalizedLogits, for_workers};
use crate::data::{Forward, IGNORED, LogitForm, Reduction, SampleStats, Scale};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::math::SampleTerms;
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
    run_jobs(stats.iter_mut().zip(&targets).enumerate(), &mut for_workers::<()>(), {
        |(), (i, (stats, target))| *stats = target.as_ref().map(|target| view.stats(i, target))
    });
    let mut forward = Forward::with_samples(labels.len(), form);
    for stats in stats.iter().flatten() {
        forward.record(stats, view.smoothing(), 0.0);
    }
    Ok(forward)
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
    let differs = |(i, target): (usize, &Option<RowTarget>)| match target {
        Some(target) => !forward.fits(i, form, &target.pair),
        None => forward.predictions()[i] != IGNORED,
    };
    if let Some(row) = targets.iter().enumerate().position(differs) {
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
    run_jobs(jobs, &mut for_workers::<()>(), |(), (i, (row, (angle, norm)))| {
        (*angle, *norm) = match (&targets[i], &terms[i]) {
            (Some(target), Some(terms)) => view.row_gradient(i, target, (terms, upstream(i)), row),
            _ => {
                row.fill(F::zero());
                (F::zero(), F::zero())
            }
        };
    });
    view.column_gradients(&targets, &terms, gradients);
    Ok(())
}

/// See [`MarginLoss::margin_free_logits`](crate::MarginLoss::margin_free_logits).
pub(crate) fn margin_free<F: Real>(
    form: LogitForm,
    logits: &NormalizedLogits<F>,
) -> Result<Array2<F>, Error> {
    let labels = vec![0; logits.cosines.nrows()];
    let view = View::new(form, logits, &labels)?;
    let mut out = logits.cosines.clone();
    let mut bounds = view.bounds();
    for (i, mut row) in out.rows_mut().into_iter().enumerate() {
        bounds.check::<F>(i, view.norms(i, 0).0, None, 0.0)?;
        let scale = F::narrow(view.row_scale(i));
        row.mapv_inplace(|c| scale * c);
        if form.scale == Scale::Unnormalized {
            row *= &logits.weight_norms;
        }
        if let Some(bias) = &logits.bias {
            row += bias;
        }
    }
    Ok(out)
}
