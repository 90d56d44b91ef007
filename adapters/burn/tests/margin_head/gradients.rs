//! Losses and gradients equal those of burn's autodiff of the formulas.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{DType, Device, Int, Tensor};
use margin_softmax::{ArcFace, Error, Softmax};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};

use crate::formulas::{Case, cases};
use crate::tensors::{assert_close, elsewhere, memory, numbers, values};

const SAMPLES: usize = 6;
const PIXELS: usize = 7;
const DIMS: usize = 5;
const CLASSES: usize = 9;

/// The formulas lose about the rounding of the cosine times the scale, a few hundred roundings in
/// total: 1e-5 in f32, far below 1e-10 in f64.
const TOLERANCES: [(DType, f64); 2] = [(DType::F32, 1e-5), (DType::F64, 1e-10)];

fn labels(device: &Device) -> Tensor<1, Int> {
    Tensor::from_ints([0, 8, 3, 3, 5, 1], device)
}

/// A head with this loss, and pseudo-random class weights.
fn head(case: &Case, bias: bool, dtype: DType) -> Result<MarginHead, Error> {
    let config = MarginHeadConfig::new(DIMS, CLASSES).with_bias(bias);
    let mut head = config.init(case.loss.clone(), &memory())?;
    head.weights = Param::from_tensor(numbers([CLASSES, DIMS], 0.5, (&memory(), dtype)));
    head.bias = bias.then(|| Param::from_tensor(numbers([CLASSES], 0.25, (&memory(), dtype))));
    Ok(head)
}

fn agree(
    case: &Case,
    bias: bool,
    device: &Device,
    dtype: DType,
    tolerance: f64,
) -> Result<(), Error> {
    let head = head(case, bias, dtype)?;
    let x = numbers::<2>([SAMPLES, DIMS], 0.75, (device, dtype)).require_grad();
    let w = head.weights.val().to_device(device).detach().require_grad();
    let b = head.bias.as_ref().map(|b| b.val().to_device(device).detach().require_grad());

    let loss = head.forward(x.clone(), labels(device))?;
    let naive = case.naive(x.clone(), w.clone(), b.clone(), labels(device));
    let what = format!("{:?} {dtype:?}", case.loss);
    assert_eq!((loss.device(), loss.dtype()), (x.device(), dtype));
    assert_close(&format!("{what} loss"), loss.clone(), naive.clone(), tolerance);

    let (ours, theirs) = (loss.backward(), naive.backward());
    let gradient = |tensor: &Tensor<2>, of| tensor.grad(of).expect("a gradient");
    let dw = gradient(&head.weights, &ours).to_device(&device.clone().inner());
    assert_close(&format!("{what} dx"), gradient(&x, &ours), gradient(&x, &theirs), tolerance);
    assert_close(&format!("{what} dw"), dw, gradient(&w, &theirs), tolerance);
    if let (Some(ours_of), Some(theirs_of)) = (&head.bias, &b) {
        let db = ours_of.grad(&ours).expect("a gradient").to_device(&device.clone().inner());
        assert_close(&format!("{what} db"), db, theirs_of.grad(&theirs).expect("one"), tolerance);
    }
    Ok(())
}

#[test]
fn every_loss_equals_its_formula_in_main_memory() -> Result<(), Error> {
    for (dtype, tolerance) in TOLERANCES {
        for case in cases()? {
            agree(&case, false, &memory(), dtype, tolerance)?;
        }
    }
    Ok(())
}

#[test]
fn softmax_with_a_bias_equals_its_formula() -> Result<(), Error> {
    for (dtype, tolerance) in TOLERANCES {
        let softmax = &cases()?[0];
        agree(softmax, true, &memory(), dtype, tolerance)?;
        agree(softmax, true, &elsewhere(), dtype, tolerance)?;
    }
    Ok(())
}

#[test]
fn every_loss_equals_its_formula_with_embeddings_on_another_backend() -> Result<(), Error> {
    for (dtype, tolerance) in TOLERANCES {
        for case in cases()? {
            agree(&case, false, &elsewhere(), dtype, tolerance)?;
        }
    }
    Ok(())
}

/// Two layers with pseudo-random weights.
fn network(device: &Device, dtype: DType) -> [Linear; 2] {
    [[PIXELS, 8], [8, DIMS]].map(|[inputs, outputs]| {
        let mut layer = LinearConfig::new(inputs, outputs).with_bias(false).init(device);
        layer.weight = Param::from_tensor(numbers([inputs, outputs], 0.6, (device, dtype)));
        layer
    })
}

fn embed([first, second]: &[Linear; 2], images: Tensor<2>) -> Tensor<2> {
    second.forward(Relu::new().forward(first.forward(images)))
}

#[test]
fn gradient_flows_on_into_the_network_before_the_head() -> Result<(), Error> {
    for (dtype, tolerance) in TOLERANCES {
        for device in [memory(), elsewhere()] {
            let network = network(&device, dtype);
            let images = numbers([SAMPLES, PIXELS], 0.1, (&device, dtype));
            for case in cases()? {
                let head = head(&case, false, dtype)?;
                let w = head.weights.val().to_device(&device).detach();
                let loss = head.forward(embed(&network, images.clone()), labels(&device))?;
                let naive = case.naive(embed(&network, images.clone()), w, None, labels(&device));
                let (ours, theirs) = (loss.backward(), naive.backward());
                for layer in &network {
                    let of = |gradients| layer.weight.grad(gradients).expect("a gradient");
                    let what = format!("{:?} {dtype:?}", case.loss);
                    assert_close(&what, of(&ours), of(&theirs), tolerance);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradient_follows_what_is_done_with_the_loss() -> Result<(), Error> {
    let device = memory();
    let case = &cases()?[5];
    let head = head(case, false, DType::F32)?;
    let x = numbers::<2>([SAMPLES, DIMS], 0.75, (&device, DType::F32)).require_grad();
    let loss = |x: &Tensor<2>| head.forward(x.clone(), labels(&device));

    let once = loss(&x)?.backward();
    let thrice = (loss(&x)? * 3.0).backward();
    let squared = loss(&x)?.powi_scalar(2).backward();
    let twice = (loss(&x)? + loss(&x)?).backward();
    let value = values(loss(&x)?)[0];
    for (gradients, factor) in [(thrice, 3.0), (squared, 2.0 * value), (twice, 2.0)] {
        let (dx, dw) = (x.grad(&once).expect("one"), head.weights.grad(&once).expect("one"));
        assert_close("dx", x.grad(&gradients).expect("one"), dx * factor, 1e-6);
        assert_close("dw", head.weights.grad(&gradients).expect("one"), dw * factor, 1e-6);
    }
    Ok(())
}

#[test]
fn frozen_parameters_get_no_gradient_and_the_network_still_does() -> Result<(), Error> {
    let device = memory();
    let head = head(&cases()?[5], false, DType::F32)?.no_grad();
    let x = numbers::<2>([SAMPLES, DIMS], 0.75, (&device, DType::F32)).require_grad();
    let gradients = head.forward(x.clone(), labels(&device))?.backward();
    assert!(head.weights.grad(&gradients).is_none());
    assert!(x.grad(&gradients).is_some());
    Ok(())
}

#[test]
fn frozen_network_leaves_the_class_weights_to_train() -> Result<(), Error> {
    let case = &cases()?[5];
    let head = head(case, false, DType::F32)?;
    for device in [Device::flex(), elsewhere().inner(), memory()] {
        let x = numbers([SAMPLES, DIMS], 0.75, (&device, DType::F32));
        let loss = head.forward(x, labels(&device))?;
        assert!(head.weights.grad(&loss.backward()).is_some());
    }
    Ok(())
}

#[test]
fn checkpointing_changes_nothing() -> Result<(), Error> {
    let gradient = |device: Device| -> Result<Tensor<2>, Error> {
        let mut head = MarginHeadConfig::new(DIMS, CLASSES).init(ArcFace::default(), &device)?;
        let memory = head.weights.device();
        head.weights = Param::from_tensor(numbers([CLASSES, DIMS], 0.5, (&memory, DType::F32)));
        let x = numbers::<2>([SAMPLES, DIMS], 0.75, (&device, DType::F32)).require_grad();
        let gradients = head.forward(x.clone().sin().exp(), labels(&device))?.backward();
        Ok(x.grad(&gradients).expect("a gradient"))
    };
    let checkpointing = gradient(memory().gradient_checkpointing())?;
    assert_close("dx", gradient(memory())?, checkpointing, 0.0);
    Ok(())
}

#[test]
fn half_precision_embeddings_are_computed_with_in_f32() -> Result<(), Error> {
    let device = memory();
    let head = head(&cases()?[5], false, DType::F32)?;
    let x = numbers::<2>([SAMPLES, DIMS], 0.75, (&device, DType::F16)).require_grad();
    let loss = head.forward(x.clone(), labels(&device))?;
    let full = head.forward(x.clone().cast(DType::F32), labels(&device))?;
    assert_eq!(loss.dtype(), DType::F16);
    assert_close("loss", loss.clone().cast(DType::F32), full, 1e-3);
    let dx = x.grad(&loss.backward()).expect("a gradient");
    assert_eq!(dx.dtype(), DType::F16);
    Ok(())
}

#[test]
fn nothing_is_nan_where_an_embedding_lies_on_its_class_or_opposite() -> Result<(), Error> {
    let device = memory();
    for case in cases()? {
        let mut head = head(&case, false, DType::F32)?;
        let w = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], &device);
        head.weights = Param::from_tensor(w);
        let x = Tensor::<2>::from_floats([[2.0, 0.0], [-5.0, 0.0]], &device).require_grad();
        let loss = head.forward(x.clone(), Tensor::from_ints([0, 0], &device))?;
        let gradients = loss.clone().backward();
        let mut found = values(loss);
        found.extend(values(x.grad(&gradients).expect("a gradient")));
        found.extend(values(head.weights.grad(&gradients).expect("a gradient")));
        assert!(found.iter().all(|value| value.is_finite()), "{:?}: {found:?}", case.loss);
    }
    Ok(())
}

#[test]
fn untracked_step_has_the_same_loss() -> Result<(), Error> {
    for bias in [false, true] {
        let device = Device::flex();
        let mut head =
            MarginHeadConfig::new(DIMS, CLASSES).with_bias(bias).init(Softmax::new(), &device)?;
        let x = numbers([SAMPLES, DIMS], 0.75, (&device, DType::F32));
        let plain = head.forward(x.clone(), labels(&device))?;
        assert!(!plain.is_autodiff());
        head.weights = Param::from_tensor(head.weights.val().autodiff());
        let tracked = head.forward(x, labels(&device))?;
        assert!(tracked.is_tracked());
        assert_eq!(values(plain), values(tracked));
    }
    Ok(())
}
