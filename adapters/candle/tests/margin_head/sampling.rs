//! Steps over sampled classes.

use candle_core::{Tensor, Var};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Gradients, Softmax};
use margin_softmax_candle::{MarginHead, Options, Output, Reduction, refusal};
use ndarray::{Array1, Array2, Axis, array};

use crate::tensors::{CPU, Problem, assert_close, classes, flat, labels};

type Result<T> = anyhow::Result<T>;

fn problems() -> Result<[Problem; 2]> {
    Ok([Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?])
}

fn entries(matrix: &Array2<f64>) -> Vec<f64> {
    matrix.iter().copied().collect()
}

#[test]
fn sampled_step_is_that_of_the_core_and_other_rows_have_gradient_0() -> Result<()> {
    let g = array![0.5, -1.5, 0.0, 2.0, 0.25, 1.0];
    let weights = Tensor::new(g.to_vec(), &CPU)?;
    for (seed, problem) in (1..).zip(problems()?) {
        for correction in [false, true] {
            let sampler = ClassSampler::new(9, 0.8, seed)?.with_correction(correction);
            let sample = sampler.clone().sample(&classes())?;
            assert_eq!(sample.classes.len(), 7);
            let labels_of_batch = classes();
            let batch = problem.batch(&labels_of_batch).with_sample(&sample);
            let mut expected = Gradients::zeros_for(&batch);
            let reduction = margin_softmax::Reduction::Weighted(&g);
            let one = problem.core().forward_backward(&batch, reduction, &mut expected)?;

            let (head, mut drawing) = (problem.head()?, sampler.clone());
            let Output { loss, forward, sample: Some(drawn), .. } = head.run::<f64>(
                &problem.embeddings,
                &labels()?,
                Options::default()
                    .with_reduction(Reduction::Weighted(weights.clone()))
                    .with_sampler(&mut drawing),
            )?
            else {
                panic!("no sample")
            };
            assert_eq!((&drawn, &forward), (&sample, &one));
            assert_close("loss", &flat(&loss)?, &[one.losses.dot(&g)], 1e-14);

            let mut dw = Array2::zeros(problem.w.dim());
            let mut db = Array1::zeros(9);
            for (place, &class) in sample.classes.iter().enumerate() {
                dw.row_mut(class).assign(&expected.weights.row(place));
                if let Some(bias) = &expected.bias {
                    db[class] = bias[place];
                }
            }
            // Twice the loss: the upstream gradient is 2.
            let found = (loss * 2.0)?.backward()?;
            let gradient = |var: &Var| flat(found.get(var).expect("a gradient"));
            let dx = gradient(&problem.embeddings)?;
            assert_close("dx", &dx, &entries(&(&expected.embeddings * 2.0)), 1e-15);
            assert_close("dw", &gradient(&problem.weight)?, &entries(&(&dw * 2.0)), 1e-15);
            if let Some(bias) = &problem.bias {
                assert_close("db", &gradient(bias)?, &(db * 2.0).to_vec(), 1e-15);
            }
            let left_out = dw.axis_iter(Axis(0)).filter(|row| row.iter().all(|&v| v == 0.0));
            assert_eq!(left_out.count(), 2);
        }
    }
    Ok(())
}

#[test]
fn sampling_every_class_is_the_whole_step() -> Result<()> {
    for problem in problems()? {
        let (forward, gradients) = problem.expected(&classes(), margin_softmax::Reduction::Mean)?;
        let mut all = ClassSampler::new(9, 1.0, 1)?;
        let x = &problem.embeddings;
        let loss = problem
            .head()?
            .run::<f64>(x, &labels()?, Options::default().with_sampler(&mut all))?
            .loss;
        assert_close("loss", &flat(&loss)?, &[forward.mean()], 1e-14);
        problem.assert_gradients(&loss, &gradients, 1e-13)?;
    }
    Ok(())
}

#[test]
fn sampler_draws_on_from_step_to_step() -> Result<()> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let (head, x) = (problem.head()?, &problem.embeddings);
    let mut sampler = ClassSampler::new(9, 0.7, 5)?;
    let mut alone = sampler.clone();
    for _ in 0..3 {
        let Output { sample: Some(drawn), .. } = head.run::<f64>(
            x,
            &labels()?,
            Options::default().with_reduction(Reduction::Sum).with_sampler(&mut sampler),
        )?
        else {
            panic!("no sample")
        };
        assert_eq!(drawn, alone.sample(&classes())?);
    }
    Ok(())
}

#[test]
fn refused_step_leaves_the_sampler_unchanged() -> Result<()> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let head = problem.head()?;
    let x = &problem.embeddings;
    let mut sampler = ClassSampler::new(20, 0.5, 5)?;
    let before = sampler.state();
    let error =
        head.run::<f64>(x, &labels()?, Options::default().with_sampler(&mut sampler)).unwrap_err();
    let refused = refusal(&error);
    let of_range = matches!(refused, Some(Error::SampledRange { .. } | Error::Sample { .. }));
    assert!(of_range, "{error}");
    let nan = (x.as_tensor() * f64::NAN)?;
    let mut right = ClassSampler::new(9, 0.5, 5)?;
    assert!(
        head.run::<f64>(&nan, &labels()?, Options::default().with_sampler(&mut right)).is_err()
    );
    assert_eq!(sampler.state(), before);
    assert_eq!(right.state(), ClassSampler::new(9, 0.5, 5)?.state());
    Ok(())
}

#[test]
fn ignored_samples_bring_no_class() -> Result<()> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let head = problem.head()?.with_ignored_label(-1);
    let mut sampler = ClassSampler::new(9, 0.01, 5)?;
    let labels = Tensor::new(&[4_i64, -1, -1, 4, -1, 2], &CPU)?;
    let x = &problem.embeddings;
    let Output { loss, forward, sample: Some(sample), .. } =
        head.run::<f64>(x, &labels, Options::default().with_sampler(&mut sampler))?
    else {
        panic!("no sample")
    };
    assert_eq!((sample.classes, forward.counted()), (vec![2, 4], 3));
    let dx = flat(loss.backward()?.get(x).expect("a gradient"))?;
    assert!(dx[5..15].iter().all(|&value| value == 0.0));
    Ok(())
}

#[test]
fn frozen_part_gets_no_gradient() -> Result<()> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let (x, w) = (problem.embeddings.as_tensor(), problem.weight.as_tensor());
    let mut sampler = ClassSampler::new(9, 0.5, 5)?;
    let frozen = MarginHead::from_parts(problem.core(), w.detach(), None)?;
    let loss =
        frozen.run::<f64>(x, &labels()?, Options::default().with_sampler(&mut sampler))?.loss;
    let gradients = loss.backward()?;
    assert!(gradients.get(x).is_some() && gradients.get(frozen.weight()).is_none());
    let x = x.detach();
    let loss = problem
        .head()?
        .run::<f64>(&x, &labels()?, Options::default().with_sampler(&mut sampler))?
        .loss;
    let gradients = loss.backward()?;
    assert!(gradients.get(&x).is_none() && gradients.get(w).is_some());
    let loss =
        frozen.run::<f64>(&x, &labels()?, Options::default().with_sampler(&mut sampler))?.loss;
    assert!(!loss.track_op());
    Ok(())
}
