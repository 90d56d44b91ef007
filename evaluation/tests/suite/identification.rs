//! A search through a gallery of several tiles.

use margin_softmax_evaluation::{Error, Identification, pair_cosines};
use ndarray::{Array2, Axis, concatenate};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const GALLERY: usize = 1300;
const PROBES: usize = 300;
const IDENTITIES: usize = 400;

/// The rank of the mate by its definition, from the cosines of one probe with the whole gallery.
fn rank(cosines: &[f64], gallery: &[usize], mate: usize) -> Option<usize> {
    let score = |identity| {
        let own = cosines.iter().zip(gallery).filter(|&(_, &other)| other == identity);
        own.map(|(&cosine, _)| cosine).reduce(f64::max)
    };
    let least = score(mate)?;
    let others = (0..IDENTITIES).filter(|&identity| identity != mate);
    Some(1 + others.filter(|&other| score(other).is_some_and(|score| score >= least)).count())
}

#[test]
fn ranks_in_a_large_gallery_are_those_of_the_definition() {
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let mut identities =
        |count| -> Vec<usize> { (0..count).map(|_| rng.random_range(0..IDENTITIES)).collect() };
    let (gallery, probes) = (identities(GALLERY), identities(PROBES));
    let mut embeddings = |identities: &[usize]| {
        Array2::from_shape_fn((identities.len(), 8), |(row, k)| {
            ((identities[row] * 7 + k * 3) as f64).sin() + rng.random_range(-0.8..0.8)
        })
    };
    let (x, y) = (embeddings(&gallery), embeddings(&probes));
    let search = Identification::new(&x, &gallery, &y, &probes).unwrap();

    let all = concatenate![Axis(0), x, y];
    let pairs: Vec<_> =
        (0..PROBES).flat_map(|probe| (0..GALLERY).map(move |row| (row, GALLERY + probe))).collect();
    let cosines = pair_cosines(&all, &pairs).unwrap();
    let rows = cosines.chunks(GALLERY).zip(&probes);
    let ranks: Vec<_> = rows.filter_map(|(row, &mate)| rank(row, &gallery, mate)).collect();
    assert_eq!((search.known(), search.unknown()), (ranks.len(), PROBES - ranks.len()));
    assert!(search.unknown() > 0);
    assert_eq!(search.ranks().into_iter().flatten().collect::<Vec<_>>(), ranks);
    for k in [1, 2, 10, 100] {
        let within = ranks.iter().filter(|&&rank| rank <= k).count();
        assert_eq!(search.rank(k).unwrap(), within as f64 / ranks.len() as f64);
    }
}

/// The cosines of every embedding with the set, without the one with itself.
fn others(x: &Array2<f64>, row: usize) -> Vec<(f64, usize)> {
    let pairs: Vec<_> = (0..x.nrows()).filter(|&other| other != row).map(|o| (row, o)).collect();
    let cosines = pair_cosines(x, &pairs).unwrap();
    cosines.into_iter().zip(pairs).map(|(cosine, (_, other))| (cosine, other)).collect()
}

#[test]
fn a_set_is_searched_without_the_embedding_itself() {
    // 30 rows of 10 identities that say nothing of them: each finds another of its own by chance.
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let x = Array2::from_shape_fn((30, 16), |_| rng.random_range(-1.0..1.0));
    let identities: Vec<usize> = (0..30).map(|row| row % 10).collect();
    let refused = Identification::new(&x, &identities, &x, &identities).unwrap_err();
    assert_eq!(refused, Error::SameSet { argument: "probes", rows: 30 });

    let search = Identification::within(&x, &identities).unwrap();
    let nearest = |row| {
        let nearest = others(&x, row).into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a });
        identities[nearest.unwrap().1] == identities[row]
    };
    let found = (0..30).filter(|&row| nearest(row)).count();
    assert_eq!(search.rank(1).unwrap(), found as f64 / 30.0);
    assert!(found < 10, "{found}");
    assert_eq!((search.known(), search.unknown(), search.rank(10).unwrap()), (30, 0, 1.0));
}

#[test]
fn ranks_within_a_large_set_are_those_of_the_definition() {
    let mut rng = Pcg64Mcg::seed_from_u64(6);
    // Some identities have a single embedding: they are unknown.
    let identities: Vec<usize> = (0..1100).map(|_| rng.random_range(0..IDENTITIES)).collect();
    let x = Array2::from_shape_fn((1100, 8), |(row, k)| {
        ((identities[row] * 7 + k * 3) as f64).sin() + rng.random_range(-0.8..0.8)
    });
    let search = Identification::within(&x, &identities).unwrap();
    let ranks = (0..1100).map(|row| {
        let (cosines, places): (Vec<_>, Vec<_>) = others(&x, row).into_iter().unzip();
        let gallery: Vec<_> = places.into_iter().map(|place| identities[place]).collect();
        rank(&cosines, &gallery, identities[row])
    });
    assert_eq!(search.ranks(), ranks.collect::<Vec<_>>());
    assert!(search.unknown() > 0);
}

#[test]
fn probes_that_are_in_the_gallery_are_counted() {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let gallery = Array2::from_shape_fn((20, 8), |_| rng.random_range(-1.0..1.0));
    let identities: Vec<usize> = (0..20).map(|row| row / 2).collect();
    // Rows 4 to 11 twice as long, once with their own identities and once with others.
    let probes = gallery.slice(ndarray::s![4..12, ..]).mapv(|value| 2.0 * value);
    let search = |wanted: &[usize]| Identification::new(&gallery, &identities, &probes, wanted);
    assert_eq!(search(&identities[4..12]).unwrap().copies(), 8);
    assert_eq!(search(&identities[8..16]).unwrap().copies(), 0);
}
