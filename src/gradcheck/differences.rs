//! Derivatives by differences of sixth order, beside kinks too.

/// A sixth-order stencil: offsets in steps, and weights.
type Stencil = [(f64, f64); 7];

const CENTRAL: Stencil = [
    (-3.0, -1.0 / 60.0),
    (-2.0, 3.0 / 20.0),
    (-1.0, -3.0 / 4.0),
    (0.0, 0.0),
    (1.0, 3.0 / 4.0),
    (2.0, -3.0 / 20.0),
    (3.0, 1.0 / 60.0),
];

const ONE_SIDED: Stencil = [
    (0.0, -49.0 / 20.0),
    (1.0, 6.0),
    (2.0, -15.0 / 2.0),
    (3.0, 20.0 / 3.0),
    (4.0, -15.0 / 4.0),
    (5.0, 6.0 / 5.0),
    (6.0, -1.0 / 6.0),
];

fn difference(stencil: &Stencil, h: f64, f: impl Fn(f64) -> f64) -> f64 {
    let terms = stencil.iter().filter(|(_, weight)| *weight != 0.0);
    terms.map(|(offset, weight)| weight * f(offset * h)).sum::<f64>() / h
}

/// Of differences around 0, the one nearest to `given`: where one stencil crosses a kink, another
/// does not.
pub(super) fn nearest(given: f64, h: f64, f: impl Fn(f64) -> f64) -> f64 {
    let stencils = [(&CENTRAL, h), (&CENTRAL, h / 8.0), (&ONE_SIDED, h), (&ONE_SIDED, -h)];
    let estimates = stencils.map(|(stencil, h)| difference(stencil, h, &f));
    let nearer =
        |a: f64, b: f64| if a.is_nan() || (given - b).abs() < (given - a).abs() { b } else { a };
    estimates.into_iter().fold(f64::NAN, nearer)
}
