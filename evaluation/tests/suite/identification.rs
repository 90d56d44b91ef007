//! A search through a gallery of several tiles.

use margin_softmax_evaluation::{Identification, pair_cosines};
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
    for k in [1, 2, 10, 100] {
        let within = ranks.iter().filter(|&&rank| rank <= k).count();
        assert_eq!(search.rank(k).unwrap(), within as f64 / ranks.len() as f64);
    }
}
