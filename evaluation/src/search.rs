//! Each probe against all identities of a gallery.

use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::*;

use crate::labels::Sorted;
use crate::real::Real;
use crate::scores::Scores;
use crate::tiles::{blocks, overlap};

/// Probes per job, where the gallery has few identities.
const PROBES: usize = 128;
/// Scores per job: 16 million, which bounds its memory where the gallery has many identities.
const SCORES: usize = 1 << 24;

/// What the search of one probe found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Search {
    /// Rank and score of the mate.
    Known(usize, f64),
    /// The highest score of any identity.
    Unknown(f64),
}

/// Searches the gallery for each probe. `within`: probe and gallery item of the same place are the
/// same item, which is excluded.
pub(crate) fn search<F: Real>(
    scores: &impl Scores<F>,
    gallery: &Sorted,
    wanted: &[usize],
    within: bool,
) -> Vec<Search> {
    let size = (SCORES / gallery.names.len()).clamp(1, PROBES);
    let jobs: Vec<_> = wanted.chunks(size).enumerate().collect();
    let searches = jobs.into_par_iter().flat_map_iter(|(job, wanted)| {
        let start = job * size;
        let best = identity_scores(scores, gallery, start..start + wanted.len(), within);
        let mates = wanted.iter().map(|wanted| gallery.names.binary_search(wanted).ok());
        let rows = best.outer_iter().zip(mates);
        rows.map(|(row, mate)| found(row.to_slice().unwrap_or_default(), mate)).collect::<Vec<_>>()
    });
    searches.collect()
}

/// Searches a gallery for each of its own items, in the order of its rows.
pub(crate) fn search_within<F: Real>(scores: &impl Scores<F>, gallery: &Sorted) -> Vec<Search> {
    let wanted: Vec<usize> =
        gallery.identities.iter().map(|&number| gallery.names[number]).collect();
    let by_place = search(scores, gallery, &wanted, true);
    let mut searches = by_place.clone();
    for (&row, found) in gallery.order.iter().zip(by_place) {
        searches[row] = found;
    }
    searches
}

/// The score of every identity for these probes; −∞ for an identity without an item besides the
/// probe itself.
fn identity_scores<F: Real>(
    scores: &impl Scores<F>,
    gallery: &Sorted,
    probes: Range<usize>,
    within: bool,
) -> Array2<F> {
    let mut best = Array2::from_elem((probes.len(), gallery.names.len()), F::neg_infinity());
    let (n, mut buffer) = (gallery.order.len(), Array2::zeros((0, 0)));
    for block in blocks(0, n) {
        let identities = &gallery.identities[block.clone()];
        let tile = scores.tile(probes.clone(), block.clone(), &mut buffer);
        for ((probe, mut best), row) in probes.clone().zip(best.outer_iter_mut()).zip(tile.rows()) {
            let row = row.to_slice().unwrap_or_default();
            let others = if within { [0..probe, probe + 1..n] } else { [0..n, n..n] };
            for others in others.map(|others| overlap(&others, &block)) {
                for (&score, &identity) in row[others.clone()].iter().zip(&identities[others]) {
                    best[identity] = best[identity].max(score);
                }
            }
        }
    }
    best
}

/// What the scores of all identities say of one probe.
fn found<F: Real>(scores: &[F], mate: Option<usize>) -> Search {
    match mate.filter(|&mate| scores[mate] > F::neg_infinity()) {
        // The mate itself is one of those that score at least as high: it is the 1 of the rank.
        Some(mate) => {
            let rank = scores.iter().filter(|&&score| score >= scores[mate]).count();
            Search::Known(rank, scores[mate].as_())
        }
        None => Search::Unknown(scores.iter().fold(F::neg_infinity(), |a, &b| a.max(b)).as_()),
    }
}
