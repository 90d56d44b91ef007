//! Steps over sampled classes.

use burn::module::Module;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{ArcFace, Error, Gradients, Reduction as Core, Softmax};
use margin_softmax_burn::{Options, Output, Reduction};
use ndarray::{Array1, Array2, Axis, array};

use crate::problem::{LABELS, Problem, assert_near, entries, labels, labels_of, vector};
use crate::tensors::values;

fn problems() -> Result<[Problem; 2], Error> {
    Ok([Problem::new(ArcFace::new(8.0, 0.5)?, false)?, Problem::new(Softmax::new(), true)?])
}

#[test]
fn sampled_step_is_that_of_the_core_and_other_rows_have_gradient_0() -> Result<(), Error> {
    let g = array![0.5, -1.5, 0.0, 2.0, 0.25, 1.0];
    for (seed, problem) in (1..).zip(problems()?) {
        for correction in [false, true] {
            let sampler = ClassSampler::new(9, 0.8, seed)?.with_correction(correction);
            let sample = sampler.clone().sample(&LABELS)?;
            assert_eq!(sample.classes.len(), 7);
            let batch = problem.batch(&LABELS).with_sample(&sample);
            let mut expected = Gradients::zeros_for(&batch);
            let (core, reduction) = (problem.core(), Core::Weighted(&g));
            let one = core.forward_backward(&batch, reduction, &mut expected)?;

            let mut drawing = sampler.clone();
            let weighted = Reduction::Weighted(vector(&g.to_vec()));
            let Output { loss, forward, sample: Some(drawn), .. } = problem.head.run::<f64>(
                problem.x(),
                labels(),
                Options::default().with_reduction(weighted).with_sampler(&mut drawing),
            )?
            else {
                panic!("no sample")
            };
            assert_eq!((&drawn, &forward), (&sample, &one));
            assert_near("loss", &values(loss.clone()), &[one.losses.dot(&g)], 1e-14);

            let mut dw = Array2::zeros(problem.w.dim());
            let mut db = Array1::zeros(9);
            for (place, &class) in sample.classes.iter().enumerate() {
                dw.row_mut(class).assign(&expected.weights.row(place));
                if let Some(bias) = &expected.bias {
                    db[class] = bias[place];
                }
            }
            // Twice the loss: the upstream gradient is 2.
            let found = (loss * 2.0).backward();
            let dx = values(problem.embeddings.grad(&found).expect("a gradient"));
            assert_near("dx", &dx, &entries(&(&expected.embeddings * 2.0)), 1e-15);
            let rows = values(problem.head.weights.grad(&found).expect("a gradient"));
            assert_near("dw", &rows, &entries(&(&dw * 2.0)), 1e-15);
            if let Some(bias) = &problem.head.bias {
                let found = values(bias.grad(&found).expect("a gradient"));
                assert_near("db", &found, &(db * 2.0).to_vec(), 1e-15);
            }
            let left_out = dw.axis_iter(Axis(0)).filter(|row| row.iter().all(|&v| v == 0.0));
            assert_eq!(left_out.count(), 2);
        }
    }
    Ok(())
}

#[test]
fn sampling_every_class_is_the_whole_step() -> Result<(), Error> {
    for problem in problems()? {
        let (forward, gradients) = problem.expected(Core::Mean)?;
        let mut all = ClassSampler::new(9, 1.0, 1)?;
        let (head, x) = (&problem.head, problem.x());
        let loss = head.run::<f64>(x, labels(), Options::default().with_sampler(&mut all))?.loss;
        assert_near("loss", &values(loss.clone()), &[forward.mean()], 1e-14);
        problem.assert_gradients(loss, &gradients, 1e-13);
    }
    Ok(())
}

#[test]
fn sampler_draws_on_from_step_to_step() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let mut sampler = ClassSampler::new(9, 0.7, 5)?;
    let mut alone = sampler.clone();
    for _ in 0..3 {
        let (head, x) = (&problem.head, problem.x());
        let sum = Reduction::Sum;
        let Output { sample: Some(drawn), .. } = head.run::<f64>(
            x,
            labels(),
            Options::default().with_reduction(sum).with_sampler(&mut sampler),
        )?
        else {
            panic!("no sample")
        };
        assert_eq!(drawn, alone.sample(&LABELS)?);
    }
    Ok(())
}

#[test]
fn refused_step_leaves_the_sampler_unchanged() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let step = |x, sampler: &mut ClassSampler| {
        problem.head.run::<f64>(x, labels(), Options::default().with_sampler(sampler)).map(drop)
    };
    let mut sampler = ClassSampler::new(20, 0.5, 5)?;
    let before = sampler.state();
    let refused = step(problem.x(), &mut sampler).unwrap_err();
    assert!(matches!(refused, Error::SampledRange { .. } | Error::Sample { .. }), "{refused}");
    assert_eq!(sampler.state(), before);
    let mut right = ClassSampler::new(9, 0.5, 5)?;
    assert!(step(problem.x() * f64::NAN, &mut right).is_err());
    assert_eq!(right.state(), ClassSampler::new(9, 0.5, 5)?.state());
    Ok(())
}

#[test]
fn ignored_samples_bring_no_class() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let head = problem.head.clone().with_ignored_label(-1);
    let mut sampler = ClassSampler::new(9, 0.01, 5)?;
    let labels = labels_of(&[4, -1, -1, 4, -1, 2]);
    let x = problem.x();
    let Output { loss, forward, sample: Some(sample), .. } =
        head.run::<f64>(x, labels, Options::default().with_sampler(&mut sampler))?
    else {
        panic!("no sample")
    };
    assert_eq!((sample.classes, forward.counted()), (vec![2, 4], 3));
    let dx = values(problem.embeddings.grad(&loss.backward()).expect("a gradient"));
    assert!(dx[5..15].iter().all(|&value| value == 0.0));
    Ok(())
}

#[test]
fn frozen_part_gets_no_gradient() -> Result<(), Error> {
    let problem = Problem::new(ArcFace::default(), false)?;
    let mut sampler = ClassSampler::new(9, 0.5, 5)?;
    let frozen = problem.head.clone().no_grad();
    let loss = frozen
        .run::<f64>(problem.x(), labels(), Options::default().with_sampler(&mut sampler))?
        .loss;
    let gradients = loss.backward();
    assert!(problem.embeddings.grad(&gradients).is_some());
    assert!(frozen.weights.grad(&gradients).is_none());
    let x = problem.x().inner();
    let loss = problem
        .head
        .run::<f64>(x.clone(), labels(), Options::default().with_sampler(&mut sampler))?
        .loss;
    let gradients = loss.backward();
    assert!(problem.head.weights.grad(&gradients).is_some());
    let loss =
        frozen.valid().run::<f64>(x, labels(), Options::default().with_sampler(&mut sampler))?.loss;
    assert!(!loss.is_autodiff());
    Ok(())
}
