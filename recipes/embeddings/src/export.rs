//! The embeddings as files that other programs read.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use ndarray::Array2;

use crate::images::Images;

/// Writes `embeddings.npy` (M, D) and `images.tsv` with a line for each row of it: the set, the
/// identity and the file of the image.
pub fn write(
    output: &Path,
    [train, held_out]: &[Images; 2],
    embed: impl Fn(&Images) -> Result<Array2<f32>>,
) -> Result<()> {
    fs::create_dir_all(output)?;
    let embeddings = ndarray::concatenate![ndarray::Axis(0), embed(train)?, embed(held_out)?];
    write_npy(&output.join("embeddings.npy"), &embeddings)?;
    let mut list = BufWriter::new(File::create(output.join("images.tsv"))?);
    writeln!(list, "set\tidentity\tfile")?;
    for (set, images) in [("train", train), ("held-out", held_out)] {
        for sample in &images.samples {
            let identity = &images.identities[sample.identity];
            writeln!(list, "{set}\t{identity}\t{}", sample.path.display())?;
        }
    }
    list.flush()?;
    println!("{} embeddings in {}", embeddings.nrows(), output.display());
    Ok(())
}

/// NumPy's format, version 1.0: a header whose length is a multiple of 64, and the numbers row by
/// row.
fn write_npy(path: &Path, array: &Array2<f32>) -> Result<()> {
    const BEFORE: usize = 10;
    let (rows, columns) = array.dim();
    let dictionary =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let length = (BEFORE + dictionary.len() + 1).next_multiple_of(64) - BEFORE;
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(length)?.to_le_bytes())?;
    writeln!(file, "{dictionary:width$}", width = length - 1)?;
    array.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))?;
    Ok(file.flush()?)
}
