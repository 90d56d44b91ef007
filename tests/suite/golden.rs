//! Losses and gradients against 90-digit arithmetic, at both levels, in both types.

use crate::common::golden::{Case, cases, narrow1, narrow2};
use margin_softmax::{Batch, Gradients, Head, MarginLoss, NormalizedLogits, Real, Reduction};
use ndarray::{Array, Dimension};

/// Asserts that `found` lies within `tolerance` of `expected`, relative to the array's largest
/// entry. In f32, entries below the smallest normal number are passed over.
fn assert_close<F: Real, D: Dimension>(
    what: &str,
    case: &Case,
    found: &Array<F, D>,
    expected: &Array<f64, D>,
    tolerance: f64,
) {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let floor = F::min_positive_value().to_f64().unwrap();
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.to_f64().unwrap();
        let error = (found - expected).abs();
        let allowed = tolerance * largest + floor;
        assert!(
            error <= allowed,
            "{} {what}[{index}]: {found:e} for {expected:e}, off by {error:e}, allowed {allowed:e}",
            case.id
        );
    }
}

/// Each loss is held to its own size: a loss of 1e-8 must be right too.
fn assert_losses<F: Real>(case: &Case, found: &ndarray::Array1<F>) {
    let epsilon = F::epsilon().to_f64().unwrap();
    let floor = F::min_positive_value().to_f64().unwrap();
    for (i, (found, expected)) in found.iter().zip(&case.vector("losses").unwrap()).enumerate() {
        let error = (found.to_f64().unwrap() - expected).abs();
        let allowed = case.loss_tolerance(epsilon) * expected + floor;
        assert!(error <= allowed, "{} loss {i}: {found:e} for {expected:e}", case.id);
    }
}

fn assert_gradients<F: Real>(case: &Case, found: &Gradients<F>) {
    let tolerance = case.tolerance(F::epsilon().to_f64().unwrap());
    assert_close("dx", case, &found.embeddings, &case.matrix("dx").unwrap(), tolerance);
    assert_close("dw", case, &found.weights, &case.matrix("dw").unwrap(), tolerance);
    if let (Some(found), Some(expected)) = (&found.bias, case.vector("db")) {
        assert_close("db", case, found, &expected, tolerance);
    }
}

fn assert_target_angles<F: Real>(case: &Case, found: &ndarray::Array1<F>) {
    let Some(expected) = case.vector("theta_target") else { return };
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found.to_f64().unwrap() - expected).abs();
        let allowed = 4.0 * F::epsilon().to_f64().unwrap() * expected.max(f64::EPSILON);
        assert!(error <= allowed + 1e-15, "{} theta {i}: {found:e} for {expected:e}", case.id);
    }
}

pub fn check_head<F: Real>(case: Case) {
    let (x, w) = (narrow2::<F>(case.matrix("x").unwrap()), narrow2(case.matrix("w").unwrap()));
    let bias = case.vector("b").map(narrow1);
    let weights = narrow1(case.loss_weights());
    let mut batch = Batch::new(&x, &w, &case.labels);
    if let Some(bias) = &bias {
        batch = batch.with_bias(bias);
    }
    let prior = case.log_prior();
    if let Some(prior) = &prior {
        batch = batch.with_log_prior(prior);
    }
    batch = batch.with_sub_centers(case.sub_centers);
    let mut gradients = Gradients::zeros_for(&batch);
    let reduction = Reduction::Weighted(&weights);
    for head in Head::new(&case.loss).at_every_level() {
        let forward = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
        assert_losses(&case, &forward.losses);
        assert_target_angles(&case, forward.target_angles());
        assert_gradients(&case, &gradients);
        let alone = head.forward(&batch).unwrap();
        assert_eq!(alone.losses, forward.losses, "{}", case.id);
    }
}

pub fn check_logits<F: Real>(case: Case) {
    let (x, w) = (narrow2::<F>(case.matrix("x").unwrap()), narrow2(case.matrix("w").unwrap()));
    let weights = narrow1(case.loss_weights());
    let mut logits = NormalizedLogits::new(&x, &w).unwrap();
    if let Some(bias) = case.vector("b") {
        logits = logits.with_bias(&narrow1(bias)).unwrap();
    }
    logits = logits.with_sub_centers(case.sub_centers).unwrap();
    if let Some(prior) = case.log_prior() {
        logits = logits.with_log_prior(&prior).unwrap();
    }
    let forward = case.loss.forward(&logits, &case.labels).unwrap();
    assert_losses(&case, &forward.losses);
    assert_target_angles(&case, forward.target_angles());
    let reduction = Reduction::Weighted(&weights);
    let gradients = case.loss.backward(&logits, &case.labels, &forward, reduction).unwrap();
    if let Some(expected) = case.matrix("dcos") {
        let tolerance = case.tolerance(F::epsilon().to_f64().unwrap());
        assert_close("dcos", &case, &gradients.cosines, &expected, tolerance);
    }
    assert_gradients(&case, &logits.backward(&gradients).unwrap());
}

#[test]
fn head_agrees_with_golden_cases_in_f64() {
    cases().into_iter().for_each(check_head::<f64>);
}

#[test]
fn head_agrees_with_golden_cases_in_f32() {
    cases().into_iter().filter(|case| case.f32_exact).for_each(check_head::<f32>);
}

#[test]
fn logits_agree_with_golden_cases_in_f64() {
    cases().into_iter().for_each(check_logits::<f64>);
}

#[test]
fn logits_agree_with_golden_cases_in_f32() {
    cases().into_iter().filter(|case| case.f32_exact).for_each(check_logits::<f32>);
}

#[test]
fn there_are_forty_golden_cases() {
    assert_eq!(cases().len(), 40);
}
