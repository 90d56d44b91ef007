//! A training step of ArcFace, with tracked embeddings and class weights: the head in main memory,
//! the head on the device, and burn's autodiff of the formula on the device.
//!
//! The device is that of `MARGIN_SOFTMAX_DEVICE`, Flex without, as in the tests.

#[path = "../examples/common/device.rs"]
mod devices;

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
    in_memory: MarginHead,
    on_device: MarginHead,
    embeddings: Tensor<2>,
    labels: Tensor<1, Int>,
}

impl Step {
    fn new([samples, dims, classes]: [usize; 3]) -> Result<Self, Error> {
        let device = device().autodiff();
        device.seed(1);
        let normal = |shape| Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let weights = normal([classes, dims]);
        let config = MarginHeadConfig::new(dims, classes);
        let config = config.with_rows_per_shard(Some(classes));
        let mut in_memory = config.init(ArcFace::new(SCALE, MARGIN)?, &device)?;
        let mut on_device = config.on_device().init(ArcFace::new(SCALE, MARGIN)?, &device)?;
        let memory = Device::flex().autodiff();
        in_memory.weights = Param::from_tensor(weights.clone().to_device(&memory).detach());
        on_device.weights = Param::from_tensor(weights);
        let embeddings = normal([samples, dims]).require_grad();
        let labels = Tensor::arange(0..samples as i64, &device) * 7;
        Ok(Step {
            in_memory,
            on_device,
            embeddings,
            labels: labels.remainder_scalar(classes as i64),
        })
    }

    fn ours(&self, head: &MarginHead) -> Result<Gradients, Error> {
        let loss = head.forward(self.embeddings.clone(), self.labels.clone())?;
        Ok(loss.backward())
    }

    /// The usual implementation: cosines, a margin on the target cosine, cross-entropy.
    fn naive(&self) -> Gradients {
        let cosines =
            unit(self.embeddings.clone()).matmul(unit(self.on_device.weights.val()).transpose());
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

/// Checks that all give the same result before any is timed.
fn check(step: &Step) -> Result<(), Error> {
    let gradients = |of: &Gradients| step.embeddings.grad(of).expect("a gradient");
    let naive = gradients(&step.naive());
    let largest = naive.clone().abs().max().into_scalar::<f32>();
    for head in [&step.in_memory, &step.on_device] {
        let apart = (gradients(&step.ours(head)?) - naive.clone()).abs().max();
        let apart = apart.into_scalar::<f32>();
        assert!(apart <= 1e-4 * largest, "{apart:e} apart, largest {largest:e}");
    }
    Ok(())
}

fn device() -> Device {
    let name = std::env::var("MARGIN_SOFTMAX_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    devices::named(&name).expect("a device of this name")
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for shape in SHAPES {
        let step = Step::new(shape).expect("a head");
        check(&step).expect("a step");
        let name = shape.map(|size| size.to_string()).join("/");
        let done = |result: Gradients| {
            step.embeddings.device().sync().expect("a device that runs");
            result
        };
        for (head, of) in [("main memory", &step.in_memory), ("device", &step.on_device)] {
            group.bench_function(BenchmarkId::new(head, &name), |bencher| {
                bencher.iter(|| black_box(done(step.ours(of).expect("a step"))));
            });
        }
        group.bench_function(BenchmarkId::new("formula in burn", &name), |bencher| {
            bencher.iter(|| black_box(done(step.naive())));
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
