//! From a folder of images to embeddings and a threshold.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;
use indicatif::ProgressBar;

use crate::checkpoint::{self, Origin};
use crate::images::Images;
use crate::network::Model;
use crate::schedule::Schedule;
use crate::settings::{Settings, at_least};
use crate::training::{State, steps_per_epoch};
use crate::{devices, export, verification};

#[derive(Args)]
pub struct Arguments {
    /// The folder with a folder of images for each identity: aligned, square crops.
    images: PathBuf,
    /// The folder for checkpoints and embeddings.
    #[arg(long, default_value = "embeddings")]
    output: PathBuf,
    /// Continues from the last checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Epochs from one checkpoint to the next.
    #[arg(long, default_value_t = 1, value_parser = at_least::<1>)]
    checkpoint_every: usize,
    /// Stops after this epoch as if killed.
    #[arg(long)]
    stop_after: Option<usize>,
    /// Where network and class weights are: flex, wgpu, vulkan, metal, cuda or rocm. Without, the
    /// network is on flex and the class weights are in main memory.
    #[arg(long, value_parser = devices::named)]
    device: Option<Device>,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { settings, output, .. } = arguments;
    if !arguments.resume {
        checkpoint::check_none(output)?;
    }
    let (train, held_out, origin) = read(&arguments.images, settings)?;
    let classes = train.identities.len();
    let per_epoch = steps_per_epoch(&train, settings);
    let schedule = Schedule::new(settings, classes, settings.epochs * per_epoch)?;
    println!("trained on: {train}");
    println!("held out:   {held_out}; images.tsv will name them");
    println!("loss:       {schedule}");

    let weights_on_device = arguments.device.is_some();
    let device = arguments.device.clone().unwrap_or_else(Device::flex).autodiff();
    device.seed(settings.seed);
    let model = Model::new(settings.dims, classes, schedule.loss(0)?, &device, weights_on_device)?;
    let verify = |model: &Model| {
        verification::of(&model.embed_all(&held_out, settings.batch, &device)?, &held_out)
    };
    println!("untrained:  EER {:.1} %", 100.0 * verify(&model)?.eer().rate);

    let mut state = State::new(model, settings, classes)?;
    if let Some(sampler) = &state.sampler {
        let share = 100.0 * sampler.rate();
        println!("sampled:    {share:.0} % of the classes in a step; its figures are over these");
    }
    if arguments.resume {
        state = checkpoint::load(output, state, &origin)?;
        println!("continues after epoch {}", state.epochs);
    }
    let bar = ProgressBar::new((settings.epochs * per_epoch) as u64);
    while state.epochs < settings.epochs {
        bar.set_position((state.epochs * per_epoch) as u64);
        let averages;
        let epoch = state.epochs + 1;
        (state, averages) = state
            .epoch(&train, settings, &schedule, &device, &bar)
            .with_context(|| format!("epoch {epoch}"))?;
        state.check_finite().with_context(|| format!("epoch {epoch}"))?;
        bar.suspend(|| println!("epoch {:3}: {averages}", state.epochs));
        let last = state.epochs == settings.epochs;
        if last || state.epochs.is_multiple_of(arguments.checkpoint_every) {
            checkpoint::save(output, &state, &origin)?;
        }
        if arguments.stop_after == Some(state.epochs) && !last {
            bar.finish_and_clear();
            println!("stopped; --resume continues from the last checkpoint");
            return Ok(());
        }
    }
    bar.finish_and_clear();

    verification::report(&verify(&state.model)?, settings.seed)?;
    export::write(output, &[train, held_out], |images| {
        state.model.embed_all(images, settings.batch, &device)
    })
}

/// The images to train on, those of the identities that are held out, and what a checkpoint of this
/// run has to fit.
fn read(directory: &Path, settings: &Settings) -> Result<(Images, Images, Origin)> {
    let images = Images::read(directory, settings.size)?;
    let identities = images.identities.len();
    let held_out = settings.held_out.unwrap_or((identities / 10).max(3));
    let origin = Origin { settings: settings.clone(), images: images.checksum() };
    let split = images.split(held_out, settings.seed);
    let (train, held_out) = split.with_context(|| directory.display().to_string())?;
    Ok((train, held_out, origin))
}
