//! Labels that name no class: an error, or samples that are left out.

use candle_core::{DType, Tensor};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, CosFace, Error, IGNORED, Softmax, ZeroEmbedding};
use margin_softmax_candle::{MarginHead, NO_CLASS, Options, Reduction, Settings, refusal};

use crate::tensors::{CPU, LABELS, Problem, assert_close, classes, flat, labels};

type Result<T> = anyhow::Result<T>;

fn problem() -> Result<Problem> {
    Ok(Problem::new(CosFace::new(8.0, 0.3)?, false)?)
}

/// The labels with this one in place of the second.
fn with_second(label: i64) -> Result<Tensor> {
    let mut labels = LABELS.map(i64::from);
    labels[1] = label;
    Ok(Tensor::new(&labels, &CPU)?)
}

/// What every method of training and evaluation says of these labels.
fn refusals(head: &MarginHead, x: &Tensor, labels: &Tensor) -> Result<Vec<Error>> {
    let mut sampler = ClassSampler::new(9, 0.5, 1)?;
    let steps = [
        head.forward(x, labels).map(drop),
        head.run::<f64>(x, labels, Options::default().with_reduction(Reduction::Sum)).map(drop),
        head.losses(x, labels).map(drop),
        head.evaluate::<f64>(x, labels).map(drop),
        head.run::<f64>(x, labels, Options::default().with_sampler(&mut sampler)).map(drop),
    ];
    let errors = steps.map(|step| step.expect_err("a refusal"));
    Ok(errors.iter().map(|error| refusal(error).expect("the core's").clone()).collect())
}

#[test]
fn negative_label_is_refused_with_its_row_and_value() -> Result<()> {
    let problem = problem()?;
    let head = problem.head()?;
    for label in [-1, -100] {
        let refused = refusals(&head, &problem.embeddings, &with_second(label)?)?;
        let expected = Error::LabelValue { row: 1, label: label.into() };
        assert!(refused.iter().all(|error| *error == expected), "{refused:?}");
    }
    let refused = &refusals(&head, &problem.embeddings, &with_second(-1)?)?[0];
    let text = "labels[1] is -1: a label is the number of a class, 0 or more";
    assert_eq!(refused.to_string(), text);
    Ok(())
}

#[test]
fn other_negative_labels_are_refused_where_one_is_ignored() -> Result<()> {
    let problem = problem()?;
    let head = problem.head()?.with_ignored_label(-1);
    let refused = refusals(&head, &problem.embeddings, &with_second(-2)?)?;
    assert!(refused.iter().all(|error| *error == Error::LabelValue { row: 1, label: -2 }));
    let refused = refusals(&head, &problem.embeddings, &with_second(9)?)?;
    let expected = Error::Label { row: 1, label: 9, classes: 9 };
    assert!(refused.iter().all(|error| *error == expected), "{refused:?}");
    Ok(())
}

/// The ignored label: negative, beyond the last class, or the number of a class.
#[test]
fn ignored_sample_is_left_out_of_losses_and_gradients() -> Result<()> {
    let problem = problem()?;
    for label in [-1, -100, 255, 7] {
        let head = problem.head()?.with_ignored_label(label);
        let (labels, x) = (with_second(label)?, &problem.embeddings);
        let forward = head.evaluate::<f64>(x, &labels)?;
        assert_eq!((forward.counted(), forward.losses[1]), (5, 0.0));
        assert_eq!(forward.predictions()[1], IGNORED);

        let mut with_ignored = classes();
        with_ignored[1] = IGNORED;
        let batch = problem.batch(&with_ignored).with_ignored_label(IGNORED);
        let mut gradients = margin_softmax::Gradients::zeros_for(&batch);
        let mean = margin_softmax::Reduction::Mean;
        let expected = problem.core().forward_backward(&batch, mean, &mut gradients)?;
        assert!(gradients.embeddings.row(1).iter().all(|&value| value == 0.0));
        let loss = head.forward(x, &labels)?;
        assert_eq!(flat(&loss)?, [expected.mean()]);
        problem.assert_gradients(&loss, &gradients, 1e-14)?;
        let losses = head.losses(x, &labels)?;
        problem.assert_gradients(&(losses.sum_all()? / 5.0)?, &gradients, 1e-14)?;
    }
    Ok(())
}

#[test]
fn unsigned_labels_may_be_ignored_too() -> Result<()> {
    let problem = problem()?;
    let head = problem.head()?.with_ignored_label(u32::MAX.into());
    let mut labels = LABELS;
    labels[1] = u32::MAX;
    let forward = head.evaluate::<f64>(&problem.embeddings, &Tensor::new(&labels, &CPU)?)?;
    assert_eq!(forward.counted(), 5);
    Ok(())
}

#[test]
fn batch_of_ignored_samples_has_no_loss_and_no_gradient() -> Result<()> {
    let problem = problem()?;
    let head = problem.head()?.with_ignored_label(-1);
    let none = Tensor::full(-1_i64, 6, &CPU)?;
    let loss = head.forward(&problem.embeddings, &none)?;
    assert_eq!(flat(&loss)?, [0.0]);
    let gradients = loss.backward()?;
    for var in [&problem.embeddings, &problem.weight] {
        assert!(flat(gradients.get(var).expect("a gradient"))?.iter().all(|&value| value == 0.0));
    }
    Ok(())
}

#[test]
fn settings_are_kept_by_clones_and_by_each_other() -> Result<()> {
    let problem = problem()?;
    let head = problem
        .head()?
        .with_ignored_label(-1)
        .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let x = Tensor::zeros((6, 5), DType::F64, &CPU)?
        .slice_assign(&[0..2, 0..5], &problem.embeddings.narrow(0, 0, 2)?)?;
    let forward = head.clone().evaluate::<f64>(&x, &with_second(-1)?)?;
    assert_eq!(forward.counted(), 1);
    assert_eq!(format!("{:?}", head.loss()), format!("{:?}", CosFace::new(8.0, 0.3)?));
    Ok(())
}

#[test]
fn skipped_embedding_is_predicted_to_be_of_no_class() -> Result<()> {
    let problem = problem()?;
    let head = problem
        .head()?
        .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let x = Tensor::cat(
        &[problem.embeddings.as_tensor(), &Tensor::zeros((1, 5), DType::F64, &CPU)?],
        0,
    )?;
    let predicted = head.predict(&x)?.to_vec1::<u32>()?;
    let nearest = problem.core().predict(&Batch::unlabeled(&problem.x, &problem.w))?;
    assert!(predicted[..6].iter().zip(&nearest).all(|(&a, &b)| a as usize == b));
    assert_eq!(predicted[6], NO_CLASS);
    Ok(())
}

#[test]
fn zero_embedding_has_a_class_under_softmax() -> Result<()> {
    let problem = Problem::new(Softmax::new(), true)?;
    let head = problem
        .head()?
        .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let x = Tensor::zeros((1, 5), DType::F64, &CPU)?;
    let bias = problem.b.as_ref().expect("a bias");
    let largest = bias.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let class = head.predict(&x)?.to_vec1::<u32>()?[0];
    assert_eq!(bias[class as usize], largest);
    let losses = head.losses(&x, &labels()?.narrow(0, 0, 1)?)?;
    assert_close(
        "loss",
        &flat(&losses)?,
        &head.evaluate(&x, &labels()?.narrow(0, 0, 1)?)?.losses.to_vec(),
        0.0,
    );
    Ok(())
}
