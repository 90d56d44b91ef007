//! Bins, tiles and threads: figures within their bounds, exact on demand, the same for any threads.

use margin_softmax_evaluation::{
    AllPairs, Bootstrap, DetectionCost, Figure, Real, Verification, pair_cosines,
};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const FIGURES: [Figure; 4] = [Figure::Eer, Figure::TarAtFar(1e-3), Figure::Accuracy, Figure::Auc];

/// Embeddings so near to each other that the bins hold many scores: beyond one tile both ways.
fn crowded(spread: f64) -> (Array2<f64>, Vec<usize>) {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let identities: Vec<usize> = (0..700).map(|_| rng.random_range(0..90)).collect();
    let x = Array2::from_shape_fn((700, 6), |(row, k)| {
        let center = ((identities[row] * 7 + k * 3) as f64).sin();
        1.0 + spread * (center + rng.random_range(-1.5..1.5))
    });
    (x, identities)
}

fn figures() -> Vec<Figure> {
    let cost = DetectionCost::new(0.1, 1.0, 1.0).unwrap();
    FIGURES.into_iter().chain([Figure::MinDcf(cost)]).collect()
}

#[test]
fn figures_of_bins_lie_within_their_bounds() {
    for spread in [0.003, 0.01, 0.1, 1.0] {
        let (x, identities) = crowded(spread);
        let all = AllPairs::new(&x, &identities).unwrap();
        let (exact, binned) = (all.verification().unwrap(), all.binned().unwrap());
        assert!(exact.is_exact() && !binned.is_exact());
        for figure in figures() {
            let (value, estimate) =
                (exact.figure(figure).unwrap().value, binned.figure(figure).unwrap());
            // Rounding of the two rates, beyond the bound on what the bins hide.
            let error = (value - estimate.value).abs();
            assert!(error <= estimate.bound + 1e-14, "{figure:?} {spread}: {error} {estimate:?}");
        }
        assert!(spread > 0.1 || binned.eer().bound > 0.0);
    }
}

#[test]
fn the_second_pass_makes_figures_exact() {
    for spread in [0.003, 0.1] {
        let (x, identities) = crowded(spread);
        let all = AllPairs::new(&x, &identities).unwrap();
        let (truth, binned) = (all.verification().unwrap(), all.binned().unwrap());
        let exact = all.exact(&binned, &figures()).unwrap();
        assert_eq!(exact.eer(), truth.eer());
        assert_eq!(exact.tar_at_far(1e-3), truth.tar_at_far(1e-3));
        assert_eq!(exact.auc(), truth.auc());
        assert_eq!(exact.least_error(), truth.least_error());
        let cost = DetectionCost::new(0.1, 1.0, 1.0).unwrap();
        assert_eq!(exact.min_dcf(&cost), truth.min_dcf(&cost));
    }
}

#[test]
fn intervals_of_bins_hold_those_of_scores() {
    for spread in [0.003, 0.1] {
        let (x, identities) = crowded(spread);
        let all = AllPairs::new(&x, &identities).unwrap();
        let (exact, binned) = (all.verification().unwrap(), all.binned().unwrap());
        let bootstrap = Bootstrap::new(9).with_replicates(40).unwrap();
        let wide = all.intervals(&binned, &figures(), &bootstrap).unwrap();
        let same = all.intervals(&exact, &figures(), &bootstrap).unwrap();
        for ((figure, wide), same) in figures().into_iter().zip(wide).zip(same) {
            assert_eq!(same, exact.interval(figure, &bootstrap).unwrap());
            // Rounding, beyond the bound on what the bins hide.
            assert!(wide.low <= same.low + 1e-14 && same.high <= wide.high + 1e-14, "{figure:?}");
            let counts = (wide.identities, wide.replicates, wide.genuine, wide.impostors);
            let expected = (same.identities, same.replicates, same.genuine, same.impostors);
            assert_eq!(counts, expected, "{figure:?}");
            // Bins that hold few scores are wide by little.
            let added = (same.low - wide.low) + (wide.high - same.high);
            assert!(spread < 0.1 || added < 0.02, "{figure:?}: {added}");
        }
    }
}

#[test]
fn tiles_hold_every_pair_once() {
    fn check<F: Real>(x: &Array2<F>, identities: &[usize]) {
        let tiled = Verification::from_embeddings(x, identities).unwrap();
        let rows = 0..x.nrows();
        let pairs: Vec<(usize, usize)> =
            rows.clone().flat_map(|i| rows.clone().skip(i + 1).map(move |j| (i, j))).collect();
        let genuine: Vec<bool> =
            pairs.iter().map(|&(i, j)| identities[i] == identities[j]).collect();
        let scores = pair_cosines(x, &pairs).unwrap();
        let listed = Verification::from_scores(&scores, &genuine).unwrap();
        assert_eq!((tiled.genuine(), tiled.impostors()), (listed.genuine(), listed.impostors()));
        // Sorted scores of two computations differ by no more than their errors.
        let (a, b) = (tiled.eer().threshold.cosine(), listed.eer().threshold.cosine());
        assert!((a - b).abs() <= 2.0 * tiled.score_error(), "{a} {b}");
    }
    let (x, identities) = crowded(1.0);
    check(&x, &identities);
    check(&x.mapv(|value| value as f32), &identities);
}

#[test]
fn one_and_two_threads_agree() {
    let (x, identities) = crowded(0.1);
    let all = AllPairs::new(&x, &identities).unwrap();
    let results = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let exact = all.verification().unwrap();
            let bootstrap = Bootstrap::new(5).with_replicates(20).unwrap();
            let interval = exact.interval(Figure::Eer, &bootstrap).unwrap();
            let binned = all.binned().unwrap();
            let intervals = all.intervals(&binned, &FIGURES, &bootstrap).unwrap();
            (exact, binned, interval, intervals)
        })
    });
    assert_eq!(results[0], results[1]);
    let interval = results[0].2;
    assert!(interval.low < interval.value && interval.value < interval.high, "{interval:?}");
}
