//! Riesz energies on the unit sphere, from a row of cosines.
//!
//! A term depends on the squared distance alone: d² = 2 − 2c, or 2 + 2c to the opposite point.
//! For close pairs that subtraction cancels, so such pairs are left out here; the caller computes
//! them from the difference of the vectors ([`riesz_pair`]).

use num_traits::Float;

use super::dispatch::op;
use super::real::Real;

const LANES: usize = 32;
/// A pair whose cosine is larger, d² < 1/4, is near. An error ε in a cosine that is not near puts
/// at most 2ε/d² ≤ 8ε into the relative error of d², and (s/2 + 1) 8ε ≤ 16ε into that of the
/// force.
const NEAR: f64 = 0.875;
/// Most columns in a row: the product of so many squared distances, each in [1/4, 4] (with
/// `HALF` twice as many, each pair's product at most 4), stays in the range of f64.
const MOST_COLUMNS: usize = 256;

/// A pair's energy of exponent s and its force κ d^(−s−2), from d². At s = 0 the first is d²
/// itself: one logarithm is taken of the product of many.
#[inline(always)]
fn law<F: Float, const S: u8>(square: F) -> (F, F) {
    match S {
        0 => (square, square.recip()),
        1 => {
            let inverse = square.sqrt().recip();
            (inverse, inverse / square)
        }
        _ => {
            let inverse = square.recip();
            (inverse, (inverse + inverse) * inverse)
        }
    }
}

/// A pair's energy and force, from the squared distances to a point and, with `HALF`, to its
/// opposite, which pushes the other way.
#[inline(always)]
fn both<F: Float, const S: u8, const HALF: bool>(difference: F, sum: F) -> (F, F) {
    let (term, force) = law::<F, S>(difference);
    if !HALF {
        return (term, force);
    }
    let (opposite, push) = law::<F, S>(sum);
    (join::<F, S>(term, opposite), force - push)
}

#[inline(always)]
fn join<F: Float, const S: u8>(a: F, b: F) -> F {
    if S == 0 { a * b } else { a + b }
}

/// The energy of a pair that does not count.
#[inline(always)]
fn nothing<F: Float, const S: u8>() -> F {
    if S == 0 { F::one() } else { F::zero() }
}

#[inline(always)]
fn energy<const S: u8>(joined: f64) -> f64 {
    if S == 0 { -0.5 * joined.ln() } else { joined }
}

/// Energy and force of one pair, from its squared distances ‖v − u‖² and ‖v + u‖².
pub(crate) fn riesz_pair<const S: u8, const HALF: bool>(difference: f64, sum: f64) -> (f64, f64) {
    let (term, force) = both::<_, S, HALF>(difference, sum);
    (energy::<S>(term), force)
}

/// The exponent and the space of an energy, for an argument to carry.
struct Law<const S: u8, const HALF: bool>;

/// Turns the cosines of one row into its forces, each times `weight + weights[k]`, and returns the
/// sum of the pairs' energies, without the weights. Near pairs (with `HALF`, nearly opposed ones
/// too) count nothing and are listed in `near`.
pub(crate) fn riesz_row<F: Real, const S: u8, const HALF: bool>(
    cosines: &mut [F],
    weight: F,
    weights: &[F],
    near: &mut Vec<usize>,
) -> f64 {
    row(Law::<S, HALF>, cosines, weight, weights, near)
}

op! {
    fn row<I>[F: Real, const S: u8, const HALF: bool](
        _law: Law<S, HALF>,
        cosines: &mut [F],
        weight: F,
        weights: &[F],
        near: &mut Vec<usize>,
    ) -> f64 {
        near.clear();
        assert!(cosines.len() == weights.len() && cosines.len() <= MOST_COLUMNS);
        let (two, limit) = (F::one() + F::one(), F::narrow(NEAR));
        let mut sums = [nothing::<F, S>(); LANES];
        let mut column = 0;
        for (cosines, weights) in cosines.chunks_mut(LANES).zip(weights.chunks(LANES)) {
            let mut flags = [false; LANES];
            let lanes = sums.iter_mut().zip(&mut flags);
            for ((c, &w), (sum, flag)) in cosines.iter_mut().zip(weights).zip(lanes) {
                *flag = if HALF { c.abs() > limit } else { *c > limit };
                let (term, force) = both::<F, S, HALF>(two - (*c + *c), two + (*c + *c));
                *sum = join::<F, S>(*sum, if *flag { nothing::<F, S>() } else { term });
                *c = if *flag { F::zero() } else { force * (weight + w) };
            }
            if flags.contains(&true) {
                near.extend((0..LANES).filter(|&lane| flags[lane]).map(|lane| column + lane));
            }
            column += LANES;
        }
        let joined = sums.iter().fold(nothing::<f64, S>(), |all, v| join::<_, S>(all, v.widen()));
        energy::<S>(joined)
    }
}
