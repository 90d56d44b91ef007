//! Steps that move the class parameters as their gradient is made: they are the separate gradient and
//! update, bit for bit, and a refused one leaves everything as it was.

mod on_ranks;
mod refusals;
mod values;

use std::fmt::Debug;

use margin_softmax::ranks::{Collective, ThreadCollective};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    AdamW, Batch, BatchMut, Error, Forward, Gradients, Head, IGNORED, Real, Reduction, Sgd,
};
use ndarray::{Array1, Array2, Axis, concatenate, s};

use crate::common::layout::{LAYOUTS, Layout, lay_out};
use crate::common::oracle::Problem;
use crate::common::ranks::{even, on_ranks, problem};
use crate::common::run::Inputs;
use crate::common::spec::{Spec, menu};

fn momentum<F: Real>() -> Sgd<F> {
    Sgd::new(0.05).unwrap().with_momentum(0.9).unwrap().with_weight_decay(0.01).unwrap()
}

fn nesterov<F: Real>() -> Sgd<F> {
    momentum().with_nesterov(true)
}

fn adamw<F: Real>() -> AdamW<F> {
    AdamW::new(0.01).unwrap()
}

/// What a step changes.
#[derive(Debug, Clone, PartialEq)]
struct Moved<F, U> {
    w: Array2<F>,
    b: Option<Array1<F>>,
    update: U,
    dx: Array2<F>,
}

impl<F: Real, U: WeightUpdate<F> + Clone> Moved<F, U> {
    fn new(inputs: &Inputs<F>, update: U) -> Self {
        let dx = Array2::from_elem(inputs.x.dim(), F::from_f64(7.0).unwrap());
        Moved { w: inputs.w.clone(), b: inputs.b.clone(), update, dx }
    }

    fn batch<'a>(
        inputs: &'a Inputs<F>,
        w: &'a mut Array2<F>,
        b: &'a mut Option<Array1<F>>,
    ) -> BatchMut<'a, F> {
        let batch = BatchMut::new(&inputs.x, w, &inputs.labels);
        let batch = match b {
            Some(b) => batch.with_bias(b),
            None => batch,
        };
        batch.with_ignored_label(IGNORED)
    }

    fn fused(
        &mut self,
        head: &Head<impl margin_softmax::MarginLoss>,
        inputs: &Inputs<F>,
        reduction: Reduction<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let mut batch = Self::batch(inputs, &mut self.w, &mut self.b);
        head.step(&mut batch, reduction, &mut self.update, &mut self.dx)
    }

    fn separate(
        &mut self,
        head: &Head<impl margin_softmax::MarginLoss>,
        inputs: &Inputs<F>,
        reduction: Reduction<'_, F>,
    ) -> Forward<F> {
        let batch = Self::batch(inputs, &mut self.w, &mut self.b);
        let mut gradients = Gradients::zeros_for(&batch.view());
        let forward = head.forward_backward(&batch.view(), reduction, &mut gradients).unwrap();
        self.update.apply(&mut self.w, &gradients.weights).unwrap();
        if let (Some(b), Some(gradient)) = (&mut self.b, &gradients.bias) {
            self.update.apply_bias(b, gradient).unwrap();
        }
        self.dx = gradients.embeddings;
        forward
    }
}

fn with_ignored(mut problem: Problem) -> Problem {
    problem.labels[1] = IGNORED;
    problem
}
