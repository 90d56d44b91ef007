use super::*;

hyper_parameters! {
    /// MV-Softmax (support vector guided softmax): ArcFace or CosFace whose hard negatives are
    /// up-weighted.
    ///
    /// ```text
    /// z_iy = s · f_i,   f_i = ψ(θ_iy + m)          own class y: arc
    ///                   f_i = cos θ_iy − m         own class y: am
    /// z_ij = s · cos θ_ij                          cos θ_ij ≤ f_i
    /// z_ij = s · ((1 + t) · cos θ_ij + t)          cos θ_ij > f_i
    /// ```
    ///
    /// ψ is the [monotone cosine](crate::losses::Continuation::Monotone). A negative is hard where the
    /// sample is nearer to it than its margin allows; the rise `t·(cos θ + 1)` is never negative.
    ///
    /// Take it when most samples are learned early and the rest are confused with a few classes: it
    /// weighs those from the first step, where [`CurricularFace`](crate::CurricularFace) waits.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct MvSoftmax {
        kind: MarginKind = MarginKind::Angular, any, "kind of margin", "`arc`, in radians, or `am`";
        s: f64 = 32.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.35, [kind] of "scale s, then margin m, then t", "margin m";
        t: f64 = 0.2, "finite and >= 0", "weight t of hard negatives", "0 is ArcFace, CosFace";
    }
    /// The published code compares with the formulas as printed but has an easy margin: the target
    /// logit is that without a margin where cos θ ≤ 0. Here f keeps falling and is what negatives
    /// are compared with.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, MvSoftmax};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.8, 0.6]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let head = Head::new(MvSoftmax::am(10.0, 0.3, 0.2)?);
    /// let forward = head.forward(&Batch::new(&x, &w, &[0]))?;
    /// // f = 0.5 and the other cosine, 0.6, is above it: z = (5, 10 · (1.2 · 0.6 + 0.2))
    /// approx::assert_relative_eq!(forward.losses[0], 4.2_f64.exp().ln_1p(), epsilon = 1e-12);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Wang et al., *Mis-classified Vector Guided Softmax Loss for Face Recognition*
    /// (AAAI 2020). s, m and t are the defaults of the authors' code, whose kind is `am`.
}

impl MvSoftmax {
    /// The loss with scale `s`, angular margin `m` in radians and `t`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in [0, π) and `t` finite and ≥ 0.
    pub fn arc(s: f64, m: f64, t: f64) -> Result<Self, Error> {
        MvSoftmax { kind: MarginKind::Angular, s, m, t }.checked()
    }

    /// The loss with scale `s`, cosine margin `m` and `t`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in (−2, 2) and `t` finite and ≥ 0.
    pub fn am(s: f64, m: f64, t: f64) -> Result<Self, Error> {
        MvSoftmax { kind: MarginKind::Cosine, s, m, t }.checked()
    }
}

impl MarginLoss for MvSoftmax {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        self.kind.target(angle, self.m)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        Some(HardNegatives::above_target(self.t, 1.0 + self.t, 0.0))
    }
}
