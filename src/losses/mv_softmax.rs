use super::{MarginKind, check_angular_margin, check_cosine_margin};
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, HardNegatives, Target};

/// MV-Softmax (support vector guided softmax): ArcFace or CosFace whose hard negatives count more.
///
/// ```text
/// z_iy = s · f_i,   f_i = ψ(θ_iy + m)          own class y: arc
///                   f_i = cos θ_iy − m         own class y: am
/// z_ij = s · cos θ_ij                          cos θ_ij ≤ f_i
/// z_ij = s · ((1 + t) · cos θ_ij + t)          cos θ_ij > f_i
/// ```
///
/// ψ is the [monotone cosine](crate::losses::Continuation::Monotone). A negative is hard where the sample
/// is nearer to it than its margin allows; the rise `t·(cos θ + 1)` is never negative.
///
/// Take it when most samples are learned early and the rest are confused with a few classes: it
/// weighs those from the first step, where [`CurricularFace`](crate::CurricularFace) waits.
///
/// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalises both.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `kind` | `Angular` | `Angular` ([`arc`](Self::arc)), `Cosine` ([`am`](Self::am)) | kind of margin |
/// | `s` | 32 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 0.35 | [0, π) radians; `am`: (−2, 2) | margin |
/// | `t` | 0.2 | finite, ≥ 0 | how much harder; 0 is ArcFace, CosFace |
///
/// The published code compares with the formulas as printed but has an easy margin: the target logit
/// is that without a margin where cos θ ≤ 0. Here f keeps falling and is what negatives are compared
/// with.
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
/// **Source**: Wang et al., *Mis-classified Vector Guided Softmax Loss for Face Recognition* (AAAI
/// 2020); the defaults are those of the authors' code.
#[derive(Debug, Clone, PartialEq)]
pub struct MvSoftmax {
    kind: MarginKind,
    s: f64,
    m: f64,
    t: f64,
}

impl MvSoftmax {
    /// The loss with scale `s`, angular margin `m` in radians and `t`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in [0, π) and `t` finite and ≥ 0.
    pub fn arc(s: f64, m: f64, t: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        let expected = "in [0, π) radians (arguments are scale s, then margin m, then t)";
        check_angular_margin("angular margin m", m, expected)?;
        Ok(MvSoftmax { kind: MarginKind::Angular, s, m, t: check_t(t)? })
    }

    /// The loss with scale `s`, cosine margin `m` and `t`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in (−2, 2) and `t` finite and ≥ 0.
    pub fn am(s: f64, m: f64, t: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        let expected = "in (-2, 2), a difference of cosines (arguments are scale s, margin m, t)";
        check_cosine_margin("cosine margin m", m, expected)?;
        Ok(MvSoftmax { kind: MarginKind::Cosine, s, m, t: check_t(t)? })
    }

    /// Whether the margin is added to the angle or subtracted from the cosine.
    pub fn kind(&self) -> MarginKind {
        self.kind
    }

    /// The scale s.
    pub fn s(&self) -> f64 {
        self.s
    }

    /// The margin m.
    pub fn m(&self) -> f64 {
        self.m
    }

    /// How much harder hard negatives count.
    pub fn t(&self) -> f64 {
        self.t
    }
}

fn check_t(t: f64) -> Result<f64, Error> {
    let valid = t.is_finite() && t >= 0.0;
    Error::check_parameter("weight t of hard negatives", t, "finite and >= 0", valid)
}

impl Default for MvSoftmax {
    fn default() -> Self {
        MvSoftmax { kind: MarginKind::Angular, s: 32.0, m: 0.35, t: 0.2 }
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
