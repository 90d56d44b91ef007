//! Margins by row and by class are the same at every entrance.

use super::*;

fn by_head(loss: &impl MarginLoss) -> Forward<f64> {
    let (x, w, labels) = inputs();
    Head::new(loss).forward(&Batch::new(&x, &w, &labels)).unwrap()
}

fn assert_losses(found: &Array1<f64>, expected: &Array1<f64>) {
    approx::assert_relative_eq!(found, expected, max_relative = 1e-12);
}

/// Every level, sampled and split over ranks, finds these losses.
fn assert_everywhere(loss: &(impl MarginLoss + Clone), expected: &Array1<f64>) {
    let (x, w, labels) = inputs();
    assert_losses(&by_head(loss).losses, expected);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_losses(&loss.forward(&logits, &labels).unwrap().losses, expected);
    let batch = Batch::new(&x, &w, &labels);
    let sample = ClassSampler::new(4, 1.0, 1).unwrap().sample(&labels).unwrap();
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let sampled = Head::new(loss)
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap();
    assert_losses(&sampled.losses, expected);
    for forward in on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &labels);
        Head::on_ranks(loss.clone(), collective, range).forward(&shard).unwrap()
    }) {
        assert_losses(&forward.losses, expected);
    }
}

#[test]
fn elasticface_draws_by_the_row_of_the_whole_batch_everywhere() {
    let (x, w, labels) = inputs();
    let arc = ElasticFace::arc(16.0, 0.5, 0.2, 3).unwrap().at_step(5);
    let cos = ElasticFace::cos(16.0, 0.3, 0.2, 3).unwrap().at_step(5);
    let each = |build: &dyn Fn(usize) -> Box<dyn MarginLoss>| -> Array1<f64> {
        let of_row = |row| by_head(&build(row)).losses[row];
        (0..x.nrows()).map(of_row).collect()
    };
    let expected = each(&|row| Box::new(ArcFace::new(16.0, arc.margin_of(row)).unwrap()));
    assert_everywhere(&arc, &expected);
    let expected = each(&|row| Box::new(CosFace::new(16.0, cos.margin_of(row)).unwrap()));
    assert_everywhere(&cos, &expected);
    // Rows of a smaller batch are counted from its own first.
    let (x, labels) = (x.select(Axis(0), &[4]), [labels[4]]);
    let alone = Head::new(&arc).forward(&Batch::new(&x, &w, &labels)).unwrap();
    let first = ArcFace::new(16.0, arc.margin_of(0)).unwrap();
    assert_losses(&alone.losses, &array![by_head(&first).losses[4]]);
}

#[test]
fn class_margins_are_those_of_the_sample_s_own_class_everywhere() {
    let (_, _, labels) = inputs();
    let (m1, m2) = (vec![0.1, 0.9, 0.3, 0.5], vec![0.3, -0.1, 0.0, 0.2]);
    let loss = ClassMargins::new(16.0, m1.clone(), m2.clone()).unwrap();
    let of_row = |(row, &label): (usize, &usize)| {
        let alone = ClassMargins::new(16.0, vec![m1[label]; 4], vec![m2[label]; 4]).unwrap();
        by_head(&alone).losses[row]
    };
    let expected: Array1<f64> = labels.iter().enumerate().map(of_row).collect();
    assert_everywhere(&loss, &expected);
    let angular = ClassMargins::new(16.0, vec![0.4; 4], vec![0.0; 4]).unwrap();
    assert_everywhere(&angular, &by_head(&ArcFace::new(16.0, 0.4).unwrap()).losses);
    let cosine = ClassMargins::new(16.0, vec![0.0; 4], vec![0.4; 4]).unwrap();
    assert_everywhere(&cosine, &by_head(&CosFace::new(16.0, 0.4).unwrap()).losses);
}

#[test]
fn class_margins_are_counted_by_classes_and_not_by_samples_drawn() {
    let mut rng = Rng::new(8);
    let (x, w) = (rng.matrix(3, 5), rng.matrix(30, 5));
    let labels = [29, 4, 17];
    let margins: Vec<f64> = (0..30).map(|class| 0.02 * f64::from(class)).collect();
    let loss = |m1: Vec<f64>| {
        let m2 = vec![0.1; m1.len()];
        ClassMargins::new(16.0, m1, m2).unwrap()
    };
    let sample = ClassSampler::new(30, 0.3, 1).unwrap().sample(&labels).unwrap();
    assert!(sample.classes.len() < 30);
    let drawn = sample.classes.iter().map(|&class| margins[class]).collect();
    let of_drawn = w.select(Axis(0), &sample.classes);
    let alone = Batch::new(&x, &of_drawn, &sample.labels);
    let expected = Head::new(loss(drawn)).forward(&alone).unwrap().losses;
    let batch = Batch::new(&x, &w, &labels);
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let found = Head::new(loss(margins))
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap();
    assert_losses(&found.losses, &expected);
}

/// A step is refused with this error at every level and on every rank.
fn assert_refused_everywhere(loss: &(impl MarginLoss + Clone), expected: &Error) {
    let (x, w, labels) = inputs();
    let batch = Batch::new(&x, &w, &labels);
    assert_eq!(Head::new(loss).forward(&batch).unwrap_err(), *expected);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_eq!(loss.forward(&logits, &labels).unwrap_err(), *expected);
    let refusals = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &labels);
        Head::on_ranks(loss.clone(), collective, range).forward(&shard).unwrap_err()
    });
    assert!(refusals.iter().all(|refusal| refusal == expected), "{refusals:?}");
}

#[test]
fn class_margins_of_another_number_of_classes_are_refused() {
    // Four classes; each rank alone holds two.
    for count in [2, 3, 5] {
        let loss = ClassMargins::new(16.0, vec![0.3; count], vec![0.0; count]).unwrap();
        let (expected, actual) = (vec![4], vec![count]);
        let expected = Error::Shape { argument: "class margins", expected, actual };
        assert_refused_everywhere(&loss, &expected);
        let filter = InterclassFilter::new(loss.clone(), 0.4).unwrap();
        assert_refused_everywhere(&filter, &expected);
        assert_refused_everywhere(&LabelSmoothing::new(filter, 0.1).unwrap(), &expected);
    }
}

#[test]
fn class_margins_are_counted_by_classes_and_not_by_sub_centers() {
    let (x, w) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [-1.0, 0.0]]);
    let batch = Batch::new(&x, &w, &[1]).with_sub_centers(2);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(2).unwrap();
    for (count, accepted) in [(2, true), (4, false)] {
        let loss = ClassMargins::new(16.0, vec![0.3; count], vec![0.0; count]).unwrap();
        assert_eq!(Head::new(&loss).forward(&batch).is_ok(), accepted);
        assert_eq!(loss.forward(&logits, &[1]).is_ok(), accepted);
    }
}

/// The margins of a part are those of its rows in the whole batch, at every entrance.
#[test]
fn a_part_of_a_batch_draws_the_margins_of_its_rows() {
    let (x, w, labels) = inputs();
    let loss = ElasticFace::arc(16.0, 0.5, 0.2, 7).unwrap();
    let whole = Head::new(&loss).forward(&Batch::new(&x, &w, &labels)).unwrap().losses;
    let (part, labels) = (x.slice(s![2.., ..]), &labels[2..]);
    let expected = whole.slice(s![2..]).to_owned();
    let batch = Batch::new(&part, &w, labels);
    assert!(Head::new(&loss).forward(&batch).unwrap().losses != expected);
    let batch = batch.with_first_row(2);
    assert_losses(&Head::new(&loss).forward(&batch).unwrap().losses, &expected);
    let logits = NormalizedLogits::new(&part, &w).unwrap().with_first_row(2);
    assert_losses(&loss.forward(&logits, labels).unwrap().losses, &expected);
    let answers = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&part, &rows, labels).with_first_row(2);
        Head::on_ranks(&loss, collective, range).forward(&shard).unwrap().losses
    });
    answers.iter().for_each(|losses| assert_losses(losses, &expected));
    let (mut moved, mut dx) = (w.clone(), Array2::zeros(part.dim()));
    let mut batch = BatchMut::new(&part, &mut moved, labels).with_first_row(2);
    let mut sgd = Sgd::new(0.1).unwrap();
    let forward = Head::new(&loss).step(&mut batch, Reduction::Mean, &mut sgd, &mut dx).unwrap();
    assert_losses(&forward.losses, &expected);
    let refused = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&part, &rows, labels).with_first_row(range.start);
        Head::on_ranks(&loss, collective, range).forward(&shard).unwrap_err()
    });
    assert!(refused.iter().all(|error| matches!(error, Error::Collective { rank: 1, .. })));
}
