//! The inputs of a step, borrowed from the tensors.

use margin_softmax::{Batch, Gradients, IGNORED, Real};
use ndarray::{ArrayView1, ArrayView2};

/// Embeddings, class weights and bias as views of the tensors' storage.
pub(crate) struct Inputs<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub weight: ArrayView2<'a, F>,
    pub bias: Option<ArrayView1<'a, F>>,
    pub sub_centers: usize,
}

/// The labels of a step, and whether some may be ignored.
pub(crate) struct Labels {
    pub classes: Vec<usize>,
    pub with_ignored: bool,
}

impl<F: Real> Inputs<'_, F> {
    pub fn batch<'a>(&'a self, labels: &'a Labels) -> Batch<'a, F> {
        let batch = Batch::new(&self.embeddings, &self.weight, &labels.classes);
        let batch = self.complete(batch);
        if labels.with_ignored { batch.with_ignored_label(IGNORED) } else { batch }
    }

    pub fn unlabeled(&self) -> Batch<'_, F> {
        self.complete(Batch::unlabeled(&self.embeddings, &self.weight))
    }

    fn complete<'a>(&'a self, batch: Batch<'a, F>) -> Batch<'a, F> {
        let batch = batch.with_sub_centers(self.sub_centers);
        match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => batch,
        }
    }
}

/// The gradients to compute where embeddings, class weights and bias are `tracked` or not: those
/// that nothing needs cost nothing.
pub(crate) fn gradients_for<F: Real>(
    batch: &Batch<'_, F>,
    tracked: [bool; 3],
) -> Option<Gradients<F>> {
    match tracked {
        [false, false, false] => None,
        [true, false, false] => Some(Gradients::embeddings_only(batch)),
        [false, ..] => Some(Gradients::weights_only(batch)),
        [true, ..] => Some(Gradients::zeros_for(batch)),
    }
}
