//! What is refused, after which nothing has changed, and that what is accepted stays finite.

use margin_softmax::update::{Magnitudes, UpdateStep};
use ndarray::array;

use super::*;
use crate::common::refuse::assert_table;

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
                Error::Overflow {
                    quantity: "the bias",
                    row: None,
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
            assert!(matches!(answer, Err(Error::Overflow { quantity: "a class weight", .. })));
            let answer = extreme.apply(&mut w.clone(), &w_now);
            assert!(matches!(answer, Err(Error::Overflow { .. })));
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
    let parameter = "learning rate";
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
    assert!(matches!(refused, Error::Parameter { parameter: "second beta", .. }));
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
        assert!(matches!(refused, Error::Overflow { quantity: q, .. } if q == quantity));
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
            Err(Error::Overflow { quantity: "a class weight", bound, .. }) => bound,
            answer => panic!("{:?}", answer.map(drop)),
        };
        let step = UpdateStep { weights: None, bias: magnitudes, ..step };
        let same = Error::Overflow {
            quantity: "the bias",
            row: None,
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
        assert!(matches!(answer, Error::Overflow { quantity: "the bias", .. }));
        update.apply_bias_rows(&mut b, &[0], &Array1::zeros(1)).unwrap();
    }
    for_every_update!(check);
}
