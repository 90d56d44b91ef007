//! Hyperspherical energy, of all classes and of a batch.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::Error;
use margin_softmax::energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
use margin_softmax_fuzz::{Labels, Matrix, Working, assert_finite, assert_readable};
use ndarray::Array2;

#[derive(Debug, Arbitrary)]
struct Case {
    wide: bool,
    classes: u8,
    dims: u8,
    w: Matrix,
    exponent: u8,
    half: bool,
    samples: u8,
    labels: Labels,
}

fuzz_target!(|case: Case| {
    let check = if case.wide { check::<f64> } else { check::<f32> };
    check(&case);
});

fn check<F: Working>(case: &Case) {
    let (classes, dims) = (usize::from(case.classes), usize::from(case.dims % 24));
    let w = case.w.fill::<F>(classes, dims);
    let riesz = [Riesz::Log, Riesz::One, Riesz::Two][usize::from(case.exponent % 3)];
    let space = if case.half { Space::Half } else { Space::Full };
    assert_result(hyperspherical_energy(&w.view(), riesz, space));
    let labels = case.labels.fill(usize::from(case.samples), classes);
    assert_result(hyperspherical_energy_of_batch(&w.view(), &labels, riesz));
}

fn assert_result<F: Working>(result: Result<(F, Array2<F>), Error>) {
    match result {
        Ok((energy, gradient)) => {
            assert_finite("energy", [&energy]);
            assert_finite("gradient of the energy", &gradient);
        }
        Err(error) => assert_readable(&error),
    }
}
