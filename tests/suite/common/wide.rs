//! A loss with all that a loss may have, and its formulas (docs/math.md, sections 11 and 13) in textbook
//! loops over all pairs, in f64.

use margin_softmax::custom::{Angle, HardNegatives, Sample, SampleTarget, Target};
use margin_softmax::{MarginLoss, Real, Scale};
use ndarray::{Array1, Array2};

use super::compare::{epsilon, norm, wide};
use super::naive::{Naive, NaiveAnswer};
use super::random::Rng;

/// f = cos(θ + m + κ·ln(1 + r)) − m_y, with penalty λ·r².
#[derive(Debug, Clone)]
pub struct Wide {
    pub scale: Scale,
    pub m: f64,
    pub kappa: f64,
    pub by_label: f64,
    pub lambda: f64,
    pub hard: Option<HardNegatives>,
    pub epsilon: f64,
}

impl Wide {
    pub fn new(scale: Scale) -> Self {
        let (kappa, by_label, lambda, hard, epsilon) = (0.0, 0.0, 0.0, None, 0.0);
        Wide { scale, m: 0.3, kappa, by_label, lambda, hard, epsilon }
    }
}

impl MarginLoss for Wide {
    fn scale(&self) -> Scale {
        self.scale
    }

    fn target(&self, angle: &Angle) -> Target {
        let phi = angle.theta + self.m;
        Target { value: phi.cos(), slope: -phi.sin() }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let r = sample.norm;
        let phi = sample.angle.theta + self.m + self.kappa * r.ln_1p();
        let value = phi.cos() - self.by_label * (sample.label % 3) as f64;
        SampleTarget::from(Target { value, slope: -phi.sin() })
            .with_norm_slope(-phi.sin() * self.kappa / (1.0 + r))
            .with_penalty(self.lambda * r * r, 2.0 * self.lambda * r)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        self.hard
    }

    fn label_smoothing(&self) -> f64 {
        self.epsilon
    }
}

/// A batch with `k` rows of `w` for each class.
pub struct WideProblem<F> {
    pub x: Array2<F>,
    pub w: Array2<F>,
    pub labels: Vec<usize>,
    pub k: usize,
    pub upstream: Array1<F>,
    /// One number for each class; in every second problem.
    pub log_prior: Option<Array1<F>>,
}

impl<F: Real> WideProblem<F> {
    /// Embeddings of norms 0.5 … 8, every third near a row of its class, no cosine near a threshold
    /// and no two rows of a class nearly as near as each other, so that rounding selects alike.
    pub fn new(
        seed: u64,
        (n, d, classes, k): (usize, usize, usize, usize),
        loss: &dyn MarginLoss,
    ) -> (Self, NaiveAnswer) {
        for attempt in (0..).map(|attempt| seed * 1000 + attempt) {
            let mut rng = Rng::new(attempt);
            let w = rng.matrix(classes * k, d);
            let labels = rng.labels(n, classes);
            let mut x = rng.matrix(n, d);
            for (i, mut row) in x.rows_mut().into_iter().enumerate() {
                if i % 3 == 0 {
                    row.scaled_add(1.5, &w.row(labels[i] * k + rng.below(k)));
                }
                let length = norm(row.view());
                row *= rng.decades(0.5, 8.0) / length;
            }
            let narrow = |v: f64| F::from(v).unwrap();
            let (x, w) = (x.mapv(narrow), w.mapv(narrow));
            let upstream = rng.vector(n).mapv(narrow);
            let log_prior =
                seed.is_multiple_of(2).then(|| rng.vector(classes).mapv(|p| narrow(4.0 * p)));
            let problem = WideProblem { x, w, labels, k, upstream, log_prior };
            let answer = problem.solve(loss);
            if answer.gap > 64.0 * epsilon::<F>() {
                return (problem, answer);
            }
        }
        unreachable!()
    }

    pub fn solve(&self, loss: &dyn MarginLoss) -> NaiveAnswer {
        let (x, w) = (self.x.mapv(wide), self.w.mapv(wide));
        let labels: Vec<Option<usize>> = self.labels.iter().copied().map(Some).collect();
        let log_prior = self.log_prior.as_ref().map(|prior| prior.mapv(wide));
        let naive = Naive {
            x: &x,
            w: &w,
            bias: None,
            log_prior: log_prior.as_ref(),
            labels: &labels,
            first_row: 0,
            k: self.k,
            offsets: &vec![Some(0.0); w.nrows() / self.k],
            upstream: &self.upstream.mapv(wide).to_vec(),
            by_cosines: false,
        };
        naive.solve(loss)
    }
}
