//! Decision boundaries, and the check of a loss by finite differences.
#![no_main]

use std::f64::consts::PI;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::Error;
use margin_softmax::boundary::Boundary;
use margin_softmax::custom::check_loss;
use margin_softmax_fuzz::{Loss, Number, assert_readable};

#[derive(Debug, Arbitrary)]
struct Case {
    loss: Loss,
    norms: Option<[Number; 2]>,
    bias: Option<Number>,
    theta: Number,
    between: Number,
    steps: u8,
    gradients: bool,
}

fuzz_target!(|case: Case| {
    if let Err(error) = check(&case) {
        assert_readable(&error);
    }
});

fn check(case: &Case) -> Result<(), Error> {
    let loss = case.loss.build()?;
    if case.gradients {
        return check_loss(&loss).map(|found| assert!(!found.to_string().is_empty()));
    }
    let mut boundary = Boundary::of(loss);
    if let Some([q1, q2]) = case.norms {
        boundary = boundary.with_norms(q1.value(), q2.value())?;
    }
    if let Some(bias) = case.bias {
        boundary = boundary.with_bias(bias.value())?;
    }
    let (theta, between) = (case.theta.value(), case.between.value());
    let angle = |theta: f64| assert!((0.0..=PI).contains(&theta), "{theta} is no angle");
    boundary.opposite(theta).map(angle);
    boundary.satisfies_one(theta, between);
    boundary.satisfies_two(theta, between);
    if let Some((one, two)) = boundary.reach(between) {
        angle(one);
        angle(two);
        assert!(boundary.band(between).is_some_and(f64::is_finite));
    }
    let steps = 1 + u32::from(case.steps);
    let curves = [boundary.class_one(steps), boundary.class_two(steps)];
    for &(one, two) in curves.iter().flatten().flatten() {
        angle(one);
        angle(two);
    }
    Ok(())
}
