//! What energies have in common: their sums, symmetries and known values.

use super::*;

#[test]
fn half_space_is_the_full_energy_of_both_signs() {
    let w = Rng::new(5).matrix(70, 9);
    let both = concatenate(Axis(0), &[w.view(), (-&w).view()]).unwrap();
    for riesz in RIESZ {
        let (half, gradient) = hyperspherical_energy(&w, riesz, Space::Half).unwrap();
        let (full, of_both) = hyperspherical_energy(&both, riesz, Space::Full).unwrap();
        assert!((half - full).abs() <= 1e-13 * full.abs(), "{half} {full}");
        // A row moves its opposite along.
        let halves = of_both.view().split_at(Axis(0), 70);
        assert!(error(&gradient, &(&halves.0 - &halves.1)) <= 1e-12);
    }
}

#[test]
fn batch_of_every_class_is_the_full_energy() {
    let w = Rng::new(6).matrix(150, 12);
    for riesz in RIESZ {
        let (full, gradient) = hyperspherical_energy(&w, riesz, Space::Full).unwrap();
        for labels in [(0..150).collect(), (0..300).map(|i| i * 7 % 150).collect::<Vec<_>>()] {
            let (batch, of_batch) = hyperspherical_energy_of_batch(&w, &labels, riesz).unwrap();
            assert!((batch - full).abs() <= 1e-14 * full.abs());
            assert!(error(&of_batch, &gradient) <= 1e-13);
        }
    }
}

#[test]
fn batch_reaches_rows_outside_it() {
    let (_, gradient) =
        hyperspherical_energy_of_batch(&Rng::new(7).matrix(90, 6), &[4], Riesz::Two).unwrap();
    assert!(gradient.rows().into_iter().all(|row| row.dot(&row) > 0.0));
}

#[test]
fn regular_simplex_has_its_known_energy_and_rests() {
    // e_j minus the center: five points in five dimensions, d² = 2C/(C−1) on the unit sphere.
    let w = Array2::<f64>::eye(5) - 0.2;
    let square = 2.0 * 5.0 / 4.0_f64;
    for (riesz, expected) in
        RIESZ.into_iter().zip([-0.5 * square.ln(), square.sqrt().recip(), square.recip()])
    {
        let (value, gradient) = hyperspherical_energy(&w, riesz, Space::Full).unwrap();
        assert!((value - expected).abs() <= 1e-15, "{value} for {expected}");
        assert!(gradient.iter().all(|g| g.abs() <= 1e-15), "{gradient}");
    }
}

#[test]
fn norms_of_rows_change_nothing_but_the_gradients_length() {
    let w = Rng::new(8).matrix(40, 5);
    let factors = Array2::from_shape_fn((40, 1), |(j, _)| [1e-25, 1.0, 3e25][j % 3]);
    let scaled = narrow(&(&w * &factors));
    for form in forms(&mut Rng::new(9), 40) {
        let (value, gradient) = energy(&w, Riesz::Two, &form).unwrap();
        let (of_scaled, scaled_gradient) = energy(&scaled, Riesz::Two, &form).unwrap();
        assert!((f64::from(of_scaled) - value).abs() <= 1e-6 * value);
        let undone = widen(&scaled_gradient) * &factors;
        assert!(error(&undone, &gradient) <= 2e-6, "{form:?}");
        for (g, w) in gradient.rows().into_iter().zip(w.rows()) {
            assert!(g.dot(&w).abs() <= 1e-14 * g.dot(&g).sqrt() * w.dot(&w).sqrt());
        }
    }
}

#[test]
fn layouts_give_the_same_bits() {
    let w = narrow(&Rng::new(10).matrix(130, 7));
    for form in forms(&mut Rng::new(11), 130) {
        let expected = energy(&w, Riesz::One, &form).unwrap();
        for layout in LAYOUTS {
            assert_eq!(energy(&lay_out(&w, layout), Riesz::One, &form).unwrap(), expected);
        }
    }
}

#[test]
fn numbers_of_threads_give_the_same_bits() {
    let w = narrow(&Rng::new(12).matrix(700, 20));
    for form in forms(&mut Rng::new(13), 700) {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| energy(&w, Riesz::Log, &form).unwrap())
        };
        let expected = with(1);
        for threads in [2, 3, 7] {
            assert_eq!(with(threads), expected, "{threads} threads");
        }
    }
}

#[test]
fn one_class_has_no_pair() {
    let w = array![[3.0, 4.0]];
    let nothing = Array2::zeros((1, 2));
    for (riesz, at_two) in RIESZ.into_iter().zip([-2.0_f64.ln(), 0.5, 0.25]) {
        let full = hyperspherical_energy(&w, riesz, Space::Full).unwrap();
        assert_eq!(full, (0.0, nothing.clone()));
        let half = hyperspherical_energy(&w, riesz, Space::Half).unwrap();
        assert_eq!(half, (at_two, nothing.clone()));
        let batch = hyperspherical_energy_of_batch(&w, &[0, 0], riesz).unwrap();
        assert_eq!(batch, (0.0, nothing.clone()));
    }
}
