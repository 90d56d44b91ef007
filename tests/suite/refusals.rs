//! What bad numbers in a step get: which error, at both levels, and that the caller's gradients
//! are as they were.

use std::f64::consts::PI;

use crate::common::compare::wide;
use crate::common::golden::{narrow1, narrow2};
use crate::common::random::Rng;
use crate::common::refuse::{assert_table, text};
use margin_softmax::custom::{Angle, Target};
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, Batch, CosFace, Error, Forward, Generalized, Gradients, Head, MarginLoss,
    NormalizedLogits, Real, Reduction, Scale, Softmax, ZeroEmbedding,
};
use ndarray::{Array1, Array2, array};

/// A loss of a user's own that returns what it is given.
#[derive(Debug)]
struct Broken(Scale, Target);

impl MarginLoss for Broken {
    fn scale(&self) -> Scale {
        self.0
    }

    fn target(&self, _: &Angle) -> Target {
        self.1
    }
}

/// A step that is right in everything, to be spoiled in one place: 5 samples, 4 dimensions, and
/// 600 classes, so that the last row lies in another tile than the first.
struct Step<F> {
    x: Array2<F>,
    w: Array2<F>,
    b: Option<Array1<F>>,
    upstream: Array1<F>,
    loss: Box<dyn MarginLoss>,
}

const LAST: (usize, usize) = (4, 599);

impl<F: Real> Step<F> {
    fn new(loss: impl MarginLoss + 'static) -> Self {
        let mut rng = Rng::new(5);
        let (x, w) = (narrow2(rng.matrix(5, 4)), narrow2(rng.matrix(600, 4)));
        Step { x, w, b: None, upstream: narrow1(rng.vector(5)), loss: Box::new(loss) }
    }

    fn spoiled(mut self, spoil: impl FnOnce(&mut Self)) -> Self {
        spoil(&mut self);
        self
    }

    /// What a head returns. Refused, it must leave the gradients as they were.
    fn by_head(&self) -> Result<(), Error> {
        let labels = [0, 599, 3, 3, 1];
        let mut batch = Batch::new(&self.x, &self.w, &labels);
        if let Some(b) = &self.b {
            batch = batch.with_bias(b);
        }
        let mut gradients = Gradients::zeros_for(&batch);
        let sentinel = F::from(7.25).unwrap();
        gradients.embeddings.fill(sentinel);
        gradients.weights.fill(sentinel);
        gradients.bias.iter_mut().for_each(|bias| bias.fill(sentinel));
        let (before, reduction) = (gradients.clone(), Reduction::Weighted(&self.upstream));
        let head = Head::new(&self.loss);
        let answer = head.forward_backward(&batch, reduction, &mut gradients);
        match &answer {
            Err(_) => assert!(gradients == before, "{answer:?}: gradients were written to"),
            Ok(_) => assert_finite(self, &gradients),
        }
        answer.map(drop)
    }

    fn by_logits(&self) -> Result<(), Error> {
        let mut logits = NormalizedLogits::new(&self.x, &self.w)?;
        if let Some(b) = &self.b {
            logits = logits.with_bias(b)?;
        }
        let labels = [0, 599, 3, 3, 1];
        let forward: Forward<F> = self.loss.forward(&logits, &labels)?;
        let reduction = Reduction::Weighted(&self.upstream);
        let gradients = self.loss.backward(&logits, &labels, &forward, reduction)?;
        let mut angles = gradients.target_angles.iter();
        assert!(angles.all(|g| g.is_finite()), "{:?}: a gradient is not finite", self.loss);
        let gradients = logits.backward(&gradients)?;
        assert_finite(self, &gradients);
        Ok(())
    }

    fn assert_refused(&self, what: &'static str, expected: Error, named: &'static [&'static str]) {
        assert_table([
            (what, self.by_head(), expected.clone(), named),
            (what, self.by_logits(), expected, named),
        ]);
    }
}

fn assert_finite<F: Real>(step: &Step<F>, gradients: &Gradients<F>) {
    let all = gradients.embeddings.iter().chain(&gradients.weights);
    let all = all.chain(gradients.bias.iter().flatten());
    assert!(all.copied().all(F::is_finite), "{:?}: a gradient is not finite", step.loss);
}

fn arcface<F: Real>() -> Step<F> {
    Step::new(ArcFace::default())
}

fn check_numbers<F: Real>() {
    arcface::<F>().by_head().unwrap();
    arcface::<F>().by_logits().unwrap();
    let (row, last) = LAST;
    for bad in [F::nan(), F::infinity(), F::neg_infinity()] {
        let wild =
            |argument, row, column| Error::NonFinite { argument, row, column, value: wide(bad) };
        arcface::<F>().spoiled(|step| step.x[[row, 3]] = bad).assert_refused(
            "the last row of X",
            wild("embeddings", row, 3),
            &["embeddings[4, 3]"],
        );
        arcface::<F>().spoiled(|step| step.w[[last, 2]] = bad).assert_refused(
            "the last row of W",
            wild("class weights", last, 2),
            &["class weights[599, 2]"],
        );
        arcface::<F>().spoiled(|step| step.upstream[row] = bad).assert_refused(
            "the last weight of the reduction",
            wild("reduction weights", row, 0),
            &["reduction weights[4"],
        );
        let biased = Step::<F>::new(Softmax::new()).spoiled(|step| {
            let mut b = Array1::zeros(600);
            b[last] = bad;
            step.b = Some(b);
        });
        biased.assert_refused("the last bias", wild("bias", last, 0), &["bias[599"]);
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_to_the_last_row() {
    check_numbers::<f64>();
    check_numbers::<f32>();
}

fn check_norms<F: Real>(minimum: f64, maximum: f64) {
    let (row, last) = LAST;
    for factor in [0.0, 0.1 * minimum, 10.0 * maximum] {
        let entry = F::from(factor).unwrap();
        let spoiled_x = arcface::<F>().spoiled(|step| {
            step.x.row_mut(row).fill(F::zero());
            step.x[[row, 1]] = entry;
        });
        let spoiled_w = arcface::<F>().spoiled(|step| {
            step.w.row_mut(last).fill(F::zero());
            step.w[[last, 1]] = entry;
        });
        let norm = wide(entry);
        let refuse =
            |argument, row| Error::DegenerateNorm { argument, row, norm, minimum, maximum };
        spoiled_x.assert_refused(
            "norm of x",
            refuse("embeddings", row),
            &["embeddings[4] has norm"],
        );
        spoiled_w.assert_refused(
            "norm of w",
            refuse("class weights", last),
            &["class weights[599]"],
        );
    }
}

#[test]
fn norms_that_cannot_be_divided_by_are_refused() {
    check_norms::<f64>(1e-290, 1e290);
    check_norms::<f32>(1e-30, 1e30);
}

#[test]
fn only_softmax_takes_a_bias() {
    let biased = arcface::<f64>().spoiled(|step| step.b = Some(Array1::zeros(600)));
    biased.assert_refused("bias of ArcFace", Error::Bias, &["bias", "Softmax"]);
    let scale = Error::Parameter { parameter: "scale s", value: -1.0, expected: "finite and > 0" };
    Step::<f64>::new(Broken(Scale::Fixed(-1.0), Target { value: 1.0, slope: 0.0 })).assert_refused(
        "a loss of one's own with a negative scale",
        scale,
        &["scale s", "-1"],
    );
}

#[test]
fn a_loss_that_returns_nonsense_is_refused() {
    for (value, slope) in
        [(f64::NAN, 0.0), (1.0, f64::NAN), (f64::INFINITY, 0.0), (0.0, f64::NEG_INFINITY)]
    {
        let step = Step::<f64>::new(Broken(Scale::FeatureNorm, Target { value, slope }));
        for answer in [step.by_head(), step.by_logits()] {
            // The angle is that of some sample; which one is met first is not promised.
            let Err(Error::Target { row, theta, field, value: found, .. }) = &answer else {
                panic!("{answer:?}")
            };
            let broken = if value.is_finite() { ("slope", slope) } else { ("value", value) };
            assert_eq!((*field, text(found)), (broken.0, text(&broken.1)));
            assert!(*row < 5 && (0.0..=3.2).contains(theta));
            let message = answer.as_ref().unwrap_err().to_string();
            assert!(message.contains(&format!("labels[{row}]")), "{message}");
        }
    }
}

/// Steps of finite numbers whose logits or gradients are beyond the type: by `large` times the
/// embeddings, the class weights, or the weights of the reduction.
fn overflowing<F: Real>(large: f64) -> [(&'static str, Step<F>); 5] {
    let scaled = |step: Step<F>, factors: [f64; 3]| {
        let [x, w, g] = factors.map(|factor| F::from(factor).unwrap());
        step.spoiled(|step| {
            step.x.mapv_inplace(|v| v * x);
            step.w.mapv_inplace(|v| v * w);
            step.upstream.mapv_inplace(|v| v * g);
        })
    };
    let softmax = || Step::<F>::new(Softmax::new());
    [
        ("logits", scaled(softmax(), [large, large, 1.0])),
        ("gradients of embeddings", scaled(softmax(), [1.0, large, large])),
        ("gradients of class weights", scaled(softmax(), [large, 1.0, large])),
        ("gradients of short embeddings", scaled(arcface(), [large.recip(), 1.0, large])),
        ("the scale", Step::new(CosFace::new(wide(F::max_value()), 0.1).unwrap())),
    ]
}

fn assert_overflow(what: &str, answer: Result<(), Error>, largest: f64) {
    let Err(Error::Overflow { quantity, row, bound, maximum }) = answer else {
        panic!("{what}: {answer:?}")
    };
    let at = row.expect("a sample");
    assert!(at < 5 && bound > maximum && maximum < largest, "{what}");
    let message = Error::Overflow { quantity, row, bound, maximum }.to_string();
    assert!(message.contains(quantity) && message.contains(&format!("row {at}")), "{message}");
}

#[test]
fn a_head_refuses_what_may_overflow() {
    for (what, step) in overflowing::<f64>(1e170) {
        assert_overflow(what, step.by_head(), f64::MAX);
    }
    for (what, step) in overflowing::<f32>(1e22) {
        assert_overflow(what, step.by_head(), f32::MAX.into());
    }
}

#[test]
fn logits_refuse_what_may_overflow() {
    for (what, step) in overflowing::<f64>(1e170) {
        assert_overflow(what, step.by_logits(), f64::MAX);
    }
    for (what, step) in overflowing::<f32>(1e22) {
        assert_overflow(what, step.by_logits(), f32::MAX.into());
    }
}

/// Whatever a loss can be built with, a step is refused or all that it returns is finite: both
/// levels of `Step` look.
fn check_extremes<F: Real>(run: fn(&Step<F>) -> Result<(), Error>) {
    let (tiny, huge) = (f64::MIN_POSITIVE, f64::MAX);
    let (angle, cosine) = (PI.next_down(), 2.0_f64.next_down());
    let margins = [(0.0, 0.0), (tiny, -cosine), (1.5, 1.0), (angle, cosine)];
    let scales = [(64.0, 0.0), (tiny, huge), (64.0, 1e300), (1e37, 1.0)];
    let continuations = [Continuation::Monotone, Continuation::Raw];
    for (i, m0) in (0..32).flat_map(|i| [tiny, 1.0, 1e300, huge].map(|m0| (i, m0))) {
        let ((m1, m2), (s, lambda)) = (margins[i % 4], scales[i / 4 % 4]);
        let loss = Generalized::new(s, m0, m1, m2)
            .and_then(|loss| loss.with_annealing(lambda))
            .and_then(|loss| loss.with_continuation(continuations[i / 16]))
            .unwrap();
        let (text, answer) = (text(&loss), run(&Step::new(loss)));
        let refused = matches!(
            answer,
            Err(Error::Overflow { .. } | Error::Target { .. } | Error::Parameter { .. })
        );
        assert!(refused || answer.is_ok(), "{text}: {answer:?}");
    }
}

#[test]
fn extreme_hyper_parameters_give_finite_numbers_or_a_refusal_by_a_head() {
    check_extremes::<f64>(Step::by_head);
    check_extremes::<f32>(Step::by_head);
}

#[test]
fn extreme_hyper_parameters_give_finite_numbers_or_a_refusal_by_logits() {
    check_extremes::<f64>(Step::by_logits);
    check_extremes::<f32>(Step::by_logits);
}

/// Of several bad rows the first is named, however many threads look.
#[test]
fn the_first_of_several_bad_rows_is_named() {
    let mut rng = Rng::new(3);
    let (x, mut w) = (rng.matrix(64, 32), rng.matrix(2000, 32));
    for bad in [1999, 700, 300] {
        w.row_mut(bad).fill(0.0);
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let labels = vec![0; 64];
            let batch = Batch::new(&x, &w, &labels);
            let refused =
                pool.install(|| Head::new(ArcFace::default()).forward(&batch)).unwrap_err();
            match refused {
                Error::DegenerateNorm { argument: "class weights", row, .. } => {
                    assert_eq!(row, bad);
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// A skipped sample has no loss, no gradient, and no part in mean or accuracy: all is as if it
/// were not there.
#[test]
fn zero_embeddings_can_be_left_out() {
    let mut rng = Rng::new(9);
    let (whole, w) = (rng.matrix(4, 3), rng.matrix(5, 3));
    let mut x = Array2::zeros((6, 3));
    let (kept, labels) = ([0, 2, 3, 5], [1, 4, 0, 2, 2, 3]);
    let others: Vec<usize> = kept.iter().map(|&i| labels[i]).collect();
    for (row, &i) in kept.iter().enumerate() {
        x.row_mut(i).assign(&whole.row(row));
    }
    let (batch, rest) = (Batch::new(&x, &w, &labels), Batch::new(&whole, &w, &others));
    let head = Head::new(ArcFace::default()).with_zero_embeddings(ZeroEmbedding::Skip);
    let (mut all, mut few) = (Gradients::zeros_for(&batch), Gradients::zeros_for(&rest));
    all.embeddings.fill(f64::NAN);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut all).unwrap();
    let expected = head.forward_backward(&rest, Reduction::Mean, &mut few).unwrap();
    assert_eq!(forward.losses.select(ndarray::Axis(0), &kept), expected.losses);
    assert_eq!(forward.losses.select(ndarray::Axis(0), &[1, 4]), array![0.0, 0.0]);
    assert_eq!(all.embeddings.select(ndarray::Axis(0), &kept), few.embeddings);
    assert_eq!(all.embeddings.select(ndarray::Axis(0), &[1, 4]), Array2::<f64>::zeros((2, 3)));
    assert_eq!(all.weights, few.weights);
    assert_eq!((forward.mean(), forward.accuracy()), (expected.mean(), expected.accuracy()));

    x.fill(0.0);
    let batch = Batch::new(&x, &w, &labels);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut all).unwrap();
    assert_eq!((forward.mean(), forward.accuracy()), (0.0, 0.0));
    assert_eq!((all.embeddings.sum(), all.weights.sum()), (0.0, 0.0));
    let mut zero_class = w.clone();
    zero_class.row_mut(4).fill(0.0);
    let refused = head.forward(&Batch::new(&x, &zero_class, &labels)).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "class weights", row: 4, .. }));
}

#[test]
fn skip_leaves_out_embeddings_too_short_to_have_a_direction() {
    let (x, w) = (array![[1e-40_f32, 0.0], [1.0, 0.5]], array![[1.0_f32, 0.0], [0.0, 1.0]]);
    let batch = Batch::new(&x, &w, &[0, 1]);
    let head = Head::new(ArcFace::default());
    let refused = head.forward(&batch).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "embeddings", row: 0, .. }));
    let head = head.with_zero_embeddings(ZeroEmbedding::Skip);
    let forward = head.forward(&batch).unwrap();
    assert_eq!((forward.losses[0], forward.mean()), (0.0, forward.losses[1]));
}

#[test]
fn losses_are_known_where_only_the_gradient_is_out_of_range() {
    let (x, w) = (array![[1e-10_f32, 0.0]], array![[1.0_f32, 0.0], [0.0, 1.0]]);
    let batch = Batch::new(&x, &w, &[1]);
    let head = Head::new(ArcFace::new(1e30, 0.5).unwrap());
    let mut gradients = Gradients::zeros_for(&batch);
    let refused = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
    assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
    let loss = head.forward(&batch).unwrap().losses[0];
    // From 90° away the logits are s and -s sin m.
    let expected = 1e30 * (1.0 + 0.5_f32.sin());
    assert!((loss - expected).abs() <= 4.0 * f32::EPSILON * expected, "{loss}");
}
