//! Forward and backward over materialized cosines, beside the least reading and writing that they
//! can do with: one read for the forward pass, one read and one write for the backward pass.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use margin_softmax::{ArcFace, LogitGradients, MarginLoss, NormalizedLogits, Reduction};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

fn logits(c: &mut Criterion) {
    let (n, classes) = (512, 100_000);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let cosines = Array2::from_shape_simple_fn((n, classes), || rng.random_range(-0.2_f32..0.2));
    let labels: Vec<usize> = (0..n).map(|i| (i * 7919) % classes).collect();
    let logits = NormalizedLogits::from_cosines(cosines).expect("cosines");
    let mut gradients = LogitGradients::zeros_for(&logits);
    let loss = ArcFace::default();
    let mut group = c.benchmark_group("logits 512x100000 f32");
    group.sample_size(20);
    group.throughput(Throughput::Elements((n * classes) as u64));
    group.bench_function("forward", |b| b.iter(|| loss.forward(black_box(&logits), &labels)));
    group.bench_function("forward and backward", |b| {
        b.iter(|| {
            let forward = loss.forward(black_box(&logits), &labels).expect("a valid step");
            loss.backward_into(&logits, &labels, &forward, Reduction::Mean, &mut gradients)
        });
    });
    let read = logits.cosines().as_slice().unwrap_or_default();
    let mut written = vec![0.0_f32; read.len()];
    group.bench_function("read, read and write", |b| {
        b.iter(|| {
            let total: f32 = read.par_chunks(classes).map(largest).sum();
            let rows = written.par_chunks_mut(classes).zip(read.par_chunks(classes));
            rows.for_each(|(out, row)| out.iter_mut().zip(row).for_each(|(o, c)| *o = c * total));
        });
    });
    group.finish();
}

/// Reads a row at the speed of memory: sixteen running maxima.
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::MIN; 16];
    for block in row.as_chunks::<16>().0 {
        lanes.iter_mut().zip(block).for_each(|(lane, &c)| *lane = lane.max(c));
    }
    lanes.into_iter().fold(f32::MIN, f32::max)
}

criterion_group!(benches, logits);
criterion_main!(benches);
