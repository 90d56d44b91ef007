//! Tensors to test with, and what the core computes from them.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, MarginLoss, Reduction};
use margin_softmax_candle::MarginHead;
use ndarray::{Array1, Array2};

pub const CPU: Device = Device::Cpu;
pub const SAMPLES: usize = 6;
pub const DIMS: usize = 5;
pub const CLASSES: usize = 9;
pub const LABELS: [u32; SAMPLES] = [0, 8, 3, 3, 5, 1];

/// Numbers that look random, within ±1.
pub fn numbers(rows: usize, columns: usize, seed: f64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, k)| {
        let value = (seed + 12.9898 * (i * columns + k) as f64).sin() * 43758.5453;
        2.0 * (value - value.floor()) - 1.0
    })
}

pub fn tensor(matrix: &Array2<f64>) -> Result<Tensor> {
    Tensor::from_vec(matrix.iter().copied().collect::<Vec<_>>(), matrix.dim(), &CPU)
}

pub fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Numbers that agree up to rounding in f64.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a:e} and {b:e}");
    }
}

/// Embeddings, class weights and bias, as arrays and as variables of candle.
pub struct Problem {
    pub x: Array2<f64>,
    pub w: Array2<f64>,
    pub b: Option<Array1<f64>>,
    pub embeddings: Var,
    pub weight: Var,
    pub bias: Option<Var>,
    pub loss: Arc<dyn MarginLoss>,
}

impl Problem {
    pub fn new(loss: impl MarginLoss + 'static, with_bias: bool) -> Result<Self> {
        let (x, w) = (numbers(SAMPLES, DIMS, 0.75), numbers(CLASSES, DIMS, 0.5));
        let b = with_bias.then(|| numbers(1, CLASSES, 0.25).row(0).to_owned());
        Ok(Problem {
            embeddings: Var::from_tensor(&tensor(&x)?)?,
            weight: Var::from_tensor(&tensor(&w)?)?,
            bias: b.as_ref().map(|b| Var::new(b.to_vec(), &CPU)).transpose()?,
            loss: Arc::new(loss),
            x,
            w,
            b,
        })
    }

    pub fn core(&self) -> Head<Arc<dyn MarginLoss>> {
        Head::new(self.loss.clone())
    }

    pub fn head(&self) -> Result<MarginHead> {
        let bias = self.bias.as_ref().map(|bias| bias.as_tensor().clone());
        MarginHead::from_parts(self.core(), self.weight.as_tensor().clone(), bias)
    }

    pub fn batch<'a>(&'a self, labels: &'a [usize]) -> Batch<'a, f64> {
        let batch = Batch::new(&self.x, &self.w, labels);
        self.b.as_ref().map_or(batch, |b| batch.with_bias(b))
    }

    /// What the core computes for these labels.
    pub fn expected(
        &self,
        labels: &[usize],
        reduction: Reduction<'_, f64>,
    ) -> std::result::Result<(Forward<f64>, Gradients<f64>), Error> {
        let batch = self.batch(labels);
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = self.core().forward_backward(&batch, reduction, &mut gradients)?;
        Ok((forward, gradients))
    }

    /// Asserts that these are the gradients of `objective`.
    pub fn assert_gradients(
        &self,
        objective: &Tensor,
        expected: &Gradients<f64>,
        tolerance: f64,
    ) -> Result<()> {
        let found = objective.backward()?;
        let gradient = |var: &Var| flat(found.get(var).expect("a gradient"));
        let (dx, dw) = (&expected.embeddings, &expected.weights);
        let entries = |matrix: &Array2<f64>| matrix.iter().copied().collect::<Vec<_>>();
        assert_close("dx", &gradient(&self.embeddings)?, &entries(dx), tolerance);
        assert_close("dw", &gradient(&self.weight)?, &entries(dw), tolerance);
        if let (Some(bias), Some(db)) = (&self.bias, &expected.bias) {
            assert_close("db", &gradient(bias)?, &db.to_vec(), tolerance);
        }
        Ok(())
    }
}

pub fn labels() -> Result<Tensor> {
    Tensor::new(&LABELS, &CPU)
}

pub fn classes() -> Vec<usize> {
    LABELS.iter().map(|&label| label as usize).collect()
}
