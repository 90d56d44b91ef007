//! Comparisons that say where they failed.

use margin_softmax::{Forward, Gradients, Real};
use ndarray::{Array1, Array2, ArrayView1};

use super::oracle::Answer;

pub fn wide<F: Real>(value: F) -> f64 {
    value.to_f64().unwrap()
}

pub fn epsilon<F: Real>() -> f64 {
    wide(F::epsilon())
}

/// The Euclidean norm, of however small or large entries.
pub fn norm(v: ArrayView1<f64>) -> f64 {
    let largest = v.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    if largest == 0.0 {
        return v.sum(); // 0, or NaN where there is one
    }
    largest * v.iter().map(|v| (v / largest).powi(2)).sum::<f64>().sqrt()
}

/// What underflow may take away: products of a few factors, each within 1e6 of 1, that meet the
/// smallest normal number on their way.
pub fn tiny<F: Real>() -> f64 {
    1e6 * wide(F::min_positive_value())
}

/// Each number within `tolerance` times its own size.
pub fn assert_vector<F: Real>(
    what: &str,
    found: &Array1<F>,
    expected: &Array1<f64>,
    sizes: &Array1<f64>,
    tolerance: f64,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, ((&found, &expected), &size)) in found.iter().zip(expected).zip(sizes).enumerate() {
        let error = (wide(found) - expected).abs();
        let allowed = tolerance * size.abs() + tiny::<F>();
        assert!(
            error <= allowed,
            "{what}[{i}]: {found:e} for {expected:e}, off by {error:e}, allowed {allowed:e}"
        );
    }
}

/// Each row within `tolerance` times the size of its terms, in Euclidean distance.
pub fn assert_rows<F: Real>(
    what: &str,
    found: &Array2<F>,
    expected: &Array2<f64>,
    sizes: &Array1<f64>,
    tolerance: f64,
) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    for (i, (found, expected)) in found.rows().into_iter().zip(expected.rows()).enumerate() {
        let error = norm((&found.mapv(wide) - &expected).view());
        let allowed = tolerance * sizes[i] + tiny::<F>();
        assert!(
            error <= allowed,
            "{what}[{i}]: {found:e} for {expected:e}, off by {error:e}, allowed {allowed:e}"
        );
    }
}

/// Losses, angles and predictions against the oracle.
pub fn assert_forward<F: Real>(what: &str, found: &Forward<F>, labels: &[usize], answer: &Answer) {
    let tolerance = answer.tolerance(epsilon::<F>());
    let losses = &answer.losses;
    assert_vector(&format!("{what}: losses"), &found.losses, losses, &answer.size_loss, tolerance);
    // An angle is right to a few ε relatively, and to the rounding of the unit vectors absolutely.
    let size = answer.angles.mapv(|angle| angle + 1.0);
    let allowed = 2.0 * epsilon::<F>() + 8.0 * f64::EPSILON;
    assert_vector(
        &format!("{what}: angles"),
        found.target_angles(),
        &answer.angles,
        &size,
        allowed,
    );
    let mut correct = 0.0;
    for (i, &prediction) in found.predictions().iter().enumerate() {
        let row = answer.plain.row(i);
        let best = row.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z));
        let slack = 16.0 * epsilon::<F>() * (1.0 + answer.reach[i]);
        assert!(row[prediction] >= best - slack, "{what}: sample {i} is predicted {prediction}");
        correct += f64::from(u8::from(prediction == labels[i]));
    }
    assert_eq!(found.accuracy(), correct / labels.len() as f64, "{what}");
}

/// Gradients with respect to embeddings, weights and bias against the oracle.
pub fn assert_gradients<F: Real>(what: &str, found: &Gradients<F>, answer: &Answer) {
    let tolerance = answer.tolerance(epsilon::<F>());
    assert_rows(&format!("{what}: dx"), &found.embeddings, &answer.dx, &answer.size_x, tolerance);
    assert_rows(&format!("{what}: dw"), &found.weights, &answer.dw, &answer.size_w, tolerance);
    if let Some(bias) = &found.bias {
        assert_vector(&format!("{what}: db"), bias, &answer.db, &answer.size_b, tolerance);
    }
}

/// The bits of every number, so that −0 is not 0 and NaN equals itself.
pub fn bits<'a, F: Real>(values: impl IntoIterator<Item = &'a F>) -> Vec<u64> {
    values.into_iter().map(|&v| wide(v).to_bits()).collect()
}

/// The bits of everything a step returns.
pub fn step_bits<F: Real>(forward: &Forward<F>, gradients: &Gradients<F>) -> Vec<u64> {
    let mut all = bits(&forward.losses);
    all.extend(bits(forward.target_angles()));
    all.extend(forward.predictions().iter().map(|&class| class as u64));
    all.extend(bits(&gradients.embeddings));
    all.extend(bits(&gradients.weights));
    all.extend(bits(gradients.bias.iter().flatten()));
    all
}
