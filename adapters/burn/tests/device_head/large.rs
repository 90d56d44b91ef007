//! More logits than the device could hold in one tensor.

use std::sync::Arc;

use margin_softmax::{ArcFace, Error, Head, MarginLoss, Reduction};

use crate::problem::{Problem, assert_close, values, weight_gradients};

/// The largest tensor that Vulkan and WebGPU promise to bind.
const BINDING: usize = 128 << 20;

#[test]
fn logits_need_not_fit_into_one_tensor() -> Result<(), Error> {
    let (samples, dims, classes) = (384, 4, 90_000);
    assert!(samples * classes * size_of::<f32>() > BINDING);
    let shape = (samples, dims, classes, 1, 50_000, 4096);
    let problem = Problem::new(shape, 1);
    let loss: Arc<dyn MarginLoss> = Arc::new(ArcFace::new(8.0, 0.3)?);
    let head = problem.head(loss.clone(), shape)?;
    let (forward, expected) = problem.expected(&Head::new(loss), Reduction::Mean)?;
    // Vulkan allows the exponential of x an error of 3 + 2|x| units in the last place, 19 here.
    let tolerance = 3e-6;
    let x = problem.embeddings();
    let loss = head.forward(x.clone(), problem.labels())?;
    assert_close("loss", &values(loss.clone()), &[forward.mean()], tolerance);
    let gradients = loss.backward();
    let dx = values(x.grad(&gradients).expect("a gradient"));
    assert_close("dx", &dx, &expected.embeddings, tolerance);
    assert_close("dw", &weight_gradients(&head, &gradients), &expected.weights, tolerance);
    Ok(())
}
