//! The nearest negatives of an offloaded step: which these are, and their pairs in f64.

use ndarray::ArrayRef2;

use super::step::{NegativeLogit, OffloadedStep, SweepStats};
use crate::data::{Classes, NearestNegative, SampleStats};
use crate::error::Error;
use crate::kernel::Real;
use crate::step::{Apart, NearestLogit, NearestPair, PreparedSample, StepInput};

impl SweepStats {
    /// The sums over the negatives.
    pub(super) fn sums(&self) -> Apart {
        let SweepStats { negatives, margin_free_negatives: margin_free, logit_sum: logits, .. } =
            *self;
        Apart { negatives, margin_free, logits }
    }
}

impl<F: Real> OffloadedStep<'_, F> {
    /// How many of each sample's nearest negatives have a margin of their own; 0 for a loss without
    /// [`top_negatives`](crate::MarginLoss::top_negatives), and in inference.
    pub fn top_negatives(&self) -> usize {
        self.form.top.map_or(0, |top| top.k.min(self.classes.active()))
    }

    /// Of the logits that the sums of the sweep leave out, keeps the
    /// [`top_negatives`](Self::top_negatives) nearest and adds the others to the sums. Returns the
    /// rows of class weights that [`complete`](Self::complete) reads, ascending, each once: those of
    /// the classes that are kept, and where class weights are not normalized, of the nearest
    /// negatives.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many `stats` as samples; [`Error::Label`] where a class
    /// of a sample that counts is no place of the sweep.
    pub fn nearest_rows(&self, stats: &mut [SweepStats]) -> Result<Vec<usize>, Error> {
        self.check_places(stats)?;
        let (k, offsets) = (self.top_negatives(), self.classes.offsets::<F>());
        let hard = self.workspace.hard_tile(self.form, [None, None]);
        let log_prior = self.input.classes.log_prior;
        let prior = |place| log_prior.map_or(0.0, |all| all[self.classes.class_at(place)].widen());
        let mut classes = Vec::new();
        for (i, sample) in self.workspace.samples.iter().enumerate() {
            let stats = &mut stats[sample.row];
            let candidates = stats.apart.iter().map(|&NegativeLogit { place, logit }| {
                let (plain, offset) = (F::narrow(logit), self.offset(offsets.as_deref(), place));
                NearestLogit { plain, logit: plain + offset, class: place }
            });
            let mut candidates: Vec<_> = candidates.collect();
            candidates.sort_unstable_by(NearestLogit::order);
            let mut others = Apart::NONE;
            for other in candidates.split_off(k.min(candidates.len())) {
                others.add_other(hard, i, other, prior(other.class));
            }
            let Apart { negatives, margin_free, logits } = stats.sums().merge(others);
            (stats.negatives, stats.margin_free_negatives) = (negatives, margin_free);
            stats.logit_sum = logits;
            let kept = candidates.into_iter().map(|NearestLogit { plain, class, .. }| {
                NegativeLogit { place: class, logit: plain.widen() }
            });
            stats.apart = kept.collect();
            let reported = stats.nearest_negative.iter().filter(|_| !self.is_normalized());
            classes.extend(reported.chain(&stats.apart).map(|n| self.classes.class_at(n.place)));
        }
        classes.sort_unstable();
        classes.dedup();
        let sub_centers = self.input.classes.sub_centers;
        let rows = |class| class * sub_centers..(class + 1) * sub_centers;
        Ok(classes.into_iter().flat_map(rows).collect())
    }

    /// Refuses places that no class of the sweep has.
    pub(super) fn check_places(&self, stats: &[SweepStats]) -> Result<(), Error> {
        let rows = self.input.embeddings.nrows();
        Error::check_shape("stats of the sweep", &[rows], &[stats.len()])?;
        let classes = self.classes.active();
        for &PreparedSample { row, .. } in &self.workspace.samples {
            let SweepStats { nearest, nearest_negative, apart, .. } = &stats[row];
            let negatives = nearest_negative.iter().chain(apart).map(|negative| negative.place);
            if let Some(label) = negatives.chain([*nearest]).find(|place| *place >= classes) {
                return Err(Error::Label { row, label, classes });
            }
        }
        Ok(())
    }

    /// What is added to the logits of the class at this place.
    fn offset(&self, offsets: Option<&[F]>, place: usize) -> F {
        offsets.map_or(F::zero(), |offsets| offsets[place * self.input.classes.sub_centers])
    }

    /// The pairs of the negatives that `stats` keep, from the `weights` of their `rows`, and with them
    /// all that is known of each sample.
    pub(super) fn with_pairs(
        &self,
        stats: &[SweepStats],
        (rows, weights): (&[usize], &ArrayRef2<F>),
    ) -> Result<(Vec<NearestPair>, Vec<SampleStats>), Error> {
        let (form, dims) = (self.form, self.input.embeddings.ncols());
        Error::check_shape("class weights of negatives", &[rows.len(), dims], weights.shape())?;
        let offsets = self.classes.offsets::<F>();
        let of_rows = |all: &Vec<F>| -> Vec<F> {
            rows.iter().map(|&row| all[self.classes.place_of(row)]).collect()
        };
        let offsets_of_rows = offsets.as_ref().map(of_rows);
        let classes = Classes {
            weights: weights.view(),
            selected: Some(rows),
            offsets: offsets_of_rows.as_deref(),
            ..self.input.classes
        };
        let input = StepInput { classes, ..self.input.clone() };
        let mut pairs = Vec::new();
        let of_sample = |(i, sample): (usize, &PreparedSample)| {
            let class_of = |negative: &NegativeLogit| {
                let first = input.classes.find(self.classes.class_at(negative.place));
                input.nearest_row(form, sample, first.unwrap_or(0))
            };
            let swept = &stats[sample.row];
            let mut apart = Apart::NONE;
            if let Some(top) = form.top {
                for negative in &swept.apart {
                    let (class, sample) = (class_of(negative)?, (i, sample));
                    let pair = NearestPair::new(&input, (form, top), sample, class, &mut apart);
                    pairs.push(pair);
                }
            }
            let negative = match &swept.nearest_negative {
                None => NearestNegative::NONE,
                Some(NegativeLogit { place, logit }) if self.is_normalized() => {
                    let offset = self.offset(offsets.as_deref(), *place).widen();
                    let label = self.classes.class_at(*place);
                    let scale = form.offloaded_scale::<F>(sample.norm);
                    NearestNegative::new(label, *logit, offset, scale)
                }
                Some(nearest) => {
                    let nearest = (class_of(nearest)?, nearest.logit);
                    input.nearest_negative(form, sample.norm, nearest)
                }
            };
            let nearest = (self.classes.class_at(swept.nearest), swept.negatives.max);
            let sums = swept.sums().merge(apart);
            Ok(self.input.sample_stats(sample, self.smoothing, sums, nearest, negative))
        };
        let samples = self.workspace.samples.iter().enumerate();
        let found = samples.map(of_sample).collect::<Result<_, Error>>()?;
        Ok((pairs, found))
    }
}
