//! Sub-centers at their edges: equal rows, rows nearer than cosines can tell, refusals, ranks that
//! disagree, and what their usage is counted for.

use crate::common::ranks::{even, on_ranks};
use margin_softmax::sub_centers::SubCenterUsage;
use margin_softmax::{
    ArcFace, Batch, BatchMut, Error, Gradients, Head, IGNORED, MarginLoss, NormalizedLogits, Real,
    Reduction, Sgd, Softmax,
};
use ndarray::{Array2, array, s};

fn arcface() -> ArcFace {
    ArcFace::new(16.0, 0.5).unwrap()
}

/// Two classes with two rows each. The rows of class 0 lie 2e-9 and 1e-9 from the embedding: in f64
/// as in f32 both cosines are 1, and the second is the nearer.
fn nearly_equal<F: Real>() -> (Array2<F>, Array2<F>) {
    let narrow = |v: f64| F::from(v).unwrap();
    let x = array![[1.0, 0.0, 0.0]];
    let w = array![[3.0, 6e-9, 0.0], [2.0, 2e-9, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    (x.mapv(narrow), w.mapv(narrow))
}

fn check_nearly_equal<F: Real>() {
    let (x, w) = nearly_equal::<F>();
    let batch = Batch::new(&x, &w, &[0]).with_sub_centers(2);
    let head = Head::new(arcface());
    let mut gradients = Gradients::zeros_for(&batch);
    let forward = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(2).unwrap();
    let by_logits = arcface().forward(&logits, &[0]).unwrap();
    // log(1 + e^{−s cos m}): the other row of its own class is no negative.
    let expected = (-16.0 * 0.5_f64.cos()).exp().ln_1p();
    for forward in [&forward, &by_logits] {
        assert_eq!(forward.sub_centers(), [1]);
        let loss = forward.losses[0].to_f64().unwrap();
        approx::assert_relative_eq!(loss, expected, max_relative = 1e-4);
        let angle = forward.target_angles()[0].to_f64().unwrap();
        approx::assert_relative_eq!(angle, 1e-9, max_relative = 1e-6);
    }
    let of_logits = arcface().backward(&logits, &[0], &by_logits, Reduction::Sum).unwrap();
    for weights in [&gradients.weights, &logits.backward(&of_logits).unwrap().weights] {
        assert!(weights.row(0).iter().all(|&g| g == F::zero()));
        assert!(weights.row(1).iter().any(|&g| g != F::zero()));
    }
}

#[test]
fn the_nearest_row_is_found_where_cosines_are_equal() {
    check_nearly_equal::<f64>();
    check_nearly_equal::<f32>();
}

#[test]
fn of_equal_rows_the_first_counts() {
    let x = array![[1.0, 0.5], [0.2, -1.0]];
    let w = array![[1.0, 1.0], [1.0, 1.0], [0.5, -2.0], [0.5, -2.0]];
    let labels = [0, 1];
    let batch = Batch::new(&x, &w, &labels).with_sub_centers(2);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(arcface());
    let forward = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
    assert_eq!(forward.sub_centers(), [0, 0]);
    let moved: Vec<bool> =
        gradients.weights.rows().into_iter().map(|row| row.iter().any(|&g| g != 0.0)).collect();
    assert_eq!(moved, [true, false, true, false]);
}

#[test]
fn one_sub_center_is_none_bit_for_bit() {
    let x = Array2::from_shape_fn((5, 4), |(i, k)| ((i * 7 + k * 3) as f32).sin());
    let w = Array2::from_shape_fn((9, 4), |(j, k)| ((j * 5 + k) as f32).cos());
    let labels = [0, 8, 3, 3, 1];
    let plain = Batch::new(&x, &w, &labels);
    let one = plain.with_sub_centers(1);
    let head = Head::new(arcface());
    let run = |batch: &Batch<'_, f32>| {
        let mut gradients = Gradients::zeros_for(batch);
        (head.forward_backward(batch, Reduction::Mean, &mut gradients).unwrap(), gradients)
    };
    assert_eq!(run(&plain), run(&one));
}

#[test]
fn an_ignored_sample_chooses_none() {
    let (x, w) = (array![[1.0, 0.0], [0.0, 1.0]], Array2::from_elem((4, 2), 1.0));
    let batch = Batch::new(&x, &w, &[1, IGNORED]);
    let batch = batch.with_sub_centers(2).with_ignored_label(IGNORED);
    assert_eq!(Head::new(arcface()).forward(&batch).unwrap().sub_centers(), [0, IGNORED]);
}

#[test]
fn rows_that_are_no_multiple_are_refused() {
    let (x, mut w) = (array![[1.0, 2.0]], Array2::from_elem((5, 2), 1.0));
    let shape =
        Error::Shape { argument: "rows of class weights", expected: vec![4], actual: vec![5] };
    let rows = Error::Shape { argument: "class weights", expected: vec![4, 2], actual: vec![5, 2] };
    let head = Head::new(arcface());
    let refused = |batch: Batch<'_, f64>| head.forward(&batch).unwrap_err();
    assert_eq!(refused(Batch::new(&x, &w, &[0]).with_sub_centers(2)), rows);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_eq!(logits.clone().with_sub_centers(2).unwrap_err(), shape);
    let predicted = Head::new(arcface()).predict(&Batch::unlabeled(&x, &w).with_sub_centers(2));
    assert_eq!(predicted.unwrap_err(), rows);
    let mut batch = BatchMut::new(&x, &mut w, &[0]).with_sub_centers(2);
    let (mut sgd, mut dx) = (Sgd::new(0.1).unwrap(), Array2::zeros((1, 2)));
    let updated = head.step(&mut batch, Reduction::Mean, &mut sgd, &mut dx);
    assert_eq!(updated.unwrap_err(), rows);
    for none in [
        refused(Batch::new(&x, &w, &[0]).with_sub_centers(0)),
        logits.with_sub_centers(0).unwrap_err(),
        SubCenterUsage::new(3, 0).unwrap_err(),
    ] {
        assert_eq!(none.to_string(), "sub-centers per class k must be >= 1, got 0");
    }
    let label = refused(Batch::new(&x, &w, &[4]).with_sub_centers(5));
    assert_eq!(label, Error::Label { row: 0, label: 4, classes: 1 });
}

#[test]
fn softmax_takes_sub_centers_in_a_head_and_not_by_cosines() {
    let (x, w) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [-1.0, 0.0]]);
    let b = array![0.0, 1.0, 0.5, 9.0];
    let batch = Batch::new(&x, &w, &[0]).with_bias(&b);
    let forward = Head::new(Softmax).forward(&batch.with_sub_centers(2)).unwrap();
    // Logits (1, 3) and (3.5, 8): the bias decides, too.
    assert_eq!(forward.sub_centers(), [1]);
    approx::assert_relative_eq!(forward.losses[0], 5.0_f64.exp().ln_1p(), max_relative = 1e-14);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(2).unwrap();
    let refused = Softmax.forward(&logits, &[0]).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(message) if message.contains("sub-centers")));
}

#[test]
fn ranks_must_agree_on_the_number() {
    let (x, w) = (array![[1.0, 2.0]], Array2::from_elem((12, 2), 1.0));
    let refusals = on_ranks(&even(4, 2), |collective, range| {
        // The second rank holds as many classes as the first, of twice as many rows.
        let k = if range.start == 0 { 1 } else { 2 };
        let rows = w.slice(s![..range.len() * k, ..]);
        let shard = Batch::new(&x, &rows, &[0]).with_sub_centers(k);
        Head::on_ranks(arcface(), collective, range).forward(&shard).unwrap_err()
    });
    for refusal in refusals {
        let Error::Collective { rank: 1, reason } = refusal else { panic!("{refusal}") };
        assert_eq!(reason, "2 sub-centers per class, on rank 0 1");
    }
    let none = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![..range.len(), ..]);
        let shard = Batch::new(&x, &rows, &[0]).with_sub_centers(0);
        Head::on_ranks(arcface(), collective, range).forward(&shard).unwrap_err()
    });
    assert!(none.iter().all(|error| matches!(error, Error::Parameter { value: 0.0, .. })));
}

#[test]
fn usage_of_more_sub_centers_than_memory_holds_is_refused() {
    for (classes, k) in [(usize::MAX, 1), (usize::MAX, 2), (1, usize::MAX), (1 << 40, 1 << 40)] {
        let refused = SubCenterUsage::new(classes, k).unwrap_err().to_string();
        assert!(refused.starts_with("number of sub-centers must be so small"), "{refused}");
    }
}

#[test]
fn usage_refuses_what_does_not_fit_and_counts_nothing_then() {
    let (x, w) = (array![[1.0, 0.0], [0.0, 1.0]], Array2::from_elem((6, 2), 1.0));
    let batch = Batch::new(&x, &w, &[1, 0]).with_sub_centers(3);
    let forward = Head::new(arcface()).forward(&batch).unwrap();
    let mut usage = SubCenterUsage::new(2, 3).unwrap();
    let label = Error::Label { row: 0, label: 2, classes: 2 };
    assert_eq!(usage.add(&[2, 0], &forward).unwrap_err(), label);
    assert!(matches!(usage.add(&[1], &forward), Err(Error::Shape { argument: "labels", .. })));
    assert_eq!(usage.counts().sum(), 0);
    usage.add(&[1, 0], &forward).unwrap();
    assert_eq!(usage.counts(), array![[1, 0, 0], [1, 0, 0]]);
    let w = Array2::<f32>::zeros((5, 2));
    assert!(matches!(usage.dominant_weights(&w), Err(Error::Shape { .. })));
    let mut second = SubCenterUsage::new(2, 1).unwrap();
    let w = array![[9.0, 1.0], [0.0, 9.0], [1.0, 0.1], [0.0, 1.0]];
    let batch = Batch::new(&x, &w, &[0, 0]).with_sub_centers(2);
    let forward = Head::new(arcface()).forward(&batch).unwrap();
    assert_eq!(forward.sub_centers(), [0, 1]);
    let refused = second.add(&[0, 0], &forward).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "sub-centers per class", .. }));
    assert_eq!(second.counts().sum(), 0);
}
