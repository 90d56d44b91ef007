//! A loss with all that a loss may have, and its formulas (docs/math.md, sections 11 and 13) in textbook
//! loops over all pairs, in f64.

use margin_softmax::custom::{Angle, HardNegatives, Sample, SampleTarget, Target};
use margin_softmax::{MarginLoss, Real, Scale};
use ndarray::{Array1, Array2, ArrayView1};

use super::compare::{epsilon, norm, wide};
use super::naive::Naive;
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
}

/// What the formulas say.
#[derive(Debug, Clone)]
pub struct WideAnswer {
    pub losses: Array1<f64>,
    pub dx: Array2<f64>,
    pub dw: Array2<f64>,
    pub predictions: Vec<usize>,
    pub sub_centers: Vec<usize>,
    /// The largest magnitude of a logit.
    pub reach: f64,
    /// The smallest sine of a target angle.
    pub sine: f64,
    /// The smallest distance of a cosine from a threshold, or of the two nearest rows of a class.
    pub gap: f64,
    /// How many negatives are up-weighted.
    pub hard: usize,
}

impl WideAnswer {
    /// As `docs/math.md`, section 9.2, with its K = 16.
    pub fn tolerance<F: Real>(&self) -> f64 {
        16.0 * (epsilon::<F>() * (1.0 + self.reach) + 2.2e-16 / self.sine)
    }
}

impl<F: Real> WideProblem<F> {
    /// Embeddings of norms 0.5 … 8, every third near a row of its class, no cosine near a threshold
    /// and no two rows of a class nearly as near as each other, so that rounding selects alike.
    pub fn new(
        seed: u64,
        (n, d, classes, k): (usize, usize, usize, usize),
        loss: &dyn MarginLoss,
    ) -> (Self, WideAnswer) {
        for seed in (0..).map(|attempt| seed * 1000 + attempt) {
            let mut rng = Rng::new(seed);
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
            let problem = WideProblem { x, w, labels, k, upstream: rng.vector(n).mapv(narrow) };
            let answer = problem.solve(loss);
            if answer.gap > 64.0 * epsilon::<F>() {
                return (problem, answer);
            }
        }
        unreachable!()
    }

    pub fn solve(&self, loss: &dyn MarginLoss) -> WideAnswer {
        let (x, w) = (self.x.mapv(wide), self.w.mapv(wide));
        let labels: Vec<Option<usize>> = self.labels.iter().copied().map(Some).collect();
        let naive = Naive {
            x: &x,
            w: &w,
            bias: None,
            labels: &labels,
            first_row: 0,
            k: self.k,
            offsets: &vec![Some(0.0); w.nrows() / self.k],
            upstream: &self.upstream.mapv(wide).to_vec(),
        };
        let answer = naive.solve(loss);
        let best = |plain: ArrayView1<'_, f64>| {
            (0..plain.len()).fold(0, |best, j| if plain[j] > plain[best] { j } else { best })
        };
        WideAnswer {
            predictions: answer.plain.rows().into_iter().map(best).collect(),
            losses: answer.losses,
            dx: answer.dx,
            dw: answer.dw,
            sub_centers: answer.sub_centers,
            reach: answer.reach,
            sine: answer.sine,
            gap: answer.gap,
            hard: answer.hard,
        }
    }
}
