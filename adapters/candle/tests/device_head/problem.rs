//! One batch on the device, and what the core computes from it in f64.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, Reduction};
use margin_softmax_candle::MarginHead;
use ndarray::{Array1, Array2};

/// How far numbers may be off, as a share of the largest: logits of at most 16 are rounded to f32 four
/// times, each by at most 16·2⁻²⁴, and e^z turns that into a share.
pub const TOLERANCE: f64 = 4e-6;

/// The device that is tested.
pub fn device() -> Result<Device> {
    match std::env::var("MARGIN_SOFTMAX_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0),
        Ok("metal") => Device::new_metal(0),
        _ => Ok(Device::Cpu),
    }
}

/// Samples, dimensions, classes, sub-centers, rows of a tile.
pub type Shape = (usize, usize, usize, usize, usize);

/// Tiles that are full and begun, tiles of one class, and all classes in one.
pub const SHAPES: [Shape; 6] = [
    (1, 2, 2, 1, 100),
    (7, 5, 1, 1, 1),
    (6, 16, 53, 1, 8),
    (33, 6, 300, 1, 64),
    (9, 24, 50, 3, 21),
    (30, 5, 20, 7, 35),
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

pub fn matrix(numbers: &Array2<f64>) -> Result<Var> {
    let values: Vec<f32> = numbers.iter().map(|&v| v as f32).collect();
    Var::from_vec(values, numbers.dim(), &device()?)
}

pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

impl Problem {
    pub fn new((samples, dims, classes, sub_centers, ..): Shape, seed: usize) -> Self {
        let x = 3.0 * numbers((samples, dims), seed);
        let w = numbers((classes * sub_centers, dims), seed + 5);
        let labels = (0..samples).map(|i| (i * 17 + seed) % classes).collect();
        Problem { x, w, labels, sub_centers, bias: None, log_prior: None }
    }

    pub fn head(&self, loss: Arc<dyn MarginLoss>, shape: Shape) -> Result<MarginHead> {
        let w = matrix(&self.w)?.as_tensor().clone();
        let bias = self.bias.as_ref().map(|bias| {
            let bias: Vec<f32> = bias.iter().map(|&v| v as f32).collect();
            Var::from_slice(&bias, bias.len(), &device()?)
        });
        let bias = bias.transpose()?.map(|bias| bias.as_tensor().clone());
        let head = MarginHead::on_device_from_parts(Head::new(loss), w, bias)?;
        Ok(head.with_sub_centers(self.sub_centers).with_rows_per_tile(Some(shape.4)))
    }

    pub fn labels(&self) -> Result<Tensor> {
        let label = |label: &usize| if *label == IGNORED { -1 } else { *label as i64 };
        let labels: Vec<i64> = self.labels.iter().map(label).collect();
        Tensor::new(labels, &device()?)
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
    ) -> std::result::Result<(Forward<f64>, Gradients<f64>), Error> {
        let batch = self.batch();
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, reduction, &mut gradients)?;
        Ok((forward, gradients))
    }
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
