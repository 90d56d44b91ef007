//! The menu: one file a loss, the same order in each.

mod arcface;
mod cosface;
mod fnorm_sphereface;
mod generalized;
mod modified_softmax;
mod softmax;
mod sphereface;

pub use arcface::ArcFace;
pub use cosface::CosFace;
pub use fnorm_sphereface::FNormSphereFace;
pub use generalized::Generalized;
pub use modified_softmax::ModifiedSoftmax;
pub use softmax::Softmax;
pub use sphereface::SphereFace;

use crate::error::Error;

fn check_additive(parameter: &'static str, m: f64) -> Result<f64, Error> {
    Error::check_parameter(parameter, m, "finite and >= 0", m.is_finite() && m >= 0.0)
}

fn check_cosine(parameter: &'static str, m: f64) -> Result<f64, Error> {
    Error::check_parameter(parameter, m, "finite", m.is_finite())
}

fn check_integer(m: u32) -> Result<f64, Error> {
    Error::check_parameter("angular factor m", f64::from(m), "an integer >= 1", m >= 1)
}

fn check_lambda(lambda: f64) -> Result<f64, Error> {
    let valid = lambda.is_finite() && lambda >= 0.0;
    Error::check_parameter("annealing lambda", lambda, "finite and >= 0", valid)
}
