//! Sampled classes.

use std::sync::Arc;

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Gradients, Head, MarginLoss, Reduction, Softmax};
use margin_softmax_burn::{Options, Output, Reduction as BurnReduction};
use ndarray::{Array1, Array2};

use crate::problem::{Problem, SHAPES, TOLERANCE, assert_close, values, weight_gradients};

#[test]
fn sampled_steps_are_those_of_the_core() -> Result<(), Error> {
    for (with_bias, corrected) in [(false, false), (false, true), (true, true)] {
        for (seed, shape) in SHAPES.into_iter().enumerate().skip(2) {
            let mut problem = Problem::new(shape, seed);
            let loss: Arc<dyn MarginLoss> = if with_bias {
                problem.bias = Some(Array1::from_elem(problem.w.nrows(), 0.25));
                Arc::new(Softmax::new())
            } else {
                Arc::new(ArcFace::new(16.0, 0.5)?)
            };
            let sampler = ClassSampler::new(shape.2, 0.6, 3)?;
            let sampler = sampler.with_correction(corrected);
            let sample = sampler.clone().sample(&problem.labels)?;

            let batch = problem.batch().with_sample(&sample);
            let mut expected = Gradients::zeros_for(&batch);
            let core = Head::new(loss.clone());
            let forward = core.forward_backward(&batch, Reduction::Mean, &mut expected)?;
            let rows = sample.rows(problem.sub_centers);
            let mut dw = Array2::<f64>::zeros(problem.w.dim());
            for (row, from) in rows.iter().zip(expected.weights.rows()) {
                dw.row_mut(*row).assign(&from);
            }

            let head = problem.head(loss, shape)?;
            // The mean of the samples' own losses is that of the step.
            for reduction in [BurnReduction::Mean, BurnReduction::None] {
                let (x, mut drawing) = (problem.embeddings(), sampler.clone());
                let options =
                    Options::default().with_reduction(reduction).with_sampler(&mut drawing);
                let output = head.run::<f32>(x.clone(), problem.labels(), options)?;
                let Output { loss: value, forward: found, sample: Some(drawn), .. } = output else {
                    panic!("no sample")
                };
                assert_eq!(drawn, sample);
                assert_eq!(found.predictions(), forward.predictions());
                let losses: Vec<f64> = found.losses.iter().map(|&loss| f64::from(loss)).collect();
                assert_close("losses", &losses, &forward.losses, TOLERANCE);
                let gradients = value.mean().backward();
                let dx = values(x.grad(&gradients).expect("a gradient"));
                assert_close("dx", &dx, &expected.embeddings, TOLERANCE);
                assert_close("dw", &weight_gradients(&head, &gradients), &dw, TOLERANCE);
                if let (Some(bias), Some(expected)) = (&head.bias, &expected.bias) {
                    let mut db = vec![0.0; problem.w.nrows()];
                    rows.iter().zip(expected).for_each(|(row, from)| db[*row] = *from);
                    let found = values(bias.grad(&gradients).expect("a gradient"));
                    assert_close("db", &found, &db, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}
