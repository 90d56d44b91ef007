//! The losses of the general form by their parameters: as the crate builds them, and as the textbook has them.

use std::f64::consts::{FRAC_PI_2, PI};

use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, CosFace, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, Scale, Softmax,
    SphereFace,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spec {
    Softmax,
    Modified,
    Sphere { m: u32, lambda: f64 },
    FNorm { s: f64, m: u32, lambda: f64 },
    Cos { s: f64, m: f64 },
    Arc { s: f64, m: f64, continuation: Continuation },
    General { scale: Scale, m: [f64; 3], lambda: f64, continuation: Continuation },
}

/// Each of them, both scales, every continuation, with and without annealing; m0 from below 1 to
/// above 2, so that the margin function passes several knots.
pub fn menu() -> Vec<Spec> {
    use Continuation::{EasyMargin, Linear, Monotone, Raw};
    let general = |scale, m, lambda, continuation| Spec::General { scale, m, lambda, continuation };
    let norm = Scale::FeatureNorm;
    vec![
        Spec::Softmax,
        Spec::Modified,
        Spec::Sphere { m: 1, lambda: 0.0 },
        Spec::Sphere { m: 4, lambda: 0.0 },
        Spec::Sphere { m: 3, lambda: 5.0 },
        Spec::FNorm { s: 64.0, m: 4, lambda: 0.0 },
        Spec::FNorm { s: 30.0, m: 2, lambda: 1.5 },
        Spec::Cos { s: 64.0, m: 0.35 },
        Spec::Cos { s: 1.0, m: 0.0 },
        Spec::Arc { s: 64.0, m: 0.5, continuation: Monotone },
        Spec::Arc { s: 64.0, m: 0.5, continuation: Raw },
        Spec::Arc { s: 30.0, m: 0.5, continuation: Linear },
        Spec::Arc { s: 16.0, m: 0.64, continuation: EasyMargin },
        general(Scale::Fixed(64.0), [1.0, 0.3, 0.2], 0.0, Monotone),
        general(Scale::Fixed(32.0), [2.35, 0.4, -0.1], 0.0, Monotone),
        general(Scale::Fixed(20.0), [0.7, 0.2, 0.1], 2.0, Raw),
        general(Scale::Fixed(16.0), [1.0, 0.6, 0.1], 1.0, Linear),
        general(norm, [1.0, 0.3, 0.2], 0.0, Monotone),
        general(norm, [2.5, 0.3, 0.05], 2.0, Monotone),
        general(norm, [3.0, 0.1, 0.1], 0.5, Raw),
        general(norm, [1.0, 0.4, 0.0], 3.0, EasyMargin),
    ]
}

impl Spec {
    /// The loss as the crate builds it.
    pub fn build(&self) -> Box<dyn MarginLoss> {
        match *self {
            Spec::Softmax => Box::new(Softmax::new()),
            Spec::Modified => Box::new(ModifiedSoftmax::new()),
            Spec::Sphere { m, lambda } => {
                Box::new(SphereFace::new(m).unwrap().with_annealing(lambda).unwrap())
            }
            Spec::FNorm { s, m, lambda } => {
                Box::new(FNormSphereFace::new(s, m).unwrap().with_annealing(lambda).unwrap())
            }
            Spec::Cos { s, m } => Box::new(CosFace::new(s, m).unwrap()),
            Spec::Arc { s, m, continuation } => {
                Box::new(ArcFace::new(s, m).unwrap().with_continuation(continuation))
            }
            Spec::General { scale, m: [m0, m1, m2], lambda, continuation } => Box::new(
                Generalized::new(scale, m0, m1, m2)
                    .and_then(|loss| loss.with_annealing(lambda))
                    .and_then(|loss| loss.with_continuation(continuation))
                    .unwrap(),
            ),
        }
    }

    pub fn scale(&self) -> Scale {
        match *self {
            Spec::Softmax => Scale::Unnormalized,
            Spec::Modified | Spec::Sphere { .. } => Scale::FeatureNorm,
            Spec::FNorm { s, .. } | Spec::Cos { s, .. } | Spec::Arc { s, .. } => Scale::Fixed(s),
            Spec::General { scale, .. } => scale,
        }
    }

    /// (m0, m1) of the target's angle.
    pub fn angular(&self) -> (f64, f64) {
        match *self {
            Spec::Softmax | Spec::Modified | Spec::Cos { .. } => (1.0, 0.0),
            Spec::Sphere { m, .. } | Spec::FNorm { m, .. } => (f64::from(m), 0.0),
            Spec::Arc { m, .. } => (1.0, m),
            Spec::General { m, .. } => (m[0], m[1]),
        }
    }

    pub fn lambda(&self) -> f64 {
        match *self {
            Spec::Sphere { lambda, .. }
            | Spec::FNorm { lambda, .. }
            | Spec::General { lambda, .. } => lambda,
            _ => 0.0,
        }
    }

    pub fn continuation(&self) -> Continuation {
        match *self {
            Spec::Arc { continuation, .. } | Spec::General { continuation, .. } => continuation,
            _ => Continuation::Monotone,
        }
    }

    /// f(θ) and df/dθ, each loss by the formula of its paper.
    pub fn target(&self, theta: f64) -> (f64, f64) {
        let (cos, sin) = (theta.cos(), theta.sin());
        let (psi, slope, m2) = match *self {
            Spec::Softmax | Spec::Modified => (cos, -sin, 0.0),
            Spec::Cos { m, .. } => (cos, -sin, m),
            Spec::Sphere { m, .. } | Spec::FNorm { m, .. } => {
                let (psi, slope) = a_softmax(m, theta);
                (psi, slope, 0.0)
            }
            Spec::Arc { m, continuation, .. } => {
                let (psi, slope) = continued(continuation, 1.0, m, theta);
                (psi, slope, 0.0)
            }
            Spec::General { m, continuation, .. } => {
                let (psi, slope) = continued(continuation, m[0], m[1], theta);
                (psi, slope, m[2])
            }
        };
        let lambda = self.lambda();
        ((lambda * cos + psi - m2) / (1.0 + lambda), (slope - lambda * sin) / (1.0 + lambda))
    }

    /// Angles in (0, π) where the target logit is not smooth.
    pub fn knots(&self) -> Vec<f64> {
        let (m0, m1) = self.angular();
        match self.continuation() {
            Continuation::Raw => vec![],
            Continuation::Linear => vec![PI - m1],
            Continuation::EasyMargin => vec![FRAC_PI_2],
            Continuation::Monotone => {
                let angles = (1..).map(|k| (f64::from(k) * PI - m1) / m0);
                angles.take_while(|&theta| theta < PI).collect()
            }
        }
    }

    /// The largest |df/dθ| that `docs/math.md`, section 3, proves.
    pub fn steepest(&self) -> f64 {
        let m0 = match self.continuation() {
            Continuation::Linear | Continuation::EasyMargin => self.angular().0.max(1.0),
            _ => self.angular().0,
        };
        (self.lambda() + m0) / (1.0 + self.lambda())
    }

    /// The smallest and the largest f(θ), or bounds on them.
    pub fn range(&self) -> (f64, f64) {
        let blend =
            |psi: f64, cos: f64, m2: f64| (self.lambda() * cos + psi - m2) / (1.0 + self.lambda());
        let m2 = match *self {
            Spec::Cos { m, .. } => m,
            Spec::General { m, .. } => m[2],
            _ => 0.0,
        };
        match self.continuation() {
            Continuation::Monotone => (self.target(PI).0, self.target(0.0).0),
            Continuation::Raw | Continuation::EasyMargin => {
                (blend(-1.0, -1.0, m2), blend(1.0, 1.0, m2))
            }
            Continuation::Linear => {
                let m1 = self.angular().1;
                (blend(-1.0 - m1 * m1.sin(), -1.0, m2), blend(1.0, 1.0, m2))
            }
        }
    }
}

/// ψ(θ) = (−1)^k cos(mθ) − 2k on \[kπ/m, (k+1)π/m\], k = 0 … m − 1: SphereFace, eq. 7.
fn a_softmax(m: u32, theta: f64) -> (f64, f64) {
    let factor = f64::from(m);
    let k = (1..m).take_while(|&k| theta > f64::from(k) * PI / factor).count() as i32;
    let sign = f64::from(1 - 2 * (k % 2));
    let phi = factor * theta;
    (sign * phi.cos() - 2.0 * f64::from(k), -sign * factor * phi.sin())
}

/// ψ(m0 θ + m1) past π, as `docs/math.md`, section 0.4, tabulates it.
fn continued(continuation: Continuation, m0: f64, m1: f64, theta: f64) -> (f64, f64) {
    let (cos, sin) = (theta.cos(), theta.sin());
    let phi = m0 * theta + m1;
    match continuation {
        Continuation::Monotone => {
            let k = (phi / PI).floor();
            let sign = if k % 2.0 == 0.0 { 1.0 } else { -1.0 };
            (sign * phi.cos() - 2.0 * k, -sign * m0 * phi.sin())
        }
        Continuation::Linear if m1 > 0.0 && cos <= (PI - m1).cos() => (cos - m1 * m1.sin(), -sin),
        Continuation::EasyMargin if cos <= 0.0 => (cos, -sin),
        _ => (phi.cos(), -m0 * phi.sin()),
    }
}
