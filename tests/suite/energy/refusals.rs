//! What has no energy is refused, with its place.

use super::*;

#[test]
fn parallel_rows_are_refused_by_name() {
    let mut w = Rng::new(14).matrix(200, 6);
    let copy = &w.row(31) * 3.0;
    w.row_mut(170).assign(&copy);
    for (riesz, space) in RIESZ.into_iter().zip([Space::Full, Space::Half, Space::Full]) {
        let refused = hyperspherical_energy(&w, riesz, space).unwrap_err();
        assert!(
            matches!(refused, Error::Pole { rows: [31, 170], opposed: false, .. }),
            "{refused:?}"
        );
        assert!(refused.to_string().starts_with("class weights 31 and 170 point the same way"));
    }
}

#[test]
fn opposed_rows_are_refused_in_half_space_alone() {
    let mut w = narrow(&Rng::new(15).matrix(200, 6));
    let copy = &w.row(31) * -4.0;
    w.row_mut(170).assign(&copy);
    assert!(hyperspherical_energy(&w, Riesz::Two, Space::Full).is_ok());
    let refused = hyperspherical_energy(&w, Riesz::Two, Space::Half).unwrap_err();
    assert_eq!(refused, Error::Pole { rows: [31, 170], opposed: true, distance: 0.0 });
    assert!(refused.to_string().starts_with("class weights 31 and 170 point opposite ways"));
}

#[test]
fn batch_minds_only_its_own_poles() {
    let w = array![[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]];
    assert!(hyperspherical_energy_of_batch(&w, &[2, 3], Riesz::Two).is_ok());
    let refused = hyperspherical_energy_of_batch(&w, &[2, 1], Riesz::Two).unwrap_err();
    assert!(matches!(refused, Error::Pole { rows: [1, 0], .. }), "{refused:?}");
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let good = Rng::new(16).matrix(600, 40);
    let full = |w: &Array2<f64>| hyperspherical_energy(w, Riesz::One, Space::Full).unwrap_err();
    let mut w = good.clone();
    w[[500, 3]] = f64::INFINITY;
    w[[300, 2]] = f64::NAN;
    assert!(matches!(
        full(&w),
        Error::NonFinite { argument: "class weights", row: 300, column: 2, .. }
    ));
    w.row_mut(299).fill(0.0);
    assert!(matches!(full(&w), Error::DegenerateNorm { row: 299, norm: 0.0, .. }));
    assert!(matches!(full(&Array2::zeros((0, 4))), Error::Empty { .. }));
    assert!(matches!(full(&Array2::zeros((4, 0))), Error::Empty { .. }));

    let batch = |labels: &[usize]| hyperspherical_energy_of_batch(&good, labels, Riesz::One);
    assert_eq!(batch(&[]).unwrap_err(), Error::Empty { argument: "labels", actual: vec![0] });
    let refused = batch(&[0, 600]).unwrap_err();
    assert_eq!(refused, Error::Label { row: 1, label: 600, classes: 600 });
}

/// A thread that begins in the middle meets a bad row long before the first one is reached.
#[test]
fn first_of_many_bad_rows_is_named() {
    let mut w = Rng::new(17).matrix(10_000, 64);
    (4_000..10_000).step_by(100).for_each(|row| w.row_mut(row).fill(0.0));
    for _ in 0..50 {
        let refused = hyperspherical_energy(&w, Riesz::One, Space::Full).unwrap_err();
        assert!(matches!(refused, Error::DegenerateNorm { row: 4_000, .. }), "{refused:?}");
    }
}

#[test]
fn gradient_beyond_the_working_type_is_refused() {
    let w = array![[1e-25_f32, 0.0], [1.0, 1e-6]];
    let refused = hyperspherical_energy(&w, Riesz::Two, Space::Full).unwrap_err();
    assert!(matches!(refused, Error::Overflow { row: Some(0), .. }), "{refused:?}");
}
