//! Energies and gradients against golden cases, differences and the naive formula, and the digits of close pairs.

use super::*;

#[test]
fn energies_and_gradients_agree_with_golden_cases() {
    let json = include_str!("../../golden/golden.json");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let cases = json["mhe_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    let matrix = |rows: &serde_json::Value| {
        let rows: Vec<Vec<f64>> = serde_json::from_value(rows.clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    };
    for case in cases {
        let riesz = RIESZ[case["s"].as_u64().unwrap() as usize];
        let form = match (case["labels"].as_array(), case["half_space"].as_bool().unwrap()) {
            (Some(_), _) => Form::Batch(serde_json::from_value(case["labels"].clone()).unwrap()),
            (None, false) => Form::All(Space::Full),
            (None, true) => Form::All(Space::Half),
        };
        let (value, gradient) = energy(&matrix(&case["w"]), riesz, &form).unwrap();
        let expected = case["energy"].as_f64().unwrap();
        assert!((value - expected).abs() <= 1e-14 * expected.abs(), "{}: {value}", case["id"]);
        let error = error(&gradient, &matrix(&case["dw"]));
        assert!(error <= 1e-14, "{}: gradient off by {error:e}", case["id"]);
    }
}

#[test]
fn gradients_are_finite_differences_of_the_energy() {
    let rng = &mut Rng::new(1);
    let w = rng.matrix(7, 4);
    for riesz in RIESZ {
        for form in forms(rng, 7) {
            let (_, gradient) = energy(&w, riesz, &form).unwrap();
            let differences = Array2::from_shape_fn(w.dim(), |at| {
                let moved = |h: f64| {
                    let mut w = w.clone();
                    w[at] += h;
                    energy(&w, riesz, &form).unwrap().0
                };
                // Central differences at two steps: what is of order h² cancels.
                let slope = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
                (4.0 * slope(1e-4) - slope(2e-4)) / 3.0
            });
            let error = error(&gradient, &differences);
            assert!(error <= 1e-10, "{riesz:?} {form:?}: {error:e}");
        }
    }
}

#[test]
fn tiles_of_every_size_agree_with_the_naive_formula() {
    let rng = &mut Rng::new(3);
    for (classes, dims) in [(2, 1), (2, 2), (3, 40), (63, 5), (65, 17), (129, 33), (300, 16)] {
        let mut w = rng.matrix(classes, dims);
        if dims == 1 {
            w = array![[2.0], [-3.0]];
        }
        let small = narrow(&w);
        for riesz in RIESZ {
            for form in forms(rng, classes) {
                if dims == 1 && matches!(form, Form::All(Space::Half)) {
                    continue;
                }
                let name = format!("{classes}x{dims} {riesz:?} {form:?}");
                let (expected, direction) = naive(&w, riesz, &form);
                let (value, gradient) = energy(&w, riesz, &form).unwrap();
                assert!((value - expected).abs() <= 1e-13 * (1.0 + expected.abs()), "{name}");
                let off = error(&gradient, &direction);
                assert!(off <= 1e-12 || dims == 1, "{name}: f64 gradient off by {off:e}");

                let (expected, direction) = naive(&widen(&small), riesz, &form);
                let (value, gradient) = energy(&small, riesz, &form).unwrap();
                let off = (f64::from(value) - expected).abs();
                assert!(off <= 2e-7 * (1.0 + expected.abs()), "{name}: f32 off by {off:e}");
                let off = error(&gradient, &direction);
                assert!(off <= 2e-6 || dims == 1, "{name}: f32 gradient off by {off:e}");
            }
        }
    }
}

/// At 1e-6 rad a distance taken from the cosine would have no digit left in f32.
#[test]
fn close_pairs_are_as_accurate_in_f32_as_their_inputs() {
    let rng = &mut Rng::new(4);
    for theta in [0.5, 1e-1, 1e-3, 1e-6] {
        let first = rng.unit(24);
        let mut w = Array2::zeros((6, 24));
        w.row_mut(0).assign(&first);
        w.row_mut(1).assign(&rng.at_angle(&first, theta, 3.0));
        w.row_mut(2).assign(&-rng.at_angle(&first, 2.0 * theta, 0.5));
        (3..6).for_each(|j| w.row_mut(j).assign(&rng.vector(24)));
        let w = narrow(&w);
        for riesz in RIESZ {
            for form in [Form::All(Space::Full), Form::All(Space::Half), Form::Batch(vec![1, 5])] {
                let (value, gradient) = energy(&w, riesz, &form).unwrap();
                let (expected, direction) = naive(&widen(&w), riesz, &form);
                let name = format!("{theta} {riesz:?} {form:?}");
                let off = (f64::from(value) / expected - 1.0).abs();
                assert!(off <= 4e-7, "{name}: energy off by {off:e}");
                let off = error(&gradient, &direction);
                assert!(off <= 1e-6, "{name}: gradient off by {off:e}");
            }
        }
    }
}

/// At these norms and distances the product of force and row would leave the range of f64.
#[test]
fn close_pairs_of_extreme_norms_have_their_gradient() {
    let (along, across, h) = (array![0.6, 0.8], array![-0.8, 0.6], 1e-9_f64);
    for norm in [1e-200, 1.0, 1e285] {
        let mut w = Array2::zeros((2, 2));
        w.row_mut(0).assign(&(&along * norm));
        w.row_mut(1).assign(&(&along + &across * h));
        let (value, gradient) = hyperspherical_energy(&w, Riesz::Two, Space::Full).unwrap();
        assert!((value * h * h - 1.0).abs() <= 1e-6, "{norm:e}: {value:e}");
        let expected = &across * (2.0 / h.powi(3));
        let found = gradient.row(0).mapv(|g| g * norm);
        assert!((&found - &expected).iter().all(|e| e.abs() <= 1e-6 * 2.0 / h.powi(3)), "{found}");
    }
}

/// Rows of integers, the second turned by arctan t and every entry of it exact, and longer rows: unit
/// vectors in f64 would round 8 % of the closest distance away.
#[test]
fn the_closest_pairs_keep_their_digits() {
    for k in [1.0, 2.0, 3.0, 7.0, 1e3, 1e6, 1e9] {
        let t = k * (-49.0_f64).exp2();
        for (factor, space) in [(1.0, Space::Full), (3.0, Space::Full), (-3.0, Space::Half)] {
            let turned = [factor * (3.0 - 4.0 * t), factor * (4.0 + 3.0 * t)];
            let w = array![[3.0, 4.0], turned];
            let distance = 2.0 * (0.5 * t.atan()).sin();
            for (riesz, near) in
                RIESZ.into_iter().zip([-distance.ln(), distance.recip(), distance.powi(-2)])
            {
                let (value, gradient) = hyperspherical_energy(&w, riesz, space).unwrap();
                if let Space::Full = space {
                    assert!((value / near - 1.0).abs() <= 1e-14, "{k}: {value:e} for {near:e}");
                    let along = gradient.row(0).dot(&array![-0.8, 0.6]);
                    let (kappa, s) = [(1.0, 0), (1.0, 1), (2.0, 2)][riesz as usize];
                    let force = kappa * distance.powi(-2 - s) * t.atan().sin();
                    assert!((5.0 * along / force - 1.0).abs() <= 1e-14, "{k}: {along:e}");
                } else {
                    let of_sum = 4.0 - distance * distance;
                    let far = [-0.5 * of_sum.ln(), of_sum.sqrt().recip(), of_sum.recip()];
                    let two = [-2.0_f64.ln(), 0.5, 0.25][riesz as usize];
                    let expected = (near + far[riesz as usize] + two) / 3.0;
                    assert!((value / expected - 1.0).abs() <= 1e-14, "{k}: {value:e}");
                }
            }
        }
    }
}
