//! The state belongs to rows: those that take no part rest, and rows are added, cut and joined.

use margin_softmax::Gradients;
use ndarray::{Axis, array, concatenate, s};

use super::*;

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
    use margin_softmax::sampling::ClassSampler;
    use margin_softmax::{ArcFace, Batch, Head, Reduction};
    let rng = &mut Rng::new(7);
    let (x, mut w) = (rng.matrix(4, 6), rng.matrix(40, 6));
    let labels = [3, 17, 3, 39];
    let sample = ClassSampler::new(40, 0.25, 1)?.sample(&labels)?;
    let batch = Batch::new(&x, &w, &labels);
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let head = Head::new(ArcFace::default());
    let before =
        head.forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)?;
    Sgd::new(1e-3)?.apply_rows(&mut w, &sample.classes, &gradients.weights)?;
    let batch = Batch::new(&x, &w, &labels);
    let after =
        head.forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)?;
    assert!(after.mean() < before.mean());
    Ok(())
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
        extended.extend(2).unwrap();
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
    update.extend(5).unwrap();
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
