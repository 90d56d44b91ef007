//! How well embeddings verify and retrieve characters that the network never saw.

use anyhow::{Context, Result};
use margin_softmax_evaluation::{AllPairs, Bootstrap, Figure, Retrieval};
use ndarray::Array2;

/// Draws of the characters that an interval rests on.
const REPLICATES: usize = 100;

/// A share between 0 and 1, with the ends of its interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub eer: Share,
    /// At a share of false accepts.
    pub tar: Share,
    /// How often the image most similar to one is of its character.
    pub recall: Share,
}

/// Over all pairs of the embeddings and, for the intervals, over drawn characters.
pub fn measure(embeddings: &Array2<f32>, labels: &[usize], far: f64) -> Result<Measured> {
    let all = AllPairs::new(embeddings, labels)?;
    let counted = all.verification()?;
    let figures = [Figure::Eer, Figure::TarAtFar(far)];
    let bootstrap = Bootstrap::new(0).with_replicates(REPLICATES)?;
    let intervals = all.intervals(&counted, &figures, &bootstrap)?;
    let [eer, tar] = [0, 1].map(|figure| {
        let interval = &intervals[figure];
        Share { value: interval.value, low: interval.low, high: interval.high }
    });
    Ok(Measured { eer, tar, recall: recall(embeddings, labels)? })
}

/// Recall@1 with the normal interval of a mean over characters, whose images are no independent
/// draws.
fn recall(embeddings: &Array2<f32>, labels: &[usize]) -> Result<Share> {
    const QUANTILE: f64 = 1.96;
    let found = Retrieval::within(embeddings, labels)?;
    let characters = labels.iter().max().context("no images")? + 1;
    let mut hits = vec![[0.0, 0.0]; characters];
    for (rank, &label) in found.ranks().iter().zip(labels) {
        hits[label][0] += f64::from(u8::from(*rank == Some(1)));
        hits[label][1] += 1.0;
    }
    let value = found.recall_at(1)?;
    let spread = hits.iter().map(|[hits, all]| (hits - all * value).powi(2)).sum::<f64>();
    let half = QUANTILE * spread.sqrt() / labels.len() as f64;
    Ok(Share { value, low: value - half, high: value + half })
}
