//! One batch on the device, and what the core computes from it in f64.

#[path = "../../examples/common/device.rs"]
mod devices;

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{DType, Device, Gradients as BurnGradients, Int, Tensor, TensorData};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, Reduction};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use ndarray::{Array1, Array2, s};

/// What products in f32 can be expected to be exact to, as a share of the largest number.
pub const TOLERANCE: f64 = 1e-6;

/// The device that is tested.
pub fn device() -> Device {
    let name = std::env::var("MARGIN_SOFTMAX_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    devices::named(&name).expect("a device of this name")
}

/// A device on which gradients are recorded.
pub fn training() -> Device {
    device().autodiff()
}

/// Samples, dimensions, classes, sub-centers, rows of a shard and of a tile.
pub type Shape = (usize, usize, usize, usize, usize, usize);

/// Tiles that are full and begun, shards of one and of several tiles, and all classes in one.
pub const SHAPES: [Shape; 6] = [
    (1, 2, 2, 1, 100, 100),
    (7, 5, 1, 1, 1, 1),
    (6, 16, 53, 1, 20, 8),
    (33, 6, 300, 1, 128, 64),
    (9, 24, 50, 3, 60, 21),
    (30, 5, 20, 7, 500, 35),
];

pub struct Problem {
    pub x: Array2<f64>,
    pub w: Array2<f64>,
    pub labels: Vec<usize>,
    pub sub_centers: usize,
    pub bias: Option<Array1<f64>>,
    pub log_prior: Option<Array1<f64>>,
}

/// Numbers between -1 and 1 that f32 holds exactly.
pub fn numbers(shape: (usize, usize), seed: usize) -> Array2<f64> {
    let frequency = 0.7 + 0.1317 * seed as f64;
    Array2::from_shape_fn(shape, |(i, k)| {
        let at = (i * shape.1 + k) as f64;
        f64::from(((frequency * at + 0.3).sin() * (0.01 * at + 1.0).cos()) as f32)
    })
}

pub fn matrix(numbers: &Array2<f64>, device: &Device) -> Tensor<2> {
    let shape = [numbers.nrows(), numbers.ncols()];
    let numbers = numbers.iter().map(|&v| v as f32).collect();
    Tensor::from_data(TensorData::new(numbers, shape), (device, DType::F32))
}

pub fn vector(numbers: &Array1<f64>, device: &Device) -> Tensor<1> {
    let numbers: Vec<f32> = numbers.iter().map(|&v| v as f32).collect();
    Tensor::from_floats(&numbers[..], device)
}

pub fn labels_on(labels: &[usize], device: &Device) -> Tensor<1, Int> {
    let label = |label: &usize| if *label == IGNORED { -1 } else { *label as i32 };
    let labels: Vec<i32> = labels.iter().map(label).collect();
    Tensor::from_ints(&labels[..], device)
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

impl Problem {
    pub fn new((samples, dims, classes, sub_centers, ..): Shape, seed: usize) -> Self {
        let x = 3.0 * numbers((samples, dims), seed);
        let w = numbers((classes * sub_centers, dims), seed + 5);
        let labels = (0..samples).map(|i| (i * 17 + seed) % classes).collect();
        Problem { x, w, labels, sub_centers, bias: None, log_prior: None }
    }

    pub fn head(&self, loss: Arc<dyn MarginLoss>, shape: Shape) -> Result<MarginHead, Error> {
        let (_, dims, classes, _, shard, tile) = shape;
        let config = MarginHeadConfig::new(dims, classes).on_device();
        let config = config.with_sub_centers(self.sub_centers).with_bias(self.bias.is_some());
        let config = config.with_rows_per_shard(Some(shard)).with_rows_per_tile(Some(tile));
        let mut head = config.init(loss, &training())?;
        self.fill(&mut head);
        Ok(head)
    }

    /// Puts the class weights into the shards of a head.
    pub fn fill(&self, head: &mut MarginHead) {
        let mut first = 0;
        for shard in head.all_weights_mut() {
            let device = shard.lazy_device();
            let rows = first..first + shard.lazy_shape()[0];
            first = rows.end;
            let rows = self.w.slice(s![rows, ..]).to_owned();
            *shard = Param::from_tensor(matrix(&rows, &device));
        }
        if let Some(bias) = &self.bias {
            head.bias = Some(Param::from_tensor(vector(bias, &training())));
        }
    }

    pub fn embeddings(&self) -> Tensor<2> {
        matrix(&self.x, &training()).require_grad()
    }

    pub fn labels(&self) -> Tensor<1, Int> {
        labels_on(&self.labels, &training())
    }

    /// What the core is given.
    pub fn batch(&self) -> Batch<'_, f64> {
        let batch = Batch::new(&self.x, &self.w, &self.labels);
        let batch = batch.with_sub_centers(self.sub_centers).with_ignored_label(IGNORED);
        let batch = self.bias.as_ref().map_or(batch, |bias| batch.with_bias(bias));
        self.log_prior.as_ref().map_or(batch, |prior| batch.with_log_prior(prior))
    }

    /// Losses and gradients in f64.
    pub fn expected(
        &self,
        head: &Head<Arc<dyn MarginLoss>>,
        reduction: Reduction<'_, f64>,
    ) -> Result<(Forward<f64>, Gradients<f64>), Error> {
        let batch = self.batch();
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, reduction, &mut gradients)?;
        Ok((forward, gradients))
    }
}

/// The gradients of the class weights in all shards.
pub fn weight_gradients(head: &MarginHead, gradients: &BurnGradients) -> Vec<f64> {
    let of_shard = |shard: &Param<Tensor<2>>| values(shard.grad(gradients).expect("a gradient"));
    head.all_weights().flat_map(of_shard).collect()
}

/// `expected` to within the tolerance, as a share of its largest number, in the range of f32.
pub fn assert_close<'a>(
    what: &str,
    found: &[f64],
    expected: impl IntoIterator<Item = &'a f64>,
    tolerance: f64,
) {
    let expected: Vec<f64> = expected.into_iter().copied().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * largest + f64::from(f32::MIN_POSITIVE),
            "{what} at {at}: {found:e} for {expected:e}, {:e} of the largest off",
            error / largest,
        );
    }
}
