//! Hyperspherical energy beside the matrix product at its heart: what a pair costs.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use margin_softmax::energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
use ndarray::Array2;

/// Rows without a pattern: an additive sequence for each entry.
fn weights(classes: usize, dims: usize) -> Array2<f32> {
    Array2::from_shape_fn((classes, dims), |(j, k)| {
        let turns = (j as f64 + 1.0) * ((k as f64 + 2.0).sqrt() + 0.1 * j as f64);
        (turns.fract() - 0.5) as f32
    })
}

fn energies(c: &mut Criterion) {
    let mut group = c.benchmark_group("energy");
    group.sample_size(10);
    for (classes, dims) in [(1_000, 128), (10_000, 512)] {
        let w = weights(classes, dims);
        let shape = format!("{classes}x{dims}");
        group.throughput(Throughput::Elements((classes * classes) as u64));
        for (name, riesz, space) in [
            ("log, full", Riesz::Log, Space::Full),
            ("two, full", Riesz::Two, Space::Full),
            ("two, half", Riesz::Two, Space::Half),
        ] {
            group.bench_with_input(BenchmarkId::new(name, &shape), &w, |b, w| {
                b.iter(|| hyperspherical_energy(black_box(w), riesz, space).unwrap());
            });
        }
        let cluster = &w * 0.1 + 1.0;
        group.bench_with_input(BenchmarkId::new("two, all near", &shape), &cluster, |b, w| {
            b.iter(|| hyperspherical_energy(black_box(w), Riesz::Two, Space::Full).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("ndarray's W·Wᵀ, twice", &shape), &w, |b, w| {
            b.iter(|| (black_box(w).dot(&w.t()), black_box(w).dot(&w.t())));
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("energy of a batch");
    group.sample_size(10);
    for (samples, classes, dims) in [(256, 10_000, 512), (512, 100_000, 512)] {
        let w = weights(classes, dims);
        let labels: Vec<usize> = (0..samples).map(|i| i * 7919 % classes).collect();
        group.throughput(Throughput::Elements((samples * classes) as u64));
        let shape = format!("{samples}/{dims}/{classes}");
        group.bench_with_input(BenchmarkId::new("two", shape), &w, |b, w| {
            b.iter(|| hyperspherical_energy_of_batch(black_box(w), &labels, Riesz::Two).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, energies, batches);
criterion_main!(benches);
