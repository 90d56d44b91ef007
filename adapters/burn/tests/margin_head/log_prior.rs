//! A class prior in a step.

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Gradients, Reduction, Softmax};
use margin_softmax_burn::{Options, Reduction as Reduced};
use ndarray::{Array1, array};

use crate::problem::{LABELS, Problem, assert_near, labels, vector};
use crate::tensors::values;

fn prior() -> Array1<f64> {
    array![-0.5, -3.0, 1.5, 0.0, -6.0, 2.0, -1.0, 0.25, -2.0]
}

#[test]
fn step_with_a_prior_is_that_of_the_core() -> Result<(), Error> {
    let prior = prior();
    let problems =
        [Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?];
    for problem in problems {
        let batch = problem.batch(&LABELS).with_log_prior(&prior);
        let mut expected = Gradients::zeros_for(&batch);
        let one = problem.core().forward_backward(&batch, Reduction::Mean, &mut expected)?;
        let options = Options::default().with_log_prior(vector(&prior.to_vec()));
        let found = problem.head.run::<f64>(problem.x(), labels(), options)?;
        assert_eq!(found.forward, one);
        assert_near("loss", &values(found.loss.clone()), &[one.mean()], 1e-14);
        problem.assert_gradients(found.loss, &expected, 1e-15);
        // The next step has none.
        let without = problem.head.run::<f64>(problem.x(), labels(), Options::default())?;
        assert_eq!(without.forward, problem.core().forward(&problem.batch(&LABELS))?);
    }
    Ok(())
}

/// Their sum with weights has the gradients of a weighted step of the same options.
#[test]
fn losses_of_samples_take_a_sampler_and_a_prior() -> Result<(), Error> {
    let g = vector(&[0.5, -1.5, 0.0, 2.0, 0.25, 1.0]);
    let problems =
        [Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?];
    for problem in problems {
        let sampler = ClassSampler::new(9, 0.8, 1)?;
        let run = |reduction, sampler: &mut ClassSampler| {
            let prior = vector(&prior().to_vec());
            let options = Options::default().with_log_prior(prior).with_reduction(reduction);
            problem.head.run::<f64>(problem.x(), labels(), options.with_sampler(sampler))
        };
        let [mut ours, mut core] = [sampler.clone(), sampler.clone()];
        let expected = run(Reduced::Weighted(g.clone()), &mut core)?;
        let found = run(Reduced::None, &mut ours)?;
        assert_eq!((found.sample, &found.forward), (expected.sample, &expected.forward));
        assert_eq!(values(found.loss.clone()), found.forward.losses.to_vec());
        assert_eq!(ours.state(), core.state());
        let gradients = (found.loss * g.clone()).sum().backward();
        let expected = expected.loss.backward();
        let of = |gradients| {
            let dx = problem.embeddings.grad(gradients).expect("a gradient");
            let dw = problem.head.weights.grad(gradients).expect("a gradient");
            let db = problem.head.bias.as_ref().and_then(|bias| bias.grad(gradients));
            [values(dx), values(dw), db.map_or(Vec::new(), values)].concat()
        };
        assert_near("gradients", &of(&gradients), &of(&expected), 1e-15);
    }
    Ok(())
}

#[test]
fn prior_that_is_not_one_finite_number_per_class_is_refused() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let mut sampler = ClassSampler::new(9, 0.8, 1)?;
    let before = sampler.state();
    let mut refused = |prior: &[f64]| {
        let options = Options::default().with_log_prior(vector(prior)).with_sampler(&mut sampler);
        problem.head.run::<f64>(problem.x(), labels(), options).map(drop)
    };
    let argument = "log prior";
    let shape = Error::Shape { argument, expected: vec![9], actual: vec![2] };
    assert_eq!(refused(&[1.0, 2.0]), Err(shape));
    let mut prior = prior();
    prior[4] = f64::NEG_INFINITY;
    let value = f64::NEG_INFINITY;
    let error = Error::NonFinite { argument, row: 4, column: 0, value };
    assert_eq!(refused(&prior.to_vec()), Err(error));
    assert_eq!(sampler.state(), before);
    Ok(())
}
