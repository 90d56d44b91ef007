//! Any loss with all that a batch may have, by its formulas (docs/math.md, sections 1, 11 and 12) in
//! textbook loops over all pairs, in f64.

use margin_softmax::custom::{Angle, Sample, TopMargin};
use margin_softmax::{IGNORED, MarginLoss, Scale};
use ndarray::{Array1, Array2, ArrayView1};

use super::compare::norm;

/// A batch with `k` rows of `w`, and of `bias`, for each class.
pub struct Naive<'a> {
    pub x: &'a Array2<f64>,
    pub w: &'a Array2<f64>,
    pub bias: Option<&'a Array1<f64>>,
    /// The class prior, one number for each class.
    pub log_prior: Option<&'a Array1<f64>>,
    /// The class of each sample; `None` where it does not count.
    pub labels: &'a [Option<usize>],
    pub first_row: usize,
    pub k: usize,
    /// What is added to the logits of each class; `None` where it is not active.
    pub offsets: &'a [Option<f64>],
    /// g_i = ∂objective/∂L_i.
    pub upstream: &'a [f64],
    /// Whether the gradients of the nearest negatives pass through their cosines, whose rounding is
    /// 1/sin θ in the angle: those of logits that are held.
    pub by_cosines: bool,
}

/// What the formulas say, and how large the terms were that each number is a sum of.
#[derive(Debug, Clone)]
pub struct NaiveAnswer {
    pub losses: Array1<f64>,
    pub margin_free_losses: Array1<f64>,
    pub angles: Array1<f64>,
    /// Logits without a margin (N, C); −∞ where a class is not active.
    pub plain: Array2<f64>,
    pub sub_centers: Vec<usize>,
    pub dx: Array2<f64>,
    pub dw: Array2<f64>,
    pub db: Array1<f64>,
    pub size_loss: Array1<f64>,
    pub size_x: Array1<f64>,
    pub size_w: Array1<f64>,
    pub size_b: Array1<f64>,
    /// The largest magnitude of a logit, and of its derivative by the cosine.
    pub reach: f64,
    /// The smallest sine of a target angle.
    pub sine: f64,
    /// The smallest distance of a cosine from a threshold, or of the two nearest rows of a class.
    pub gap: f64,
    /// How many negatives are up-weighted.
    pub hard: usize,
    /// How many negatives have a margin.
    pub top: usize,
}

impl NaiveAnswer {
    /// As `docs/math.md`, section 9.2, with its K = 16.
    pub fn tolerance(&self, epsilon: f64) -> f64 {
        16.0 * (epsilon * (1.0 + self.reach) + 2.2e-16 / self.sine)
    }

    /// The nearest class of each sample without a margin, the first of equals.
    pub fn predictions(&self) -> Vec<usize> {
        let nearest = |plain: ArrayView1<'_, f64>| {
            (0..plain.len()).fold(0, |best, j| if plain[j] > plain[best] { j } else { best })
        };
        self.plain.rows().into_iter().map(nearest).collect()
    }
}

/// How a class enters the loss of one sample.
struct Part {
    row: usize,
    cos: f64,
    /// Whether the value depends on the angle rather than on the cosine.
    by_angle: bool,
    /// What multiplies the value in the logit, and its derivatives by |x| and |w|.
    scale: (f64, f64, f64),
    value: f64,
    slope: f64,
    /// What is added to the logit: bias and offset; and the class prior.
    added: f64,
    prior: f64,
    z: f64,
}

/// The largest of the numbers, Σ e^(z − max), and how far their log-sum-exp is above z_y.
fn log_sum_exp(others: impl Iterator<Item = f64> + Clone, z_y: f64) -> (f64, f64, f64) {
    let max = others.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = others.map(|z| (z - max).exp()).sum();
    (max, sum, if sum > 0.0 { max + sum.ln() - z_y } else { f64::NEG_INFINITY })
}

/// s of a fixed scale.
fn loss_scale(loss: &dyn MarginLoss) -> f64 {
    if let Scale::Fixed(s) = loss.scale() { s } else { f64::NAN }
}

/// The angle between two unit vectors.
fn angle(u: &Array1<f64>, v: &Array1<f64>) -> f64 {
    2.0 * norm((v - u).view()).atan2(norm((v + u).view()))
}

fn softplus(gap: f64) -> f64 {
    gap.max(0.0) + (-gap.abs()).exp().ln_1p()
}

impl Naive<'_> {
    pub fn solve(&self, loss: &dyn MarginLoss) -> NaiveAnswer {
        let ((n, d), rows) = (self.x.dim(), self.w.nrows());
        let mut answer = NaiveAnswer {
            losses: Array1::zeros(n),
            margin_free_losses: Array1::zeros(n),
            angles: Array1::from_elem(n, std::f64::consts::FRAC_PI_2),
            plain: Array2::from_elem((n, self.offsets.len()), f64::NEG_INFINITY),
            sub_centers: vec![IGNORED; n],
            dx: Array2::zeros((n, d)),
            dw: Array2::zeros((rows, d)),
            db: Array1::zeros(rows),
            size_loss: Array1::zeros(n),
            size_x: Array1::zeros(n),
            size_w: Array1::zeros(rows),
            size_b: Array1::zeros(rows),
            reach: 0.0,
            sine: 1.0,
            gap: 1.0,
            hard: 0,
            top: 0,
        };
        let q: Vec<f64> = self.w.rows().into_iter().map(norm).collect();
        let v: Vec<Array1<f64>> = self.w.rows().into_iter().zip(&q).map(|(w, q)| &w / *q).collect();
        for i in 0..n {
            if let Some(y) = self.labels[i] {
                self.solve_sample(loss, (i, y), (&q, &v), &mut answer);
            }
        }
        answer
    }

    fn solve_sample(
        &self,
        loss: &dyn MarginLoss,
        (i, y): (usize, usize),
        (q, v): (&[f64], &[Array1<f64>]),
        answer: &mut NaiveAnswer,
    ) {
        let r = norm(self.x.row(i));
        let u = &self.x.row(i) / r;
        let nearest = self.nearest(loss, (&u, r), (q, v), answer);
        let own = nearest[y];
        let theta = |row: usize| angle(&u, &v[row]);
        let sample = Sample::new(Angle::from_theta(theta(own)), r, y, self.first_row + i);
        let target = loss.target_of(&sample);
        let top = self.top(loss, y, |class| u.dot(&v[nearest[class]]), answer);
        let part = |class: usize| {
            let row = nearest[class];
            let cos = u.dot(&v[row]);
            let top_margin = loss.top_negatives().filter(|_| top.contains(&class));
            let scale = match loss.scale() {
                Scale::Fixed(s) => (s, 0.0, 0.0),
                Scale::FeatureNorm => (r, 1.0, 0.0),
                _ => (r * q[row], q[row], r),
            };
            let (value, slope) = match (loss.hard_negatives(), top_margin, loss.binary()) {
                _ if class == y => (target.value, target.slope),
                (_, Some(TopMargin { margin, .. }), _) => {
                    ((theta(row) - margin).cos(), -(theta(row) - margin).sin())
                }
                (_, _, Some(binary)) => {
                    // g(cos(θ − m)) + d, and its derivative by the cosine.
                    let ((sine, cosine), t) = (binary.angle().sin_cos(), binary.exponent());
                    let sin = (1.0 - cos * cos).sqrt();
                    let u = 0.5 * (1.0 + cos * cosine + sin * sine);
                    let slope = t * u.powf(t - 1.0) * (cosine - cos * sine / sin);
                    (2.0 * u.powf(t) - 1.0 + binary.shift(), slope)
                }
                (Some(hard), ..) if cos > hard.threshold(target.value) => {
                    let [q0, q1, q2] = hard.coefficients();
                    (q0 + q1 * cos + q2 * cos * cos, q1 + 2.0 * q2 * cos)
                }
                _ => (cos, 1.0),
            };
            let added = self.bias.map_or(0.0, |b| b[row]) + self.offsets[class].unwrap_or(0.0);
            let added = added + loss.binary().map_or(0.0, |binary| binary.bias());
            let prior = self.log_prior.map_or(0.0, |prior| prior[class]);
            let z = scale.0 * value + added + prior;
            let by_angle = class == y || top_margin.is_some();
            Part { row, cos, by_angle, scale, value, slope, added, prior, z }
        };
        let classes = (0..self.offsets.len()).filter(|&class| self.offsets[class].is_some());
        let parts: Vec<(usize, Part)> = classes.map(|class| (class, part(class))).collect();
        for (class, part) in &parts {
            if let (Some(binary), true) = (loss.binary(), *class != y) {
                // What a cosine's rounding is in cot θ, times the length of its vector.
                let steep = binary.angle().sin() / (1.0 - part.cos * part.cos);
                answer.reach = answer.reach.max(part.scale.0 * (2.0 + binary.exponent() * steep));
            }
            answer.plain[[i, *class]] = part.scale.0 * part.cos + part.added;
            let steep = part.value.abs().max(part.slope.abs()).max(1.0);
            let reach = part.scale.0 * steep + part.added.abs() + part.prior.abs();
            answer.reach = answer.reach.max(reach);
            if part.by_angle {
                answer.sine = answer.sine.min(theta(part.row).sin());
            } else if let Some(hard) = loss.hard_negatives() {
                let threshold = hard.threshold(target.value);
                answer.gap = answer.gap.min((part.cos - threshold).abs());
                answer.hard += usize::from(part.cos > threshold);
            }
        }

        let z_y = parts.iter().find(|(class, _)| *class == y).expect("a sample's own class").1.z;
        let others = parts.iter().filter(|(class, _)| *class != y).map(|(_, part)| part);
        let (max, sum, gap) = log_sum_exp(others.clone().map(|part| part.z), z_y);
        let without_prior = others.clone().map(|part| part.z - part.prior);
        let margin_free = log_sum_exp(without_prior.clone(), answer.plain[[i, y]]).2;
        answer.margin_free_losses[i] = softplus(margin_free);
        let count = parts.len() as f64;
        let epsilon = if parts.len() > 1 { loss.label_smoothing() } else { 0.0 };
        let sigma =
            if gap >= 0.0 { 1.0 / (1.0 + (-gap).exp()) } else { gap.exp() / (1.0 + gap.exp()) };
        let mean = parts.iter().map(|(_, part)| part.z).sum::<f64>() / count;
        let plain = softplus(gap);
        answer.losses[i] = plain + epsilon * (z_y - mean) + target.penalty;
        answer.size_loss[i] = plain + epsilon + target.penalty.abs();
        let logistic = |z: f64| 1.0 / (1.0 + (-z).exp());
        if let Some(binary) = loss.binary() {
            let (positive, negative) = binary.weights();
            let cosine = u.dot(&v[own]);
            let stretched = 2.0 * (0.5 * (1.0 + cosine)).powf(binary.exponent()) - 1.0;
            let z_free = answer.plain[[i, y]] + loss_scale(loss) * (stretched - cosine);
            let sum = |z_y: f64, others: &mut dyn Iterator<Item = f64>| {
                positive * softplus(-z_y) + negative * others.map(softplus).sum::<f64>()
            };
            answer.losses[i] = sum(z_y, &mut others.clone().map(|part| part.z));
            answer.margin_free_losses[i] = sum(z_free, &mut without_prior.clone());
            answer.size_loss[i] = answer.losses[i];
        }
        answer.angles[i] = theta(own);
        answer.sub_centers[i] = own % self.k;

        let g = self.upstream[i];
        for (class, part) in &parts {
            let (row, (scale, by_r, by_q)) = (part.row, part.scale);
            let (share, even) = match loss.binary() {
                Some(binary) if *class == y => (-binary.weights().0 * logistic(-part.z), 0.0),
                Some(binary) => (binary.weights().1 * logistic(part.z), 0.0),
                None if *class == y => (-sigma, -epsilon * (1.0 - 1.0 / count)),
                None => (sigma * (part.z - max).exp() / sum, epsilon / count),
            };
            let (delta, size) = (g * (share - even), g.abs() * (share.abs() + even.abs()));
            // The derivatives of the value by the directions of x and w.
            let (mut to_w, mut to_u) = (&v[row] - &u * part.cos, &u - &v[row] * part.cos);
            if part.by_angle {
                for tangent in [&mut to_w, &mut to_u] {
                    *tangent *= -part.slope / norm(tangent.view());
                }
            } else {
                to_w *= part.slope;
                to_u *= part.slope;
            }
            let by_norm = if *class == y { scale * target.norm_slope } else { 0.0 };
            let mut dx = answer.dx.row_mut(i);
            dx.scaled_add(delta * scale / r, &to_w);
            dx.scaled_add(delta * (by_r * part.value + by_norm), &u);
            let mut dw = answer.dw.row_mut(row);
            dw.scaled_add(delta * scale / q[row], &to_u);
            dw.scaled_add(delta * by_q * part.value, &v[row]);
            answer.db[row] += delta;
            answer.size_b[row] += size;
            // A cosine's rounding is relative to 1, not to the sine that is left of it.
            let by_cosine = self.by_cosines && part.by_angle && *class != y;
            let slope = if by_cosine { part.slope / theta(row).sin() } else { part.slope };
            let steep = slope.abs().max(part.value.abs()).max(1.0);
            answer.size_x[i] += size * (scale / r * steep + by_norm.abs());
            answer.size_w[row] += size * scale / q[row] * steep;
        }
        answer.dx.row_mut(i).scaled_add(g * target.penalty_slope, &u);
        answer.size_x[i] += g.abs() * target.penalty_slope.abs();
    }

    /// The nearest negatives that have a margin, of a sample with these cosines.
    fn top(
        &self,
        loss: &dyn MarginLoss,
        y: usize,
        cos: impl Fn(usize) -> f64,
        answer: &mut NaiveAnswer,
    ) -> Vec<usize> {
        let Some(TopMargin { k, .. }) = loss.top_negatives() else { return Vec::new() };
        let active = |&class: &usize| class != y && self.offsets[class].is_some();
        let mut others: Vec<usize> = (0..self.offsets.len()).filter(active).collect();
        others.sort_by(|&a, &b| cos(b).total_cmp(&cos(a)));
        if let (Some(&last), Some(&next)) = (others.get(k - 1), others.get(k)) {
            answer.gap = answer.gap.min(cos(last) - cos(next));
        }
        others.truncate(k);
        answer.top += others.len();
        others
    }

    /// The nearest row of each class: that with the largest cosine, or inner product and bias.
    fn nearest(
        &self,
        loss: &dyn MarginLoss,
        (u, r): (&Array1<f64>, f64),
        (q, v): (&[f64], &[Array1<f64>]),
        answer: &mut NaiveAnswer,
    ) -> Vec<usize> {
        let unnormalized = loss.scale() == Scale::Unnormalized;
        let nearness = |row: usize| match unnormalized {
            true => r * q[row] * u.dot(&v[row]) + self.bias.map_or(0.0, |b| b[row]),
            false => u.dot(&v[row]),
        };
        let of_class = |class: usize| {
            let mut rows: Vec<usize> = (class * self.k..(class + 1) * self.k).collect();
            rows.sort_by(|&a, &b| nearness(b).total_cmp(&nearness(a)));
            if self.k > 1 {
                let size = if unnormalized { 1.0 + nearness(rows[0]).abs() } else { 1.0 };
                let gap = (nearness(rows[0]) - nearness(rows[1])) / size;
                answer.gap = answer.gap.min(gap);
            }
            rows[0]
        };
        (0..self.offsets.len()).map(of_class).collect()
    }
}
