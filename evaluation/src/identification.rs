use ndarray::ArrayRef2;
use rayon::prelude::*;

use crate::error::Error;
use crate::estimate::OperatingPoint;
use crate::figures::check_minimum_false_accepts;
use crate::labels::{Labels, Sorted};
use crate::real::Real;
use crate::retrieval::cumulative;
use crate::roc::Roc;
use crate::scores::{Cosines, Given, check_matrix};
use crate::search::{Search, search, search_within};
use crate::steps::{MINIMUM_FALSE_ACCEPTS, Steps, descending, distinct};
use crate::unit::{UnitRows, check_not_gallery, unit_rows};

/// Identification (1:N): each probe against all identities of a gallery.
///
/// | constructor | input |
/// |---|---|
/// | [`new`](Self::new) | embeddings of a gallery and of probes |
/// | [`within`](Self::within) | embeddings of one set: each is a probe against all others |
/// | [`from_scores`](Self::from_scores) | scores of probes with a gallery |
/// | [`within_scores`](Self::within_scores) | scores of one set with itself |
///
/// The score of an identity is the highest score of its gallery items with the probe, their cosine
/// where embeddings are given. A probe whose identity is in the gallery is known; that identity is
/// its mate. [`Retrieval`](crate::Retrieval) ranks items instead of identities.
///
/// ```text
/// rank = 1 + number of other identities whose score is at least that of the mate
/// ```
///
/// A tie counts against the probe.
///
/// **Shapes**: gallery (G, D), its identities (G), probes (P, D), their identities (P). The G × P
/// cosines are not stored: memory is that of the unit rows and of one score per gallery identity for
/// up to 128 probes per thread.
///
/// ```
/// use margin_softmax_evaluation::Identification;
/// use ndarray::array;
///
/// let gallery = array![[1.0, 0.0], [0.0, 1.0]];
/// let probes = array![[0.9, 0.1], [0.8, 0.7], [0.5, 0.4]];
/// // The third probe is unknown.
/// let search = Identification::new(&gallery, &[1, 2], &probes, &[1, 2, 5])?;
/// assert_eq!((search.known(), search.unknown()), (2, 1));
/// assert_eq!(search.cmc(2)?, [0.5, 1.0]);
/// assert_eq!(search.ranks(), [Some(1), Some(2), None]);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Identification {
    identities: usize,
    /// In the order of the probes.
    searches: Vec<Search>,
    copies: usize,
    minimum_false_accepts: f64,
}

impl Identification {
    /// Searches the gallery for each probe.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::ZeroEmbedding`];
    /// [`Error::SameSet`] if the probes are the gallery, so that each would find itself.
    pub fn new<F: Real>(
        gallery: &ArrayRef2<F>,
        gallery_identities: &[usize],
        probes: &ArrayRef2<F>,
        probe_identities: &[usize],
    ) -> Result<Self, Error> {
        Error::check_not_empty("probes", probes.shape())?;
        Error::check_len("probe identities", probes.nrows(), probe_identities.len())?;
        Error::check_columns("probes", probes.dim(), gallery.ncols())?;
        let names = ["gallery", "gallery identities", "gallery groups"];
        let found = UnitRows::new(names, gallery, gallery_identities.into())?;
        let order: Vec<usize> = (0..probes.nrows()).collect();
        let rows = unit_rows("probes", probes, &order)?;
        let enrolled = (gallery, gallery_identities);
        check_not_gallery("probes", (probes, probe_identities), enrolled)?;
        let scores = Cosines { queries: rows.view(), gallery: found.rows.view() };
        let searches = search(&scores, &found.sorted, probe_identities, false);
        let is_copy = |&probe: &usize| {
            let mut mates = found.sorted.identity(probe_identities[probe]);
            mates.any(|place| found.rows.row(place) == rows.row(probe))
        };
        let copies = order.into_par_iter().filter(is_copy).count();
        Ok(Identification { copies, ..Identification::of(searches, &found.sorted) })
    }

    /// Searches one set for each of its embeddings, without the embedding itself. One whose identity
    /// has no other embedding is unknown.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::ZeroEmbedding`].
    ///
    /// ```
    /// use margin_softmax_evaluation::{Error, Identification};
    /// use ndarray::array;
    ///
    /// let (x, identities) = (array![[1.0, 0.0], [0.3, 1.0], [0.9, 0.1]], [1, 1, 2]);
    /// let search = Identification::within(&x, &identities)?;
    /// assert_eq!((search.rank(1)?, search.known(), search.unknown()), (0.0, 2, 1));
    /// // As probes and gallery, each embedding would find itself.
    /// let refused = Identification::new(&x, &identities, &x, &identities).unwrap_err();
    /// assert_eq!(refused, Error::SameSet { argument: "probes", rows: 3 });
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn within<F: Real>(x: &ArrayRef2<F>, identities: &[usize]) -> Result<Self, Error> {
        let names = ["embeddings", "identities", "groups"];
        let UnitRows { rows, sorted } = UnitRows::new(names, x, identities.into())?;
        let scores = Cosines { queries: rows.view(), gallery: rows.view() };
        Ok(Identification::of(search_within(&scores, &sorted), &sorted))
    }

    /// Searches by the scores (probes, gallery); identities are in the order of these axes.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`].
    ///
    /// ```
    /// # use margin_softmax_evaluation::Identification;
    /// # use ndarray::array;
    /// let scores = array![[12.0, 3.5, -2.0], [4.0, 4.0, 1.0]];
    /// let search = Identification::from_scores(&scores, &[1, 2], &[1, 2, 2])?;
    /// assert_eq!(search.ranks(), [Some(1), Some(2)]);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn from_scores<F: Real>(
        scores: &ArrayRef2<F>,
        probe_identities: &[usize],
        gallery_identities: &[usize],
    ) -> Result<Self, Error> {
        Error::check_len("probe identities", scores.nrows(), probe_identities.len())?;
        Error::check_len("gallery identities", scores.ncols(), gallery_identities.len())?;
        check_matrix(scores, |_, _| true)?;
        let found = Labels::new(gallery_identities).sorted();
        let rows: Vec<usize> = (0..scores.nrows()).collect();
        let scores = Given { scores: scores.view(), rows: &rows, columns: &found.order };
        Ok(Identification::of(search(&scores, &found, probe_identities, false), &found))
    }

    /// Searches by the scores of one set with itself, row i those of item i as the probe. Scores of
    /// an item with itself are not read.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Shape`] for a matrix that is not square, and for identities;
    /// [`Error::NonFinite`] for a score that is read.
    pub fn within_scores<F: Real>(
        scores: &ArrayRef2<F>,
        identities: &[usize],
    ) -> Result<Self, Error> {
        Error::check_columns("scores", scores.dim(), scores.nrows())?;
        Error::check_len("identities", scores.nrows(), identities.len())?;
        check_matrix(scores, |row, column| row != column)?;
        let sorted = Labels::new(identities).sorted();
        let order = &sorted.order;
        let scores = Given { scores: scores.view(), rows: order, columns: order };
        Ok(Identification::of(search_within(&scores, &sorted), &sorted))
    }

    fn of(searches: Vec<Search>, gallery: &Sorted) -> Self {
        Identification {
            identities: gallery.names.len(),
            searches,
            copies: 0,
            minimum_false_accepts: MINIMUM_FALSE_ACCEPTS,
        }
    }

    /// Sets how many false accepts a FAR must let one expect: [`dir_at_far`](Self::dir_at_far)
    /// refuses a FAR with `unknown · FAR` below it. 10 by default; see
    /// [`Verification::with_minimum_false_accepts`](crate::Verification::with_minimum_false_accepts).
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is finite and at least 0.
    pub fn with_minimum_false_accepts(self, minimum: f64) -> Result<Self, Error> {
        let minimum_false_accepts = check_minimum_false_accepts(minimum)?;
        Ok(Identification { minimum_false_accepts, ..self })
    }

    /// The number of identities in the gallery.
    pub fn identities(&self) -> usize {
        self.identities
    }

    /// The number of probes with a mate in the gallery.
    pub fn known(&self) -> usize {
        self.mates().count()
    }

    /// The number of probes without a mate in the gallery.
    pub fn unknown(&self) -> usize {
        self.searches.len() - self.known()
    }

    /// The number of probes whose direction is that of one of their mate's gallery embeddings, to the
    /// last bit: images that are on both sides make ranks too good. 0 for given scores and for one
    /// set.
    ///
    /// ```
    /// # use margin_softmax_evaluation::Identification;
    /// # use ndarray::array;
    /// let gallery = array![[1.0, 0.0], [0.0, 1.0]];
    /// let probes = array![[0.9, 0.1], [0.0, 1.0]];
    /// assert_eq!(Identification::new(&gallery, &[1, 2], &probes, &[1, 2])?.copies(), 1);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The rank of each probe's mate, in the order of the probes; `None` for an unknown probe.
    pub fn ranks(&self) -> Vec<Option<usize>> {
        let rank = |search: &Search| match *search {
            Search::Known(rank, _) => Some(rank),
            Search::Unknown(_) => None,
        };
        self.searches.iter().map(rank).collect()
    }

    /// The rank-k rate: the share of known probes of rank at most k.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless k is in 1..=identities; [`Error::NoMate`].
    ///
    /// ```
    /// # use margin_softmax_evaluation::Identification;
    /// # use ndarray::array;
    /// let gallery = array![[1.0, 0.0], [1.0, 0.0]]; // a tie
    /// let search = Identification::new(&gallery, &[1, 2], &array![[1.0, 0.2]], &[1])?;
    /// assert_eq!((search.rank(1)?, search.rank(2)?), (0.0, 1.0));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn rank(&self, k: usize) -> Result<f64, Error> {
        self.check_rank(k)?;
        let within = self.mates().filter(|&(rank, _)| rank <= k).count();
        Ok(within as f64 / self.known() as f64)
    }

    /// The cumulative match characteristic: the rank-k rates for k = 1, …, `max`.
    ///
    /// # Errors
    /// Those of [`rank`](Self::rank).
    pub fn cmc(&self, max: usize) -> Result<Vec<f64>, Error> {
        self.check_rank(max)?;
        Ok(cumulative(self.mates().map(|(rank, _)| rank), max, self.known()))
    }

    /// The detection and identification rate at a FAR: the share of known probes of rank 1 whose
    /// mate scores at least t, at the lowest threshold t for which at most this share of unknown
    /// probes has any score of at least t.
    ///
    /// In the result `tar` is the rate, `genuine` the number of known probes, and `impostors` that
    /// of unknown ones. Thresholds are the distinct mate scores of rank 1 and the highest scores of
    /// unknown probes.
    ///
    /// # Errors
    /// [`Error::NoMate`]; [`Error::Parameter`] unless FAR is in [0, 1]; [`Error::TooFewImpostors`]
    /// for fewer than 10 / FAR unknown probes, or than
    /// [`with_minimum_false_accepts`](Self::with_minimum_false_accepts) requires.
    ///
    /// ```
    /// # use margin_softmax_evaluation::{Error, Identification};
    /// # use ndarray::array;
    /// let gallery = array![[1.0, 0.0], [0.0, 1.0]];
    /// let search = Identification::new(&gallery, &[1, 2], &array![[1.0, 0.2]], &[1])?;
    /// let refused = search.dir_at_far(1.0).unwrap_err();
    /// assert_eq!(refused, Error::TooFewImpostors { far: 1.0, impostors: 0, required: 10 });
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    ///
    /// **Source**: Grother, Ngan, *Face Recognition Vendor Test* (NIST IR 8009), open set.
    pub fn dir_at_far(&self, far: f64) -> Result<OperatingPoint, Error> {
        let steps = self.steps()?;
        steps.check_far(far)?;
        Ok(steps.operating_point(far).0)
    }

    /// The ROC of the open set: DIR against FAR, at each threshold of
    /// [`dir_at_far`](Self::dir_at_far). In its points `tar` is the DIR, and `frr`, 1 − DIR, the
    /// false negative identification rate; its last point has FAR = 1 and DIR = the rank-1 rate.
    ///
    /// # Errors
    /// [`Error::NoMate`], [`Error::NoUnknownProbe`].
    ///
    /// ```
    /// use margin_softmax_evaluation::Identification;
    /// use ndarray::array;
    ///
    /// // Known probes of rank 1, with 0.9, and of rank 2; an unknown one with 0.6.
    /// let scores = array![[0.9, 0.1], [0.7, 0.5], [0.2, 0.6]];
    /// let roc = Identification::from_scores(&scores, &[1, 2, 3], &[1, 2])?.roc()?;
    /// let curve: Vec<_> = roc.points().iter().map(|point| (point.far, point.tar)).collect();
    /// assert_eq!(curve, [(0.0, 0.0), (0.0, 0.5), (1.0, 0.5)]);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn roc(&self) -> Result<Roc, Error> {
        let steps = self.steps()?;
        if steps.impostors() == 0 {
            return Err(Error::NoUnknownProbe { probes: self.searches.len() });
        }
        Ok(Roc::new(&steps))
    }

    /// Known probes of rank 1 and unknown probes, by score.
    fn steps(&self) -> Result<Steps, Error> {
        self.check_mates()?;
        let score = |search: &Search| match *search {
            Search::Known(1, score) => Some((score, true)),
            Search::Known(..) => None,
            Search::Unknown(score) => Some((score, false)),
        };
        let mut scores: Vec<_> = self.searches.iter().filter_map(score).collect();
        scores.sort_by(|a, b| descending(a.0, b.0));
        let steps = Steps::of_searches(distinct(scores.into_iter()), self.known() as u64);
        Ok(steps.with_minimum_false_accepts(self.minimum_false_accepts))
    }

    /// Rank and score of the mate of each known probe.
    fn mates(&self) -> impl Iterator<Item = (usize, f64)> {
        self.searches.iter().filter_map(|search| match *search {
            Search::Known(rank, score) => Some((rank, score)),
            Search::Unknown(_) => None,
        })
    }

    fn check_rank(&self, k: usize) -> Result<(), Error> {
        let valid = k >= 1 && k <= self.identities;
        Error::check_parameter("rank k", k as f64, "in 1..=gallery identities", valid)?;
        self.check_mates()
    }

    fn check_mates(&self) -> Result<(), Error> {
        if self.known() == 0 {
            return Err(Error::NoMate { probes: self.searches.len() });
        }
        Ok(())
    }
}
