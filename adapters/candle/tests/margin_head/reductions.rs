//! The mean, sums with weights, and the losses of each sample are those of the core.

use candle_core::{DType, Tensor};
use margin_softmax::{ArcFace, CosFace, Error, Reduction as Core, Softmax, SphereFace};
use margin_softmax_candle::{MarginHead, Options, Output, Reduction, Settings, refusal};
use ndarray::{Array1, array};

use crate::tensors::{CPU, DIMS, Problem, assert_close, classes, flat, labels, tensor};

type Result<T> = anyhow::Result<T>;

/// One weight per sample, of both signs, and 0.
fn weights() -> Array1<f64> {
    array![0.5, -1.5, 0.0, 2.0, 0.25, 1.0]
}

fn problems() -> Result<[Problem; 3]> {
    Ok([
        Problem::new(ArcFace::new(8.0, 0.5)?, false)?,
        Problem::new(SphereFace::new(2)?, false)?,
        Problem::new(Softmax::new(), true)?,
    ])
}

#[test]
fn every_reduction_is_that_of_the_core() -> Result<()> {
    let g = weights();
    let weights = Tensor::new(g.to_vec(), &CPU)?;
    for problem in problems()? {
        let head = problem.head()?;
        for (ours, core) in [
            (Reduction::Mean, Core::Mean),
            (Reduction::Sum, Core::Sum),
            (Reduction::Weighted(weights.clone()), Core::Weighted(&g)),
        ] {
            let (forward, gradients) = problem.expected(&classes(), core)?;
            let x = &problem.embeddings;
            let loss = head
                .run::<f64>(x, &labels()?, Options::default().with_reduction(ours.clone()))?
                .loss;
            problem.assert_gradients(&loss, &gradients, 1e-14)?;
            let value = match core {
                Core::Mean => forward.mean(),
                Core::Sum => forward.sum(),
                _ => forward.losses.dot(&g),
            };
            assert_close("loss", &flat(&loss)?, &[value], 1e-14);
            let Output { loss: detailed, forward: found, .. } =
                head.run::<f64>(x, &labels()?, Options::default().with_reduction(ours.clone()))?;
            assert_eq!((flat(&detailed)?, found), (flat(&loss)?, forward));
        }
    }
    Ok(())
}

#[test]
fn reduction_without_gradients_has_the_same_value() -> Result<()> {
    let problem = Problem::new(CosFace::new(8.0, 0.3)?, false)?;
    let tracked = problem.head()?;
    let weight = problem.weight.as_tensor().detach();
    let frozen = MarginHead::from_parts(problem.core(), weight, None)?;
    let (x, g) = (problem.embeddings.as_tensor().detach(), Tensor::new(weights().to_vec(), &CPU)?);
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::Weighted(g.clone())] {
        let loss = frozen
            .run::<f64>(&x, &labels()?, Options::default().with_reduction(reduction.clone()))?
            .loss;
        assert!(!loss.track_op());
        assert_eq!(
            flat(&loss)?,
            flat(
                &tracked
                    .run::<f64>(
                        &x,
                        &labels()?,
                        Options::default().with_reduction(reduction.clone())
                    )?
                    .loss
            )?
        );
    }
    let losses = frozen.losses(&x, &labels()?)?;
    assert!(!losses.track_op());
    assert_eq!(flat(&losses)?, flat(&tracked.losses(&x, &labels()?)?)?);
    Ok(())
}

#[test]
fn weights_may_have_any_type() -> Result<()> {
    let problem = Problem::new(CosFace::default(), false)?;
    let head = problem.head()?;
    let loss = |g: Tensor| {
        let reduction = Reduction::Weighted(g.clone());
        flat(
            &head
                .run::<f64>(
                    &problem.embeddings,
                    &labels()?,
                    Options::default().with_reduction(reduction.clone()),
                )?
                .loss,
        )
    };
    let g = Tensor::new(&[0_u8, 1, 2, 0, 3, 1], &CPU)?;
    for dtype in [DType::F16, DType::F32, DType::F64, DType::I64] {
        assert_eq!(loss(g.to_dtype(dtype)?)?, loss(g.clone())?);
    }
    Ok(())
}

#[test]
fn weights_that_are_not_one_finite_number_per_sample_are_refused() -> Result<()> {
    let problem = Problem::new(CosFace::default(), false)?;
    let head = problem.head()?;
    let refused = |g: &[f64]| {
        let g = Tensor::new(g, &CPU)?;
        let step = head.run::<f64>(
            &problem.embeddings,
            &labels()?,
            Options::default().with_reduction(Reduction::Weighted(g.clone())),
        );
        Ok::<_, candle_core::Error>(refusal(&step.expect_err("a refusal")).cloned())
    };
    let argument = "reduction weights";
    let shape = Error::Shape { argument, expected: vec![6], actual: vec![2] };
    assert_eq!(refused(&[1.0, 2.0])?, Some(shape));
    let infinite = f64::INFINITY;
    let error = Error::NonFinite { argument, row: 3, column: 0, value: infinite };
    assert_eq!(refused(&[1.0, 1.0, 1.0, infinite, 1.0, 1.0])?, Some(error));
    Ok(())
}

#[test]
fn losses_of_each_sample_are_those_of_the_core() -> Result<()> {
    for problem in problems()? {
        let (forward, _) = problem.expected(&classes(), Core::Mean)?;
        let losses = problem.head()?.losses(&problem.embeddings, &labels()?)?;
        assert_eq!((losses.dims(), losses.dtype()), (&[6][..], DType::F64));
        assert_eq!(flat(&losses)?, forward.losses.to_vec());
    }
    Ok(())
}

/// Σ_i g_i·L_i has the upstream gradient g.
#[test]
fn backward_pass_of_the_losses_takes_an_upstream_gradient_for_each_sample() -> Result<()> {
    let g = weights();
    for problem in problems()? {
        let (_, gradients) = problem.expected(&classes(), Core::Weighted(&g))?;
        let losses = problem.head()?.losses(&problem.embeddings, &labels()?)?;
        let objective = (losses * Tensor::new(g.to_vec(), &CPU)?)?.sum_all()?;
        problem.assert_gradients(&objective, &gradients, 1e-14)?;
        // And again: the graph is kept.
        problem.assert_gradients(&objective, &gradients, 1e-14)?;
    }
    Ok(())
}

/// (1 − p)²·L with p = exp(−L), the focal loss.
fn focal(losses: &Tensor) -> candle_core::Result<Tensor> {
    let p = losses.neg()?.exp()?;
    (p.affine(-1.0, 1.0)?.sqr()? * losses)?.mean_all()
}

#[test]
fn gradient_of_a_function_of_the_losses_is_its_finite_difference() -> Result<()> {
    for problem in problems()? {
        let head = problem.head()?;
        let objective = |x: &Tensor| focal(&head.losses(x, &labels()?)?);
        let loss = objective(&problem.embeddings)?;
        let gradients = loss.backward()?;
        let dx = flat(gradients.get(&problem.embeddings).expect("a gradient"))?;
        let largest = dx.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        for (i, k) in [(0, 0), (1, 3), (2, 2), (3, 4), (5, 1)] {
            let at = |h: f64| {
                let mut x = problem.x.clone();
                x[[i, k]] += h;
                Ok::<f64, candle_core::Error>(flat(&objective(&tensor(&x)?)?)?[0])
            };
            let h = 1e-5;
            let difference = (at(h)? - at(-h)?) / (2.0 * h);
            let error = (dx[i * DIMS + k] - difference).abs();
            assert!(error <= 1e-8 * largest.max(1.0), "[{i}, {k}] {error:e} {:?}", head.loss());
        }
    }
    Ok(())
}

#[test]
fn losses_keep_their_loss_function_until_the_backward_pass() -> Result<()> {
    let problem = Problem::new(ArcFace::new(8.0, 0.5)?, false)?;
    let head = problem.head()?;
    let (_, gradients) = problem.expected(&classes(), Core::Sum)?;
    let objective = head.losses(&problem.embeddings, &labels()?)?.sum_all()?;
    head.set_loss(ArcFace::new(8.0, 0.0)?);
    problem.assert_gradients(&objective, &gradients, 1e-14)?;
    Ok(())
}

#[test]
fn upstream_gradient_that_is_not_finite_is_an_error() -> Result<()> {
    let problem = Problem::new(CosFace::default(), false)?;
    let losses = problem.head()?.losses(&problem.embeddings, &labels()?)?;
    let error = (losses * f64::NAN)?.sum_all()?.backward().expect_err("a refusal");
    assert!(matches!(refusal(&error), Some(Error::NonFinite { row: 0, .. })), "{error}");
    Ok(())
}

/// Only one of the inputs is tracked: its gradient is that of a step where all are.
#[test]
fn frozen_part_gets_no_gradient_and_leaves_the_other_unchanged() -> Result<()> {
    for problem in problems()? {
        let (_, expected) = problem.expected(&classes(), Core::Sum)?;
        let (x, w) = (problem.embeddings.as_tensor(), problem.weight.as_tensor());
        let bias = problem.bias.as_ref().map(|bias| bias.as_tensor().detach());
        let frozen = MarginHead::from_parts(problem.core(), w.detach(), bias.clone())?;
        for loss in [
            frozen
                .run::<f64>(x, &labels()?, Options::default().with_reduction(Reduction::Sum))?
                .loss,
            frozen.losses(x, &labels()?)?.sum_all()?,
        ] {
            let gradients = loss.backward()?;
            let dx = flat(gradients.get(x).expect("a gradient"))?;
            assert_close("dx", &dx, expected.embeddings.as_slice().expect("rows"), 1e-14);
            assert!(gradients.get(frozen.weight()).is_none());
            assert!(bias.as_ref().is_none_or(|bias| gradients.get(bias).is_none()));
        }
        let (head, x) = (problem.head()?, x.detach());
        for loss in [
            head.run::<f64>(&x, &labels()?, Options::default().with_reduction(Reduction::Sum))?
                .loss,
            head.losses(&x, &labels()?)?.sum_all()?,
        ] {
            let gradients = loss.backward()?;
            let dw = flat(gradients.get(w).expect("a gradient"))?;
            assert_close("dw", &dw, expected.weights.as_slice().expect("rows"), 1e-14);
            assert!(gradients.get(&x).is_none());
        }
    }
    Ok(())
}

#[test]
fn memory_budget_changes_no_result() -> Result<()> {
    let problem = Problem::new(CosFace::default(), false)?;
    let (forward, gradients) = problem.expected(&classes(), Core::Mean)?;
    let head = problem.head()?.with_settings(Settings::default().with_memory_budget(0));
    let loss = head.forward(&problem.embeddings, &labels()?)?;
    assert_close("loss", &flat(&loss)?, &[forward.mean()], 1e-14);
    problem.assert_gradients(&loss, &gradients, 1e-12)?;
    Ok(())
}
