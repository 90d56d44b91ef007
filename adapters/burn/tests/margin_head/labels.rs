//! Labels that name no class: an error, or samples that are left out.

use burn::tensor::{DType, Int, IntDType, Tensor};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, CosFace, Error, Gradients, IGNORED, Reduction as Core, ZeroEmbedding};
use margin_softmax_burn::{MarginHead, NO_CLASS, Options, Reduction, Settings};

use crate::problem::{LABELS, Problem, labels_of, vector};
use crate::tensors::{memory, values};

fn problem() -> Result<Problem, Error> {
    Problem::new(CosFace::new(8.0, 0.3)?, false)
}

/// The labels with this one in place of the second.
fn with_second(label: i64) -> Tensor<1, Int> {
    let mut labels = LABELS.map(|label| label as i64);
    labels[1] = label;
    labels_of(&labels)
}

/// What every method of training and evaluation says of these labels.
fn refusals(head: &MarginHead, x: Tensor<2>, labels: Tensor<1, Int>) -> Result<[Error; 5], Error> {
    let mut sampler = ClassSampler::new(9, 0.5, 1)?;
    let (x, y) = (|| x.clone(), || labels.clone());
    let steps = [
        head.forward(x(), y()).map(drop),
        head.run::<f64>(x(), y(), Options::default().with_reduction(Reduction::Sum)).map(drop),
        head.losses(x(), y()).map(drop),
        head.evaluate::<f64>(x(), y()).map(drop),
        head.run::<f64>(x(), y(), Options::default().with_sampler(&mut sampler)).map(drop),
    ];
    Ok(steps.map(|step| step.expect_err("a refusal")))
}

#[test]
fn negative_label_is_refused_with_its_row_and_value() -> Result<(), Error> {
    let problem = problem()?;
    for label in [-1, -100] {
        let refused = refusals(&problem.head, problem.x(), with_second(label))?;
        let expected = Error::LabelValue { row: 1, label: label.into() };
        assert!(refused.iter().all(|error| *error == expected), "{refused:?}");
    }
    let refused = &refusals(&problem.head, problem.x(), with_second(-1))?[0];
    let text = "labels[1] is -1: a label is the number of a class, 0 or more";
    assert_eq!(refused.to_string(), text);
    Ok(())
}

#[test]
fn other_labels_are_refused_where_one_is_ignored() -> Result<(), Error> {
    let problem = problem()?;
    let head = problem.head.clone().with_ignored_label(-1);
    let refused = refusals(&head, problem.x(), with_second(-2))?;
    assert!(refused.iter().all(|error| *error == Error::LabelValue { row: 1, label: -2 }));
    let refused = refusals(&head, problem.x(), with_second(9))?;
    let expected = Error::Label { row: 1, label: 9, classes: 9 };
    assert!(refused.iter().all(|error| *error == expected), "{refused:?}");
    Ok(())
}

/// The ignored label: negative, beyond the last class, or the number of a class.
#[test]
fn ignored_sample_is_left_out_of_losses_and_gradients() -> Result<(), Error> {
    let problem = problem()?;
    for label in [-1, -100, 255, 7] {
        let head = problem.head.clone().with_ignored_label(label);
        let (x, labels) = (|| problem.x(), || with_second(label));
        let forward = head.evaluate::<f64>(x(), labels())?;
        assert_eq!((forward.counted(), forward.losses[1]), (5, 0.0));
        assert_eq!(forward.predictions()[1], IGNORED);

        let mut with_ignored = LABELS;
        with_ignored[1] = IGNORED;
        let batch = problem.batch(&with_ignored).with_ignored_label(IGNORED);
        let mut gradients = Gradients::zeros_for(&batch);
        let expected = problem.core().forward_backward(&batch, Core::Mean, &mut gradients)?;
        assert!(gradients.embeddings.row(1).iter().all(|&value| value == 0.0));
        let loss = head.forward(x(), labels())?;
        assert_eq!(values(loss.clone()), [expected.mean()]);
        problem.assert_gradients(loss, &gradients, 1e-14);
        let fifth = vector(&[0.2; 6]);
        let losses = head.losses(x(), labels())?;
        problem.assert_gradients((losses * fifth).sum(), &gradients, 1e-14);
    }
    Ok(())
}

#[test]
fn ignored_label_may_be_of_any_integer_type() -> Result<(), Error> {
    let problem = problem()?;
    let head = problem.head.clone().with_ignored_label(255);
    for dtype in [IntDType::I64, IntDType::I32, IntDType::U64, IntDType::U32, IntDType::U8] {
        let labels = with_second(255).cast(dtype);
        assert_eq!(head.evaluate::<f64>(problem.x(), labels)?.counted(), 5);
    }
    Ok(())
}

#[test]
fn batch_of_ignored_samples_has_no_loss_and_no_gradient() -> Result<(), Error> {
    let problem = problem()?;
    let head = problem.head.clone().with_ignored_label(-1);
    let loss = head.forward(problem.x(), labels_of(&[-1; 6]))?;
    assert_eq!(values(loss.clone()), [0.0]);
    let gradients = loss.backward();
    let dx = problem.embeddings.grad(&gradients).expect("a gradient");
    let dw = problem.head.weights.grad(&gradients).expect("a gradient");
    assert!(values(dx).iter().chain(&values(dw)).all(|&value| value == 0.0));
    Ok(())
}

#[test]
fn settings_are_kept_by_clones_and_by_each_other() -> Result<(), Error> {
    let problem = problem()?;
    let head = problem
        .head
        .clone()
        .with_ignored_label(-1)
        .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let two = problem.x().narrow(0, 0, 2);
    let zeros = Tensor::zeros([4, 5], (&memory(), DType::F64));
    let x = Tensor::cat(vec![two, zeros], 0);
    assert_eq!(head.clone().evaluate::<f64>(x, with_second(-1))?.counted(), 1);
    Ok(())
}

#[test]
fn skipped_embedding_is_predicted_to_be_of_no_class() -> Result<(), Error> {
    let problem = problem()?;
    let head = problem
        .head
        .clone()
        .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let zero = Tensor::zeros([1, 5], (&memory(), DType::F64));
    let predicted = head.predict(Tensor::cat(vec![problem.x(), zero], 0))?;
    let predicted: Vec<i64> = predicted.into_data().iter::<i64>().collect();
    let nearest = problem.core().predict(&Batch::unlabeled(&problem.x, &problem.w))?;
    let mut expected: Vec<i64> = nearest.into_iter().map(|class| class as i64).collect();
    expected.push(NO_CLASS);
    assert_eq!((predicted, NO_CLASS), (expected, -1));
    Ok(())
}
