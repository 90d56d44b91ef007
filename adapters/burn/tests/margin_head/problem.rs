//! One batch in f64, as arrays and as tensors, and what the core computes from it.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{DType, Int, Tensor, TensorData};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, MarginLoss, Reduction};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use ndarray::{Array1, Array2};

use crate::tensors::{memory, numbers, values};

pub const SAMPLES: usize = 6;
pub const DIMS: usize = 5;
pub const CLASSES: usize = 9;
pub const LABELS: [usize; SAMPLES] = [0, 8, 3, 3, 5, 1];

pub struct Problem {
    pub x: Array2<f64>,
    pub w: Array2<f64>,
    pub b: Option<Array1<f64>>,
    pub embeddings: Tensor<2>,
    pub loss: Arc<dyn MarginLoss>,
    pub head: MarginHead,
}

fn matrix(tensor: Tensor<2>) -> Array2<f64> {
    let shape = tensor.dims();
    Array2::from_shape_vec(shape, values(tensor)).expect("a matrix")
}

impl Problem {
    pub fn new(loss: impl MarginLoss + 'static, with_bias: bool) -> Result<Self, Error> {
        let device = (&memory(), DType::F64);
        let loss: Arc<dyn MarginLoss> = Arc::new(loss);
        let config = MarginHeadConfig::new(DIMS, CLASSES).with_bias(with_bias);
        let mut head = config.init(loss.clone(), &memory())?;
        let w = numbers::<2>([CLASSES, DIMS], 0.5, device);
        let b = with_bias.then(|| numbers::<1>([CLASSES], 0.25, device));
        let embeddings = numbers::<2>([SAMPLES, DIMS], 0.75, device).require_grad();
        let x = matrix(embeddings.clone());
        head.weights = Param::from_tensor(w.clone());
        head.bias = b.clone().map(Param::from_tensor);
        let (w, b) = (matrix(w), b.map(|b| values(b).into()));
        Ok(Problem { x, w, b, embeddings, loss, head })
    }

    pub fn x(&self) -> Tensor<2> {
        self.embeddings.clone()
    }

    pub fn core(&self) -> Head<Arc<dyn MarginLoss>> {
        Head::new(self.loss.clone())
    }

    pub fn batch<'a>(&'a self, labels: &'a [usize]) -> Batch<'a, f64> {
        let batch = Batch::new(&self.x, &self.w, labels);
        self.b.as_ref().map_or(batch, |b| batch.with_bias(b))
    }

    /// What the core computes.
    pub fn expected(
        &self,
        reduction: Reduction<'_, f64>,
    ) -> Result<(Forward<f64>, Gradients<f64>), Error> {
        let batch = self.batch(&LABELS);
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = self.core().forward_backward(&batch, reduction, &mut gradients)?;
        Ok((forward, gradients))
    }

    /// Asserts that these are the gradients of `objective`.
    pub fn assert_gradients(
        &self,
        objective: Tensor<1>,
        expected: &Gradients<f64>,
        tolerance: f64,
    ) {
        let found = objective.backward();
        let dx = self.embeddings.grad(&found).expect("a gradient");
        let dw = self.head.weights.grad(&found).expect("a gradient");
        assert_near("dx", &values(dx), &entries(&expected.embeddings), tolerance);
        assert_near("dw", &values(dw), &entries(&expected.weights), tolerance);
        if let (Some(bias), Some(db)) = (&self.head.bias, &expected.bias) {
            let found = values(bias.grad(&found).expect("a gradient"));
            assert_near("db", &found, &db.to_vec(), tolerance);
        }
    }
}

pub fn entries(matrix: &Array2<f64>) -> Vec<f64> {
    matrix.iter().copied().collect()
}

pub fn labels() -> Tensor<1, Int> {
    labels_of(&LABELS.map(|label| label as i64))
}

pub fn labels_of(labels: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(labels, &memory())
}

/// A vector in f64.
pub fn vector(entries: &[f64]) -> Tensor<1> {
    let data = TensorData::new(entries.to_vec(), [entries.len()]);
    Tensor::from_data(data, (&memory(), DType::F64))
}

/// Asserts that numbers agree up to `tolerance` times the largest expected one.
pub fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a:e} and {b:e}");
    }
}
