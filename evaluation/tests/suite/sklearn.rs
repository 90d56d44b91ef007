//! ROC and AUC against scikit-learn: `tests/sklearn/README.md`.

use margin_softmax_evaluation::Verification;
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
}

/// Sums and quotients of fewer than 100 terms, each rounded to 1.1e-16.
const TOLERANCE: f64 = 1e-12;

#[test]
fn roc_and_auc_are_those_of_scikit_learn() {
    let file: File = serde_json::from_str(include_str!("../sklearn/curves.json")).unwrap();
    for case in file.cases {
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
