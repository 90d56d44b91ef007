//! Cases small enough to work by hand.

use margin_softmax_evaluation::{DetectionCost, Identification, KFolds, Verification, k_folds};
use ndarray::{Array2, array};

const T: bool = true;
const F: bool = false;

#[test]
fn eer_lies_on_the_line_between_its_neighbors() {
    // (FAR, FRR): (0, 1/2) at 0.9, (1/2, 0) at the tie 0.5. On the line x = 1/2 − x: 1/4.
    let pairs = Verification::from_scores(&[0.9, 0.5, 0.5, 0.1], &[T, T, F, F]).unwrap();
    let eer = pairs.eer();
    assert_eq!((eer.rate, eer.threshold.cosine(), eer.far, eer.frr), (0.25, 0.5, 0.5, 0.0));
}

#[test]
fn eer_of_equal_scores_is_one_half() {
    // The line from (0, 1) to (1, 0).
    let pairs = Verification::from_scores(&[0.3; 5], &[T, F, F, T, T]).unwrap();
    assert_eq!((pairs.eer().rate, pairs.auc().value), (0.5, 0.5));
}

#[test]
fn min_dcf_weighs_misses_and_false_accepts() {
    // p = 0.2, c_miss = 2, c_fa = 1: the weights are 0.4 and 0.8, normalized FRR + 2·FAR.
    // At 0.9 (1/2, 0): 0.5. At 0.7 (1/2, 1/4): 1. At 0.6 (0, 1/4): 0.5. The highest is taken.
    let scores = [0.9, 0.7, 0.6, 0.3, 0.2, 0.1];
    let pairs = Verification::from_scores(&scores, &[T, F, T, F, F, F]).unwrap();
    let least = pairs.min_dcf(&DetectionCost::new(0.2, 2.0, 1.0).unwrap());
    assert!((least.cost - 0.5).abs() < 1e-15);
    assert_eq!((least.threshold.cosine(), least.bound), (0.9, 0.0));
    // p = 0.8: the weights are 1.6 and 0.2, normalized 8·FRR + FAR. At 0.6: 1/4.
    let least = pairs.min_dcf(&DetectionCost::new(0.8, 2.0, 1.0).unwrap());
    assert_eq!((least.cost, least.threshold.cosine()), (0.25, 0.6));
}

#[test]
fn tied_impostors_at_the_top_leave_no_threshold() {
    let scores = [vec![0.9; 20], vec![0.95]].concat();
    let genuine: Vec<bool> = (0..21).map(|i| i == 20).collect();
    let pairs = Verification::from_scores(&scores, &genuine).unwrap();
    let point = pairs.tar_at_far(0.5).unwrap();
    assert_eq!((point.threshold.cosine(), point.tar, point.far), (0.95, 1.0, 0.0));
    let all = pairs.tar_at_far(1.0).unwrap();
    assert_eq!((all.threshold.cosine(), all.false_accepts), (0.9, 20));
}

#[test]
fn thresholds_of_folds_come_from_the_other_folds() {
    // Others of fold 0: 0.6 T, 0.5 F, 0.8 T, 0.1 F: best at 0.6. Fold 0: 0.9 T, 0.7 F: 1/2.
    // Others of fold 1: 0.9 T, 0.7 F, 0.8 T, 0.1 F: best at 0.8. Fold 1: 0.6 T, 0.5 F: 1/2.
    // Others of fold 2: 0.9 T, 0.7 F, 0.6 T, 0.5 F: 0.9 and 0.6 miss one; fold 2 at 0.9: 1/2.
    let scores = [0.9, 0.7, 0.6, 0.5, 0.8, 0.1];
    let result = k_folds(&scores, &[T, F, T, F, T, F], 3).unwrap();
    let thresholds: Vec<f64> = result.folds.iter().map(|fold| fold.threshold.cosine()).collect();
    assert_eq!(thresholds, [0.6, 0.8, 0.9]);
    assert_eq!((result.accuracy, result.standard_error), (0.5, 0.0));
}

#[test]
fn rates_of_folds_come_from_the_threshold_of_the_other_folds() {
    // Of fold 0 the others have impostors 0.6, 0.2: FAR 1/2 at 0.6 and 0 at 0.8. Of fold 1 they have
    // 0.7, 0.1: FAR 1/2 at 0.5, for 0.7 is accepted there, and 0 at 0.9.
    let scores = [0.9, 0.7, 0.5, 0.1, 0.8, 0.6, 0.65, 0.2];
    let folds = KFolds::new(&scores, &[T, F, T, F, T, F, T, F], 2).unwrap();
    let folds = folds.with_minimum_false_accepts(1.0).unwrap();
    let half = folds.tar_at_far(0.5).unwrap();
    let thresholds: Vec<f64> = half.folds.iter().map(|fold| fold.threshold.cosine()).collect();
    assert_eq!(thresholds, [0.6, 0.5]);
    let rates: Vec<_> = half.folds.iter().map(|fold| (fold.tar, fold.far)).collect();
    assert_eq!(rates, [(0.5, 0.5), (1.0, 0.5)]);
    assert_eq!((half.tar, half.standard_error, half.far), (0.75, 0.25, 0.5));
    let none = folds.with_minimum_false_accepts(0.0).unwrap().tar_at_far(0.0).unwrap();
    // At 0.65, which also accepts the impostor at 0.7, and at 0.9.
    let rates: Vec<_> = none.folds.iter().map(|fold| (fold.tar, fold.far)).collect();
    assert_eq!(rates, [(0.5, 0.5), (0.0, 0.0)]);
}

#[test]
fn cmc_counts_identities_and_ties_against_the_probe() {
    // Identity 3 has two gallery embeddings and counts once. The probe at 45° ties with all.
    let gallery = array![[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]];
    let probes = array![[0.0, 2.0], [3.0, 0.1], [1.0, 1.0]];
    let search = Identification::new(&gallery, &[1, 2, 3, 3], &probes, &[2, 3, 2]).unwrap();
    // Ranks: 1; 2, for identities 1 and 3 tie; 3.
    assert_eq!(search.cmc(3).unwrap(), [1.0 / 3.0, 2.0 / 3.0, 1.0]);
}

#[test]
fn dir_rests_on_rank_one_above_the_unknown_probes() {
    // 20 unknown probes have highest cosines cos(1°), …, cos(20°); known ones are at 0°, 1.5° and
    // −30° of their mate, and one is nearer to another identity. FAR 0.5 accepts down to cos(10°).
    let at = |degrees: f64| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let gallery = Array2::from(vec![at(0.0), at(120.0)]);
    let angles = (1..=20).map(f64::from).chain([0.0, 1.5, -30.0, 110.0]);
    let probes = Array2::from(angles.map(at).collect::<Vec<_>>());
    let identities: Vec<usize> = (0..24).map(|i| if i < 20 { 9 } else { 1 }).collect();
    let search = Identification::new(&gallery, &[1, 2], &probes, &identities).unwrap();
    let point = search.dir_at_far(0.5).unwrap();
    assert_eq!((point.tar, point.far, point.genuine), (0.5, 0.5, 4));
    // FAR 1 accepts the one at −30° too.
    assert_eq!(search.dir_at_far(1.0).unwrap().tar, 0.75);
    let roc = search.roc().unwrap();
    let curve: Vec<_> = roc.points().iter().map(|point| (point.far, point.tar)).collect();
    assert_eq!(curve[..4], [(0.0, 0.0), (0.0, 0.25), (0.05, 0.25), (0.05, 0.5)]);
    assert_eq!(curve[23], (1.0, 0.75));
    assert_eq!((curve.len(), roc.genuine(), roc.impostors()), (24, 4, 20));
    // No unknown probe is accepted above cos(1°), and one mate is.
    let point = search.with_minimum_false_accepts(0.0).unwrap().dir_at_far(0.0).unwrap();
    assert_eq!((point.tar, point.false_accepts, point.impostors), (0.25, 0, 20));
}
