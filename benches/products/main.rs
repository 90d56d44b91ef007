//! The products of a step's tiles at every level of this CPU, beside faer's, as shares of the peak
//! that a loop over registers reaches at the same level. All take turns, round by round.
//!
//!     cargo run --release -p products [-- ROUNDS]

use std::hint::black_box;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};

// The kernel, which the crate does not export.
#[allow(dead_code, unused_imports, unused_macros, rustdoc::broken_intra_doc_links)]
#[path = "../../src/kernel/mod.rs"]
mod kernel;
mod peak;

use kernel::{Level, Mat, Packed, Precision, Real, gemm};

/// Rows, columns and depth of the products of tiles of 256 classes: Z, dX and dW at N = 512 or
/// 256 and D = 512 or 128.
const SHAPES: [[usize; 3]; 5] =
    [[256, 512, 512], [512, 512, 256], [256, 128, 512], [512, 128, 256], [128, 128, 256]];
const ROUNDS: usize = 60;

/// One of those who take turns: its name, its level's peak by index, and what it runs, which
/// returns how many operations that took.
struct Runner<'a, F> {
    name: String,
    peak: usize,
    run: Run<'a, F>,
}

type Run<'a, F> = Box<dyn FnMut(&mut [F]) -> usize + 'a>;

fn numbers<F: Real>(count: usize) -> Vec<F> {
    (0..count).map(|i| F::narrow(((i * 7919) % 2003) as f64 / 1e3 - 1.0)).collect()
}

fn product<'a, F: Real>(
    (level, peak): (Level, usize),
    precision: Precision,
    (label, a): (&str, Mat<'a, F>),
    b: Mat<'a, F>,
    [rows, cols, depth]: [usize; 3],
) -> Runner<'a, F> {
    let mut packed = Packed::default();
    packed.pack(level, precision, b);
    let run = Box::new(move |c: &mut [F]| {
        gemm(c, false, a, &packed);
        2 * rows * cols * depth
    });
    Runner { name: format!("{level:?}, {precision:?}, A by {label}"), peak, run }
}

fn compare(shape: [usize; 3], rounds: usize) {
    let [rows, cols, depth] = shape;
    let (a, b) = (numbers::<f32>(rows * depth), numbers::<f32>(depth * cols));
    let a_columns = numbers::<f32>(rows * depth);
    let mut c = vec![0.0; rows * cols];
    let mut runners = Vec::new();
    for level in Level::available() {
        let run = Box::new(move |_: &mut [f32]| peak::multiply_adds(&format!("{level:?}")));
        let peak = runners.len();
        runners.push(Runner { name: format!("{level:?}, peak"), peak, run });
        let (by_rows, by_columns) =
            (Mat::new(&a, rows, depth), Mat::new(&a_columns, depth, rows).t());
        for precision in [Precision::Full, Precision::Bf16] {
            for left in [("rows", by_rows), ("columns", by_columns)] {
                let right = Mat::new(&b, depth, cols);
                runners.push(product((level, peak), precision, left, right, shape));
            }
        }
    }
    let highest = runners.last().map_or(0, |runner| runner.peak);
    let (a, b) = (
        MatRef::from_row_major_slice(&a, rows, depth),
        MatRef::from_row_major_slice(&b, depth, cols),
    );
    let run = Box::new(move |c: &mut [f32]| {
        let c = faer::MatMut::from_row_major_slice_mut(c, rows, cols);
        matmul(c, Accum::Replace, a, b, 1.0, Par::Seq);
        2 * rows * cols * depth
    });
    runners.push(Runner { name: "faer".to_owned(), peak: highest, run });

    let mut speeds = vec![Vec::new(); runners.len()];
    for _ in 0..rounds {
        for (runner, speeds) in runners.iter_mut().zip(&mut speeds) {
            let start = Instant::now();
            let operations = (runner.run)(&mut c);
            speeds.push(operations as f64 / start.elapsed().as_secs_f64() * 1e-9);
            black_box(&c);
        }
    }
    speeds.iter_mut().for_each(|speeds| speeds.sort_by(f64::total_cmp));
    println!("{rows}×{cols}×{depth}: GFLOP/s, and shares of the peak");
    for (runner, of_runner) in runners.iter().zip(&speeds) {
        let peaks = &speeds[runner.peak];
        let (best, median) = (of_runner[rounds - 1], of_runner[rounds / 2]);
        let (of_best, of_median) = (best / peaks[rounds - 1], median / peaks[rounds / 2]);
        let Runner { name, .. } = runner;
        println!(
            "  {name:44} median {median:6.1} ({of_median:.2})  best {best:6.1} ({of_best:.2})"
        );
    }
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    for shape in SHAPES {
        compare(shape, rounds);
    }
}
