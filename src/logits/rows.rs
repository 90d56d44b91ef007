//! Forward and backward over the rows of the cosines, one pass each.

use ndarray::Array2;

use super::{LogitGradients, NormalizedLogits, workers};
use crate::batch::{Forward, Outcome, Reduction};
use crate::cross_entropy::Negatives;
use crate::error::Error;
use crate::geometry::{Pair, SINGULAR};
use crate::head::checked_target;
use crate::kernel::{self, Level, Real, RowLogits};
use crate::loss::{Angle, MarginLoss, Scale, Target};
use crate::parallel::work;
use crate::range::{Bounds, largest_safe};

/// See [`MarginLoss::forward`].
pub(crate) fn forward<F: Real, L: MarginLoss>(
    loss: &L,
    logits: &NormalizedLogits<F>,
    labels: &[usize],
) -> Result<Forward<F>, Error> {
    let view = View::new(loss, logits, labels)?;
    let targets = view.targets(loss, |_| 0.0)?;
    let mut outcomes: Vec<Option<Outcome>> = vec![None; labels.len()];
    work(outcomes.iter_mut().enumerate(), &mut vec![(); workers()], |(), (i, outcome)| {
        *outcome = Some(view.outcome(i, &targets[i]));
    });
    let mut forward = Forward::with_samples(labels.len());
    for (i, outcome) in outcomes.into_iter().flatten().enumerate() {
        forward.record(i, labels[i], outcome);
    }
    Ok(forward)
}

/// See [`MarginLoss::backward`]; overwrites `gradients`, which have the shapes of `logits`.
pub(crate) fn backward<F: Real, L: MarginLoss>(
    loss: &L,
    logits: &NormalizedLogits<F>,
    labels: &[usize],
    forward: &Forward<F>,
    reduction: Reduction<'_, F>,
    gradients: &mut LogitGradients<F>,
) -> Result<(), Error> {
    let view = View::new(loss, logits, labels)?;
    Error::check_shape("forward", &[labels.len()], forward.losses.shape())?;
    gradients.check(logits)?;
    reduction.check(labels.len())?;
    let upstream = |i| reduction.weight(i, labels.len());
    let targets = view.targets(loss, upstream)?;
    let angles = forward.target_angles();
    let differs = |i: &usize| F::narrow(targets[*i].angle.theta) != angles[*i];
    if let Some(row) = (0..labels.len()).find(differs) {
        return Err(Error::Forward { row });
    }
    let classes = logits.cosines.ncols();
    gradients.labels.clear();
    gradients.labels.extend_from_slice(labels);
    if !gradients.cosines.is_standard_layout() {
        gradients.cosines = Array2::zeros(logits.cosines.dim());
    }
    let pull = |i: usize| upstream(i) * forward.misses[i];
    let rows = gradients.cosines.as_slice_mut().unwrap_or_default().chunks_exact_mut(classes);
    let vectors = gradients.target_angles.iter_mut().zip(&mut gradients.feature_norms);
    let jobs = rows.zip(vectors).enumerate();
    work(jobs, &mut vec![(); workers()], |(), (i, (row, (angle, norm)))| {
        let negatives = forward.negatives[i];
        (*angle, *norm) = view.row_gradient(i, &targets[i], pull(i), negatives, row);
    });
    view.column_gradients(&targets, (0..labels.len()).map(pull), gradients);
    Ok(())
}

/// See [`MarginLoss::margin_free_logits`].
pub(crate) fn margin_free<F: Real, L: MarginLoss>(
    loss: &L,
    logits: &NormalizedLogits<F>,
) -> Result<Array2<F>, Error> {
    let labels = vec![0; logits.cosines.nrows()];
    let view = View::new(loss, logits, &labels)?;
    let mut out = logits.cosines.clone();
    let mut bounds = view.bounds();
    for (i, mut row) in out.rows_mut().into_iter().enumerate() {
        bounds.check::<F>(i, view.norms(i, 0).0, None, 0.0)?;
        let scale = F::narrow(view.row_scale(i));
        row.mapv_inplace(|c| scale * c);
        if view.scale == Scale::Unnormalized {
            row *= &logits.weight_norms;
        }
        if let Some(bias) = &logits.bias {
            row += bias;
        }
    }
    Ok(out)
}

/// The logits as one loss sees them.
struct View<'a, F> {
    logits: &'a NormalizedLogits<F>,
    labels: &'a [usize],
    scale: Scale,
}

/// The target pair of a sample.
struct TargetLogit {
    angle: Angle,
    target: Target,
    /// $df/d\cos\theta$, or its convention at the ends.
    cosine_slope: f64,
    /// $a_{iy}$.
    scale: f64,
    logit: f64,
}

impl<'a, F: Real> View<'a, F> {
    fn new<L: MarginLoss>(
        loss: &L,
        logits: &'a NormalizedLogits<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        let scale = loss.scale().checked()?;
        if logits.bias.is_some() && scale != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        Error::check_shape("labels", &[logits.cosines.nrows()], &[labels.len()])?;
        Error::check_labels(labels, logits.cosines.ncols())?;
        Ok(View { logits, labels, scale })
    }

    /// $|x_i|$ and $|w_j|$, with all the digits there are.
    fn norms(&self, i: usize, j: usize) -> (f64, f64) {
        match &self.logits.source {
            Some(source) => (source.x_norms[i], source.w_norms[j]),
            None => (self.logits.feature_norms[i].widen(), self.logits.weight_norms[j].widen()),
        }
    }

    /// What multiplies the cosines of sample `i`, apart from a class's own norm.
    fn row_scale(&self, i: usize) -> f64 {
        match self.scale {
            Scale::Fixed(s) => s,
            Scale::FeatureNorm | Scale::Unnormalized => self.norms(i, 0).0,
        }
    }

    fn row(&self, i: usize) -> RowLogits<'a, F> {
        let logits = self.logits;
        let columns = (self.scale == Scale::Unnormalized).then_some(&logits.weight_norms);
        RowLogits {
            cosines: super::row(&logits.cosines, i),
            scale: F::narrow(self.row_scale(i)),
            columns: columns.and_then(|norms| norms.as_slice()),
            biases: logits.bias.as_ref().and_then(|bias| bias.as_slice()),
            target: self.labels[i],
        }
    }

    fn bounds(&self) -> Bounds {
        let norms = (0..self.logits.cosines.ncols()).map(|j| self.norms(0, j).1);
        let widest = |(least, most): (f64, f64), norm: f64| (least.min(norm), most.max(norm));
        let norms = norms.fold((f64::INFINITY, 0.0), widest);
        Bounds::new(self.scale, norms, self.logits.bias.iter().flatten())
    }

    /// Geometry and margin of every target pair; refuses what may leave the type's range, the loss
    /// of sample `i` counting `upstream(i)` times.
    fn targets<L: MarginLoss>(
        &self,
        loss: &L,
        upstream: impl Fn(usize) -> f64,
    ) -> Result<Vec<TargetLogit>, Error> {
        let mut bounds = self.bounds();
        let targets = (0..self.labels.len()).map(|i| {
            let target = self.target(loss, i)?;
            let norm = self.norms(i, self.labels[i]).0;
            bounds.check::<F>(i, norm, Some(target.target), upstream(i))?;
            let bound = upstream(i).abs() * target.scale * target.cosine_slope.abs();
            let maximum = largest_safe::<F>();
            if bound > maximum {
                let quantity = "the gradient of the target's cosine";
                return Err(Error::Overflow { quantity, row: i, bound, maximum });
            }
            Ok(target)
        });
        targets.collect()
    }

    fn target<L: MarginLoss>(&self, loss: &L, i: usize) -> Result<TargetLogit, Error> {
        let label = self.labels[i];
        let (r, q) = self.norms(i, label);
        let angle = match &self.logits.source {
            Some(source) => Pair::new(source.x(i), source.w(label), r, q).angle,
            None => Angle::from_cos(self.logits.cosines[[i, label]].widen()),
        };
        let target = checked_target(loss, &angle, i)?;
        let scale = match self.scale {
            Scale::Unnormalized => r * q,
            _ => self.row_scale(i),
        };
        let bias = self.logits.bias.as_ref().map_or(0.0, |bias| bias[label].widen());
        let cosine_slope = cosine_slope(loss, &angle, target);
        Ok(TargetLogit { angle, target, cosine_slope, scale, logit: scale * target.value + bias })
    }

    fn outcome(&self, i: usize, target: &TargetLogit) -> Outcome {
        let label = self.labels[i];
        let row = self.row(i);
        let found = kernel::row_negatives(Level::detect(), row);
        let negatives = Negatives { max: found.max.widen(), sum: found.sum };
        let mut own = row.scale * row.cosines[label];
        if let Some(columns) = row.columns {
            own *= columns[label];
        }
        if let Some(biases) = row.biases {
            own += biases[label];
        }
        let beaten = found.max > own || (found.max == own && found.class < label);
        Outcome {
            negatives,
            cross_entropy: negatives.cross_entropy(target.logit),
            target_angle: target.angle.theta,
            prediction: if beaten { found.class } else { label },
        }
    }

    /// Writes the gradient of one row's cosines; answers those of its target angle and of the norm
    /// of its embedding.
    fn row_gradient(
        &self,
        i: usize,
        target: &TargetLogit,
        pull: f64,
        negatives: Negatives,
        out: &mut [F],
    ) -> (F, F) {
        let row = self.row(i);
        let share = if negatives.sum > 0.0 { pull / negatives.sum } else { 0.0 };
        let shift = F::narrow(negatives.max).max(F::min_value());
        kernel::row_gradient(Level::detect(), row, shift, F::narrow(share), out);
        let along_norm = match self.scale {
            Scale::Fixed(_) => 0.0,
            _ => {
                let terms = out.iter().zip(row.cosines).map(|(g, c)| g.widen() * c.widen());
                let own = -pull * target.scale * target.target.value;
                (terms.sum::<f64>() + own) / self.norms(i, 0).0
            }
        };
        let by_cosine = -pull * target.scale * target.cosine_slope;
        out[self.labels[i]] = F::narrow(by_cosine);
        (F::narrow(-pull * target.scale * target.target.slope), F::narrow(along_norm))
    }

    /// The gradients that sum over samples: of the norms of the class weights and of the bias.
    fn column_gradients(
        &self,
        targets: &[TargetLogit],
        pulls: impl Iterator<Item = f64>,
        gradients: &mut LogitGradients<F>,
    ) {
        gradients.weight_norms.fill(F::zero());
        if self.scale != Scale::Unnormalized {
            return;
        }
        let classes = self.logits.cosines.ncols();
        let (mut norms, mut biases) = (vec![0.0; classes], vec![0.0; classes]);
        for ((i, target), pull) in targets.iter().enumerate().zip(pulls) {
            let label = self.labels[i];
            let (r, q) = self.norms(i, label);
            let row = self.row(i);
            let out = super::row(&gradients.cosines, i);
            for j in (0..classes).filter(|&j| j != label) {
                let by_product = out[j].widen() / self.norms(i, j).1;
                norms[j] += by_product * row.cosines[j].widen();
                biases[j] += by_product / r;
            }
            norms[label] -= pull * target.scale * target.target.value / q;
            biases[label] -= pull;
        }
        gradients.weight_norms = norms.into_iter().map(F::narrow).collect();
        if let Some(bias) = &mut gradients.bias {
            *bias = biases.into_iter().map(F::narrow).collect();
        }
    }
}

/// $df/d\cos\theta = -f'/\sin\theta$: its limit where sine and slope vanish together, and 0, the
/// convention for a cone, where only the sine does.
fn cosine_slope<L: MarginLoss>(loss: &L, angle: &Angle, target: Target) -> f64 {
    const NEARBY: f64 = 1e-6;
    if angle.sin > SINGULAR {
        return -target.slope / angle.sin;
    }
    if target.slope.abs() > NEARBY {
        return 0.0;
    }
    let theta = if angle.cos > 0.0 { NEARBY } else { std::f64::consts::PI - NEARBY };
    let nearby = Angle { theta, cos: angle.cos, sin: NEARBY.sin() };
    -loss.target(&nearby).slope / nearby.sin
}
