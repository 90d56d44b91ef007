//! An engine of plain loops that sweeps for an offloaded step.

use super::*;

/// The class weights of an engine, and the logits of one step.
pub(super) struct Sweeps<F> {
    v: Array2<F>,
    norms: Vec<f64>,
    z: Array2<F>,
    /// What is in the logits of each row beside the products and the bias.
    offsets: Option<Array1<F>>,
    /// The class prior of each class.
    prior: Vec<F>,
    k: usize,
}

impl<F: Real> Sweeps<F> {
    pub fn new(
        step: &OffloadedStep<'_, F>,
        w: &Array2<F>,
        (bias, offsets): (Option<&Array1<F>>, Option<Array1<F>>),
        k: usize,
    ) -> Self {
        let norm = |row: ndarray::ArrayView1<'_, F>| {
            row.iter().map(|&v| wide(v) * wide(v)).sum::<f64>().sqrt()
        };
        let norms: Vec<f64> = w.rows().into_iter().map(norm).collect();
        let mut v = w.clone();
        if step.is_normalized() {
            for (mut row, norm) in v.rows_mut().into_iter().zip(&norms) {
                row.mapv_inplace(|v| F::from(wide(v) / norm).unwrap());
            }
        }
        let mut z = step.scaled_embeddings().dot(&v.t());
        if let Some(bias) = bias {
            z += bias;
        }
        if let Some(offsets) = &offsets {
            z += offsets;
        }
        let prior = step.log_prior().unwrap_or_else(|| vec![F::zero(); w.nrows() / k]);
        Sweeps { v, norms, z, offsets, prior, k }
    }

    pub fn extreme_norms(&self) -> (f64, f64) {
        let norms = self.norms.iter();
        norms.fold((f64::INFINITY, 0.0), |(a, b), norm| (a.min(*norm), b.max(*norm)))
    }

    /// Of each class the row with the largest logit, and that.
    fn nearest_rows(&self, i: usize) -> Vec<(usize, F)> {
        let z = self.z.row(i);
        let classes = 0..z.len() / self.k;
        let nearest = |class: usize| {
            let rows = class * self.k..(class + 1) * self.k;
            rows.map(|row| (row, z[row])).reduce(|a, b| if b.1 > a.1 { b } else { a }).unwrap()
        };
        classes.map(nearest).collect()
    }

    fn offset(&self, row: usize) -> F {
        self.offsets.as_ref().map_or(F::zero(), |offsets| offsets[row])
    }

    /// N(p) with the offset of the row, and N′(p), of the logit p without it.
    fn harder(&self, step: &OffloadedStep<'_, F>, i: usize, (row, z): (usize, F)) -> (F, F) {
        let (offset, p) = (self.offset(row), z - self.offset(row));
        if let Some(binary) = step.binary_logits() {
            return of_binary(&binary, p);
        }
        match &step.hard_negative_logits() {
            Some(HardNegativeLogits { threshold, constant, linear, quadratic, .. })
                if p > threshold[i] =>
            {
                let square = quadratic[i] * p;
                (constant[i] + *linear * p + square * p + offset, *linear + square + square)
            }
            _ => (z, F::one()),
        }
    }

    pub fn stats(&self, step: &OffloadedStep<'_, F>, labels: &[usize]) -> Vec<SweepStats> {
        let binary = step.binary_logits().is_some();
        let of_sample = |i: usize| {
            let rows = self.nearest_rows(i);
            let best = rows.iter().fold(F::neg_infinity(), |most, (_, z)| most.max(*z));
            // A sample may have no class where none of the batch counts.
            let nearest = rows.iter().position(|(_, z)| *z == best).unwrap_or(0);
            let others = rows.iter().enumerate().filter(|(class, _)| *class != labels[i]);
            let logit = |(place, &(row, z)): (usize, &(usize, F)),
                         offset: fn(&Self, usize) -> F| {
                NegativeLogit { place, logit: wide(z - offset(self, row)) }
            };
            let largest =
                |a: NegativeLogit, b: NegativeLogit| if b.logit > a.logit { b } else { a };
            let nearest_negative =
                others.clone().map(|o| logit(o, |_, _| F::zero())).reduce(largest);
            let mut apart: Vec<_> = others.clone().map(|o| logit(o, Self::offset)).collect();
            apart.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            // Up to two more than needed, in any order.
            let k = step.top_negatives();
            apart.truncate(if k == 0 { 0 } else { k + i % 3 });
            apart.reverse();
            let is_apart = |class| apart.iter().any(|negative| negative.place == class);
            let (plain, others): (Vec<F>, Vec<F>) = others
                .filter(|(class, _)| !is_apart(*class))
                .map(|(_, row)| (self.harder(step, i, *row).0, self.prior[row.0 / self.k]))
                .map(|(z, prior)| (z, z + prior))
                .unzip();
            let of_logit = if binary { sigmoid } else { |z| z };
            let logit_sum = others.iter().map(|z| wide(of_logit(*z))).sum();
            let sum = if binary { sum_of_softplus } else { log_sum_exp };
            let [negatives, margin_free_negatives] = [others, plain].map(sum);
            SweepStats {
                negatives,
                margin_free_negatives,
                logit_sum,
                nearest,
                nearest_negative,
                apart,
            }
        };
        (0..labels.len()).map(of_sample).collect()
    }

    /// The gradients of embeddings, class weights and bias.
    pub fn gradients(
        &self,
        step: &OffloadedStep<'_, F>,
        backward: &OffloadedBackward<'_, '_, F>,
        labels: &[usize],
    ) -> (Array2<F>, Array2<F>, Array1<F>) {
        let (factors, a) = (backward.logit_factors(), step.scaled_embeddings());
        let binary = step.binary_logits().is_some();
        let (mut g, mut radial) = (Array2::zeros(self.z.dim()), vec![F::zero(); labels.len()]);
        for i in 0..labels.len() {
            for (class, (row, z)) in self.nearest_rows(i).into_iter().enumerate() {
                if class != labels[i] && !factors.apart[i].contains(&class) {
                    let (harder, slope) = self.harder(step, i, (row, z));
                    let z_i = harder + self.prior[class];
                    let share = if binary { sigmoid(z_i) } else { (z_i - factors.shift[i]).exp() };
                    let p = factors.coefficient[i] * share - factors.uniform[i];
                    g[[i, row]] = p * slope;
                    let offset = self.offset(row);
                    radial[i] += p * (harder - offset - (z - offset) * slope);
                }
            }
        }
        let recipe = backward.embedding_gradient();
        let mut dx = g.dot(&self.v);
        for i in 0..labels.len() {
            let u = a.row(i);
            let mut row = dx.row_mut(i);
            if let Some((s, factors)) = &recipe.projected {
                let along = row.dot(&u) / *s;
                row.zip_mut_with(&u, |g, u| *g = (*g - along * (*u / *s)) * factors[i]);
            }
            if let Some(inverse) = recipe.inverse_norms.as_ref().map(|all| all[i]) {
                row.zip_mut_with(&u, |g, u| *g += radial[i] * inverse * (inverse * *u));
            }
        }
        let mut dw = g.t().dot(&a);
        if step.is_normalized() {
            for (j, mut row) in dw.rows_mut().into_iter().enumerate() {
                let (v, inverse) = (self.v.row(j), F::from(self.norms[j].recip()).unwrap());
                let along = row.dot(&v);
                row.zip_mut_with(&v, |g, v| *g = (*g - along * *v) * inverse);
            }
        }
        let mut bias = g.sum_axis(Axis(0));
        let own = backward.target_gradients();
        for ((row, target), by_bias) in own.rows.iter().zip(own.weights.rows()).zip(own.bias) {
            let mut row_of = dw.row_mut(*row);
            row_of += &target;
            bias[*row] += by_bias;
        }
        (dx + recipe.targets, dw, bias)
    }
}

fn log_sum_exp<F: Real>(z: Vec<F>) -> LogSumExp {
    let max = z.iter().fold(F::neg_infinity(), |most, z| most.max(*z));
    LogSumExp::new(wide(max), z.iter().map(|z| wide((*z - max).exp())).sum())
}

fn sigmoid<F: Real>(z: F) -> F {
    F::one() / (F::one() + (-z).exp())
}

fn sum_of_softplus<F: Real>(z: Vec<F>) -> LogSumExp {
    let softplus = |z: F| z.max(F::zero()) + (-z.abs()).exp().ln_1p();
    LogSumExp::new(0.0, z.into_iter().map(|z| wide(softplus(z))).sum())
}

/// The logit of a binary loss of a product, and its derivative.
fn of_binary<F: Real>(binary: &BinaryLogits<F>, p: F) -> (F, F) {
    let (one, half) = (F::one(), F::from(0.5).unwrap());
    let (c, [cos, sin]) = (p * binary.cosine, binary.margin);
    let sine = ((one - c) * (one + c)).max(F::zero()).sqrt();
    let turned = if sine > F::zero() { c * cos + sine * sin } else { c * cos };
    let slope = if sine > F::zero() { cos - c / sine * sin } else { cos };
    let u = (half * (one + turned)).max(F::zero());
    let (t, two) = (binary.exponent, one + one);
    let z = binary.scale * (two * u.powf(t) - one) + binary.offset;
    (z, t * u.powf(t - one) * slope)
}
