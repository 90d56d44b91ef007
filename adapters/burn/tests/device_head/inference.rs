//! Predictions, logits, losses without gradients, and the check of a device.

use std::sync::Arc;

use margin_softmax::{
    ArcFace, CosFace, Error, Head, MarginLoss, NormalizedLogits, Softmax, ZeroEmbedding,
};
use margin_softmax_burn::{MarginHead, NO_CLASS, Options, Output, Settings};
use ndarray::{Array1, Array2, array};

use crate::problem::{Problem, SHAPES, TOLERANCE, assert_close, device, matrix, values};

#[test]
fn logits_and_predictions_are_those_of_the_core() -> Result<(), Error> {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut problem = Problem::new(shape, seed);
        let k = problem.sub_centers;
        for with_bias in [false, true] {
            if with_bias && k > 1 {
                continue; // the materialized level has no Softmax with sub-centers
            }
            problem.bias = with_bias
                .then(|| Array1::from_shape_fn(problem.w.nrows(), |j| f64::from((j as f32).cos())));
            let loss: Arc<dyn MarginLoss> = if with_bias {
                Arc::new(Softmax::new())
            } else {
                Arc::new(CosFace::new(16.0, 0.3)?)
            };
            let mut logits = NormalizedLogits::new(&problem.x, &problem.w)?.with_sub_centers(k)?;
            if let Some(bias) = &problem.bias {
                logits = logits.with_bias(bias)?;
            }
            let expected = loss.margin_free_logits(&logits)?;
            let nearest = Head::new(loss.clone()).predict(&problem.batch())?;

            let head = problem.head(loss, shape)?;
            let x = matrix(&problem.x, &device());
            assert_close("logits", &values(head.logits(x.clone())?), &expected, TOLERANCE);
            let found: Vec<usize> =
                head.predict(x)?.into_data().iter::<i64>().map(|class| class as usize).collect();
            assert_eq!(found, nearest, "{shape:?}");
        }
    }
    Ok(())
}

#[test]
fn of_equally_near_classes_the_first_is_predicted() -> Result<(), Error> {
    let w =
        Array2::from_shape_fn((9, 2), |(j, k)| if (j % 3 == 2) == (k == 0) { 1.0 } else { 0.5 });
    let x = array![[2.0, 1.0], [1.0, 2.0], [0.0, 0.0]];
    let problem = Problem { x, w, labels: vec![0; 3], sub_centers: 1, bias: None, log_prior: None };
    let head = problem.head(Arc::new(ArcFace::default()), (3, 2, 9, 1, 5, 2))?;
    let head = head.with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    let classes = head.predict(matrix(&problem.x, &device()))?;
    assert_eq!(classes.into_data().iter::<i64>().collect::<Vec<_>>(), [2, 0, NO_CLASS]);
    let refused = head.logits(matrix(&problem.x, &device())).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "embeddings", row: 2, .. }));
    Ok(())
}

#[test]
fn evaluation_gives_the_losses_of_a_step() -> Result<(), Error> {
    let problem = Problem::new(SHAPES[3], 3);
    let head = problem.head(Arc::new(ArcFace::new(16.0, 0.5)?), SHAPES[3])?;
    let Output { loss, forward, .. } =
        head.run::<f32>(problem.embeddings(), problem.labels(), Options::default())?;
    let evaluated = head.evaluate::<f32>(problem.embeddings(), problem.labels())?;
    assert_eq!(evaluated, forward);
    assert_eq!(values(loss), [f64::from(forward.mean())]);
    assert!(
        forward.margin_free_losses().iter().zip(&forward.losses).all(|(free, loss)| free < loss)
    );
    Ok(())
}

#[test]
fn device_computes_right() -> Result<(), Error> {
    let check = MarginHead::self_check(&device())?;
    println!("{check:?}");
    assert!(check.largest() < TOLERANCE, "{check:?}");
    Ok(())
}
