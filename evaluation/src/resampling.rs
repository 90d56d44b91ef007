//! The bootstrap over more pairs than can be kept.
//!
//! A pass over the tiles counts each pair in the bins of several replicates at once, with the weight
//! that it has there. As many replicates share a pass as `COUNTS` bytes hold. Beside them every pair
//! is counted once, to compare with what was counted before.

use crate::all_pairs::{AllPairs, check_counts};
use crate::bootstrap::{Bootstrap, Interval};
use crate::error::Error;
use crate::estimate::Estimate;
use crate::figure::Figure;
use crate::histogram::{BINS, bin_of};
use crate::real::Real;
use crate::steps::{Step, Steps};
use crate::tiles::{upper_triangle, workers};
use crate::verification::Verification;

/// Bytes of the counts and weights of all replicates of one pass.
const COUNTS: usize = 1 << 27;
/// Scores that a worker collects before it counts them for one replicate after the other, so that
/// the counts of a replicate, once in the cache, serve many scores: with 2¹⁷ a pass of 100 replicates
/// takes half as long again, with 2¹⁵ three times as long.
const COLLECTED: usize = 1 << 19;

/// The numbers of genuine and impostor pairs of a bin.
type Counts = [u64; 2];

/// The bins that hold pairs.
struct Occupied {
    /// Their lower edges, or a score of each bin that was split, from high to low.
    thresholds: Vec<f64>,
    /// Their pairs, followed by the 0 of all other bins.
    counts: Vec<Counts>,
    /// The place of each bin among them; for other bins the last place.
    places: Vec<u32>,
}

/// Consecutive scores of the same two identities.
struct Run {
    a: usize,
    b: usize,
    len: usize,
}

/// What a worker has collected and counted.
struct Worker {
    places: Vec<u32>,
    runs: Vec<Run>,
    /// Of each replicate, by place.
    counts: Vec<Vec<Counts>>,
}

impl<F: Real> AllPairs<F> {
    /// Confidence intervals of figures, by resampling identities, of any number of embeddings.
    ///
    /// If `counted` keeps every score, they are those of
    /// [`Verification::interval`](crate::Verification::interval). Otherwise all pairs are scored
    /// again and counted in bins with their weights, for as many replicates at a time as 128 MiB
    /// hold, commonly several hundred. Each replicate's figure then has a bound, and the interval is
    /// wide enough for all of them. The counts take about 0.4 additions per pair and replicate: 200
    /// replicates of 50,000 embeddings are 10¹¹, and took 108 s on two cores.
    ///
    /// # Errors
    /// - [`Error::OtherPairs`] if `counted` is not of these embeddings.
    /// - [`Error::Parameter`], [`Error::TooFewImpostors`] for the FAR of a figure.
    /// - [`Error::DegenerateBootstrap`].
    ///
    /// ```
    /// use margin_softmax_evaluation::{AllPairs, Bootstrap, Figure};
    /// use ndarray::array;
    ///
    /// let x = array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 3.0], [1.0, 1.0], [1.0, 0.0]];
    /// let all = AllPairs::new(&x, &[0, 0, 1, 1, 2, 2])?;
    /// let figures = [Figure::Auc, Figure::Eer];
    /// let intervals = all.intervals(&all.binned()?, &figures, &Bootstrap::new(1))?;
    /// let of_scores = all.verification()?.interval(Figure::Auc, &Bootstrap::new(1))?;
    /// assert!(intervals[0].low <= of_scores.low && of_scores.high <= intervals[0].high);
    /// # Ok::<(), margin_softmax_evaluation::Error>(())
    /// ```
    pub fn intervals(
        &self,
        counted: &Verification,
        figures: &[Figure],
        bootstrap: &Bootstrap,
    ) -> Result<Vec<Interval>, Error> {
        self.check_counted(counted)?;
        if counted.is_identified() {
            return figures.iter().map(|&figure| counted.interval(figure, bootstrap)).collect();
        }
        let wholes: Vec<Estimate> =
            figures.iter().map(|&figure| counted.figure(figure)).collect::<Result<_, _>>()?;
        let occupied = Occupied::new(counted.steps());
        let identities = self.unit.sorted.names.len();
        let mut estimates = vec![Vec::new(); figures.len()];
        let size = occupied.replicates_per_pass(identities);
        for start in (0..bootstrap.replicates()).step_by(size) {
            let replicates = start..bootstrap.replicates().min(start + size);
            let drawn = replicates.map(|replicate| bootstrap.weights(replicate, identities));
            let weights: Vec<_> = [vec![1; identities]].into_iter().chain(drawn).collect();
            let all = self.weighted_counts(&occupied, &weights);
            for (&expected, &actual) in all[0].iter().zip(&occupied.counts) {
                check_counts(expected, actual)?;
            }
            for counts in &all[1..] {
                let Ok(drawn) = Steps::new(occupied.steps(counts)) else { continue };
                for (estimates, figure) in estimates.iter_mut().zip(figures) {
                    estimates.push(figure.estimate(&drawn).0);
                }
            }
        }
        let intervals = wholes.into_iter().zip(&estimates);
        intervals
            .map(|(whole, estimates)| bootstrap.interval_of(whole, estimates, identities))
            .collect()
    }

    /// One pass: the counts of each replicate.
    fn weighted_counts(&self, occupied: &Occupied, weights: &[Vec<u64>]) -> Vec<Vec<Counts>> {
        let mut workers = workers(|| Worker::new(weights.len(), occupied.counts.len()));
        upper_triangle(self.unit.rows.view(), &mut workers, |worker, row, first, scores| {
            let identities = &self.unit.sorted.identities;
            let columns = &identities[first..first + scores.len()];
            worker.collect(occupied, identities[row], columns, scores);
            if worker.places.len() >= COLLECTED {
                worker.count(weights);
            }
        });
        workers.iter_mut().for_each(|worker| worker.count(weights));
        let mut workers = workers.into_iter().map(|worker| worker.counts);
        let mut all = workers.next().unwrap_or_default();
        for counts in workers {
            for (sum, count) in all.iter_mut().flatten().zip(counts.iter().flatten()) {
                *sum = [sum[0] + count[0], sum[1] + count[1]];
            }
        }
        all
    }
}

impl Occupied {
    fn new(steps: &Steps) -> Self {
        // Scores that are no cosines are of other pairs: whatever bin they are in, it differs.
        let bin = |step: &Step| bin_of(step.threshold.clamp(-1.0, 1.0));
        // The scores of a split bin are next to each other.
        let bins: Vec<&[Step]> = steps.steps().chunk_by(|a, b| bin(a) == bin(b)).collect();
        let mut places = vec![bins.len() as u32; BINS];
        for (place, steps) in bins.iter().enumerate() {
            places[usize::from(bin(&steps[0]))] = place as u32;
        }
        let sum = |steps: &[Step], count: fn(&Step) -> u64| steps.iter().map(count).sum();
        let counts = bins
            .iter()
            .map(|steps| [sum(steps, |step| step.genuine), sum(steps, |step| step.impostors)]);
        let counts = counts.chain([[0; 2]]).collect();
        let thresholds = bins.iter().map(|steps| steps[0].threshold).collect();
        Occupied { thresholds, counts, places }
    }

    fn replicates_per_pass(&self, identities: usize) -> usize {
        let counts = self.counts.len() * size_of::<Counts>() * rayon::current_num_threads();
        (COUNTS / (counts + identities * size_of::<u64>())).max(1)
    }

    /// The bins that a replicate has drawn.
    fn steps(&self, counts: &[Counts]) -> Vec<Step> {
        let steps = self.thresholds.iter().zip(counts);
        let steps = steps.map(|(&threshold, &[genuine, impostors])| Step {
            threshold,
            genuine,
            impostors,
            coarse: true,
        });
        steps.filter(|step| step.genuine + step.impostors > 0).collect()
    }
}

impl Worker {
    fn new(replicates: usize, places: usize) -> Self {
        Worker {
            places: Vec::with_capacity(COLLECTED),
            runs: Vec::new(),
            counts: vec![vec![[0; 2]; places]; replicates],
        }
    }

    /// The scores of an identity with these columns, by identity.
    fn collect<F: Real>(&mut self, occupied: &Occupied, a: usize, columns: &[usize], scores: &[F]) {
        let mut rest = scores;
        for columns in columns.chunk_by(|left, right| left == right) {
            let (b, len) = (columns[0], columns.len());
            let (scores, others) = rest.split_at(len);
            rest = others;
            let place = |&score: &F| occupied.places[usize::from(bin_of(score))];
            self.places.extend(scores.iter().map(place));
            self.runs.push(Run { a, b, len });
        }
    }

    /// Counts what was collected, once for each replicate.
    fn count(&mut self, weights: &[Vec<u64>]) {
        for (counts, weights) in self.counts.iter_mut().zip(weights) {
            let mut rest = &self.places[..];
            for &Run { a, b, len } in &self.runs {
                let (places, others) = rest.split_at(len);
                rest = others;
                let kind = usize::from(a != b);
                let weight = if a == b { weights[a] } else { weights[a] * weights[b] };
                if weight == 0 {
                    continue;
                }
                for &place in places {
                    counts[place as usize][kind] += weight;
                }
            }
        }
        self.places.clear();
        self.runs.clear();
    }
}
