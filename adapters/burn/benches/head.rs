//! A training step of ArcFace: this crate compared with burn's autodiff of the formula, both on
//! Flex with tracked embeddings and class weights.

use std::hint::black_box;

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Distribution, Gradients, Int, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use margin_softmax::{ArcFace, Error};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};

const SCALE: f64 = 64.0;
const MARGIN: f64 = 0.5;
/// N, D, C.
const SHAPES: [[usize; 3]; 2] = [[128, 128, 1_000], [256, 512, 10_000]];

struct Step {
    head: MarginHead,
    embeddings: Tensor<2>,
    labels: Tensor<1, Int>,
}

impl Step {
    fn new([samples, dims, classes]: [usize; 3]) -> Result<Self, Error> {
        let device = Device::flex().autodiff();
        device.seed(1);
        let normal = |shape| Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let mut head =
            MarginHeadConfig::new(dims, classes).init(ArcFace::new(SCALE, MARGIN)?, &device)?;
        head.weights = Param::from_tensor(normal([classes, dims]));
        let embeddings = normal([samples, dims]).require_grad();
        let labels = Tensor::arange(0..samples as i64, &device) * 7;
        Ok(Step { head, embeddings, labels: labels.remainder_scalar(classes as i64) })
    }

    fn ours(&self) -> Result<Gradients, Error> {
        let loss = self.head.forward(self.embeddings.clone(), self.labels.clone())?;
        Ok(loss.backward())
    }

    /// The usual implementation: cosines, a margin on the target cosine, cross-entropy.
    fn naive(&self) -> Gradients {
        let cosines =
            unit(self.embeddings.clone()).matmul(unit(self.head.weights.val()).transpose());
        let labels = self.labels.clone().unsqueeze_dim::<2>(1);
        let own = cosines.clone().gather(1, labels.clone());
        let sin = (-(own.clone() * own.clone()) + 1.0).sqrt();
        let with_margin = own.clone() * MARGIN.cos() - sin * MARGIN.sin();
        let added = burn::tensor::IndexingUpdateOp::Add;
        let logits = cosines.scatter(1, labels.clone(), with_margin - own, added) * SCALE;
        (-log_softmax(logits, 1).gather(1, labels).mean()).backward()
    }
}

fn unit(rows: Tensor<2>) -> Tensor<2> {
    rows.clone() / (rows.clone() * rows).sum_dim(1).sqrt()
}

/// Checks that both give the same result before either is timed.
fn check(step: &Step) -> Result<(), Error> {
    let (ours, naive) = (step.ours()?, step.naive());
    let gradients = |of| step.embeddings.grad(of).expect("a gradient");
    let (ours, naive) = (gradients(&ours), gradients(&naive));
    let largest = ours.clone().abs().max().into_scalar::<f32>();
    let apart = (ours - naive).abs().max().into_scalar::<f32>();
    assert!(apart <= 1e-4 * largest, "{apart:e} apart, largest {largest:e}");
    Ok(())
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for shape in SHAPES {
        let step = Step::new(shape).expect("a head");
        check(&step).expect("a step");
        let name = shape.map(|size| size.to_string()).join("/");
        group.bench_function(BenchmarkId::new("margin-softmax", &name), |bencher| {
            bencher.iter(|| black_box(step.ours()));
        });
        group.bench_function(BenchmarkId::new("formula in burn", &name), |bencher| {
            bencher.iter(|| black_box(step.naive()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = steps
}
criterion_main!(benches);
