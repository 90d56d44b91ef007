use ndarray::ArrayRef2;

use crate::error::Error;
use crate::labels::{Labels, Sorted};
use crate::ranking::{Candidates, RankedQuery, rank};
use crate::real::Real;
use crate::scores::{Cosines, Given, Scores, check_matrix};
use crate::unit::{UnitRows, check_not_gallery};

const QUERIES: [&str; 3] = ["queries", "query identities", "query groups"];
const GALLERY: [&str; 3] = ["gallery", "gallery identities", "gallery groups"];
const ITEMS: [&str; 3] = ["embeddings", "identities", "groups"];

/// Retrieval and re-identification: each query against the items of a gallery, which are ranked by
/// their scores. Items of the query's identity are relevant.
///
/// | constructor | input | excluded from the search of a query |
/// |---|---|---|
/// | [`within`](Self::within) | embeddings of one set | the item itself |
/// | [`new`](Self::new) | embeddings of a gallery and of queries | none |
/// | [`within_scores`](Self::within_scores) | scores of one set with itself | the item itself |
/// | [`from_scores`](Self::from_scores) | scores of queries with a gallery | none |
///
/// [`Labels::with_groups`] also excludes the items that have both the identity and the group of the
/// query: the camera rule of re-identification. Items of other identities are always searched.
/// Scores are cosines, or any others, the higher the more alike: those of re-ranking, AS-norm, PLDA.
///
/// ```text
/// R       number of relevant items of a query that are not excluded
/// rank_m  rank of the m-th relevant item, m = 1, …, R
///
/// recall@k = CMC(k) = share of queries with rank_1 ≤ k          precision@1 = recall@1
/// R-precision       = mean over queries of |{m : rank_m ≤ R}| / R
/// mAP               = mean over queries of 1/R·Σ_m m / rank_m
/// MAP@R             = mean over queries of 1/R·Σ_{m : rank_m ≤ R} m / rank_m
/// ```
///
/// **Ties** count against the query: of items with equal scores the irrelevant ones are ranked
/// first. No figure depends on the order of the items.
///
/// **Queries without a relevant item** have no rank. The figures are means over the others, of which
/// there are [`matched`](Self::matched); [`unmatched`](Self::unmatched) counts those without.
///
/// **Shapes**: embeddings (M, D) with M labels; or scores (queries, gallery). Memory is that of the
/// unit rows, M·D numbers, of tiles and of one row of the result per query. Results are the same for
/// any number of threads.
///
/// ```
/// use margin_softmax_evaluation::{Labels, Retrieval};
/// use ndarray::array;
///
/// let x = array![[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.7, 0.8]];
/// let found = Retrieval::within(&x, &[4, 4, 6, 6])?;
/// assert_eq!((found.precision_at_1(), found.mean_average_precision()), (1.0, 1.0));
///
/// // The nearest item of the query's identity is of its own camera: it is excluded.
/// let gallery = array![[0.99, 0.1], [0.5, 0.9], [0.8, 0.6]];
/// let (query_camera, cameras) = ([0], [0, 1, 0]);
/// let query = Labels::new(&[1]).with_groups(&query_camera);
/// let gallery_labels = Labels::new(&[1, 1, 2]).with_groups(&cameras);
/// let found = Retrieval::new(&gallery, gallery_labels, &array![[1.0, 0.0]], query)?;
/// assert_eq!(found.cmc(2)?, [0.0, 1.0]);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
///
/// **Source**: Musgrave, Belongie, Lim, *A Metric Learning Reality Check* (ECCV 2020) for R-precision
/// and MAP@R; Zheng et al., *Scalable Person Re-identification: A Benchmark* (ICCV 2015) for the
/// camera rule, CMC over items and mAP.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// How many items the search of a query ranks at most.
    items: usize,
    queries: Vec<Option<RankedQuery>>,
    matched: usize,
}

impl Retrieval {
    /// Searches one set for each of its items, without the item itself.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::ZeroEmbedding`];
    /// [`Error::NoMate`] if no query has a relevant item.
    pub fn within<'a, F: Real>(
        x: &ArrayRef2<F>,
        labels: impl Into<Labels<'a>>,
    ) -> Result<Self, Error> {
        let labels = labels.into();
        let UnitRows { rows, sorted } = UnitRows::new(ITEMS, x, labels)?;
        let scores = Cosines { queries: rows.view(), gallery: rows.view() };
        Retrieval::search(&scores, (labels, &sorted), (labels, &sorted), true)
    }

    /// Searches the gallery for each query.
    ///
    /// # Errors
    /// Those of [`within`](Self::within); [`Error::Groups`] if one side has groups and the other has
    /// none; [`Error::SameSet`] if the queries are the gallery and no groups exclude the items
    /// themselves.
    pub fn new<'a, F: Real>(
        gallery: &ArrayRef2<F>,
        gallery_labels: impl Into<Labels<'a>>,
        queries: &ArrayRef2<F>,
        query_labels: impl Into<Labels<'a>>,
    ) -> Result<Self, Error> {
        let (query_labels, gallery_labels) = (query_labels.into(), gallery_labels.into());
        check_groups(query_labels, gallery_labels)?;
        Error::check_columns("queries", queries.dim(), gallery.ncols())?;
        let found = UnitRows::new(GALLERY, gallery, gallery_labels)?;
        let searched = UnitRows::new(QUERIES, queries, query_labels)?;
        if !query_labels.has_groups() {
            let enrolled = (gallery, gallery_labels.identities());
            check_not_gallery("queries", (queries, query_labels.identities()), enrolled)?;
        }
        let scores = Cosines { queries: searched.rows.view(), gallery: found.rows.view() };
        let searched = (query_labels, &searched.sorted);
        Retrieval::search(&scores, searched, (gallery_labels, &found.sorted), false)
    }

    /// Ranks by the scores of one set with itself, row i those of item i as the query. The score of
    /// an item with itself and those of items that its group excludes are not read.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Shape`] for a matrix that is not square, and for labels;
    /// [`Error::NonFinite`] for a score that is read; [`Error::NoMate`].
    ///
    /// ```
    /// use margin_softmax_evaluation::Retrieval;
    /// use ndarray::array;
    ///
    /// let own = f64::NAN;
    /// let scores = array![[own, 0.9, 0.2], [0.8, own, 0.8], [0.1, 0.3, own]];
    /// let found = Retrieval::within_scores(&scores, &[1, 1, 2])?;
    /// // Item 1 ties with an irrelevant item, and item 2 is alone.
    /// assert_eq!(found.ranks(), [Some(1), Some(2), None]);
    /// assert_eq!((found.matched(), found.unmatched()), (2, 1));
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn within_scores<'a, F: Real>(
        scores: &ArrayRef2<F>,
        labels: impl Into<Labels<'a>>,
    ) -> Result<Self, Error> {
        let labels = labels.into();
        Error::check_columns("scores", scores.dim(), scores.nrows())?;
        labels.check([ITEMS[1], ITEMS[2]], scores.nrows())?;
        check_matrix(scores, |row, column| {
            row != column && !excluded((labels, row), (labels, column))
        })?;
        let sorted = labels.sorted();
        let order = &sorted.order;
        let scores = Given { scores: scores.view(), rows: order, columns: order };
        Retrieval::search(&scores, (labels, &sorted), (labels, &sorted), true)
    }

    /// Ranks by the scores (queries, gallery); labels are in the order of these axes. Scores of items
    /// that the group of a query excludes are not read.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`]; [`Error::NonFinite`] for a score that is read;
    /// [`Error::Groups`] if one side has groups and the other has none; [`Error::NoMate`].
    pub fn from_scores<'a, F: Real>(
        scores: &ArrayRef2<F>,
        query_labels: impl Into<Labels<'a>>,
        gallery_labels: impl Into<Labels<'a>>,
    ) -> Result<Self, Error> {
        let (queries, gallery) = (query_labels.into(), gallery_labels.into());
        check_groups(queries, gallery)?;
        queries.check([QUERIES[1], QUERIES[2]], scores.nrows())?;
        gallery.check([GALLERY[1], GALLERY[2]], scores.ncols())?;
        check_matrix(scores, |row, column| !excluded((queries, row), (gallery, column)))?;
        let (searched, found) = (queries.sorted(), gallery.sorted());
        let (rows, columns) = (&searched.order, &found.order);
        let scores = Given { scores: scores.view(), rows, columns };
        Retrieval::search(&scores, (queries, &searched), (gallery, &found), false)
    }

    /// `within`: query and gallery item of the same place are the same item.
    fn search<F: Real>(
        scores: &impl Scores<F>,
        (labels, searched): (Labels<'_>, &Sorted),
        (gallery_labels, found): (Labels<'_>, &Sorted),
        within: bool,
    ) -> Result<Self, Error> {
        let items = found.order.len();
        let candidates = searched.order.iter().enumerate().map(|(place, &row)| {
            let identity = labels.identities()[row];
            let excluded = match (gallery_labels.has_groups(), within) {
                (true, _) => found.group(identity, labels.group(row)),
                (false, true) => place..place + 1,
                (false, false) => 0..0,
            };
            Candidates { identity: found.identity(identity), excluded }
        });
        let ranked = rank(scores, items, &candidates.collect::<Vec<_>>());
        let mut queries = vec![None; ranked.len()];
        for (&row, ranked) in searched.order.iter().zip(ranked) {
            queries[row] = ranked;
        }
        let matched = queries.iter().flatten().count();
        if matched == 0 {
            return Err(Error::NoMate { probes: queries.len() });
        }
        Ok(Retrieval { items: items - usize::from(within), queries, matched })
    }

    /// The number of queries with a relevant item, over which every figure is a mean.
    pub fn matched(&self) -> usize {
        self.matched
    }

    /// The number of queries without a relevant item.
    pub fn unmatched(&self) -> usize {
        self.queries.len() - self.matched
    }

    /// What was found for each query, in the order in which they were given; `None` for a query
    /// without a relevant item.
    pub fn per_query(&self) -> &[Option<RankedQuery>] {
        &self.queries
    }

    /// The rank of the first relevant item of each query: [`per_query`](Self::per_query).
    pub fn ranks(&self) -> Vec<Option<usize>> {
        self.queries.iter().map(|query| query.map(|query| query.rank)).collect()
    }

    /// Recall@k, the rank-k rate: the share of queries with a relevant item among the first k.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless k is in 1..=searched items, of which `within` has one less than
    /// the set.
    ///
    /// ```
    /// # use margin_softmax_evaluation::Retrieval;
    /// # use ndarray::array;
    /// let x = array![[1.0, 0.0], [0.9, 0.3], [0.8, 0.1]];
    /// let found = Retrieval::within(&x, &[1, 1, 2])?;
    /// assert_eq!((found.recall_at(1)?, found.recall_at(2)?), (0.0, 1.0));
    /// assert!(found.recall_at(0).is_err() && found.recall_at(3).is_err());
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn recall_at(&self, k: usize) -> Result<f64, Error> {
        let valid = k >= 1 && k <= self.items;
        Error::check_parameter("k", k as f64, "in 1..=searched items", valid)?;
        Ok(self.mean(|query| f64::from(u8::from(query.rank <= k))))
    }

    /// The cumulative match characteristic over items: recall@k for k = 1, …, `max`.
    ///
    /// # Errors
    /// Those of [`recall_at`](Self::recall_at).
    pub fn cmc(&self, max: usize) -> Result<Vec<f64>, Error> {
        self.recall_at(max)?;
        Ok(cumulative(self.queries.iter().flatten().map(|query| query.rank), max, self.matched))
    }

    /// Precision@1: the share of queries whose first item is relevant.
    pub fn precision_at_1(&self) -> f64 {
        self.mean(|query| f64::from(u8::from(query.rank == 1)))
    }

    /// The mean of the queries' R-precision.
    pub fn r_precision(&self) -> f64 {
        self.mean(|query| query.r_precision)
    }

    /// mAP: the mean of the queries' average precision over all ranks.
    pub fn mean_average_precision(&self) -> f64 {
        self.mean(|query| query.average_precision)
    }

    /// MAP@R: the mean of the queries' average precision over the first R ranks.
    pub fn mean_average_precision_at_r(&self) -> f64 {
        self.mean(|query| query.average_precision_at_r)
    }

    fn mean(&self, of: impl Fn(&RankedQuery) -> f64) -> f64 {
        self.queries.iter().flatten().map(of).sum::<f64>() / self.matched as f64
    }
}

/// The share of `all` ranks that are at most k, for k = 1, …, `max`.
pub(crate) fn cumulative(ranks: impl Iterator<Item = usize>, max: usize, all: usize) -> Vec<f64> {
    let mut counts = vec![0_usize; max];
    for rank in ranks.filter(|&rank| rank <= max) {
        counts[rank - 1] += 1;
    }
    let sums = counts.iter().scan(0, |sum, count| {
        *sum += count;
        Some(*sum as f64 / all as f64)
    });
    sums.collect()
}

/// Whether the group of a query excludes an item.
fn excluded((labels, query): (Labels<'_>, usize), (gallery, item): (Labels<'_>, usize)) -> bool {
    gallery.has_groups()
        && labels.identities()[query] == gallery.identities()[item]
        && labels.group(query) == gallery.group(item)
}

fn check_groups(queries: Labels<'_>, gallery: Labels<'_>) -> Result<(), Error> {
    match (queries.has_groups(), gallery.has_groups()) {
        (true, false) => Err(Error::Groups { argument: "gallery" }),
        (false, true) => Err(Error::Groups { argument: "queries" }),
        _ => Ok(()),
    }
}
