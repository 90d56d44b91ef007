//! The study: losses, schedules of their margins, and the margins to test.

use anyhow::Result;
use clap::ValueEnum;
use margin_softmax::boundary::Boundary;
use margin_softmax::losses::Continuation;
use margin_softmax::schedule::{LambdaAnnealing, MarginWarmup};
use margin_softmax::{ArcFace, CosFace, FNormSphereFace, Generalized, MarginLoss, SphereFace};

use crate::digits::CLASSES;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum LossName {
    SphereFace,
    FNormSphereFace,
    CosFace,
    ArcFace,
    Generalized,
}

/// How the margin is introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The whole margin from the first step.
    AtOnce,
    /// The whole margin from the first step, with a cosine shifted down beyond π.
    Linear,
    /// The whole margin from the first step, with the unchanged cosine beyond π.
    Raw,
    /// λ falls from 1000 to 5, as in the code of the A-Softmax paper.
    Annealed,
    /// λ falls from 1000 to 0.
    AnnealedAway,
    /// Linear warm-up over the first third of training.
    WarmedUp,
}

/// One curve of the pictures: a loss and how its margin is introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curve {
    pub name: LossName,
    pub course: Course,
}

impl LossName {
    pub fn title(self) -> &'static str {
        match self {
            Self::SphereFace => "SphereFace",
            Self::FNormSphereFace => "F-Norm SphereFace",
            Self::CosFace => "CosFace",
            Self::ArcFace => "ArcFace",
            Self::Generalized => "Generalized",
        }
    }

    /// The label of the margin axis.
    pub fn margin_label(self) -> &'static str {
        match self {
            Self::SphereFace | Self::FNormSphereFace | Self::CosFace => "m",
            Self::ArcFace => "m, radians",
            Self::Generalized => "t, for m₁ = 0.3 t and m₂ = 0.2 t",
        }
    }

    /// From no margin to far beyond what can be trained.
    pub fn margins(self) -> Vec<f64> {
        let multiples = |count: u32, step: f64| (0..=count).map(move |i| f64::from(i) * step);
        match self {
            Self::SphereFace | Self::FNormSphereFace => (1..=8).map(f64::from).collect(),
            Self::CosFace => multiples(8, 0.2).collect(),
            Self::ArcFace => multiples(13, 0.2).collect(),
            Self::Generalized => multiples(12, 0.5).collect(),
        }
    }

    /// The margin of the loss's paper.
    pub fn published(self) -> f64 {
        match self {
            Self::SphereFace | Self::FNormSphereFace => 4.0,
            Self::CosFace => 0.35,
            Self::ArcFace => 0.5,
            Self::Generalized => 1.0,
        }
    }

    pub fn curves(self) -> Vec<Curve> {
        let courses: &[Course] = match self {
            Self::SphereFace | Self::FNormSphereFace => {
                &[Course::AtOnce, Course::Annealed, Course::AnnealedAway]
            }
            Self::CosFace | Self::Generalized => &[Course::AtOnce, Course::WarmedUp],
            Self::ArcFace => &[Course::AtOnce, Course::Linear, Course::Raw, Course::WarmedUp],
        };
        courses.iter().map(|&course| Curve { name: self, course }).collect()
    }
}

impl Course {
    pub fn title(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::Linear => "at once, Linear beyond π",
            Self::Raw => "at once, Raw beyond π",
            Self::Annealed => "λ from 1000 to 5",
            Self::AnnealedAway => "λ from 1000 to 0",
            Self::WarmedUp => "warmed up",
        }
    }
}

impl Curve {
    /// The loss with this margin at `step` of `steps`.
    pub fn loss_at(
        self,
        margin: f64,
        scale: f64,
        step: usize,
        steps: usize,
    ) -> Result<Box<dyn MarginLoss>> {
        let lambda = match self.course {
            Course::Annealed => LambdaAnnealing::default().at(step),
            Course::AnnealedAway => LambdaAnnealing::new(1000.0, 0.12, 2.0, 0.0)?.at(step),
            _ => 0.0,
        };
        let margin = match self.course {
            Course::WarmedUp => MarginWarmup::new(margin, steps / 3)?.at(step),
            _ => margin,
        };
        let continuation = match self.course {
            Course::Linear => Continuation::Linear,
            Course::Raw => Continuation::Raw,
            _ => Continuation::Monotone,
        };
        Ok(match self.name {
            LossName::SphereFace => {
                Box::new(SphereFace::new(margin as u32)?.with_annealing(lambda)?)
            }
            LossName::FNormSphereFace => {
                Box::new(FNormSphereFace::new(scale, margin as u32)?.with_annealing(lambda)?)
            }
            LossName::CosFace => Box::new(CosFace::new(scale, margin)?),
            LossName::ArcFace => {
                Box::new(ArcFace::new(scale, margin)?.with_continuation(continuation))
            }
            LossName::Generalized => {
                Box::new(Generalized::new(scale, 1.0, 0.3 * margin, 0.2 * margin)?)
            }
        })
    }

    /// The width of the margin's band, in radians, between two of ten evenly spread classes. It
    /// makes the margins of different losses comparable. `None` if the margin is so large that no
    /// sample can satisfy it.
    pub fn band(self, margin: f64) -> Result<Option<f64>> {
        // The scale does not affect the boundary.
        let at_the_end = self.loss_at(margin, 1.0, usize::MAX, 1)?;
        Ok(Boundary::of(at_the_end).band(widest_angle()))
    }
}

/// The largest angle that all pairs of classes can have at once: that of a regular simplex.
pub fn widest_angle() -> f64 {
    (-1.0 / (CLASSES as f64 - 1.0)).acos()
}
