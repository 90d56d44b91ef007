//! The losses of a batch as one node of candle's graph.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result, Shape,
    Tensor, WithDType,
};
use margin_softmax::{Gradients, Real};
use ndarray::{Array1, Array2};

use crate::tensor::tensor;

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

/// Converts the gradients that are `tracked`.
pub(crate) fn tensors<F: Real + WithDType>(
    gradients: Gradients<F>,
    [embeddings, weights, bias]: [bool; 3],
) -> Result<InputGradients> {
    let Gradients { embeddings: dx, weights: dw, bias: db, .. } = gradients;
    Ok([
        embeddings.then(|| tensor(dx)).transpose()?,
        weights.then(|| tensor(dw)).transpose()?,
        db.filter(|_| bias).map(tensor).transpose()?,
    ])
}

/// The backward pass of a scalar with known gradients: they are multiplied by the upstream
/// gradient.
pub(crate) fn known(
    gradients: InputGradients,
) -> impl Fn(&Tensor) -> Result<InputGradients> + Send + Sync + 'static {
    move |upstream| {
        let upstream = scalar(upstream)?;
        let [dx, dw, db] = gradients.each_ref().map(|gradient| {
            gradient.as_ref().map(|gradient| scaled(gradient, upstream)).transpose()
        });
        Ok([dx?, dw?, db?])
    }
}

/// The same for gradients of some rows of class weights and bias: the others are exactly 0. The
/// full gradients exist only from the backward pass on.
pub(crate) fn known_rows<F: Real + WithDType>(
    gradients: Gradients<F>,
    classes: Vec<usize>,
    count: usize,
    [embeddings, weights, bias]: [bool; 3],
) -> Result<impl Fn(&Tensor) -> Result<InputGradients> + Send + Sync + 'static> {
    let Gradients { embeddings: dx, weights: dw, bias: db, .. } = gradients;
    let dx = embeddings.then(|| tensor(dx)).transpose()?;
    let (dw, db) = (weights.then_some(dw), db.filter(|_| bias));
    Ok(move |upstream: &Tensor| {
        let upstream = scalar(upstream)?;
        let factor = <F as WithDType>::from_f64(upstream);
        let scattered = |rows: &Array2<F>| {
            let mut all = Array2::zeros((count, rows.ncols()));
            for (row, &class) in rows.rows().into_iter().zip(&classes) {
                all.row_mut(class).zip_mut_with(&row, |to, &from| *to = from * factor);
            }
            tensor(all)
        };
        let scattered_bias = |rows: &Array1<F>| {
            let mut all = Array1::zeros(count);
            rows.iter().zip(&classes).for_each(|(&from, &class)| all[class] = from * factor);
            tensor(all)
        };
        Ok([
            dx.as_ref().map(|dx| scaled(dx, upstream)).transpose()?,
            dw.as_ref().map(scattered).transpose()?,
            db.as_ref().map(scattered_bias).transpose()?,
        ])
    })
}

/// The same for gradients on a device of the rows of class weights and bias with these numbers.
pub(crate) fn known_rows_of(
    [dx, dw, db]: InputGradients,
    rows: Tensor,
    count: usize,
) -> impl Fn(&Tensor) -> Result<InputGradients> + Send + Sync + 'static {
    move |upstream| {
        let upstream = scalar(upstream)?;
        let scattered = |part: &Tensor| {
            let mut shape = part.dims().to_vec();
            shape[0] = count;
            let all = Tensor::zeros(shape, part.dtype(), part.device())?;
            all.index_add(&rows, &scaled(part, upstream)?, 0)
        };
        Ok([
            dx.as_ref().map(|dx| scaled(dx, upstream)).transpose()?,
            dw.as_ref().map(scattered).transpose()?,
            db.as_ref().map(scattered).transpose()?,
        ])
    }
}

fn scaled(gradient: &Tensor, upstream: f64) -> Result<Tensor> {
    // In the usual case, a backward pass from the loss, this avoids a pass over C×D numbers.
    if upstream == 1.0 { Ok(gradient.clone()) } else { gradient.affine(upstream, 0.0) }
}

fn scalar(upstream: &Tensor) -> Result<f64> {
    upstream.to_dtype(DType::F64)?.to_scalar()
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
