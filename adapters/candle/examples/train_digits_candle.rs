//! Trains a small candle network on handwritten digits with ArcFace, saves it, loads it, and
//! prints the accuracy on held-out digits.

#[path = "../../../examples/common/digits.rs"]
mod digits;
#[path = "../../../examples/common/say.rs"]
mod say;

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Linear, Module, Optimizer, VarBuilder, VarMap, linear};
use indicatif::{ProgressBar, ProgressStyle};
use margin_softmax::ArcFace;
use margin_softmax_candle::MarginHead;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::digits::{CLASSES, Dataset, Samples};
use crate::say::say;

const EPOCHS: usize = 40;
const BATCH: usize = 32;
const RATE: f64 = 2e-3;
const SCALE: f64 = 16.0;
const MARGIN: f64 = 0.3;
/// The number of epochs over which the margin grows from 0.
const WARM_UP: usize = 10;

const HIDDEN: usize = 128;
const DIMS: usize = 16;

struct Model {
    hidden: Linear,
    embedding: Linear,
    head: MarginHead,
}

impl Model {
    fn new(pixels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Model {
            hidden: linear(pixels, HIDDEN, vb.pp("hidden"))?,
            embedding: linear(HIDDEN, DIMS, vb.pp("embedding"))?,
            head: MarginHead::new(ArcFace::new(SCALE, MARGIN)?, DIMS, CLASSES, vb.pp("head"))?,
        })
    }

    fn embed(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        self.embedding.forward(&self.hidden.forward(images)?.relu()?)
    }

    /// Accuracy without margin, and the mean angle between an embedding and its class in degrees.
    fn evaluate(&self, samples: &Samples) -> Result<(f64, f32)> {
        let (images, labels) = tensors(samples)?;
        let forward = self.head.evaluate::<f32>(&self.embed(&images)?, &labels)?;
        let angle = forward.mean_target_angle();
        Ok((forward.accuracy(), angle.to_degrees()))
    }
}

fn main() -> Result<()> {
    let data = Dataset::bundled()?;
    let pixels = data.train.images.ncols();
    let map = VarMap::new();
    let model = Model::new(pixels, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    train(&model, &map, &data.train)?;

    let (accuracy, angle) = model.evaluate(&data.held_out)?;
    let count = data.held_out.len();
    say(format!("held out: {count} digits, accuracy {accuracy:.4}, target angle {angle:.1}°"))?;
    let path = Path::new("target/train_digits_candle.safetensors");
    fs::create_dir_all("target")?;
    map.save(path)?;

    let mut map = VarMap::new();
    let loaded = Model::new(pixels, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    map.load(path)?;
    ensure!(loaded.evaluate(&data.held_out)? == (accuracy, angle), "the loaded model differs");
    say(format!("saved as {} and loaded back: the same", path.display()))?;
    Ok(())
}

fn train(model: &Model, map: &VarMap, samples: &Samples) -> Result<()> {
    let mut optimizer = AdamW::new_lr(map.all_vars(), RATE)?;
    let mut rng = Pcg64::seed_from_u64(0);
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg:<40}")?;
    let steps = EPOCHS * samples.len().div_ceil(BATCH);
    let progress = ProgressBar::new(steps as u64).with_style(style);
    for epoch in 0..EPOCHS {
        let margin = MARGIN * (epoch as f64 / WARM_UP as f64).min(1.0);
        model.head.set_loss(ArcFace::new(SCALE, margin)?);
        order.shuffle(&mut rng);
        for rows in order.chunks(BATCH) {
            let (images, labels) = tensors(&samples.select(rows))?;
            let loss = model.head.forward(&model.embed(&images)?, &labels)?;
            optimizer.backward_step(&loss)?;
            progress.inc(1);
            progress.set_message(format!(
                "epoch {}: loss {:.3}",
                epoch + 1,
                loss.to_scalar::<f32>()?
            ));
        }
    }
    progress.finish_and_clear();
    Ok(())
}

fn tensors(samples: &Samples) -> Result<(Tensor, Tensor)> {
    let pixels: Vec<f32> = samples.images.iter().copied().collect();
    let labels = samples.labels.iter().map(|&label| Ok(u8::try_from(label)?));
    let labels = labels.collect::<Result<Vec<_>>>()?;
    Ok((
        Tensor::from_vec(pixels, samples.images.dim(), &Device::Cpu)?,
        Tensor::from_vec(labels, samples.len(), &Device::Cpu)?,
    ))
}
