//! Losses and gradients are those of the core.

use std::sync::Arc;

use margin_softmax::custom::{Angle, Target};
use margin_softmax::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, ElasticFace, Error, FNormSphereFace,
    Forward, Generalized, Head, IGNORED, InterclassFilter, LabelSmoothing, MagFace, MarginLoss,
    ModifiedSoftmax, MvSoftmax, Reduction, Scale, Softmax, SphereFace, SphereFace2, TopNegatives,
    UnifiedCrossEntropy, ZeroEmbedding,
};
use margin_softmax_burn::{Options, Output, Reduction as BurnReduction, Settings};
use ndarray::{Array1, Array2, array};

use crate::problem::{
    Problem, SHAPES, Shape, TOLERANCE, assert_close, device, training, values, vector,
    weight_gradients,
};

/// A loss that only its user knows, by the norms of embeddings and class weights.
#[derive(Debug)]
struct UserLoss;

impl MarginLoss for UserLoss {
    fn scale(&self) -> Scale {
        Scale::Unnormalized
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos - 0.1 * angle.sin, slope: -angle.sin - 0.1 * angle.cos }
    }
}

fn losses(classes: usize) -> Result<Vec<Arc<dyn MarginLoss>>, Error> {
    let margins = (0..classes).map(|class| 0.1 + 0.3 * class as f64 / classes as f64).collect();
    Ok(vec![
        Arc::new(Softmax::new()),
        Arc::new(ModifiedSoftmax::new()),
        Arc::new(SphereFace::new(2)?),
        Arc::new(FNormSphereFace::new(8.0, 2)?),
        Arc::new(CosFace::new(16.0, 0.3)?),
        Arc::new(ArcFace::new(64.0, 0.5)?),
        Arc::new(Generalized::new(16.0, 1.2, 0.1, 0.1)?),
        Arc::new(AdaFace::new(16.0, 0.4, 0.333)?.with_statistics(2.0, 1.0)?),
        Arc::new(MagFace::new(16.0, (1.0, 5.0), (0.2, 0.5), 3.0)?),
        Arc::new(ElasticFace::arc(16.0, 0.3, 0.05, 7)?),
        Arc::new(ClassMargins::new(16.0, margins, vec![0.0; classes])?),
        Arc::new(CurricularFace::new(16.0, 0.3)?.with_t(0.2)?),
        Arc::new(MvSoftmax::arc(16.0, 0.3, 0.2)?),
        Arc::new(InterclassFilter::new(ArcFace::new(16.0, 0.2)?, 0.2)?),
        Arc::new(InterclassFilter::new(SphereFace::new(2)?, 0.2)?),
        Arc::new(LabelSmoothing::new(MvSoftmax::am(16.0, 0.3, 0.2)?, 0.1)?),
        Arc::new(LabelSmoothing::new(Softmax::new(), 0.1)?),
        Arc::new(SphereFace2::new(16.0, 0.2)?.with_bias(3.0)?),
        Arc::new(SphereFace2::angular(8.0, 0.15)?.with_t(2.5)?),
        Arc::new(UnifiedCrossEntropy::new(16.0, 0.3)?.with_bias(-5.0)?),
        Arc::new(TopNegatives::new(ArcFace::new(16.0, 0.2)?, 5, 0.06)?),
        Arc::new(TopNegatives::new(InterclassFilter::new(SphereFace::new(2)?, 0.2)?, 2, 0.2)?),
        Arc::new(TopNegatives::new(CurricularFace::new(16.0, 0.3)?.with_t(0.2)?, 30, 0.1)?),
        Arc::new(LabelSmoothing::new(TopNegatives::new(CosFace::new(16.0, 0.3)?, 1, 0.1)?, 0.1)?),
        Arc::new(UserLoss),
    ])
}

fn assert_losses(what: &str, found: &Forward<f32>, expected: &Forward<f64>, tolerance: f64) {
    let losses: Vec<f64> = found.losses.iter().map(|&loss| f64::from(loss)).collect();
    assert_close(&format!("{what}: losses"), &losses, &expected.losses, tolerance);
    assert_eq!(found.predictions(), expected.predictions(), "{what}");
    let (classes, cosines) = expected.nearest_negatives();
    assert_eq!(found.nearest_negatives().0, classes, "{what}");
    let found_cosines: Vec<f64> = found.nearest_negatives().1.iter().map(|&c| c.into()).collect();
    assert_close(&format!("{what}: cosines"), &found_cosines, cosines, TOLERANCE);
    assert_eq!(found.sub_centers(), expected.sub_centers(), "{what}");
    assert_eq!(found.counted(), expected.counted(), "{what}");
}

/// What losses and gradients are exact to: where a sample has many negatives, the errors of their
/// logits average out; where it has few, the loss has those of a logit of the size of the scale in
/// full. Product, norm, its inverse and their product are rounded.
fn tolerance(loss: &dyn MarginLoss, shape: Shape) -> f64 {
    let scale = match loss.scale() {
        Scale::Fixed(s) => s,
        _ => 8.0, // the norms of the embeddings are at most that
    };
    // A binary loss has a logistic for each logit, which are up to t = 3 times as steep.
    let (scale, few) = match loss.binary() {
        Some(_) => (3.0 * scale, true),
        None => (scale, shape.2 < 8),
    };
    if few { TOLERANCE + scale * 4.0 * f64::from(f32::EPSILON) / 2.0 } else { TOLERANCE }
}

/// A step with a gradient of 2 for the loss.
fn check(
    what: &str,
    problem: &Problem,
    loss: Arc<dyn MarginLoss>,
    shape: Shape,
) -> Result<(), Error> {
    let head = problem.head(loss.clone(), shape)?.with_ignored_label(-1);
    // A logit is rounded once more where a prior of at most 2 is added.
    let rounding =
        if problem.log_prior.is_some() { 18.0 * f64::from(f32::EPSILON) / 2.0 } else { 0.0 };
    let tolerance = tolerance(&loss, shape) + rounding;
    let head = head.with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let core = Head::new(loss).with_zero_embeddings(ZeroEmbedding::Skip);
    let twice = Array1::from_elem(problem.x.nrows(), 2.0);
    let (forward, expected) = problem.expected(&core, Reduction::Weighted(&twice))?;
    let x = problem.embeddings();
    let options = match &problem.log_prior {
        Some(prior) => Options::default().with_log_prior(vector(prior, &device())),
        None => Options::default(),
    };
    let Output { loss: value, forward: found, .. } =
        head.run::<f32>(x.clone(), problem.labels(), options.with_reduction(BurnReduction::Sum))?;
    assert_losses(what, &found, &forward, tolerance);
    let gradients = (value * 2.0).backward();
    let dx = values(x.grad(&gradients).expect("a gradient"));
    assert_close(&format!("{what}: dx"), &dx, &expected.embeddings, tolerance);
    let dw = weight_gradients(&head, &gradients);
    assert_close(&format!("{what}: dw"), &dw, &expected.weights, tolerance);
    if let (Some(bias), Some(expected)) = (&head.bias, &expected.bias) {
        let found = values(bias.grad(&gradients).expect("a gradient"));
        assert_close(&format!("{what}: db"), &found, expected, tolerance);
    }
    Ok(())
}

#[test]
fn every_loss_agrees_with_the_core_at_every_shape() -> Result<(), Error> {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let problem = Problem::new(shape, seed);
        for loss in losses(shape.2)? {
            check(&format!("{shape:?} {loss:?}"), &problem, loss, shape)?;
        }
    }
    Ok(())
}

/// Every third loss, of which one has hard negatives and smooths labels.
#[test]
fn a_class_prior_agrees_with_the_core() -> Result<(), Error> {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut problem = Problem::new(shape, seed);
        let prior = Array1::from_shape_fn(shape.2, |j| f64::from((3.0 * j as f32).cos() * 2.0));
        problem.log_prior = Some(prior);
        for loss in losses(shape.2)?.into_iter().step_by(3) {
            check(&format!("{shape:?} {loss:?}"), &problem, loss, shape)?;
        }
    }
    Ok(())
}

#[test]
fn bias_agrees_with_the_core() -> Result<(), Error> {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut problem = Problem::new(shape, seed);
        let rows = problem.w.nrows();
        problem.bias = Some(Array1::from_shape_fn(rows, |j| f64::from((j as f32).sin())));
        check(&format!("{shape:?}"), &problem, Arc::new(Softmax::new()), shape)?;
    }
    Ok(())
}

#[test]
fn samples_that_are_left_out_have_no_part() -> Result<(), Error> {
    let shape = SHAPES[3];
    let mut problem = Problem::new(shape, 3);
    problem.labels[4] = IGNORED;
    problem.labels[32] = IGNORED;
    problem.x.row_mut(7).fill(0.0);
    for loss in losses(shape.2)?.into_iter().filter(|loss| loss.scale() != Scale::Unnormalized) {
        check(&format!("{loss:?}"), &problem, loss, shape)?;
    }
    Ok(())
}

#[test]
fn target_pairs_are_exact_where_cosines_are_one() -> Result<(), Error> {
    // Angles of 1e-6 and π − 1e-6, and of exactly 0 and π: f32 holds no digit of them as cosines.
    let x = array![[1.0, 1e-6], [-1.0, 1e-6], [1.0, 0.0], [-1.0, 0.0]];
    let w = array![[1.0, 0.0], [0.25, 1.0], [0.5, -1.0]];
    let f32_exact = |m: Array2<f64>| m.mapv(|v: f64| f64::from(v as f32));
    let (x, w) = (f32_exact(x), f32_exact(w));
    let problem = Problem { x, w, labels: vec![0; 4], sub_centers: 1, bias: None, log_prior: None };
    for loss in losses(3)? {
        check(&format!("{loss:?}"), &problem, loss, (4, 2, 3, 1, 2, 2))?;
    }
    Ok(())
}

#[test]
fn norms_beyond_the_squares_of_f32_are_taken() -> Result<(), Error> {
    let shape = SHAPES[2];
    let mut problem = Problem::new(shape, 2);
    for (row, factor) in [(0, 1e25), (17, 1e-25), (52, 1e22)] {
        problem.w.row_mut(row).mapv_inplace(|v| f64::from((v * factor) as f32));
    }
    problem.x.row_mut(1).mapv_inplace(|v| f64::from((v * 1e-25) as f32));
    check("norms", &problem, Arc::new(ArcFace::new(64.0, 0.5)?), shape)
}

#[test]
fn reductions_are_those_of_the_core() -> Result<(), Error> {
    let shape = SHAPES[2];
    let problem = Problem::new(shape, 2);
    let loss: Arc<dyn MarginLoss> = Arc::new(ArcFace::new(16.0, 0.5)?);
    let (head, core) = (problem.head(loss.clone(), shape)?, Head::new(loss));
    let weights = Array1::from_shape_fn(shape.0, |i| i as f64 - 1.5);
    let on_device = BurnReduction::Weighted(vector(&weights, &training()));
    for (reduction, expected) in [
        (BurnReduction::Mean, Reduction::Mean),
        (BurnReduction::Sum, Reduction::Sum),
        (on_device, Reduction::Weighted(&weights)),
    ] {
        let (_, expected) = problem.expected(&core, expected)?;
        let x = problem.embeddings();
        let loss = head
            .run::<f32>(x.clone(), problem.labels(), Options::default().with_reduction(reduction))?
            .loss;
        let gradients = loss.backward();
        let dx = values(x.grad(&gradients).expect("a gradient"));
        assert_close("dx", &dx, &expected.embeddings, TOLERANCE);
        assert_close("dw", &weight_gradients(&head, &gradients), &expected.weights, TOLERANCE);
    }
    Ok(())
}

#[test]
fn losses_of_samples_take_any_upstream_gradient() -> Result<(), Error> {
    let shape = SHAPES[4];
    let mut problem = Problem::new(shape, 4);
    let upstream = Array1::from_shape_fn(shape.0, |i| 0.5 * i as f64 - 1.0);
    for with_bias in [false, true] {
        let loss: Arc<dyn MarginLoss> = if with_bias {
            problem.bias = Some(Array1::from_elem(problem.w.nrows(), 0.25));
            Arc::new(Softmax::new())
        } else {
            Arc::new(ArcFace::new(16.0, 0.5)?)
        };
        let (head, core) = (problem.head(loss.clone(), shape)?, Head::new(loss));
        let (forward, expected) = problem.expected(&core, Reduction::Weighted(&upstream))?;
        let x = problem.embeddings();
        let losses = head.losses(x.clone(), problem.labels())?;
        assert_close("losses", &values(losses.clone()), &forward.losses, TOLERANCE);
        let gradients = (losses * vector(&upstream, &training())).sum().backward();
        let dx = values(x.grad(&gradients).expect("a gradient"));
        assert_close("dx", &dx, &expected.embeddings, TOLERANCE);
        assert_close("dw", &weight_gradients(&head, &gradients), &expected.weights, TOLERANCE);
        if let (Some(bias), Some(expected)) = (&head.bias, &expected.bias) {
            let found = values(bias.grad(&gradients).expect("a gradient"));
            assert_close("db", &found, expected, TOLERANCE);
        }
    }
    Ok(())
}

#[test]
fn upstream_gradients_that_are_not_finite_give_nan() -> Result<(), Error> {
    let problem = Problem::new(SHAPES[2], 2);
    let head = problem.head(Arc::new(ArcFace::default()), SHAPES[2])?;
    let x = problem.embeddings();
    let losses = head.losses(x.clone(), problem.labels())?;
    let gradients = (losses.sum() * f64::INFINITY).backward();
    assert!(values(x.grad(&gradients).expect("a gradient")).iter().all(|v| v.is_nan()));
    assert!(weight_gradients(&head, &gradients).iter().all(|v| v.is_nan()));
    Ok(())
}

#[test]
fn repeats_have_the_same_bits() -> Result<(), Error> {
    let problem = Problem::new(SHAPES[3], 3);
    let head = problem.head(Arc::new(ArcFace::new(64.0, 0.5)?), SHAPES[3])?;
    let step = || {
        let x = problem.embeddings();
        let loss = head.forward(x.clone(), problem.labels())?;
        let gradients = loss.clone().backward();
        let mut all = values(loss);
        all.extend(values(x.grad(&gradients).expect("a gradient")));
        all.extend(weight_gradients(&head, &gradients));
        Ok::<_, Error>(all)
    };
    let first = step()?;
    for _ in 0..3 {
        assert!(step()?.iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    Ok(())
}
