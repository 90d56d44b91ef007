//! Direct implementations of the losses with burn operations.

use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use margin_softmax::{
    ArcFace, CosFace, Error, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, Softmax,
    SphereFace,
};

/// The scale of a formula.
#[derive(Clone, Copy)]
enum By {
    Number(f64),
    FeatureNorm,
    Nothing,
}

pub struct Case {
    pub loss: Arc<dyn MarginLoss>,
    scale: By,
    /// The target logit before the scale, from the cosine.
    target: fn(Tensor<2>) -> Tensor<2>,
}

/// Every loss with its formula, which repeats the margins.
pub fn cases() -> Result<Vec<Case>, Error> {
    Ok(vec![
        case(Softmax::new(), By::Nothing, |cos| cos),
        case(ModifiedSoftmax::new(), By::FeatureNorm, |cos| cos),
        case(SphereFace::new(2)?, By::FeatureNorm, psi_2),
        case(FNormSphereFace::new(8.0, 2)?, By::Number(8.0), psi_2),
        case(CosFace::new(8.0, 0.35)?, By::Number(8.0), |cos| cos - 0.35),
        case(ArcFace::new(8.0, 0.5)?, By::Number(8.0), |cos| shifted(cos, 0.5)),
        case(Generalized::new(8.0, 1.0, 0.3, 0.2)?, By::Number(8.0), |cos| shifted(cos, 0.3) - 0.2),
    ])
}

fn case(loss: impl MarginLoss + 'static, scale: By, target: fn(Tensor<2>) -> Tensor<2>) -> Case {
    Case { loss: Arc::new(loss), scale, target }
}

/// cos(θ + m) for θ ≤ π − m.
fn shifted(cos: Tensor<2>, m: f64) -> Tensor<2> {
    let sin = (-(cos.clone() * cos.clone()) + 1.0).sqrt();
    cos * m.cos() - sin * m.sin()
}

/// A-Softmax's ψ for m = 2: 2cos²θ − 1 up to π/2, 1 − 2cos²θ − 2 beyond, which is 2cosθ|cosθ| − 1.
fn psi_2(cos: Tensor<2>) -> Tensor<2> {
    cos.clone() * cos.abs() * 2.0 - 1.0
}

/// Normalizes the rows.
pub fn normalized(rows: Tensor<2>) -> Tensor<2> {
    rows.clone() / norms(rows)
}

fn norms(rows: Tensor<2>) -> Tensor<2> {
    (rows.clone() * rows).sum_dim(1).sqrt()
}

impl Case {
    /// The mean loss by the formula. Only Softmax has a bias.
    pub fn naive(
        &self,
        x: Tensor<2>,
        w: Tensor<2>,
        bias: Option<Tensor<1>>,
        labels: Tensor<1, Int>,
    ) -> Tensor<1> {
        let logits = match self.scale {
            By::Nothing => x.matmul(w.transpose()),
            By::Number(s) => self.with_margin(normalized(x), w, &labels) * s,
            By::FeatureNorm => self.with_margin(normalized(x.clone()), w, &labels) * norms(x),
        };
        let logits = match bias {
            Some(bias) => logits + bias.unsqueeze(),
            None => logits,
        };
        cross_entropy(logits, labels)
    }

    fn with_margin(&self, unit: Tensor<2>, w: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<2> {
        let cosines = unit.matmul(normalized(w).transpose());
        let [_, classes] = cosines.dims();
        let own = labels.clone().one_hot::<2>(classes).float().cast(cosines.dtype());
        cosines.clone() * (-own.clone() + 1.0) + (self.target)(cosines) * own
    }
}

fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    -log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1)).mean()
}
