//! A step whose sweeps run in an engine of plain loops gives what the head gives.

mod engine;

use crate::common::compare::wide;
use crate::wider_family::{assert_answers, for_each};
use margin_softmax::offload::{
    BinaryLogits, HardNegativeLogits, LogSumExp, NegativeLogit, OffloadedBackward,
    OffloadedClasses, OffloadedStep, SweepStats,
};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{ArcFace, Batch, ClassMargins, Gradients, IGNORED, Softmax};
use margin_softmax::{Error, Forward, Head, MarginLoss, Real, Reduction, ZeroEmbedding};
use ndarray::{Array1, Array2, Axis, array};
use std::slice;

use engine::Sweeps;

pub type Answer<F> = (Forward<F>, Array2<F>, Array2<F>, Array1<F>);

/// What a step is over: the labels, the one to ignore, the rows of a class, and the active classes.
#[derive(Clone, Copy)]
pub struct Over<'a> {
    pub labels: &'a [usize],
    pub ignored: Option<usize>,
    pub k: usize,
    pub sample: Option<&'a ClassSample>,
}

/// The step through an engine of plain loops.
pub fn offloaded<F: Real, L: MarginLoss>(
    head: &Head<L>,
    (x, w, bias): (&Array2<F>, &Array2<F>, Option<&Array1<F>>),
    Over { labels, ignored, k, sample }: Over<'_>,
    log_prior: Option<&Array1<F>>,
    reduction: Reduction<'_, F>,
) -> Result<Answer<F>, Error> {
    let classes = OffloadedClasses::new(labels, ignored, (w.nrows() / k, k))?;
    let classes = match sample {
        Some(sample) => classes.with_sample(sample)?,
        None => classes,
    };
    let own = w.select(Axis(0), classes.own_rows());
    let bias_view = bias.map(|bias| &**bias);
    let mut step = head.offload(&classes, (x, &own, bias_view), Some(reduction))?;
    if let Some(prior) = log_prior {
        step = step.with_log_prior(prior)?;
    }
    let all = w;
    let (w, bias) = match classes.swept_rows() {
        Some(rows) => (w.select(Axis(0), &rows), bias.map(|bias| bias.select(Axis(0), &rows))),
        None => (w.clone(), bias.cloned()),
    };
    let offsets = classes.offsets().map(Array1::from);
    let sweeps = Sweeps::new(&step, &w, (bias.as_ref(), offsets), k);
    let places = classes.own_places().unwrap();
    let mut stats = sweeps.stats(&step, places);
    let read = all.select(Axis(0), &step.nearest_rows(&mut stats)?);
    let (forward, backward) = step.complete(&stats, sweeps.extreme_norms(), &read)?;
    let (dx, dw, db) = sweeps.gradients(&step, &backward, places);
    Ok((forward, dx, dw, db))
}

fn check_formulas<F: Real>() {
    for_each::<F>(|what, loss, problem, answer| {
        let head = Head::new(loss.clone());
        let reduction = Reduction::Weighted(&problem.upstream);
        let arrays = (&problem.x, &problem.w, None);
        let (labels, prior) = (&problem.labels[..], problem.log_prior.as_ref());
        let classes = Over { labels, ignored: None, k: problem.k, sample: None };
        let (forward, dx, dw, _) = offloaded(&head, arrays, classes, prior, reduction).unwrap();
        assert_answers(what, &forward, [&dx, &dw], answer);
    });
}

#[test]
fn offloaded_steps_agree_with_the_formulas() {
    check_formulas::<f64>();
    check_formulas::<f32>();
}

#[test]
fn bias_margins_by_class_and_samples_left_out_are_those_of_the_head() {
    let x = array![[0.5, -1.0, 0.2], [0.0, 0.0, 0.0], [1.5, 0.1, -0.4], [-0.3, 0.8, 0.9]];
    let w = Array2::from_shape_fn((5, 3), |(j, k)| ((3 * j + 7 * k) as f64 + 0.5).sin());
    let bias = array![0.3, -0.2, 0.1, 0.0, -0.5];
    let labels = [3, 1, IGNORED, 3];
    let margins = ClassMargins::new(8.0, vec![0.1, 0.2, 0.3, 0.4, 0.5], vec![0.0; 5]).unwrap();
    let softmax: Box<dyn MarginLoss> = Box::new(Softmax::new());
    for (loss, bias) in [(softmax, Some(&bias)), (Box::new(margins), None)] {
        let head = Head::new(loss).with_zero_embeddings(ZeroEmbedding::Skip);
        let batch = Batch::new(&x, &w, &labels).with_ignored_label(IGNORED);
        let batch = match bias {
            Some(bias) => batch.with_bias(bias),
            None => batch,
        };
        let mut expected = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
        let classes = Over { labels: &labels, ignored: Some(IGNORED), k: 1, sample: None };
        let (found, dx, dw, db) =
            offloaded(&head, (&x, &w, bias), classes, None, Reduction::Mean).unwrap();
        // A few roundings of numbers of the order of 1.
        approx::assert_abs_diff_eq!(found.losses, forward.losses, epsilon = 1e-14);
        assert_eq!(found.predictions(), forward.predictions());
        assert_eq!(found.counted(), forward.counted());
        approx::assert_abs_diff_eq!(dx, expected.embeddings, epsilon = 1e-14);
        approx::assert_abs_diff_eq!(dw, expected.weights, epsilon = 1e-14);
        if let Some(expected) = expected.bias {
            approx::assert_abs_diff_eq!(db, expected, epsilon = 1e-14);
        }
    }
}

#[test]
fn a_sampled_step_is_that_of_the_head() {
    let x = Array2::from_shape_fn((4, 3), |(i, k)| ((5 * i + 3 * k) as f64 + 0.2).cos());
    let labels = [17, 4, IGNORED, 17];
    let mut sampler = ClassSampler::new(20, 0.3, 7).unwrap().with_correction(true);
    let sample = sampler.sample(&labels).unwrap();
    assert!(sample.correction() != 0.0 && sample.classes.len() == 6);
    for (loss, k) in
        [(Box::new(ArcFace::default()) as Box<dyn MarginLoss>, 2), (Box::new(Softmax::new()), 1)]
    {
        let w = Array2::from_shape_fn((20 * k, 3), |(j, k)| ((3 * j + 7 * k) as f64 + 0.5).sin());
        let bias = Array1::from_shape_fn(20, |j| (j as f64).sin());
        let bias = (k == 1).then_some(&bias);
        let head = Head::new(loss);
        let batch = Batch::new(&x, &w, &labels).with_ignored_label(IGNORED).with_sub_centers(k);
        let batch = bias.map_or(batch, |bias| batch.with_bias(bias)).with_sample(&sample);
        let prior = Array1::from_shape_fn(20, |j| 2.0 * (j as f64).cos());
        let batch = batch.with_log_prior(&prior);
        let mut expected = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Sum, &mut expected).unwrap();
        let over = Over { labels: &labels, ignored: Some(IGNORED), k, sample: Some(&sample) };
        let (found, dx, dw, db) =
            offloaded(&head, (&x, &w, bias), over, Some(&prior), Reduction::Sum).unwrap();
        let [margin_free, expected_free] = [&found, &forward].map(Forward::margin_free_losses);
        approx::assert_abs_diff_eq!(margin_free, expected_free, epsilon = 1e-12);
        assert_eq!(found.predictions(), forward.predictions());
        assert_eq!(found.sub_centers(), forward.sub_centers());
        // A few roundings of logits of at most 64.
        approx::assert_abs_diff_eq!(found.losses, forward.losses, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(dx, expected.embeddings, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(dw, expected.weights, epsilon = 1e-12);
        if let Some(expected) = expected.bias {
            approx::assert_abs_diff_eq!(db, expected, epsilon = 1e-12);
        }
    }
}

#[test]
fn what_is_wrong_is_refused_as_by_the_head() {
    let (x, w) = (array![[1.0_f32, 0.0]], array![[1.0_f32, 0.0], [0.0, 1.0], [3.0, 4.0]]);
    let head = Head::new(ArcFace::default());
    let refused = OffloadedClasses::new(&[3], None, (3, 1)).unwrap_err();
    assert_eq!(refused, Error::Label { row: 0, label: 3, classes: 3 });
    assert!(matches!(OffloadedClasses::new(&[0], None, (3, 0)), Err(Error::Parameter { .. })));

    let classes = OffloadedClasses::new(&[2], None, (3, 1)).unwrap();
    assert_eq!(classes.own_rows(), [2]);
    let own = w.select(Axis(0), classes.own_rows());
    assert!(matches!(head.offload(&classes, (&x, &w, None), None), Err(Error::Shape { .. })));
    let bias = array![0.0_f32, 0.0, 0.0];
    let refused = head.offload(&classes, (&x, &own, Some(&*bias)), None).unwrap_err();
    assert_eq!(refused, Error::Bias);

    let step = head.offload(&classes, (&x, &own, None), Some(Reduction::Mean)).unwrap();
    assert_eq!(step.check_class_weights(w.view(), 0).unwrap(), (1.0, 5.0));
    assert!(step.accepts_norms((1.0, 5.0)) && !step.accepts_norms((0.0, 5.0)));
    assert!(!step.accepts_norms((1.0, f64::NAN)));
    let zero = array![[1.0_f32, 0.0], [0.0, 0.0]];
    let refused = step.check_class_weights(zero.view(), 7).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "class weights", row: 8, .. }));
    let none = Array2::zeros((0, 2));
    assert!(matches!(step.complete(&[], (1.0, 1.0), &none), Err(Error::Shape { .. })));
    let stats = SweepStats {
        negatives: LogSumExp::NONE,
        margin_free_negatives: LogSumExp::NONE,
        logit_sum: 0.0,
        nearest: 2,
        nearest_negative: None,
        apart: Vec::new(),
    };
    let refused = step.complete(slice::from_ref(&stats), (1e-30, 1e38), &none).unwrap_err();
    assert!(matches!(refused, Error::Overflow { .. }), "{refused}");
    let third = NegativeLogit { place: 3, logit: 0.0 };
    for beyond in [
        SweepStats { nearest: 3, ..stats.clone() },
        SweepStats { nearest_negative: Some(third), ..stats.clone() },
        SweepStats { apart: vec![third], ..stats.clone() },
    ] {
        let refused = step.complete(&[beyond], (1.0, 5.0), &none).unwrap_err();
        assert_eq!(refused, Error::Label { row: 0, label: 3, classes: 3 });
    }
    let refused = step.complete(slice::from_ref(&stats), (1.0, 5.0), &own).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "class weights of negatives", .. }));
    let (forward, _) = step.complete(&[stats], (1.0, 5.0), &none).unwrap();
    assert_eq!((forward.losses[0], forward.accuracy()), (0.0, 1.0));
    let refused = step.with_log_prior(&array![0.0, f32::NAN, 0.0]).unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "log prior", row: 1, .. }));
    let step = head.offload(&classes, (&x, &own, None), None).unwrap();
    let refused = step.with_log_prior(&array![0.0, 0.0]).unwrap_err();
    let (expected, actual) = (vec![3], vec![2]);
    assert_eq!(refused, Error::Shape { argument: "log prior", expected, actual });
}
