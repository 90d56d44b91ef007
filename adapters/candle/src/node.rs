//! The mean loss as one node of candle's graph.

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType,
};
use margin_softmax::{Gradients, Real};

use crate::tensor::tensor;

const NAME: &str = "margin-softmax";

/// A completed step. The loss is the value of the node; the backward pass multiplies the stored
/// gradients by the upstream gradient.
///
/// An operation cannot know whether its inputs are tracked or whether a backward pass follows, and
/// loss and gradients together cost less than one after the other. The step therefore runs before
/// the node is created. The gradients live as long as the graph and serve every backward pass.
struct Step {
    loss: CpuStorage,
    embeddings: Tensor,
    weights: Tensor,
    bias: Option<Tensor>,
}

/// Creates the node of a mean `loss` with its `gradients` with respect to embeddings `x`, class
/// weights `w` and bias `b`.
pub(crate) fn mean_loss<F: Real + WithDType>(
    loss: F,
    gradients: Gradients<F>,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
) -> Result<Tensor> {
    let step = Step {
        loss: F::to_cpu_storage(&[loss]),
        embeddings: tensor(gradients.embeddings)?,
        weights: tensor(gradients.weights)?,
        bias: gradients.bias.map(tensor).transpose()?,
    };
    match b {
        Some(b) => x.apply_op3(w, b, step),
        None => x.apply_op2(w, step),
    }
}

impl Step {
    fn value(&self) -> Result<(CpuStorage, Shape)> {
        Ok((self.loss.clone(), Shape::from(())))
    }

    /// The gradients of embeddings and class weights, multiplied by the `upstream` gradient.
    fn gradients(&self, upstream: f64) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let embeddings = scaled(&self.embeddings, upstream)?;
        Ok((Some(embeddings), Some(scaled(&self.weights, upstream)?)))
    }
}

fn scaled(gradient: &Tensor, upstream: f64) -> Result<Tensor> {
    // In the usual case, a backward pass from the loss, this avoids a pass over C×D numbers.
    if upstream == 1.0 { Ok(gradient.clone()) } else { gradient.affine(upstream, 0.0) }
}

fn scalar(upstream: &Tensor) -> Result<f64> {
    upstream.to_dtype(DType::F64)?.to_scalar()
}

impl CustomOp2 for Step {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(scalar(upstream)?)
    }
}

impl CustomOp3 for Step {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let upstream = scalar(upstream)?;
        let (embeddings, weights) = self.gradients(upstream)?;
        let bias = self.bias.as_ref().map(|bias| scaled(bias, upstream)).transpose()?;
        Ok((embeddings, weights, bias))
    }
}
