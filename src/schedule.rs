//! Schedules of hyper-parameters over the training steps, and a scale computed from the number of
//! classes.
//!
//! A schedule is a pure function of the step number, so that a resumed run needs no state of it.

use std::f64::consts::SQRT_2;

use crate::error::Error;
use crate::parameters::hyper_parameters;

hyper_parameters! {
    /// The annealing of A-Softmax: λ falls step by step, so that training starts almost without a
    /// margin and the margin grows.
    ///
    /// ```text
    /// λ_t = max(minimum, base · (1 + gamma · t)^(−power))
    /// ```
    ///
    /// The target logit is `(λ · cos θ + ψ) / (1 + λ)`: the weight of the margin term ψ grows from
    /// `1 / (1 + base)` to `1 / (1 + minimum)`. λ is a parameter of
    /// [`SphereFace`](crate::SphereFace::with_annealing),
    /// [`FNormSphereFace`](crate::FNormSphereFace::with_annealing) and
    /// [`Generalized`](crate::Generalized::with_annealing).
    pub struct LambdaAnnealing {
        base: f64 = 1000.0, "finite and >= 0", "annealing base", "λ at step 0";
        gamma: f64 = 0.12, "finite and >= 0", "annealing gamma", "the decay per step";
        power: f64 = 1.0, "finite and >= 0", "annealing power", "the exponent of the decay";
        minimum: f64 = 5.0, "finite and >= 0", "annealing minimum", "0 is the full margin";
    }
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Head, SphereFace};
    /// use margin_softmax::schedule::LambdaAnnealing;
    ///
    /// let annealing = LambdaAnnealing::default();
    /// let mut head = Head::new(SphereFace::new(4)?);
    /// for step in 0..3 {
    ///     *head.loss_mut() = SphereFace::new(4)?.with_annealing(annealing.at(step))?;
    ///     // a training step with this head
    /// }
    /// assert_eq!(annealing.at(0), 1000.0);
    /// assert_eq!(annealing.at(100), 1000.0 / 13.0);
    /// assert_eq!(annealing.at(10_000), 5.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: the authors' code for Liu et al., *SphereFace* (CVPR 2017), with its default
    /// values. That code numbers its first step t = 1, this function t = 0.
}

impl LambdaAnnealing {
    /// The annealing schedule from `base` down to `minimum`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the first argument that is not finite and ≥ 0.
    pub fn new(base: f64, gamma: f64, power: f64, minimum: f64) -> Result<Self, Error> {
        LambdaAnnealing { base, gamma, power, minimum }.checked()
    }

    /// λ_t at a step, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        // An infinite divisor is no error: λ is then the minimum.
        let divisor = (1.0 + self.gamma * step as f64).powf(self.power);
        (self.base / divisor).max(self.minimum)
    }
}

hyper_parameters! {
    /// A linear warm-up of a margin over the first training steps.
    ///
    /// ```text
    /// m_t = start + (margin − start) · min(1, max(0, (t − delay) / steps))
    /// ```
    ///
    /// It applies to every margin that is a real number: m of [`ArcFace`](crate::ArcFace),
    /// [`CosFace`](crate::CosFace), [`AdaFace`](crate::AdaFace), [`ElasticFace`](crate::ElasticFace),
    /// [`CurricularFace`](crate::CurricularFace) and [`MvSoftmax`](crate::MvSoftmax); both margins of
    /// [`MagFace`](crate::MagFace); those of every class of [`ClassMargins`](crate::ClassMargins); m0
    /// (with `start` = 1), m1 and m2 of [`Generalized`](crate::Generalized). A loss with state keeps
    /// it: build the new one with that of the old, as in `CurricularFace::new(s,
    /// m)?.with_t(old.t())?.with_rate(old.rate())?`. The factor m of [`SphereFace`](crate::SphereFace)
    /// and [`FNormSphereFace`](crate::FNormSphereFace) is an integer: use [`LambdaAnnealing`] there, or
    /// warm up m0 of a `Generalized`.
    pub struct MarginWarmup {
        margin: f64, "finite", "margin", "the final one";
        steps: usize, any, "number of steps of the warm-up", "0 is a jump";
        start: f64 = 0.0, (check_start "finite, as is margin − start"), "start of the margin",
            "1 for the factor m0" => with_start;
        delay: usize = 0, any, "number of steps before the warm-up", "the margin is `start`"
            => with_delay;
    }
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Head};
    /// use margin_softmax::schedule::MarginWarmup;
    ///
    /// let warmup = MarginWarmup::new(0.5, 1000)?;
    /// let mut head = Head::new(ArcFace::default());
    /// for step in 0..3 {
    ///     *head.loss_mut() = ArcFace::new(64.0, warmup.at(step))?;
    ///     // a training step with this head
    /// }
    /// assert_eq!([warmup.at(0), warmup.at(500), warmup.at(1000)], [0.0, 0.25, 0.5]);
    ///
    /// let factor = MarginWarmup::new(4.0, 300)?.with_start(1.0)?.with_delay(100);
    /// assert_eq!([factor.at(100), factor.at(200), factor.at(400)], [1.0, 2.0, 4.0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: common practice in speaker verification, for example the `MarginScheduler` of
    /// WeSpeaker (Wang et al., ICASSP 2023), which holds the margin, raises it and then fixes it.
}

impl MarginWarmup {
    /// A warm-up from 0 to `margin` over the first `steps` steps.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `margin` is finite.
    pub fn new(margin: f64, steps: usize) -> Result<Self, Error> {
        MarginWarmup { margin, steps, start: 0.0, delay: 0 }.checked()
    }

    fn check_start(&self) -> Result<f64, Error> {
        let valid = self.start.is_finite() && (self.margin - self.start).is_finite();
        let expected = "finite, and so its distance from the margin";
        Error::check_parameter("start of the margin", self.start, expected, valid)
    }

    /// The margin m_t at a step, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        match step.checked_sub(self.delay) {
            None => self.start,
            Some(done) if done >= self.steps => self.margin,
            Some(done) => {
                let (start, margin) = (self.start, self.margin);
                let linear = start + (margin - start) * (done as f64 / self.steps as f64);
                // Rounded, the sum may leave the range.
                linear.clamp(start.min(margin), start.max(margin))
            }
        }
    }
}

/// The fixed scale of AdaCos, computed from the number of classes.
///
/// ```text
/// s = √2 · ln(C − 1)
/// ```
///
/// At this scale, a sample at 45° from its own class and at 90° from all others has probability
/// 1/2 without a margin, which is where the probability changes fastest. For 10,000 classes it is
/// 13.0, far less than the customary 64.
///
/// **Parameter**: the number of classes C ≥ 3.
///
/// # Errors
/// [`Error::Parameter`] for fewer than 3 classes, where the formula is not positive.
///
/// ```
/// use margin_softmax::ArcFace;
/// use margin_softmax::schedule::adacos_scale;
///
/// let s = adacos_scale(10_000)?;
/// assert_eq!((s * 10.0).round(), 130.0);
/// let loss = ArcFace::new(s, 0.5)?;
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Zhang et al., *AdaCos* (CVPR 2019), the fixed-scale variant.
pub fn adacos_scale(classes: usize) -> Result<f64, Error> {
    let others = classes.saturating_sub(1) as f64;
    Error::check_parameter("number of classes", classes as f64, ">= 3", classes >= 3)?;
    Ok(SQRT_2 * others.ln())
}
