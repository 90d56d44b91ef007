//! The k largest logits of every embedding.

use std::cmp::Ordering;

use ndarray::Array2;

use super::step::{Demand, Step};
use crate::data::IGNORED;
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::step::{Ranks, StepInput, Workspace};

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
    let mut all = vec![Vec::new(); rows];
    for of_rank in numbers.chunks_exact(2 * rows * most) {
        let (logits, classes) = of_rank.split_at(rows * most);
        for (at, (&logit, &class)) in logits.iter().zip(classes).enumerate() {
            if logit > F::neg_infinity() {
                all[at / most].push((logit, class.to_index() as usize));
            }
        }
    }
    all.iter_mut().for_each(|entries| keep_first(entries, most));
    Ok(all)
}

/// Keeps the first `most` entries, by their logits and then by their classes.
fn keep_first<F: Real>(entries: &mut Vec<Entry<F>>, most: usize) {
    entries.sort_by(|(logit, class), (other, number)| {
        let by_logit = other.partial_cmp(logit).unwrap_or(Ordering::Equal);
        by_logit.then(class.cmp(number))
    });
    entries.truncate(most);
}

/// The `k` nearest classes of every embedding, without margin: a first sweep whose samples have no
/// class of their own. Without `k` the nearest alone, of which a sweep knows in any case.
pub(super) fn largest<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    ranks: Ranks<'_, F>,
    k: Option<usize>,
) -> Result<TopK<F>, Error> {
    let mut step = Step::agreed(loss, input, workspace, ranks, Demand::Nearest)?;
    let valid = k.is_none_or(|k| (1..=step.classes()).contains(&k));
    let k = k.unwrap_or(1);
    Error::check_parameter("k", k as f64, "between 1 and the number of classes", valid)?;
    step.first_sweep(input, &mut []);
    let rows = input.embeddings.nrows();
    let mut entries = vec![Vec::new(); rows];
    let (form, Workspace { samples, chunks, .. }) = (step.plan.form, &*step.workspace);
    for (i, sample) in samples.iter().enumerate() {
        let all = chunks.iter().flat_map(|chunk| chunk.top_of(i)).filter(|entry| entry.is_some());
        let all = all.map(|entry| (entry.logit, entry.class));
        let nearest = step.workspace.nearest_negative(i).filter(|_| input.most == 0);
        let all = all.chain(nearest.map(|(class, logit)| (logit, class)));
        let entries = &mut entries[sample.row];
        entries.extend(all.map(|(logit, class)| (logit, input.classes.label_of(class))));
        keep_first(entries, k);
    }
    let mut merged = of_all_ranks(entries, k, ranks)?;
    // Their order is that of the products.
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
