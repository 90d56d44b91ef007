//! What a step takes on the device besides class weights, their gradient and embeddings, by the
//! figures of the device's memory pool. In a program of its own: the pool is that of the process.

#[path = "device_head/problem.rs"]
#[allow(dead_code)]
mod problem;

use std::sync::Arc;

use margin_softmax::{ArcFace, Error};

use problem::{Problem, device};

const SAMPLES: usize = 32;
const DIMS: usize = 64;
const TILE: usize = 1024;

/// The bytes of the class weights, and what the pool grows by in a step of their head; `None`
/// where the device does not report it.
fn growth(classes: usize) -> Result<(f64, Option<f64>), Error> {
    let shape = (SAMPLES, DIMS, classes, 1, 1 << 20, TILE);
    let problem = Problem::new(shape, 1);
    let head = problem.head(Arc::new(ArcFace::new(8.0, 0.3)?), shape)?;
    let (x, labels) = (problem.embeddings(), problem.labels());
    device().sync().expect("a device that runs");
    device().memory_cleanup();
    let before = device().memory_pool_usage();
    let gradients = head.forward(x, labels)?.backward();
    device().sync().expect("a device that runs");
    let after = device().memory_pool_usage();
    drop(gradients);
    let grown = before.zip(after).map(|(before, after)| {
        println!("{classes} classes: {before:?} {after:?}");
        after.bytes_reserved as f64 - before.bytes_reserved as f64
    });
    Ok(((classes * DIMS * size_of::<f32>()) as f64, grown))
}

#[test]
fn step_takes_the_gradient_of_the_class_weights_and_no_copy_of_them() -> Result<(), Error> {
    let ((few, with_few), (many, with_many)) = (growth(8 * TILE)?, growth(128 * TILE)?);
    // Flex uses the allocator of the process and reports nothing.
    let Some((with_few, with_many)) = with_few.zip(with_many) else { return Ok(()) };
    let per_byte = (with_many - with_few) / (many - few);
    println!("{with_few} bytes for {few}, {with_many} for {many}: {per_byte} for one");
    // One for the gradient; pages are reserved whole.
    assert!(per_byte < 1.5, "{per_byte} bytes for one of the class weights");
    Ok(())
}
