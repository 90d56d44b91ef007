//! The recipe for images in folders: a run that is stopped and resumed ends with the same bits as
//! one that is not, and what does not fit is refused by name.

#[allow(dead_code)] // its `main`
#[path = "../examples/train_embeddings/main.rs"]
mod train_embeddings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burn_pack::Reader;
use clap::Parser;
use margin_softmax_evaluation::Verification;
use ndarray::Array2;
use tempfile::TempDir;
use train_embeddings::{Command, run};

/// Runs the example with these arguments. Runs take turns: the device has one seed for all threads.
fn example(arguments: &[&str]) -> Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    run(Command::try_parse_from([&["train_embeddings"], arguments].concat())?)
}

/// A folder of digits, and one that each run may write to.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let place = Place { folder: TempDir::new()? };
        example(&["write-digits", &place.path("digits"), "--places", "1", "--images", "12"])?;
        Ok(place)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn train(&self, output: &str, options: &[&str]) -> Result<()> {
        let (digits, output) = (self.path("digits"), self.path(output));
        let fixed = ["train", &digits, "--output", &output];
        let small = ["--size", "8", "--epochs", "4", "--batch", "4", "--dims", "8", "--mirror"];
        example(&[&fixed[..], &small, options].concat())
    }

    /// What a run is refused with.
    fn refusal(&self, output: &str, options: &[&str]) -> String {
        let error = self.train(output, options).expect_err("the run is refused");
        format!("{error:#}")
    }

    /// The bits of everything that a run leaves, by name.
    fn result(&self, output: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let output = PathBuf::from(self.path(output));
        let checkpoint = output.join("checkpoint-00004");
        let mut parts = tensors(&checkpoint.join("model.bpk"))?;
        parts.extend(tensors(&checkpoint.join("optimizer.bpk"))?);
        for file in ["embeddings.npy", "images.tsv", "checkpoint-00004/progress.json"] {
            parts.insert(file.into(), fs::read(output.join(file))?);
        }
        Ok(parts)
    }
}

/// The tensors of a record. The state of the optimizer is under ids, which are random, and of which
/// the record says where their parameters are.
fn tensors(record: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let reader = Reader::from_file(record)?;
    let places = reader.metadata().clone();
    let mut tensors = BTreeMap::new();
    for tensor in reader.into_tensors()? {
        let (name, _, _, _, bytes) = tensor.into_parts()?;
        let place = name.split_once('.').and_then(|(id, rest)| {
            places.get(id).map(|place| format!("optimizer of {place}: {rest}"))
        });
        tensors.insert(place.unwrap_or(name), bytes.to_vec());
    }
    Ok(tensors)
}

fn assert_resumes_with_the_same_bits(options: &[&str]) -> Result<()> {
    let place = Place::new()?;
    place.train("whole", options)?;
    // The first part is stopped between two checkpoints, and repeats an epoch.
    place.train("parts", &[options, &["--stop-after", "3", "--checkpoint-every", "2"]].concat())?;
    // What a run that is killed while it writes leaves behind is no checkpoint.
    fs::create_dir_all(place.path("parts/checkpoint-00004.part/other"))?;
    place.train("parts", &[options, &["--resume"]].concat())?;
    let (whole, parts) = (place.result("whole")?, place.result("parts")?);
    assert!(whole.keys().any(|name| name.starts_with("optimizer of head.weights")), "{whole:?}");
    assert!(whole.keys().any(|name| name.ends_with("running_mean")));
    assert!(whole.keys().eq(parts.keys()));
    for (name, bits) in &whole {
        assert!(*bits == parts[name], "{name} differs");
    }
    Ok(())
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() -> Result<()> {
    assert_resumes_with_the_same_bits(&[])
}

#[test]
fn a_resumed_run_with_sampled_classes_ends_with_the_same_bits() -> Result<()> {
    assert_resumes_with_the_same_bits(&["--sample-above", "1", "--sample-rate", "0.8"])
}

#[test]
fn a_checkpoint_of_another_run_is_refused() -> Result<()> {
    let place = Place::new()?;
    let error = place.refusal("run", &["--resume"]);
    assert!(error.contains("has no checkpoint"), "{error}");
    place.train("run", &["--stop-after", "1"])?;
    let error = place.refusal("run", &[]);
    assert!(error.contains("checkpoint-00001 exists: continue with --resume"), "{error}");
    let error = place.refusal("run", &["--resume", "--loss", "cosface", "--scale", "9"]);
    let expected =
        r#"--loss was "arcface", and is now "cosface"; --scale was the default, and is now 9.0"#;
    assert!(error.contains("checkpoint-00001: ") && error.contains(expected), "{error}");
    fs::remove_file(place.path("digits/3/000.png"))?;
    let error = place.refusal("run", &["--resume"]);
    assert!(error.contains("checkpoint-00001: ") && error.contains("other images"), "{error}");
    Ok(())
}

#[test]
fn images_that_do_not_fit_are_named() -> Result<()> {
    let place = Place::new()?;
    fs::write(place.path("digits/3/000.png"), "no picture")?;
    let error = place.refusal("run", &[]);
    assert!(error.contains("digits/3/000.png: "), "{error}");
    fs::remove_dir_all(place.path("digits/3"))?;
    fs::create_dir(place.path("digits/3"))?;
    let error = place.refusal("run", &[]);
    assert!(error.contains("digits/3 has no png or jpeg image"), "{error}");
    for digit in ["0", "1", "2", "3", "4", "5", "6", "7", "8"] {
        fs::remove_dir_all(place.path(&format!("digits/{digit}")))?;
    }
    let error = place.refusal("run", &[]);
    assert!(error.contains("digits has identities: 1;"), "{error}");
    Ok(())
}

/// After a third of the epochs that are the default. Untrained it is 0.2 to 0.3.
#[test]
fn unseen_identities_are_told_apart() -> Result<()> {
    let folder = TempDir::new()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (images, output) = (path("digits"), path("run"));
    example(&["write-digits", &images])?;
    example(&["train", &images, "--output", &output, "--size", "16", "--epochs", "14"])?;
    let list = fs::read_to_string(path("run/images.tsv"))?;
    let rows: Vec<_> = list.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let numbers = read_npy(&fs::read(path("run/embeddings.npy"))?, [rows.len(), 64]);
    let mut held_out = rows.iter().map(|row: &Vec<&str>| row[0] == "held-out");
    let first = held_out.position(|held_out| held_out).expect("identities are held out");
    assert!(rows.len() - first == 80 && held_out.all(|held_out| held_out));
    let embeddings = numbers.slice_move(ndarray::s![first.., ..]);
    let identities: Vec<usize> = rows[first..].iter().flat_map(|row| row[1].parse()).collect();
    let rate = Verification::from_embeddings(&embeddings, &identities)?.eer().rate;
    assert!(rate < 0.12, "EER {rate}");
    Ok(())
}

/// The numbers of a file in NumPy's format with this shape.
fn read_npy(file: &[u8], [rows, columns]: [usize; 2]) -> Array2<f32> {
    let start = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let (header, numbers) = file.split_at(start);
    assert!(header.starts_with(b"\x93NUMPY\x01\x00") && start % 64 == 0);
    let dictionary = String::from_utf8_lossy(&header[10..]);
    let expected =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    assert_eq!(dictionary.trim_end(), expected);
    assert!(dictionary.ends_with('\n'));
    let numbers = numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Array2::from_shape_vec((rows, columns), numbers.collect()).expect("as many as its shape says")
}
