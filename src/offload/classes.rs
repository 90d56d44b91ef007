//! The classes of an offloaded step.

use std::borrow::Cow;

use crate::data::{ClassSample, Samples, check_sub_centers};
use crate::error::Error;
use crate::kernel::Real;

/// The classes of an [`OffloadedStep`](super::OffloadedStep), and the rows of their weights that it reads in main memory:
/// those of the samples' own classes.
#[derive(Debug, Clone, PartialEq)]
pub struct OffloadedClasses<'a> {
    pub(super) samples: Samples<'a>,
    pub(super) own_rows: Vec<usize>,
    pub(super) classes: usize,
}

impl<'a> OffloadedClasses<'a> {
    /// All of C `classes`, each with `sub_centers` rows of class weights, for samples with these
    /// `labels`; those with the label `ignored` do not count.
    ///
    /// # Errors
    /// [`Error::Label`] for a label ≥ C, [`Error::Parameter`] for zero sub-centers and for more than
    /// can be numbered.
    pub fn new(
        labels: &'a [usize],
        ignored: Option<usize>,
        (classes, sub_centers): (usize, usize),
    ) -> Result<Self, Error> {
        Error::check_labels(labels, classes, ignored)?;
        let mut own: Vec<usize> = labels.to_vec();
        own.retain(|label| Some(*label) != ignored);
        own.sort_unstable();
        own.dedup();
        let k = check_sub_centers(sub_centers)?;
        let expected = "so few that the rows of all classes can be numbered";
        let valid = classes.checked_mul(k).is_some();
        Error::check_parameter("sub-centers per class k", k as f64, expected, valid)?;
        let own_rows = own.into_iter().flat_map(|class| class * k..(class + 1) * k).collect();
        let samples = Samples { ignored, sub_centers, ..Samples::new(Some(labels)) };
        Ok(OffloadedClasses { samples, own_rows, classes })
    }

    /// All of C `classes` for embeddings without labels: predictions.
    ///
    /// # Errors
    /// [`Error::Parameter`] for zero sub-centers.
    pub fn for_inference((classes, sub_centers): (usize, usize)) -> Result<Self, Error> {
        let unlabeled = OffloadedClasses::new(&[], None, (classes, sub_centers))?;
        let samples = Samples { labels: None, ..unlabeled.samples };
        Ok(OffloadedClasses { samples, ..unlabeled })
    }

    /// The same, where only the classes of `sample` are active.
    ///
    /// # Errors
    /// [`Error::Sample`] and [`Error::SampledRange`] for a sample that does not fit.
    pub fn with_sample(self, sample: &'a ClassSample) -> Result<Self, Error> {
        sample.check(self.samples.labels, self.samples.ignored, &(0..self.classes))?;
        Ok(OffloadedClasses { samples: Samples { sample: Some(sample), ..self.samples }, ..self })
    }

    /// The rows of class weights that the step reads, ascending, each once: to be gathered.
    pub fn own_rows(&self) -> &[usize] {
        &self.own_rows
    }

    /// The rows of class weights to sweep over, ascending, in the order of their places; `None` for
    /// all rows, each at its own number.
    pub fn swept_rows(&self) -> Option<Cow<'a, [usize]>> {
        self.samples.sample.map(|sample| sample.selected(self.samples.sub_centers))
    }

    /// What is added to the logit of each row that is swept, up-weighted or not, where a sample is
    /// corrected for: no parameter, so without a gradient.
    pub fn offsets<F: Real>(&self) -> Option<Vec<F>> {
        let corrected = self.samples.sample.filter(|_| self.samples.labels.is_some());
        corrected.and_then(|sample| sample.offsets(self.samples.sub_centers))
    }

    /// The place of each sample's own class among the classes that are swept (N), whose rows start
    /// at K times that place: its logit is none of the sample's negatives. `None` without labels;
    /// arbitrary for a sample that does not count.
    pub fn own_places(&self) -> Option<&'a [usize]> {
        let labels = self.samples.labels?;
        Some(self.samples.sample.map_or(labels, |sample| &sample.labels))
    }

    /// How many classes are swept.
    pub(super) fn active(&self) -> usize {
        self.samples.sample.map_or(self.classes, |sample| sample.classes.len())
    }

    /// The class at this place of the sweep, which there is.
    pub(super) fn class_at(&self, place: usize) -> usize {
        self.samples.sample.map_or(place, |sample| sample.classes[place])
    }

    /// The place in the sweep of a row of class weights that is swept.
    pub(super) fn place_of(&self, row: usize) -> usize {
        let k = self.samples.sub_centers;
        self.samples.sample.map_or(row, |sample| {
            sample.classes.partition_point(|&class| class < row / k) * k + row % k
        })
    }
}
