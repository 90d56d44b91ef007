//! The inputs of a step on the device, and how its results are recorded in the autodiff graph.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, Transaction};
use margin_softmax::{Error, Reduction};
use ndarray::Array1;

use super::operation::{Attached, Gradient, LaterGradients, check_supported};
use super::step::{DeviceGradients, DeviceStep};
use super::tiles::Rows;
use super::{device_error, read};
use crate::MarginHead;
use crate::detached;
use crate::engine::Core;
use crate::memory::{Labels, Precision, on_device, with_dtype};

/// Embeddings, class weights and bias as tensors of the autodiff graph, on the head's device.
pub(crate) struct DeviceInputs {
    embeddings: Tensor<2>,
    shards: Vec<Tensor<2>>,
    bias: Option<Tensor<1>>,
}

impl DeviceInputs {
    pub fn of<F: Precision>(head: &MarginHead, embeddings: Tensor<2>) -> Result<Self, Error> {
        let shards: Vec<Tensor<2>> =
            head.all_weights().map(|shard| shard.val().dequantize()).collect();
        let device = shards[0].device();
        check_supported(&device)?;
        check_type::<F>(&device)?;
        let embeddings = with_dtype(on_device(embeddings.dequantize(), &device), F::dtype());
        let shards = shards.into_iter().map(|shard| on_device(shard, &device)).collect();
        let bias = head.bias.as_ref();
        let bias = bias.map(|bias| with_dtype(on_device(bias.val(), &device), F::dtype()));
        Ok(DeviceInputs { embeddings, shards, bias })
    }

    /// The inputs without the graph, for a head with these settings.
    pub fn step(&self, head: &MarginHead) -> DeviceStep {
        let matrices = self.shards.iter().map(|shard| shard.clone().without_autodiff()).collect();
        let bias = self.bias.clone().map(Tensor::without_autodiff);
        let (sub_centers, tile) = (head.sub_centers(), head.rows_per_tile());
        let rows = Rows { matrices, shift: bias.clone(), sub_centers, tile };
        let device = self.embeddings.device().without_autodiff();
        DeviceStep { embeddings: self.embeddings.clone().without_autodiff(), rows, bias, device }
    }

    /// Which of embeddings, class weights and bias a gradient is needed for.
    pub fn tracked(&self) -> [bool; 3] {
        let bias = self.bias.as_ref().is_some_and(Tensor::is_tracked);
        [self.embeddings.is_tracked(), self.shards.iter().any(Tensor::is_tracked), bias]
    }

    /// Records `value` as a function of these inputs, with gradients that are known.
    pub fn record(self, value: Tensor<1>, gradients: DeviceGradients) -> Tensor<1> {
        let DeviceGradients { embeddings, shards, bias } = gradients;
        let mut value = value;
        if let Some(gradient) = embeddings {
            value = Attached::Known(Gradient::Matrix(gradient)).to(value, self.embeddings);
        }
        for (shard, gradient) in self.shards.into_iter().zip(shards.into_iter().flatten()) {
            value = gradient.to(value, shard);
        }
        if let (Some(input), Some(gradient)) = (self.bias, bias) {
            value = Attached::Known(Gradient::Vector(gradient)).to(value, input);
        }
        value
    }

    /// Records losses whose gradients are found in the backward pass.
    pub fn record_losses<F: Precision>(
        self,
        losses: Tensor<1>,
        step: DeviceStep,
        core: Arc<Core>,
        labels: Labels,
    ) -> Tensor<1> {
        let tracked = self.tracked();
        let found = Mutex::new(None);
        let precision = PhantomData::<F>;
        let per_sample = PerSample { step, core, labels, tracked, found, precision };
        let later: Arc<dyn LaterGradients> = Arc::new(per_sample);
        let attached = |index| Attached::Later(later.clone(), index);
        let mut losses = attached(EMBEDDINGS).to(losses, self.embeddings);
        for (index, shard) in self.shards.into_iter().enumerate() {
            losses = attached(FIRST_SHARD + index).to(losses, shard);
        }
        match self.bias {
            Some(bias) => attached(BIAS).to(losses, bias),
            None => losses,
        }
    }
}

const EMBEDDINGS: usize = 0;
const BIAS: usize = 1;
const FIRST_SHARD: usize = 2;

/// Refuses a device that does not compute in `F`, whatever it claims: WGSL has no exponential in
/// f64, and burn returns numbers all the same.
fn check_type<F: Precision>(device: &Device) -> Result<(), Error> {
    let refused = || Err(device_error(device, &format!("it does not compute in {:?}", F::dtype())));
    if !device.supports_dtype(F::dtype()) {
        return refused();
    }
    if F::dtype() == DType::F64 {
        let plain = device.clone().without_autodiff();
        let e = Tensor::<1>::ones([1], (&plain, DType::F64)).exp();
        let data = read(device, Transaction::default().register(e))?;
        let e = data.iter().flat_map(|data| data.iter::<f64>()).next();
        if !e.is_some_and(|e| (e - std::f64::consts::E).abs() < 1e-14) {
            return refused();
        }
    }
    Ok(())
}

/// Losses whose gradients are found from the upstream gradient of each sample.
#[derive(Debug)]
struct PerSample<F> {
    step: DeviceStep,
    core: Arc<Core>,
    labels: Labels,
    tracked: [bool; 3],
    /// Found for the first input that asks, taken by each.
    found: Mutex<Option<DeviceGradients>>,
    precision: PhantomData<F>,
}

impl<F: Precision> PerSample<F> {
    fn run(&self, upstream: Tensor<1>) -> Result<DeviceGradients, Error> {
        let data = read(&self.step.device, Transaction::default().register(upstream))?;
        let upstream: Array1<F> = data.iter().flat_map(|data| data.iter::<F>()).collect();
        let reduction = Some(Reduction::Weighted(&upstream));
        Ok(self.step.run(&self.core, &self.labels, None, reduction, self.tracked)?.1)
    }
}

impl<F: Precision> LaterGradients for PerSample<F> {
    fn gradient(self: Arc<Self>, index: usize, upstream: Tensor<1>) -> Gradient {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let gradients = found.get_or_insert_with(|| {
            let step = self.clone();
            // Burn's backward pass returns no errors.
            detached::run(move || step.run(upstream)).unwrap_or_default()
        });
        let nan = |matrix: &Tensor<2>| Gradient::Matrix(matrix.full_like(f64::NAN));
        match index {
            EMBEDDINGS => match gradients.embeddings.take() {
                Some(gradient) => Gradient::Matrix(gradient),
                None => nan(&self.step.embeddings),
            },
            BIAS => {
                let bias = self.step.bias.as_ref().expect("a bias has a gradient");
                Gradient::Vector(gradients.bias.take().unwrap_or_else(|| bias.full_like(f64::NAN)))
            }
            _ => {
                let shard = index - FIRST_SHARD;
                match gradients.shards.as_ref().map(|shards| shards[shard].clone()) {
                    Some(Attached::Known(gradient)) => gradient,
                    _ => nan(&self.step.rows.matrices[shard]),
                }
            }
        }
    }
}
