//! A device whose default types are narrow. They are set once per process: each test here starts
//! itself anew.

use std::env;
use std::process::Command;
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, IntDType};
use margin_softmax::{ArcFace, Error, Head};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};

use crate::problem::{Problem, device, labels_on, matrix};

const FLOAT: &str = "MARGIN_SOFTMAX_TEST_FLOAT";

/// Runs the ignored test of this name with each default float; those that the device lacks pass.
fn with_each_float(test: &str) {
    for float in ["bf16", "f16"] {
        let mut command = Command::new(env::current_exe().expect("the path of this test"));
        command.args(["--exact", "--ignored", test]).env(FLOAT, float);
        let output = command.output().expect("a process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{float}: {text}");
    }
}

/// The device, with the default float of the environment; `None` where it has no such type.
fn configured() -> Option<Device> {
    let float = match env::var(FLOAT).as_deref() {
        Ok("bf16") => FloatDType::BF16,
        _ => FloatDType::F16,
    };
    let mut device = device();
    device.configure((float, IntDType::I32)).ok().map(|()| device)
}

/// Embeddings near a class each, all over the classes, of a head with this many rows in a tile.
fn check_predictions(device: &Device, classes: usize, tile: usize) -> Result<(), Error> {
    let shape = (143, 16, classes, 1, 2 * classes, tile);
    let mut problem = Problem::new(shape, 4);
    for (i, mut row) in problem.x.rows_mut().into_iter().enumerate() {
        row.assign(&problem.w.row((i * 7919) % classes));
    }
    let loss = Arc::new(ArcFace::new(8.0, 0.3)?);
    let core = Head::new(loss.clone());
    let (nearest, expected) = (core.predict(&problem.batch())?, core.forward(&problem.batch())?);

    let config = MarginHeadConfig::new(16, classes).on_device();
    let config = config.with_rows_per_shard(Some(2 * classes)).with_rows_per_tile(Some(tile));
    let mut head = config.init(loss, device)?;
    assert_eq!(head.weights.dtype(), DType::from(device.settings().float_dtype));
    problem.fill(&mut head);
    let x = matrix(&problem.x, device);
    let found: Vec<usize> =
        head.predict(x.clone())?.into_data().iter::<i64>().map(|class| class as usize).collect();
    assert_eq!(found, nearest);
    let forward = head.evaluate::<f32>(x, labels_on(&problem.labels, device))?;
    assert_eq!(forward.predictions(), expected.predictions());
    Ok(())
}

#[test]
fn predictions_do_not_pass_through_the_default_float() {
    with_each_float("defaults::predictions_with_a_narrow_float");
}

#[test]
#[ignore = "run by the test before, in a process of its own"]
fn predictions_with_a_narrow_float() -> Result<(), Error> {
    let Some(device) = configured() else { return Ok(()) };
    check_predictions(&device, 1000, 1000)?;
    check_predictions(&device, 70_000, 70_000)
}

#[test]
fn self_check_takes_the_defaults_of_the_device() {
    with_each_float("defaults::self_check_with_a_narrow_float");
}

#[test]
#[ignore = "run by the test before, in a process of its own"]
fn self_check_with_a_narrow_float() -> Result<(), Error> {
    let Some(device) = configured() else { return Ok(()) };
    let check = MarginHead::self_check(&device)?;
    assert_eq!(check.predictions, 0.0, "{check:?}");
    assert!(check.losses < 1e-6, "{check:?}");
    // Gradients of the type of the class weights, rounded to 8 or 11 bits.
    let rounding = if device.settings().float_dtype == FloatDType::BF16 { 8 } else { 11 };
    assert!(check.largest() < 1.01 * 0.5_f64.powi(rounding), "{check:?}");
    Ok(())
}
