//! Retrieval within 50,000 embeddings of 512 dimensions, and all their pairs: the times, beside those
//! of the bare matrix products, and the peak memory. `fifty_thousand 20000` takes another number of
//! embeddings, `fifty_thousand 20000 100` also draws 100 replicates of the bootstrap.

#[path = "../../examples/common/say.rs"]
mod say;

use std::time::{Duration, Instant};

use anyhow::Result;
use margin_softmax_evaluation::{AllPairs, Bootstrap, DetectionCost, Figure, Retrieval};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Axis};
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use say::say;

const DIMS: usize = 512;
const PER_IDENTITY: usize = 10;

fn main() -> Result<()> {
    let m: usize = std::env::args().nth(1).map_or(Ok(50_000), |m| m.parse())?;
    let replicates: usize = std::env::args().nth(2).map_or(Ok(0), |count| count.parse())?;
    let (x, identities) = embeddings(m);
    let square = time(|| products(&x, |_| 0));
    say(format!("products of all queries {:7.1} s", square.as_secs_f64()))?;
    let start = Instant::now();
    let found = Retrieval::within(&x, &identities)?;
    let elapsed = start.elapsed();
    let ratio = elapsed.as_secs_f64() / square.as_secs_f64();
    say(format!("{:10} queries      {:7.1} s, {ratio:.2} of it", m, elapsed.as_secs_f64()))?;
    say(format!(
        "precision@1 {:.6}, R-precision {:.6}",
        found.precision_at_1(),
        found.r_precision()
    ))?;
    let (map, map_at_r) = (found.mean_average_precision(), found.mean_average_precision_at_r());
    say(format!("mAP {map:.6}, MAP@R {map_at_r:.6}"))?;
    report_peak()?;

    let products = time(|| products(&x, |row| row));
    say(format!("products of all pairs   {:7.1} s", products.as_secs_f64()))?;

    let all = AllPairs::new(&x, &identities)?;
    drop(x);
    let start = Instant::now();
    let pairs = all.verification()?;
    let elapsed = start.elapsed();
    let ratio = elapsed.as_secs_f64() / products.as_secs_f64();
    say(format!(
        "{:10} pairs        {:7.1} s, {ratio:.2} of it",
        all.pairs(),
        elapsed.as_secs_f64()
    ))?;
    let cost = DetectionCost::default();
    let figures =
        [Figure::Eer, Figure::TarAtFar(1e-6), Figure::MinDcf(cost), Figure::Accuracy, Figure::Auc];
    for figure in figures {
        let estimate = pairs.figure(figure)?;
        say(format!("{figure:?}: {:.9} ± {:.1e}", estimate.value, estimate.bound))?;
    }

    let start = Instant::now();
    let exact = all.exact(&pairs, &figures[..3])?;
    say(format!("second pass             {:7.1} s", start.elapsed().as_secs_f64()))?;
    for figure in &figures[..3] {
        let estimate = exact.figure(*figure)?;
        say(format!("{figure:?}: {:.9} ± {:.1e}", estimate.value, estimate.bound))?;
    }
    report_peak()?;

    if replicates > 0 {
        let start = Instant::now();
        let bootstrap = Bootstrap::new(1).with_replicates(replicates)?;
        let intervals = all.intervals(&pairs, &figures, &bootstrap)?;
        say(format!("{replicates:10} replicates   {:7.1} s", start.elapsed().as_secs_f64()))?;
        for (figure, interval) in figures.iter().zip(intervals) {
            say(format!("{figure:?}: {:.9} to {:.9}", interval.low, interval.high))?;
        }
        report_peak()?;
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

/// The products alone, in the tiles of the crate: those of a stripe of rows, from `row` on, start at
/// the column `from(row)`.
fn products(x: &Array2<f32>, from: impl Fn(usize) -> usize + Sync) {
    let stripes: Vec<usize> = (0..x.nrows()).step_by(256).collect();
    let buffer = || Array2::zeros((0, 0));
    stripes.into_par_iter().with_max_len(1).for_each_init(buffer, |tile, start| {
        let rows = x.slice_axis(Axis(0), (start..x.nrows().min(start + 256)).into());
        for first in (from(start)..x.nrows()).step_by(512) {
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

/// Prints the peak in Linux's account of this process; nothing on other systems.
fn report_peak() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        say(format!("peak memory             {}", peak.trim()))?;
    }
    Ok(())
}
