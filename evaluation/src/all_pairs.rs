use ndarray::ArrayRef2;
use rayon::prelude::*;

use crate::bootstrap::IdentifiedPair;
use crate::error::Error;
use crate::figure::Figure;
use crate::histogram::{BINS, Histogram, bin_of};
use crate::real::Real;
use crate::steps::{Step, Steps, descending, distinct};
use crate::tiles::{COLUMNS, upper_triangle, workers};
use crate::unit::{UnitRows, cosine_error};
use crate::verification::Verification;

/// All pairs of M embeddings, each pair once; pairs of the same identity are genuine.
///
/// The cosines are computed tile by tile, so that memory does not grow with the number of pairs.
///
/// | pairs | scores | figures | bootstrap |
/// |---|---|---|---|
/// | up to [`EXACT_PAIRS`](Self::EXACT_PAIRS) | all kept and sorted | exact, bounds 0 | from the scores |
/// | more | counted in 2¹⁶ bins | with bounds; exact after [`exact`](Self::exact) | [`intervals`](Self::intervals): more passes |
///
/// Every figure is a function of integer counts: it is the same for any number of threads.
///
/// **Shapes**: embeddings (M, D) with any strides, identities (M). The unit rows are copied: M·D
/// numbers.
///
/// ```
/// use margin_softmax_evaluation::AllPairs;
/// use ndarray::array;
///
/// let x = array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 3.0]];
/// let pairs = AllPairs::new(&x, &[7, 7, 9, 9])?.verification()?;
/// assert_eq!((pairs.genuine(), pairs.impostors()), (2, 4));
/// assert_eq!(pairs.auc().value, 1.0);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub struct AllPairs<F> {
    pub(crate) unit: UnitRows<F>,
}

impl Verification {
    /// All pairs of these embeddings: [`AllPairs::verification`].
    ///
    /// # Errors
    /// Those of [`AllPairs::new`] and [`AllPairs::verification`].
    ///
    /// ```
    /// # use margin_softmax_evaluation::Verification;
    /// let x = ndarray::array![[1.0_f32, 0.1], [2.0, 0.0], [0.0, 1.0]];
    /// assert_eq!(Verification::from_embeddings(&x, &[7, 7, 9])?.eer().rate, 0.0);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn from_embeddings<F: Real>(x: &ArrayRef2<F>, identities: &[usize]) -> Result<Self, Error> {
        AllPairs::new(x, identities)?.verification()
    }
}

impl<F: Real> AllPairs<F> {
    /// The largest number of pairs of which every score is kept: those of 2,048 embeddings.
    pub const EXACT_PAIRS: u64 = 1 << 21;

    /// The largest number of scores that [`exact`](Self::exact) keeps, at no more than about 192
    /// bytes each while they are sorted into the others.
    pub const COLLECTED_SCORES: u64 = 1 << 20;

    /// Checks and normalizes the embeddings.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::ZeroEmbedding`].
    pub fn new(x: &ArrayRef2<F>, identities: &[usize]) -> Result<Self, Error> {
        Ok(AllPairs {
            unit: UnitRows::new(["embeddings", "identities", "groups"], x, identities.into())?,
        })
    }

    /// How many pairs there are.
    ///
    /// ```
    /// # use margin_softmax_evaluation::AllPairs;
    /// let x = ndarray::Array2::<f32>::ones((5, 3));
    /// assert_eq!(AllPairs::new(&x, &[0, 0, 1, 1, 1])?.pairs(), 10);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn pairs(&self) -> u64 {
        pairs_of(self.unit.rows.nrows())
    }

    /// Scores all pairs.
    ///
    /// # Errors
    /// [`Error::NoGenuinePair`], [`Error::NoImpostorPair`].
    pub fn verification(&self) -> Result<Verification, Error> {
        self.kinds()?;
        if self.pairs() <= Self::EXACT_PAIRS {
            let pairs = self.identified();
            return Verification::new(pairs).map(|exact| exact.with_score_error(self.error()));
        }
        self.binned()
    }

    /// Scores all pairs into bins, however few there are.
    ///
    /// # Errors
    /// [`Error::NoGenuinePair`], [`Error::NoImpostorPair`].
    ///
    /// ```
    /// # use margin_softmax_evaluation::AllPairs;
    /// # use ndarray::array;
    /// let x = array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 3.0]];
    /// let binned = AllPairs::new(&x, &[0, 0, 1, 1])?.binned()?;
    /// assert_eq!((binned.auc().value, binned.is_exact()), (1.0, false));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn binned(&self) -> Result<Verification, Error> {
        self.kinds()?;
        let mut workers = workers(Histogram::new);
        upper_triangle(self.unit.rows.view(), &mut workers, |histogram, row, first, scores| {
            histogram.count(scores, self.genuine_columns(row, first, scores.len()));
        });
        let mut all = Histogram::new();
        workers.iter().for_each(|histogram| all.add(histogram));
        Ok(Verification::from_steps(Steps::new(all.into_steps())?, self.error()))
    }

    /// Scores all pairs again and splits the bins that these figures rest on into their scores:
    /// their bounds become 0, and their thresholds are scores. Figures that are exact already cost
    /// nothing.
    ///
    /// # Errors
    /// - [`Error::CrowdedBins`] if these bins hold more than
    ///   [`COLLECTED_SCORES`](Self::COLLECTED_SCORES) scores; memory stays bounded.
    /// - [`Error::OtherPairs`] if `counted` is not of these embeddings.
    /// - [`Error::Parameter`], [`Error::TooFewImpostors`] for the FAR of a figure.
    ///
    /// ```
    /// use margin_softmax_evaluation::{AllPairs, Figure};
    /// use ndarray::array;
    ///
    /// let x = array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 3.0]];
    /// let all = AllPairs::new(&x, &[0, 0, 1, 1])?;
    /// let exact = all.exact(&all.binned()?, &[Figure::Eer])?;
    /// assert_eq!(exact.eer(), all.verification()?.eer());
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn exact(&self, counted: &Verification, figures: &[Figure]) -> Result<Verification, Error> {
        let (steps, expected) = (counted.steps(), self.check_counted(counted)?);
        let mut split = vec![false; BINS];
        for figure in figures {
            figure.check(steps)?;
            for index in figure.estimate(steps).1 {
                let step = steps.steps()[index];
                if step.coarse {
                    split[usize::from(bin_of(step.threshold))] = true;
                }
            }
        }
        let in_split = |step: &Step| step.coarse && split[usize::from(bin_of(step.threshold))];
        let held = steps.steps().iter().filter(|step| in_split(step));
        let scores = held.map(|step| step.genuine + step.impostors).sum();
        if scores > Self::COLLECTED_SCORES {
            return Err(Error::CrowdedBins { scores, limit: Self::COLLECTED_SCORES });
        }
        if scores == 0 {
            return Ok(counted.clone());
        }
        let kept = steps.steps().iter().filter(|step| !in_split(step)).copied();
        let mut all: Vec<Step> = kept.chain(self.collect(&split)).collect();
        all.sort_by(|a, b| descending(a.threshold, b.threshold));
        let minimum = steps.minimum_false_accepts();
        let steps = Steps::new(all)?.with_minimum_false_accepts(minimum);
        check_counts(expected, [steps.genuine(), steps.impostors()])?;
        Ok(Verification::from_steps(steps, self.error()))
    }

    /// The numbers of genuine and impostor pairs, refused if others were counted.
    pub(crate) fn check_counted(&self, counted: &Verification) -> Result<[u64; 2], Error> {
        let kinds = self.kinds()?;
        check_counts(kinds, [counted.genuine(), counted.impostors()])?;
        Ok(kinds)
    }

    /// The scores of these bins, one step each.
    fn collect(&self, bins: &[bool]) -> Vec<Step> {
        let mut workers = workers(Vec::new);
        upper_triangle(self.unit.rows.view(), &mut workers, |found, row, first, scores| {
            let genuine = self.genuine_columns(row, first, scores.len());
            for (at, &score) in scores.iter().enumerate() {
                if bins[usize::from(bin_of(score))] {
                    found.push((score, at < genuine));
                }
            }
        });
        let mut found: Vec<(F, bool)> = workers.concat();
        found.par_sort_unstable_by(|a, b| descending(a.0.as_(), b.0.as_()));
        distinct(found.into_iter().map(|(score, genuine)| (score.as_(), genuine)))
    }

    /// Every pair with its score and identities.
    fn identified(&self) -> Vec<IdentifiedPair> {
        let identities = &self.unit.sorted.identities;
        let mut workers = workers(|| Vec::<IdentifiedPair>::with_capacity(COLUMNS));
        upper_triangle(self.unit.rows.view(), &mut workers, |found, row, first, scores| {
            found.extend(scores.iter().zip(&identities[first..]).map(|(score, &other)| {
                IdentifiedPair { score: score.as_(), a: identities[row] as u32, b: other as u32 }
            }));
        });
        workers.concat()
    }

    /// How many of the columns `first..first + len` have the identity of the row. They come first,
    /// for the columns lie beyond the row and rows are sorted by identity.
    fn genuine_columns(&self, row: usize, first: usize, len: usize) -> usize {
        let sorted = &self.unit.sorted;
        let end = sorted.starts[sorted.identities[row] + 1];
        end.saturating_sub(first).min(len)
    }

    /// The numbers of genuine and impostor pairs, refused if one is 0.
    fn kinds(&self) -> Result<[u64; 2], Error> {
        let starts = &self.unit.sorted.starts;
        let genuine = starts.windows(2).map(|ends| pairs_of(ends[1] - ends[0])).sum();
        let pairs = self.pairs();
        match (genuine, pairs - genuine) {
            (0, _) => Err(Error::NoGenuinePair { pairs }),
            (_, 0) => Err(Error::NoImpostorPair { pairs }),
            (genuine, impostors) => Ok([genuine, impostors]),
        }
    }

    fn error(&self) -> f64 {
        cosine_error::<F>(self.unit.rows.ncols())
    }
}

pub(crate) fn check_counts(expected: [u64; 2], actual: [u64; 2]) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::OtherPairs { expected, actual }) }
}

fn pairs_of(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}
