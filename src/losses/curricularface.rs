use super::*;

hyper_parameters! {
    /// CurricularFace: ArcFace whose hard negatives are up-weighted, and the more so the further the
    /// training has come.
    ///
    /// ```text
    /// z_iy = s · f_i,   f_i = ψ(θ_iy + m)          own class y
    /// z_ij = s · cos θ_ij                          cos θ_ij ≤ f_i
    /// z_ij = s · cos θ_ij · (t + cos θ_ij)         cos θ_ij > f_i
    /// ```
    ///
    /// ψ is the cosine up to π and continues beyond π as the [`Continuation`] sets. t follows the
    /// mean target cosine, from 0: early, hard negatives count less than their cosine, later more.
    /// [`observe`](Self::observe) moves t and nothing else does: a step leaves the loss as it is.
    ///
    /// Take it when a fixed margin no longer finds what to learn from, and labels are clean enough
    /// for hard negatives to be worth the attention.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct CurricularFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.5, "in [0, π) radians" of "scale s, then margin m", "angular margin m";
        t: f64 = 0.0, "in [-1, 1]", "mean target cosine t", "a state" => with_t;
        rate: f64 = 0.01, "in (0, 1]", "rate of t", "the share of a batch in the new t"
            => with_rate;
        continuation: Continuation = Continuation::Monotone, any, "continuation where `θ > π − m`"
            => with_continuation;
    }
    /// The published code moves t before the step, as the example does. It falls back to `cos θ −
    /// m·sin m` where `θ > π − m` ([`Continuation::Linear`]) but compares negatives with the raw
    /// `cos(θ + m)`; here they are compared with f, whatever it falls back to.
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
}

impl CurricularFace {
    /// The loss with scale `s` and angular margin `m` in radians, at the start of a training.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is in [0, π).
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        CurricularFace { s, m, ..Self::default() }.checked()
    }

    /// Moves t towards the mean cosine of a batch's target angles: t ← rate·mean + (1 − rate)·t. No
    /// angles change nothing. On every rank of a class-parallel step, give the angles of the whole
    /// batch.
    ///
    /// Those to observe are
    /// [`Forward::counted_target_angles`](crate::Forward::counted_target_angles), without samples
    /// that do not count.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an angle that is not finite; t is then as it was.
    pub fn observe<F: Real>(&mut self, target_angles: &[F]) -> Result<(), Error> {
        check_finite("target angles", &target_angles.into())?;
        if !target_angles.is_empty() {
            let sum: f64 = target_angles.iter().map(|angle| angle.widen().cos()).sum();
            let mean = sum / target_angles.len() as f64;
            // A mean of cosines that rounding put beyond ±1 would not be read again.
            self.t = mixed(self.t, mean, self.rate).clamp(-1.0, 1.0);
        }
        Ok(())
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
