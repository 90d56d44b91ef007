//! A step in main memory.

use margin_softmax::sampling::ClassSample;
use margin_softmax::{
    Batch, Error, Forward, Gradients, IGNORED, NormalizedLogits, Real, Reduction, labels_from,
    labels_from_ignoring,
};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::shared_head::Core;

/// The labels of a step, and whether some may be ignored.
#[derive(Debug, Clone)]
pub struct Labels {
    pub(crate) classes: Vec<usize>,
    pub(crate) with_ignored: bool,
}

impl Labels {
    /// Converts labels of any integer type; the `ignored` one becomes [`IGNORED`].
    ///
    /// # Errors
    /// [`Error::LabelValue`] for another that is negative.
    pub fn new(labels: &[i128], ignored: Option<i64>) -> Result<Self, Error> {
        let classes = match ignored {
            Some(ignored) => labels_from_ignoring(labels, i128::from(ignored)),
            None => labels_from(labels),
        };
        Ok(Labels { classes: classes?, with_ignored: ignored.is_some() })
    }
}

/// What is requested of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a, F> {
    pub labels: &'a Labels,
    /// The classes that are active, if not all.
    pub sample: Option<&'a ClassSample>,
    /// The reduction whose gradients are computed; `None` for a step without gradients.
    pub reduction: Option<Reduction<'a, F>>,
    /// By which of embeddings, class weights and bias.
    pub tracked: [bool; 3],
}

/// Embeddings, class weights and bias.
pub(crate) struct Arrays<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub weights: ArrayView2<'a, F>,
    pub bias: Option<ArrayView1<'a, F>>,
    pub sub_centers: usize,
}

impl<F: Real> Arrays<'_, F> {
    /// Losses, and the gradients of what is tracked: those that nothing needs cost nothing.
    pub fn step(
        &self,
        core: &Core,
        Request { labels, sample, reduction, tracked }: Request<'_, F>,
        log_prior: Option<&Array1<F>>,
    ) -> Result<(Forward<F>, Option<Gradients<F>>), Error> {
        let batch = Batch::new(&self.embeddings, &self.weights, &labels.classes);
        let batch = self.complete(batch);
        let batch = if labels.with_ignored { batch.with_ignored_label(IGNORED) } else { batch };
        let batch = match sample {
            Some(sample) => batch.with_sample(sample),
            None => batch,
        };
        let batch = match log_prior {
            Some(prior) => batch.with_log_prior(prior),
            None => batch,
        };
        let gradients = match tracked {
            [false, false, false] => None,
            [true, false, false] => Some(Gradients::embeddings_only(&batch)),
            [false, ..] => Some(Gradients::weights_only(&batch)),
            [true, ..] => Some(Gradients::zeros_for(&batch)),
        };
        match (gradients, reduction) {
            (Some(mut gradients), Some(reduction)) => {
                let forward = core.forward_backward(&batch, reduction, &mut gradients)?;
                Ok((forward, Some(gradients)))
            }
            _ => Ok((core.forward(&batch)?, None)),
        }
    }

    /// The nearest class of every embedding, without margin.
    pub fn predict(&self, core: &Core) -> Result<Vec<usize>, Error> {
        core.predict(&self.complete(Batch::unlabeled(&self.embeddings, &self.weights)))
    }

    /// The logits without margin (N, C).
    pub fn logits(&self, core: &Core) -> Result<Array2<F>, Error> {
        use margin_softmax::MarginLoss;
        let logits = NormalizedLogits::new(&self.embeddings, &self.weights)?;
        let logits = logits.with_sub_centers(self.sub_centers)?;
        let logits = match &self.bias {
            Some(bias) => logits.with_bias(bias)?,
            None => logits,
        };
        core.loss().margin_free_logits(&logits)
    }

    fn complete<'a>(&'a self, batch: Batch<'a, F>) -> Batch<'a, F> {
        let batch = batch.with_sub_centers(self.sub_centers);
        match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => batch,
        }
    }
}
