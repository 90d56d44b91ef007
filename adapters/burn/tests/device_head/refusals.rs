//! What is wrong is named, and the head is fit for the next step.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Int, Tensor};
use margin_softmax::{ArcFace, CosFace, Error, Softmax};
use margin_softmax_burn::{MarginHead, MarginHeadConfig, Options, Reduction};

use crate::problem::{Problem, SHAPES, device, matrix, training};

const SHAPE: crate::problem::Shape = SHAPES[2];

fn step(head: &MarginHead, problem: &Problem) -> Result<Tensor<1>, Error> {
    head.forward(problem.embeddings(), problem.labels())
}

#[test]
fn class_weights_are_checked_in_every_shard_and_tile() -> Result<(), Error> {
    for (row, value) in
        [(0, f64::NAN), (19, f64::INFINITY), (20, f64::NEG_INFINITY), (52, f64::NAN)]
    {
        let mut problem = Problem::new(SHAPE, 2);
        problem.w[[row, 3]] = value;
        let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
        let found = |refused| match refused {
            Error::NonFinite { argument: "class weights", row, column: 3, .. } => Some(row),
            _ => None,
        };
        assert_eq!(found(step(&head, &problem).unwrap_err()), Some(row));
        assert_eq!(found(head.predict(problem.embeddings()).unwrap_err()), Some(row));
        assert_eq!(found(head.logits(problem.embeddings()).unwrap_err()), Some(row));
    }
    for row in [1, 20, 52] {
        let mut problem = Problem::new(SHAPE, 2);
        problem.w.row_mut(row).fill(0.0);
        let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
        let refused = step(&head, &problem).unwrap_err();
        let found = matches!(refused, Error::DegenerateNorm { argument: "class weights", row: r, .. } if r == row);
        assert!(found, "{refused}");
        // Softmax needs no direction.
        head.set_loss(Softmax::new());
        assert!(step(&head, &problem).is_ok());
    }
    Ok(())
}

#[test]
fn embeddings_labels_and_weights_of_samples_are_checked() -> Result<(), Error> {
    let mut problem = Problem::new(SHAPE, 2);
    let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
    problem.labels[5] = 53;
    let refused = step(&head, &problem).unwrap_err();
    assert_eq!(refused, Error::Label { row: 5, label: 53, classes: 53 });
    problem.labels[5] = 0;
    let negative = Tensor::<1, Int>::from_ints([0, 0, 0, 0, 0, -1], &training());
    let refused = head.forward(problem.embeddings(), negative).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 5, label: -1 });
    let few = Tensor::<1, Int>::from_ints([0, 0], &training());
    let refused = head.forward(problem.embeddings(), few).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "labels", .. }), "{refused}");
    let nan = Tensor::<1>::from_floats([0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0], &training());
    let refused = head
        .run::<f32>(
            problem.embeddings(),
            problem.labels(),
            Options::default().with_reduction(Reduction::Weighted(nan)),
        )
        .unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "reduction weights", row: 1, .. }));
    let wide = Tensor::<2>::ones([6, 3], &training());
    let refused = head.forward(wide, problem.labels()).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "class weights", .. }), "{refused}");
    let none = Tensor::<2>::zeros([0, 16], &training());
    assert!(matches!(head.predict(none), Err(Error::Empty { argument: "embeddings", .. })));
    problem.x[[2, 1]] = f64::NAN;
    let refused = step(&head, &problem).unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "embeddings", row: 2, column: 1, .. }));
    problem.x.row_mut(2).fill(0.0);
    let refused = step(&head, &problem).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "embeddings", row: 2, .. }));
    problem.x.row_mut(2).fill(1.0);
    assert!(step(&head, &problem).is_ok());
    Ok(())
}

#[test]
fn configurations_are_checked() -> Result<(), Error> {
    let config = MarginHeadConfig::new(2, 3).on_device();
    let loss = || CosFace::default();
    let refused = config.clone().with_rows_per_shard(Some(0)).init(loss(), &device()).unwrap_err();
    assert!(matches!(refused, Error::Parameter { parameter: "rows per shard", .. }));
    let refused = config.clone().with_rows_per_tile(Some(0)).init(loss(), &device()).unwrap_err();
    assert!(matches!(refused, Error::Parameter { parameter: "rows per tile", .. }));
    assert_eq!(config.clone().with_bias(true).init(loss(), &device()).unwrap_err(), Error::Bias);
    let biased = config.with_bias(true).init(Softmax::new(), &device())?;
    biased.set_loss(CosFace::default());
    let x = Tensor::<2>::ones([1, 2], &device());
    assert_eq!(biased.predict(x).unwrap_err(), Error::Bias);
    Ok(())
}

#[test]
fn rows_that_are_no_whole_classes_are_refused() -> Result<(), Error> {
    let problem = Problem::new(SHAPE, 2);
    let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?.with_sub_centers(2);
    let refused = step(&head, &problem).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "rows of class weights", .. }), "{refused}");
    let mut head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
    head.shards[0] = Param::from_tensor(Tensor::ones([20, 5], &training()));
    assert!(matches!(step(&head, &problem), Err(Error::Shape { argument: "class weights", .. })));
    Ok(())
}

#[cfg(all(feature = "other-backend", not(feature = "ndarray")))]
#[test]
#[allow(deprecated)] // the only other backend without further system dependencies
fn backend_without_its_feature_is_refused() {
    let other = burn::tensor::Device::ndarray();
    let config = MarginHeadConfig::new(2, 3).on_device();
    let refused = config.init(CosFace::default(), &other).unwrap_err();
    assert!(matches!(refused, Error::Device { .. }), "{refused}");
    assert!(matches!(MarginHead::self_check(&other), Err(Error::Device { .. })));
}

#[test]
fn classes_and_shards_may_be_in_any_order_of_calls() -> Result<(), Error> {
    // A step that is refused leaves nothing behind.
    let problem = Problem::new(SHAPE, 2);
    let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
    let before = step(&head, &problem)?.into_data();
    assert!(head.forward(matrix(&problem.x, &training()), problem.labels() + 60).is_err());
    step(&head, &problem)?.into_data().assert_eq(&before, true);
    Ok(())
}
