use rayon::prelude::*;

use crate::error::Error;
use crate::steps::{Steps, descending, distinct};
use crate::threshold::Threshold;

/// One fold of [`k_folds`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fold {
    /// The threshold that is best on the other folds.
    pub threshold: Threshold,
    /// The share of right decisions on this fold.
    pub accuracy: f64,
    /// The pairs of this fold.
    pub pairs: usize,
}

/// The accuracy by k folds.
#[derive(Debug, Clone, PartialEq)]
pub struct Folds {
    /// The mean of the folds' accuracies.
    pub accuracy: f64,
    /// The standard error of this mean, `√(Σ (p_i − p̄)² / (k − 1)) / √k`.
    pub standard_error: f64,
    /// The folds.
    pub folds: Vec<Fold>,
}

/// Accuracy by k folds as in LFW's protocol: the threshold of a fold is the one with the best
/// accuracy on all other folds. The folds are k consecutive blocks, as LFW lists its pairs; the
/// first `n mod k` blocks have one pair more.
///
/// Thresholds are the distinct scores of the other folds, and one that rejects all. Of equally good
/// thresholds the highest is taken.
///
/// # Errors
/// [`Error::Parameter`] unless 2 ≤ k ≤ number of pairs; those of
/// [`k_folds_of`].
///
/// ```
/// use margin_softmax_evaluation::k_folds;
///
/// let scores = [0.9, 0.1, 0.8, 0.2];
/// let result = k_folds(&scores, &[true, false, true, false], 2)?;
/// assert_eq!(result.folds[0].threshold.cosine(), 0.8);
/// // At the threshold 0.9 of the first fold the genuine pair at 0.8 of the second is rejected.
/// assert_eq!((result.folds[0].accuracy, result.folds[1].accuracy), (1.0, 0.5));
/// assert_eq!((result.accuracy, result.standard_error), (0.75, 0.25));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
///
/// **Source**: Huang et al., *Labeled Faces in the Wild* (2007), view 2.
pub fn k_folds(scores: &[f64], genuine: &[bool], k: usize) -> Result<Folds, Error> {
    let valid = k >= 2 && k <= scores.len();
    Error::check_parameter("folds k", k as f64, "in 2..=number of pairs", valid)?;
    let (size, longer) = (scores.len() / k, scores.len() % k);
    let block = |fold| std::iter::repeat_n(fold, size + usize::from(fold < longer));
    let folds: Vec<usize> = (0..k).flat_map(block).collect();
    k_folds_of(scores, genuine, &folds)
}

/// [`k_folds`] with the fold of every pair given, numbered from 0.
///
/// # Errors
/// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`]; [`Error::Fold`] if a fold has no pairs
/// or the others lack genuine or impostor pairs; [`Error::Parameter`] for a single fold or a number
/// that is not below the number of pairs.
///
/// ```
/// use margin_softmax_evaluation::{k_folds, k_folds_of};
///
/// let (scores, genuine) = ([0.9, 0.1, 0.8, 0.2], [true, false, true, false]);
/// let given = k_folds_of(&scores, &genuine, &[0, 0, 1, 1])?;
/// assert_eq!(given, k_folds(&scores, &genuine, 2)?);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub fn k_folds_of(scores: &[f64], genuine: &[bool], folds: &[usize]) -> Result<Folds, Error> {
    Error::check_scores("scores", scores)?;
    Error::check_len("genuine", scores.len(), genuine.len())?;
    Error::check_len("folds", scores.len(), folds.len())?;
    let last = folds.iter().copied().max().unwrap_or(0);
    let valid = last >= 1 && last < scores.len();
    Error::check_parameter("last fold", last as f64, "in 1..number of pairs", valid)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| descending(scores[a], scores[b]));
    let fold = |fold: usize| {
        let pairs = |inside: bool| {
            let chosen = order.iter().filter(move |&&pair| (folds[pair] == fold) == inside);
            chosen.map(|&pair| (scores[pair], genuine[pair]))
        };
        let threshold = best_threshold(fold, pairs(false))?;
        let count = pairs(true).count();
        if count == 0 {
            return Err(Error::Fold { fold, lacks: "pairs" });
        }
        let right = pairs(true).filter(|&(score, genuine)| threshold.accepts(score) == genuine);
        Ok(Fold { threshold, accuracy: right.count() as f64 / count as f64, pairs: count })
    };
    // All folds run, and the first that is refused is reported, for any number of threads.
    let results: Vec<Result<Fold, Error>> = (0..=last).into_par_iter().map(fold).collect();
    results.into_iter().collect::<Result<_, _>>().map(summary)
}

fn best_threshold(
    fold: usize,
    others: impl Iterator<Item = (f64, bool)>,
) -> Result<Threshold, Error> {
    let steps = Steps::new(distinct(others)).map_err(|error| {
        let genuine = matches!(error, Error::NoGenuinePair { .. });
        let lacks =
            if genuine { "genuine pairs outside of it" } else { "impostor pairs outside of it" };
        Error::Fold { fold, lacks }
    })?;
    Ok(steps.least_error().0.threshold)
}

fn summary(folds: Vec<Fold>) -> Folds {
    let k = folds.len() as f64;
    let accuracy = folds.iter().map(|fold| fold.accuracy).sum::<f64>() / k;
    let squares: f64 = folds.iter().map(|fold| (fold.accuracy - accuracy).powi(2)).sum();
    Folds { accuracy, standard_error: (squares / (k - 1.0) / k).sqrt(), folds }
}
