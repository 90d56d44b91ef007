//! ROC, AUC and TAR@FAR by folds against scikit-learn: `tests/sklearn/README.md`.

use margin_softmax_evaluation::{KFolds, Verification};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    scores: Vec<f64>,
    genuine: Vec<bool>,
    points: Vec<[f64; 3]>,
    auc: f64,
    folds: Vec<FoldsAtFar>,
}

#[derive(Deserialize)]
struct FoldsAtFar {
    far: f64,
    rates: Vec<[f64; 2]>,
}

/// Sums and quotients of fewer than 100 terms, each rounded to 1.1e-16.
const TOLERANCE: f64 = 1e-12;

fn cases() -> Vec<Case> {
    let file: File = serde_json::from_str(include_str!("../sklearn/curves.json")).unwrap();
    file.cases
}

#[test]
fn roc_and_auc_are_those_of_scikit_learn() {
    for case in cases() {
        let pairs = Verification::from_scores(&case.scores, &case.genuine).unwrap();
        assert!((pairs.auc().value - case.auc).abs() <= TOLERANCE, "{}", case.name);
        let roc = pairs.roc();
        assert_eq!(roc.points().len(), case.points.len() + 1, "{}", case.name);
        for (point, [threshold, far, tar]) in roc.points()[1..].iter().zip(case.points) {
            assert_eq!(point.threshold.cosine(), threshold, "{}", case.name);
            assert!((point.far - far).abs() <= TOLERANCE, "{}", case.name);
            assert!((point.tar - tar).abs() <= TOLERANCE, "{}", case.name);
            assert!((point.tar + point.frr - 1.0).abs() <= TOLERANCE, "{}", case.name);
        }
    }
}

#[test]
fn thresholds_at_a_far_by_folds_are_those_of_scikit_learn() {
    for case in cases() {
        for FoldsAtFar { far, rates } in case.folds {
            let folds = KFolds::new(&case.scores, &case.genuine, rates.len()).unwrap();
            let found = folds.with_minimum_false_accepts(0.0).unwrap().tar_at_far(far).unwrap();
            for (fold, [far, tar]) in found.folds.iter().zip(&rates) {
                assert!((fold.far - far).abs() <= TOLERANCE, "{} {far}", case.name);
                assert!((fold.tar - tar).abs() <= TOLERANCE, "{} {tar}", case.name);
            }
            let mean = rates.iter().map(|[_, tar]| tar).sum::<f64>() / rates.len() as f64;
            assert!((found.tar - mean).abs() <= TOLERANCE, "{} {mean}", case.name);
        }
    }
}
