//! Whether a device computes right.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor, TensorData};
use margin_softmax::{ArcFace, Batch, Error, Gradients, Head, Reduction};
use ndarray::{Array2, Axis};

use crate::{MarginHead, MarginHeadConfig};

/// The largest errors of a small step on a device, against f64 in main memory: what
/// [`MarginHead::self_check`] returns. Each is a share of the largest number of its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SelfCheck {
    /// Of the losses.
    pub losses: f64,
    /// Of the gradient of the embeddings.
    pub embeddings: f64,
    /// Of the gradient of the class weights.
    pub weights: f64,
    /// The share of the samples whose nearest class is another.
    pub predictions: f64,
}

impl SelfCheck {
    /// The largest of the four; NaN where a number is none.
    pub fn largest(&self) -> f64 {
        let worse = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
        worse(worse(self.losses, self.embeddings), worse(self.weights, self.predictions))
    }
}

const SAMPLES: usize = 48;
const DIMS: usize = 96;
const CLASSES: usize = 5003;
/// More rows than f16 and bf16 have integers in a row.
const TILE: usize = 2730;

/// Numbers between -1 and 1, which bf16 holds exactly.
fn numbers(rows: usize, frequency: f64) -> Array2<f64> {
    let entry = |(i, k)| (128.0 * (frequency * (DIMS * i + k) as f64 + 1.0).sin()).round() / 128.0;
    Array2::from_shape_fn((rows, DIMS), entry)
}

/// Embeddings near class weights that are spread over all tiles, and labels: these classes and, for
/// every other sample, the ones that follow.
fn batch(w: &Array2<f64>) -> (Array2<f64>, Vec<usize>) {
    let mut x = numbers(SAMPLES, 1.7);
    let near = |i: usize| (i * 1049) % CLASSES;
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        row.zip_mut_with(&w.row(near(i)), |x, w| *x = (64.0 * (*x + 2.0 * w)).round() / 128.0);
    }
    (x, (0..SAMPLES).map(|i| (near(i) + i % 2) % CLASSES).collect())
}

/// The share of numbers that are others.
fn others(found: &[usize], expected: &[usize]) -> f64 {
    let others = found.iter().zip(expected).filter(|(found, expected)| found != expected);
    others.count() as f64 / expected.len() as f64
}

impl MarginHead {
    /// Runs a small step of a head on `device`, of its default float type, forward and backward, in
    /// tiles and shards, and compares losses, gradients and predictions with the core in f64: whether
    /// this device, with this driver, computes right.
    ///
    /// Normal are errors of 1e-6 and less where products are f32; about 1e-3 where they are TF32, as
    /// burn's are on CUDA devices, or where gradients are f16; 4e-3 where they are bf16. More means
    /// that this device is not to be trained on.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use margin_softmax_burn::MarginHead;
    ///
    /// let check = MarginHead::self_check(&Device::flex())?;
    /// assert!(check.largest() < 1e-6, "{check:?}");
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] for a device that is not supported, or fails.
    pub fn self_check(device: &Device) -> Result<SelfCheck, Error> {
        let w = numbers(CLASSES, 0.37);
        let (x, labels) = batch(&w);
        let loss = Arc::new(ArcFace::new(16.0, 0.3)?);
        let batch = Batch::new(&x, &w, &labels);
        let mut expected = Gradients::zeros_for(&batch);
        let forward =
            Head::new(loss.clone()).forward_backward(&batch, Reduction::Mean, &mut expected)?;

        let device = device.clone().without_autodiff().autodiff();
        let config = MarginHeadConfig::new(DIMS, CLASSES).on_device();
        let config = config.with_rows_per_shard(Some(4000)).with_rows_per_tile(Some(TILE));
        let mut head = config.init(loss, &device)?;
        let place = |numbers: &Array2<f64>| {
            let shape = [numbers.nrows(), numbers.ncols()];
            Tensor::<2>::from_data(
                TensorData::new(numbers.iter().copied().collect(), shape),
                &device,
            )
        };
        let mut first = 0;
        for shard in head.all_weights_mut() {
            let [rows, _] = shard.lazy_shape().dims();
            let part = w.slice_axis(Axis(0), (first..first + rows).into()).to_owned();
            *shard = Param::from_tensor(place(&part));
            first += rows;
        }
        let x = place(&x).require_grad();
        let classes: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
        let classes = Tensor::<1, Int>::from_ints(&classes[..], &device);
        let (value, found) = head.forward_detailed::<f32>(x.clone(), classes)?;
        let gradients = value.backward();
        let read = |tensor: Option<Tensor<2>>| {
            let tensor = tensor.ok_or_else(|| super::device_error(&device, "it gave no gradient"));
            let data = tensor?.try_into_data();
            let data = data.map_err(|error| super::device_error(&device, &error.to_string()))?;
            Ok::<Vec<f64>, Error>(data.iter::<f64>().collect())
        };
        let mut dw = Vec::new();
        for shard in head.all_weights() {
            dw.extend(read(shard.grad(&gradients))?);
        }
        let losses: Vec<f64> = found.losses.iter().map(|&loss| f64::from(loss)).collect();
        Ok(SelfCheck {
            losses: error(&losses, forward.losses.iter()),
            embeddings: error(&read(x.grad(&gradients))?, expected.embeddings.iter()),
            weights: error(&dw, expected.weights.iter()),
            predictions: others(found.predictions(), forward.predictions()),
        })
    }
}

/// The largest difference, as a share of the largest number expected.
fn error<'a>(found: &[f64], expected: impl Iterator<Item = &'a f64> + Clone) -> f64 {
    let largest = expected.clone().fold(0.0_f64, |most, v| most.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |most, d| if d.is_nan() || d > most { d } else { most }) / largest
}
