//! This crate.

use margin_softmax::{ArcFace, Batch, Gradients, Head, Precision, Real, Reduction};

use crate::{Competitor, Data, Element, Result, head, write_gradients};

pub struct Engine<F: Real> {
    head: Head<ArcFace>,
    data: Data<F>,
    gradients: Gradients<F>,
}

impl<F: Real + Element> Engine<F> {
    pub fn new(data: Data<F>, precision: Precision) -> Result<Self> {
        let gradients = Gradients::zeros_for(&Batch::new(&data.x, &data.w, &data.labels));
        Ok(Self { head: head()?.with_precision(precision), data, gradients })
    }
}

impl<F: Real + Element + Into<f64>> Competitor for Engine<F> {
    fn step(&mut self) -> Result<f64> {
        let batch = Batch::new(&self.data.x, &self.data.w, &self.data.labels);
        let forward = self.head.forward_backward(&batch, Reduction::Mean, &mut self.gradients)?;
        Ok(forward.mean().into())
    }

    fn save(&self, prefix: &str) -> Result<()> {
        write_gradients(prefix, &self.gradients.embeddings, &self.gradients.weights)
    }
}
