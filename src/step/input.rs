//! What a step reads, and whether its parts fit each other.

use std::ops::Range;

use super::settings::Settings;
use crate::data::{Batch, ClassSample, Classes, Reduction, Samples, View2, check_sub_centers};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;

/// Everything that a step reads.
#[derive(Debug, Clone)]
pub(crate) struct StepInput<'a, F> {
    pub embeddings: View2<'a, F>,
    pub classes: Classes<'a, F>,
    /// Without labels in inference, where no sample has a class.
    pub samples: Samples<'a>,
    /// The classes that this rank holds.
    pub range: Range<usize>,
    /// Whether these are all classes.
    pub whole: bool,
    pub settings: Settings,
    /// How many classes of each embedding are requested, in a step that ranks them.
    pub most: usize,
    /// The reduction whose gradients are computed; `None` for a step without gradients.
    pub reduction: Option<Reduction<'a, F>>,
}

impl<'a, F: Real> StepInput<'a, F> {
    /// The input of a step over the classes of `range`, whose weights the batch holds; all of them
    /// without one. Nothing is checked yet.
    pub fn new(settings: Settings, batch: Batch<'a, F>, range: Option<Range<usize>>) -> Self {
        let Batch { embeddings, weights, bias, log_prior, samples } = batch;
        let whole = range.is_none();
        let range = range.unwrap_or(0..weights.nrows() / samples.sub_centers.max(1));
        let all = Classes::all(weights, bias);
        let sub_centers = samples.sub_centers;
        let classes = Classes { log_prior, first: range.start, sub_centers, ..all };
        let (most, reduction) = (0, None);
        StepInput { embeddings, classes, samples, range, whole, settings, most, reduction }
    }

    /// The same input over the rows `selected` of its sample, if it has one.
    pub fn sampled(self, selected: Option<&'a [usize]>, offsets: Option<&'a [F]>) -> Self {
        StepInput { classes: Classes { selected, offsets, ..self.classes }, ..self }
    }
}

impl<F: Real> StepInput<'_, F> {
    /// Refuses shapes, ranges and samples that do not fit each other.
    /// Where all classes are here, the labels are checked as well, and `loss` is asked whether it
    /// takes so many classes; on ranks once these know how many there are.
    pub fn check_shapes(&self, loss: &dyn MarginLoss) -> Result<(), Error> {
        let (rows, dims) = self.embeddings.dim();
        Error::check_not_empty("embeddings", self.embeddings.shape())?;
        if self.whole {
            Error::check_not_empty("class weights", self.classes.weights.shape())?;
        }
        Error::check_range("end of the class range", &self.range)?;
        let sub_centers = check_sub_centers(self.classes.sub_centers)?;
        let held = self.range.len().saturating_mul(sub_centers);
        Error::check_shape("class weights", &[held, dims], self.classes.weights.shape())?;
        if let Some(bias) = &self.classes.bias {
            Error::check_shape("bias", &[held], bias.shape())?;
        }
        if let Some(prior) = &self.classes.log_prior {
            Error::check_shape("log prior", &[self.range.len()], prior.shape())?;
        }
        if let Some(labels) = self.samples.labels {
            Error::check_shape("labels", &[rows], &[labels.len()])?;
        }
        if self.whole {
            self.check_classes(loss, self.range.len())?;
        }
        let check = |sample: &ClassSample| {
            sample.check(self.samples.labels, self.samples.ignored, &self.range)
        };
        self.samples.sample.map_or(Ok(()), check)
    }

    /// Refuses labels and losses for another number of classes.
    pub fn check_classes(&self, loss: &dyn MarginLoss, classes: usize) -> Result<(), Error> {
        let Some(labels) = self.samples.labels else { return Ok(()) };
        Error::check_labels(labels, classes, self.samples.ignored)?;
        loss.check_classes(classes)
    }

    /// Whether the logits have a class prior: in training alone.
    pub fn has_log_prior(&self) -> bool {
        self.samples.labels.is_some() && self.classes.log_prior.is_some()
    }

    /// Refuses a batch without labels.
    pub fn check_labeled(&self) -> Result<(), Error> {
        let rows = self.embeddings.nrows();
        self.samples.labels.map_or_else(|| Error::check_shape("labels", &[rows], &[]), |_| Ok(()))
    }
}
