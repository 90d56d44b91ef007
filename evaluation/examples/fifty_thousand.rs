//! All pairs of 50,000 embeddings of 512 dimensions: the time, beside that of the bare matrix
//! products, and the peak memory. `fifty_thousand 20000` takes another number of embeddings.

use std::error::Error;
use std::time::{Duration, Instant};

use margin_softmax_evaluation::{AllPairs, DetectionCost, Figure};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Axis};
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

const DIMS: usize = 512;
const PER_IDENTITY: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let m: usize = std::env::args().nth(1).map_or(Ok(50_000), |m| m.parse())?;
    let (x, identities) = embeddings(m);
    let products = time(|| products(&x));
    println!("bare products           {:7.1} s", products.as_secs_f64());

    let all = AllPairs::new(&x, &identities)?;
    drop(x);
    let start = Instant::now();
    let pairs = all.verification()?;
    let elapsed = start.elapsed();
    let ratio = elapsed.as_secs_f64() / products.as_secs_f64();
    println!("{:10} pairs        {:7.1} s, {ratio:.2} of it", all.pairs(), elapsed.as_secs_f64());
    let cost = DetectionCost::default();
    let figures =
        [Figure::Eer, Figure::TarAtFar(1e-6), Figure::MinDcf(cost), Figure::Accuracy, Figure::Auc];
    for figure in figures {
        let estimate = pairs.figure(figure)?;
        println!("{figure:?}: {:.9} ± {:.1e}", estimate.value, estimate.bound);
    }

    let start = Instant::now();
    let exact = all.exact(&pairs, &figures[..3])?;
    println!("second pass             {:7.1} s", start.elapsed().as_secs_f64());
    for figure in &figures[..3] {
        let estimate = exact.figure(*figure)?;
        println!("{figure:?}: {:.9} ± {:.1e}", estimate.value, estimate.bound);
    }
    if let Some(peak) = peak_memory() {
        println!("peak memory             {peak}");
    }
    Ok(())
}

/// Noisy copies of one direction per identity.
fn embeddings(m: usize) -> (Array2<f32>, Vec<usize>) {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(1);
    let mut x = Array2::zeros((m, DIMS));
    let mut center = [0.0_f32; DIMS];
    for (row, mut x) in x.outer_iter_mut().enumerate() {
        if row % PER_IDENTITY == 0 {
            center = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        }
        for (x, center) in x.iter_mut().zip(center) {
            *x = center + rng.random_range(-2.0..2.0);
        }
    }
    (x, (0..m).map(|row| row / PER_IDENTITY).collect())
}

/// The products of the upper triangle alone, in the tiles of the crate.
fn products(x: &Array2<f32>) {
    let stripes: Vec<usize> = (0..x.nrows()).step_by(256).collect();
    let buffer = || Array2::zeros((0, 0));
    stripes.into_par_iter().with_max_len(1).for_each_init(buffer, |tile, start| {
        let rows = x.slice_axis(Axis(0), (start..x.nrows().min(start + 256)).into());
        for first in (start..x.nrows()).step_by(512) {
            let columns = x.slice_axis(Axis(0), (first..x.nrows().min(first + 512)).into());
            if tile.dim() != (rows.nrows(), columns.nrows()) {
                *tile = Array2::zeros((rows.nrows(), columns.nrows()));
            }
            general_mat_mul(1.0, &rows, &columns.t(), 0.0, tile);
            std::hint::black_box(&*tile);
        }
    });
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// The line of the peak in Linux's account of this process.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().to_string())
}
