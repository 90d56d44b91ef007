//! The first sweep: from every tile's products to the log-sum-exp of each sample's negatives.

use std::ops::Range;

use ndarray::{ArrayView2, s};

use crate::data::Classes;
use crate::kernel::{self, BinaryLogits, HardTile, Mat, Real, TileStats};
use crate::parallel::{run_jobs, split_off};
use crate::step::{ChunkStats, NearestLogit, Plan, Scratch, Workspace};

/// What both sweeps read.
#[derive(Clone, Copy)]
pub(in crate::head) struct Sweep<'a, F> {
    pub plan: &'a Plan,
    pub workspace: &'a Workspace<F>,
    /// The embeddings of the batch.
    pub x: ArrayView2<'a, F>,
}

impl<F: Real> Sweep<'_, F> {
    /// Fills the statistics of the chunks, and stores the logits in `stored`, one tile after the
    /// other, for as many classes as fit; `room` is the number of entries per class there.
    pub fn forward(
        &self,
        classes: &Classes<'_, F>,
        chunks: &mut [ChunkStats<F>],
        (mut stored, room): (&mut [F], usize),
        workers: &mut [Scratch<F>],
    ) {
        if let Some(cosines) = self.plan.whole_rows(classes) {
            return self.forward_rows(classes, cosines, chunks, workers);
        }
        let jobs = chunks.iter_mut().enumerate().map(|(index, found)| {
            let classes = self.plan.chunk(index);
            let stored = split_off(&mut stored, classes.len() * room);
            (classes, stored, found)
        });
        run_jobs(jobs, workers, |scratch, (range, stored, found)| {
            self.forward_chunk(classes, range, stored, found, scratch);
        });
    }

    /// One chunk, whose logits wait in `stored` until the second sweep.
    fn forward_chunk(
        &self,
        classes: &Classes<'_, F>,
        range: Range<usize>,
        stored: &mut [F],
        found: &mut ChunkStats<F>,
        scratch: &mut Scratch<F>,
    ) {
        let n = self.plan.samples;
        for tile in self.plan.tiles(range.clone()) {
            let at = tile.start - range.start;
            let stored = stored.get_mut(at * n..(at + tile.len()) * n);
            self.forward_tile(classes, tile, stored, found, scratch);
        }
    }

    fn forward_tile(
        &self,
        classes: &Classes<'_, F>,
        tile: Range<usize>,
        stored: Option<&mut [F]>,
        found: &mut ChunkStats<F>,
        scratch: &mut Scratch<F>,
    ) {
        let Plan { samples: n, level, form, .. } = *self.plan;
        let z = stored.unwrap_or(&mut scratch.tile[..tile.len() * n]);
        let weights = classes.tile(tile.clone(), &mut scratch.packed);
        self.products(classes, tile.clone(), weights, z);
        let factors = self.factors(tile.clone(), (classes, tile.start), &mut scratch.factors);
        let biases = classes.biases(tile.clone(), &mut scratch.biases);
        let numbers = [&mut scratch.max[..n], &mut scratch.line[..n]];
        let rows = [&mut scratch.best[..n], &mut scratch.nearest[..n]];
        self.stats(z, tile.start, (factors, biases), &mut found.target, numbers, rows);
        found.add_nearest(tile.start, &scratch.max, &scratch.best);
        let priors = self.log_priors(classes, tile.clone(), &mut scratch.priors);
        if let Some(binary) = form.binary_logits() {
            let rows = &mut scratch.binary[..];
            return self.binary_tile(binary, (z, priors), [&[], &[]], rows, (found, &mut []));
        }
        if !found.top.is_empty() {
            let (waiting, pushed) = (&mut scratch.waiting, &mut scratch.pushed);
            let (logits, threshold) = ((&mut *z, tile.start, biases), &mut scratch.short[..n]);
            self.take_nearest(logits, &mut found.top, waiting, pushed, threshold);
        }
        if let Some(priors) = priors {
            let buffers = [&mut scratch.max[..n], &mut scratch.short, &mut scratch.line];
            let hard = self.workspace.hard_tile(form, [biases, None]);
            let sums = (&mut found.margin_free_max[..], &mut found.margin_free_sum[..]);
            self.add_tile(z, hard, buffers, sums);
            kernel::tile_shift(level, z, priors, &mut scratch.max[..n]);
        }
        let hard = self.workspace.hard_tile(form, [biases, priors]);
        let buffers = [&mut scratch.max[..n], &mut scratch.short, &mut scratch.line];
        self.add_tile(z, hard, buffers, (&mut found.max, &mut found.sum));
        if !found.logits.is_empty() {
            let rows = [&mut scratch.short[..], &mut scratch.line[..]];
            kernel::tile_logit_sums(level, z, hard, rows, &mut found.logits);
        }
        let prior = |row: usize| priors.map_or(F::zero(), |priors| priors[row]);
        for (at, logit) in scratch.waiting.drain(..) {
            z[at] = logit + prior(at / n);
        }
        for (i, NearestLogit { plain, logit, class }) in scratch.pushed.drain(..) {
            let counted = hard.map_or(logit, |hard| hard.value(i, plain, logit));
            if priors.is_some() {
                let ChunkStats { margin_free_max, margin_free_sum, .. } = &mut *found;
                add_logit(counted, &mut margin_free_max[i], &mut margin_free_sum[i]);
            }
            // Its class may be one of an earlier tile.
            let counted = counted + classes.log_prior_of(class);
            add_logit(counted, &mut found.max[i], &mut found.sum[i]);
            if let Some(sum) = found.logits.get_mut(i) {
                *sum += counted.widen();
            }
        }
    }

    /// Takes the logits of a tile that are among the largest so far out of it, until the others are
    /// summed; those that they push out are summed for themselves.
    fn take_nearest(
        &self,
        (z, first, biases): (&mut [F], usize, Option<&[F]>),
        top: &mut [NearestLogit<F>],
        waiting: &mut Vec<(usize, F)>,
        pushed: &mut Vec<(usize, NearestLogit<F>)>,
        threshold: &mut [F],
    ) {
        let n = self.plan.samples;
        let k = top.len() / n;
        for (threshold, entries) in threshold.iter_mut().zip(top.chunks_exact(k)) {
            *threshold = entries[k - 1].plain;
        }
        // Without a margin they are those of inference, where the bias counts and nothing is summed.
        let margin = self.plan.form.top.is_some();
        let offsets = biases.filter(|_| margin);
        kernel::tile_nearest(self.plan.level, z, offsets, k, threshold, |j, i, plain, logit| {
            let entries = &mut top[i * k..(i + 1) * k];
            waiting.push((j * n + i, logit));
            let entry = NearestLogit { plain, logit, class: first + j };
            let last = entry.insert(entries).filter(|_| margin);
            pushed.extend(last.map(|last| (i, last)));
            entries[k - 1].plain
        });
    }

    /// w_j·(a_i·u_i) of a tile, or a_i times the cosines that are given.
    pub fn products(
        &self,
        classes: &Classes<'_, F>,
        tile: Range<usize>,
        weights: &[F],
        z: &mut [F],
    ) {
        if let Some(given) = &classes.given {
            return self.scale_cosines(given.cosines.slice(s![.., tile]), z);
        }
        let weights = Mat::new(weights, tile.len(), self.plan.dims);
        kernel::gemm(z, false, weights, &self.workspace.packed[0]);
    }

    /// Turns the products of the tile that starts at class `first` into logits, without those of the
    /// samples' own classes, and of each other label the nearest row alone; and finds the maxima.
    pub fn stats(
        &self,
        z: &mut [F],
        first: usize,
        (factors, biases): (&[F], Option<&[F]>),
        target: &mut [F],
        [max, line]: [&mut [F]; 2],
        [row, nearest]: [&mut [u32]; 2],
    ) {
        let (level, n, rows) = (self.plan.level, self.plan.samples, self.plan.sub_centers);
        let (targets, stats) = (self.targets(first), TileStats { max, row, target });
        if rows > 1 {
            let buffers = (line, nearest);
            kernel::tile_sub_centers(level, z, rows, (factors, biases), targets, stats, buffers);
        } else {
            kernel::tile_stats(level, z, n, factors, biases, targets, stats);
        }
    }

    /// Adds the logits `z` of a tile, as they count, to the log-sum-exp of each sample so far, held
    /// as `max` and `sum`. `largest` has the largest of each sample in the tile, unless some count by
    /// another number.
    fn add_tile(
        &self,
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        [largest, short, line]: [&mut [F]; 3],
        (max, sum): (&mut [F], &mut [f64]),
    ) {
        let level = self.plan.level;
        if self.plan.form.needs_maxima_of_others() {
            kernel::tile_counted_max(level, z, hard, line, largest);
        }
        for ((largest, max), sum) in largest.iter_mut().zip(max.iter_mut()).zip(sum.iter_mut()) {
            raise_max(*largest, max, sum);
            // A sample without a negative so far has none in this tile: e^(−∞ − 0) adds 0.
            *largest = max.max(F::min_value());
        }
        kernel::tile_sums(level, z, hard, largest, [short, line], sum);
    }

    /// Adds what a binary loss finds in a tile of products, and writes their gradients unless `out` is
    /// empty, with the `coefficients` of the samples and the factors of the rows.
    pub fn binary_tile(
        &self,
        binary: BinaryLogits<F>,
        (z, priors): (&[F], Option<&[F]>),
        coefficients: [&[F]; 2],
        rows: &mut [F],
        (found, out): (&mut ChunkStats<F>, &mut [F]),
    ) {
        let level = self.plan.level;
        if priors.is_some() {
            let sums = [&mut found.margin_free_sum[..], &mut []];
            kernel::tile_binary(level, (z, None), binary, [&[], &[]], rows, sums, &mut []);
        }
        let sums = [&mut found.sum[..], &mut found.logits];
        kernel::tile_binary(level, (z, priors), binary, coefficients, rows, sums, out);
    }

    /// What is added to the logits of a tile where they have a class prior.
    pub fn log_priors<'s>(
        &self,
        classes: &Classes<'_, F>,
        tile: Range<usize>,
        priors: &'s mut [F],
    ) -> Option<&'s [F]> {
        if self.plan.has_log_prior { classes.log_priors(tile, priors) } else { None }
    }

    /// What a tile's products are multiplied by: kept for the first classes of the step, computed
    /// again for the others, which in `classes` follow class `first`.
    pub fn factors<'s>(
        &'s self,
        tile: Range<usize>,
        (classes, first): (&Classes<'_, F>, usize),
        factors: &'s mut [F],
    ) -> &'s [F] {
        if let Some(known) = self.workspace.factors.get(tile.clone()) {
            return known;
        }
        let (factors, mut buffer) = (&mut factors[..tile.len()], Vec::new());
        for (j, factor) in (first..).zip(&mut *factors) {
            *factor = classes.factor(self.plan.form.scale, classes.norm(j, &mut buffer));
        }
        factors
    }

    /// The samples of each class from `first` on, for rows in ascending order.
    pub fn targets(&self, first: usize) -> impl FnMut(usize) -> Range<usize> {
        let samples = &self.workspace.samples;
        let before = |class: Option<usize>| class.is_some_and(|class| class < first);
        let mut next = samples.partition_point(|sample| before(sample.class));
        move |row| {
            let start = next;
            while samples.get(next).is_some_and(|sample| sample.class == Some(first + row)) {
                next += 1;
            }
            start..next
        }
    }
}

/// Adds a logit to a log-sum-exp.
fn add_logit<F: Real>(logit: F, max: &mut F, sum: &mut f64) {
    raise_max(logit, max, sum);
    *sum += (logit - *max).exp().widen();
}

/// Makes `logit` the maximum of a log-sum-exp if it is larger.
pub(super) fn raise_max<F: Real>(logit: F, max: &mut F, sum: &mut f64) {
    if logit > *max {
        *sum *= (*max - logit).exp().widen();
        *max = logit;
    }
}
