//! The mean, sums with weights, and the losses of each sample are those of the core.

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use margin_softmax::{ArcFace, CosFace, Error, Reduction as Core, Softmax, SphereFace};
use margin_softmax_burn::{Options, Output, Reduction, Settings};
use ndarray::{Array1, array};

use crate::problem::{DIMS, Problem, SAMPLES, assert_near, entries, labels, vector};
use crate::tensors::{elsewhere, memory, numbers, values};

/// One weight per sample, of both signs, and 0.
fn weights() -> Array1<f64> {
    array![0.5, -1.5, 0.0, 2.0, 0.25, 1.0]
}

fn weights_tensor() -> Tensor<1> {
    vector(&weights().to_vec())
}

fn problems() -> Result<[Problem; 3], Error> {
    Ok([
        Problem::new(ArcFace::new(8.0, 0.5)?, false)?,
        Problem::new(SphereFace::new(2)?, false)?,
        Problem::new(Softmax::new(), true)?,
    ])
}

#[test]
fn every_reduction_is_that_of_the_core() -> Result<(), Error> {
    let g = weights();
    for problem in problems()? {
        for (ours, core) in [
            (Reduction::Mean, Core::Mean),
            (Reduction::Sum, Core::Sum),
            (Reduction::Weighted(weights_tensor()), Core::Weighted(&g)),
        ] {
            let (forward, gradients) = problem.expected(core)?;
            let (head, x) = (&problem.head, problem.x());
            let loss = head
                .run::<f64>(x.clone(), labels(), Options::default().with_reduction(ours.clone()))?
                .loss;
            problem.assert_gradients(loss.clone(), &gradients, 1e-14);
            let value = match core {
                Core::Mean => forward.mean(),
                Core::Sum => forward.sum(),
                _ => forward.losses.dot(&g),
            };
            assert_near("loss", &values(loss.clone()), &[value], 1e-14);
            let Output { loss: detailed, forward: found, .. } =
                head.run::<f64>(x, labels(), Options::default().with_reduction(ours))?;
            assert_eq!((values(detailed), found), (values(loss), forward));
        }
    }
    Ok(())
}

#[test]
fn reduction_without_gradients_has_the_same_value() -> Result<(), Error> {
    let problem = Problem::new(CosFace::new(8.0, 0.3)?, false)?;
    let frozen = problem.head.valid();
    let x = problem.x().inner();
    let weighted = Reduction::Weighted(weights_tensor());
    for reduction in [Reduction::Mean, Reduction::Sum, weighted] {
        let loss = frozen
            .run::<f64>(x.clone(), labels(), Options::default().with_reduction(reduction.clone()))?
            .loss;
        assert!(!loss.is_autodiff());
        let tracked = problem
            .head
            .run::<f64>(problem.x(), labels(), Options::default().with_reduction(reduction))?
            .loss;
        assert_eq!(values(loss), values(tracked));
    }
    let losses = frozen.losses(x.clone(), labels())?;
    assert!(!losses.is_autodiff());
    assert_eq!(values(losses), values(problem.head.losses(problem.x(), labels())?));
    assert_eq!(
        frozen.evaluate::<f64>(x, labels())?,
        problem.head.run::<f64>(problem.x(), labels(), Options::default())?.forward
    );
    Ok(())
}

#[test]
fn weights_may_be_of_any_float_type_and_on_any_device() -> Result<(), Error> {
    let problem = Problem::new(CosFace::default(), false)?;
    let loss = |g: Tensor<1>| {
        let reduction = Reduction::Weighted(g);
        problem
            .head
            .run::<f64>(problem.x(), labels(), Options::default().with_reduction(reduction))
            .map(|output| values(output.loss))
    };
    let g = weights_tensor();
    for dtype in [DType::F16, DType::F32] {
        assert_eq!(loss(g.clone().cast(dtype))?, loss(g.clone())?);
    }
    assert_eq!(loss(g.clone().to_device(&elsewhere()))?, loss(g)?);
    Ok(())
}

#[test]
fn weights_that_are_not_one_finite_number_per_sample_are_refused() -> Result<(), Error> {
    let problem = Problem::new(CosFace::default(), false)?;
    let refused = |g: &[f64]| {
        let reduction = Reduction::Weighted(vector(g));
        problem
            .head
            .run::<f64>(problem.x(), labels(), Options::default().with_reduction(reduction))
            .map(drop)
    };
    let argument = "reduction weights";
    let shape = Error::Shape { argument, expected: vec![6], actual: vec![2] };
    assert_eq!(refused(&[1.0, 2.0]), Err(shape));
    let value = f64::INFINITY;
    let error = Error::NonFinite { argument, row: 3, column: 0, value };
    assert_eq!(refused(&[1.0, 1.0, 1.0, value, 1.0, 1.0]), Err(error));
    Ok(())
}

#[test]
fn losses_of_each_sample_are_those_of_the_core() -> Result<(), Error> {
    for problem in problems()? {
        let (forward, _) = problem.expected(Core::Mean)?;
        let losses = problem.head.losses(problem.x(), labels())?;
        assert_eq!((losses.dims(), losses.dtype()), ([6], DType::F64));
        assert_eq!(values(losses), forward.losses.to_vec());
        let x = problem.x().to_device(&elsewhere());
        let losses = problem.head.losses(x.cast(DType::F32), labels())?;
        assert_eq!((losses.device(), losses.dtype()), (elsewhere(), DType::F32));
    }
    Ok(())
}

/// Σ_i g_i·L_i has the upstream gradient g.
#[test]
fn backward_pass_of_the_losses_takes_an_upstream_gradient_for_each_sample() -> Result<(), Error> {
    let g = weights();
    for problem in problems()? {
        let (_, gradients) = problem.expected(Core::Weighted(&g))?;
        let losses = problem.head.losses(problem.x(), labels())?;
        problem.assert_gradients((losses * weights_tensor()).sum(), &gradients, 1e-14);
    }
    Ok(())
}

/// (1 − p)²·L with p = exp(−L), the focal loss.
fn focal(losses: Tensor<1>) -> Tensor<1> {
    let p = (-losses.clone()).exp();
    ((-p + 1.0).powi_scalar(2) * losses).mean()
}

#[test]
fn gradient_of_a_function_of_the_losses_is_its_finite_difference() -> Result<(), Error> {
    for problem in problems()? {
        let objective = |x| problem.head.losses(x, labels()).map(focal);
        let gradients = objective(problem.x())?.backward();
        let dx = values(problem.embeddings.grad(&gradients).expect("a gradient"));
        let largest = dx.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        for (i, k) in [(0, 0), (1, 3), (2, 2), (3, 4), (5, 1)] {
            let at = |h: f64| {
                let mut x = problem.x.clone();
                x[[i, k]] += h;
                let x = vector(&entries(&x)).reshape(problem.embeddings.dims());
                objective(x).map(|value| values(value)[0])
            };
            let h = 1e-5;
            let difference = (at(h)? - at(-h)?) / (2.0 * h);
            let error = (dx[i * DIMS + k] - difference).abs();
            assert!(error <= 1e-8 * largest.max(1.0), "[{i}, {k}] {error:e} {:?}", problem.loss);
        }
    }
    Ok(())
}

#[test]
fn losses_keep_their_loss_function_until_the_backward_pass() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::new(8.0, 0.5)?, false)?;
    let (_, gradients) = problem.expected(Core::Sum)?;
    let objective = problem.head.losses(problem.x(), labels())?.sum();
    problem.head.set_loss(ArcFace::new(8.0, 0.0)?);
    problem.assert_gradients(objective, &gradients, 1e-14);
    Ok(())
}

#[test]
fn upstream_gradient_that_is_not_finite_makes_gradients_nan() -> Result<(), Error> {
    for problem in problems()? {
        let losses = problem.head.losses(problem.x(), labels())?;
        let gradients = (losses * f64::NAN).sum().backward();
        let dx = problem.embeddings.grad(&gradients).expect("a gradient");
        let dw = problem.head.weights.grad(&gradients).expect("a gradient");
        assert_eq!((dx.dims(), dw.dims()), ([6, 5], [9, 5]));
        assert!(values(dx).iter().chain(&values(dw)).all(|value| value.is_nan()));
        let db = problem.head.bias.as_ref().map(|bias| bias.grad(&gradients).expect("one"));
        assert!(db.is_none_or(|db| values(db).iter().all(|value| value.is_nan())));
    }
    Ok(())
}

/// Only one of the inputs is tracked: its gradient is that of a step where all are.
#[test]
fn frozen_part_gets_no_gradient_and_leaves_the_other_unchanged() -> Result<(), Error> {
    for problem in problems()? {
        let (_, expected) = problem.expected(Core::Sum)?;
        let frozen = problem.head.clone().no_grad();
        for loss in [
            frozen
                .run::<f64>(
                    problem.x(),
                    labels(),
                    Options::default().with_reduction(Reduction::Sum),
                )?
                .loss,
            frozen.losses(problem.x(), labels())?.sum(),
        ] {
            let gradients = loss.backward();
            let dx = values(problem.embeddings.grad(&gradients).expect("a gradient"));
            assert_near("dx", &dx, &entries(&expected.embeddings), 1e-14);
            assert!(frozen.weights.grad(&gradients).is_none());
        }
        let x = problem.x().inner();
        for loss in [
            problem
                .head
                .run::<f64>(x.clone(), labels(), Options::default().with_reduction(Reduction::Sum))?
                .loss,
            problem.head.losses(x.clone(), labels())?.sum(),
        ] {
            let gradients = loss.backward();
            let dw = values(problem.head.weights.grad(&gradients).expect("a gradient"));
            assert_near("dw", &dw, &entries(&expected.weights), 1e-14);
        }
    }
    Ok(())
}

#[test]
fn losses_carry_their_gradient_back_to_another_device_and_type() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::new(8.0, 0.5)?, false)?;
    let (_, expected) = problem.expected(Core::Sum)?;
    let device = elsewhere();
    let x = numbers::<2>([SAMPLES, DIMS], 0.75, (&device, DType::F32)).require_grad();
    let gradients = problem.head.losses(x.clone(), labels())?.sum().backward();
    let dx = x.grad(&gradients).expect("a gradient");
    assert_eq!((dx.device(), dx.dtype()), (elsewhere(), DType::F32));
    assert_near("dx", &values(dx), &entries(&expected.embeddings), 1e-5);
    Ok(())
}

#[test]
fn memory_budget_changes_no_result() -> Result<(), Error> {
    let problem = Problem::new(CosFace::default(), false)?;
    let (forward, gradients) = problem.expected(Core::Mean)?;
    let head = problem.head.clone().with_settings(Settings::default().with_memory_budget(0));
    let loss = head.forward(problem.x(), labels())?;
    assert_near("loss", &values(loss.clone()), &[forward.mean()], 1e-14);
    problem.assert_gradients(loss, &gradients, 1e-12);
    assert_eq!(head.devices(), [memory().inner()]);
    Ok(())
}
