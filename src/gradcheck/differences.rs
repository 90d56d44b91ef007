//! Derivatives by differences of sixth order, beside kinks too.

/// The weights of a sixth-order stencil: a step apart, around the place or from it on.
type Stencil = [f64; 7];

const CENTRAL: Stencil =
    [-1.0 / 60.0, 3.0 / 20.0, -3.0 / 4.0, 0.0, 3.0 / 4.0, -3.0 / 20.0, 1.0 / 60.0];
const ONE_SIDED: Stencil =
    [-49.0 / 20.0, 6.0, -15.0 / 2.0, 20.0 / 3.0, -15.0 / 4.0, 6.0 / 5.0, -1.0 / 6.0];

/// The difference of `f` with the step `h`, by a stencil whose first weight is at `first` steps.
fn difference(stencil: &Stencil, first: f64, h: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let terms = stencil.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    terms.map(|(k, weight)| weight * f((first + k as f64) * h)).sum::<f64>() / h
}

/// A derivative that a loss gives, and what it is compared with.
pub(super) struct Given {
    pub derivative: f64,
    /// Where it is taken: the coordinate is exact to its rounding.
    pub at: f64,
    /// The first step, which shrinks until it is small against the structure of the function.
    pub step: f64,
    /// What the error is relative to.
    pub size: f64,
}

/// Steps shrink by this factor, of which a smooth function leaves 8⁻⁶ of the error.
const SHRINK: f64 = 8.0;
/// The sum of the weights of a stencil, times the roundings of a value.
const ROUNDINGS: f64 = 32.0;
/// Estimates that differ by less, relatively, are those of a derivative that does not change with
/// the step.
const SETTLED: f64 = 1e-6;
/// Steps whose rounding error is a larger part of the derivative say nothing.
const MOST_NOISE: f64 = 1e-3;
const NEGLIGIBLE: f64 = 1e-9;

impl Given {
    /// The difference that is nearest to the given derivative, and the relative error beyond what
    /// rounding explains; `f` is the function around the place. Where one stencil crosses a kink,
    /// another does not.
    pub fn compare(&self, f: impl Fn(f64) -> f64) -> (f64, f64) {
        let (mut best, mut before) = ((f64::NAN, f64::NAN), f64::NAN);
        let mut step = self.step;
        loop {
            let (estimate, largest) = self.nearest(step, &f);
            let noise = ROUNDINGS * f64::EPSILON * (largest + (self.at * self.derivative).abs());
            let beyond = (self.derivative - estimate).abs() - noise / step;
            let error = beyond.max(0.0) / self.size;
            // The maximum of NaN and 0 is 0.
            let error = if beyond.is_nan() { beyond } else { error };
            if best.1.is_nan() || error < best.1 {
                best = (estimate, error);
            }
            let settled = (estimate - before).abs() <= SETTLED * estimate.abs();
            if best.1 <= NEGLIGIBLE || settled || noise / step > MOST_NOISE * self.size {
                return best;
            }
            before = estimate;
            step /= SHRINK;
        }
    }

    /// The nearest of the differences with one step, and the largest value of the function.
    fn nearest(&self, step: f64, f: impl Fn(f64) -> f64) -> (f64, f64) {
        let mut largest = 0.0_f64;
        let mut seen = |by: f64| {
            let value = f(by);
            largest = largest.max(value.abs());
            value
        };
        let off = |estimate: f64| (self.derivative - estimate).abs();
        let nearer = |a: f64, b: f64| if a.is_nan() || off(b) < off(a) { b } else { a };
        let stencils = [(CENTRAL, -3.0, step), (ONE_SIDED, 0.0, step), (ONE_SIDED, 0.0, -step)];
        let estimates =
            stencils.map(|(stencil, first, h)| difference(&stencil, first, h, &mut seen));
        (estimates.into_iter().fold(f64::NAN, nearer), largest)
    }
}
