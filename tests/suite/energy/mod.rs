//! Hyperspherical energy: against 90-digit arithmetic (`tests/golden/generate.py`), the formula
//! written down naively, finite differences, and what the sphere itself says.

mod accuracy;
mod laws;
mod refusals;

use crate::common::layout::{LAYOUTS, lay_out};
use crate::common::random::Rng;
use margin_softmax::energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
use margin_softmax::{Error, Real};
use ndarray::{Array2, Axis, array, concatenate};

const RIESZ: [Riesz; 3] = [Riesz::Log, Riesz::One, Riesz::Two];

/// One question: the energy of all rows in a space, or of a batch of labels.
#[derive(Debug, Clone)]
enum Form {
    All(Space),
    Batch(Vec<usize>),
}

fn forms(rng: &mut Rng, classes: usize) -> Vec<Form> {
    let samples = 1 + rng.below(2 * classes);
    let batch = Form::Batch(rng.labels(samples, classes));
    vec![Form::All(Space::Full), Form::All(Space::Half), batch]
}

fn energy<F: Real>(w: &Array2<F>, riesz: Riesz, form: &Form) -> Result<(F, Array2<F>), Error> {
    match form {
        Form::All(space) => hyperspherical_energy(w, riesz, *space),
        Form::Batch(labels) => hyperspherical_energy_of_batch(w, labels, riesz),
    }
}

/// The formulas of `docs/math.md`, section 6, pair by pair, in f64.
fn naive(w: &Array2<f64>, riesz: Riesz, form: &Form) -> (f64, Array2<f64>) {
    let (classes, dims) = w.dim();
    let norms: Vec<f64> = w.rows().into_iter().map(|row| row.dot(&row).sqrt()).collect();
    let mut v = w.clone();
    v.rows_mut().into_iter().zip(&norms).for_each(|(mut row, norm)| row /= *norm);
    let [f, force]: [fn(f64) -> f64; 2] = match riesz {
        Riesz::Log => [|d| -d.ln(), |d| d.powi(-2)],
        Riesz::One => [|d| d.recip(), |d| d.powi(-3)],
        Riesz::Two => [|d| d.powi(-2), |d| 2.0 * d.powi(-4)],
    };
    let c = classes as f64;
    let (labels, signs, scale, constant) = match form {
        Form::All(Space::Full) => ((0..classes).collect(), &[1.0][..], 1.0 / (c * (c - 1.0)), 0.0),
        Form::All(Space::Half) => {
            let all: Vec<usize> = (0..classes).collect();
            (all, &[1.0, -1.0][..], 1.0 / (c * (2.0 * c - 1.0)), f(2.0) / (2.0 * c - 1.0))
        }
        Form::Batch(labels) => {
            let pairs = labels.len() as f64 * (c - 1.0);
            (labels.clone(), &[1.0][..], 1.0 / pairs, 0.0)
        }
    };
    let (mut value, mut pull) = (0.0, Array2::zeros((classes, dims)));
    for j in labels {
        for k in (0..classes).filter(|&k| k != j) {
            for sign in signs {
                let difference = &v.row(j) - &(&v.row(k) * *sign);
                let d = difference.dot(&difference).sqrt();
                value += f(d);
                pull.row_mut(j).scaled_add(-force(d), &difference);
                pull.row_mut(k).scaled_add(force(d) * sign, &difference);
            }
        }
    }
    for ((mut row, v), norm) in pull.rows_mut().into_iter().zip(v.rows()).zip(norms) {
        let along = row.dot(&v);
        row.scaled_add(-along, &v);
        row *= scale / norm;
    }
    (value * scale + constant, pull)
}

/// The largest error of a gradient, relative to its largest entry.
fn error<F: Real>(found: &Array2<F>, expected: &Array2<f64>) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0_f64, |m, (f, e)| m.max((f.to_f64().unwrap() - e).abs())) / largest
}

fn narrow(w: &Array2<f64>) -> Array2<f32> {
    w.mapv(|v| v as f32)
}

fn widen(w: &Array2<f32>) -> Array2<f64> {
    w.mapv(f64::from)
}
