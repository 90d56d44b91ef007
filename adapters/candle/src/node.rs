//! The losses of a batch as one node of candle's graph.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result, Shape,
    Tensor, WithDType,
};
use margin_softmax::Real;
use margin_softmax_device::{StepGradients, WeightGradient};

use crate::operations::ids;

const NAME: &str = "margin-softmax";

/// The gradients of embeddings, class weights and bias; `None` where none is needed.
pub(crate) type InputGradients = [Option<Tensor>; 3];

/// The gradients of the inputs, from the upstream gradient.
type Backward = Box<dyn Fn(&Tensor) -> Result<InputGradients> + Send + Sync>;

/// A value that is already computed, and its backward pass.
///
/// An operation cannot know whether its inputs are tracked or whether a backward pass follows. The
/// step therefore runs before the node is created. What `backward` holds lives as long as the graph
/// and serves every backward pass.
struct Node {
    value: CpuStorage,
    shape: Shape,
    backward: Backward,
}

impl Node {
    fn value_on<D: BackendDevice>(&self, device: &D) -> Result<(D::Storage, Shape)> {
        Ok((device.storage_from_cpu_storage(&self.value)?, self.shape.clone()))
    }
}

/// The inputs of a node.
#[derive(Clone, Copy)]
pub(crate) struct Parents<'a> {
    pub embeddings: &'a Tensor,
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
}

impl Parents<'_> {
    /// Which of them a gradient is needed for.
    pub fn tracked(&self) -> [bool; 3] {
        let bias = self.bias.is_some_and(Tensor::track_op);
        [self.embeddings.track_op(), self.weight.track_op(), bias]
    }

    /// A node with these inputs, of this value, on their device.
    pub fn record<F: Real + WithDType>(
        self,
        value: &[F],
        shape: impl Into<Shape>,
        backward: impl Fn(&Tensor) -> Result<InputGradients> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let (value, shape) = (F::to_cpu_storage(value), shape.into());
        let node = Node { value, shape, backward: Box::new(backward) };
        match self.bias {
            Some(bias) => self.embeddings.apply_op3(self.weight, bias, node),
            None => self.embeddings.apply_op2(self.weight, node),
        }
    }
}

/// The backward pass of a scalar with known gradients, in a head with so many rows of class weights.
pub(crate) fn known(
    gradients: StepGradients<Tensor>,
    rows: usize,
) -> impl Fn(&Tensor) -> Result<InputGradients> + Send + Sync + 'static {
    move |upstream| {
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar()?;
        input_gradients(&gradients, rows, upstream)
    }
}

/// The gradients times `upstream`. Those of some rows become those of all only here.
pub(crate) fn input_gradients(
    gradients: &StepGradients<Tensor>,
    rows: usize,
    upstream: f64,
) -> Result<InputGradients> {
    let StepGradients { embeddings, shards, bias } = gradients;
    let weights = |shard: &WeightGradient<Tensor>| -> Result<Option<Tensor>> {
        let Some(part) = &shard.gradient else { return Ok(None) };
        let part = scaled(part, upstream)?;
        let Some(numbers) = &shard.rows else { return Ok(Some(part)) };
        let zeros = Tensor::zeros((rows, part.dim(1)?), part.dtype(), part.device())?;
        let numbers = ids(numbers.iter().copied(), part.device())?;
        zeros.index_add(&numbers, &part, 0).map(Some)
    };
    let shard = shards.as_ref().and_then(|shards| shards.first());
    Ok([
        embeddings.as_ref().map(|dx| scaled(dx, upstream)).transpose()?,
        shard.map(weights).transpose()?.flatten(),
        bias.as_ref().map(|db| scaled(&db.squeeze(0)?, upstream)).transpose()?,
    ])
}

fn scaled(gradient: &Tensor, upstream: f64) -> Result<Tensor> {
    // In the usual case, a backward pass from the loss, this avoids a pass over C×D numbers.
    if upstream == 1.0 { Ok(gradient.clone()) } else { gradient.affine(upstream, 0.0) }
}

impl CustomOp2 for Node {
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
        Ok((self.value.clone(), self.shape.clone()))
    }

    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.value_on(input.device())
    }

    fn metal_fwd(
        &self,
        input: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.value_on(input.device())
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [embeddings, weight, _] = (self.backward)(upstream)?;
        Ok((embeddings, weight))
    }
}

impl CustomOp3 for Node {
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
        Ok((self.value.clone(), self.shape.clone()))
    }

    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.value_on(input.device())
    }

    fn metal_fwd(
        &self,
        input: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.value_on(input.device())
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [embeddings, weight, bias] = (self.backward)(upstream)?;
        Ok((embeddings, weight, bias))
    }
}
