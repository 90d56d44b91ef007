//! Direct implementations of the losses with candle operations, for its autodiff.

use candle_core::{Result, Tensor};
use margin_softmax::Scale;

/// The mean cross-entropy of scaled cosines, with `target` applied to the target cosine.
pub fn mean_loss(
    x: &Tensor,
    w: &Tensor,
    labels: &Tensor,
    scale: Scale,
    target: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (x_norms, w_norms) = (norms(x)?, norms(w)?);
    let cosines = x.broadcast_div(&x_norms)?.matmul(&w.broadcast_div(&w_norms)?.t()?)?;
    let column = labels.unsqueeze(1)?;
    let own = cosines.gather(&column, 1)?;
    // A mask instead of `scatter` or `scatter_add`, whose gradients are swapped in candle 0.11.1.
    let mask = cosines.zeros_like()?.scatter(&column, &own.ones_like()?, 1)?;
    let cosines = (&cosines + mask.broadcast_mul(&(target(&own)? - own)?)?)?;
    let logits = match scale {
        Scale::Fixed(s) => cosines.affine(s, 0.0)?,
        Scale::FeatureNorm => cosines.broadcast_mul(&x_norms)?,
        Scale::Unnormalized => cosines.broadcast_mul(&x_norms)?.broadcast_mul(&w_norms.t()?)?,
        other => candle_core::bail!("no formula for {other:?}"),
    };
    candle_nn::loss::cross_entropy(&logits, labels)
}

/// cos(θ + m) where θ + m ≤ π.
pub fn shifted(cos: &Tensor, m: f64) -> Result<Tensor> {
    let sin = cos.sqr()?.affine(-1.0, 1.0)?.sqrt()?;
    (cos * m.cos())? - (sin * m.sin())?
}

fn norms(matrix: &Tensor) -> Result<Tensor> {
    matrix.sqr()?.sum_keepdim(1)?.sqrt()
}
