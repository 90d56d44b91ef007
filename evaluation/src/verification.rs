use ndarray::ArrayRef2;
use rayon::prelude::*;

use crate::bootstrap::{Bootstrap, IdentifiedPair, Interval};
use crate::cost::DetectionCost;
use crate::error::Error;
use crate::estimate::{EqualError, Estimate, MinimumCost, OperatingPoint};
use crate::figure::Figure;
use crate::figures::check_minimum_false_accepts;
use crate::pairs::pair_cosines;
use crate::real::Real;
use crate::roc::Roc;
use crate::steps::{Steps, descending, distinct};
use crate::unit::cosine_error;

/// Verification (1:1): genuine and impostor pairs by their scores. A pair is accepted if and only if
/// its score is at least the threshold; thresholds are the distinct scores, and one above them all.
///
/// | constructor | input |
/// |---|---|
/// | [`from_embeddings`](Self::from_embeddings) | embeddings and identities: all pairs |
/// | [`from_pairs`](Self::from_pairs) | embeddings and the pairs of a protocol |
/// | [`from_scores`](Self::from_scores) | scores, each genuine or not |
/// | [`from_identified_scores`](Self::from_identified_scores) | scores with two identities each |
///
/// The README defines every figure. Pairs of equal scores are accepted together: no figure depends
/// on the order in which they are given.
///
/// ```
/// use margin_softmax_evaluation::Verification;
///
/// let pairs = Verification::from_scores(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false])?;
/// assert_eq!(pairs.auc().value, 0.875);
/// assert_eq!(pairs.eer().rate, 0.25);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    steps: Steps,
    score_error: f64,
    /// Pairs in descending order, where their identities are known and every score is kept.
    identified: Vec<IdentifiedPair>,
}

impl Verification {
    /// The pairs `(i, j, genuine)` of rows of `x`, as a protocol lists them.
    ///
    /// # Errors
    /// Those of [`pair_cosines`]; [`Error::NoGenuinePair`], [`Error::NoImpostorPair`].
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let x = ndarray::array![[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]];
    /// let pairs = Verification::from_pairs(&x, &[(0, 1, true), (0, 2, false)])?;
    /// assert_eq!(pairs.eer().rate, 0.0);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn from_pairs<F: Real>(
        x: &ArrayRef2<F>,
        pairs: &[(usize, usize, bool)],
    ) -> Result<Self, Error> {
        let rows: Vec<_> = pairs.iter().map(|&(i, j, _)| (i, j)).collect();
        let genuine: Vec<_> = pairs.iter().map(|&(.., genuine)| genuine).collect();
        let scores = pair_cosines(x, &rows)?;
        let verification = Verification::from_scores(&scores, &genuine)?;
        Ok(verification.with_score_error(cosine_error::<F>(x.ncols())))
    }

    /// Scores of any kind, the higher the more alike; for distances give their negatives.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::NoGenuinePair`],
    /// [`Error::NoImpostorPair`].
    pub fn from_scores(scores: &[f64], genuine: &[bool]) -> Result<Self, Error> {
        Error::check_scores("scores", scores)?;
        Error::check_len("genuine", scores.len(), genuine.len())?;
        let mut pairs: Vec<_> = scores.iter().copied().zip(genuine.iter().copied()).collect();
        pairs.par_sort_unstable_by(|a, b| descending(a.0, b.0));
        Ok(Verification::from_steps(Steps::new(distinct(pairs.into_iter()))?, 0.0))
    }

    /// Scores with the identities of both sides of each pair; equal ones make a genuine pair. The
    /// bootstrap needs them.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores).
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let pairs = Verification::from_identified_scores(&[0.9, 0.2], &[(3, 3), (3, 8)])?;
    /// assert_eq!((pairs.genuine(), pairs.impostors()), (1, 1));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn from_identified_scores(
        scores: &[f64],
        identities: &[(usize, usize)],
    ) -> Result<Self, Error> {
        Error::check_scores("scores", scores)?;
        Error::check_len("identities", scores.len(), identities.len())?;
        let mut distinct: Vec<usize> = identities.iter().flat_map(|&(a, b)| [a, b]).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let number = |identity| distinct.partition_point(|&other| other < identity) as u32;
        let pairs = scores.iter().zip(identities);
        let pairs = pairs
            .map(|(&score, &(a, b))| IdentifiedPair { score, a: number(a), b: number(b) })
            .collect();
        Verification::new(pairs)
    }

    pub(crate) fn new(mut identified: Vec<IdentifiedPair>) -> Result<Self, Error> {
        identified.par_sort_unstable_by(|a, b| {
            descending(a.score, b.score).then((a.a, a.b).cmp(&(b.a, b.b)))
        });
        let scores = identified.iter().map(|pair| (pair.score, pair.a == pair.b));
        let steps = Steps::new(distinct(scores))?;
        Ok(Verification { steps, score_error: 0.0, identified })
    }

    pub(crate) fn from_steps(steps: Steps, score_error: f64) -> Self {
        Verification { steps, score_error, identified: Vec::new() }
    }

    pub(crate) fn with_score_error(self, score_error: f64) -> Self {
        Verification { score_error, ..self }
    }

    /// Whether the identities of the pairs are known, with every score.
    pub(crate) fn is_identified(&self) -> bool {
        !self.identified.is_empty()
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The number of genuine pairs.
    pub fn genuine(&self) -> u64 {
        self.steps.genuine()
    }

    /// The number of impostor pairs.
    pub fn impostors(&self) -> u64 {
        self.steps.impostors()
    }

    /// Whether every single score was kept, so that all bounds are 0.
    pub fn is_exact(&self) -> bool {
        !self.steps.coarse()
    }

    /// The largest rounding error of a cosine; 0 for given scores. Typical errors are smaller by a
    /// factor of √D. All other bounds are over the cosines as computed.
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let x = ndarray::array![[1.0_f32, 0.1], [2.0, 0.0], [0.0, 1.0]];
    /// assert!(Verification::from_embeddings(&x, &[7, 7, 9])?.score_error() < 1e-6);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn score_error(&self) -> f64 {
        self.score_error
    }

    /// The ROC: a point for each distinct score, or each occupied bin, and the point (0, 0).
    pub fn roc(&self) -> Roc {
        Roc::new(&self.steps)
    }

    /// Area under the ROC: the probability that a genuine pair scores higher than an impostor pair,
    /// a tie counting ½.
    pub fn auc(&self) -> Estimate {
        self.steps.auc()
    }

    /// The equal error rate.
    pub fn eer(&self) -> EqualError {
        self.steps.equal_error().0
    }

    /// Sets how many false accepts a FAR must let one expect: [`tar_at_far`](Self::tar_at_far)
    /// refuses a FAR with `impostors · FAR` below it. 10 by default, finite and at least 0. With 0 no
    /// FAR is refused: at a FAR of 0, TAR is that of the threshold just above all impostors.
    ///
    /// With ten expected false accepts the standard error of the FAR at a threshold is about a third
    /// of it even if all pairs are independent (1/√10); with fewer the threshold is that of a handful
    /// of pairs.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a number out of this range.
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let pairs = Verification::from_scores(&[0.9, 0.3, 0.5], &[true, true, false])?;
    /// assert!(pairs.tar_at_far(0.0).is_err());
    /// let point = pairs.with_minimum_false_accepts(0.0)?.tar_at_far(0.0)?;
    /// assert_eq!((point.tar, point.threshold.cosine(), point.impostors), (0.5, 0.9, 1));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn with_minimum_false_accepts(self, minimum: f64) -> Result<Self, Error> {
        let minimum = check_minimum_false_accepts(minimum)?;
        Ok(Verification { steps: self.steps.with_minimum_false_accepts(minimum), ..self })
    }

    /// TAR at the lowest threshold whose FAR is at most `far`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless FAR is in [0, 1]; [`Error::TooFewImpostors`] for fewer than
    /// 10 / FAR impostor pairs, or than
    /// [`with_minimum_false_accepts`](Self::with_minimum_false_accepts) requires.
    ///
    /// ```
    /// # use margin_softmax_evaluation::{Error, Verification};
    /// let pairs = Verification::from_scores(&[0.9, 0.5], &[true, false])?;
    /// let expected = Error::TooFewImpostors { far: 0.01, impostors: 1, required: 1000 };
    /// assert_eq!(pairs.tar_at_far(0.01).unwrap_err(), expected);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn tar_at_far(&self, far: f64) -> Result<OperatingPoint, Error> {
        self.steps.check_far(far)?;
        Ok(self.steps.operating_point(far).0)
    }

    /// The least normalized detection cost over all thresholds.
    pub fn min_dcf(&self, cost: &DetectionCost) -> MinimumCost {
        self.steps.min_dcf(cost).0
    }

    /// The least share of wrong decisions of a single threshold, chosen on these same pairs:
    /// 1 − accuracy. [`k_folds`](crate::k_folds) chooses it on other pairs.
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let scores = [0.9, 0.7, 0.6, 0.2];
    /// let best = Verification::from_scores(&scores, &[true, false, true, false])?.least_error();
    /// assert_eq!((1.0 - best.cost, best.threshold.cosine()), (0.75, 0.9));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn least_error(&self) -> MinimumCost {
        self.steps.least_error().0
    }

    /// A figure by name.
    ///
    /// # Errors
    /// Those of [`tar_at_far`](Self::tar_at_far).
    pub fn figure(&self, figure: Figure) -> Result<Estimate, Error> {
        figure.check(&self.steps)?;
        Ok(figure.estimate(&self.steps).0)
    }

    /// A confidence interval of a figure, by resampling identities.
    ///
    /// # Errors
    /// Those of [`figure`](Self::figure); [`Error::NoIdentities`] unless identities are known and
    /// every score is kept, for which [`AllPairs::intervals`](crate::AllPairs::intervals) has another
    /// way; [`Error::DegenerateBootstrap`].
    ///
    /// ```
    /// use margin_softmax_evaluation::{Bootstrap, Figure, Verification};
    ///
    /// let x = ndarray::array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 3.0], [1.0, 1.0], [1.0, 0.0]];
    /// let pairs = Verification::from_embeddings(&x, &[0, 0, 1, 1, 2, 2])?;
    /// let interval = pairs.interval(Figure::Auc, &Bootstrap::new(1))?;
    /// assert!(interval.low <= interval.value && interval.value <= interval.high);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn interval(&self, figure: Figure, bootstrap: &Bootstrap) -> Result<Interval, Error> {
        let estimate = self.figure(figure)?;
        if !self.is_identified() {
            return Err(Error::NoIdentities);
        }
        bootstrap.interval(figure, estimate, &self.steps, &self.identified)
    }
}
