//! The sweeps over cosines that are given, for losses that ask no more of a negative than its logit:
//! each sample's row from one end to the other, as it lies in memory.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::first::{Sweep, raise_max};
use crate::data::{Classes, contiguous};
use crate::kernel::{self, Real};
use crate::parallel::run_jobs;
use crate::step::{ChunkStats, PreparedSample, Scratch};

/// Cosines whose largest is found before their exponentials are summed: meanwhile they stay in the
/// first-level cache.
const BLOCK: usize = 1024;

/// What the first sweep finds in the row of one sample.
#[derive(Clone)]
struct RowStats<F> {
    /// The largest logit, and the sum of the exponentials of all logits less the largest.
    all: (F, f64),
    /// The same without class prior, where there is one.
    margin_free: (F, f64),
    /// The largest logit by its cosine, and its class: until all are seen a lower one.
    nearest: (F, usize),
    /// The sum of the logits, where labels are smoothed.
    logits: f64,
    target: F,
}

impl<F: Real> Sweep<'_, F> {
    /// Fills the statistics of the first chunk with those of all classes.
    pub fn forward_rows(
        &self,
        classes: &Classes<'_, F>,
        cosines: ArrayView2<'_, F>,
        chunks: &mut [ChunkStats<F>],
        workers: &mut [Scratch<F>],
    ) {
        let (all, nearest) = ((F::neg_infinity(), 0.0), (F::neg_infinity(), usize::MAX));
        let none = RowStats { all, margin_free: all, nearest, logits: 0.0, target: F::zero() };
        let mut rows = vec![none; self.plan.samples];
        let priors = self.all_log_priors(classes);
        let priors = priors.as_deref();
        run_jobs(rows.iter_mut().enumerate(), workers, |scratch, (i, found)| {
            let sample = &self.workspace.samples[i];
            let row = contiguous(cosines.row(sample.row), &mut scratch.packed);
            let own = sample.class.unwrap_or(row.len());
            let factor = self.row_factor(i);
            found.target = row.get(own).map_or(F::zero(), |own| *own * factor);
            for range in blocks(0..own).chain(blocks(own + 1..row.len())) {
                self.forward_block((i, row), range, priors, &mut scratch.line, found);
            }
            let (nearest, class) = &mut found.nearest;
            let from = row.get(*class..).unwrap_or_default();
            let place = from.iter().position(|&cosine| cosine * factor == *nearest);
            *class += place.unwrap_or_default();
        });
        for (i, row) in rows.iter().enumerate() {
            // The target logit of a sample is read from the chunk that holds its class.
            chunks.iter_mut().for_each(|chunk| chunk.target[i] = row.target);
            let Some(all) = chunks.first_mut() else { return };
            (all.max[i], all.sum[i]) = row.all;
            all.class[i] = row.nearest.1;
            all.nearest.get_mut(i).into_iter().for_each(|nearest| *nearest = row.nearest.0);
            all.logits.get_mut(i).into_iter().for_each(|logits| *logits = row.logits);
            if priors.is_some() {
                (all.margin_free_max[i], all.margin_free_sum[i]) = row.margin_free;
            }
        }
    }

    /// Adds a part of the `row` of sample `i` to what is found of it.
    fn forward_block(
        &self,
        (i, row): (usize, &[F]),
        range: Range<usize>,
        priors: Option<&[F]>,
        line: &mut Vec<F>,
        found: &mut RowStats<F>,
    ) {
        let (first, row, factor) = (range.start, &row[range.clone()], self.row_factor(i));
        let priors = priors.map(|priors| &priors[range]);
        if priors.is_some() {
            add_logits(self.row_logits((i, row), None, line), &mut found.margin_free);
        }
        let logits = self.row_logits((i, row), priors, line);
        let largest = add_logits(logits, &mut found.all);
        let changed = !std::ptr::eq(logits.0, row);
        let nearest = if changed { kernel::largest(row) * factor } else { largest };
        if nearest > found.nearest.0 {
            found.nearest = (nearest, first);
        }
        if self.plan.form.smoothing > 0.0 {
            found.logits += kernel::row_sum(logits.0) * logits.1.widen();
        }
    }

    /// Writes the gradients of the cosines of the samples that count.
    pub fn backward_rows(
        &self,
        classes: &Classes<'_, F>,
        cosines: ArrayView2<'_, F>,
        mut gradients: ArrayViewMut2<'_, F>,
        workers: &mut [Scratch<F>],
    ) {
        let priors = self.all_log_priors(classes);
        let priors = priors.as_deref();
        let places = self.workspace.places(gradients.nrows());
        let rows = gradients.axis_iter_mut(Axis(0)).zip(cosines.rows()).zip(places);
        let jobs = rows.filter_map(|(rows, place)| Some((rows, place?)));
        run_jobs(jobs, workers, |scratch, ((mut gradients, row), i)| {
            let row = contiguous(row, &mut scratch.packed);
            match gradients.as_slice_mut() {
                Some(gradients) => {
                    self.backward_row((i, row), priors, &mut scratch.line, gradients)
                }
                None => {
                    scratch.factors.resize(row.len(), F::zero());
                    let Scratch { line, factors, .. } = scratch;
                    self.backward_row((i, row), priors, line, factors);
                    gradients.iter_mut().zip(factors).for_each(|(to, g)| *to = *g);
                }
            }
            if let Some(own) = self.workspace.samples[i].class {
                gradients[own] = F::zero();
            }
        });
    }

    fn backward_row(
        &self,
        (i, row): (usize, &[F]),
        priors: Option<&[F]>,
        line: &mut Vec<F>,
        out: &mut [F],
    ) {
        let PreparedSample { norm, terms, .. } = &self.workspace.samples[i];
        // No product is to come, so there is nothing that a lift would keep in range.
        let [by, uniform] = [terms.coefficient, terms.uniform]
            .map(|term| F::narrow(term * self.plan.form.row_scale(*norm)));
        let (shift, hard) = (self.workspace.shift[i], self.row_hard(i));
        for range in blocks(0..row.len()) {
            let (row, out) = (&row[range.clone()], &mut out[range.clone()]);
            let priors = priors.map(|priors| &priors[range]);
            let (logits, factor) = self.row_logits((i, row), priors, line);
            kernel::exponentials(logits, [factor, shift, by], out);
            if hard.is_some() || self.plan.form.smoothing > 0.0 {
                kernel::row_slopes(row, self.row_factor(i), hard, uniform, out);
            }
        }
    }

    /// What is added to the logit of each class, where they have a class prior.
    fn all_log_priors(&self, classes: &Classes<'_, F>) -> Option<Vec<F>> {
        let all = (0..classes.len()).map(|class| classes.log_prior_of(class));
        self.plan.has_log_prior.then(|| all.collect())
    }

    /// What the cosines of sample `i` are multiplied by.
    fn row_factor(&self, i: usize) -> F {
        F::narrow(self.plan.form.product_scale::<F>(self.workspace.samples[i].norm))
    }

    fn row_hard(&self, i: usize) -> Option<[F; 4]> {
        Some(self.workspace.hard_tile(self.plan.form, [None, None])?.of_sample(i))
    }

    /// Numbers that are the logits of sample `i`, as they count, times a factor: its cosines
    /// themselves unless something else changes them.
    fn row_logits<'r>(
        &self,
        (i, row): (usize, &'r [F]),
        priors: Option<&[F]>,
        line: &'r mut Vec<F>,
    ) -> (&'r [F], F) {
        let (factor, hard) = (self.row_factor(i), self.row_hard(i));
        if hard.is_none() && priors.is_none() {
            return (row, factor);
        }
        line.resize(row.len(), F::zero());
        kernel::row_logits(row, factor, hard, line);
        for (logit, &prior) in line.iter_mut().zip(priors.unwrap_or_default()) {
            *logit += prior;
        }
        (line, F::one())
    }
}

/// The parts of a row that are taken at a time.
fn blocks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(BLOCK).map(move |start| start..(start + BLOCK).min(end))
}

/// Adds the logits of a part, `row` · `factor`, to a log-sum-exp, and returns the largest.
fn add_logits<F: Real>((row, factor): (&[F], F), (max, sum): &mut (F, f64)) -> F {
    let largest = kernel::largest(row) * factor;
    raise_max(largest, max, sum);
    *sum += kernel::sum_of_exponentials(row, factor, *max);
    largest
}
