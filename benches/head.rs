//! The whole step from embeddings and class weights: shapes, losses, types, threads, beside three
//! bare matrix products and the naive ndarray version of the same step.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use margin_softmax::{
    AdaFace, ArcFace, Batch, BatchMut, CosFace, CurricularFace, ElasticFace, FNormSphereFace,
    Generalized, Gradients, Head, MagFace, MarginLoss, ModifiedSoftmax, MvSoftmax, Real, Reduction,
    Sgd, Softmax, SphereFace,
};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// N, D, C, and whether one thread only.
const SHAPES: [(usize, usize, usize, bool); 5] = [
    (512, 512, 100_000, false),
    (256, 512, 10_000, false),
    (512, 128, 100_000, false),
    (256, 512, 10_000, true),
    (128, 128, 1_000, true),
];

fn matrix<F: Real>(rows: usize, columns: usize, seed: u64) -> Array2<F> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut entry = || F::from_f64(rng.random_range(-1.0..1.0)).unwrap_or(F::zero());
    Array2::from_shape_simple_fn((rows, columns), &mut entry)
}

fn pool(single: bool) -> rayon::ThreadPool {
    let threads = if single { 1 } else { 0 };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
}

fn step<F: Real>(
    c: &mut Criterion,
    name: &str,
    loss: impl MarginLoss,
    shape: (usize, usize, usize, bool),
) {
    step_with_sub_centers::<F>(c, name, loss, shape, 1);
}

/// A step whose class weights are `k` rows of each class, as many rows together as without.
fn step_with_sub_centers<F: Real>(
    c: &mut Criterion,
    name: &str,
    loss: impl MarginLoss,
    shape: (usize, usize, usize, bool),
    k: usize,
) {
    let (n, d, rows, _) = shape;
    let (x, w) = (matrix::<F>(n, d, 1), matrix::<F>(rows, d, 2));
    let labels: Vec<usize> = (0..n).map(|i| (i * 7919 + 13) % (rows / k)).collect();
    let batch = Batch::new(&x, &w, &labels);
    let batch = batch.with_sub_centers(k);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(loss);
    run(c, name, shape, || {
        let forward = head.forward_backward(black_box(&batch), Reduction::Mean, &mut gradients);
        forward.expect("a valid step").mean()
    });
}

/// The step that updates the class weights, beside `ArcFace f32`, which leaves a gradient.
fn fused(c: &mut Criterion, shape: (usize, usize, usize, bool)) {
    let (n, d, classes, _) = shape;
    let (x, mut w) = (matrix::<f32>(n, d, 1), matrix::<f32>(classes, d, 2));
    let labels: Vec<usize> = (0..n).map(|i| (i * 7919 + 13) % classes).collect();
    let (head, mut dx) = (Head::new(ArcFace::default()), Array2::zeros((n, d)));
    let sgd = Sgd::new(0.1).and_then(|sgd| sgd.with_momentum(0.9));
    let mut update = sgd.expect("valid hyper-parameters");
    run(c, "ArcFace f32 with update", shape, || {
        let mut batch = BatchMut::new(&x, &mut w, &labels);
        let forward = head.step(&mut batch, Reduction::Mean, &mut update, &mut dx);
        forward.expect("a valid step").mean()
    });
}

/// One measurement, in floating-point operations of the three products.
fn run<T: Send>(
    c: &mut Criterion,
    name: &str,
    (n, d, classes, single): (usize, usize, usize, bool),
    mut step: impl FnMut() -> T + Send,
) {
    let mut group = c.benchmark_group("head");
    group.sample_size(10);
    group.throughput(Throughput::Elements((6 * n * d * classes) as u64));
    let threads = if single { "1 thread" } else { "all threads" };
    let id = BenchmarkId::new(name, format!("{n}/{d}/{classes} {threads}"));
    let pool = pool(single);
    group.bench_function(id, |b| pool.install(|| b.iter(&mut step)));
    group.finish();
}

fn shapes(c: &mut Criterion) {
    for shape in SHAPES {
        step::<f32>(c, "ArcFace f32", ArcFace::default(), shape);
        step::<f64>(c, "ArcFace f64", ArcFace::default(), shape);
        fused(c, shape);
        products(c, shape);
        naive(c, shape);
    }
    for single in [false, true] {
        step::<f32>(c, "ArcFace f32", ArcFace::default(), (32, 64, 100, single));
    }
}

fn losses(c: &mut Criterion) {
    let shape = (256, 512, 10_000, false);
    step::<f32>(c, "Softmax", Softmax, shape);
    step::<f32>(c, "ModifiedSoftmax", ModifiedSoftmax, shape);
    step::<f32>(c, "SphereFace", SphereFace::default(), shape);
    step::<f32>(c, "FNormSphereFace", FNormSphereFace::default(), shape);
    step::<f32>(c, "CosFace", CosFace::default(), shape);
    step::<f32>(c, "ArcFace", ArcFace::default(), shape);
    step::<f32>(c, "Generalized", Generalized::default(), shape);
    step::<f32>(c, "AdaFace", AdaFace::default(), shape);
    step::<f32>(c, "MagFace", MagFace::default(), shape);
    step::<f32>(c, "ElasticFace", ElasticFace::default(), shape);
    step::<f32>(c, "CurricularFace", CurricularFace::default(), shape);
    step::<f32>(c, "MvSoftmax", MvSoftmax::default(), shape);
    step_with_sub_centers::<f32>(c, "ArcFace, 4 sub-centers", ArcFace::default(), shape, 4);
}

/// Z = X·Wᵀ, dX = Z·W, dW = Zᵀ·X by ndarray, outputs allocated beforehand. `benches/peers` compares
/// with the products of faer.
fn products(c: &mut Criterion, shape: (usize, usize, usize, bool)) {
    let (n, d, classes, _) = shape;
    let (x, w) = (matrix::<f32>(n, d, 1), matrix::<f32>(classes, d, 2));
    let mut z = Array2::zeros((n, classes));
    let (mut dx, mut dw) = (Array2::zeros((n, d)), Array2::zeros((classes, d)));
    run(c, "three bare products of ndarray", shape, || {
        general_mat_mul(1.0, &x, &w.t(), 0.0, &mut z);
        general_mat_mul(1.0, &z, &w, 0.0, &mut dx);
        general_mat_mul(1.0, &z.t(), &x, 0.0, &mut dw);
    });
}

/// The step as one would first write it: every intermediate array made in full.
fn naive(c: &mut Criterion, shape: (usize, usize, usize, bool)) {
    let (n, d, classes, _) = shape;
    let (x, w) = (matrix::<f32>(n, d, 1), matrix::<f32>(classes, d, 2));
    let labels: Vec<usize> = (0..n).map(|i| (i * 7919 + 13) % classes).collect();
    run(c, "naive ndarray", shape, || naive_step(x.view(), w.view(), &labels, 64.0, 0.5));
}

fn naive_step(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    labels: &[usize],
    s: f32,
    m: f32,
) -> (Array2<f32>, Array2<f32>) {
    let norms = |a: &ArrayView2<'_, f32>| a.map_axis(Axis(1), |row| row.dot(&row).sqrt());
    let (r, q) = (norms(&x), norms(&w));
    let (u, v) = (&x / &r.view().insert_axis(Axis(1)), &w / &q.view().insert_axis(Axis(1)));
    let cosines = u.dot(&v.t());
    let mut logits = &cosines * s;
    for (i, &y) in labels.iter().enumerate() {
        logits[[i, y]] = s * (cosines[[i, y]].acos() + m).cos();
    }
    let max = logits.map_axis(Axis(1), |row| row.fold(f32::MIN, |a, &b| a.max(b)));
    let exp = (&logits - &max.insert_axis(Axis(1))).mapv(f32::exp);
    let sum = exp.sum_axis(Axis(1));
    let mut gradient = exp / sum.insert_axis(Axis(1));
    for (i, &y) in labels.iter().enumerate() {
        let theta = cosines[[i, y]].acos();
        gradient[[i, y]] = (gradient[[i, y]] - 1.0) * (theta + m).sin() / theta.sin();
    }
    gradient *= s / labels.len() as f32;
    (through_norm(gradient.dot(&v), &u, r), through_norm(gradient.t().dot(&u), &v, q))
}

fn through_norm(mut gradient: Array2<f32>, unit: &Array2<f32>, norms: Array1<f32>) -> Array2<f32> {
    Zip::from(gradient.rows_mut()).and(unit.rows()).and(&norms).for_each(|mut row, unit, &norm| {
        let along = row.dot(&unit);
        row.scaled_add(-along, &unit);
        row /= norm;
    });
    gradient
}

criterion_group!(benches, shapes, losses);
criterion_main!(benches);
