//! The k largest logits of every embedding.

use std::ops::Range;

use ndarray::Array2;

use super::step::{Demand, Step};
use super::sweep::Sweep;
use crate::data::IGNORED;
use crate::error::Error;
use crate::kernel::{Real, TileStats};
use crate::loss::MarginLoss;
use crate::parallel::run_jobs;
use crate::step::{Prepared, Ranks, Scratch, StepInput, Workspace};

/// The classes with the largest logits of each embedding, from the largest on; of equal logits the
/// lower class first. From [`Head::top_k`](crate::Head::top_k).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TopK<F> {
    /// The classes (N, k).
    pub classes: Array2<usize>,
    /// Their logits (N, k), without margin.
    pub logits: Array2<F>,
}

/// A logit and its class.
pub(super) type Entry<F> = (F, usize);

/// The largest entries of each sample so far, in order.
struct Largest<F> {
    most: usize,
    entries: Vec<Vec<Entry<F>>>,
}

impl<F: Real> Largest<F> {
    fn new(samples: usize, most: usize) -> Self {
        Largest { most, entries: vec![Vec::with_capacity(most); samples] }
    }

    /// Takes an entry unless there are enough that come before it.
    fn add(&mut self, i: usize, (logit, class): Entry<F>) {
        let entries = &mut self.entries[i];
        let before =
            |&(other, number): &Entry<F>| other > logit || (other == logit && number < class);
        if entries.len() == self.most && entries.last().is_none_or(before) {
            return;
        }
        let at = entries.partition_point(before);
        entries.insert(at, (logit, class));
        entries.truncate(self.most);
    }
}

/// Of each row's `entries` on every rank, which come in order, the first `most` of all.
pub(super) fn of_all_ranks<F: Real>(
    entries: Vec<Vec<Entry<F>>>,
    most: usize,
    ranks: Ranks<'_, F>,
) -> Result<Vec<Vec<Entry<F>>>, Error> {
    let Some(collective) = ranks.0 else { return Ok(entries) };
    let rows = entries.len();
    // The logits of each row, then their classes; −∞ where there are fewer.
    let entry = |at: usize| entries[at / most].get(at % most).copied();
    let logits = (0..rows * most).map(|at| entry(at).map_or(F::neg_infinity(), |e| e.0));
    let classes = (0..rows * most).map(|at| F::from_index(entry(at).map_or(0, |e| e.1 as u64)));
    let numbers: Vec<F> = logits.chain(classes).collect();
    let numbers = collective.all_gather(&numbers)?;
    let mut merged = Largest::new(rows, most);
    for of_rank in numbers.chunks_exact(2 * rows * most) {
        let (logits, classes) = of_rank.split_at(rows * most);
        for (at, (&logit, &class)) in logits.iter().zip(classes).enumerate() {
            if logit > F::neg_infinity() {
                merged.add(at / most, (logit, class.to_index() as usize));
            }
        }
    }
    Ok(merged.entries)
}

/// See [`Head::top_k`](crate::Head::top_k).
pub(super) fn top_k<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    ranks: Ranks<'_, F>,
) -> Result<TopK<F>, Error> {
    let k = input.most;
    let mut step = Step::agreed(loss, input, workspace, ranks, Demand::Nearest)?;
    let valid = (1..=step.classes()).contains(&k);
    Error::check_parameter("k", k as f64, "between 1 and the number of classes", valid)?;
    let rows = input.embeddings.nrows();
    let mut all = Largest::new(rows, k);
    for part in step.largest_of_chunks(input, k) {
        for (sample, entries) in step.workspace.prepared.samples.iter().zip(part.entries) {
            entries.into_iter().for_each(|entry| all.add(sample.row, entry));
        }
    }
    let mut merged = of_all_ranks(all.entries, k, ranks)?;
    // Their order is that of the products.
    let Prepared { form, samples, .. } = &step.workspace.prepared;
    for sample in samples {
        let [scale, factor] = [form.row_scale(sample.norm), form.product_scale::<F>(sample.norm)];
        if scale < factor {
            for (logit, _) in &mut merged[sample.row] {
                *logit = F::narrow(logit.widen() / factor * scale);
            }
        }
    }
    let at = |(row, at): (usize, usize)| merged[row].get(at).copied();
    Ok(TopK {
        classes: Array2::from_shape_fn((rows, k), |place| at(place).map_or(IGNORED, |e| e.1)),
        logits: Array2::from_shape_fn((rows, k), |place| at(place).map_or(F::nan(), |e| e.0)),
    })
}

impl<F: Real> Step<'_, F> {
    /// The largest entries of each chunk, for the samples in their order.
    fn largest_of_chunks(&mut self, input: &StepInput<'_, F>, k: usize) -> Vec<Largest<F>> {
        let n = self.plan.samples;
        if n == 0 {
            return Vec::new();
        }
        let mut chunks: Vec<_> = (0..self.plan.chunks).map(|_| Largest::new(n, k)).collect();
        let Workspace { prepared, scratch, .. } = &mut *self.workspace;
        let sweep = Sweep { plan: &self.plan, prepared, x: input.embeddings };
        let jobs =
            chunks.iter_mut().enumerate().map(|(index, part)| (self.plan.chunk(index), part));
        run_jobs(jobs, &mut scratch[..self.workers], |scratch, (chunk, part)| {
            for tile in self.plan.tiles(chunk) {
                sweep.largest_of_tile(input, scratch, tile, part);
            }
        });
        chunks
    }
}

impl<F: Real> Sweep<'_, F> {
    fn largest_of_tile(
        &self,
        input: &StepInput<'_, F>,
        scratch: &mut Scratch<F>,
        tile: Range<usize>,
        part: &mut Largest<F>,
    ) {
        let (n, classes) = (self.plan.samples, &input.classes);
        let weights = classes.tile(tile.clone(), &mut scratch.packed);
        let z = &mut scratch.tile[..tile.len() * n];
        self.products(classes, tile.clone(), weights, z);
        let factors = self.factors(tile.clone(), weights, &mut scratch.factors);
        let biases = classes.biases(tile.clone(), &mut scratch.biases);
        let (max, row) = (&mut scratch.max[..n], &mut scratch.best[..n]);
        let stats = TileStats { max, row, target: &mut scratch.short };
        let buffers = (&mut scratch.line[..], &mut scratch.nearest[..]);
        self.stats(z, tile.start, (factors, biases), stats, buffers);
        for (j, logits) in tile.zip(z.chunks_exact(n)) {
            let class = classes.label_of(j);
            for (i, &logit) in logits.iter().enumerate() {
                // Rows of a class that are not the nearest are −∞.
                if logit > F::neg_infinity() {
                    part.add(i, (logit, class));
                }
            }
        }
    }
}
