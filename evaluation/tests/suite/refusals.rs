//! Every refusal is a typed error that names the place.

use margin_softmax_evaluation::{
    AllPairs, Bootstrap, Error, Figure, Identification, Verification, k_folds, pair_cosines,
};
use ndarray::{Array2, array};

#[test]
fn sets_without_one_kind_of_pair_are_refused() {
    let x = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
    let refused = |identities| Verification::from_embeddings(&x, identities).unwrap_err();
    assert_eq!(refused(&[4, 4, 4]), Error::NoImpostorPair { pairs: 3 });
    assert_eq!(refused(&[1, 2, 3]), Error::NoGenuinePair { pairs: 3 });
    let refused = Verification::from_scores(&[0.1, 0.2], &[true, true]).unwrap_err();
    assert_eq!(refused, Error::NoImpostorPair { pairs: 2 });
}

#[test]
fn bad_embeddings_are_named() {
    let mut x = Array2::<f32>::ones((4, 3));
    x[[2, 1]] = f32::NAN;
    let refused = Verification::from_embeddings(&x, &[1, 0, 1, 0]).unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "embeddings", row: 2, column: 1, .. }));
    x.row_mut(2).fill(0.0);
    let refused = Verification::from_embeddings(&x, &[1, 0, 1, 0]).unwrap_err();
    assert_eq!(refused, Error::ZeroEmbedding { argument: "embeddings", row: 2 });
    let refused = pair_cosines(&x, &[(0, 1), (1, 4)]).unwrap_err();
    assert_eq!(refused, Error::PairRow { position: 1, row: 4, rows: 4 });
}

#[test]
fn tiny_and_huge_embeddings_have_directions() {
    let x = array![[5e-324, 0.0], [1e308, 0.0], [1e308, 1e308]];
    let cosines = pair_cosines(&x, &[(0, 1), (0, 2)]).unwrap();
    assert_eq!(cosines[0], 1.0);
    assert!((cosines[1] - 0.5_f64.sqrt()).abs() < 1e-15);
}

#[test]
fn rates_and_ranks_out_of_range_are_refused() {
    let scores: Vec<f64> = (0..40).map(f64::from).collect();
    let genuine: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
    let pairs = Verification::from_scores(&scores, &genuine).unwrap();
    for far in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(pairs.tar_at_far(far), Err(Error::Parameter { parameter: "FAR", .. })));
    }
    for (far, required) in [(0.1, 100), (0.0, u64::MAX)] {
        let expected = Error::TooFewImpostors { far, impostors: 20, required };
        assert_eq!(pairs.tar_at_far(far).unwrap_err(), expected);
        assert!(expected.to_string().contains("with_minimum_false_accepts"));
    }
    assert!(pairs.tar_at_far(0.5).is_ok());
    for k in [0, 1, 41] {
        assert!(matches!(k_folds(&scores, &genuine, k), Err(Error::Parameter { .. })));
    }
    let refused = pairs.interval(Figure::Eer, &Bootstrap::new(1)).unwrap_err();
    assert_eq!(refused, Error::NoIdentities);
}

#[test]
fn searches_without_mates_are_refused() {
    let x = array![[1.0, 0.0], [0.0, 1.0]];
    let search = Identification::new(&x, &[1, 2], &x, &[3, 4]).unwrap();
    assert_eq!(search.rank(1).unwrap_err(), Error::NoMate { probes: 2 });
    assert!(matches!(search.rank(3), Err(Error::Parameter { parameter: "rank k", .. })));
    assert!(matches!(search.cmc(0), Err(Error::Parameter { .. })));
}

#[test]
fn bins_of_other_pairs_are_refused() {
    let x = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]];
    let one = AllPairs::new(&x, &[0, 0, 1, 2]).unwrap();
    let other = AllPairs::new(&x, &[0, 0, 1, 1]).unwrap();
    let refused = one.exact(&other.binned().unwrap(), &[Figure::Eer]).unwrap_err();
    assert_eq!(refused, Error::OtherPairs { expected: [1, 5], actual: [2, 4] });
}

#[test]
fn bins_that_hold_too_many_scores_are_refused() {
    // All embeddings are equal: one score, and 2.2 million pairs that have it.
    let (x, identities) =
        (Array2::<f32>::ones((2100, 2)), Vec::from_iter((0..2100).map(|i| i / 2)));
    let all = AllPairs::new(&x, &identities).unwrap();
    let binned = all.verification().unwrap();
    let refused = all.exact(&binned, &[Figure::Eer]).unwrap_err();
    let (scores, limit) = (2100 * 2099 / 2, AllPairs::<f32>::COLLECTED_SCORES);
    assert_eq!(refused, Error::CrowdedBins { scores, limit });
}
