//! The values of torch, in one rounding, whatever the layout and the number of threads.

use margin_softmax::update::{Magnitudes, UpdateStep};
use ndarray::{Axis, array, s};
use serde_json::Value;

use super::*;
use crate::common::layout::{LAYOUTS, lay_out};

fn parsed(value: &Value) -> Array2<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

fn options<'a>(case: &'a Value, name: &str) -> Option<&'a Value> {
    case["options"].get(name)
}

fn assert_case<F: Real, U: Update<F>>(mut update: U, file: &Value, case: &Value, tolerance: f64) {
    let narrow = |value: &Value| parsed(value).mapv(|v| F::from_f64(v).unwrap());
    let what = format!("{} {}", case["optimizer"], case["options"]);
    let mut w = narrow(&file["weights"]);
    let steps = file["gradients"].as_array().unwrap();
    let expected = case["weights"].as_array().unwrap();
    assert_eq!(steps.len(), expected.len());
    for (gradient, expected) in steps.iter().zip(expected) {
        update.apply(&mut w, &narrow(gradient)).unwrap();
        assert_close(w.view(), &parsed(expected), tolerance, &what);
    }
    let state = case["state"].as_object().unwrap();
    let moments = update.moments();
    assert_eq!(moments.len(), state.len(), "{what}");
    for (found, name) in moments.iter().zip(["exp_avg", "exp_avg_sq"]) {
        let name = if state.len() == 1 { "momentum_buffer" } else { name };
        assert_close(found.view(), &parsed(&state[name]), tolerance, &what);
    }
}

fn assert_torch<F: Real>(tolerance: f64) {
    let file: Value = serde_json::from_str(include_str!("../../torch/optimizers.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let rate = case["options"]["lr"].as_f64().unwrap();
        let number = |name, default| options(case, name).map_or(default, |v| v.as_f64().unwrap());
        if case["optimizer"] == "SGD" {
            let nesterov = options(case, "nesterov").is_some_and(|on| on.as_bool().unwrap());
            let update = Sgd::<F>::new(rate)
                .and_then(|update| update.with_momentum(number("momentum", 0.0)))
                .and_then(|update| update.with_weight_decay(number("weight_decay", 0.0)))
                .unwrap()
                .with_nesterov(nesterov);
            assert_case(update, &file, case, tolerance);
        } else {
            let mut update = AdamW::<F>::new(rate).unwrap();
            if let Some(betas) = options(case, "betas") {
                let (first, second) = serde_json::from_value(betas.clone()).unwrap();
                update = update.with_betas(first, second).unwrap();
            }
            // What a case leaves out is the default of torch, which must be that of this crate.
            if options(case, "weight_decay").is_some() {
                update = update.with_weight_decay(number("weight_decay", 0.0)).unwrap();
            }
            if options(case, "eps").is_some() {
                update = update.with_eps(number("eps", 0.0)).unwrap();
            }
            assert_case(update, &file, case, tolerance);
        }
    }
}

/// A step rounds a handful of times, each by half a unit in the last place, 1.1e-16: six steps stay
/// within 2e-15 of the largest entry.
#[test]
fn f64_is_torch_to_rounding() {
    assert_torch::<f64>(2e-15);
}

/// Inputs, and in each of six steps weights and state, are rounded by 6e-8. A step of AdamW, of the
/// length of its rate, carries the rounding of its moments relative to themselves.
#[test]
fn f32_is_torch_to_its_own_rounding() {
    assert_torch::<f32>(1e-6);
}

#[test]
fn a_bias_is_a_column_of_weights() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let rng = &mut Rng::new(3);
        let mut of_weights = update.clone();
        let mut b = vector::<F>(rng, 9);
        let mut w = b.clone().insert_axis(Axis(1));
        for step in 0..6 {
            let gradient = vector::<F>(rng, 9);
            let column = gradient.clone().insert_axis(Axis(1));
            if step % 2 == 0 {
                update.apply_bias(&mut b, &gradient).unwrap();
                of_weights.apply(&mut w, &column).unwrap();
            } else {
                let rows = [1, 2, 8];
                let part = |g: &Array1<F>| g.slice(s![..3]).to_owned();
                update.apply_bias_rows(&mut b, &rows, &part(&gradient)).unwrap();
                of_weights.apply_rows(&mut w, &rows, &column.slice(s![..3, ..])).unwrap();
            }
            assert_bits(&b, &w.column(0).to_owned(), "bias");
        }
    }
    for_every_update!(check);
}

#[test]
fn layouts_have_the_same_bits() {
    fn check<F: Real, U: Update<F>>(update: U) {
        let rng = &mut Rng::new(8);
        let (w, gradient) = (matrix::<F>(rng, 5, 37), matrix::<F>(rng, 5, 37));
        let mut expected = (w.clone(), update.clone());
        expected.1.apply(&mut expected.0, &gradient).unwrap();
        for of_w in LAYOUTS {
            for of_gradient in LAYOUTS {
                let (mut w, mut update) = (lay_out(&w, of_w), update.clone());
                update.apply(&mut w, &lay_out(&gradient, of_gradient)).unwrap();
                let what = format!("{of_w:?}, {of_gradient:?}");
                assert_bits(&w.as_standard_layout().into_owned(), &expected.0, &what);
                assert_same_state(&update, &expected.1, &what);
            }
        }
    }
    for_every_update!(check);
}

#[test]
fn chunks_and_threads_have_the_same_bits() {
    fn check<F: Real, U: Update<F>>(update: U) {
        let rng = &mut Rng::new(9);
        // More than one chunk of `apply`.
        let (rows, dims) = (300, 700);
        let (w, gradient) = (matrix::<F>(rng, rows, dims), matrix::<F>(rng, rows, dims));
        let run = |threads: usize| {
            let pool = rayon_pool(threads);
            let (mut w, mut update) = (w.clone(), update.clone());
            for _ in 0..2 {
                pool.install(|| update.apply(&mut w, &gradient)).unwrap();
            }
            (w, update)
        };
        let expected = run(1);
        let found = run(5);
        assert!(found.0 == expected.0);
        assert!(found.1 == expected.1);

        let magnitudes = Magnitudes { value: 2.0, gradient: 1.0 };
        let (mut w, mut update) = (w, update);
        for chunks in [vec![0..1, 1..299, 299..300], whole(rows)] {
            let step = UpdateStep {
                shape: (rows, dims),
                chunks: &chunks,
                weights: Some(magnitudes),
                bias: None,
            };
            let mut updaters = update.begin(&step).unwrap();
            assert_eq!(updaters.len(), chunks.len());
            // From the last row to the first: the order is free.
            for (range, updater) in chunks.iter().zip(&mut updaters).rev() {
                for row in range.clone().rev() {
                    updater.update_row(row, w.row_mut(row), gradient.row(row));
                }
            }
        }
        assert!(w == expected.0);
        assert!(update == expected.1);
    }
    for_every_update!(check);
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn weights_and_bias_take_part_in_one_step() {
    fn check<F: Real, U: Update<F>>(update: U) {
        let rng = &mut Rng::new(10);
        let (mut w, mut b) = (matrix::<F>(rng, 4, 3), vector::<F>(rng, 4));
        let (dw, db) = (matrix::<F>(rng, 4, 3), vector::<F>(rng, 4));
        let (mut one_w, mut one_b, mut one, mut two) =
            (w.clone(), b.clone(), update.clone(), update);
        two.apply(&mut w, &dw).unwrap();
        two.apply_bias(&mut b, &db).unwrap();
        let magnitudes = Some(Magnitudes { value: 1.0, gradient: 1.0 });
        let step =
            UpdateStep { shape: (4, 3), chunks: &whole(4), weights: magnitudes, bias: magnitudes };
        let mut updaters = one.begin(&step).unwrap();
        for row in 0..4 {
            updaters[0].update_row(row, one_w.row_mut(row), dw.row(row));
            updaters[0].update_bias(row, &mut one_b[row], db[row]);
        }
        drop(updaters);
        assert_bits(&(one_w, one_b), &(w, b), "values");
        assert_same_state(&one, &two, "state");
    }
    for_every_update!(check);
}

#[test]
fn f32_follows_f64() {
    fn check<U: Update<f32>, V: Update<f64>>(mut short: U, mut long: V) {
        let rng = &mut Rng::new(13);
        // Numbers of both types.
        let mut w = matrix::<f32>(rng, 6, 9);
        let mut exact = w.mapv(f64::from);
        for _ in 0..20 {
            let gradient = matrix::<f32>(rng, 6, 9);
            short.apply(&mut w, &gradient).unwrap();
            long.apply(&mut exact, &gradient.mapv(f64::from)).unwrap();
        }
        // Twenty roundings of weights and of the state, whose errors the momentum adds up tenfold.
        assert_close(w.view(), &exact, 4e-6, "20 steps");
    }
    check(plain(), plain());
    check(momentum(), momentum());
    check(nesterov(), nesterov());
    check(adamw(), adamw());
}

#[test]
fn one_step_rounds_once() {
    // 1 − 0.1·(1/3) in f64 and then in f32, in one rounding of each number.
    let gradient = 1.0_f32 / 3.0;
    let mut w = array![[1.0_f32]];
    Sgd::new(0.1).unwrap().apply(&mut w, &array![[gradient]]).unwrap();
    assert_eq!(w[[0, 0]], (1.0 - 0.1 * f64::from(gradient)) as f32);
}

#[test]
fn a_rate_acts_at_once() {
    let mut update = momentum::<f64>().with_weight_decay(0.0).unwrap();
    let mut w = array![[0.0]];
    update.apply(&mut w, &array![[1.0]]).unwrap();
    assert_eq!(w, array![[-0.1]]);
    update.set_rate(0.0).unwrap();
    update.apply(&mut w, &array![[1.0]]).unwrap();
    assert_eq!(w, array![[-0.1]]);
    update.set_rate(1.0).unwrap();
    update.apply(&mut w, &array![[0.0]]).unwrap();
    approx::assert_relative_eq!(w[[0, 0]], -0.1 - 0.9 * 1.9, max_relative = 1e-15);
    for rate in [-1.0, f64::NAN, f64::INFINITY] {
        update.set_rate(rate).unwrap_err();
        assert_eq!(update.rate(), 1.0);
    }
}

#[test]
fn boxed_and_borrowed_updates_are_updates() {
    let mut updates: Vec<Box<dyn WeightUpdate<f64>>> = vec![Box::new(plain()), Box::new(adamw())];
    let mut expected = vec![array![[1.0]]; 2];
    plain().apply(&mut expected[0], &array![[0.5]]).unwrap();
    adamw().apply(&mut expected[1], &array![[0.5]]).unwrap();
    for (update, expected) in updates.iter_mut().zip(expected) {
        let mut w = array![[1.0]];
        let mut borrowed: &mut dyn WeightUpdate<f64> = update;
        WeightUpdate::apply(&mut borrowed, &mut w, &array![[0.5]]).unwrap();
        assert_eq!(w, expected);
    }
}

#[test]
fn updates_say_what_they_were_built_with() {
    let sgd = Sgd::<f32>::new(0.2).unwrap();
    assert_eq!(
        (sgd.rate(), sgd.momentum(), sgd.weight_decay(), sgd.nesterov()),
        (0.2, 0.0, 0.0, false)
    );
    let sgd = sgd.with_momentum(0.5).unwrap().with_weight_decay(0.1).unwrap().with_nesterov(true);
    assert_eq!((sgd.momentum(), sgd.weight_decay(), sgd.nesterov()), (0.5, 0.1, true));
    assert!(sgd.momentum_buffer().is_none());
    let adamw = AdamW::<f32>::new(0.2).unwrap();
    assert_eq!((adamw.rate(), adamw.betas(), adamw.eps()), (0.2, (0.9, 0.999), 1e-8));
    assert_eq!(adamw.weight_decay(), 0.01);
    let mut adamw = adamw.with_betas(0.5, 0.6).unwrap().with_eps(1e-3).unwrap();
    assert_eq!((adamw.betas(), adamw.eps()), ((0.5, 0.6), 1e-3));
    assert!(adamw.steps().is_none());
    let mut w = array![[1.0], [2.0]];
    adamw.apply(&mut w, &array![[1.0], [1.0]]).unwrap();
    adamw.apply_rows(&mut w, &[1], &array![[1.0]]).unwrap();
    assert_eq!(adamw.steps(), Some(&[1, 2][..]));
}

#[test]
fn without_momentum_nothing_is_kept() {
    let mut update = momentum::<f64>();
    update.apply(&mut array![[1.0]], &array![[1.0]]).unwrap();
    let mut update = update.with_momentum(0.0).unwrap();
    assert!(update.momentum_buffer().is_none());
    // Any shape will do.
    update.apply(&mut array![[1.0, 2.0], [3.0, 4.0]], &Array2::zeros((2, 2))).unwrap();
    assert!(update.momentum_buffer().is_none());
}
