//! The element-wise part of a binary loss: one logistic for each pair, so that a tile's products are
//! read once, for losses and gradients alike.

use super::dispatch::{madd, op};
use super::real::Real;
use super::simd::Isa;
use super::softmax::add_in_short_sums;

/// Rows of scratch that [`tile_binary`] needs.
pub(crate) const BINARY_ROWS: usize = 4;

/// How a product p = s·cos θ becomes the logit of a binary loss: `scale`·g(cos(θ − m)) + `offset`,
/// where g(c) = 2·((1 + c)/2)^t − 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BinaryLogits<F> {
    /// 1/s: what makes a product a cosine.
    pub cosine: F,
    /// s.
    pub scale: F,
    /// t.
    pub exponent: F,
    /// cos m and sin m.
    pub margin: [F; 2],
    /// What is added, the bias b among it.
    pub offset: F,
}

impl<F: Real> BinaryLogits<F> {
    /// The logits of some products, and how they change with the cosine, before the scale.
    #[inline(always)]
    fn of<I: Isa>(&self, p: &[F], z: &mut [F], slope: &mut [F]) {
        for ((z, slope), &p) in z.iter_mut().zip(slope.iter_mut()).zip(p) {
            (*z, *slope) = (p * self.cosine, F::one());
        }
        let [cos, sin] = self.margin;
        if sin != F::zero() {
            for (z, slope) in z.iter_mut().zip(slope.iter_mut()) {
                let c = *z;
                let square = (F::one() - c) * (F::one() + c);
                // At θ = 0 and π, and where rounding left |c| > 1, the angle has no derivative by the
                // cosine: its part is 0.
                let inside = square > F::zero();
                let sine = if inside { square } else { F::one() }.sqrt();
                let [along, across] = if inside { [sine, c / sine] } else { [F::zero(); 2] };
                *z = madd::<_, I>(c, cos, along * sin);
                *slope = cos - across * sin;
            }
        }
        let t = self.exponent;
        // The usual exponents without a call into the C library.
        if t == F::narrow(3.0) {
            stretch(t, z, slope, |u| u * u);
        } else if t == F::narrow(2.0) {
            stretch(t, z, slope, |u| u);
        } else if t != F::one() {
            stretch(t, z, slope, |u| u.powf(t - F::one()));
        }
        z.iter_mut().for_each(|z| *z = madd::<_, I>(self.scale, *z, self.offset));
    }
}

/// g of every cosine, and its derivative; `power` is u^(t − 1).
#[inline(always)]
fn stretch<F: Real>(t: F, z: &mut [F], slope: &mut [F], power: impl Fn(F) -> F) {
    let half = F::narrow(0.5);
    for (z, slope) in z.iter_mut().zip(slope) {
        let u = half * (*z + F::one());
        // What rounding leaves outside [0, 1] no power may enlarge.
        let u = if u > F::zero() { u } else { F::zero() };
        let u = if u < F::one() { u } else { F::one() };
        let power = power(u);
        *z = (power * u + power * u) - F::one();
        *slope *= t * power;
    }
}

/// log(1 + e^z) and its derivative, from one exponential.
#[inline(always)]
fn softplus_and_sigmoid<F: Real, I: Isa>(z: F) -> (F, F) {
    let e = (-z.abs()).exp_inline::<I>();
    let share = F::one() / (F::one() + e);
    let positive = z > F::zero();
    let (z, sigmoid) = if positive { (z, share) } else { (F::zero(), e * share) };
    (z + ln_1p::<F, I>(e), sigmoid)
}

/// log(1 + e) for e in [0, 1], as 2·artanh(e/(2 + e)): its series has fallen below the rounding of
/// the type after these terms, for the argument is at most 1/3.
#[inline(always)]
fn ln_1p<F: Real, I: Isa>(e: F) -> F {
    const TERMS: [f64; 16] = {
        let mut terms = [0.0; 16];
        let mut k = 0;
        while k < 16 {
            terms[k] = 1.0 / (2 * k + 1) as f64;
            k += 1;
        }
        terms
    };
    let needed = if size_of::<F>() == size_of::<f32>() { 8 } else { 16 };
    let half = e / (F::narrow(2.0) + e);
    let square = half * half;
    let mut sum = F::zero();
    for &term in TERMS[..needed].iter().rev() {
        sum = madd::<_, I>(sum, square, F::narrow(term));
    }
    (half + half) * sum
}

op! {
    /// Adds each sample's Σ_j softplus(z_j) and Σ_j sigmoid(z_j) over a tile of products to `sums`,
    /// and writes the gradients of the products, each row by its factor: `out[j][i] =
    /// coefficients[i] · sigmoid(z_j) · dz_j/dp · factors[j]`, unless `out` is empty. −∞ adds nothing
    /// and has no gradient. What `shifts` are there is added to the logits, row by row.
    pub(crate) fn tile_binary<I at level>[F: Real](
        (p, shifts): (&[F], Option<&[F]>),
        logits: BinaryLogits<F>,
        [coefficients, factors]: [&[F]; 2],
        scratch: &mut [F],
        sums: [&mut [f64]; 2],
        out: &mut [F],
    ) {
        let n = sums[0].len();
        let (z, rest) = scratch[..BINARY_ROWS * n].split_at_mut(n);
        let (slope, rest) = rest.split_at_mut(n);
        let short = rest.split_at_mut(n).into();
        add_in_short_sums(p, short, sums, |j, p, [short_loss, short_sigmoid]| {
            let offset = logits.offset + shifts.map_or(F::zero(), |shifts| shifts[j]);
            BinaryLogits { offset, ..logits }.of::<I>(p, z, slope);
            let sums = short_loss.iter_mut().zip(short_sigmoid);
            for ((z, &p), (short_loss, short_sigmoid)) in z.iter_mut().zip(p).zip(sums) {
                let active = p > F::neg_infinity();
                let (loss, sigmoid) = softplus_and_sigmoid::<F, I>(*z);
                *short_loss += if active { loss } else { F::zero() };
                *z = if active { sigmoid } else { F::zero() };
                *short_sigmoid += *z;
            }
            if !out.is_empty() {
                let out = &mut out[j * n..(j + 1) * n];
                let samples = z.iter().zip(slope.iter()).zip(coefficients);
                for (out, ((&sigmoid, &slope), &c)) in out.iter_mut().zip(samples) {
                    let gradient = ((c * sigmoid) * slope) * factors[j];
                    *out = if sigmoid > F::zero() { gradient } else { F::zero() };
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::{Level, op};
    use super::*;

    op! {
        fn pairs<I at level>[F: Real](z: &[F]) -> Vec<[F; 2]> {
            z.iter().map(|&z| softplus_and_sigmoid::<F, I>(z).into()).collect()
        }
    }

    /// The largest relative error, in units of the rounding of `F`, over logits from −80 to 80.
    fn worst<F: Real>() -> f64 {
        let z: Vec<F> = (-8000..=8000).map(|z| F::narrow(f64::from(z) / 100.0)).collect();
        let error = |found: F, expected: f64| (found.widen() - expected).abs() / expected;
        let errors = Level::available().flat_map(|level| {
            let found = pairs(level, &z);
            let pairs = z.iter().zip(found).map(|(z, [softplus, sigmoid])| {
                let (z, e) = (z.widen(), (-z.widen().abs()).exp());
                let share = if z > 0.0 { 1.0 } else { e } / (1.0 + e);
                error(softplus, z.max(0.0) + e.ln_1p()).max(error(sigmoid, share))
            });
            pairs.collect::<Vec<_>>()
        });
        errors.fold(0.0, f64::max) / F::epsilon().widen()
    }

    #[test]
    fn softplus_and_sigmoid_are_right_to_a_few_units_of_the_last_place() {
        for worst in [worst::<f32>(), worst::<f64>()] {
            assert!(worst < 4.0, "{worst}");
        }
    }
}
