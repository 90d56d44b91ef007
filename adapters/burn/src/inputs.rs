//! The inputs of a step, and how its results are recorded in the autodiff graph.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData, Transaction};
use margin_softmax::Error;
use margin_softmax_device::{Core, Labels, Parameters, Step, StepGradients, WeightGradient};
use ndarray::Array1;

use crate::MarginHead;
use crate::detached;
use crate::graph::{Attached, LaterGradients, check_supported};
use crate::memory::{Precision, on_device, with_dtype};
use crate::operations::{OnBurn, device_error, read};

/// Embeddings, class weights and bias as tensors of the autodiff graph, where the head computes.
pub(crate) struct Inputs {
    embeddings: Tensor<2>,
    shards: Vec<Tensor<2>>,
    bias: Option<Tensor<1>>,
    device: Device,
}

impl Inputs {
    /// The inputs in `F`. Class weights on the device keep their type, so that there is no copy.
    pub fn of<F: Precision>(head: &MarginHead, embeddings: Tensor<2>) -> Result<Self, Error> {
        let on_its_device = head.is_on_device();
        let device = if on_its_device { head.weights.val().device() } else { Device::flex() };
        if on_its_device {
            check_supported(&device)?;
            check_type::<F>(&device)?;
        }
        let shards = head.all_weights().map(|shard| {
            let shard = on_device(shard.val().dequantize(), &device);
            if on_its_device { shard } else { with_dtype(shard, F::dtype()) }
        });
        let shards = shards.collect();
        let bias = head.bias.as_ref();
        let bias = bias.map(|bias| bring::<F, 1>(bias.val().dequantize(), &device));
        Ok(Inputs { embeddings: bring::<F, 2>(embeddings, &device), shards, bias, device })
    }

    /// The inputs without the graph, for a head with these settings.
    pub fn step<F: Precision>(&self, head: &MarginHead) -> Step<OnBurn<F>> {
        let bias = self.bias.clone();
        let bias = bias.map(|bias| bias.without_autodiff().unsqueeze_dim::<2>(0));
        let parameters = Parameters {
            embeddings: self.embeddings.clone().without_autodiff(),
            shards: self.shards.iter().map(|shard| shard.clone().without_autodiff()).collect(),
            bias,
            sub_centers: head.sub_centers(),
            in_memory: !head.is_on_device(),
            rows_per_tile: head.rows_per_tile(),
        };
        Step::new(OnBurn::new(self.device.clone()), parameters)
    }

    /// Which of embeddings, class weights and bias a gradient is needed for.
    pub fn tracked(&self) -> [bool; 3] {
        let bias = self.bias.as_ref().is_some_and(Tensor::is_tracked);
        [self.embeddings.is_tracked(), self.shards.iter().any(Tensor::is_tracked), bias]
    }

    fn vector<F: Precision>(&self, numbers: Vec<F>) -> Tensor<1> {
        let (count, device) = (numbers.len(), self.device.clone().without_autodiff());
        Tensor::from_data(TensorData::new(numbers, [count]), (&device, F::dtype()))
    }

    /// Records `value` as a function of these inputs, with gradients that are known.
    pub fn record<F: Precision>(
        self,
        value: Vec<F>,
        gradients: StepGradients<Tensor<2>>,
    ) -> Tensor<1> {
        let StepGradients { embeddings, shards, bias } = gradients;
        let known =
            |gradient| Attached::Known(WeightGradient { rows: None, gradient: Some(gradient) });
        let mut value = self.vector(value);
        if let Some(gradient) = embeddings {
            value = known(gradient).to(value, self.embeddings);
        }
        for (shard, gradient) in self.shards.into_iter().zip(shards.into_iter().flatten()) {
            value = Attached::Known(gradient).to(value, shard);
        }
        if let (Some(input), Some(gradient)) = (self.bias, bias) {
            value = known(gradient).to(value, input);
        }
        value
    }

    /// Records losses whose gradients are found in the backward pass.
    pub fn record_losses<F: Precision>(
        self,
        losses: Vec<F>,
        step: Step<OnBurn<F>>,
        core: Arc<Core>,
        labels: Labels,
    ) -> Tensor<1> {
        let (losses, tracked) = (self.vector(losses), self.tracked());
        let per_sample = PerSample { step, core, labels, tracked, found: Mutex::new(None) };
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

fn bring<F: Precision, const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    with_dtype(on_device(tensor, device), F::dtype())
}

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
struct PerSample<F: Precision> {
    step: Step<OnBurn<F>>,
    core: Arc<Core>,
    labels: Labels,
    tracked: [bool; 3],
    /// Found for the first input that asks, taken by each.
    found: Mutex<Option<StepGradients<Tensor<2>>>>,
}

impl<F: Precision> PerSample<F> {
    fn run(&self, upstream: Tensor<1>) -> Result<StepGradients<Tensor<2>>, Error> {
        let data = read(self.step.device().device(), Transaction::default().register(upstream))?;
        let upstream: Array1<F> = data.iter().flat_map(|data| data.iter::<F>()).collect();
        self.step.backward(&self.core, &self.labels, &upstream, self.tracked)
    }
}

impl<F: Precision> LaterGradients for PerSample<F> {
    fn gradient(
        self: Arc<Self>,
        index: usize,
        upstream: Tensor<1>,
    ) -> Option<WeightGradient<Tensor<2>>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let gradients = found.get_or_insert_with(|| {
            let step = self.clone();
            // Burn's backward pass returns no errors.
            detached::run(move || step.run(upstream)).unwrap_or_default()
        });
        let whole = |gradient| WeightGradient { rows: None, gradient: Some(gradient) };
        match index {
            EMBEDDINGS => gradients.embeddings.take().map(whole),
            BIAS => gradients.bias.take().map(whole),
            _ => {
                let shard = gradients.shards.as_mut()?.get_mut(index - FIRST_SHARD)?;
                Some(WeightGradient { rows: shard.rows.take(), gradient: shard.gradient.take() })
            }
        }
    }
}
