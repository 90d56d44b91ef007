//! The losses of the study, and what they need between steps.

use anyhow::Result;
use margin_softmax::losses::MarginKind;
use margin_softmax::schedule::LambdaAnnealing;
use margin_softmax::{
    AdaFace, ArcFace, CosFace, CurricularFace, ElasticFace, FNormSphereFace, Forward, Generalized,
    LabelSmoothing, MagFace, MarginLoss, ModifiedSoftmax, MvSoftmax, Softmax, SphereFace,
};

/// The seed of ElasticFace's draws.
const SEED: u64 = 0;
/// The published norms between which MagFace's margin grows.
const NORMS: (f64, f64) = (10.0, 110.0);

/// A loss with its scale `s` and its margins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    Softmax,
    ModifiedSoftmax,
    SphereFace { m: u32 },
    FNormSphereFace { s: f64, m: u32 },
    CosFace { s: f64, m: f64 },
    ArcFace { s: f64, m: f64 },
    Generalized { s: f64, m: [f64; 3] },
    AdaFace { s: f64, m: f64, h: f64 },
    MagFace { s: f64, m: (f64, f64), g: f64 },
    ElasticFace { kind: MarginKind, s: f64, m: f64, sigma: f64 },
    CurricularFace { s: f64, m: f64 },
    MvSoftmax { kind: MarginKind, s: f64, m: f64, t: f64 },
    Smoothed { s: f64, m: f64, epsilon: f64 },
}

impl Loss {
    pub fn name(self) -> String {
        match self {
            Self::Softmax => "Softmax".into(),
            Self::ModifiedSoftmax => "ModifiedSoftmax".into(),
            Self::SphereFace { m } => format!("SphereFace m={m}"),
            Self::FNormSphereFace { s, m } => format!("F-Norm SphereFace s={s} m={m}"),
            Self::CosFace { s, m: 0.0 } => format!("no margin s={s}"),
            Self::CosFace { s, m } => format!("CosFace s={s} m={m}"),
            Self::ArcFace { s, m } => format!("ArcFace s={s} m={m}"),
            Self::Generalized { s, m: [m0, m1, m2] } => {
                format!("Generalized s={s} m=({m0} {m1} {m2})")
            }
            Self::AdaFace { s, m, h } => format!("AdaFace s={s} m={m} h={h}"),
            Self::MagFace { s, m: (low, high), g } => format!("MagFace s={s} m={low}-{high} g={g}"),
            Self::ElasticFace { kind, s, m, sigma } => {
                format!("ElasticFace-{} s={s} m={m} sigma={sigma}", short(kind))
            }
            Self::CurricularFace { s, m } => format!("CurricularFace s={s} m={m}"),
            Self::MvSoftmax { kind, s, m, t } => {
                format!("MV-Softmax-{} s={s} m={m} t={t}", short(kind))
            }
            Self::Smoothed { s, m, epsilon } => format!("ArcFace s={s} m={m} smoothed {epsilon}"),
        }
    }
}

fn short(kind: MarginKind) -> &'static str {
    match kind {
        MarginKind::Angular => "Arc",
        MarginKind::Cosine => "Cos",
    }
}

/// A loss in the course of a training.
pub struct Course {
    loss: Loss,
    /// With the running statistics of the norms.
    adaface: AdaFace,
    /// With the running mean of the target cosines.
    curricular: CurricularFace,
}

impl Course {
    pub fn new(loss: Loss) -> Self {
        Self { loss, adaface: AdaFace::default(), curricular: CurricularFace::default() }
    }

    /// The loss of a step. Margins grow over the first third of the training; SphereFace's λ falls
    /// as published instead.
    pub fn at(&self, step: usize, steps: usize) -> Result<Box<dyn MarginLoss>> {
        let grown = (3.0 * step as f64 / steps as f64).min(1.0);
        let lambda = LambdaAnnealing::default().at(step);
        Ok(match self.loss {
            Loss::Softmax => Box::new(Softmax::new()),
            Loss::ModifiedSoftmax => Box::new(ModifiedSoftmax::new()),
            Loss::SphereFace { m } => Box::new(SphereFace::new(m)?.with_annealing(lambda)?),
            Loss::FNormSphereFace { s, m } => {
                Box::new(FNormSphereFace::new(s, m)?.with_annealing(lambda)?)
            }
            Loss::CosFace { s, m } => Box::new(CosFace::new(s, grown * m)?),
            Loss::ArcFace { s, m } => Box::new(ArcFace::new(s, grown * m)?),
            Loss::Generalized { s, m: [m0, m1, m2] } => {
                let m0 = 1.0 + grown * (m0 - 1.0);
                Box::new(Generalized::new(s, m0, grown * m1, grown * m2)?)
            }
            Loss::AdaFace { s, m, h } => {
                let (mean, std) = (self.adaface.mean(), self.adaface.std());
                Box::new(AdaFace::new(s, grown * m, h)?.with_statistics(mean, std)?)
            }
            Loss::MagFace { s, m: (low, high), g } => {
                Box::new(MagFace::new(s, NORMS, (grown * low, grown * high), g)?)
            }
            Loss::ElasticFace { kind, s, m, sigma } => {
                let (m, sigma) = (grown * m, grown * sigma);
                let loss = match kind {
                    MarginKind::Angular => ElasticFace::arc(s, m, sigma, SEED)?,
                    MarginKind::Cosine => ElasticFace::cos(s, m, sigma, SEED)?,
                };
                Box::new(loss.at_step(step as u64))
            }
            Loss::CurricularFace { s, m } => {
                Box::new(CurricularFace::new(s, grown * m)?.with_t(self.curricular.t())?)
            }
            Loss::MvSoftmax { kind, s, m, t } => Box::new(match kind {
                MarginKind::Angular => MvSoftmax::arc(s, grown * m, t)?,
                MarginKind::Cosine => MvSoftmax::am(s, grown * m, t)?,
            }),
            Loss::Smoothed { s, m, epsilon } => {
                Box::new(LabelSmoothing::new(ArcFace::new(s, grown * m)?, epsilon)?)
            }
        })
    }

    /// Moves the statistics of the losses that have some.
    pub fn observe(&mut self, forward: &Forward<f32>) -> Result<()> {
        match self.loss {
            Loss::AdaFace { .. } => self.adaface.observe(&forward.counted_norms())?,
            Loss::CurricularFace { .. } => {
                self.curricular.observe(&forward.target_angles().to_vec())?;
            }
            _ => {}
        }
        Ok(())
    }
}
