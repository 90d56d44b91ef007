//! One sample and the weight of its own class, in f64: the target logit and its gradients.

use super::form::{LogitForm, Scale};
use super::rows::has_direction;
use crate::kernel::{self, Real};
use crate::math::{Angle, CLASS_WEIGHT, EMBEDDING, Pair, SampleTarget, Target};

/// The geometry of a sample and its class, and the target of the loss at their angle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetPair {
    /// The angle between both; a right angle where one of them is zero.
    pub angle: Angle,
    pub target: SampleTarget,
    /// a_iy: what multiplies f(θ).
    pub scale: f64,
    /// z_iy = a_iy·f(θ) + b_y, class prior included.
    pub logit: f64,
    /// a_iy·cos θ + b_y.
    pub margin_free_logit: f64,
    /// How gradients reach embedding and class weight: through the angle, with unit tangents.
    /// `None` where the logit is the inner product x·w, whose gradients are w and x, zero or not;
    /// and where only the cosine is known, for then there are no vectors to propagate gradients to.
    geometry: Option<Pair>,
}

impl TargetPair {
    /// The pair of `x` and `w` with these norms, and `bias` for its logits. `answer` returns the
    /// loss's target at an angle.
    pub fn new<F: Real, E>(
        form: LogitForm,
        (x, norm): (&[F], f64),
        (w, weight_norm): (&[F], f64),
        bias: f64,
        answer: impl FnOnce(&Angle) -> Result<SampleTarget, E>,
    ) -> Result<Self, E> {
        let directed = has_direction::<F>(norm) && has_direction::<F>(weight_norm);
        let pair = directed.then(|| Pair::new(x, w, norm, weight_norm));
        let angle = pair.map_or(Angle::RIGHT, |pair| pair.angle);
        let scale = form.pair_scale(norm, weight_norm);
        let mut all = Self::of_angle(form, angle, (scale, bias), answer)?;
        let is_inner_product = form.plain && all.target == Target::plain(&angle).into();
        if pair.is_some() && !is_inner_product {
            all.geometry = pair;
        } else {
            all.logit = kernel::dot(x, w) + (bias + form.bias());
            all.margin_free_logit = all.logit;
        }
        Ok(all)
    }

    /// The pair of which only the `angle` is known.
    pub fn of_angle<E>(
        form: LogitForm,
        angle: Angle,
        (scale, bias): (f64, f64),
        answer: impl FnOnce(&Angle) -> Result<SampleTarget, E>,
    ) -> Result<Self, E> {
        let target = answer(&angle)?;
        let bias = bias + form.bias();
        Ok(TargetPair {
            angle,
            target,
            scale,
            logit: scale * target.value + bias,
            margin_free_logit: scale * form.margin_free(angle.cos) + bias,
            geometry: None,
        })
    }

    /// Adds the prior of its class, in training.
    pub fn add_log_prior(&mut self, prior: f64) {
        self.logit += prior;
    }

    /// Adds the gradient of the target logit by the embedding, `target_gradient` times, to `sum`;
    /// under a fixed scale without the factor s/‖x‖, which all classes have in common.
    pub fn add_to_embedding<F: Real>(
        &self,
        form: LogitForm,
        (x, w): (&[F], &[F]),
        target_gradient: f64,
        sum: &mut [f64],
    ) {
        let Some(pair) = &self.geometry else {
            return kernel::add_scaled(sum, 1.0, w, target_gradient);
        };
        let gradient = match form.scale {
            Scale::Unnormalized => target_gradient / pair.inverse_norms[CLASS_WEIGHT],
            Scale::Fixed(_) | Scale::FeatureNorm => target_gradient,
        };
        pair.add_tangent(sum, EMBEDDING, [x, w], -gradient * self.target.slope);
        if !matches!(form.scale, Scale::Fixed(_)) {
            pair.add_unit(sum, EMBEDDING, [x, w], gradient * self.target.value);
        }
    }

    /// The derivative by ‖x‖ of a loss that counts `upstream` times, as far as the loss itself
    /// depends on the norm: through the margin, and through its penalty.
    pub fn by_norm(&self, target_gradient: f64, upstream: f64) -> f64 {
        target_gradient * self.scale * self.target.norm_slope + upstream * self.target.penalty_slope
    }

    /// Adds the gradient of the target logit by the class weight, `target_gradient` times, to
    /// `sum`.
    pub fn add_to_weight<F: Real>(
        &self,
        form: LogitForm,
        (x, w, norm): (&[F], &[F], f64),
        target_gradient: f64,
        sum: &mut [f64],
    ) {
        let Some(pair) = &self.geometry else {
            return kernel::add_scaled(sum, 1.0, x, target_gradient);
        };
        let plain = form.scale == Scale::Unnormalized;
        let factor = if plain { norm } else { self.scale * pair.inverse_norms[CLASS_WEIGHT] };
        let gradient = target_gradient * factor;
        pair.add_tangent(sum, CLASS_WEIGHT, [x, w], -gradient * self.target.slope);
        if plain {
            pair.add_unit(sum, CLASS_WEIGHT, [x, w], gradient * self.target.value);
        }
    }
}
