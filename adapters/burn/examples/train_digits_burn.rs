//! Trains a network on handwritten digits with the optimizer, learner and metrics of burn and an
//! ArcFace head.
//!
//! `cargo run --release -p margin-softmax-burn --example train_digits_burn`
//!
//! With `-- --device wgpu` and `--features wgpu`, network and class weights are on a graphics card.

#[path = "common/device.rs"]
mod devices;
#[path = "../../../examples/common/digits.rs"]
mod digits;
#[path = "../../../examples/common/say.rs"]
mod say;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, anyhow, ensure};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::AdamConfig;
use burn::prelude::*;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{AccuracyMetric, LossMetric, MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use clap::Parser;
use digits::{CLASSES, Dataset, Samples};
use indicatif::ProgressBar;
use margin_softmax::{ArcFace, Error};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use say::say;

const PIXELS: usize = 64;
const HIDDEN: usize = 128;
const DIMS: usize = 16;
const EPOCHS: usize = 12;
const LEAST_ACCURACY: f64 = 0.95;

#[derive(Parser)]
#[command(about = "Trains a network and an ArcFace head on handwritten digits")]
struct Arguments {
    /// Where network and class weights are: flex, wgpu, vulkan, metal, cuda or rocm. Without, the
    /// network is on flex and the class weights are in main memory.
    #[arg(long, value_parser = devices::named)]
    device: Option<Device>,
}

/// The head comes last: burn trains on the device of the first parameter.
#[derive(Module, Debug)]
struct Model {
    hidden: Linear,
    embedding: Linear,
    head: MarginHead,
}

#[derive(Clone, Debug)]
struct Digits {
    images: Tensor<2>,
    labels: Tensor<1, Int>,
}

impl Model {
    fn new(device: &Device, on_device: bool) -> Result<Self> {
        let config = MarginHeadConfig::new(DIMS, CLASSES).with_on_device(on_device);
        Ok(Model {
            hidden: LinearConfig::new(PIXELS, HIDDEN).init(device),
            embedding: LinearConfig::new(HIDDEN, DIMS).init(device),
            head: config.init(ArcFace::new(16.0, 0.5)?, device)?,
        })
    }

    fn embed(&self, images: Tensor<2>) -> Tensor<2> {
        self.embedding.forward(Relu::new().forward(self.hidden.forward(images)))
    }

    /// The loss with the margin, and the logits without it for the metrics.
    fn classify(&self, digits: Digits) -> Result<ClassificationOutput, Error> {
        let embeddings = self.embed(digits.images);
        let loss = self.head.forward(embeddings.clone(), digits.labels.clone())?;
        Ok(ClassificationOutput::new(loss, self.head.logits(embeddings)?, digits.labels))
    }
}

const FIT: &str = "the digits fit the head"; // burn's steps cannot return an error

impl TrainStep for Model {
    type Input = Digits;
    type Output = ClassificationOutput;

    fn step(&self, digits: Digits) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(digits).expect(FIT);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Model {
    type Input = Digits;
    type Output = ClassificationOutput;

    fn step(&self, digits: Digits) -> ClassificationOutput {
        self.classify(digits).expect(FIT)
    }
}

type Digit = (Vec<f32>, usize);

#[derive(Clone)]
struct ToTensors;

impl Batcher<Digit, Digits> for ToTensors {
    fn batch(&self, digits: Vec<Digit>, device: &Device) -> Digits {
        let (images, labels): (Vec<_>, Vec<_>) = digits.into_iter().unzip();
        let labels: Vec<i64> = labels.into_iter().map(|label| label as i64).collect();
        let count = labels.len();
        Digits {
            images: Tensor::from_data(TensorData::new(images.concat(), [count, PIXELS]), device),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
        }
    }
}

fn items(samples: &Samples) -> Vec<Digit> {
    let images = samples.images.rows().into_iter().map(|image| image.to_vec());
    images.zip(samples.labels.iter().copied()).collect()
}

fn main() -> Result<()> {
    let Arguments { device } = Arguments::parse();
    let on_device = device.is_some();
    let device = device.unwrap_or_else(Device::flex).autodiff();
    device.seed(1);
    let dataset = Dataset::bundled()?;
    let loader = |samples| {
        DataLoaderBuilder::new(ToTensors)
            .batch_size(64)
            .shuffle(1)
            .build(InMemDataset::new(samples))
    };
    let (train, held_out) = (loader(items(&dataset.train)), loader(items(&dataset.held_out)));

    let directory = std::env::temp_dir().join("margin-softmax-burn");
    let training = SupervisedTraining::new(directory, train, held_out)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .renderer(Box::new(Epochs::default()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let learner = Learner::new(Model::new(&device, on_device)?, AdamConfig::new().init(), 3e-3);
    let trained = training.launch(learner);
    if let Some(error) = trained.error {
        return Err(anyhow!("training ended early: {error}"));
    }

    let file = std::env::temp_dir().join("margin-softmax-burn").join("model");
    trained.model.save_file(&file)?;
    let model = Model::new(&device.inner(), on_device)?.try_load_file(&file)?;
    let accuracy = accuracy(&model, &dataset.held_out)?;
    say(format!("held-out accuracy of the saved model: {accuracy:.4}"))?;
    ensure!(accuracy >= LEAST_ACCURACY, "expected at least {LEAST_ACCURACY}");
    Ok(())
}

/// The fraction of samples whose nearest class is their own.
fn accuracy(model: &Model, samples: &Samples) -> Result<f64> {
    let digits = ToTensors.batch(items(samples), &model.devices()[0]);
    let nearest = model.head.predict(model.embed(digits.images))?;
    let right = nearest.equal(digits.labels).int().sum().into_scalar::<i64>();
    Ok(right as f64 / samples.len() as f64)
}

/// A progress bar, and a line per epoch with the metrics on held-out digits.
#[derive(Default)]
struct Epochs {
    bar: Option<ProgressBar>,
    names: HashMap<MetricId, String>,
    held_out: BTreeMap<String, String>,
}

impl MetricsRendererTraining for Epochs {
    fn update_train(&mut self, _: MetricState) {}

    fn update_valid(&mut self, state: MetricState) {
        let (MetricState::Generic(entry) | MetricState::Numeric(entry, _)) = state;
        if let Some(name) = self.names.get(&entry.metric_id) {
            self.held_out.insert(name.clone(), entry.serialized_entry.formatted);
        }
    }
}

impl TrainingProgressLogger for Epochs {
    fn start(&mut self, epochs: usize, _: usize, _: Option<usize>, _: Option<&str>) {
        self.bar = Some(ProgressBar::new(epochs as u64));
    }

    fn update_epoch(&mut self, epoch: usize) {
        let held_out: Vec<_> =
            self.held_out.iter().map(|(name, value)| format!("{name} {value}")).collect();
        if let Some(bar) = &self.bar {
            let line = format!("epoch {epoch:2}: {}", held_out.join("   "));
            bar.suspend(|| say(line)).expect("the standard output takes a line");
            bar.inc(1);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl MetricsRenderer for Epochs {
    fn register_metric(&mut self, metric: MetricDefinition) {
        self.names.insert(metric.metric_id, metric.name.to_string());
    }

    fn manual_close(&mut self) {}
}

/// No evaluation besides the validation during training.
impl MetricsRendererEvaluation for Epochs {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for Epochs {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}
