//! One problem through the crate, at either level and in either type.

use margin_softmax::{
    Batch, Forward, Gradients, Head, LogitGradients, MarginLoss, NormalizedLogits, Real, Reduction,
};
use ndarray::{Array1, Array2};

use super::golden::{narrow1, narrow2};
use super::layout::{Layout, lay_out};
use super::oracle::Problem;

/// A problem's numbers in the number type, each matrix in its layout.
pub struct Inputs<F> {
    pub x: Array2<F>,
    pub w: Array2<F>,
    pub b: Option<Array1<F>>,
    pub labels: Vec<usize>,
    pub upstream: Array1<F>,
}

impl Problem {
    /// The same problem, its numbers rounded to the number type.
    pub fn rounded<F: Real>(&self) -> Problem {
        let round = |v: &f64| F::from(*v).unwrap().to_f64().unwrap();
        Problem {
            x: self.x.map(round),
            w: self.w.map(round),
            b: self.b.as_ref().map(|b| b.map(round)),
            labels: self.labels.clone(),
            upstream: self.upstream.map(round),
        }
    }

    pub fn inputs<F: Real>(&self, [x, w]: [Layout; 2]) -> Inputs<F> {
        Inputs {
            x: lay_out(&narrow2(self.x.clone()), x),
            w: lay_out(&narrow2(self.w.clone()), w),
            b: self.b.clone().map(narrow1),
            labels: self.labels.clone(),
            upstream: narrow1(self.upstream.clone()),
        }
    }
}

impl<F: Real> Inputs<F> {
    pub fn batch(&self) -> Batch<'_, F> {
        let batch = Batch::new(&self.x, &self.w, &self.labels);
        match &self.b {
            Some(b) => batch.with_bias(b),
            None => batch,
        }
    }

    pub fn logits(&self) -> NormalizedLogits<F> {
        let logits = NormalizedLogits::new(&self.x, &self.w).unwrap();
        match &self.b {
            Some(b) => logits.with_bias(b).unwrap(),
            None => logits,
        }
    }

    /// Gradients as the caller hands them over: in a layout of their own, and full of NaN, since
    /// they are overwritten.
    pub fn gradients(&self, [x, w]: [Layout; 2]) -> Gradients<F> {
        let mut gradients = Gradients::zeros_for(&self.batch());
        gradients.embeddings.fill(F::nan());
        gradients.weights.fill(F::nan());
        gradients.embeddings = lay_out(&gradients.embeddings, x);
        gradients.weights = lay_out(&gradients.weights, w);
        gradients
    }

    /// Through a head, with the problem's upstream weights.
    pub fn by_head<L: MarginLoss>(&self, head: &Head<L>) -> (Forward<F>, Gradients<F>) {
        let mut gradients = self.gradients([Layout::Standard; 2]);
        let reduction = Reduction::Weighted(&self.upstream);
        let forward = head.forward_backward(&self.batch(), reduction, &mut gradients).unwrap();
        (forward, gradients)
    }

    /// Through the materialized logits, with the problem's upstream weights.
    pub fn by_logits<L: MarginLoss>(
        &self,
        loss: &L,
    ) -> (Forward<F>, LogitGradients<F>, Gradients<F>) {
        let logits = self.logits();
        let forward = loss.forward(&logits, &self.labels).unwrap();
        let reduction = Reduction::Weighted(&self.upstream);
        let by_logit = loss.backward(&logits, &self.labels, &forward, reduction).unwrap();
        let gradients = logits.backward(&by_logit).unwrap();
        (forward, by_logit, gradients)
    }
}
