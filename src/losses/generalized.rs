use super::*;

hyper_parameters! {
    /// The general form with all three margins; every other normalized loss of this crate is a
    /// special case.
    ///
    /// ```text
    /// z_iy = a_i · (λ · cos θ_iy + ψ(m0 · θ_iy + m1) − m2) / (1 + λ)      own class y
    /// z_ij = a_i · cos θ_ij                                               every other class j
    /// ```
    ///
    /// `a_i` is the scale: s, or `‖x_i‖`. ψ is the cosine up to π and continues beyond π as the
    /// [`Continuation`] sets.
    ///
    /// | loss | arguments of `new` |
    /// |---|---|
    /// | ModifiedSoftmax | `FeatureNorm`, 1, 0, 0 |
    /// | SphereFace | `FeatureNorm`, m, 0, 0 |
    /// | F-Norm SphereFace | s, m, 0, 0 |
    /// | CosFace | s, 1, 0, m |
    /// | ArcFace | s, 1, m, 0 |
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D).
    pub struct Generalized {
        scale: Scale = Scale::Fixed(64.0), (check_scale "> 0, `FeatureNorm` or `Unnormalized`"),
            "scale a_i";
        m0: f64 = 1.0, "finite and > 0", "angular factor m0", "need not be an integer";
        m1: f64 = 0.3, "in [0, π) radians" of "scale, then m0, m1, m2", "angular margin m1";
        m2: f64 = 0.2, "in (-2, 2), a difference of cosines" of "scale, then m0, m1, m2",
            "cosine margin m2", "usually 0 to 0.5";
        lambda: f64 = 0.0, "finite and >= 0", "annealing lambda", "the larger, the less margin"
            => with_annealing;
        continuation: Continuation = Continuation::Monotone,
            (check_continuation "`Linear`, `EasyMargin`: m0 = 1"), "continuation beyond π"
            => with_continuation;
    }
    /// [`MarginWarmup`](crate::schedule::MarginWarmup) raises a margin step by step,
    /// [`LambdaAnnealing`](crate::schedule::LambdaAnnealing) lowers λ.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Generalized, Scale};
    ///
    /// let combined = Generalized::new(64.0, 1.0, 0.3, 0.2)?;
    /// assert_eq!(combined, Generalized::default());
    /// let sphereface = Generalized::new(Scale::FeatureNorm, 4.0, 0.0, 0.0)?.with_annealing(5.0)?;
    /// assert_eq!(sphereface.lambda(), 5.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Deng et al., *ArcFace* (CVPR 2019), eq. 4, with the paper's (1.0, 0.3, 0.2) at
    /// s = 64.
}

impl Generalized {
    /// The loss with a scale, an angular factor `m0`, an angular margin `m1` in radians and a
    /// cosine margin `m2`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the first argument outside its range in the table above.
    pub fn new(scale: impl Into<Scale>, m0: f64, m1: f64, m2: f64) -> Result<Self, Error> {
        Generalized { scale: scale.into(), m0, m1, m2, ..Self::default() }.checked()
    }

    fn check_scale(&self) -> Result<Scale, Error> {
        self.scale.checked()
    }

    fn check_continuation(&self) -> Result<(), Error> {
        self.continuation.check(self.m0)
    }
}

impl MarginLoss for Generalized {
    fn scale(&self) -> Scale {
        self.scale
    }

    fn target(&self, angle: &Angle) -> Target {
        let Target { value, slope } = self.continuation.target(angle, self.m0, self.m1);
        annealed(Target { value: value - self.m2, slope }, angle, self.lambda)
    }
}
