//! A loss with all that a loss may have, and its formulas (docs/math.md, sections 11 and 13) in textbook
//! loops over all pairs, in f64.

use margin_softmax::custom::{Angle, HardNegatives, Sample, SampleTarget, Target};
use margin_softmax::{MarginLoss, Real, Scale};
use ndarray::{Array1, Array2};

use super::compare::{epsilon, norm, wide};
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
        let classes = w.nrows() / self.k;
        let mut answer = WideAnswer {
            losses: Array1::zeros(x.nrows()),
            dx: Array2::zeros(x.dim()),
            dw: Array2::zeros(w.dim()),
            predictions: vec![],
            sub_centers: vec![],
            reach: 0.0,
            sine: 1.0,
            gap: 1.0,
            hard: 0,
        };
        for i in 0..x.nrows() {
            self.solve_sample(loss, (&x, &w), classes, i, &mut answer);
        }
        answer
    }

    fn solve_sample(
        &self,
        loss: &dyn MarginLoss,
        (x, w): (&Array2<f64>, &Array2<f64>),
        classes: usize,
        i: usize,
        answer: &mut WideAnswer,
    ) {
        let (y, k, g) = (self.labels[i], self.k, wide(self.upstream[i]));
        let r = norm(x.row(i));
        let u = &x.row(i) / r;
        let q: Vec<f64> = w.rows().into_iter().map(norm).collect();
        let v = |j: usize| &w.row(j) / q[j];
        let unnormalized = loss.scale() == Scale::Unnormalized;
        // What multiplies a cosine, and its derivatives by r and q.
        let a = |j: usize| match loss.scale() {
            Scale::Fixed(s) => (s, 0.0, 0.0),
            Scale::FeatureNorm => (r, 1.0, 0.0),
            _ => (r * q[j], q[j], r),
        };
        let plain = |j: usize| u.dot(&v(j)) * if unnormalized { a(j).0 } else { 1.0 };
        let nearest: Vec<usize> = (0..classes)
            .map(|class| {
                let mut rows: Vec<usize> = (class * k..(class + 1) * k).collect();
                rows.sort_by(|&a, &b| plain(b).total_cmp(&plain(a)));
                if k > 1 {
                    answer.gap = answer.gap.min(plain(rows[0]) - plain(rows[1]));
                }
                rows[0]
            })
            .collect();
        let cos: Vec<f64> = nearest.iter().map(|&j| u.dot(&v(j))).collect();
        let theta =
            2.0 * norm((&v(nearest[y]) - &u).view()).atan2(norm((&v(nearest[y]) + &u).view()));
        let sample = Sample::new(Angle::from_theta(theta), r, y, i);
        let target = loss.target_of(&sample);
        // N(c) and N′(c) of a class.
        let counted = |class: usize| match loss.hard_negatives() {
            Some(hard) if class != y && cos[class] > hard.threshold(target.value) => {
                let [q0, q1, q2] = hard.coefficients();
                let c = cos[class];
                (q0 + q1 * c + q2 * c * c, q1 + 2.0 * q2 * c, 1)
            }
            _ if class == y => (target.value, target.slope, 0),
            _ => (cos[class], 1.0, 0),
        };
        let z: Vec<f64> = (0..classes).map(|j| a(nearest[j]).0 * counted(j).0).collect();
        let log_sum = |classes: &mut dyn Iterator<Item = usize>| {
            let z: Vec<f64> = classes.map(|j| z[j]).collect();
            let max = z.iter().fold(f64::NEG_INFINITY, |max, &z| max.max(z));
            max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
        };
        let others = log_sum(&mut (0..classes).filter(|&j| j != y));
        let gap = others - z[y];
        let sigma = 1.0 / (1.0 + (-gap).exp());
        let epsilon = loss.label_smoothing();
        let (share, mean) = (epsilon / classes as f64, z.iter().sum::<f64>() / classes as f64);
        answer.losses[i] =
            gap.max(0.0) + (-gap.abs()).exp().ln_1p() + epsilon * (z[y] - mean) + target.penalty;
        for class in 0..classes {
            let j = nearest[class];
            let (value, slope, hard) = counted(class);
            answer.hard += hard;
            if let (Some(hard), true) = (loss.hard_negatives(), class != y) {
                let distance = (cos[class] - hard.threshold(target.value)).abs();
                answer.gap = answer.gap.min(distance);
            }
            answer.reach = answer.reach.max(a(j).0 * value.abs().max(1.0));
            let delta = if class == y {
                epsilon - sigma - share
            } else {
                sigma * (z[class] - others).exp() - share
            };
            let (scale, by_r, by_q) = a(j);
            // The derivatives of value·a by the directions of x and w, and by both norms.
            let (to_w, to_u) = if class == y {
                let t = &v(j) - &u * cos[class];
                let t = &t / norm(t.view());
                let back = &u - &v(j) * cos[class];
                let back = &back / norm(back.view());
                (t * -slope, back * -slope)
            } else {
                ((&v(j) - &u * cos[class]) * slope, (&u - &v(j) * cos[class]) * slope)
            };
            let own = if class == y { scale * target.norm_slope } else { 0.0 };
            let mut dx = answer.dx.row_mut(i);
            dx.scaled_add(g * delta * scale / r, &to_w);
            dx.scaled_add(g * delta * (by_r * value + own), &u);
            let mut dw = answer.dw.row_mut(j);
            dw.scaled_add(g * delta * scale / q[j], &to_u);
            dw.scaled_add(g * delta * by_q * value, &v(j));
        }
        answer.dx.row_mut(i).scaled_add(g * target.penalty_slope, &u);
        answer.sine = answer.sine.min(theta.sin());
        let logit = |class: usize| a(nearest[class]).0 * cos[class];
        let best = (0..classes).fold(0, |best, j| if logit(j) > logit(best) { j } else { best });
        answer.predictions.push(best);
        answer.sub_centers.push(nearest[y] % k);
    }
}
