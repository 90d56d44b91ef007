use rayon::prelude::*;

use crate::error::Error;
use crate::estimate::OperatingPoint;
use crate::figures::check_minimum_false_accepts;
use crate::steps::{MINIMUM_FALSE_ACCEPTS, Steps, descending, distinct};
use crate::threshold::Threshold;

/// Pairs in k folds: the threshold of each fold is chosen on all other folds, as in LFW's protocol.
///
/// Thresholds are the distinct scores of the other folds, and one that rejects all.
///
/// ```
/// use margin_softmax_evaluation::KFolds;
///
/// let (scores, genuine) = ([0.9, 0.1, 0.8, 0.2], [true, false, true, false]);
/// let folds = KFolds::new(&scores, &genuine, 2)?;
/// assert_eq!(folds.accuracy()?.accuracy, 0.75);
/// let rates = folds.with_minimum_false_accepts(0.0)?.tar_at_far(0.0)?;
/// // At 0.8, from the second fold, and at 0.9, from the first.
/// assert_eq!((rates.folds[0].tar, rates.folds[1].tar, rates.tar), (1.0, 0.0, 0.5));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
///
/// **Source**: Huang et al., *Labeled Faces in the Wild* (2007), view 2; Schroff, Kalenichenko,
/// Philbin, *FaceNet* (CVPR 2015), section 4, for VAL and FAR.
#[derive(Debug, Clone, PartialEq)]
pub struct KFolds {
    /// In descending order.
    pairs: Vec<Pair>,
    folds: usize,
    minimum_false_accepts: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Pair {
    score: f64,
    genuine: bool,
    fold: usize,
}

/// One fold of [`KFolds::accuracy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fold {
    /// The threshold that is best on the other folds.
    pub threshold: Threshold,
    /// The share of right decisions on this fold.
    pub accuracy: f64,
    /// The pairs of this fold.
    pub pairs: usize,
    /// Those of them that are impostor pairs.
    pub impostors: usize,
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

/// VAL@FAR, the TAR at a FAR, by k folds.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldRates {
    /// The mean of the folds' TAR, which FaceNet's protocol calls VAL.
    pub tar: f64,
    /// The standard error of this mean, `√(Σ (p_i − p̄)² / (k − 1)) / √k`.
    pub standard_error: f64,
    /// The mean of the folds' FAR, which may be above or below the requested one.
    pub far: f64,
    /// The folds: the threshold chosen on the others, and the rates of this fold at it.
    pub folds: Vec<OperatingPoint>,
}

impl KFolds {
    /// Folds that are k consecutive blocks, as LFW lists its pairs; the first `n mod k` blocks have
    /// one pair more.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless 2 ≤ k ≤ number of pairs; those of [`of`](Self::of).
    pub fn new(scores: &[f64], genuine: &[bool], k: usize) -> Result<Self, Error> {
        let valid = k >= 2 && k <= scores.len();
        Error::check_parameter("folds k", k as f64, "in 2..=number of pairs", valid)?;
        let (size, longer) = (scores.len() / k, scores.len() % k);
        let block = |fold| std::iter::repeat_n(fold, size + usize::from(fold < longer));
        KFolds::of(scores, genuine, &(0..k).flat_map(block).collect::<Vec<_>>())
    }

    /// The fold of every pair, numbered from 0.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`]; [`Error::Fold`] if a fold has no
    /// pairs; [`Error::Parameter`] for a single fold or a number that is not below the number of
    /// pairs.
    pub fn of(scores: &[f64], genuine: &[bool], folds: &[usize]) -> Result<Self, Error> {
        Error::check_scores("scores", scores)?;
        Error::check_len("genuine", scores.len(), genuine.len())?;
        Error::check_len("folds", scores.len(), folds.len())?;
        let last = folds.iter().copied().max().unwrap_or(0);
        let valid = last >= 1 && last < scores.len();
        Error::check_parameter("last fold", last as f64, "in 1..number of pairs", valid)?;
        let mut held = vec![false; last + 1];
        folds.iter().for_each(|&fold| held[fold] = true);
        if let Some(fold) = held.iter().position(|held| !held) {
            return Err(Error::Fold { fold, lacks: "pairs" });
        }
        let pairs = scores.iter().zip(genuine).zip(folds);
        let mut pairs: Vec<Pair> =
            pairs.map(|((&score, &genuine), &fold)| Pair { score, genuine, fold }).collect();
        pairs.sort_by(|a, b| descending(a.score, b.score));
        Ok(KFolds { pairs, folds: last + 1, minimum_false_accepts: MINIMUM_FALSE_ACCEPTS })
    }

    /// Sets how many false accepts a FAR must let one expect on the folds that choose a threshold:
    /// [`tar_at_far`](Self::tar_at_far) refuses a FAR with fewer. 10 by default; LFW's 3,000 impostor
    /// pairs leave 2.7 at the usual FAR of 0.001.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is finite and at least 0.
    pub fn with_minimum_false_accepts(self, minimum: f64) -> Result<Self, Error> {
        let minimum_false_accepts = check_minimum_false_accepts(minimum)?;
        Ok(KFolds { minimum_false_accepts, ..self })
    }

    /// The accuracy on each fold, at the threshold with the best accuracy on the others; of equally
    /// good thresholds the highest.
    ///
    /// # Errors
    /// [`Error::Fold`] if the others of a fold lack genuine or impostor pairs.
    pub fn accuracy(&self) -> Result<Folds, Error> {
        let folds = self.each(|fold| {
            let threshold = self.others(fold)?.least_error().0.threshold;
            let pairs = self.of_fold(fold, true).count();
            let right = self.of_fold(fold, true);
            let right = right.filter(|&(score, genuine)| threshold.accepts(score) == genuine);
            let impostors = self.of_fold(fold, true).filter(|&(_, genuine)| !genuine).count();
            let accuracy = right.count() as f64 / pairs as f64;
            Ok(Fold { threshold, accuracy, pairs, impostors })
        })?;
        let (accuracy, standard_error) = mean(folds.iter().map(|fold| fold.accuracy));
        Ok(Folds { accuracy, standard_error, folds })
    }

    /// TAR and FAR on each fold, at the lowest threshold whose FAR on the others is at most `far`;
    /// no interpolation.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless FAR is in [0, 1]; [`Error::Fold`] if a fold or its others lack
    /// genuine or impostor pairs; [`Error::TooFewImpostors`] if the others have fewer than 10 / FAR
    /// impostors, or than [`with_minimum_false_accepts`](Self::with_minimum_false_accepts) requires.
    pub fn tar_at_far(&self, far: f64) -> Result<FoldRates, Error> {
        let folds = self.each(|fold| {
            let others = self.others(fold)?;
            others.check_far(far)?;
            let threshold = others.operating_point(far).0.threshold;
            let lacks = ["genuine pairs", "impostor pairs"];
            Ok(steps(fold, lacks, self.of_fold(fold, true))?.at(threshold))
        })?;
        let (tar, standard_error) = mean(folds.iter().map(|fold| fold.tar));
        let (far, _) = mean(folds.iter().map(|fold| fold.far));
        Ok(FoldRates { tar, standard_error, far, folds })
    }

    /// All folds run, and the first that is refused is reported, for any number of threads.
    fn each<T: Send>(
        &self,
        fold: impl Fn(usize) -> Result<T, Error> + Send + Sync,
    ) -> Result<Vec<T>, Error> {
        let results: Vec<Result<T, Error>> = (0..self.folds).into_par_iter().map(fold).collect();
        results.into_iter().collect()
    }

    /// The pairs inside or outside of a fold.
    fn of_fold(&self, fold: usize, inside: bool) -> impl Iterator<Item = (f64, bool)> {
        let pairs = self.pairs.iter().filter(move |pair| (pair.fold == fold) == inside);
        pairs.map(|pair| (pair.score, pair.genuine))
    }

    /// The pairs that choose the threshold of a fold.
    fn others(&self, fold: usize) -> Result<Steps, Error> {
        let lacks = ["genuine pairs outside of it", "impostor pairs outside of it"];
        let steps = steps(fold, lacks, self.of_fold(fold, false))?;
        Ok(steps.with_minimum_false_accepts(self.minimum_false_accepts))
    }
}

fn steps(
    fold: usize,
    [no_genuine, no_impostors]: [&'static str; 2],
    pairs: impl Iterator<Item = (f64, bool)>,
) -> Result<Steps, Error> {
    Steps::new(distinct(pairs)).map_err(|error| {
        let genuine = matches!(error, Error::NoGenuinePair { .. });
        Error::Fold { fold, lacks: if genuine { no_genuine } else { no_impostors } }
    })
}

/// The mean and its standard error.
fn mean(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let k = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / k;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (k - 1.0) / k).sqrt())
}

/// Accuracy by k folds of consecutive pairs: [`KFolds::new`], [`KFolds::accuracy`].
///
/// # Errors
/// Those of [`KFolds::new`] and [`KFolds::accuracy`].
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
pub fn k_folds(scores: &[f64], genuine: &[bool], k: usize) -> Result<Folds, Error> {
    KFolds::new(scores, genuine, k)?.accuracy()
}

/// [`k_folds`] with the fold of every pair given, numbered from 0: [`KFolds::of`].
///
/// # Errors
/// Those of [`KFolds::of`] and [`KFolds::accuracy`].
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
    KFolds::of(scores, genuine, folds)?.accuracy()
}
