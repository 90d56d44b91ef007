//! The naive oracle: `docs/math.md`, sections 1 and 2, in textbook loops over all N×C pairs, in
//! f64.

use margin_softmax::Scale;
use ndarray::{Array1, Array2, ArrayViewMut1, Zip};

use super::compare::norm;
use super::spec::Spec;

/// One batch of numbers, and g_i = ∂objective/∂L_i.
#[derive(Debug, Clone)]
pub struct Problem {
    pub x: Array2<f64>,
    pub w: Array2<f64>,
    pub b: Option<Array1<f64>>,
    pub labels: Vec<usize>,
    pub upstream: Array1<f64>,
}

/// What the formulas say, and how large the terms were that canceled in each row.
#[derive(Debug, Clone)]
pub struct Answer {
    pub losses: Array1<f64>,
    pub angles: Array1<f64>,
    /// Logits without a margin (N, C): what predictions are made from.
    pub plain: Array2<f64>,
    pub dx: Array2<f64>,
    pub dw: Array2<f64>,
    pub db: Array1<f64>,
    /// ∂L/∂c at fixed norms; the target's entry is not filled in.
    pub dcos: Array2<f64>,
    pub dtheta: Array1<f64>,
    /// ∂L/∂|x| and ∂L/∂|w|.
    pub dr: Array1<f64>,
    pub dq: Array1<f64>,
    /// Σ|terms| behind each row of dx and dw and each entry of db: rounding is relative to these.
    pub size_x: Array1<f64>,
    pub size_w: Array1<f64>,
    pub size_b: Array1<f64>,
    /// The loss before smoothing, plus ε: the error of either is relative to it.
    pub size_loss: Array1<f64>,
    /// |∂L/∂θ| where the margin is steepest: near a knot the slope is a difference.
    pub size_theta: Array1<f64>,
    /// The largest magnitude in any sum behind a sample's logits.
    pub reach: Array1<f64>,
    /// sin θ of each target pair; 1 where the pair is parallel or opposed and has no tangent.
    pub sines: Array1<f64>,
}

/// The angle between unit vectors, after Kahan.
fn angle(u: &Array1<f64>, v: &Array1<f64>) -> f64 {
    2.0 * norm((v - u).view()).atan2(norm((v + u).view()))
}

/// The unit tangent at `u` towards `v`; 0 where there is no direction.
fn tangent(u: &Array1<f64>, v: &Array1<f64>) -> Array1<f64> {
    let mut t = if u.dot(v) > 0.0 { v - u } else { v + u };
    for _ in 0..2 {
        let along = t.dot(u);
        t.scaled_add(-along, u);
    }
    let length = t.dot(&t).sqrt();
    if length > 4.0 * f64::EPSILON { t / length } else { t * 0.0 }
}

/// row += g · factor (to − cos · from), where cos is the cosine between both.
fn add_projected(
    row: ArrayViewMut1<f64>,
    g: f64,
    factor: f64,
    to: &Array1<f64>,
    from: &Array1<f64>,
    cos: f64,
) {
    Zip::from(row).and(to).and(from).for_each(|row, to, from| {
        *row += g * ((to - from * cos) * factor);
    });
}

impl Problem {
    pub fn solve(&self, spec: &Spec) -> Answer {
        self.solve_smoothed(spec, 0.0)
    }

    /// The same with label smoothing (section 11).
    pub fn solve_smoothed(&self, spec: &Spec, epsilon: f64) -> Answer {
        let (n, d, c) = (self.x.nrows(), self.x.ncols(), self.w.nrows());
        let mut answer = Answer::zeros(n, d, c);
        let norms: Vec<f64> = self.w.rows().into_iter().map(norm).collect();
        let units: Vec<Array1<f64>> =
            self.w.rows().into_iter().zip(&norms).map(|(w, q)| &w / *q).collect();
        for i in 0..n {
            self.solve_sample((spec, epsilon), i, &norms, &units, &mut answer);
        }
        answer
    }

    fn solve_sample(
        &self,
        (spec, epsilon): (&Spec, f64),
        i: usize,
        q: &[f64],
        v: &[Array1<f64>],
        answer: &mut Answer,
    ) {
        let (c, y) = (q.len(), self.labels[i]);
        let r = norm(self.x.row(i));
        let u = &self.x.row(i) / r;
        let a = |j: usize| match spec.scale() {
            Scale::Fixed(s) => s,
            Scale::FeatureNorm => r,
            Scale::Unnormalized => r * q[j],
            other => unreachable!("{other:?}"),
        };
        let b = |j: usize| self.b.as_ref().map_or(0.0, |b| b[j]);
        let theta = angle(&u, &v[y]);
        let (f, slope) = spec.target(theta);
        let cos: Vec<f64> = v.iter().map(|v| u.dot(v)).collect();
        let value = |j: usize| if j == y { f } else { cos[j] };
        let z: Vec<f64> = (0..c).map(|j| a(j) * value(j) + b(j)).collect();

        let others = || (0..c).filter(|&j| j != y);
        let max = others().map(|j| z[j]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = others().map(|j| (z[j] - max).exp()).sum();
        let gap = if c == 1 { f64::NEG_INFINITY } else { max + sum.ln() - z[y] };
        let sigma =
            if gap >= 0.0 { 1.0 / (1.0 + (-gap).exp()) } else { gap.exp() / (1.0 + gap.exp()) };
        let plain = gap.max(0.0) + (-gap.abs()).exp().ln_1p();
        let mean = z.iter().sum::<f64>() / c as f64;
        answer.losses[i] = plain + epsilon * (z[y] - mean);
        answer.size_loss[i] = plain + epsilon;
        answer.angles[i] = theta;
        let (tx, tw) = (tangent(&u, &v[y]), tangent(&v[y], &u));
        answer.sines[i] = if tx.dot(&tx) > 0.0 { theta.sin() } else { 1.0 };

        for j in 0..c {
            let share = if j == y { -sigma } else { sigma * (z[j] - max).exp() / sum };
            let even = epsilon / c as f64;
            let smoothed =
                if j == y { share + epsilon * (1.0 - 1.0 / c as f64) } else { share - even };
            let g = self.upstream[i] * smoothed;
            let size = self.upstream[i].abs() * (share.abs() + if j == y { epsilon } else { even });
            answer.plain[[i, j]] = a(j) * cos[j] + b(j);
            answer.reach[i] = answer.reach[i].max(a(j) * value(j).abs().max(1.0) + b(j).abs());
            answer.db[j] += g;
            answer.size_b[j] += size;
            // ∂z/∂x and ∂z/∂w at fixed norms: a ∂(value)/∂x and a ∂(value)/∂w.
            if j == y {
                answer.dtheta[i] = g * a(y) * slope;
                answer.size_theta[i] = size * a(y) * spec.steepest();
                answer.dx.row_mut(i).scaled_add(g, &(&tx * (-a(y) * slope / r)));
                answer.dw.row_mut(y).scaled_add(g, &(&tw * (-a(y) * slope / q[y])));
            } else {
                answer.dcos[[i, j]] = g * a(j);
                add_projected(answer.dx.row_mut(i), g, a(j) / r, &v[j], &u, cos[j]);
                add_projected(answer.dw.row_mut(j), g, a(j) / q[j], &u, &v[j], cos[j]);
            }
            // And through the norms, where they are in the scale: ∂a/∂r · value, ∂a/∂q · value.
            let (by_r, by_q) = match spec.scale() {
                Scale::Fixed(_) => (0.0, 0.0),
                Scale::FeatureNorm => (value(j), 0.0),
                Scale::Unnormalized => (q[j] * value(j), r * value(j)),
                other => unreachable!("{other:?}"),
            };
            answer.dr[i] += g * by_r;
            answer.dq[j] += g * by_q;
            answer.dx.row_mut(i).scaled_add(g * by_r, &u);
            answer.dw.row_mut(j).scaled_add(g * by_q, &v[j]);
            // A cosine's rounding is relative to 1, not to the sine that is left of it.
            let steep = if j == y { slope.abs().max(f.abs()) } else { 1.0 };
            answer.size_x[i] += size * a(j) / r * steep.max(1.0);
            answer.size_w[j] += size * a(j) / q[j] * steep.max(1.0);
        }
    }
}

impl Answer {
    fn zeros(n: usize, d: usize, c: usize) -> Self {
        Answer {
            losses: Array1::zeros(n),
            angles: Array1::zeros(n),
            plain: Array2::zeros((n, c)),
            dx: Array2::zeros((n, d)),
            dw: Array2::zeros((c, d)),
            db: Array1::zeros(c),
            dcos: Array2::zeros((n, c)),
            dtheta: Array1::zeros(n),
            dr: Array1::zeros(n),
            dq: Array1::zeros(c),
            size_x: Array1::zeros(n),
            size_w: Array1::zeros(c),
            size_b: Array1::zeros(c),
            size_loss: Array1::zeros(n),
            size_theta: Array1::zeros(n),
            reach: Array1::zeros(n),
            sines: Array1::ones(n),
        }
    }

    /// What an error may be, relative to the terms behind a number: `docs/math.md`, section 9.2,
    /// with its K = 16. A logit is right to ε times the largest magnitude in its sum, so
    /// exponentials and losses are right to that, relatively; a tangent is right to 2.2e-16/sin θ.
    pub fn tolerance(&self, epsilon: f64) -> f64 {
        let reach = self.reach.iter().fold(0.0_f64, |m, &v| m.max(v));
        let sine = self.sines.iter().fold(1.0_f64, |m, &v| m.min(v));
        16.0 * (epsilon * (1.0 + reach) + 2.2e-16 / sine)
    }
}
