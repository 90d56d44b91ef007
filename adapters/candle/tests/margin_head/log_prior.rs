//! A class prior in a step.

use candle_core::Tensor;
use margin_softmax::{ArcFace, Error, Gradients, Reduction, Softmax};
use margin_softmax_candle::{Options, refusal};
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
