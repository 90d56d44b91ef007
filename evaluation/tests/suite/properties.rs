//! Properties of all sets of scores, those with many ties too.

use margin_softmax_evaluation::Verification;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

fn config() -> Config {
    let rng_seed = RngSeed::Fixed(20_240_817);
    Config { cases: 500, failure_persistence: None, rng_seed, ..Config::default() }
}

/// Scores on a grid, so that there are ties, with both kinds of pairs.
fn sets() -> impl Strategy<Value = (Vec<f64>, Vec<bool>)> {
    (1..40_i32).prop_flat_map(|grid| {
        let pair = (-grid..=grid, any::<bool>());
        prop::collection::vec(pair, 2..60).prop_map(move |pairs| {
            let scores = pairs.iter().map(|&(score, _)| f64::from(score) / f64::from(grid));
            let mut genuine: Vec<bool> = pairs.iter().map(|&(_, genuine)| genuine).collect();
            (genuine[0], genuine[1]) = (true, false);
            (scores.collect(), genuine)
        })
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn increasing_maps_change_no_rate((scores, genuine) in sets()) {
        let mapped: Vec<f64> = scores.iter().map(|score| 3.0 * score.powi(3) + score - 7.0).collect();
        let pairs = Verification::from_scores(&scores, &genuine).unwrap();
        let others = Verification::from_scores(&mapped, &genuine).unwrap();
        prop_assert_eq!(pairs.auc(), others.auc());
        prop_assert_eq!(pairs.eer().rate, others.eer().rate);
        prop_assert_eq!(pairs.least_error().cost, others.least_error().cost);
    }

    #[test]
    fn order_changes_nothing((scores, genuine) in sets()) {
        let reversed = |scores: &[f64]| scores.iter().rev().copied().collect::<Vec<_>>();
        let backwards: Vec<bool> = genuine.iter().rev().copied().collect();
        let pairs = Verification::from_scores(&scores, &genuine).unwrap();
        prop_assert_eq!(&pairs, &Verification::from_scores(&reversed(&scores), &backwards).unwrap());
    }

    #[test]
    fn exchanged_kinds_have_the_other_auc((scores, genuine) in sets()) {
        let exchanged: Vec<bool> = genuine.iter().map(|genuine| !genuine).collect();
        let auc = Verification::from_scores(&scores, &genuine).unwrap().auc().value;
        let other = Verification::from_scores(&scores, &exchanged).unwrap().auc().value;
        // Two quotients, each rounded to 1.1e-16.
        prop_assert!((auc + other - 1.0).abs() <= 4e-16);
    }

    #[test]
    fn roc_rises_and_the_eer_lies_between_its_points((scores, genuine) in sets()) {
        let pairs = Verification::from_scores(&scores, &genuine).unwrap();
        let roc = pairs.roc();
        let eer = pairs.eer();
        prop_assert!((0.0..=1.0).contains(&eer.rate));
        for ends in roc.points().windows(2) {
            prop_assert!(ends[0].far <= ends[1].far && ends[0].tar <= ends[1].tar);
            prop_assert!(ends[0].threshold > ends[1].threshold);
            if ends[1].threshold == eer.threshold {
                // The rate is rounded: its last bits may lie beyond the ends.
                prop_assert!(ends[0].far <= eer.rate + 4e-16 && eer.rate <= ends[1].far + 4e-16);
                prop_assert!(ends[1].frr <= eer.rate + 4e-16 && eer.rate <= ends[0].frr + 4e-16);
            }
        }
    }
}
