//! The first sweep: from every tile's products to the log-sum-exp of each sample's negatives.

use std::ops::Range;

use crate::data::Classes;
use crate::kernel::{self, Mat, MatMut, Real, TileStats};
use crate::math::LogSumExp;
use crate::parallel::{run_jobs, split_off};
use crate::step::{
    Aside, ChunkStats, HardSamples, NearestLogit, Plan, Prepared, Scratch, Workspace, factor_of,
};

/// One chunk of the first sweep.
struct Job<'a, F> {
    classes: Range<usize>,
    /// Storage of its logits until the second sweep, for as many classes as fit.
    stored: &'a mut [F],
    max: &'a mut [F],
    class: &'a mut [usize],
    sum: &'a mut [f64],
    target: &'a mut [F],
    /// The largest logits by their cosines; empty unless some negatives count by another number.
    nearest: &'a mut [F],
    /// Sums of the negatives' logits; empty unless labels are smoothed.
    logits: &'a mut [f64],
    /// The largest logits of each sample (samples × k); empty unless they have a margin.
    top: &'a mut [NearestLogit<F>],
}

/// What both sweeps read.
#[derive(Clone, Copy)]
pub(in crate::head) struct Sweep<'a, F> {
    pub plan: &'a Plan,
    pub prepared: &'a Prepared<F>,
    pub hard: &'a HardSamples<F>,
}

impl<F: Real> Sweep<'_, F> {
    /// Fills `stats`, chunk by chunk, and stores the logits in `stored`, one tile after the other,
    /// for as many classes as fit; `room` is the number of entries per class there.
    pub fn forward(
        &self,
        classes: &Classes<'_, F>,
        stats: &mut ChunkStats<F>,
        (mut stored, room): (&mut [F], usize),
        workers: &mut [Scratch<F>],
    ) {
        let n = self.plan.samples;
        let statistics = stats
            .max
            .chunks_mut(n)
            .zip(stats.class.chunks_mut(n))
            .zip(stats.sum.chunks_mut(n))
            .zip(stats.target.chunks_mut(n));
        let mut logits = &mut stats.logits[..];
        let mut nearest = &mut stats.nearest[..];
        let k = stats.top.len() / (self.plan.chunks * n).max(1);
        let mut top = &mut stats.top[..];
        let jobs = statistics.enumerate().map(|(index, (((max, class), sum), target))| {
            let range = self.plan.chunk(index);
            let stored = split_off(&mut stored, range.len() * room);
            let logits = split_off(&mut logits, n);
            let nearest = split_off(&mut nearest, n);
            let top = split_off(&mut top, n * k);
            Job { classes: range, stored, max, class, sum, target, nearest, logits, top }
        });
        run_jobs(jobs, workers, |scratch, job| self.forward_chunk(classes, scratch, job));
    }

    fn forward_chunk(&self, classes: &Classes<'_, F>, scratch: &mut Scratch<F>, job: Job<'_, F>) {
        let n = self.plan.samples;
        job.max.fill(F::neg_infinity());
        job.class.fill(usize::MAX);
        job.sum.fill(0.0);
        job.nearest.fill(F::neg_infinity());
        job.logits.fill(0.0);
        for tile in self.plan.tiles(job.classes.clone()) {
            let at = tile.start - job.classes.start;
            let z = match job.stored.get_mut(at * n..(at + tile.len()) * n) {
                Some(stored) => stored,
                None => &mut scratch.tile[..tile.len() * n],
            };
            let weights = classes.tile(tile.clone(), &mut scratch.packed);
            self.products(weights, tile.len(), z);
            let factors = self.factors(tile.clone(), weights, &mut scratch.factors);
            let biases = classes.biases(tile.clone(), &mut scratch.biases);
            let (max, best) = (&mut scratch.max[..n], &mut scratch.best[..n]);
            let stats = TileStats { max, row: best, target: job.target };
            let level = self.plan.level;
            let buffers = (&mut scratch.line[..], &mut scratch.nearest[..]);
            self.stats(z, tile.start, (factors, biases), stats, buffers);
            let known = if job.nearest.is_empty() { &*job.max } else { &*job.nearest };
            for i in (0..n).filter(|&i| scratch.max[i] > known[i]) {
                job.class[i] = tile.start + scratch.best[i] as usize;
            }
            let hard = self.hard.tile(self.prepared.form, biases);
            for (nearest, max) in job.nearest.iter_mut().zip(&scratch.max) {
                *nearest = nearest.max(*max);
            }
            if !job.top.is_empty() {
                let logits = (&mut *z, tile.start, biases);
                self.take_nearest(logits, job.top, &mut scratch.aside, &mut scratch.short[..n]);
            }
            if self.prepared.form.needs_maxima_of_others() {
                kernel::tile_counted_max(level, z, hard, &mut scratch.line, &mut scratch.max[..n]);
            }
            for i in 0..n {
                if scratch.max[i] > job.max[i] {
                    job.sum[i] *= (job.max[i] - scratch.max[i]).exp().widen();
                    job.max[i] = scratch.max[i];
                }
                // A sample without a negative so far has none in this tile: e^(−∞ − 0) adds 0.
                scratch.max[i] = job.max[i].max(F::min_value());
            }
            let rows = [&mut scratch.short[..], &mut scratch.line[..]];
            kernel::tile_sums(level, z, hard, &scratch.max, rows, job.sum);
            if !job.logits.is_empty() {
                let rows = [&mut scratch.short[..], &mut scratch.line[..]];
                kernel::tile_logit_sums(level, z, hard, rows, job.logits);
            }
            for (at, logit) in scratch.aside.waiting.drain(..) {
                z[at] = logit;
            }
            for (i, NearestLogit { plain, logit, .. }) in scratch.aside.pushed.drain(..) {
                let counted = hard.map_or(logit, |hard| hard.value(i, plain, logit));
                if counted > job.max[i] {
                    job.sum[i] *= (job.max[i] - counted).exp().widen();
                    job.max[i] = counted;
                }
                job.sum[i] += (counted - job.max[i]).exp().widen();
                if let Some(sum) = job.logits.get_mut(i) {
                    *sum += counted.widen();
                }
            }
        }
    }

    /// Takes the logits of a tile that are among the largest so far out of it, until the others are
    /// summed; those that they push out are summed for themselves.
    fn take_nearest(
        &self,
        (z, first, offsets): (&mut [F], usize, Option<&[F]>),
        top: &mut [NearestLogit<F>],
        aside: &mut Aside<F>,
        threshold: &mut [F],
    ) {
        let n = self.plan.samples;
        let k = top.len() / n;
        for (threshold, entries) in threshold.iter_mut().zip(top.chunks_exact(k)) {
            *threshold = entries[k - 1].plain;
        }
        kernel::tile_nearest(self.plan.level, z, offsets, k, threshold, |j, i, plain, logit| {
            let entries = &mut top[i * k..(i + 1) * k];
            aside.waiting.push((j * n + i, logit));
            let entry = NearestLogit { plain, logit, class: first + j };
            aside.pushed.extend(entry.insert(entries).map(|last| (i, last)));
            entries[k - 1].plain
        });
    }

    /// w_j·(a_i·u_i) of a tile.
    pub fn products(&self, weights: &[F], rows: usize, z: &mut [F]) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let weights = Mat::new(weights, rows, dims);
        kernel::gemm(MatMut::new(z, rows, n, n), false, weights, &self.prepared.packed[0]);
    }

    /// Turns the products of the tile that starts at class `first` into logits, without those of the
    /// samples' own classes, and of each other label the nearest row alone; and finds the maxima.
    pub fn stats(
        &self,
        z: &mut [F],
        first: usize,
        (factors, biases): (&[F], Option<&[F]>),
        stats: TileStats<'_, F>,
        (line, nearest): (&mut [F], &mut [u32]),
    ) {
        let (level, n, rows) = (self.plan.level, self.plan.samples, self.prepared.sub_centers);
        let targets = self.targets(first);
        if rows > 1 {
            let buffers = (&mut line[..n], &mut nearest[..n]);
            let line = (factors, biases);
            kernel::tile_sub_centers(level, z, rows, line, targets, stats, buffers);
        } else {
            kernel::tile_stats(level, z, n, factors, biases, targets, stats);
        }
    }

    /// What a tile's products are multiplied by: the inverse norms, or 1. Kept for the first
    /// classes, computed again for the others.
    pub fn factors<'s>(
        &'s self,
        tile: Range<usize>,
        weights: &[F],
        factors: &'s mut [F],
    ) -> &'s [F] {
        if let Some(known) = self.prepared.factors.get(tile.clone()) {
            return known;
        }
        let factors = &mut factors[..tile.len()];
        for (factor, w) in factors.iter_mut().zip(weights.chunks_exact(self.plan.dims)) {
            *factor = factor_of(self.prepared.form.scale, kernel::norm(w));
        }
        factors
    }

    /// The samples of each class from `first` on, for rows in ascending order.
    pub fn targets(&self, first: usize) -> impl FnMut(usize) -> Range<usize> {
        let samples = &self.prepared.samples;
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

impl<F: Real> Workspace<F> {
    /// The statistics of sample `i` over all chunks: its negatives, and the nearest of them.
    pub fn negatives(&self, plan: &Plan, i: usize) -> (LogSumExp, Nearest<F>) {
        let mut nearest = Nearest { max: F::neg_infinity(), class: None };
        let mut all = LogSumExp::NONE;
        for chunk in 0..plan.chunks {
            let at = chunk * plan.samples + i;
            let (max, sum) = (self.chunks.max[at], self.chunks.sum[at]);
            all = all.merge(LogSumExp::new(max.widen(), sum));
            let largest = self.chunks.nearest.get(at).copied().unwrap_or(max);
            if largest > nearest.max {
                nearest = Nearest { max: largest, class: Some(self.chunks.class[at]) };
            }
        }
        (all, nearest)
    }

    /// The sum of the logits of sample `i`'s negatives; 0 unless labels are smoothed.
    pub fn logit_sum(&self, plan: &Plan, i: usize) -> f64 {
        self.chunks.logits.iter().skip(i).step_by(plan.samples).sum()
    }

    /// The margin-free logit of sample `i` for its own `class`, from the chunk that holds it; −∞
    /// where no chunk does.
    pub fn target_logit(&self, plan: &Plan, i: usize, class: Option<usize>) -> F {
        let holds = |chunk: &usize| class.is_some_and(|class| plan.chunk(*chunk).contains(&class));
        let chunk = (0..plan.chunks).find(holds);
        chunk.map_or(F::neg_infinity(), |chunk| self.chunks.target[chunk * plan.samples + i])
    }
}

/// The class other than its own that a sample is nearest to, and its logit.
#[derive(Clone, Copy)]
pub(crate) struct Nearest<F> {
    pub max: F,
    pub class: Option<usize>,
}
