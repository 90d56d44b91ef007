//! Whether a device computes right.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use margin_softmax::{ArcFace, Batch, Gradients, Head, MarginLoss, Reduction};
use ndarray::Array2;

use crate::MarginHead;
use crate::error::refused;

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
    /// Runs a small step of a head on `device` in f32, forward and backward, in tiles, and compares
    /// losses, gradients and predictions with the core in f64: whether this device, with this driver, computes right.
    ///
    /// Normal are errors of 1e-6 and less where products are f32.
    ///
    /// ```
    /// use candle_core::Device;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let check = MarginHead::self_check(&Device::Cpu)?;
    /// assert!(check.largest() < 1e-6, "{check:?}");
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of candle on a device that fails.
    pub fn self_check(device: &Device) -> Result<SelfCheck> {
        let w = numbers(CLASSES, 0.37);
        let (x, labels) = batch(&w);
        let loss = ArcFace::new(16.0, 0.3).map_err(refused)?;
        let loss: Arc<dyn MarginLoss> = Arc::new(loss);
        let batch = Batch::new(&x, &w, &labels);
        let mut expected = Gradients::zeros_for(&batch);
        let core = Head::new(loss.clone());
        let forward = core.forward_backward(&batch, Reduction::Mean, &mut expected);
        let forward = forward.map_err(refused)?;

        let place = |numbers: &Array2<f64>| {
            let tensor = crate::tensor::tensor(numbers.mapv(|v| v as f32))?.to_device(device)?;
            Var::from_tensor(&tensor)
        };
        let (x, w) = (place(&x)?, place(&w)?);
        let head = Self::on_device_from_parts(Head::new(loss), w.as_tensor().clone(), None)?;
        let head = head.with_rows_per_tile(Some(TILE));
        let (value, found) = head.forward_detailed::<f32>(&x, &super::ids(&labels, device)?)?;
        let gradients = value.backward()?;
        let read = |of: &Tensor| {
            let gradient =
                gradients.get(of).map_or_else(|| of.affine(0.0, f64::NAN), |g| Ok(g.clone()))?;
            gradient.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()
        };
        let losses: Vec<f64> = found.losses.iter().map(|&loss| f64::from(loss)).collect();
        Ok(SelfCheck {
            losses: error(&losses, forward.losses.iter()),
            embeddings: error(&read(&x)?, expected.embeddings.iter()),
            weights: error(&read(&w)?, expected.weights.iter()),
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
