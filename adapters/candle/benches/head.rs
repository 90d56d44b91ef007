//! A whole step (loss and gradients of embeddings and class weights), compared with candle's
//! autodiff of the naive formula of ArcFace.

#[path = "../tests/margin_head/naive.rs"]
mod naive;

use candle_core::{Device, Result, Tensor, Var};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use margin_softmax::{ArcFace, Head, MarginLoss};
use margin_softmax_candle::MarginHead;

/// N, D, C.
const SHAPES: [(usize, usize, usize); 2] = [(128, 128, 1_000), (256, 512, 10_000)];

const MARGIN: f64 = 0.5;

fn matrix(rows: usize, columns: usize) -> Result<Var> {
    Var::rand(-1.0_f32, 1.0, (rows, columns), &Device::Cpu)
}

fn shape(criterion: &mut Criterion, (n, d, classes): (usize, usize, usize)) -> Result<()> {
    let (x, w) = (matrix(n, d)?, matrix(classes, d)?);
    let labels: Vec<u32> = (0..n).map(|i| ((i * 7919 + 13) % classes) as u32).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let loss = ArcFace::new(64.0, MARGIN).expect("valid parameters");
    let scale = loss.scale();
    let core = Head::new(std::sync::Arc::new(loss) as _);
    let head = MarginHead::from_parts(core, w.as_tensor().clone(), None)?;
    let ours = || head.forward(&x, &labels)?.backward();
    let target = |cos: &Tensor| naive::shifted(cos, MARGIN);
    let naive = || naive::mean_loss(&x, &w, &labels, scale, target)?.backward();

    let mut group = criterion.benchmark_group("ArcFace");
    group.sample_size(10);
    let name = format!("{n}/{d}/{classes}");
    group.bench_function(BenchmarkId::new("head", &name), |b| b.iter(ours));
    group.bench_function(BenchmarkId::new("autodiff", &name), |b| b.iter(naive));
    group.finish();
    Ok(())
}

fn shapes(criterion: &mut Criterion) {
    for sizes in SHAPES {
        shape(criterion, sizes).expect("a valid step");
    }
}

criterion_group!(benches, shapes);
criterion_main!(benches);
