//! A class prior in a step.

use candle_core::Tensor;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Gradients, Reduction, Softmax};
use margin_softmax_candle::{Options, Reduction as Reduced, refusal};
use ndarray::{Array1, array};

use crate::tensors::{CPU, Problem, assert_close, classes, flat, labels};

type Result<T> = anyhow::Result<T>;

fn prior() -> Array1<f64> {
    array![-0.5, -3.0, 1.5, 0.0, -6.0, 2.0, -1.0, 0.25, -2.0]
}

#[test]
fn step_with_a_prior_is_that_of_the_core() -> Result<()> {
    let (prior, of_batch) = (prior(), classes());
    for problem in
        [Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?]
    {
        let batch = problem.batch(&of_batch).with_log_prior(&prior);
        let mut expected = Gradients::zeros_for(&batch);
        let one = problem.core().forward_backward(&batch, Reduction::Mean, &mut expected)?;
        let options = Options::default().with_log_prior(Tensor::new(prior.to_vec(), &CPU)?);
        let found = problem.head()?.run::<f64>(&problem.embeddings, &labels()?, options)?;
        assert_eq!(found.forward, one);
        assert_close("loss", &flat(&found.loss)?, &[one.mean()], 1e-14);
        problem.assert_gradients(&found.loss, &expected, 1e-15)?;
    }
    Ok(())
}

/// Their sum with weights has the gradients of a weighted step of the same options.
#[test]
fn losses_of_samples_take_a_sampler_and_a_prior() -> Result<()> {
    let g = Tensor::new(&[0.5, -1.5, 0.0, 2.0, 0.25, 1.0], &CPU)?;
    for problem in
        [Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?]
    {
        let (head, sampler) = (problem.head()?, ClassSampler::new(9, 0.8, 1)?);
        let run = |reduction, sampler: &mut ClassSampler| -> Result<_> {
            let prior = Tensor::new(prior().to_vec(), &CPU)?;
            let options = Options::default().with_log_prior(prior).with_reduction(reduction);
            let options = options.with_sampler(sampler);
            Ok(head.run::<f64>(&problem.embeddings, &labels()?, options)?)
        };
        let [mut ours, mut core] = [sampler.clone(), sampler.clone()];
        let expected = run(Reduced::Weighted(g.clone()), &mut core)?;
        let found = run(Reduced::None, &mut ours)?;
        assert_eq!((found.sample, &found.forward), (expected.sample, &expected.forward));
        assert_eq!(flat(&found.loss)?, found.forward.losses.to_vec());
        assert_eq!(ours.state(), core.state());
        let of = |loss: Tensor| -> Result<Vec<f64>> {
            let gradients = loss.backward()?;
            let inputs = [Some(problem.embeddings.as_tensor()), Some(head.weight()), head.bias()];
            let found = inputs.into_iter().flatten().filter_map(|input| gradients.get(input));
            Ok(found.map(flat).collect::<candle_core::Result<Vec<_>>>()?.concat())
        };
        let (found, expected) = (of((found.loss * &g)?.sum_all()?)?, of(expected.loss)?);
        assert!(expected.len() >= problem.embeddings.elem_count() + problem.w.len());
        assert_close("gradients", &found, &expected, 1e-15);
    }
    Ok(())
}

#[test]
fn prior_that_is_not_one_finite_number_per_class_is_refused() -> Result<()> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let head = problem.head()?;
    let refused = |prior: Tensor| -> Result<Error> {
        let options = Options::default().with_log_prior(prior);
        let error = head.run::<f64>(&problem.embeddings, &labels()?, options).unwrap_err();
        Ok(refusal(&error).expect("an error of the core").clone())
    };
    let argument = "log prior";
    let shape = Error::Shape { argument, expected: vec![9], actual: vec![2] };
    assert_eq!(refused(Tensor::new(&[1.0, 2.0], &CPU)?)?, shape);
    let mut prior = prior();
    prior[4] = f64::NAN;
    let found = refused(Tensor::new(prior.to_vec(), &CPU)?)?;
    assert!(matches!(found, Error::NonFinite { argument: "log prior", row: 4, .. }));
    // A matrix is no vector.
    let options =
        Options::default().with_log_prior(Tensor::new(prior.to_vec(), &CPU)?.unsqueeze(0)?);
    assert!(head.run::<f64>(&problem.embeddings, &labels()?, options).is_err());
    Ok(())
}
