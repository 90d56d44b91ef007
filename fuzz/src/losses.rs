//! Any loss with any hyper-parameters, and losses that answer nonsense.

use arbitrary::Arbitrary;
use margin_softmax::{
    Angle, ArcFace, Continuation, CosFace, Error, FNormSphereFace, Generalized, MarginLoss,
    ModifiedSoftmax, Scale, Softmax, SphereFace, Target,
};

use crate::numbers::Number;

/// A loss as the fuzzer writes it down.
#[derive(Debug, Clone, Arbitrary)]
pub enum Loss {
    Softmax,
    Modified,
    Sphere {
        m: u32,
        lambda: Number,
    },
    FNorm {
        s: Number,
        m: u32,
        lambda: Number,
    },
    Cos {
        s: Number,
        m: Number,
    },
    Arc {
        s: Number,
        m: Number,
        past: Past,
    },
    General {
        factor: Factor,
        m0: Number,
        m1: Number,
        m2: Number,
        lambda: Number,
        past: Past,
    },
    /// What the papers train with.
    Published(u8),
    /// A user's loss that answers what it likes.
    Wild {
        factor: Factor,
        value: Number,
        slope: Number,
    },
}

/// What happens past $\pi$.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Past {
    Monotone,
    Raw,
    Linear,
    EasyMargin,
}

/// What multiplies the cosine.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Factor {
    Fixed(Number),
    FeatureNorm,
    Unnormalized,
}

impl From<Past> for Continuation {
    fn from(past: Past) -> Self {
        match past {
            Past::Monotone => Continuation::Monotone,
            Past::Raw => Continuation::Raw,
            Past::Linear => Continuation::Linear,
            Past::EasyMargin => Continuation::EasyMargin,
        }
    }
}

impl From<Factor> for Scale {
    fn from(factor: Factor) -> Self {
        match factor {
            Factor::Fixed(s) => Scale::Fixed(s.value()),
            Factor::FeatureNorm => Scale::FeatureNorm,
            Factor::Unnormalized => Scale::Unnormalized,
        }
    }
}

impl Loss {
    /// The loss, unless its hyper-parameters are refused.
    pub fn build(&self) -> Result<Box<dyn MarginLoss>, Error> {
        Ok(match *self {
            Loss::Softmax => Box::new(Softmax::new()),
            Loss::Modified => Box::new(ModifiedSoftmax::new()),
            Loss::Sphere { m, lambda } => {
                Box::new(SphereFace::new(m)?.with_annealing(lambda.value())?)
            }
            Loss::FNorm { s, m, lambda } => {
                Box::new(FNormSphereFace::new(s.value(), m)?.with_annealing(lambda.value())?)
            }
            Loss::Cos { s, m } => Box::new(CosFace::new(s.value(), m.value())?),
            Loss::Arc { s, m, past } => {
                Box::new(ArcFace::new(s.value(), m.value())?.with_continuation(past.into()))
            }
            Loss::General { factor, m0, m1, m2, lambda, past } => Box::new(
                Generalized::new(Scale::from(factor), m0.value(), m1.value(), m2.value())?
                    .with_annealing(lambda.value())?
                    .with_continuation(past.into())?,
            ),
            Loss::Published(which) => published(which),
            Loss::Wild { factor, value, slope } => {
                let target = Target { value: value.value(), slope: slope.value() };
                Box::new(Wild { scale: factor.into(), target })
            }
        })
    }
}

fn published(which: u8) -> Box<dyn MarginLoss> {
    match which % 5 {
        0 => Box::new(SphereFace::default()),
        1 => Box::new(FNormSphereFace::default()),
        2 => Box::new(CosFace::default()),
        3 => Box::new(ArcFace::default()),
        _ => Box::new(Generalized::default()),
    }
}

/// Nothing that it answers has been checked.
#[derive(Debug)]
struct Wild {
    scale: Scale,
    target: Target,
}

impl MarginLoss for Wild {
    fn scale(&self) -> Scale {
        self.scale
    }

    fn target(&self, _: &Angle) -> Target {
        self.target
    }
}
