//! The head as part of a burn model: records, devices, optimizers, inference.

use std::sync::Arc;

use burn::module::{Module, Param, Quantizer};
use burn::optim::{GradientsParams, SgdConfig};
use burn::store::ModuleRecord;
use burn::tensor::quantization::{Calibration, QuantScheme};
use burn::tensor::{DType, Device, Int, Tensor};
use margin_softmax::{ArcFace, Batch, CosFace, Error, Head, MarginLoss, Precision, Softmax};
use margin_softmax_burn::{MarginHead, MarginHeadConfig, Options, Output, Settings};

use crate::formulas::normalized;
use crate::tensors::{assert_close, elsewhere, memory, numbers, values};

fn head(loss: impl MarginLoss + 'static, bias: bool) -> Result<MarginHead, Error> {
    let mut head = MarginHeadConfig::new(3, 4).with_bias(bias).init(loss, &memory())?;
    head.weights = Param::from_tensor(numbers([4, 3], 0.5, (&memory(), DType::F32)));
    Ok(head)
}

fn embeddings(device: &Device) -> Tensor<2> {
    numbers([5, 3], 0.75, (device, DType::F32))
}

fn labels(device: &Device) -> Tensor<1, Int> {
    Tensor::from_ints([0, 1, 2, 3, 0], device)
}

#[test]
fn record_holds_weights_and_bias_and_brings_them_back() -> Result<(), Error> {
    let trained = head(Softmax::new(), true)?;
    let bytes = trained.clone().into_record().into_bytes().expect("bytes");
    let record = ModuleRecord::from_bytes(bytes).expect("a record");
    assert_eq!(record.len(), 3); // the layout, too

    let fresh = MarginHeadConfig::new(3, 4).with_bias(true).init(Softmax::new(), &memory())?;
    let loaded = fresh.load_record(record);
    let losses =
        [&trained, &loaded].map(|head| head.forward(embeddings(&memory()), labels(&memory())));
    let [before, after] = losses;
    let after = after?;
    assert_eq!(values(before?), values(after.clone()));
    assert_eq!(values(trained.weights.val()), values(loaded.weights.val()));
    assert!(loaded.weights.grad(&after.backward()).is_some());
    Ok(())
}

#[test]
fn record_does_not_hold_the_loss() -> Result<(), Error> {
    let record = head(ArcFace::default(), false)?.into_record();
    let loaded = head(CosFace::default(), false)?.load_record(record);
    assert_eq!(format!("{:?}", loaded.loss()), format!("{:?}", CosFace::default()));
    Ok(())
}

#[test]
fn record_of_another_size_is_refused() -> Result<(), Error> {
    let record = head(ArcFace::default(), false)?.into_record();
    let other = MarginHeadConfig::new(3, 5).init(ArcFace::default(), &memory())?;
    assert!(other.try_load_record(record).is_err());
    Ok(())
}

#[test]
fn parameters_stay_in_main_memory_when_the_model_moves() -> Result<(), Error> {
    let head = head(Softmax::new(), true)?;
    let before = values(head.weights.val());
    for moved in [head.clone().to_device(&elsewhere()), head.fork(&elsewhere())] {
        assert_eq!(moved.devices(), [Device::flex()]);
        assert_eq!(values(moved.weights.val()), before);
        let x = embeddings(&elsewhere()).require_grad();
        let loss = moved.forward(x.clone(), labels(&elsewhere()))?;
        assert_eq!(loss.device(), elsewhere());
        let gradients = loss.backward();
        assert_eq!(x.grad(&gradients).map(|dx| dx.device()), Some(elsewhere()));
        assert_eq!(moved.weights.grad(&gradients).map(|dw| dw.device()), Some(Device::flex()));
    }
    Ok(())
}

#[test]
fn class_weights_that_were_put_elsewhere_are_brought_over() -> Result<(), Error> {
    let mut head = head(Softmax::new(), true)?;
    let x = embeddings(&memory());
    let expected = values(head.forward(x.clone(), labels(&memory()))?);
    let moved = head.weights.val().to_device(&elsewhere()).detach();
    head.weights = Param::from_tensor(moved);
    let loss = head.forward(x.clone(), labels(&memory()))?;
    let dw = head.weights.grad(&loss.backward()).expect("a gradient");
    assert_eq!((dw.device(), values(loss)), (elsewhere(), expected));
    assert_eq!(head.predict(x.clone())?.dims(), [5]);
    assert_eq!(head.fork(&memory()).devices(), [Device::flex()]);
    Ok(())
}

#[test]
fn head_made_for_another_device_is_in_main_memory() -> Result<(), Error> {
    let head = MarginHeadConfig::new(3, 4).init(ArcFace::default(), &elsewhere())?;
    assert_eq!(head.devices(), [Device::flex()]);
    assert!(head.weights.is_require_grad());
    Ok(())
}

#[test]
fn validation_needs_no_graph_and_training_takes_it_up_again() -> Result<(), Error> {
    let head = head(ArcFace::default(), false)?;
    let valid = head.valid();
    assert!(!valid.weights.is_require_grad());
    let plain = memory().inner();
    assert!(!valid.forward(embeddings(&plain), labels(&plain))?.is_autodiff());
    assert!(valid.train().weights.is_require_grad());
    Ok(())
}

#[test]
fn optimizer_descends_through_weights_on_both_devices() -> Result<(), Error> {
    for device in [memory(), elsewhere()] {
        let mut optimizer = SgdConfig::new().init();
        let mut head = head(CosFace::new(8.0, 0.2)?, false)?;
        let x = embeddings(&device);
        let first = values(head.forward(x.clone(), labels(&device))?)[0];
        for _ in 0..20 {
            let gradients = head.forward(x.clone(), labels(&device))?.backward();
            let gradients = GradientsParams::from_grads(gradients, &head);
            head = optimizer.step(0.05, head, gradients);
        }
        let last = values(head.forward(x, labels(&device))?)[0];
        assert!(last < 0.7 * first, "{first} to {last}");
        assert_eq!(head.devices(), [Device::flex()]);
    }
    Ok(())
}

#[test]
fn loss_changes_between_steps_of_a_head_and_its_clones() -> Result<(), Error> {
    let head = head(ArcFace::new(8.0, 0.0)?, false)?;
    let loss = |head: &MarginHead| head.forward(embeddings(&memory()), labels(&memory()));
    let without = values(loss(&head)?)[0];
    let clone = head.clone();
    head.set_loss(ArcFace::new(8.0, 0.5)?);
    assert!(values(loss(&head)?)[0] > without);
    assert_eq!(values(loss(&clone)?), values(loss(&head)?));
    assert_eq!(values(loss(&clone.valid())?), values(loss(&head)?));
    let chosen_at_run_time: Arc<dyn MarginLoss> = Arc::new(ArcFace::new(8.0, 0.0)?);
    head.set_loss(chosen_at_run_time);
    assert_eq!(values(loss(&head)?)[0], without);
    Ok(())
}

#[test]
fn details_are_those_of_the_step_without_margin() -> Result<(), Error> {
    let head = head(ArcFace::default(), false)?;
    let (x, labels) = (embeddings(&memory()), labels(&memory()));
    let Output { loss, forward, .. } =
        head.run::<f32>(x.clone(), labels.clone(), Options::default())?;
    assert_eq!(values(loss), [f64::from(forward.mean())]);
    let predictions: Vec<i64> = head.predict(x)?.into_data().iter::<i64>().collect();
    let found: Vec<i64> = forward.predictions().iter().map(|&class| class as i64).collect();
    assert_eq!(predictions, found);
    assert_eq!(forward.target_angles().len(), 5);
    Ok(())
}

#[test]
fn logits_are_without_margin_and_predictions_are_their_largest() -> Result<(), Error> {
    for device in [memory(), elsewhere(), memory().inner()] {
        let head = head(ArcFace::new(8.0, 0.5)?, false)?;
        let x = embeddings(&device);
        let logits = head.logits(x.clone())?;
        assert!(!logits.is_autodiff() && logits.device() == device);
        let w = normalized(head.weights.val().inner().to_device(&logits.device()));
        let cosines = normalized(x.clone().inner()).matmul(w.transpose());
        assert_close("logits", logits.clone(), cosines * 8.0, 1e-6);
        let nearest = logits.argmax(1).flatten::<1>(0, 1);
        nearest.into_data().assert_eq(&head.predict(x)?.into_data(), false);
    }
    Ok(())
}

#[test]
fn logits_of_softmax_have_its_bias() -> Result<(), Error> {
    let mut head = head(Softmax::new(), true)?;
    head.bias = Some(Param::from_tensor(numbers([4], 0.3, (&memory(), DType::F32))));
    let x = embeddings(&memory().inner());
    let bias = head.bias.as_ref().expect("a bias").val().inner().unsqueeze::<2>();
    let expected = x.clone().matmul(head.weights.val().inner().transpose()) + bias;
    assert_close("logits", head.logits(x)?, expected, 1e-6);
    Ok(())
}

#[test]
fn quantized_class_weights_and_embeddings_still_infer() -> Result<(), Error> {
    let head = head(ArcFace::new(8.0, 0.5)?, false)?.valid();
    let mut quantizer = Quantizer::new(Calibration::MinMax, QuantScheme::default());
    let quantized = head.clone().quantize_weights(&mut quantizer);
    let x = embeddings(&memory().inner());
    // 8 bits: half of 1/127 of the largest number, in each of three dimensions.
    let expected = head.logits(x.clone())?;
    assert_close("logits", quantized.logits(x.clone())?, expected.clone(), 0.02);
    let x = x.quantize_dynamic(&QuantScheme::default());
    assert_close("logits", head.logits(x.clone())?, expected, 0.02);
    assert!(head.forward(x, labels(&memory()))?.dtype().is_float());
    Ok(())
}

#[test]
fn double_precision_is_kept() -> Result<(), Error> {
    let mut head = head(ArcFace::default(), false)?;
    head.weights = Param::from_tensor(numbers([4, 3], 0.5, (&memory(), DType::F64)));
    let x = numbers::<2>([5, 3], 0.75, (&memory(), DType::F64));
    let loss = head.forward(x.clone(), labels(&memory()))?;
    let Output { forward, .. } =
        head.run::<f64>(x.clone(), labels(&memory()), Options::default())?;
    assert_eq!(values(loss), [forward.mean()]);
    assert_eq!(head.logits(x)?.dtype(), DType::F64);
    Ok(())
}

#[test]
fn products_are_rounded_where_the_head_is_told_so() -> Result<(), Error> {
    let mut head = head(ArcFace::default(), false)?
        .with_settings(Settings::default().with_precision(Precision::Bf16));
    let x = embeddings(&memory());
    let Output { forward: found, .. } =
        head.run::<f32>(x.clone(), labels(&memory()), Options::default())?;
    let single = |tensor| values::<2>(tensor).iter().map(|&v| v as f32).collect::<Vec<_>>();
    let (numbers, weights) = (single(x), single(head.weights.val()));
    let batch = Batch::from_slices(&numbers, &weights, &[0, 1, 2, 3, 0], 3)?;
    let core = Head::new(ArcFace::default());
    assert_ne!(found, core.forward(&batch)?);
    assert_eq!(found, core.with_precision(Precision::Bf16).forward(&batch)?);
    head.weights = Param::from_tensor(self::numbers([4, 3], 0.5, (&memory(), DType::F64)));
    let refused = head.forward(embeddings(&memory()), labels(&memory())).unwrap_err();
    assert_eq!(refused, Error::Precision);
    Ok(())
}

#[test]
fn clones_step_at_the_same_time_with_the_same_result() -> Result<(), Error> {
    let head = head(ArcFace::default(), false)?;
    let step = |head: MarginHead| {
        let x = embeddings(&memory()).require_grad();
        let gradients = head.forward(x.clone(), labels(&memory()))?.backward();
        Ok::<_, Error>(values(x.grad(&gradients).expect("a gradient")))
    };
    let alone = step(head.clone())?;
    let together = std::thread::scope(|scope| {
        let clones = [(); 4].map(|()| head.clone());
        let threads = clones.map(|head| scope.spawn(move || step(head)));
        threads.map(|thread| thread.join().expect("a result"))
    });
    for result in together {
        assert_eq!(result?, alone);
    }
    Ok(())
}

#[test]
fn head_is_shown_with_its_size_and_loss() -> Result<(), Error> {
    let shown = head(ArcFace::default(), false)?.to_string();
    for part in ["MarginHead", "dims: 3", "classes: 4", "ArcFace", "params: 12"] {
        assert!(shown.contains(part), "{shown}");
    }
    Ok(())
}
