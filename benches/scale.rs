//! What sampling saves, and what splitting the classes over ranks costs on one machine.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use margin_softmax::ranks::{ThreadCollective, class_range};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, CosFace, Gradients, Head, Reduction};
use ndarray::{Array2, s};
use rayon::ThreadPoolBuilder;

const SAMPLES: usize = 512;
const DIMS: usize = 512;
const CLASSES: usize = 100_000;

/// Rows without a pattern: an additive sequence for each entry.
fn rows(count: usize) -> Array2<f32> {
    Array2::from_shape_fn((count, DIMS), |(j, k)| {
        let turns = (j as f64 + 1.0) * ((k as f64 + 2.0).sqrt() + 0.1 * j as f64);
        (turns.fract() - 0.5) as f32
    })
}

struct Problem {
    x: Array2<f32>,
    w: Array2<f32>,
    labels: Vec<usize>,
}

impl Problem {
    fn new() -> Self {
        let labels = (0..SAMPLES).map(|i| i * 7919 % CLASSES).collect();
        Problem { x: rows(SAMPLES), w: rows(CLASSES), labels }
    }

    fn batch(&self) -> Batch<'_, f32> {
        Batch::new(&self.x, &self.w, &self.labels)
    }
}

fn sampling(c: &mut Criterion) {
    let problem = Problem::new();
    let batch = problem.batch();
    let mut group = c.benchmark_group("step at 512/512/100k");
    group.sample_size(10);
    group.bench_function("all classes", |b| {
        let mut gradients = Gradients::zeros_for(&batch);
        let head = Head::new(CosFace::default());
        b.iter(|| head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap());
    });
    for rate in [0.1, 0.01] {
        group.bench_function(BenchmarkId::new("draw and step, rate", rate), |b| {
            let mut sampler = ClassSampler::new(CLASSES, rate, 1).unwrap();
            let head = Head::new(CosFace::default());
            b.iter(|| {
                let sample = sampler.sample(black_box(&problem.labels)).unwrap();
                let reduction = Reduction::Mean;
                let batch = problem.batch().with_sample(&sample);
                let mut gradients = Gradients::zeros_for(&batch);
                head.forward_backward(&batch, reduction, &mut gradients).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("draw alone, rate", rate), |b| {
            let mut sampler = ClassSampler::new(CLASSES, rate, 1).unwrap();
            b.iter(|| sampler.sample(black_box(&problem.labels)).unwrap());
        });
    }
    group.finish();
}

/// One rank's steps, with its share of the cores; all ranks begin together, in the first of them.
fn steps(
    problem: &Problem,
    collective: ThreadCollective,
    range: Range<usize>,
    (threads, count): (usize, u64),
) -> Duration {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let w = problem.w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&problem.x, &w, &problem.labels);
        let mut gradients = Gradients::zeros_for(&shard);
        let head = Head::on_ranks(CosFace::default(), collective, range);
        let mut step = || head.forward_backward(&shard, Reduction::Mean, &mut gradients).unwrap();
        step();
        let start = Instant::now();
        (0..count).for_each(|_| drop(step()));
        start.elapsed()
    })
}

fn ranks(c: &mut Criterion) {
    let problem = Problem::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = c.benchmark_group("ranks on one machine at 512/512/100k");
    group.sample_size(10);
    for size in [1, 2, 4].into_iter().filter(|&size| size <= cores) {
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|count| {
                std::thread::scope(|scope| {
                    let group = ThreadCollective::group(size).into_iter().enumerate();
                    let ranks: Vec<_> = group
                        .map(|(rank, collective)| {
                            let range = class_range(CLASSES, rank, size);
                            let problem = &problem;
                            scope.spawn(move || {
                                steps(problem, collective, range, (cores / size, count))
                            })
                        })
                        .collect();
                    let times = ranks.into_iter().map(|rank| rank.join().unwrap());
                    times.max().unwrap_or_default()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sampling, ranks);
criterion_main!(benches);
