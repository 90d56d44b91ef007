//! Objectives of one's own, sampling, predictions, refusals, repeats and large heads.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Head, MarginLoss, Reduction, Scale, Softmax};
use margin_softmax_candle::{MarginHead, Options, Reduction as CandleReduction, refusal};
use ndarray::{Array1, Array2};

use crate::problem::{Problem, SHAPES, TOLERANCE, assert_close, device, matrix, numbers, values};

fn arc() -> Arc<dyn MarginLoss> {
    Arc::new(ArcFace::new(16.0, 0.3).unwrap())
}

#[test]
fn losses_take_the_upstream_gradient_of_each_sample() -> Result<()> {
    let (shape, problem) = (SHAPES[4], Problem::new(SHAPES[4], 4));
    let (head, x) = (problem.head(arc(), shape)?, matrix(&problem.x)?);
    let upstream = Array1::from_shape_fn(shape.0, |i| 0.25 * i as f64 - 1.0);
    let expected = problem.expected(&Head::new(arc()), Reduction::Weighted(&upstream)).unwrap();
    let weights: Vec<f32> = upstream.iter().map(|&v| v as f32).collect();
    let weights = Tensor::new(weights, &device()?)?;
    let labels = problem.labels()?;
    let by_hand = (head.losses(&x, &labels)? * &weights)?.sum_all()?;
    for value in [
        by_hand,
        head.run::<f32>(
            &x,
            &labels,
            Options::default().with_reduction(CandleReduction::Weighted(weights.clone())),
        )?
        .loss,
    ] {
        let gradients = value.backward()?;
        let dx = values(gradients.get(&x).unwrap())?;
        assert_close("dx", &dx, &expected.1.embeddings, TOLERANCE);
        let dw = values(gradients.get(head.weight()).unwrap())?;
        assert_close("dw", &dw, &expected.1.weights, TOLERANCE);
    }
    Ok(())
}

#[test]
fn sampling_inference_and_bits_are_those_of_main_memory() -> Result<()> {
    for (seed, shape) in [(3, SHAPES[3]), (4, SHAPES[4])] {
        let (problem, softmax) = (Problem::new(shape, seed), Softmax::new());
        for loss in [arc(), Arc::new(softmax)] {
            if shape.3 > 1 && loss.scale() == Scale::Unnormalized {
                continue; // the materialized level has no Softmax with sub-centers
            }
            let (head, x) = (problem.head(loss.clone(), shape)?, matrix(&problem.x)?);
            let cpu = head.weight().to_device(&Device::Cpu)?;
            let main = MarginHead::from_parts(Head::new(loss), cpu, None)?;
            let main = main.with_sub_centers(problem.sub_centers);
            let run = |head: &MarginHead| -> Result<[Vec<f64>; 4]> {
                let mut sampler = ClassSampler::new(shape.2, 0.3, 1).unwrap();
                let labels = problem.labels()?;
                let loss = head
                    .run::<f32>(&x, &labels, Options::default().with_sampler(&mut sampler))?
                    .loss;
                let gradients = loss.backward()?;
                let dx = values(gradients.get(&x).unwrap())?;
                let dw = gradients.get(head.weight()).map_or(Ok(vec![]), values)?;
                Ok([values(&loss)?, dx, dw, values(&head.logits(&x)?)?])
            };
            let (found, expected) = (run(&head)?, run(&main)?);
            assert_eq!(found, run(&head)?, "repeats");
            for (found, expected) in found.iter().zip(&expected) {
                assert_close("sampled", found, expected, 2.0 * TOLERANCE);
            }
            let (a, b) = (head.predict(&x)?, main.predict(&x)?);
            assert_eq!(a.to_vec1::<u32>()?, b.to_vec1::<u32>()?);
        }
    }
    Ok(())
}

#[test]
fn class_weights_without_direction_are_named_and_large_norms_accepted() -> Result<()> {
    let shape = SHAPES[3];
    let mut problem = Problem::new(shape, 3);
    problem.w.row_mut(20).mapv_inplace(|v| v * 1e30);
    let x = matrix(&problem.x)?;
    let forward = problem.head(arc(), shape)?.evaluate::<f32>(&x, &problem.labels()?)?;
    assert!(forward.mean().is_finite());
    for bad in [0.0, f64::NAN] {
        problem.w.row_mut(117).fill(bad);
        let error = problem.head(arc(), shape)?.forward(&x, &problem.labels()?).unwrap_err();
        match refusal(&error) {
            Some(Error::DegenerateNorm { row: 117, .. } | Error::NonFinite { row: 117, .. }) => {}
            _ => panic!("{error}"),
        }
    }
    Ok(())
}

#[test]
fn frozen_parts_get_no_gradient() -> Result<()> {
    let (shape, problem) = (SHAPES[2], Problem::new(SHAPES[2], 2));
    let (head, x) = (problem.head(arc(), shape)?, matrix(&problem.x)?);
    let gradients = head.forward(&x.as_tensor().detach(), &problem.labels()?)?.backward()?;
    assert!(gradients.get(&x).is_none() && gradients.get(head.weight()).is_some());
    let w = head.weight().detach();
    let frozen = MarginHead::on_device_from_parts(Head::new(arc()), w, None)?;
    let gradients = frozen.forward(&x, &problem.labels()?)?.backward()?;
    assert!(gradients.get(&x).is_some() && gradients.get(frozen.weight()).is_none());
    Ok(())
}

#[test]
fn logits_of_more_than_128_mib_are_swept() -> Result<()> {
    let (n, d, c) = (256, 4, 140_000);
    let problem = Problem {
        x: numbers((n, d), 1),
        w: Array2::from_shape_fn((c, d), |(j, k)| ((j * d + k) as f32).sin().into()),
        labels: (0..n).map(|i| i * 500).collect(),
        sub_centers: 1,
        bias: None,
        log_prior: None,
    };
    let head = problem.head(arc(), (n, d, c, 1, 20_000))?;
    let x = matrix(&problem.x)?;
    let forward = head.evaluate::<f32>(&x, &problem.labels()?)?;
    let (expected, _) = problem.expected(&Head::new(arc()), Reduction::Mean).unwrap();
    let losses: Vec<f64> = forward.losses.iter().map(|&loss| loss.into()).collect();
    assert_close("losses", &losses, &expected.losses, TOLERANCE);
    Ok(())
}

#[test]
fn the_device_computes_right() -> Result<()> {
    let check = MarginHead::self_check(&device()?)?;
    assert!(check.largest() < TOLERANCE, "{check:?}");
    Ok(())
}
