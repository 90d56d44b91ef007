//! New identities join a training: the class weights and what the optimizer remembers of them get
//! new rows, and the old rows keep theirs.

use anyhow::Result;
use burn::module::{Module, Param};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor};
use burn_pack::{Reader, Writer};
use margin_softmax::ArcFace;
use margin_softmax_burn::{MarginHead, MarginHeadConfig};

const DIMS: usize = 4;

/// An optimizer as the training had it, with no state.
fn fresh() -> ModuleOptimizer {
    SgdConfig::new().with_momentum(Some(MomentumConfig::new())).init()
}

/// The head with `new` rows below those of its class weights, which keep their id.
fn with_rows(mut head: MarginHead, new: Tensor<2>) -> MarginHead {
    let (id, rows) = (head.weights.id, head.weights.val());
    let weights = Tensor::cat(vec![rows, new], 0).detach().require_grad();
    head.weights = Param::initialized(id, weights);
    head
}

/// The optimizer with as many rows more of zeros, wherever its state has rows of these weights.
fn with_moments(
    optimizer: &ModuleOptimizer,
    weights: &Param<Tensor<2>>,
) -> Result<ModuleOptimizer> {
    let [classes, dims] = weights.dims();
    let record = Reader::from_bytes(optimizer.into_bytes()?)?;
    let (metadata, scalars) = (record.metadata().clone(), record.scalars().clone());
    let tensors = record.into_tensors()?.into_iter().map(|tensor| {
        let (name, dtype, mut shape, id, bytes) = tensor.into_parts()?;
        let mut bytes = bytes.to_vec();
        if id == Some(weights.id.val()) && shape.num_dims() == 2 {
            shape = [classes, dims].into();
            bytes.resize(classes * dims * dtype.size(), 0);
        }
        anyhow::Ok(burn_pack::Tensor::new(
            name,
            dtype,
            shape,
            id,
            burn_pack::Bytes::from_bytes_vec(bytes),
        ))
    });
    let mut writer = Writer::new(tensors.collect::<Result<_>>()?);
    for (key, value) in &metadata {
        writer = writer.with_metadata(key, value);
    }
    for (key, &value) in &scalars {
        writer = writer.with_scalar(key, value);
    }
    Ok(fresh().from_bytes(writer.into_bytes()?)?)
}

fn step(
    head: MarginHead,
    optimizer: &mut ModuleOptimizer,
    label: i64,
    device: &Device,
) -> Result<MarginHead> {
    let embeddings = Tensor::<2>::from_floats([[1.0, 0.5, -0.3, 0.2]], device);
    let labels = Tensor::<1, Int>::from_ints([label], device);
    let gradients = head.forward(embeddings, labels)?.backward();
    let gradients = GradientsParams::from_grads(gradients, &head);
    Ok(optimizer.step(0.1, head, gradients))
}

/// The numbers that an optimizer remembers of the class weights.
fn moments(optimizer: &ModuleOptimizer) -> Result<Vec<f32>> {
    let tensors = Reader::from_bytes(optimizer.into_bytes()?)?.into_tensors()?;
    let bytes = tensors.into_iter().next().expect("one state").into_bytes()?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[test]
fn new_classes_join_with_the_moments_of_the_old_ones_kept() -> Result<()> {
    let device = Device::flex().autodiff();
    device.seed(1);
    let mut head = MarginHeadConfig::new(DIMS, 3).init(ArcFace::new(16.0, 0.3)?, &device)?;
    let mut optimizer = fresh();
    for label in [0, 1, 2, 0] {
        head = step(head, &mut optimizer, label, &device)?;
    }
    let before = moments(&optimizer)?;
    assert!(before.len() == 3 * DIMS && before.iter().any(|moment| *moment != 0.0));

    // For example the mean embedding of each new identity.
    let new = Tensor::<2>::from_floats([[0.1, -0.4, 0.2, 0.3], [-0.2, 0.1, 0.5, -0.1]], &device);
    let mut head = with_rows(head, new.inner().autodiff());
    let mut optimizer = with_moments(&optimizer, &head.weights)?;
    let after = moments(&optimizer)?;
    assert_eq!(after[..3 * DIMS], before);
    assert_eq!(after[3 * DIMS..], [0.0; 2 * DIMS]);

    for _ in 0..20 {
        head = step(head, &mut optimizer, 4, &device)?;
    }
    assert_eq!(head.num_params(), 5 * DIMS);
    let embeddings = Tensor::<2>::from_floats([[1.0, 0.5, -0.3, 0.2]], &device);
    assert_eq!(head.predict(embeddings)?.into_data().iter::<i64>().collect::<Vec<_>>(), [4]);
    Ok(())
}
