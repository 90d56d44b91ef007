//! Updates of class weights: torch's values, rows that take no part, splitting, cutting and joining
//! of the state, and refusals, after which nothing has changed.

use std::ops::Range;

use margin_softmax::{AdamW, Error, Magnitudes, Real, Sgd, UpdateStep, WeightUpdate};
use ndarray::{Array1, Array2, ArrayView2, Axis, array, concatenate, s};
use serde_json::Value;

use crate::common::layout::{LAYOUTS, lay_out};
use crate::common::random::Rng;
use crate::common::refuse::{assert_table, text};

/// What the tests need of both updates.
trait Update<F: Real>: WeightUpdate<F> + Clone + PartialEq {
    fn extend(&mut self, rows: usize);
    fn rows(&self, range: Range<usize>) -> Result<Self, Error>;
    fn concatenate(parts: &[Self]) -> Result<Self, Error>;
    fn moments(&self) -> Vec<Array2<F>>;
}

macro_rules! update {
    ($name:ident, $($moments:ident),*) => {
        impl<F: Real> Update<F> for $name<F> {
            fn extend(&mut self, rows: usize) {
                $name::extend(self, rows);
            }

            fn rows(&self, range: Range<usize>) -> Result<Self, Error> {
                $name::rows(self, range)
            }

            fn concatenate(parts: &[Self]) -> Result<Self, Error> {
                $name::concatenate(parts)
            }

            fn moments(&self) -> Vec<Array2<F>> {
                [$(self.$moments()),*].into_iter().flatten().map(|m| m.to_owned()).collect()
            }
        }
    };
}

update!(Sgd, momentum_buffer);
update!(AdamW, first_moments, second_moments);

fn plain<F: Real>() -> Sgd<F> {
    Sgd::new(0.1).unwrap().with_weight_decay(0.05).unwrap()
}

fn momentum<F: Real>() -> Sgd<F> {
    plain().with_momentum(0.9).unwrap()
}

fn nesterov<F: Real>() -> Sgd<F> {
    momentum().with_nesterov(true)
}

fn adamw<F: Real>() -> AdamW<F> {
    AdamW::new(0.1).unwrap()
}

/// Runs a generic check on every kind of update, in both types.
macro_rules! for_every_update {
    ($check:ident) => {{
        $check::<f32, _>(plain());
        $check::<f32, _>(momentum());
        $check::<f32, _>(nesterov());
        $check::<f32, _>(adamw());
        $check::<f64, _>(plain());
        $check::<f64, _>(momentum());
        $check::<f64, _>(nesterov());
        $check::<f64, _>(adamw());
    }};
}

fn matrix<F: Real>(rng: &mut Rng, rows: usize, dims: usize) -> Array2<F> {
    rng.matrix(rows, dims).mapv(|v| F::from_f64(v).unwrap())
}

fn vector<F: Real>(rng: &mut Rng, len: usize) -> Array1<F> {
    rng.vector(len).mapv(|v| F::from_f64(v).unwrap())
}

/// One range of all rows.
fn whole(rows: usize) -> Vec<Range<usize>> {
    std::iter::once(0..rows).collect()
}

/// Debug text, which tells every number from every other, the two zeros too.
fn assert_bits<T: std::fmt::Debug>(found: &T, expected: &T, what: &str) {
    assert_eq!(text(found), text(expected), "{what}");
}

fn assert_same_state<F: Real, U: Update<F>>(found: &U, expected: &U, what: &str) {
    assert!(found == expected, "{what}");
    assert_bits(&found.moments(), &expected.moments(), what);
}

fn parsed(value: &Value) -> Array2<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

/// Within `tolerance` of the largest entry.
fn assert_close<F: Real>(
    found: ArrayView2<'_, F>,
    expected: &Array2<f64>,
    tolerance: f64,
    what: &str,
) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let largest = expected.fold(0.0_f64, |largest, v| largest.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let error = (found.to_f64().unwrap() - expected).abs();
        assert!(error <= tolerance * largest, "{what}: {found} for {expected}");
    }
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
    let file: Value = serde_json::from_str(include_str!("../torch/optimizers.json")).unwrap();
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
fn rows_that_take_no_part_keep_every_bit() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let rng = &mut Rng::new(4);
        let mut w = matrix::<F>(rng, 7, 5);
        update.apply(&mut w, &matrix(rng, 7, 5)).unwrap();
        let (w_before, before) = (w.clone(), update.clone());
        update.apply_rows(&mut w, &[1, 4, 5], &matrix(rng, 3, 5)).unwrap();
        for row in 0..7 {
            let moved = [1, 4, 5].contains(&row);
            assert_eq!(w.row(row) != w_before.row(row), moved, "{row}");
            let [now, then] = [&update, &before].map(|update| update.rows(row..row + 1).unwrap());
            let stateless = update.moments().is_empty();
            assert_eq!(now != then, moved && !stateless, "{row}");
        }
        // No row at all: nothing changes.
        let (w_before, before) = (w.clone(), update.clone());
        update.apply_rows(&mut w, &[], &Array2::zeros((0, 5))).unwrap();
        assert_bits(&w, &w_before, "no rows");
        assert_same_state(&update, &before, "no rows");
    }
    for_every_update!(check);
}

#[test]
fn a_row_moves_as_if_only_its_own_steps_had_been() {
    fn check<F: Real, U: Update<F>>(update: U) {
        let rng = &mut Rng::new(5);
        let start = matrix::<F>(rng, 6, 4);
        let mut w = start.clone();
        let mut all = update.clone();
        let mut rows_alone: Vec<_> =
            start.axis_chunks_iter(Axis(0), 1).map(|w| w.to_owned()).collect();
        let mut alone: Vec<_> = (0..6).map(|_| update.clone()).collect();
        for step in 0..12 {
            let rows: Vec<usize> =
                (0..6).filter(|row| rng.below(row + 2) == step % (row + 2)).collect();
            let gradient = matrix::<F>(rng, rows.len(), 4);
            all.apply_rows(&mut w, &rows, &gradient).unwrap();
            for (&row, gradient) in rows.iter().zip(gradient.axis_chunks_iter(Axis(0), 1)) {
                alone[row].apply(&mut rows_alone[row], &gradient).unwrap();
            }
        }
        for (row, alone) in rows_alone.iter().enumerate() {
            assert_bits(&w.row(row), &alone.row(0), "a row alone");
        }
    }
    for_every_update!(check);
}

#[test]
fn all_rows_sampled_are_the_dense_step() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let rng = &mut Rng::new(6);
        let mut w = matrix::<F>(rng, 8, 3);
        let (mut dense, mut dense_w) = (update.clone(), w.clone());
        for _ in 0..4 {
            let gradient = matrix::<F>(rng, 8, 3);
            let rows: Vec<usize> = (0..8).collect();
            update.apply_rows(&mut w, &rows, &gradient).unwrap();
            dense.apply(&mut dense_w, &gradient).unwrap();
        }
        assert_bits(&w, &dense_w, "weights");
        assert_same_state(&update, &dense, "state");
    }
    for_every_update!(check);
}

#[test]
fn sampled_rows_of_a_step_fit() -> Result<(), Error> {
    use margin_softmax::{ArcFace, Batch, ClassSampler, Head, Reduction, SampledGradients};
    let rng = &mut Rng::new(7);
    let (x, mut w) = (rng.matrix(4, 6), rng.matrix(40, 6));
    let labels = [3, 17, 3, 39];
    let sample = ClassSampler::new(40, 0.25, 1)?.sample(&labels)?;
    let batch = Batch::new(&x, &w, &labels)?;
    let mut gradients = SampledGradients::zeros_for(&batch, &sample);
    let head = Head::new(ArcFace::default());
    let before = head.forward_backward_sampled(&batch, &sample, Reduction::Mean, &mut gradients)?;
    Sgd::new(1e-3)?.apply_rows(&mut w, &sample.classes, &gradients.weights)?;
    let batch = Batch::new(&x, &w, &labels)?;
    let after = head.forward_backward_sampled(&batch, &sample, Reduction::Mean, &mut gradients)?;
    assert!(after.mean() < before.mean());
    Ok(())
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
fn new_rows_start_afresh() {
    fn check<F: Real, U: Update<F>>(update: U) {
        let rng = &mut Rng::new(11);
        let (mut w, mut b) = (matrix::<F>(rng, 3, 4), vector::<F>(rng, 3));
        let mut old = update.clone();
        old.apply(&mut w, &matrix(rng, 3, 4)).unwrap();
        old.apply_bias(&mut b, &vector(rng, 3)).unwrap();
        let (new_w, new_b) = (matrix::<F>(rng, 2, 4), vector::<F>(rng, 2));
        let (dw, db) = (matrix::<F>(rng, 5, 4), vector::<F>(rng, 5));

        let mut extended = old.clone();
        extended.extend(2);
        let mut all = concatenate![Axis(0), w, new_w];
        let mut all_b = concatenate![Axis(0), b, new_b];
        extended.apply(&mut all, &dw).unwrap();
        extended.apply_bias(&mut all_b, &db).unwrap();

        let (mut fresh, mut new_w, mut new_b) = (update, new_w, new_b);
        old.apply(&mut w, &dw.slice(s![..3, ..])).unwrap();
        old.apply_bias(&mut b, &db.slice(s![..3])).unwrap();
        fresh.apply(&mut new_w, &dw.slice(s![3.., ..])).unwrap();
        fresh.apply_bias(&mut new_b, &db.slice(s![3..])).unwrap();
        assert_bits(&all, &concatenate![Axis(0), w, new_w], "weights");
        assert_bits(&all_b, &concatenate![Axis(0), b, new_b], "bias");
        assert_same_state(&extended, &U::concatenate(&[old, fresh]).unwrap(), "state");
    }
    for_every_update!(check);
    // Before the first step there is nothing to extend.
    let mut update = momentum::<f64>();
    update.extend(5);
    update.apply(&mut array![[1.0], [2.0]], &array![[0.0], [0.0]]).unwrap();
}

#[test]
fn shards_make_the_same_step() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let rng = &mut Rng::new(12);
        let (mut w, mut b) = (matrix::<F>(rng, 7, 3), vector::<F>(rng, 7));
        for _ in 0..2 {
            update.apply(&mut w, &matrix(rng, 7, 3)).unwrap();
            update.apply_bias(&mut b, &vector(rng, 7)).unwrap();
        }
        let gradient = matrix::<F>(rng, 7, 3);
        let whole = update.clone();
        let ranges = [0..3, 3..3, 3..7];
        let mut parts: Vec<U> = ranges.iter().map(|r| update.rows(r.clone()).unwrap()).collect();
        assert_same_state(&U::concatenate(&parts).unwrap(), &whole, "joined again");

        let before = w.clone();
        update.apply(&mut w, &gradient).unwrap();
        let mut shards = Vec::new();
        for (range, part) in ranges.iter().zip(&mut parts) {
            let mut shard = before.slice(s![range.clone(), ..]).to_owned();
            part.apply(&mut shard, &gradient.slice(s![range.clone(), ..])).unwrap();
            shards.push(shard);
        }
        let shards: Vec<_> = shards.iter().map(|shard| shard.view()).collect();
        assert_bits(&concatenate(Axis(0), &shards).unwrap(), &w, "weights");
        assert_same_state(&U::concatenate(&parts).unwrap(), &update, "state");
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

#[test]
fn hyper_parameters_out_of_range_are_refused() {
    let parameter = |parameter, expected, value| Error::Parameter { parameter, value, expected };
    for value in [-0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let (rate, decay) = ("learning rate", "weight decay");
        let range = "finite and >= 0";
        assert_table([
            ("rate", Sgd::<f32>::new(value).map(drop), parameter(rate, range, value), &[][..]),
            ("rate", AdamW::<f32>::new(value).map(drop), parameter(rate, range, value), &[]),
            (
                "decay",
                plain::<f32>().with_weight_decay(value).map(drop),
                parameter(decay, range, value),
                &[],
            ),
            (
                "decay",
                adamw::<f32>().with_weight_decay(value).map(drop),
                parameter(decay, range, value),
                &[],
            ),
            (
                "eps",
                adamw::<f32>().with_eps(value).map(drop),
                parameter("eps", "finite and > 0", value),
                &[],
            ),
        ]);
    }
    for value in [-0.1, 1.0, f64::NAN] {
        let range = "in [0, 1)";
        assert_table([
            (
                "momentum",
                plain::<f32>().with_momentum(value).map(drop),
                parameter("momentum", range, value),
                &["momentum must be in [0, 1)"][..],
            ),
            (
                "first beta",
                adamw::<f32>().with_betas(value, 0.5).map(drop),
                parameter("first beta", range, value),
                &[],
            ),
            (
                "second beta",
                adamw::<f32>().with_betas(0.5, value).map(drop),
                parameter("second beta", range, value),
                &[],
            ),
        ]);
    }
    assert!(adamw::<f32>().with_eps(0.0).is_err());
}

/// A call with an update, weights and a bias.
type Call<'a, F, U> = &'a dyn Fn(&mut U, &mut Array2<F>, &mut Array1<F>) -> Result<(), Error>;

#[test]
fn a_refusal_changes_nothing() {
    fn check<F: Real, U: Update<F>>(fresh: U) {
        let rng = &mut Rng::new(14);
        let mut used = fresh.clone();
        let (mut w, mut b) = (matrix::<F>(rng, 4, 3), vector::<F>(rng, 4));
        used.apply(&mut w, &matrix(rng, 4, 3)).unwrap();
        used.apply_bias(&mut b, &vector(rng, 4)).unwrap();
        let shape = |argument, expected: &[usize], actual: &[usize]| Error::Shape {
            argument,
            expected: expected.to_vec(),
            actual: actual.to_vec(),
        };
        let rows = |argument, position, row| Error::Rows { argument, position, row, rows: 4 };
        for update in [fresh, used] {
            // Calls with this update must be refused, with weights and bias of the right shape.
            let refused = |what, expected: Error, call: Call<F, U>| {
                let (mut update_now, mut w_now, mut b_now) = (update.clone(), w.clone(), b.clone());
                let answer = call(&mut update_now, &mut w_now, &mut b_now);
                assert_table([(what, answer, expected, &[][..])]);
                assert_bits(&(w_now, b_now), &(w.clone(), b.clone()), what);
                assert_same_state(&update_now, &update, what);
            };
            let zeros = |rows| Array2::<F>::zeros((rows, 3));
            let dw = "gradients of class weights";
            refused("a row too few", shape(dw, &[4, 3], &[3, 3]), &|update, w, _| {
                update.apply(w, &zeros(3))
            });
            refused("a column too many", shape(dw, &[4, 3], &[4, 4]), &|update, w, _| {
                update.apply(w, &Array2::zeros((4, 4)))
            });
            refused("a sampled row too few", shape(dw, &[2, 3], &[1, 3]), &|update, w, _| {
                update.apply_rows(w, &[0, 2], &zeros(1))
            });
            refused("a long bias", shape("gradients of bias", &[4], &[5]), &|update, _, b| {
                update.apply_bias(b, &Array1::zeros(5))
            });
            refused("a high row", rows("rows", 1, 4), &|update, w, _| {
                update.apply_rows(w, &[0, 4], &zeros(2))
            });
            refused("a descent", rows("rows", 2, 1), &|update, w, _| {
                update.apply_rows(w, &[0, 2, 1], &zeros(3))
            });
            refused("a row twice", rows("rows", 1, 2), &|update, w, _| {
                update.apply_rows(w, &[2, 2], &zeros(2))
            });
            refused("a bias row twice", rows("rows", 1, 2), &|update, _, b| {
                update.apply_bias_rows(b, &[2, 2], &Array1::zeros(2))
            });
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let bad = F::from_f64(value).unwrap();
                let place =
                    |argument, row, column| Error::NonFinite { argument, row, column, value };
                refused("a gradient", place(dw, 3, 1), &|update, w, _| {
                    let mut gradient = zeros(4);
                    gradient[[3, 1]] = bad;
                    update.apply(w, &gradient)
                });
                refused("a sampled gradient", place(dw, 1, 2), &|update, w, _| {
                    let mut gradient = zeros(2);
                    gradient[[1, 2]] = bad;
                    update.apply_rows(w, &[0, 3], &gradient)
                });
                refused("a bias gradient", place("gradients of bias", 2, 0), &|update, _, b| {
                    let mut gradient = Array1::zeros(4);
                    gradient[2] = bad;
                    update.apply_bias(b, &gradient)
                });
                refused("a weight", place("class weights", 2, 0), &|update, w, _| {
                    let mut spoiled = w.clone();
                    spoiled[[2, 0]] = bad;
                    update.apply_rows(&mut spoiled, &[1, 2], &zeros(2))
                });
            }
            refused(
                "no columns",
                Error::Empty { argument: "class weights", actual: vec![4, 0] },
                &|update, _, _| update.apply(&mut Array2::zeros((4, 0)), &Array2::zeros((4, 0))),
            );
            let magnitudes = Some(Magnitudes { value: 1.0, gradient: 1.0 });
            for (chunks, position, row) in [
                (vec![0..2, 1..4], 1, 1),
                (vec![0..2, 3..5], 1, 4),
                (vec![Range { start: 3, end: 2 }], 0, 2),
            ] {
                refused("chunks", rows("chunks", position, row), &|update, _, _| {
                    let step = UpdateStep {
                        shape: (4, 3),
                        chunks: &chunks,
                        weights: magnitudes,
                        bias: magnitudes,
                    };
                    update.begin(&step).map(drop)
                });
            }
            refused(
                "an infinite bound",
                Error::UpdateOverflow {
                    quantity: "the bias",
                    bound: f64::INFINITY,
                    maximum: F::max_value().to_f64().unwrap() / 16.0,
                },
                &|update, _, _| {
                    let bias = Some(Magnitudes { value: f64::INFINITY, gradient: 1.0 });
                    let step =
                        UpdateStep { shape: (4, 3), chunks: &whole(4), weights: magnitudes, bias };
                    update.begin(&step).map(drop)
                },
            );
            let high = update.clone().apply_rows(&mut w.clone(), &[4], &zeros(1)).unwrap_err();
            let said = "rows[0] names row 4: rows must ascend, each at most once, and lie below 4";
            assert_eq!(high.to_string(), said);
            // The largest numbers of the type are finite, and what becomes of them may not be.
            let mut extreme = update.clone();
            let mut w_now = Array2::from_elem((4, 3), F::max_value());
            let answer = extreme.apply(&mut w_now, &zeros(4));
            assert!(matches!(
                answer,
                Err(Error::UpdateOverflow { quantity: "a class weight", .. })
            ));
            let answer = extreme.apply(&mut w.clone(), &w_now);
            assert!(matches!(answer, Err(Error::UpdateOverflow { .. })));
            assert_same_state(&extreme, &update, "overflow");
        }
    }
    for_every_update!(check);
}

#[test]
fn a_state_of_another_shape_is_refused() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let rng = &mut Rng::new(15);
        let mut w = matrix::<F>(rng, 4, 3);
        update.apply(&mut w, &matrix(rng, 4, 3)).unwrap();
        let before = update.clone();
        let mut refused = |rows: usize, dims: usize| {
            let mut w = Array2::<F>::ones((rows, dims));
            let answer = update.apply(&mut w, &Array2::zeros((rows, dims))).unwrap_err();
            let (expected, actual) = (vec![4, 3], vec![rows, dims]);
            assert_eq!(answer, Error::Shape { argument: "class weights", expected, actual });
            assert_eq!(w, Array2::ones((rows, dims)));
        };
        refused(5, 3);
        refused(4, 2);
        let answer = update.apply_bias(&mut Array1::ones(5), &Array1::zeros(5)).unwrap_err();
        let (expected, actual) = (vec![4], vec![5]);
        assert_eq!(answer, Error::Shape { argument: "bias", expected, actual });
        assert_same_state(&update, &before, "after the refusals");

        let answer = update.rows(2..5).err().unwrap();
        assert_eq!(answer, Error::Rows { argument: "range", position: 1, row: 4, rows: 4 });
        let answer = update.rows(Range { start: 3, end: 2 }).err().unwrap();
        assert!(matches!(
            answer,
            Error::Parameter { parameter: "range end of the rows", value: 2.0, .. }
        ));
    }
    check::<f32, _>(momentum());
    check::<f64, _>(adamw());
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let stepped = |mut update: Sgd<f64>, dims: usize| {
        update.apply(&mut Array2::ones((2, dims)), &Array2::ones((2, dims))).unwrap();
        update
    };
    let part = stepped(momentum(), 3);
    let refused = |other: Sgd<f64>| Sgd::concatenate(&[part.clone(), other]).unwrap_err();
    let argument = "weights' state of the parts";
    assert_eq!(
        refused(stepped(momentum(), 4)),
        Error::Shape { argument, expected: vec![2, 3], actual: vec![2, 4] }
    );
    assert_eq!(
        refused(momentum()),
        Error::Shape { argument, expected: vec![2, 3], actual: vec![] }
    );
    let mut biased = part.clone();
    biased.apply_bias(&mut array![1.0, 1.0], &array![1.0, 1.0]).unwrap();
    assert!(matches!(refused(biased), Error::Shape { argument: "bias' state of the parts", .. }));
    let mut slower = part.clone();
    slower.set_rate(0.01).unwrap();
    let expected = "that of the first part";
    let parameter = "rate of the parts";
    assert_eq!(refused(slower), Error::Parameter { parameter, value: 0.01, expected });
    assert!(matches!(
        refused(part.clone().with_nesterov(true)),
        Error::Parameter { value: 1.0, .. }
    ));
    let empty = Error::Empty { argument: "parts", actual: vec![0] };
    assert_eq!(Sgd::<f64>::concatenate(&[]).unwrap_err(), empty);
    assert_eq!(AdamW::<f64>::concatenate(&[]).unwrap_err(), empty);
    let other = adamw::<f64>().with_betas(0.9, 0.99).unwrap();
    let refused = AdamW::concatenate(&[adamw(), other]).unwrap_err();
    assert!(matches!(refused, Error::Parameter { parameter: "second beta of the parts", .. }));
}

/// Gradients that grow for as long as they are accepted: nothing ever becomes infinite or NaN.
#[test]
fn what_is_accepted_stays_finite() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let mut w = Array2::<F>::ones((2, 3));
        let mut gradient = F::one();
        loop {
            let before = (w.clone(), update.clone());
            let answer = update.apply(&mut w, &Array2::from_elem((2, 3), gradient));
            if answer.is_err() {
                assert_bits(&w, &before.0, "weights");
                assert_same_state(&update, &before.1, "state");
                break;
            }
            let finite = |values: &Array2<F>| values.iter().all(|v| v.is_finite());
            assert!(finite(&w) && update.moments().iter().all(finite));
            gradient *= F::from_f64(-1.5).unwrap();
            assert!(gradient.is_finite());
        }
        // Far up: AdamW squares the gradient.
        assert!(gradient.abs().to_f64().unwrap() > F::max_value().to_f64().unwrap().powf(0.4));
    }
    for_every_update!(check);
}

/// The momentum of a row that takes no part does not fade, and counts when the row comes back.
#[test]
fn a_resting_row_is_not_forgotten() {
    let large = f32::MAX / 40.0;
    let mut update = momentum::<f32>();
    update.set_rate(1e-30).unwrap();
    let mut w = Array2::<f32>::zeros((2, 1));
    update.apply_rows(&mut w, &[0], &array![[large]]).unwrap();
    for _ in 0..100 {
        update.apply_rows(&mut w, &[1], &array![[1.0]]).unwrap();
    }
    // Cut and joined as well, and read again.
    let mut small = momentum::<f32>();
    small.set_rate(1e-30).unwrap();
    small.apply(&mut array![[0.0]], &array![[1.0]]).unwrap();
    let joined = Sgd::concatenate(&[small, update.rows(0..1).unwrap()]).unwrap();
    let updates = [(update.clone(), 0), (joined, 1)];
    #[cfg(feature = "serde")]
    let updates = {
        let read = postcard::from_bytes(&postcard::to_stdvec(&update).unwrap()).unwrap();
        updates.into_iter().chain([(read, 0)])
    };
    for (mut update, row) in updates {
        let refused = update.apply_rows(&mut w, &[row], &array![[2.0 * large]]).unwrap_err();
        let quantity = "the state of the class weights";
        assert!(matches!(refused, Error::UpdateOverflow { quantity: q, .. } if q == quantity));
    }
    // Alone, the same gradient is accepted: 2/40 of the largest number is less than a sixteenth.
    let mut fresh = momentum::<f32>();
    fresh.apply_rows(&mut w, &[0], &array![[2.0 * large]]).unwrap();
}

#[test]
fn the_bound_of_a_step_is_that_of_its_formula() {
    fn bound(mut update: impl Update<f32>, value: f64, gradient: f64) -> f64 {
        let magnitudes = Some(Magnitudes { value, gradient });
        let step = UpdateStep { shape: (2, 3), chunks: &[], weights: magnitudes, bias: None };
        let found = match update.begin(&step) {
            Err(Error::UpdateOverflow { quantity: "a class weight", bound, .. }) => bound,
            answer => panic!("{:?}", answer.map(drop)),
        };
        let step = UpdateStep { weights: None, bias: magnitudes, ..step };
        let same = Error::UpdateOverflow {
            quantity: "the bias",
            bound: found,
            maximum: f64::from(f32::MAX) / 16.0,
        };
        assert_eq!(update.begin(&step).map(drop), Err(same));
        found
    }
    let (value, gradient) = (3e37, 2e37);
    let decayed = gradient + 0.05 * value;
    for (found, expected) in [
        (bound(plain(), value, gradient), value + 0.1 * decayed),
        (bound(momentum(), value, gradient), value + 0.1 * decayed),
        (bound(nesterov(), value, gradient), value + 0.1 * (1.0 + 0.9) * decayed),
        (bound(adamw(), value, 1e28), 0.999 * value + 0.1 / 0.1 * 1e28 / 1e-8),
    ] {
        approx::assert_relative_eq!(found, expected, max_relative = 1e-14);
    }
}

#[test]
fn a_large_bias_is_refused() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let mut b = array![F::one(), F::max_value()];
        let answer = update.apply_bias(&mut b, &Array1::zeros(2)).unwrap_err();
        assert!(matches!(answer, Error::UpdateOverflow { quantity: "the bias", .. }));
        update.apply_bias_rows(&mut b, &[0], &Array1::zeros(1)).unwrap();
    }
    for_every_update!(check);
}

#[cfg(feature = "serde")]
mod stored {
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::*;

    fn through_every_format<T: Serialize + DeserializeOwned>(value: &T) -> [T; 4] {
        let mut cbor = Vec::new();
        ciborium::into_writer(value, &mut cbor).unwrap();
        [
            serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap(),
            toml::from_str(&toml::to_string(value).unwrap()).unwrap(),
            postcard::from_bytes(&postcard::to_stdvec(value).unwrap()).unwrap(),
            ciborium::from_reader(cbor.as_slice()).unwrap(),
        ]
    }

    #[test]
    fn an_update_comes_back_bit_for_bit() {
        fn check<F: Real, U: Update<F> + Serialize + DeserializeOwned>(update: U) {
            let rng = &mut Rng::new(16);
            let (mut w, mut b) = (matrix::<F>(rng, 5, 3), vector::<F>(rng, 5));
            let mut used = update.clone();
            for _ in 0..3 {
                used.apply(&mut w, &matrix(rng, 5, 3)).unwrap();
                used.apply_rows(&mut w, &[1, 3], &matrix(rng, 2, 3)).unwrap();
            }
            let without_bias = used.clone();
            used.apply_bias(&mut b, &vector(rng, 5)).unwrap();
            for update in [update, without_bias, used] {
                let bytes = postcard::to_stdvec(&update).unwrap();
                for mut read in through_every_format(&update) {
                    assert_same_state(&read, &update, "read again");
                    assert_eq!(postcard::to_stdvec(&read).unwrap(), bytes);
                    // The next steps are the same.
                    let (mut update, mut w, mut other) = (update.clone(), w.clone(), w.clone());
                    let gradient = matrix::<F>(rng, 5, 3);
                    update.apply(&mut w, &gradient).unwrap();
                    read.apply(&mut other, &gradient).unwrap();
                    assert_bits(&other, &w, "a step later");
                }
            }
        }
        for_every_update!(check);
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let sgd: Sgd<f32> = serde_json::from_str(r#"{ "rate": 0.1 }"#).unwrap();
        assert_eq!(sgd, Sgd::new(0.1).unwrap());
        let adamw: AdamW<f32> = serde_json::from_str(r#"{ "rate": 0.1 }"#).unwrap();
        assert_eq!(adamw, AdamW::new(0.1).unwrap());
    }

    fn refusal<T: DeserializeOwned>(json: &str) -> String {
        match serde_json::from_str::<T>(json) {
            Ok(_) => panic!("{json} is accepted"),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn what_is_no_update_is_refused() {
        let momentum = |fields: &str, more: &str| {
            format!(r#"{{ "rate": 0.1, "momentum": 0.9, "weights": {{ {fields} }} {more} }}"#)
        };
        let good = r#""rows": 2, "dims": 1, "momentum": [0.5, 1]"#;
        serde_json::from_str::<Sgd<f64>>(&momentum(good, "")).unwrap();
        for (json, expected) in [
            (momentum(&good.replace("2", "3"), ""), "momentum has shape [2]"),
            (momentum(&good.replace("1,", "0,"), ""), "no axis may be empty"),
            (
                momentum(&good.replace("2", "9223372036854775807").replace("1,", "4,"), ""),
                "momentum has shape [2]",
            ),
            (momentum(&good.replace("0.5", "\"x\""), ""), "weights.momentum[0]: invalid type"),
            (momentum(good, r#", "nesterow": true"#), "unknown field `nesterow`"),
            (
                momentum(good, r#", "bias": { "rows": 3, "dims": 1, "momentum": [1, 1, 1] }"#),
                "state of the bias has shape [3, 1], but the other arguments require [2, 1]",
            ),
            (
                momentum(good, r#", "bias": { "rows": 2, "dims": 2, "momentum": [1, 1, 1, 1] }"#),
                "state of the bias has shape [2, 2]",
            ),
            (
                momentum(good, "").replace("0.9", "0"),
                "momentum must be in (0, 1) where rows have one, got 0",
            ),
            (momentum(good, "").replace("0.9", "1.5"), "momentum must be in [0, 1), got 1.5"),
            (r#"{ "momentum": 0.9 }"#.into(), "missing field `rate`"),
        ] {
            let said = refusal::<Sgd<f64>>(&json);
            assert!(said.contains(expected), "{said}");
        }
        // A number that only f64 has is infinite in f32.
        let large: Sgd<f64> =
            serde_json::from_str(&momentum(&good.replace("0.5", "1e300"), "")).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(&large, &mut bytes).unwrap();
        let said = ciborium::from_reader::<Sgd<f32>, _>(&bytes[..]).err().unwrap().to_string();
        assert!(said.contains("momentum[0, 0] is inf"), "{said}");

        let moments = r#"{ "rate": 0.1, "weights":
            { "dims": 2, "steps": [7], "first": [0, -1], "second": [0, 1] } }"#;
        serde_json::from_str::<AdamW<f64>>(moments).unwrap();
        for (from, to, expected) in [
            ("[0, 1]", "[0, -1]", "second moment must be >= 0, got -1"),
            ("[0, 1]", "[0]", "second moments has shape [1]"),
            ("[7]", "[7, 7]", "first moments has shape [2]"),
            ("[7]", "[-7]", "weights.steps[0]: invalid value"),
        ] {
            let said = refusal::<AdamW<f64>>(&moments.replace(from, to));
            assert!(said.contains(expected), "{said}");
        }
    }
}
