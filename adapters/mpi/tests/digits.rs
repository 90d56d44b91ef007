//! Training on digits with split classes ends with the same model as in one process.

#[path = "../../../examples/common/digits.rs"]
mod digits;
#[allow(dead_code)] // `train_digits` uses the rest
#[path = "../../../examples/common/model.rs"]
mod model;
#[path = "../../../examples/common/network.rs"]
mod network;
#[path = "../examples/train_digits_mpi/training.rs"]
mod split;
mod support;
#[allow(dead_code)] // `train_digits` uses the rest
#[path = "../../../examples/common/training.rs"]
mod training;

use std::process::ExitCode;

use anyhow::Result;
use margin_softmax::{CosFace, Precision};

use crate::digits::{CLASSES, Dataset};
use crate::training::{RATE, Schedule};

const EPOCHS: usize = 5;
const SEED: u64 = 0;

/// The mean loss of every step of `train_digits`, and its accuracy.
fn one_process(data: &Dataset) -> Result<(Vec<f32>, f64)> {
    let loss = CosFace::new(16.0, 0.35)?;
    let precision = Precision::Full;
    let schedule = Schedule { epochs: EPOCHS, rate: RATE, seed: SEED, energy: 0.0, precision };
    let mut losses = Vec::new();
    let watch = |loss: f32, _: &_, _: &_| losses.push(loss);
    let model = training::train(
        |_, _| Ok(Box::new(loss.clone())),
        [16, CLASSES],
        &data.train,
        &schedule,
        watch,
    )?;
    let evaluation = model.evaluate(loss, &data.held_out)?;
    Ok((losses, evaluation.accuracy))
}

/// The two differ by rounding only: measured 2e-6 after this number of epochs.
#[test]
fn training_on_ranks_has_the_losses_and_the_accuracy_of_one_process() -> ExitCode {
    support::on_ranks(&[1, 2, 4], |collective| {
        let data = Dataset::bundled()?;
        let (expected, accuracy) = one_process(&data)?;
        let mut losses = Vec::new();
        let schedule = (EPOCHS, SEED);
        let mut model = split::train(&data.train, collective, schedule, |loss| losses.push(loss))?;
        assert_eq!(losses.len(), expected.len());
        for (step, (found, expected)) in losses.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= 1e-5 * expected, "step {step}: loss {found} for {expected}");
        }
        assert_eq!(model.accuracy(&data.held_out)?, accuracy);
        assert!(accuracy > 0.9);
        Ok::<_, anyhow::Error>(())
    })
}
