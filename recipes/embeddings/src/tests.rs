//! The recipe for images in folders: a run that is stopped and resumed ends with the same bits as
//! one that is not, and what does not fit is refused by name.

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

use crate::images::Images;
use crate::view::View;
use crate::{Command, run};

/// Runs the example with these arguments. Runs take turns: the device has one seed for all threads.
fn example(arguments: &[&str]) -> Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    run(Command::try_parse_from([&["embeddings"], arguments].concat())?)
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
fn a_checkpoint_with_a_flipped_byte_is_refused() -> Result<()> {
    let place = Place::new()?;
    place.train("run", &["--stop-after", "1"])?;
    for file in ["model.bpk", "optimizer.bpk", "progress.json"] {
        let path = place.path(&format!("run/checkpoint-00001/{file}"));
        let whole = fs::read(&path)?;
        for eighth in 0..8 {
            let mut flipped = whole.clone();
            flipped[(whole.len() - 1) * eighth / 7] ^= 1;
            fs::write(&path, flipped)?;
            let error = place.refusal("run", &["--resume"]);
            let expected = format!("checkpoint-00001: damaged, or of another run: {file}");
            assert!(error.contains(&expected), "{error}");
        }
        fs::write(&path, whole)?;
    }
    place.train("run", &["--resume"])
}

#[test]
fn the_optimizer_of_another_run_is_refused() -> Result<()> {
    let place = Place::new()?;
    place.train("run", &["--stop-after", "1"])?;
    place.train("other", &["--stop-after", "1", "--seed", "2"])?;
    let optimizer = |run: &str| place.path(&format!("{run}/checkpoint-00001/optimizer.bpk"));
    fs::copy(optimizer("other"), optimizer("run"))?;
    let error = place.refusal("run", &["--resume"]);
    assert!(error.contains("of another run: optimizer.bpk"), "{error}");
    Ok(())
}

#[test]
fn arguments_out_of_range_are_refused_before_the_training() -> Result<()> {
    let place = Place::new()?;
    for (option, values) in [
        ("--margin", &["4", "nan", "-1"][..]),
        ("--rate", &["1e6", "nan", "0", "inf"]),
        ("--scale", &["nan", "0", "1e30"]),
        ("--sample-rate", &["nan", "0", "1.5"]),
    ] {
        for value in values {
            let error = place.refusal("run", &[&format!("{option}={value}")]);
            assert!(error.contains(&option[2..]), "{error}");
            assert!(!PathBuf::from(place.path("run")).exists(), "{option} {value}");
        }
    }
    Ok(())
}

#[test]
fn folders_are_read_as_people_have_them() -> Result<()> {
    let place = Place::new()?;
    place.train("plain", &["--stop-after", "1"])?;
    // Of all that is added, nothing is an image of an identity with a name.
    fs::create_dir_all(place.path("digits/.git/objects"))?;
    fs::create_dir(place.path("digits/empty"))?;
    fs::write(place.path("digits/.git/x.png"), "no picture")?;
    fs::write(place.path("digits/3/._000.png"), "a resource fork")?;
    fs::write(place.path("digits/3/notes.txt"), "no picture")?;
    fs::write(place.path("digits/list.csv"), "no picture")?;
    place.train("plain", &["--resume"])?;

    // A folder without an image is no identity, and is not held out.
    assert_eq!(Images::read(&PathBuf::from(place.path("digits")), 8)?.identities.len(), 10);
    Ok(())
}

#[test]
fn formats_are_told_by_their_content() -> Result<()> {
    let place = Place::new()?;
    let digits = PathBuf::from(place.path("digits"));
    let before = Images::read(&digits, 8)?;
    for (number, format) in [(0, "bmp"), (1, "webp"), (2, "bmp"), (3, "webp")] {
        let png = place.path(&format!("digits/3/00{number}.png"));
        let other = place.path(&format!("digits/3/00{number}.{format}"));
        image::open(&png)?.save(&other)?;
        fs::remove_file(&png)?;
        if number > 1 {
            fs::rename(other, png)?;
        }
    }
    let after = Images::read(&digits, 8)?;
    let pixels = |images: &Images| -> Vec<Vec<u8>> {
        images.samples.iter().map(|sample| sample.pixels.clone()).collect()
    };
    assert!(pixels(&before) == pixels(&after));
    Ok(())
}

#[test]
fn identities_with_one_image_are_trained_on_and_never_held_out() -> Result<()> {
    let place = Place::new()?;
    for identity in 0..8 {
        let single = place.path(&format!("digits/single-{identity}"));
        fs::create_dir(&single)?;
        fs::copy(place.path("digits/3/000.png"), format!("{single}/000.png"))?;
    }
    place.train("run", &["--held-out", "9"])?;
    let list = fs::read_to_string(place.path("run/images.tsv"))?;
    assert_eq!(list.matches("train\tsingle-").count(), 8);
    assert_eq!(list.matches("held-out\tsingle-").count(), 0);
    let error = place.refusal("other", &["--held-out", "11"]);
    assert!(error.contains("identities: 18, 10 of them with two images and more"), "{error}");
    Ok(())
}

#[test]
fn an_image_is_turned_as_its_camera_was_held() -> Result<()> {
    let folder = TempDir::new()?;
    let identity = folder.path().join("a");
    fs::create_dir(&identity)?;
    // The upper half is white.
    let picture =
        image::RgbImage::from_fn(16, 16, |_, y| image::Rgb([if y < 8 { 255 } else { 0 }; 3]));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg)?;
    let jpeg = jpeg.into_inner();
    // Exif with one entry, the orientation 6: to be turned clockwise by 90 degrees.
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0];
    let exif = [&b"Exif\0\0MM\0*\0\0\0\x08\0\x01"[..], &entry, &[0; 4]].concat();
    let segment = [&[0xff, 0xe1][..], &(exif.len() as u16 + 2).to_be_bytes(), &exif].concat();
    fs::write(identity.join("0.jpg"), [&jpeg[..2], &segment, &jpeg[2..]].concat())?;
    let images = Images::read(folder.path(), 16)?;
    let mut seen = Vec::new();
    View::PLAIN.append(&images.samples[0].pixels, 16, &mut seen);
    let [left, right] = [1, 14].map(|column| seen[column]);
    assert!(left < -0.9 && right > 0.9, "{left} {right}");
    Ok(())
}

#[test]
fn files_that_cannot_be_read_are_all_named() -> Result<()> {
    let place = Place::new()?;
    let broken = ["digits/3/000.png", "digits/3/001.png", "digits/7/004.png"];
    for file in broken {
        fs::write(place.path(file), "no picture")?;
    }
    let error = place.refusal("run", &[]);
    assert!(error.contains("files that cannot be read: 3\n"), "{error}");
    assert!(broken.iter().all(|file| error.contains(&format!("{file}: "))), "{error}");
    Ok(())
}

#[test]
fn too_few_identities_are_refused() -> Result<()> {
    let place = Place::new()?;
    for digit in ["0", "1", "2", "3", "4", "5", "6", "7", "8"] {
        fs::remove_dir_all(place.path(&format!("digits/{digit}")))?;
    }
    let error = place.refusal("run", &[]);
    assert!(error.contains("digits: identities: 1,"), "{error}");
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
