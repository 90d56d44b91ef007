//! The largest logits of every embedding, and inference where classes are split over ranks.

use std::sync::mpsc;

use crate::common::layout::Layout;
use crate::common::ranks::{even, on_ranks, problem, ranges, with_shard};
use crate::common::spec::Spec;
use margin_softmax::ranks::Collective;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, CosFace, Error, Gradients, Head, IGNORED, MarginLoss, NormalizedLogits,
    Softmax, TopK, ZeroEmbedding,
};
use ndarray::{Array2, Axis, array};

/// The k largest of each row of all logits, by sorting.
fn sorted(logits: &Array2<f64>, k: usize) -> (Array2<usize>, Array2<f64>) {
    let order = |row: usize| {
        let mut classes: Vec<usize> = (0..logits.ncols()).collect();
        classes.sort_by(|&a, &b| logits[[row, b]].total_cmp(&logits[[row, a]]).then(a.cmp(&b)));
        classes
    };
    let orders: Vec<_> = (0..logits.nrows()).map(order).collect();
    let classes = Array2::from_shape_fn((logits.nrows(), k), |(row, at)| orders[row][at]);
    let largest =
        Array2::from_shape_fn(classes.dim(), |(row, at)| logits[[row, classes[[row, at]]]]);
    (classes, largest)
}

fn assert_close(found: &TopK<f64>, expected: &(Array2<usize>, Array2<f64>)) {
    assert_eq!(found.classes, expected.0);
    approx::assert_relative_eq!(found.logits, expected.1, max_relative = 1e-11);
}

#[test]
fn top_k_is_that_of_the_sorted_logits() {
    let problem = problem(4, (9, 7, 700), false);
    let loss = CosFace::default();
    let logits = NormalizedLogits::new(&problem.x, &problem.w).unwrap();
    let logits = loss.margin_free_logits(&logits).unwrap();
    let batch = Batch::unlabeled(&problem.x, &problem.w);
    for head in Head::new(loss).at_every_level() {
        for k in [1, 5, 300, 700] {
            assert_close(&head.top_k(&batch, k).unwrap(), &sorted(&logits, k));
        }
        let first = head.top_k(&batch, 1).unwrap().classes;
        assert_eq!(first.into_raw_vec_and_offset().0, head.predict(&batch).unwrap());
    }
}

#[test]
fn the_logits_of_softmax_have_its_bias() {
    let problem = problem(5, (6, 4, 300), true);
    let b = problem.b.clone().unwrap();
    let batch = Batch::unlabeled(&problem.x, &problem.w).with_bias(&b);
    let logits = problem.x.dot(&problem.w.t()) + &b;
    assert_close(&Head::new(Softmax).top_k(&batch, 4).unwrap(), &sorted(&logits, 4));
}

#[test]
fn a_class_with_sub_centers_is_listed_once_by_its_nearest_row() {
    let w = array![[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]];
    let head = Head::new(CosFace::new(10.0, 0.2).unwrap());
    let x = array![[1.0, 0.0]];
    let found = head.top_k(&Batch::unlabeled(&x, &w).with_sub_centers(2), 2).unwrap();
    assert_close(&found, &(array![[0, 1]], array![[10.0, 0.0]]));
}

#[test]
fn of_equal_logits_the_lower_class_comes_first() {
    let w = Array2::from_shape_fn((600, 1), |(j, _)| if j % 2 == 0 { 2.0 } else { -1.0 });
    let head = Head::new(ArcFace::default());
    let found = head.top_k(&Batch::unlabeled(&array![[3.0]], &w), 5).unwrap();
    assert_eq!(found.classes, array![[0, 2, 4, 6, 8]]);
}

#[test]
fn only_active_classes_are_listed_and_no_correction_is_added() {
    let problem = problem(6, (5, 4, 60), false);
    let mut sampler = ClassSampler::new(60, 0.2, 3).unwrap().with_correction(true);
    let sample = sampler.sample(&problem.labels).unwrap();
    let loss = ArcFace::default();
    let rows = problem.w.select(Axis(0), &sample.classes);
    let logits = NormalizedLogits::new(&problem.x, &rows).unwrap();
    let (places, logits) = sorted(&loss.margin_free_logits(&logits).unwrap(), 3);
    let batch = Batch::unlabeled(&problem.x, &problem.w).with_sample(&sample);
    let found = Head::new(loss).top_k(&batch, 3).unwrap();
    assert_close(&found, &(places.mapv(|place| sample.classes[place]), logits));
    let refused = Head::new(ArcFace::default()).top_k(&batch, sample.classes.len() + 1);
    assert!(matches!(refused, Err(Error::Parameter { parameter: "k", .. })));
}

#[test]
fn a_sample_of_classes_that_are_not_there_is_refused_in_inference() {
    let problem = problem(6, (5, 4, 60), false);
    let mut sample = ClassSampler::new(60, 0.2, 3).unwrap().sample(&problem.labels).unwrap();
    let last = sample.classes.len() - 1;
    sample.classes[last] = usize::MAX;
    for k in [1, 2] {
        let position = sample.classes.iter().position(|&class| class >= 60 / k).unwrap();
        let refused = Error::Sample { field: "classes", position };
        let batch = Batch::unlabeled(&problem.x, &problem.w).with_sub_centers(k);
        let batch = batch.with_sample(&sample);
        assert_eq!(Gradients::zeros_for(&batch).embeddings.dim(), (5, 4));
        let answer = Head::new(ArcFace::default()).predict(&batch);
        assert_eq!(answer.unwrap_err(), refused);
    }
    let absurd = Batch::unlabeled(&problem.x, &problem.w).with_sub_centers(usize::MAX);
    let absurd = absurd.with_sample(&sample);
    assert_eq!(Gradients::zeros_for(&absurd).weights.nrows(), 60);
    assert!(Head::new(ArcFace::default()).predict(&absurd).is_err());
}

#[test]
fn k_lies_between_one_and_the_number_of_classes() {
    let (x, w) = (array![[1.0_f64, 2.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let head = Head::new(ArcFace::default());
    for k in [0, 3, usize::MAX] {
        let refused = head.top_k(&Batch::unlabeled(&x, &w), k).unwrap_err();
        assert!(matches!(refused, Error::Parameter { parameter: "k", .. }), "{refused}");
    }
}

#[test]
fn a_skipped_embedding_has_no_classes() {
    let (x, w) = (array![[0.0_f64, 0.0], [0.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let head = Head::new(ArcFace::default()).with_zero_embeddings(ZeroEmbedding::Skip);
    let found = head.top_k(&Batch::unlabeled(&x, &w), 2).unwrap();
    assert_eq!(found.classes, array![[IGNORED, IGNORED], [1, 0]]);
    assert!(found.logits.row(0).iter().all(|logit| logit.is_nan()));
}

/// The ranges of one, two and three ranks, of which one holds nothing.
fn splits() -> [Vec<std::ops::Range<usize>>; 3] {
    [even(90, 1), even(90, 2), ranges(&[0, 40, 40, 90])]
}

#[test]
fn ranks_infer_what_one_machine_does() {
    let problem = problem(9, (10, 7, 90), false);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let head = Head::new(Spec::Modified.build());
    let expected = (
        head.predict(&inputs.batch()).unwrap(),
        head.top_k(&inputs.batch(), 4).unwrap(),
        head.target_angles(&inputs.batch()).unwrap(),
    );
    for split in splits() {
        let found = on_ranks(&split, |collective, range| {
            with_shard(&inputs, &range, |shard| {
                let head = Head::on_ranks(Spec::Modified.build(), collective, range.clone());
                let nearest = head.predict(shard).unwrap();
                let largest = head.top_k(shard, 4).unwrap();
                (nearest, largest, head.target_angles(shard).unwrap())
            })
        });
        assert!(found.iter().all(|of_rank| *of_rank == expected), "{split:?}");
    }
}

#[test]
fn ranks_must_request_as_many_classes() {
    let inputs = problem(9, (4, 3, 20), false).inputs::<f64>([Layout::Standard; 2]);
    let errors = on_ranks(&even(20, 2), |collective, range| {
        with_shard(&inputs, &range, |shard| {
            let k = 2 + Collective::<f64>::rank(&collective);
            let head = Head::on_ranks(Spec::Modified.build(), collective, range.clone());
            head.top_k(shard, k).unwrap_err()
        })
    });
    assert!(matches!(errors[0], Error::Collective { rank: 1, .. }), "{:?}", errors[0]);
    assert_eq!(errors[0], errors[1]);
}

/// A collective of one rank whose calls wait until they are let go.
struct Waiting {
    entered: mpsc::SyncSender<()>,
    go: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Collective<f64> for Waiting {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce_max(&self, _: &mut [f64]) -> Result<(), Error> {
        Ok(())
    }

    fn all_reduce_sum(&self, _: &mut [f64]) -> Result<(), Error> {
        Ok(())
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
        self.entered.send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        Ok(values.to_vec())
    }
}

#[test]
fn a_second_step_at_the_same_time_on_a_rank_is_an_error_and_the_next_one_runs() {
    let (x, w) = (array![[1.0_f64, 2.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let batch = Batch::new(&x, &w, &[1]);
    let (entered, has_entered) = mpsc::sync_channel(1);
    let (go, is_let_go) = mpsc::channel();
    let collective = Waiting { entered, go: std::sync::Mutex::new(is_let_go) };
    let head = Head::on_ranks(ArcFace::default(), collective, 0..2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| head.forward(&batch).map(drop));
        has_entered.recv().unwrap();
        assert_eq!(head.forward(&batch).unwrap_err(), Error::Busy);
        assert_eq!(head.predict(&batch).unwrap_err(), Error::Busy);
        go.send(()).unwrap();
        first.join().unwrap().unwrap();
    });
    go.send(()).unwrap();
    assert!(head.forward(&batch).is_ok());
}
