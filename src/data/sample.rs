//! The classes of one sampled step.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::Error;
use crate::kernel::Real;

/// The classes of one step and the labels among them: what a
/// [`ClassSampler`](crate::sampling::ClassSampler) draws.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClassSample {
    /// The rows of the active class weights (S), ascending.
    pub classes: Vec<usize>,
    /// For each sample the place of its class in `classes` (N); [`ABSENT`](Self::ABSENT) where
    /// another rank holds the class or the sample is ignored.
    pub labels: Vec<usize>,
    /// `None` where the sampler does not correct.
    correction: Option<f64>,
    range: Range<usize>,
}

impl ClassSample {
    /// The label of a sample whose class is not among the sampled ones.
    pub const ABSENT: usize = usize::MAX;

    /// The sample of these `classes`, which are rows of `range`, for these places of the labels.
    pub(crate) fn new(
        classes: Vec<usize>,
        labels: Vec<usize>,
        correction: Option<f64>,
        range: Range<usize>,
    ) -> Self {
        ClassSample { classes, labels, correction, range }
    }

    /// What is added to the logit of each class that is not in the batch; 0 without correction.
    pub fn correction(&self) -> f64 {
        self.correction.unwrap_or(0.0)
    }

    /// Whether its sampler corrects, on ranks perhaps by 0 on this one.
    pub(crate) fn is_corrected(&self) -> bool {
        self.correction.is_some()
    }

    /// The rows of class weights with `k` sub-centers per class that belong to these classes (S·K),
    /// ascending: those of the gradient of a sampled step.
    ///
    /// ```
    /// use margin_softmax::sampling::ClassSampler;
    ///
    /// let sample = ClassSampler::new(4, 0.5, 0)?.sample(&[3, 1])?;
    /// assert_eq!(sample.rows(1), sample.classes);
    /// assert_eq!(sample.rows(3), [3, 4, 5, 9, 10, 11]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn rows(&self, k: usize) -> Vec<usize> {
        let first = |class: usize| class.saturating_mul(k);
        self.classes
            .iter()
            .flat_map(|&class| first(class)..first(class.saturating_add(1)))
            .collect()
    }

    /// The same, without a copy where the rows are the classes.
    pub(crate) fn selected(&self, k: usize) -> Cow<'_, [usize]> {
        if k == 1 { Cow::Borrowed(&self.classes) } else { Cow::Owned(self.rows(k)) }
    }

    /// Refuses a sample that was not drawn for these labels (any, in inference) of classes in `range`.
    pub(crate) fn check(
        &self,
        labels: Option<&[usize]>,
        ignored: Option<usize>,
        range: &Range<usize>,
    ) -> Result<(), Error> {
        if let Some(labels) = labels {
            let (expected, actual) = ([labels.len()], [self.labels.len()]);
            Error::check_shape("labels of the class sample", &expected, &actual)?;
        }
        let bad = |field, position| Err(Error::Sample { field, position });
        let mut least = 0;
        for (position, &class) in self.classes.iter().enumerate() {
            if class < least || class >= range.len() {
                return bad("classes", position);
            }
            least = class + 1;
        }
        for (row, (&label, &place)) in labels.into_iter().flatten().zip(&self.labels).enumerate() {
            let row_of_label =
                if range.contains(&label) { Some(label - range.start) } else { None };
            let class = self.classes.get(place).copied();
            let absent = class.is_some() || place == Self::ABSENT;
            if Some(label) != ignored && (class != row_of_label || !absent) {
                return bad("labels", row);
            }
        }
        // Last, for a sample of more classes than there are already names one that is too high.
        if self.range != *range {
            let (sampled, held) = (self.range.clone(), range.clone());
            return Err(Error::SampledRange { sampled, held });
        }
        Ok(())
    }

    /// What is added to the logit of each row of the sampled classes, where anything is.
    pub(crate) fn offsets<F: Real>(&self, k: usize) -> Option<Vec<F>> {
        let correction = self.correction.filter(|&correction| correction != 0.0)?;
        let mut offsets = vec![F::narrow(correction); self.classes.len()];
        for &place in &self.labels {
            if let Some(offset) = offsets.get_mut(place) {
                *offset = F::zero();
            }
        }
        Some(offsets.into_iter().flat_map(|offset| std::iter::repeat_n(offset, k)).collect())
    }
}
