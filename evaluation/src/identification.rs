use ndarray::{Array2, ArrayRef2};
use rayon::prelude::*;

use crate::error::Error;
use crate::estimate::OperatingPoint;
use crate::real::Real;
use crate::steps::{Steps, descending, distinct};
use crate::tiles::{COLUMNS, cosines};
use crate::unit::{UnitRows, unit_rows};

/// Probes per job, where the gallery has few identities.
const PROBES: usize = 128;
/// Scores per job: 16 million, which bounds its memory where the gallery has many identities.
const SCORES: usize = 1 << 24;

/// Identification (1:N): each probe against all identities of a gallery.
///
/// The score of an identity is the highest cosine of its gallery embeddings with the probe. A probe
/// whose identity is in the gallery is known; that identity is its mate.
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
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Identification {
    identities: usize,
    /// Rank and score of the mate of each known probe, in the order of the probes.
    known: Vec<(usize, f64)>,
    /// The highest score of each unknown probe.
    unknown: Vec<f64>,
}

/// What the search of one probe found.
enum Search {
    Known(usize, f64),
    Unknown(f64),
}

impl Identification {
    /// Searches the gallery for each probe.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::NonFinite`], [`Error::ZeroEmbedding`].
    pub fn new<F: Real>(
        gallery: &ArrayRef2<F>,
        gallery_identities: &[usize],
        probes: &ArrayRef2<F>,
        probe_identities: &[usize],
    ) -> Result<Self, Error> {
        Error::check_not_empty("probes", probes.shape())?;
        Error::check_len("probe identities", probes.nrows(), probe_identities.len())?;
        if probes.ncols() != gallery.ncols() {
            let (expected, actual) = (vec![probes.nrows(), gallery.ncols()], probes.shape().into());
            return Err(Error::Shape { argument: "probes", expected, actual });
        }
        let unit = UnitRows::new("gallery", gallery, "gallery identities", gallery_identities)?;
        let order: Vec<usize> = (0..probes.nrows()).collect();
        let probes = unit_rows("probes", probes, &order)?;
        let mut names = gallery_identities.to_vec();
        names.sort_unstable();
        names.dedup();
        let size = (SCORES / unit.len()).clamp(1, PROBES);
        let jobs: Vec<_> = probe_identities.chunks(size).enumerate().collect();
        let searches = jobs.into_par_iter().map(|(job, wanted)| {
            let scores = identity_scores(&unit, &probes, job * size, wanted.len());
            let rows = scores.outer_iter().zip(wanted);
            let rows = rows.map(|(row, wanted)| {
                search(row.to_slice().unwrap_or_default(), names.binary_search(wanted).ok())
            });
            rows.collect::<Vec<_>>()
        });
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for search in searches.collect::<Vec<_>>().into_iter().flatten() {
            match search {
                Search::Known(rank, score) => known.push((rank, score)),
                Search::Unknown(score) => unknown.push(score),
            }
        }
        Ok(Identification { identities: unit.len(), known, unknown })
    }

    /// The number of identities in the gallery.
    pub fn identities(&self) -> usize {
        self.identities
    }

    /// The number of probes with a mate in the gallery.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// The number of probes without a mate in the gallery.
    pub fn unknown(&self) -> usize {
        self.unknown.len()
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
        let valid = k >= 1 && k <= self.identities;
        Error::check_parameter("rank k", k as f64, "in 1..=gallery identities", valid)?;
        self.check_mates()?;
        let within = self.known.iter().filter(|&&(rank, _)| rank <= k).count();
        Ok(within as f64 / self.known.len() as f64)
    }

    /// The cumulative match characteristic: the rank-k rates for k = 1, …, `max`.
    ///
    /// # Errors
    /// Those of [`rank`](Self::rank).
    pub fn cmc(&self, max: usize) -> Result<Vec<f64>, Error> {
        self.rank(max)?;
        let mut counts = vec![0_usize; max];
        for &(rank, _) in self.known.iter().filter(|&&(rank, _)| rank <= max) {
            counts[rank - 1] += 1;
        }
        let cumulative = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum as f64 / self.known.len() as f64)
        });
        Ok(cumulative.collect())
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
    /// [`Error::NoMate`]; [`Error::Parameter`] unless FAR is in (0, 1]; [`Error::TooFewImpostors`]
    /// for fewer than 10 / FAR unknown probes.
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
        self.check_mates()?;
        let first = self.known.iter().filter(|&&(rank, _)| rank == 1);
        let genuine = first.map(|&(_, score)| (score, true));
        let impostors = self.unknown.iter().map(|&score| (score, false));
        let mut scores: Vec<_> = genuine.chain(impostors).collect();
        scores.sort_by(|a, b| descending(a.0, b.0));
        let known = self.known.len() as u64;
        let steps = Steps::of_searches(distinct(scores.into_iter()), known);
        steps.check_far(far)?;
        Ok(steps.operating_point(far).0)
    }

    fn check_mates(&self) -> Result<(), Error> {
        if self.known.is_empty() {
            return Err(Error::NoMate { probes: self.unknown.len() });
        }
        Ok(())
    }
}

/// The score of every identity for `len` probes from `start` on.
fn identity_scores<F: Real>(
    gallery: &UnitRows<F>,
    probes: &Array2<F>,
    start: usize,
    len: usize,
) -> Array2<F> {
    let mut best = Array2::from_elem((len, gallery.len()), -F::one());
    let (n, mut buffer) = (gallery.rows.nrows(), Array2::zeros((0, 0)));
    for first in (0..n).step_by(COLUMNS) {
        let columns = first..n.min(first + COLUMNS);
        let identities = &gallery.identities[columns.clone()];
        let rows = (probes.view(), start..start + len);
        let tile = cosines(rows, (gallery.rows.view(), columns), &mut buffer);
        for (mut best, scores) in best.outer_iter_mut().zip(tile.outer_iter()) {
            for (&score, &identity) in scores.iter().zip(identities) {
                best[identity] = best[identity].max(score);
            }
        }
    }
    best
}

fn search<F: Real>(scores: &[F], mate: Option<usize>) -> Search {
    match mate {
        // The mate itself is one of those that score at least as high: it is the 1 of the rank.
        Some(mate) => {
            let rank = scores.iter().filter(|&&score| score >= scores[mate]).count();
            Search::Known(rank, scores[mate].as_())
        }
        None => Search::Unknown(scores.iter().fold(-F::one(), |a, &b| a.max(b)).as_()),
    }
}
