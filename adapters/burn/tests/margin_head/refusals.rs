//! Bad input returns the core's error, and nothing panics.

use burn::module::Param;
use burn::tensor::{DType, Int, IntDType, Tensor};
use margin_softmax::{ArcFace, CosFace, Error, Softmax, ZeroEmbedding};
use margin_softmax_burn::{MarginHead, MarginHeadConfig, Settings};

use crate::tensors::memory;

fn head() -> Result<MarginHead, Error> {
    MarginHeadConfig::new(2, 3).init(ArcFace::default(), &memory())
}

fn embeddings() -> Tensor<2> {
    Tensor::from_floats([[0.5, 1.0], [-1.0, 0.5]], &memory()).require_grad()
}

fn step(head: &MarginHead, x: Tensor<2>, labels: &[i64]) -> Result<Tensor<1>, Error> {
    head.forward(x, Tensor::from_data(labels, &memory()))
}

#[test]
fn label_beyond_the_last_class_is_refused() -> Result<(), Error> {
    let refused = step(&head()?, embeddings(), &[0, 3]).unwrap_err();
    assert_eq!(refused, Error::Label { row: 1, label: 3, classes: 3 });
    Ok(())
}

#[test]
fn labels_may_be_of_any_integer_type() -> Result<(), Error> {
    let (head, x) = (head()?, embeddings());
    let labels = Tensor::<1, Int>::from_ints([2, 0], &memory());
    let expected = head.forward(x.clone(), labels.clone())?.into_data();
    for dtype in [IntDType::I64, IntDType::I32, IntDType::I16, IntDType::I8, IntDType::U64] {
        let loss = head.forward(x.clone(), labels.clone().cast(dtype))?;
        loss.into_data().assert_eq(&expected, true);
    }
    let huge = Tensor::<1, Int>::from_data([u64::MAX, 0], (&memory(), DType::U64));
    let refused = head.with_ignored_label(-1).forward(x, huge).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 0, label: u64::MAX.into() });
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_refused() -> Result<(), Error> {
    let head = head()?;
    let refused = step(&head, embeddings(), &[0]).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "labels", .. }), "{refused}");
    let wide = Tensor::from_floats([[1.0, 2.0, 3.0]], &memory());
    let refused = step(&head, wide.clone(), &[0]).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "class weights", .. }), "{refused}");
    assert!(head.logits(wide.clone()).is_err() && head.predict(wide).is_err());
    let empty = Tensor::<2>::zeros([0, 2], &memory());
    assert!(matches!(step(&head, empty, &[]), Err(Error::Empty { argument: "embeddings", .. })));
    Ok(())
}

#[test]
fn numbers_that_are_not_finite_are_refused() -> Result<(), Error> {
    let (mut head, x) = (head()?, embeddings());
    let nan = Tensor::from_floats([[0.5, f32::NAN], [1.0, 1.0]], &memory());
    let refused = step(&head, nan, &[0, 1]).unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "embeddings", row: 0, column: 1, .. }));
    let w = [[1.0, 0.0], [0.0, 1.0], [f32::INFINITY, 0.0]];
    head.weights = Param::from_tensor(Tensor::from_floats(w, &memory()));
    let refused = step(&head, x, &[0, 1]).unwrap_err();
    assert!(matches!(refused, Error::NonFinite { argument: "class weights", row: 2, .. }));
    Ok(())
}

#[test]
fn zero_embedding_is_refused_unless_it_is_to_be_skipped() -> Result<(), Error> {
    let x = Tensor::<2>::from_floats([[0.0, 0.0], [1.0, 2.0]], &memory()).require_grad();
    let refused = step(&head()?, x.clone(), &[0, 1]).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "embeddings", row: 0, .. }));

    let head = head()?.with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let gradients = step(&head, x.clone(), &[0, 1])?.backward();
    let dx = x.grad(&gradients).expect("a gradient").into_data();
    let dx: Vec<f32> = dx.iter::<f32>().collect();
    assert_eq!(dx[..2], [0.0, 0.0]);
    assert!(dx[2..].iter().all(|value| *value != 0.0));
    Ok(())
}

#[test]
fn bias_is_for_softmax_alone() -> Result<(), Error> {
    let biased = MarginHeadConfig::new(2, 3).with_bias(true);
    assert_eq!(biased.init(CosFace::default(), &memory()).unwrap_err(), Error::Bias);
    let head = biased.init(Softmax::new(), &memory())?;
    assert!(step(&head, embeddings(), &[0, 1]).is_ok());
    head.set_loss(CosFace::default());
    assert_eq!(step(&head, embeddings(), &[0, 1]).unwrap_err(), Error::Bias);
    assert_eq!(head.logits(embeddings()).unwrap_err(), Error::Bias);
    Ok(())
}

#[test]
fn head_without_dimensions_or_classes_is_refused() {
    for (dims, classes) in [(0, 3), (2, 0)] {
        let refused = MarginHeadConfig::new(dims, classes).init(Softmax::new(), &memory());
        assert!(matches!(refused, Err(Error::Empty { argument: "class weights", .. })));
    }
}

#[test]
fn refused_step_leaves_the_head_fit_for_the_next() -> Result<(), Error> {
    let head = head()?;
    let before = step(&head, embeddings(), &[0, 1])?.into_data();
    assert!(step(&head, embeddings(), &[0, 9]).is_err());
    step(&head, embeddings(), &[0, 1])?.into_data().assert_eq(&before, true);
    Ok(())
}

#[test]
fn class_weights_of_half_precision_are_computed_with_in_f32() -> Result<(), Error> {
    let mut head = head()?;
    head.weights = Param::from_tensor(head.weights.val().cast(DType::F16).detach());
    let gradients = step(&head, embeddings(), &[0, 1])?.backward();
    assert_eq!(head.weights.grad(&gradients).map(|dw| dw.dtype()), Some(DType::F16));
    Ok(())
}
