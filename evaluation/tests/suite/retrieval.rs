//! Retrieval against other libraries, `tests/retrieval/README.md`, and against its definition.

use std::cmp::Ordering;

use margin_softmax_evaluation::{Identification, Labels, RankedQuery, Retrieval};
use ndarray::{Array2, array};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    ks: Vec<usize>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    embeddings: Vec<Vec<f64>>,
    identities: Vec<usize>,
    cameras: Vec<usize>,
    queries: Vec<Option<Query>>,
    camera_queries: Vec<Option<Query>>,
    metric_learning: MetricLearning,
}

#[derive(Deserialize)]
struct Query {
    relevant: usize,
    average_precision: f64,
    torchmetrics_average_precision: f64,
    torchmetrics_r_precision: f64,
    torchmetrics_reciprocal_rank: f64,
    torchmetrics_hits: Vec<f64>,
}

#[derive(Deserialize)]
struct MetricLearning {
    precision_at_1: f64,
    r_precision: f64,
    mean_average_precision: f64,
    mean_average_precision_at_r: f64,
}

/// Sums of at most 120 terms and their quotients, each rounded to 1.1e-16.
const TOLERANCE: f64 = 1e-12;

fn file() -> File {
    serde_json::from_str(include_str!("../retrieval/retrieval.json")).unwrap()
}

fn matrix(rows: &[Vec<f64>]) -> Array2<f64> {
    Array2::from_shape_fn((rows.len(), rows[0].len()), |(row, column)| rows[row][column])
}

fn check_queries(found: &Retrieval, expected: &[Option<Query>], ks: &[usize], name: &str) {
    for (found, expected) in found.per_query().iter().zip(expected) {
        let (Some(found), Some(expected)) = (found, expected) else {
            assert!(found.is_none() && expected.is_none(), "{name}");
            continue;
        };
        assert_eq!(found.relevant, expected.relevant, "{name}");
        let error = found.average_precision - expected.average_precision;
        assert!(error.abs() <= TOLERANCE, "{name}: {error}");
        // torchmetrics sums at most 120 quotients in f32.
        let error = found.average_precision - expected.torchmetrics_average_precision;
        assert!(error.abs() <= 120.0 * f64::from(f32::EPSILON), "{name}: {error}");
        // One quotient, rounded to f32.
        assert_eq!(found.r_precision as f32, expected.torchmetrics_r_precision as f32, "{name}");
        let reciprocal = 1.0 / found.rank as f32;
        assert_eq!(reciprocal, expected.torchmetrics_reciprocal_rank as f32, "{name}");
        for (&k, &hit) in ks.iter().zip(&expected.torchmetrics_hits) {
            assert_eq!(f64::from(u8::from(found.rank <= k)), hit, "{name}, k = {k}");
        }
    }
}

#[test]
fn each_query_of_a_set_has_the_values_of_scikit_learn_and_torchmetrics() {
    let File { ks, cases } = file();
    for case in cases {
        let found = Retrieval::within(&matrix(&case.embeddings), &case.identities).unwrap();
        check_queries(&found, &case.queries, &ks, &case.name);
        let matched: Vec<&Query> = case.queries.iter().flatten().collect();
        let alone = case.queries.len() - matched.len();
        assert_eq!((found.matched(), found.unmatched()), (matched.len(), alone), "{}", case.name);
        assert!(alone > 0, "{}", case.name);
        for (at, &k) in ks.iter().enumerate() {
            let hits: f64 = matched.iter().map(|query| query.torchmetrics_hits[at]).sum();
            let error = found.recall_at(k).unwrap() - hits / matched.len() as f64;
            assert!(error.abs() <= TOLERANCE, "{}, k = {k}: {error}", case.name);
            assert_eq!(found.cmc(k).unwrap()[k - 1], found.recall_at(k).unwrap());
        }
    }
}

#[test]
fn means_are_those_of_pytorch_metric_learning() {
    for case in file().cases {
        let found = Retrieval::within(&matrix(&case.embeddings), &case.identities).unwrap();
        let expected = case.metric_learning;
        for (found, expected) in [
            (found.precision_at_1(), expected.precision_at_1),
            (found.r_precision(), expected.r_precision),
            (found.mean_average_precision(), expected.mean_average_precision),
            (found.mean_average_precision_at_r(), expected.mean_average_precision_at_r),
        ] {
            assert!((found - expected).abs() <= TOLERANCE, "{}: {found} {expected}", case.name);
        }
    }
}

#[test]
fn items_of_the_camera_of_a_query_are_excluded() {
    let File { ks, cases } = file();
    for case in cases {
        let x = matrix(&case.embeddings);
        let labels = Labels::new(&case.identities).with_groups(&case.cameras);
        let within = Retrieval::within(&x, labels).unwrap();
        check_queries(&within, &case.camera_queries, &ks, &case.name);
        // The rule excludes an item from its own search, too: the set may be its own gallery.
        assert_eq!(Retrieval::new(&x, labels, &x, labels).unwrap().per_query(), within.per_query());
    }
    // The nearest item is of the query's camera, and the next of another identity.
    let gallery = array![[0.99, 0.1], [0.5, 0.9], [0.8, 0.6]];
    let gallery_labels = Labels::new(&[1, 1, 2]).with_groups(&[0, 1, 0]);
    let query = Labels::new(&[1]).with_groups(&[0]);
    let found = Retrieval::new(&gallery, gallery_labels, &array![[1.0, 0.0]], query).unwrap();
    assert_eq!((found.recall_at(1).unwrap(), found.mean_average_precision()), (0.0, 0.5));
    let found = Retrieval::new(&gallery, &[1, 1, 2], &array![[1.0, 0.0]], &[1]).unwrap();
    assert_eq!(found.recall_at(1).unwrap(), 1.0);
}

/// What the definition says of the list of one query: (score, relevant), irrelevant items first
/// among equals.
fn by_definition(mut list: Vec<(f64, bool)>) -> Option<RankedQuery> {
    let order = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    list.sort_by(|a, b| order(a.0, b.0).then(a.1.cmp(&b.1)));
    let ranks = list.iter().enumerate().filter(|(_, item)| item.1).map(|(place, _)| place + 1);
    let ranks: Vec<usize> = ranks.collect();
    let r = ranks.len() as f64;
    let precision = |(m, &rank): (usize, &usize)| (m + 1) as f64 / rank as f64;
    let within = ranks.iter().filter(|&&rank| rank <= ranks.len()).count();
    Some(RankedQuery {
        relevant: ranks.len(),
        rank: *ranks.first()?,
        r_precision: within as f64 / r,
        average_precision: ranks.iter().enumerate().map(precision).sum::<f64>() / r,
        average_precision_at_r: ranks[..within].iter().enumerate().map(precision).sum::<f64>() / r,
    })
}

/// A matrix of 1,100 queries with 1,300 items, of 3 identities of several hundred items and 150 of
/// about three, on a grid of scores so that there are ties, with groups.
struct Large {
    scores: Array2<f64>,
    labels: [Vec<usize>; 2],
    groups: [Vec<usize>; 2],
}

fn large() -> Large {
    let mut rng = Pcg64Mcg::seed_from_u64(8);
    let (queries, items) = (1100, 1300);
    let mut label = || match rng.random_range(0..3) {
        0 => 1000 + rng.random_range(0..150),
        _ => rng.random_range(0..3),
    };
    let labels = [queries, items].map(|count| (0..count).map(|_| label()).collect::<Vec<_>>());
    let groups = [queries, items].map(|n| (0..n).map(|_| rng.random_range(0..4)).collect());
    let scores = Array2::from_shape_fn((queries, items), |(query, item)| {
        let same = labels[0][query] == labels[1][item];
        (f64::from(rng.random_range(0..400)) + if same { 60.0 } else { 0.0 }) / 8.0
    });
    Large { scores, labels, groups }
}

#[test]
fn several_tiles_of_scores_with_ties_have_the_ranks_of_the_definition() {
    let Large { scores, labels, groups } = large();
    let [queries, items] = [0, 1].map(|side| Labels::new(&labels[side]).with_groups(&groups[side]));
    let plain = Retrieval::from_scores(&scores, &labels[0], &labels[1]).unwrap();
    let grouped = Retrieval::from_scores(&scores, queries, items).unwrap();
    for query in 0..scores.nrows() {
        let same = |names: &[Vec<usize>; 2], item: usize| names[0][query] == names[1][item];
        let list = |with_groups: bool| {
            let seen = |&item: &usize| !(with_groups && same(&labels, item) && same(&groups, item));
            let items = (0..scores.ncols()).filter(seen);
            items.map(|item| (scores[[query, item]], same(&labels, item))).collect()
        };
        for (found, expected) in [
            (plain.per_query()[query], by_definition(list(false))),
            (grouped.per_query()[query], by_definition(list(true))),
        ] {
            let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE;
            let same = |a: RankedQuery, b: RankedQuery| {
                (a.relevant, a.rank, a.r_precision) == (b.relevant, b.rank, b.r_precision)
                    && close(a.average_precision, b.average_precision)
                    && close(a.average_precision_at_r, b.average_precision_at_r)
            };
            let agree = found.zip(expected).map_or(found == expected, |(a, b)| same(a, b));
            assert!(agree, "query {query}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn one_and_two_threads_rank_alike() {
    let Large { scores, labels, .. } = large();
    let results = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let ranked = Retrieval::from_scores(&scores, &labels[0], &labels[1]).unwrap();
            (ranked, Identification::from_scores(&scores, &labels[0], &labels[1]).unwrap())
        })
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn scores_of_embeddings_rank_as_the_embeddings_do() {
    let mut rng = Pcg64Mcg::seed_from_u64(2);
    // Entries of one bit, and norms of powers of two: cosines are exact, and many are equal.
    let x = Array2::from_shape_fn((600, 16), |_| f64::from(2 * rng.random_range(0..2) - 1));
    let identities: Vec<usize> = (0..600).map(|_| rng.random_range(0..40)).collect();
    let mut cosines = x.dot(&x.t()) / 16.0;
    cosines.diag_mut().fill(f64::NAN);
    let embedded = Retrieval::within(&x, &identities).unwrap();
    assert_eq!(embedded, Retrieval::within_scores(&cosines, &identities).unwrap());
    let searched = Identification::within(&x, &identities).unwrap();
    assert_eq!(searched, Identification::within_scores(&cosines, &identities).unwrap());
    // An item of another identity at the very place of the query's own leaves rank 1 to it.
    let twin = array![[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]];
    assert_eq!(Retrieval::within(&twin, &[1, 1, 2]).unwrap().ranks(), [Some(2), Some(2), None]);
}
