//! Hyperspherical energy: against 90-digit arithmetic (`tests/golden/generate.py`), the formula
//! written down naively, finite differences, and what the sphere itself says.

use crate::common::layout::{LAYOUTS, lay_out};
use crate::common::random::Rng;
use margin_softmax::energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
use margin_softmax::{Error, Real};
use ndarray::{Array2, Axis, array, concatenate};

const RIESZ: [Riesz; 3] = [Riesz::Log, Riesz::One, Riesz::Two];

/// One question: the energy of all rows in a space, or of a batch of labels.
#[derive(Debug, Clone)]
enum Form {
    All(Space),
    Batch(Vec<usize>),
}

fn forms(rng: &mut Rng, classes: usize) -> Vec<Form> {
    let samples = 1 + rng.below(2 * classes);
    let batch = Form::Batch(rng.labels(samples, classes));
    vec![Form::All(Space::Full), Form::All(Space::Half), batch]
}

fn energy<F: Real>(w: &Array2<F>, riesz: Riesz, form: &Form) -> Result<(F, Array2<F>), Error> {
    match form {
        Form::All(space) => hyperspherical_energy(w, riesz, *space),
        Form::Batch(labels) => hyperspherical_energy_of_batch(w, labels, riesz),
    }
}

/// The formulas of `docs/math.md`, section 6, pair by pair, in f64.
fn naive(w: &Array2<f64>, riesz: Riesz, form: &Form) -> (f64, Array2<f64>) {
    let (classes, dims) = w.dim();
    let norms: Vec<f64> = w.rows().into_iter().map(|row| row.dot(&row).sqrt()).collect();
    let mut v = w.clone();
    v.rows_mut().into_iter().zip(&norms).for_each(|(mut row, norm)| row /= *norm);
    let [f, force]: [fn(f64) -> f64; 2] = match riesz {
        Riesz::Log => [|d| -d.ln(), |d| d.powi(-2)],
        Riesz::One => [|d| d.recip(), |d| d.powi(-3)],
        Riesz::Two => [|d| d.powi(-2), |d| 2.0 * d.powi(-4)],
    };
    let c = classes as f64;
    let (labels, signs, scale, constant) = match form {
        Form::All(Space::Full) => ((0..classes).collect(), &[1.0][..], 1.0 / (c * (c - 1.0)), 0.0),
        Form::All(Space::Half) => {
            let all: Vec<usize> = (0..classes).collect();
            (all, &[1.0, -1.0][..], 1.0 / (c * (2.0 * c - 1.0)), f(2.0) / (2.0 * c - 1.0))
        }
        Form::Batch(labels) => {
            let pairs = labels.len() as f64 * (c - 1.0);
            (labels.clone(), &[1.0][..], 1.0 / pairs, 0.0)
        }
    };
    let (mut value, mut pull) = (0.0, Array2::zeros((classes, dims)));
    for j in labels {
        for k in (0..classes).filter(|&k| k != j) {
            for sign in signs {
                let difference = &v.row(j) - &(&v.row(k) * *sign);
                let d = difference.dot(&difference).sqrt();
                value += f(d);
                pull.row_mut(j).scaled_add(-force(d), &difference);
                pull.row_mut(k).scaled_add(force(d) * sign, &difference);
            }
        }
    }
    for ((mut row, v), norm) in pull.rows_mut().into_iter().zip(v.rows()).zip(norms) {
        let along = row.dot(&v);
        row.scaled_add(-along, &v);
        row *= scale / norm;
    }
    (value * scale + constant, pull)
}

/// The largest error of a gradient, relative to its largest entry.
fn error<F: Real>(found: &Array2<F>, expected: &Array2<f64>) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0_f64, |m, (f, e)| m.max((f.to_f64().unwrap() - e).abs())) / largest
}

fn narrow(w: &Array2<f64>) -> Array2<f32> {
    w.mapv(|v| v as f32)
}

fn widen(w: &Array2<f32>) -> Array2<f64> {
    w.mapv(f64::from)
}

#[test]
fn energies_and_gradients_agree_with_golden_cases() {
    let json = include_str!("../golden/golden.json");
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
    assert!(matches!(refused, Error::Overflow { row: 0, .. }), "{refused:?}");
}
