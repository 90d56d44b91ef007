//! The head as part of a burn model: records, devices, optimizers, frozen parts.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::store::ModuleRecord;
use burn::tensor::{DType, Device, Tensor};
use margin_softmax::{ArcFace, CosFace, Error, Softmax};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use ndarray::Array1;

use crate::problem::{Problem, SHAPES, Shape, assert_close, device, training, values};

const SHAPE: Shape = SHAPES[2];

fn config(rows_per_shard: usize) -> MarginHeadConfig {
    let config = MarginHeadConfig::new(SHAPE.1, SHAPE.2).on_device().with_bias(true);
    config.with_rows_per_shard(Some(rows_per_shard)).with_rows_per_tile(Some(8))
}

fn trained() -> Result<MarginHead, Error> {
    let mut problem = Problem::new(SHAPE, 2);
    problem.bias = Some(Array1::from_shape_fn(SHAPE.2, |j| f64::from((j as f32).sin())));
    problem.head(Arc::new(Softmax::new()), SHAPE)
}

fn all(head: &MarginHead) -> Vec<f64> {
    let shards = head.all_weights().flat_map(|shard| values(shard.val()));
    shards.chain(head.bias.iter().flat_map(|bias| values(bias.val()))).collect()
}

fn bytes(head: &MarginHead) -> ModuleRecord {
    let bytes = head.clone().into_record().into_bytes().expect("bytes");
    ModuleRecord::from_bytes(bytes).expect("a record")
}

#[test]
fn shards_hold_whole_classes_and_no_more_rows_than_are_set() -> Result<(), Error> {
    let shards = |rows: usize, k: usize| {
        let config = MarginHeadConfig::new(2, 10).with_sub_centers(k).on_device();
        let head = config.with_rows_per_shard(Some(rows)).init(ArcFace::default(), &device())?;
        Ok::<_, Error>(head.all_weights().map(|shard| shard.dims()[0]).collect::<Vec<_>>())
    };
    assert_eq!(shards(4, 1)?, [4, 4, 2]);
    assert_eq!(shards(4, 3)?, [3; 10]);
    assert_eq!(shards(100, 3)?, [30]);
    let head = MarginHeadConfig::new(2, 10).on_device().init(ArcFace::default(), &device())?;
    assert!(head.shards.is_empty() && head.is_on_device());
    Ok(())
}

#[test]
fn records_load_into_other_shards_and_into_main_memory() -> Result<(), Error> {
    let head = trained()?;
    let main_memory = config(1).with_on_device(false).init(Softmax::new(), &training())?;
    for fresh in [
        config(20).init(Softmax::new(), &training())?,
        config(53).init(Softmax::new(), &training())?,
        config(7).init(Softmax::new(), &training())?,
        main_memory.clone(),
    ] {
        let shards: Vec<_> = fresh.all_weights().map(|shard| shard.dims()).collect();
        let loaded = fresh.load_record(bytes(&head));
        assert_eq!(loaded.all_weights().map(|shard| shard.dims()).collect::<Vec<_>>(), shards);
        assert_eq!(all(&loaded), all(&head));
        assert!(loaded.all_weights().all(|shard| shard.val().is_require_grad()));
        let back = config(20).init(Softmax::new(), &training())?.load_record(bytes(&loaded));
        assert_eq!(all(&back), all(&head));
        let problem = Problem::new(SHAPE, 2);
        let loss = loaded.forward(problem.embeddings(), problem.labels())?;
        let gradients = loss.backward();
        assert!(loaded.all_weights().all(|shard| shard.grad(&gradients).is_some()));
    }
    Ok(())
}

#[test]
fn records_of_another_size_are_refused() -> Result<(), Error> {
    let record = bytes(&trained()?);
    for (dims, classes) in [(SHAPE.1, 54), (SHAPE.1 + 1, 53)] {
        let other = MarginHeadConfig::new(dims, classes).on_device().with_bias(true);
        let other = other.init(Softmax::new(), &training())?;
        assert!(other.try_load_record(record.clone()).is_err());
    }
    Ok(())
}

#[test]
fn optimizer_descends_as_in_main_memory() -> Result<(), Error> {
    let problem = Problem::new(SHAPE, 2);
    let on_device = problem.head(Arc::new(CosFace::new(8.0, 0.2)?), SHAPE)?;
    let config = MarginHeadConfig::new(SHAPE.1, SHAPE.2);
    let mut in_memory = config.init(CosFace::new(8.0, 0.2)?, &training())?;
    problem.fill(&mut in_memory);
    let train = |mut head: MarginHead| {
        let mut optimizer = AdamWConfig::new().init();
        for _ in 0..15 {
            let gradients = head.forward(problem.embeddings(), problem.labels())?.backward();
            let gradients = GradientsParams::from_grads(gradients, &head);
            head = optimizer.step(0.01, head, gradients);
        }
        let loss = values(head.forward(problem.embeddings(), problem.labels())?)[0];
        Ok::<_, Error>((loss, all(&head)))
    };
    let before = values(on_device.forward(problem.embeddings(), problem.labels())?)[0];
    let ((loss, found), (_, expected)) = (train(on_device)?, train(in_memory)?);
    assert!(loss < 0.7 * before, "{before} to {loss}");
    // AdamW divides by the root of squares: rounding of small gradients is enlarged.
    assert_close("weights", &found, &expected, 1e-3);
    Ok(())
}

#[test]
fn model_moves_with_its_weights() -> Result<(), Error> {
    let head = trained()?;
    let before = all(&head);
    for moved in [head.clone().to_device(&device()), head.clone().fork(&training())] {
        assert_eq!(moved.devices(), [device()]);
        assert_eq!(all(&moved), before);
    }
    let moved = head.fork(&Device::flex().autodiff());
    assert_eq!(moved.devices(), [Device::flex()]);
    assert_eq!(all(&moved), before);
    let problem = Problem::new(SHAPE, 2);
    // Embeddings elsewhere are brought over, and their gradient back.
    let x = problem.embeddings();
    let loss = moved.forward(x.clone(), problem.labels())?;
    assert_eq!(loss.device(), device());
    let gradients = loss.backward();
    assert_eq!(x.grad(&gradients).map(|dx| dx.device()), Some(device()));
    Ok(())
}

#[test]
fn frozen_parts_get_no_gradient() -> Result<(), Error> {
    let problem = Problem::new(SHAPE, 2);
    let head = problem.head(Arc::new(ArcFace::default()), SHAPE)?;
    let x = problem.embeddings();
    let gradients = head.forward(x.clone().detach(), problem.labels())?.backward();
    assert!(head.all_weights().all(|shard| shard.grad(&gradients).is_some()));
    let frozen = head.clone().no_grad();
    let gradients = frozen.forward(x.clone(), problem.labels())?.backward();
    assert!(x.grad(&gradients).is_some());
    assert!(frozen.all_weights().all(|shard| shard.grad(&gradients).is_none()));
    let valid = head.valid();
    let plain = x.inner();
    assert!(!valid.forward(plain, problem.labels())?.is_autodiff());
    Ok(())
}

#[test]
fn half_precision_and_double_are_computed_with() -> Result<(), Error> {
    let problem = Problem::new(SHAPE, 2);
    for dtype in [DType::F16, DType::F64] {
        let mut head = problem.head(Arc::new(ArcFace::new(16.0, 0.3)?), SHAPE)?;
        let expected = values(head.forward(problem.embeddings(), problem.labels())?);
        for shard in head.all_weights_mut() {
            *shard = Param::from_tensor(shard.val().cast(dtype).detach());
        }
        let loss = match head.forward(problem.embeddings(), problem.labels()) {
            // WGSL has no exponential in f64.
            Err(Error::Device { .. }) if dtype == DType::F64 && device() != Device::flex() => {
                continue;
            }
            loss => loss?,
        };
        // f16 holds three digits of the class weights.
        assert_close("loss", &values(loss.clone()), &expected, 5e-3);
        let gradients = loss.backward();
        assert!(head.all_weights().all(|shard| shard.grad(&gradients).unwrap().dtype() == dtype));
    }
    Ok(())
}

#[test]
fn head_is_shown_with_its_size_and_place() -> Result<(), Error> {
    let shown = trained()?.to_string();
    for part in ["dims: 16", "classes: 53", "on_device: true", "params: 901"] {
        assert!(shown.contains(part), "{shown}");
    }
    Ok(())
}

#[test]
fn sub_centers_and_clones_share_the_loss() -> Result<(), Error> {
    let head = trained()?;
    let clone = head.clone();
    head.set_loss(Softmax::new());
    assert_eq!(format!("{:?}", clone.loss()), format!("{:?}", head.loss()));
    let tensor: Tensor<2> = clone.weights.val();
    assert_eq!(tensor.dims(), [20, 16]);
    Ok(())
}
