//! Checkpoints: folders that appear whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use margin_softmax::sampling::ClassSampler;
use serde::{Deserialize, Serialize};

use crate::images::entries;
use crate::settings::Settings;
use crate::training::State;

const PREFIX: &str = "checkpoint-";
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const PROGRESS: &str = "progress.json";
/// The checksums of the other files, by name: a damaged file could otherwise be read, and so could
/// one of another run.
const CHECKSUMS: &str = "checksums.json";

/// What a run has to have in common with the checkpoint that it continues from.
#[derive(Clone, Serialize, Deserialize)]
pub struct Origin {
    pub settings: Settings,
    /// The checksum of the images.
    pub images: u32,
}

/// What is neither in the model nor in the optimizer. Order and views of the images, margin and
/// learning rate follow from the epoch.
#[derive(Serialize, Deserialize)]
struct Progress {
    epochs: usize,
    sampler: Option<ClassSampler>,
    origin: Origin,
}

/// Writes `output/checkpoint-epochs` and removes the checkpoints before it.
pub fn save(output: &Path, state: &State, origin: &Origin) -> Result<()> {
    let older = finished(output)?;
    let folder = output.join(format!("{PREFIX}{:05}", state.epochs));
    let part = folder.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?; // of a run that was killed while it wrote
    }
    fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
    // `valid` first takes the running statistics of the last step into account, which a record of
    // the model itself lacks.
    state.model.valid().save_file(part.join(MODEL))?;
    state.optimizer.save(part.join(OPTIMIZER))?;
    let (epochs, sampler) = (state.epochs, state.sampler.clone());
    let progress = Progress { epochs, sampler, origin: origin.clone() };
    fs::write(part.join(PROGRESS), serde_json::to_string_pretty(&progress)?)?;
    let checksums = checksums(&part)?;
    fs::write(part.join(CHECKSUMS), serde_json::to_string_pretty(&checksums)?)?;
    fs::rename(&part, &folder)?;
    older.iter().try_for_each(fs::remove_dir_all)?;
    Ok(())
}

/// The state of the last checkpoint, whose parameters replace those of `state`.
pub fn load(output: &Path, state: State, origin: &Origin) -> Result<State> {
    let Some(folder) = finished(output)?.pop() else {
        bail!("{} has no checkpoint", output.display());
    };
    let read = || {
        check(&folder)?;
        let text = fs::read_to_string(folder.join(PROGRESS))?;
        let Progress { epochs, sampler, origin: before } = serde_json::from_str(&text)?;
        origin.settings.check_same(&before.settings)?;
        ensure!(origin.images == before.images, "made with other images");
        // With the parameters come their ids, by which the optimizer knows its state.
        let model = state.model.try_load_file(folder.join(MODEL))?;
        let optimizer = state.optimizer.load(folder.join(OPTIMIZER))?;
        anyhow::Ok(State { model, optimizer, sampler, epochs })
    };
    read().with_context(|| folder.display().to_string())
}

fn checksums(folder: &Path) -> Result<BTreeMap<String, u32>> {
    let checksum = |file: &str| {
        let bytes = fs::read(folder.join(file)).with_context(|| file.to_owned())?;
        Ok((file.to_owned(), crc32fast::hash(&bytes)))
    };
    [MODEL, OPTIMIZER, PROGRESS].into_iter().map(checksum).collect()
}

/// Refuses files that are not as they were written.
fn check(folder: &Path) -> Result<()> {
    let text = fs::read_to_string(folder.join(CHECKSUMS)).context(CHECKSUMS)?;
    let written: BTreeMap<String, u32> = serde_json::from_str(&text).context(CHECKSUMS)?;
    let found = checksums(folder)?;
    let changed: Vec<_> =
        found.iter().filter(|&(file, sum)| written.get(file) != Some(sum)).collect();
    let names: Vec<_> = changed.into_iter().map(|(file, _)| file.as_str()).collect();
    ensure!(names.is_empty(), "damaged, or of another run: {}", names.join(", "));
    Ok(())
}

/// Refuses to begin where another run has been.
pub fn check_none(output: &Path) -> Result<()> {
    let Some(folder) = finished(output)?.pop() else { return Ok(()) };
    bail!("{} exists: continue with --resume, or choose another --output", folder.display())
}

/// The folders of whole checkpoints, in the order of their epochs.
fn finished(output: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = if output.exists() { entries(output)? } else { Vec::new() };
    folders.retain(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && folder.extension().is_none()
    });
    Ok(folders)
}
