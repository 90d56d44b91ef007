//! The product of the tiles, 256 × 512 × 512, at every level of this CPU, as a share of the peak
//! that a loop over registers reaches at the same level in the same run; beside it the products
//! of ndarray (matrixmultiply).

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

// The kernel's products, which the crate does not export.
#[allow(dead_code)]
#[path = "../src/kernel/bf16.rs"]
mod bf16;
#[allow(dead_code)]
#[path = "../src/kernel/blocks.rs"]
mod blocks;
#[allow(dead_code)]
#[path = "../src/kernel/dispatch.rs"]
mod dispatch;
#[allow(dead_code)]
#[path = "../src/kernel/exp.rs"]
mod exp;
#[allow(dead_code)]
#[path = "../src/kernel/gemm.rs"]
mod gemm;
#[allow(dead_code)]
#[path = "../src/kernel/matrix.rs"]
mod matrix;
#[allow(dead_code)]
#[path = "../src/kernel/real.rs"]
mod real;

use bf16::Precision;
use dispatch::{Isa, Level, Op, dispatch, madd};
use gemm::{gemm, pack, pack_left};
use matrix::{Mat, MatMut, Panels};
use real::Real;

const ROWS: usize = 256;
const COLS: usize = 512;
const DEPTH: usize = 512;
const FLOPS: usize = 2 * ROWS * COLS * DEPTH;
/// Runs of which the shortest counts.
const RUNS: usize = 100;

/// Independent chains of multiply-adds, each in a register of its own.
const CHAINS: usize = 12;
const STEPS: usize = 1 << 18;

struct Peak<F>(F, F);

impl<F: Real> Peak<F> {
    #[inline(always)]
    fn chains<I: Isa, const LANES: usize>(self) -> usize {
        let mut chains = black_box([[F::one(); LANES]; CHAINS]);
        for _ in 0..STEPS {
            for chain in &mut chains {
                for x in chain {
                    *x = madd::<_, I>(*x, self.0, self.1);
                }
            }
        }
        black_box(chains);
        2 * STEPS * CHAINS * LANES
    }
}

impl<F: Real> Op for Peak<F> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self) -> usize {
        match I::VECTOR / size_of::<F>() {
            16 => self.chains::<I, 16>(),
            8 => self.chains::<I, 8>(),
            4 => self.chains::<I, 4>(),
            _ => self.chains::<I, 2>(),
        }
    }
}

fn shortest<T>(mut work: impl FnMut() -> T) -> Duration {
    let time = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    };
    (0..RUNS).map(time).min().unwrap_or_default()
}

fn matrix<F: Real>(rows: usize, cols: usize) -> Array2<F> {
    let entry = |(i, j)| F::narrow(((i * 7919 + j * 104_729) % 2_003) as f64 / 1e3 - 1.0);
    Array2::from_shape_fn((rows, cols), entry)
}

fn view<F>(m: &Array2<F>) -> Mat<'_, F> {
    Mat::new(m.as_slice().unwrap_or_default(), m.nrows(), m.ncols())
}

fn gflops(flops: usize, time: Duration) -> f64 {
    flops as f64 / time.as_secs_f64() * 1e-9
}

fn products<F: Real>(c: &mut Criterion, name: &str) {
    let (a, at) = (matrix::<F>(ROWS, DEPTH), matrix::<F>(DEPTH, ROWS));
    let b = matrix::<F>(DEPTH, COLS);
    let mut out = Array2::<F>::zeros((ROWS, COLS));
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(FLOPS as u64));
    let mut highest = 0.0_f64;
    for level in Level::available() {
        let mut panels = Panels::default();
        pack(level, Precision::Full, view(&b), &mut panels);
        let factors = || black_box((F::narrow(0.5), F::narrow(0.25)));
        let operations = dispatch(level, Peak(factors().0, factors().1));
        let peak = shortest(|| dispatch(level, Peak(factors().0, factors().1)));
        let peak = gflops(operations, peak);
        highest = highest.max(peak);
        println!("{name} {level:?}: peak {peak:.1} GFLOP/s");
        let packed = view(&b).in_panels(&panels);
        let by_columns = view(&at).t();
        let mut strips = Panels::default();
        pack_left(level, Precision::Full, by_columns, &mut strips);
        let (mut left, mut right) = (Panels::default(), Panels::default());
        pack_left(level, Precision::Bf16, view(&a), &mut left);
        pack(level, Precision::Bf16, view(&b), &mut right);
        for (label, a, b) in [
            ("A by rows, B packed", view(&a), packed),
            ("A by columns, B packed", by_columns, packed),
            ("A in strips, B packed", by_columns.in_strips(&strips), packed),
            ("A in strips, B by rows", by_columns.in_strips(&strips), view(&b)),
            ("A and B by rows", view(&a), view(&b)),
            ("A and B rounded to bf16", view(&a).in_strips(&left), view(&b).in_panels(&right)),
        ] {
            let slice = out.as_slice_mut().unwrap_or_default();
            let mut run = || gemm(level, MatMut::new(slice, ROWS, COLS, COLS), false, a, b);
            let speed = gflops(FLOPS, shortest(&mut run));
            println!("  {label}: {speed:.1} GFLOP/s, {:.1} % of the peak", 100.0 * speed / peak);
            group.bench_function(format!("{level:?}, {label}"), |bencher| bencher.iter(&mut run));
        }
    }
    println!("{name}, others, of the highest peak:");
    for (label, a) in [("A by rows", a.view()), ("A by columns", at.t())] {
        let time = shortest(|| general_mat_mul(F::one(), &a, &b, F::zero(), &mut out));
        let speed = gflops(FLOPS, time);
        println!("  matrixmultiply, {label}: {speed:.1} GFLOP/s, {:.1} %", 100.0 * speed / highest);
    }
}

fn benches(c: &mut Criterion) {
    products::<f32>(c, "f32");
    products::<f64>(c, "f64");
}

criterion_group!(products_of_tiles, benches);
criterion_main!(products_of_tiles);
