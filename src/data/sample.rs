//! The classes of one sampled step.

use std::borrow::{Borrow, Cow};
use std::ops::Range;

use super::labels::IGNORED;
use crate::error::Error;
use crate::kernel::Real;

/// The classes of one step and the labels among them: drawn by a
/// [`ClassSampler`](crate::sampling::ClassSampler), or chosen by you.
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
    /// The classes of the rank that it is for; `None` for any.
    range: Option<Range<usize>>,
}

impl ClassSample {
    /// The label of a sample whose class is not among the sampled ones.
    pub const ABSENT: usize = usize::MAX;

    /// The sample of `classes` that you choose, such as hard negatives, in any order and with
    /// repetitions, and of the classes of a batch with these `labels`. A sample labeled
    /// [`IGNORED`](crate::IGNORED) adds no class. There is no correction: that is true of uniform
    /// draws alone.
    ///
    /// ```
    /// use margin_softmax::sampling::ClassSample;
    ///
    /// let sample = ClassSample::of([8, 2, 8], &[5, 2])?;
    /// assert_eq!(sample.classes, [2, 5, 8]);
    /// assert_eq!(sample.labels, [1, 0]);
    /// assert_eq!(sample.correction(), 0.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Sample`] for a class and [`Error::LabelValue`] for a label that is a negative number,
    /// cast. Classes and labels beyond the last class are refused by the step.
    pub fn of(
        classes: impl IntoIterator<Item: Borrow<usize>>,
        labels: &[usize],
    ) -> Result<Self, Error> {
        let sample = Self::of_range(0..IGNORED, classes, labels)?;
        Ok(ClassSample { range: None, ..sample })
    }

    /// The same for one rank of a [`Head::on_ranks`](crate::Head::on_ranks), which holds the classes
    /// of `range`: `classes` and `labels` number all classes, and those of other ranks are skipped.
    ///
    /// # Errors
    /// As [`of`](Self::of), and [`Error::Parameter`] for a range that ends before it starts.
    pub fn of_range(
        range: Range<usize>,
        classes: impl IntoIterator<Item: Borrow<usize>>,
        labels: &[usize],
    ) -> Result<Self, Error> {
        Error::check_range("end of the class range", &range)?;
        let classes: Vec<usize> = classes.into_iter().map(|class| *class.borrow()).collect();
        let negative = |&number: &usize| number as isize <= -1;
        if let Some(position) = classes.iter().position(negative) {
            return Err(Error::Sample { field: "classes", position });
        }
        let is_label = |label: &usize| *label == IGNORED || !negative(label);
        if let Some(row) = labels.iter().position(|label| !is_label(label)) {
            return Err(Error::LabelValue { row, label: labels[row] as isize as i128 });
        }
        let row = |&class: &usize| range.contains(&class).then(|| class - range.start);
        let mut active: Vec<usize> = classes.iter().chain(labels).filter_map(row).collect();
        active.sort_unstable();
        active.dedup();
        Ok(Self::new(active, labels.iter().map(row), None, Some(range.clone())))
    }

    /// The sample of these `classes`, which are rows of `range` and ascend, for `labels` that are
    /// such rows, or of other ranks.
    pub(crate) fn new(
        classes: Vec<usize>,
        labels: impl Iterator<Item = Option<usize>>,
        correction: Option<f64>,
        range: Option<Range<usize>>,
    ) -> Self {
        let place = |row: usize| classes.binary_search(&row).ok();
        let labels = labels.map(|row| row.and_then(place).unwrap_or(Self::ABSENT)).collect();
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
        let rows =
            |&class: &usize| class.saturating_mul(k)..class.saturating_add(1).saturating_mul(k);
        self.classes.iter().flat_map(rows).collect()
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
            let row_of_label = range.contains(&label).then(|| label - range.start);
            let class = self.classes.get(place).copied();
            let absent = class.is_some() || place == Self::ABSENT;
            if Some(label) != ignored && (class != row_of_label || !absent) {
                return bad("labels", row);
            }
        }
        // Last, for a sample of more classes than there are already names one that is too high.
        match &self.range {
            Some(sampled) if sampled != range => {
                let (sampled, held) = (sampled.clone(), range.clone());
                Err(Error::SampledRange { sampled, held })
            }
            _ => Ok(()),
        }
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
