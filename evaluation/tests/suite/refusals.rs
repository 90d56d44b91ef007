//! Every refusal is a typed error that names the place.

use margin_softmax_evaluation::{
    AllPairs, Bootstrap, Error, Figure, Identification, KFolds, Labels, Retrieval, Verification,
    k_folds, pair_cosines,
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
fn sets_without_unknown_probes_have_no_open_set_roc() {
    let x = array![[1.0, 0.0], [0.0, 1.0]];
    let search = Identification::new(&x, &[1, 2], &array![[1.0, 0.1]], &[1]).unwrap();
    assert_eq!(search.roc().unwrap_err(), Error::NoUnknownProbe { probes: 1 });
    let search = search.with_minimum_false_accepts(0.0).unwrap();
    let expected = Error::TooFewImpostors { far: 0.5, impostors: 0, required: 1 };
    assert_eq!(search.dir_at_far(0.5).unwrap_err(), expected);
}

#[test]
fn numbers_of_false_accepts_that_cannot_be_expected_are_refused() {
    let (scores, genuine) = ([0.9, 0.8, 0.2, 0.1], [true, false, true, false]);
    let pairs = Verification::from_scores(&scores, &genuine).unwrap();
    let folds = KFolds::new(&scores, &genuine, 2).unwrap();
    for minimum in [-1.0, f64::NAN, f64::INFINITY] {
        let refused = |error: Error| {
            assert!(matches!(error, Error::Parameter { parameter: "minimum false accepts", .. }));
        };
        refused(pairs.clone().with_minimum_false_accepts(minimum).unwrap_err());
        refused(folds.clone().with_minimum_false_accepts(minimum).unwrap_err());
    }
    // One impostor is outside of each fold.
    let expected = Error::TooFewImpostors { far: 1.0, impostors: 1, required: 10 };
    assert_eq!(folds.tar_at_far(1.0).unwrap_err(), expected);
    let folds = folds.with_minimum_false_accepts(0.0).unwrap();
    assert!(matches!(folds.tar_at_far(f64::NAN), Err(Error::Parameter { parameter: "FAR", .. })));
    // Each fold is needed with both kinds.
    let folds = KFolds::of(&scores, &[true, false, true, true], &[0, 0, 1, 1]).unwrap();
    let refused = folds.with_minimum_false_accepts(0.0).unwrap().tar_at_far(0.5).unwrap_err();
    assert_eq!(refused, Error::Fold { fold: 0, lacks: "impostor pairs outside of it" });
}

#[test]
fn bad_retrievals_are_named() {
    let x = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
    let (one, two) = ([1, 1, 2], [1, 1]);
    assert_eq!(Retrieval::within(&x, &[1, 2, 3]).unwrap_err(), Error::NoMate { probes: 3 });
    let shape = |argument, expected: &[usize], actual: &[usize]| Error::Shape {
        argument,
        expected: expected.into(),
        actual: actual.into(),
    };
    assert_eq!(Retrieval::within(&x, &two).unwrap_err(), shape("identities", &[3], &[2]));
    let groups = Labels::new(&one).with_groups(&two);
    assert_eq!(Retrieval::within(&x, groups).unwrap_err(), shape("groups", &[3], &[2]));
    let refused = Retrieval::new(&x, &one, &array![[1.0, 0.0, 0.0]], &[1]).unwrap_err();
    assert_eq!(refused, shape("queries", &[1, 2], &[1, 3]));
    let refused = Retrieval::new(&x, &one, &x, &one).unwrap_err();
    assert_eq!(refused, Error::SameSet { argument: "queries", rows: 3 });
    let groups = Labels::new(&one).with_groups(&one);
    let refused = Retrieval::new(&x, groups, &array![[1.0, 0.0]], &[1]).unwrap_err();
    assert_eq!(refused, Error::Groups { argument: "queries" });
    let refused =
        Retrieval::from_scores(&x, &one, Labels::new(&two).with_groups(&two)).unwrap_err();
    assert_eq!(refused, Error::Groups { argument: "queries" });
    let empty = Array2::<f64>::zeros((0, 2));
    let refused = Retrieval::within(&empty, &[]).unwrap_err();
    assert_eq!(refused, Error::Empty { argument: "embeddings", actual: vec![0, 2] });
    let found = Retrieval::within(&x, &one).unwrap();
    for k in [0, 3] {
        assert!(matches!(found.recall_at(k), Err(Error::Parameter { parameter: "k", .. })));
        assert!(matches!(found.cmc(k), Err(Error::Parameter { parameter: "k", .. })));
    }
}

#[test]
fn bad_scores_are_refused_where_they_are_read() {
    let scores = array![[f64::NAN, 0.5, 0.1], [0.5, f64::INFINITY, 0.2], [0.1, 0.2, 0.3]];
    let identities = [1, 1, 2];
    assert!(Retrieval::within_scores(&scores, &identities).is_ok());
    assert!(Identification::within_scores(&scores, &identities).is_ok());
    for refused in [
        Retrieval::from_scores(&scores, &identities, &identities).unwrap_err(),
        Identification::from_scores(&scores, &identities, &identities).unwrap_err(),
    ] {
        let named =
            matches!(refused, Error::NonFinite { argument: "scores", row: 0, column: 0, .. });
        assert!(named, "{refused}");
    }
    // Groups exclude the two scores that are not numbers, and no other.
    let labels = Labels::new(&identities).with_groups(&[4, 5, 6]);
    let found = Retrieval::from_scores(&scores, labels, labels).unwrap();
    assert_eq!(found.ranks(), [Some(1), Some(1), None]);
    let mut masked = scores.clone();
    masked[[2, 1]] = f64::NEG_INFINITY;
    let refused = Retrieval::from_scores(&masked, labels, labels).unwrap_err();
    let expected =
        Error::NonFinite { argument: "scores", row: 2, column: 1, value: f64::NEG_INFINITY };
    assert_eq!(refused, expected);
    let wide = scores.slice(ndarray::s![..2, ..]);
    let refused = Retrieval::within_scores(&wide, &identities).unwrap_err();
    let expected = Error::Shape { argument: "scores", expected: vec![2, 2], actual: vec![2, 3] };
    assert_eq!(refused, expected);
    assert_eq!(Identification::within_scores(&wide, &identities).unwrap_err(), expected);
}

#[test]
fn bins_of_other_pairs_are_refused() {
    let x = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]];
    let one = AllPairs::new(&x, &[0, 0, 1, 2]).unwrap();
    let other = AllPairs::new(&x, &[0, 0, 1, 1]).unwrap();
    let refused = one.exact(&other.binned().unwrap(), &[Figure::Eer]).unwrap_err();
    assert_eq!(refused, Error::OtherPairs { expected: [1, 5], actual: [2, 4] });
    let binned = other.binned().unwrap();
    let refused = one.intervals(&binned, &[Figure::Eer], &Bootstrap::new(1)).unwrap_err();
    assert_eq!(refused, Error::OtherPairs { expected: [1, 5], actual: [2, 4] });
    // As many pairs of both kinds, and the same scores: the highest is genuine here.
    let other = AllPairs::new(&x, &[0, 1, 0, 2]).unwrap();
    let binned = AllPairs::new(&x, &[0, 1, 2, 2]).unwrap().binned().unwrap();
    let refused = other.intervals(&binned, &[Figure::Eer], &Bootstrap::new(1)).unwrap_err();
    assert_eq!(refused, Error::OtherPairs { expected: [0, 1], actual: [1, 0] });
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
