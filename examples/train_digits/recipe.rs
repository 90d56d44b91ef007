//! The losses, with the hyper-parameters that this example trains them with.

use anyhow::Result;
use clap::ValueEnum;
use margin_softmax::schedule::LambdaAnnealing;
use margin_softmax::{
    AdaFace, ArcFace, CosFace, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, Softmax,
    SphereFace,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum LossName {
    Softmax,
    ModifiedSoftmax,
    SphereFace,
    FNormSphereFace,
    CosFace,
    ArcFace,
    Generalized,
    AdaFace,
}

/// Of the embeddings of the tables.
pub const DIMENSIONS: usize = 16;

/// The scale of every loss that has one.
const SCALE: f64 = 16.0;

/// A loss with its hyper-parameters.
#[derive(Clone, Copy)]
pub enum Recipe {
    Softmax,
    ModifiedSoftmax,
    SphereFace { m: u32 },
    FNormSphereFace { s: f64, m: u32 },
    CosFace { s: f64, m: f64 },
    ArcFace { s: f64, m: f64 },
    Generalized { s: f64, m0: f64, m1: f64, m2: f64 },
    AdaFace { s: f64, m: f64, h: f64 },
}

/// AdaFace's h, as published.
const CONCENTRATION: f64 = 0.333;

impl Recipe {
    /// For the tables' [`DIMENSIONS`], where ten classes can be separated by the papers' margins.
    pub fn for_table(name: LossName) -> Self {
        match name {
            LossName::Softmax => Self::Softmax,
            LossName::ModifiedSoftmax => Self::ModifiedSoftmax,
            LossName::SphereFace => Self::SphereFace { m: 4 },
            LossName::FNormSphereFace => Self::FNormSphereFace { s: SCALE, m: 4 },
            LossName::CosFace => Self::CosFace { s: SCALE, m: 0.35 },
            LossName::ArcFace => Self::ArcFace { s: SCALE, m: 0.5 },
            LossName::Generalized => Self::Generalized { s: SCALE, m0: 1.0, m1: 0.3, m2: 0.2 },
            LossName::AdaFace => Self::AdaFace { s: SCALE, m: 0.4, h: CONCENTRATION },
        }
    }

    /// For two dimensions, where ten classes are 36° apart on a circle: smaller margins. SphereFace
    /// and F-Norm SphereFace keep theirs, because at λ = 5 the margin term has a weight of 1/6.
    pub fn for_plane(name: LossName) -> Self {
        match name {
            LossName::Softmax => Self::Softmax,
            LossName::ModifiedSoftmax => Self::ModifiedSoftmax,
            LossName::SphereFace => Self::SphereFace { m: 4 },
            LossName::FNormSphereFace => Self::FNormSphereFace { s: SCALE, m: 4 },
            LossName::CosFace => Self::CosFace { s: SCALE, m: 0.1 },
            LossName::ArcFace => Self::ArcFace { s: SCALE, m: 0.15 },
            LossName::Generalized => Self::Generalized { s: SCALE, m0: 1.0, m1: 0.1, m2: 0.05 },
            LossName::AdaFace => Self::AdaFace { s: SCALE, m: 0.1, h: CONCENTRATION },
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax => "Softmax",
            Self::ModifiedSoftmax => "ModifiedSoftmax",
            Self::SphereFace { .. } => "SphereFace",
            Self::FNormSphereFace { .. } => "FNormSphereFace",
            Self::CosFace { .. } => "CosFace",
            Self::ArcFace { .. } => "ArcFace",
            Self::Generalized { .. } => "Generalized",
            Self::AdaFace { .. } => "AdaFace",
        }
    }

    pub fn has_margin(self) -> bool {
        !matches!(self, Self::Softmax | Self::ModifiedSoftmax)
    }

    /// The scale, if there is one, and the margin.
    pub fn hyper_parameters(self) -> String {
        match self {
            Self::Softmax | Self::ModifiedSoftmax | Self::SphereFace { .. } => self.margin(),
            Self::FNormSphereFace { s, .. }
            | Self::CosFace { s, .. }
            | Self::ArcFace { s, .. }
            | Self::Generalized { s, .. }
            | Self::AdaFace { s, .. } => format!("s={s}, {}", self.margin()),
        }
    }

    pub fn margin(self) -> String {
        match self {
            Self::Softmax => "bias, no margin".into(),
            Self::ModifiedSoftmax => "no margin".into(),
            Self::SphereFace { m } | Self::FNormSphereFace { m, .. } => {
                format!("m={m}, λ→{}", LambdaAnnealing::default().minimum())
            }
            Self::CosFace { m, .. } | Self::ArcFace { m, .. } => format!("m={m}"),
            Self::Generalized { m0, m1, m2, .. } => format!("m=({m0}, {m1}, {m2})"),
            Self::AdaFace { m, h, .. } => format!("m={m}, h={h}"),
        }
    }

    /// The losses of a training, from the number of a step and the norms of the step before.
    /// AdaFace reads its margins from their running statistics.
    pub fn losses(self) -> impl FnMut(usize, &[f32]) -> Result<Box<dyn MarginLoss>> {
        let mut observing = None;
        move |step, norms| {
            let Self::AdaFace { s, m, h } = self else { return self.loss_at(step) };
            let loss = match &mut observing {
                None => observing.insert(AdaFace::new(s, m, h)?),
                Some(loss) => loss,
            };
            loss.observe(norms)?;
            Ok(Box::new(loss.clone()))
        }
    }

    /// The loss of a training step. SphereFace's margin is too large for an untrained network and
    /// is annealed.
    pub fn loss_at(self, step: usize) -> Result<Box<dyn MarginLoss>> {
        let lambda = LambdaAnnealing::default().at(step);
        Ok(match self {
            Self::Softmax => Box::new(Softmax::new()),
            Self::ModifiedSoftmax => Box::new(ModifiedSoftmax::new()),
            Self::SphereFace { m } => Box::new(SphereFace::new(m)?.with_annealing(lambda)?),
            Self::FNormSphereFace { s, m } => {
                Box::new(FNormSphereFace::new(s, m)?.with_annealing(lambda)?)
            }
            Self::CosFace { s, m } => Box::new(CosFace::new(s, m)?),
            Self::ArcFace { s, m } => Box::new(ArcFace::new(s, m)?),
            Self::Generalized { s, m0, m1, m2 } => Box::new(Generalized::new(s, m0, m1, m2)?),
            Self::AdaFace { s, m, h } => Box::new(AdaFace::new(s, m, h)?),
        })
    }
}
