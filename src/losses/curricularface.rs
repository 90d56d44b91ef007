use super::{check_angular_margin, check_finite, check_unit_rate, mixed};
use crate::data::Scale;
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, HardNegatives, Target};

/// CurricularFace: ArcFace whose hard negatives count more, and the more so the further the
/// training has come.
///
/// ```text
/// z_iy = s · f_i,   f_i = ψ(θ_iy + m)          own class y
/// z_ij = s · cos θ_ij                          cos θ_ij ≤ f_i
/// z_ij = s · cos θ_ij · (t + cos θ_ij)         cos θ_ij > f_i
/// ```
///
/// ψ is the cosine up to π and continues beyond π as the [`Continuation`] sets. t follows the mean
/// target cosine, from 0: early, hard negatives count less than their cosine, later more.
/// [`observe`](Self::observe) moves t and nothing else does: a step leaves the loss as it is.
///
/// Take it when a fixed margin no longer finds what to learn from, and labels are clean enough for
/// hard negatives to be worth the attention.
///
/// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalises both.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `s` | 64 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 0.5 | in [0, π), radians | additive angular margin |
/// | `t` | 0 | in [−1, 1] | state: the running mean of the target cosines |
/// | `rate` | 0.01 | in (0, 1] | share of a batch in the new t |
/// | `continuation` | `Monotone` | any | target logit where `θ > π − m` |
///
/// The published code moves t before the step, as the example does. It falls back to
/// `cos θ − m·sin m` where `θ > π − m` ([`Continuation::Linear`]) but compares negatives with the
/// raw `cos(θ + m)`; here they are compared with f, whatever it falls back to.
///
/// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
///
/// ```
/// use margin_softmax::{Batch, CurricularFace, Head};
/// use ndarray::array;
///
/// let (x, w) = (array![[3.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let mut head = Head::new(CurricularFace::new(64.0, 0.5)?);
/// let angle = (1.0_f64 / 3.0).atan();
/// head.loss_mut().observe(&[angle])?;
/// approx::assert_relative_eq!(head.loss().t(), 0.01 * angle.cos());
/// let forward = head.forward(&Batch::new(&x, &w, &[0]))?;
/// assert_eq!(forward.accuracy(), 1.0);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Huang et al., *CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
/// Recognition* (CVPR 2020), with the paper's s = 64, m = 0.5 and rate 0.01.
#[derive(Debug, Clone, PartialEq)]
pub struct CurricularFace {
    s: f64,
    m: f64,
    t: f64,
    rate: f64,
    continuation: Continuation,
}

impl CurricularFace {
    /// The loss with scale `s` and angular margin `m` in radians, at the start of a training.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is in [0, π).
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        let expected = "in [0, π) radians (arguments are scale s, then margin m)";
        let m = check_angular_margin("angular margin m", m, expected)?;
        Ok(CurricularFace { s, m, ..Self::default() })
    }

    /// Sets the running mean of the target cosines.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `t` is in [−1, 1].
    pub fn with_t(self, t: f64) -> Result<Self, Error> {
        let valid = (-1.0..=1.0).contains(&t);
        let t = Error::check_parameter("mean target cosine t", t, "in [-1, 1]", valid)?;
        Ok(CurricularFace { t, ..self })
    }

    /// Sets the share of a batch in the new t.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is in (0, 1].
    pub fn with_rate(self, rate: f64) -> Result<Self, Error> {
        Ok(CurricularFace { rate: check_unit_rate("rate of t", rate)?, ..self })
    }

    /// Sets how the target logit continues where `θ > π − m`.
    pub fn with_continuation(self, continuation: Continuation) -> Self {
        CurricularFace { continuation, ..self }
    }

    /// Moves t towards the mean cosine of a batch's target angles: t ← rate·mean + (1 − rate)·t. No
    /// angles change nothing. On every rank of a class-parallel step, give the angles of the whole
    /// batch.
    ///
    /// Leave out samples that were left out of the step:
    /// [`Forward::target_angles`](crate::Forward::target_angles) says π/2 for them.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an angle that is not finite; t is then as it was.
    pub fn observe<F: Real>(&mut self, target_angles: &[F]) -> Result<(), Error> {
        let mut sum = 0.0;
        for (row, angle) in target_angles.iter().map(|angle| angle.widen()).enumerate() {
            sum += check_finite("target angles", row, angle)?.cos();
        }
        if !target_angles.is_empty() {
            let mean = sum / target_angles.len() as f64;
            // A mean of cosines that rounding put beyond ±1 would not be read again.
            self.t = mixed(self.t, mean, self.rate).clamp(-1.0, 1.0);
        }
        Ok(())
    }

    /// The scale s.
    pub fn s(&self) -> f64 {
        self.s
    }

    /// The angular margin m, in radians.
    pub fn m(&self) -> f64 {
        self.m
    }

    /// The running mean t of the target cosines.
    pub fn t(&self) -> f64 {
        self.t
    }

    /// The share of a batch in the new t.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// How the target logit continues where `θ > π − m`.
    pub fn continuation(&self) -> Continuation {
        self.continuation
    }
}

impl Default for CurricularFace {
    fn default() -> Self {
        let continuation = Continuation::Monotone;
        CurricularFace { s: 64.0, m: 0.5, t: 0.0, rate: 0.01, continuation }
    }
}

impl MarginLoss for CurricularFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        self.continuation.target(angle, 1.0, self.m)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        Some(HardNegatives::above_target(0.0, self.t, 1.0))
    }
}
