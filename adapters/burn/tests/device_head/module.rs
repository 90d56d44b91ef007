//! The head as part of a burn model: records, devices, optimizers, frozen parts.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::{DType, Device, Gradients, Tensor};
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

/// A head in a model, as users have it.
#[derive(Module, Debug)]
struct Model {
    layer: Linear,
    head: MarginHead,
}

impl Model {
    fn of(head: MarginHead) -> Self {
        Model { layer: LinearConfig::new(3, SHAPE.1).init(&training()), head }
    }

    fn step(&self, problem: &Problem) -> Result<Gradients, Error> {
        Ok(self.head.forward(problem.embeddings(), problem.labels())?.backward())
    }
}

fn recorded(model: &Model) -> ModuleRecord {
    let bytes = model.clone().into_record().into_bytes().expect("bytes");
    ModuleRecord::from_bytes(bytes).expect("a record")
}

#[test]
fn records_of_models_load_into_other_shards_and_into_main_memory() -> Result<(), Error> {
    let model = Model::of(trained()?);
    let in_memory = config(1).with_on_device(false);
    for config in [config(20), config(53), config(7), in_memory] {
        let fresh = Model::of(config.init(Softmax::new(), &training())?);
        let shards: Vec<_> = fresh.head.all_weights().map(|shard| shard.dims()).collect();
        let loaded = fresh.try_load_record(recorded(&model)).expect("a record that fits");
        let found: Vec<_> = loaded.head.all_weights().map(|shard| shard.dims()).collect();
        assert_eq!(found, shards);
        assert_eq!(all(&loaded.head), all(&model.head));
        let back = Model::of(trained()?).try_load_record(recorded(&loaded)).expect("and back");
        assert_eq!(all(&back.head), all(&model.head));
        let gradients = loaded.step(&Problem::new(SHAPE, 2))?;
        assert!(loaded.head.all_weights().all(|shard| shard.grad(&gradients).is_some()));
    }
    Ok(())
}

#[test]
fn frozen_shards_stay_frozen_when_a_record_is_loaded() -> Result<(), Error> {
    let record = recorded(&Model::of(trained()?));
    for rows in [20, 7, 53] {
        let fresh = Model::of(config(rows).init(Softmax::new(), &training())?).no_grad();
        let loaded = fresh.try_load_record(record.clone()).expect("a record that fits");
        assert!(loaded.head.all_weights().all(|shard| !shard.val().is_require_grad()));
        assert_eq!(all(&loaded.head), all(&trained()?));
    }
    Ok(())
}

#[test]
fn record_of_other_sub_centers_is_refused() -> Result<(), Error> {
    let head = |classes, k| {
        let config = MarginHeadConfig::new(2, classes).with_sub_centers(k).on_device();
        config.init(ArcFace::default(), &training())
    };
    let record = bytes(&head(20, 1)?);
    let refused = head(10, 2)?.try_load_record(record.clone()).unwrap_err().to_string();
    assert!(refused.contains("sub_centers"), "{refused}");
    assert!(head(20, 1)?.try_load_record(record).is_ok());
    Ok(())
}

/// The state of an optimizer belongs to shards of one size: with others it starts anew.
#[test]
fn optimizer_steps_on_after_a_record_of_other_shards() -> Result<(), Error> {
    let problem = Problem::new(SHAPE, 2);
    let step = |model: Model, optimizer: &mut ModuleOptimizer| {
        let gradients = GradientsParams::from_grads(model.step(&problem)?, &model);
        Ok::<_, Error>(optimizer.step(0.01, model, gradients))
    };
    let mut optimizer = AdamWConfig::new().init();
    let model = step(Model::of(trained()?), &mut optimizer)?;
    let record = recorded(&model);
    for rows in [20, 7, 53] {
        let state = optimizer.to_record();
        let mut optimizer = AdamWConfig::new().init().load_record(state);
        let fresh = Model::of(config(rows).init(Softmax::new(), &training())?);
        let loaded = fresh.try_load_record(record.clone()).expect("a record that fits");
        let before = all(&loaded.head);
        let found = step(loaded, &mut optimizer)?;
        assert_ne!(all(&found.head), before, "{rows}");
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
