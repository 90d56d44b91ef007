//! Numbers at the ends of their types: a bound that follows the state, and sizes beyond any memory.

use margin_softmax::update::{Magnitudes, UpdateStep};
use ndarray::array;

use super::*;

/// A sixteenth of the largest number of `f32`, the most that a state may reach, is 2.1e37.
const LARGE: f32 = 2e37;

fn slow(update: Sgd<f32>) -> Sgd<f32> {
    let mut update = update.with_weight_decay(0.0).unwrap();
    update.set_rate(1e-30).unwrap();
    update
}

fn is_state_overflow(answer: Result<(), Error>) -> bool {
    let quantity = "the state of the class weights";
    matches!(answer, Err(Error::Overflow { quantity: q, .. }) if q == quantity)
}

#[test]
fn a_momentum_that_has_faded_refuses_nothing() {
    for mut update in [slow(momentum()), slow(nesterov())] {
        let (mut w, mut b) = (array![[0.0, 1.0]], array![1.0]);
        update.apply(&mut w, &array![[LARGE, 1.0]]).unwrap();
        update.apply_bias(&mut b, &array![-LARGE]).unwrap();
        // It has not faded yet.
        assert!(is_state_overflow(update.apply(&mut w, &array![[LARGE / 2.0, 1.0]])));
        for _ in 0..2000 {
            update.apply(&mut w, &array![[0.0, 0.0]]).unwrap();
            update.apply_bias(&mut b, &array![0.0]).unwrap();
        }
        update.apply(&mut w, &array![[LARGE / 2.0, 1.0]]).unwrap();
        update.apply_bias(&mut b, &array![LARGE / 2.0]).unwrap();
        let held = update.momentum_buffer().unwrap()[[0, 0]];
        approx::assert_relative_eq!(held, LARGE / 2.0, max_relative = 1e-6);
        // What was read is known from now on, and added to.
        assert!(is_state_overflow(update.apply(&mut w, &array![[0.7 * LARGE, 1.0]])));
        update.apply(&mut w, &array![[0.5 * LARGE, 1.0]]).unwrap();
        assert!(is_state_overflow(update.apply(&mut w, &array![[0.5 * LARGE, 1.0]])));
    }
}

#[test]
fn a_large_momentum_refuses_steps_of_its_own_row_alone() {
    let mut update = slow(momentum());
    let mut w = array![[0.0], [0.0], [0.0]];
    update.apply_rows(&mut w, &[1], &array![[LARGE]]).unwrap();
    for row in [0, 2] {
        update.apply_rows(&mut w, &[row], &array![[LARGE]]).unwrap();
    }
    for row in 0..3 {
        let before = update.clone();
        assert!(is_state_overflow(update.apply_rows(&mut w, &[row], &array![[LARGE / 2.0]])));
        assert_same_state(&update, &before, "refused");
    }
    // Row 1 fades, the others rest and keep what they have.
    for _ in 0..2000 {
        update.apply_rows(&mut w, &[1], &array![[0.0]]).unwrap();
    }
    update.apply_rows(&mut w, &[1], &array![[LARGE / 2.0]]).unwrap();
    for row in [0, 2] {
        assert!(is_state_overflow(update.apply_rows(&mut w, &[row], &array![[LARGE / 2.0]])));
    }
}

/// Whatever is accepted, the state stays below the bound: steps of random rows and sizes, about a
/// half of them refused.
#[test]
fn an_accepted_state_is_within_the_bound() {
    let rng = &mut Rng::new(31);
    let mut update = slow(momentum());
    let mut w = Array2::<f32>::zeros((5, 2));
    let mut accepted = 0;
    for _ in 0..2000 {
        let rows: Vec<usize> = (0..5).filter(|_| rng.below(2) == 0).collect();
        let gradient = matrix::<f32>(rng, rows.len(), 2).mapv(|v| 0.4 * LARGE * v);
        accepted += usize::from(update.apply_rows(&mut w, &rows, &gradient).is_ok());
        if let Some(momentum) = update.momentum_buffer() {
            assert!(momentum.iter().all(|m| m.abs() <= f32::MAX / 16.0));
        }
    }
    assert!((200..1900).contains(&accepted), "{accepted}");
}

#[test]
fn rows_beyond_any_memory_cannot_be_added() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        // Before the first step there is nothing to add to.
        update.extend(usize::MAX).unwrap();
        let (mut w, mut b) = (Array2::<F>::ones((2, 3)), Array1::<F>::ones(2));
        update.apply(&mut w, &Array2::ones((2, 3))).unwrap();
        update.apply_bias(&mut b, &Array1::ones(2)).unwrap();
        let before = update.clone();
        for rows in [usize::MAX, usize::MAX - 1, usize::MAX / 3, usize::MAX / 3 - 1, 1 << 58] {
            let answer = update.extend(rows);
            let stateless = update.moments().is_empty();
            let expected = Err(Error::Parameter {
                parameter: "number of new rows",
                value: rows as f64,
                expected: "so small that their state fits into memory",
            });
            assert_eq!(answer, if stateless { Ok(()) } else { expected });
            assert_same_state(&update, &before, "not extended");
        }
        update.apply(&mut w, &Array2::ones((2, 3))).unwrap();
        update.apply_bias(&mut b, &Array1::ones(2)).unwrap();
    }
    for_every_update!(check);
}

#[test]
fn shapes_beyond_any_memory_are_refused() {
    fn check<F: Real, U: Update<F>>(mut update: U) {
        let before = update.clone();
        let magnitudes = Some(Magnitudes { value: 1.0, gradient: 1.0 });
        let step = |shape, bias| UpdateStep { shape, chunks: &[], weights: magnitudes, bias };
        for shape in [(usize::MAX, 2), (usize::MAX, usize::MAX), (2, usize::MAX), (1 << 61, 1)] {
            let step = step(shape, magnitudes);
            for answer in [update.check(&step), update.begin(&step).map(drop)] {
                let expected = "so small that they fit into memory";
                assert_eq!(
                    answer,
                    Err(Error::Parameter {
                        parameter: "number of class weights",
                        value: shape.0 as f64 * shape.1 as f64,
                        expected,
                    })
                );
            }
        }
        // Of a size that an array may have, though no memory has it.
        let answer = update.begin(&step((1 << 40, 1 << 15), magnitudes)).map(drop);
        let stateless = update.moments().is_empty() && answer.is_ok();
        assert!(stateless || matches!(answer, Err(Error::Parameter { .. })), "{answer:?}");
        assert_same_state(&update, &before, "refused");

        // Rows without numbers, more of them than can be counted in a lifetime.
        let empty = update.apply(&mut Array2::zeros((1 << 60, 0)), &Array2::zeros((1 << 60, 0)));
        assert_eq!(
            empty,
            Err(Error::Empty { argument: "class weights", actual: vec![1 << 60, 0] })
        );
    }
    for_every_update!(check);
}
