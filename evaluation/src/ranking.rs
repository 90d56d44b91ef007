//! The ranks of all relevant items of each query, without their list of all items.
//!
//! A job is a stripe of queries. Its first pass over the tiles collects the scores of the relevant
//! items, its second counts the others that score at least as high. Both passes read the same tiles,
//! so that equal embeddings have equal scores to the last bit. Items of equal score are ranked
//! irrelevant ones first: the ranks do not depend on any order of the items.

use std::ops::Range;

use ndarray::Array2;

use crate::real::Real;
use crate::scores::Scores;
use crate::tiles::{ROWS, blocks, overlap, run_jobs, workers};

/// Scores of relevant items per job: 4 million, of 12 or 16 bytes with their counts, which bounds its
/// memory where identities are large.
const RELEVANT: usize = 1 << 22;
/// Up to so many relevant items a comparison with each of them, which is vectorized, is faster than
/// a binary search: at 9 it takes half the time, at 64 five sixths, at 128 five quarters (SSE2).
const COMPARED: usize = 64;

/// What the search of one query found among the gallery items that are not excluded.
///
/// R is the number of relevant items, those of the query's identity, and `rank_m` the rank of the
/// m-th of them. A tie counts against the query: an irrelevant item of equal score is ranked first.
///
/// ```
/// use margin_softmax_evaluation::Retrieval;
/// use ndarray::array;
///
/// // The relevant items of the query are at ranks 1 and 3.
/// let found = Retrieval::from_scores(&array![[0.9, 0.7, 0.8, 0.1]], &[5], &[5, 5, 6, 7])?;
/// let query = found.per_query()[0].unwrap();
/// assert_eq!((query.relevant, query.rank, query.r_precision), (2, 1, 0.5));
/// assert_eq!(query.average_precision, (1.0 / 1.0 + 2.0 / 3.0) / 2.0);
/// assert_eq!(query.average_precision_at_r, 0.5);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedQuery {
    /// R, the number of relevant items.
    pub relevant: usize,
    /// The rank of the first relevant item.
    pub rank: usize,
    /// R-precision: the share of relevant items among the first R.
    pub r_precision: f64,
    /// Average precision, `1/R·Σ_m m / rank_m`.
    pub average_precision: f64,
    /// Average precision at R, the same sum over `rank_m ≤ R` alone.
    pub average_precision_at_r: f64,
}

/// The gallery of one query, by place: `excluded` is a part of `identity`.
pub(crate) struct Candidates {
    /// The items of the query's identity.
    pub identity: Range<usize>,
    /// Those of them that are not searched.
    pub excluded: Range<usize>,
}

impl Candidates {
    /// The relevant items: those before and those after the excluded ones.
    fn relevant(&self) -> [Range<usize>; 2] {
        let Range { start, end } = self.identity;
        if self.excluded.is_empty() {
            return [start..end, end..end];
        }
        [start..self.excluded.start, self.excluded.end..end]
    }

    fn count(&self) -> usize {
        self.identity.len() - self.excluded.len()
    }
}

/// Ranks the relevant items of every query; `None` for a query without any.
pub(crate) fn rank<F: Real>(
    scores: &impl Scores<F>,
    gallery: usize,
    queries: &[Candidates],
) -> Vec<Option<RankedQuery>> {
    let most = queries.iter().map(Candidates::count).max().unwrap_or(0);
    let size = (RELEVANT / most.max(1)).clamp(1, ROWS);
    let mut workers = workers(|| (Array2::zeros((0, 0)), Vec::new()));
    run_jobs(queries.len().div_ceil(size), &mut workers, |(buffer, found), job| {
        let rows = job * size..queries.len().min((job + 1) * size);
        found.push((job, stripe(scores, gallery, rows.clone(), &queries[rows], buffer)));
    });
    let mut stripes: Vec<_> = workers.into_iter().flat_map(|(_, found)| found).collect();
    stripes.sort_unstable_by_key(|&(job, _)| job);
    stripes.into_iter().flat_map(|(_, found)| found).collect()
}

fn stripe<F: Real>(
    scores: &impl Scores<F>,
    gallery: usize,
    rows: Range<usize>,
    queries: &[Candidates],
    buffer: &mut Array2<F>,
) -> Vec<Option<RankedQuery>> {
    let mut found: Vec<_> = queries.iter().map(|query| Relevant::new(query.count())).collect();
    for block in blocks(0, gallery) {
        if queries.iter().all(|query| overlap(&query.identity, &block).is_empty()) {
            continue;
        }
        let tile = scores.tile(rows.clone(), block.clone(), buffer);
        for ((found, query), row) in found.iter_mut().zip(queries).zip(tile.rows()) {
            let row = row.to_slice().unwrap_or_default();
            for places in query.relevant() {
                found.scores.extend_from_slice(&row[overlap(&places, &block)]);
            }
        }
    }
    found.iter_mut().for_each(Relevant::sort);
    for block in blocks(0, gallery) {
        let tile = scores.tile(rows.clone(), block.clone(), buffer);
        for ((found, query), row) in found.iter_mut().zip(queries).zip(tile.rows()) {
            let row = row.to_slice().unwrap_or_default();
            let own = overlap(&query.identity, &block);
            found.count(&row[..own.start]);
            found.count(&row[own.end..]);
        }
    }
    found.into_iter().map(Relevant::ranked).collect()
}

/// The relevant items of one query.
struct Relevant<F> {
    /// Their scores, once sorted in ascending order.
    scores: Vec<F>,
    /// Irrelevant items counted so far. Of up to `COMPARED` relevant ones, entry m is the number of
    /// those that score at least as high as relevant item m; otherwise the number of those that
    /// reach the m lowest relevant scores and no more.
    counts: Vec<u64>,
}

impl<F: Real> Relevant<F> {
    fn new(count: usize) -> Self {
        Relevant { scores: Vec::with_capacity(count), counts: vec![0; count + 1] }
    }

    fn sort(&mut self) {
        // All scores are finite.
        self.scores.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    }

    /// Counts irrelevant items.
    fn count(&mut self, others: &[F]) {
        if self.scores.is_empty() {
            return;
        }
        if self.scores.len() > COMPARED {
            for &other in others {
                self.counts[self.scores.partition_point(|&score| score <= other)] += 1;
            }
            return;
        }
        for (&score, count) in self.scores.iter().zip(&mut self.counts) {
            // A tile has few columns: 32 bits hold the count, and twice as many fit a register.
            *count += u64::from(others.iter().map(|&other| u32::from(other >= score)).sum::<u32>());
        }
    }

    fn ranked(mut self) -> Option<RankedQuery> {
        let relevant = self.scores.len();
        if relevant > COMPARED {
            // The items that reach item m are those that reach at least m + 1 of the lowest.
            let mut reached = 0;
            for m in (0..relevant).rev() {
                reached += self.counts[m + 1];
                self.counts[m + 1] = reached;
            }
            self.counts.remove(0);
        }
        let ahead = self.counts[..relevant].iter().rev();
        let ranks = (1..).zip(ahead).map(|(m, &ahead)| (m, m + ahead));
        let (mut first, mut within, mut sum, mut sum_at_r) = (None, 0_usize, 0.0, 0.0);
        for (m, rank) in ranks {
            let precision = m as f64 / rank as f64;
            first = first.or(Some(rank as usize));
            sum += precision;
            if rank <= relevant as u64 {
                within += 1;
                sum_at_r += precision;
            }
        }
        let r = relevant as f64;
        first.map(|rank| RankedQuery {
            relevant,
            rank,
            r_precision: within as f64 / r,
            average_precision: sum / r,
            average_precision_at_r: sum_at_r / r,
        })
    }
}
