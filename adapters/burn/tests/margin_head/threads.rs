//! Steps of one head side by side.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use burn::module::Param;
use burn::tensor::{DType, Device, Int, Tensor};
use margin_softmax::custom::{Angle, Target};
use margin_softmax::{ArcFace, Error, MarginLoss, Scale};
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::tensors::{memory, numbers, values};

/// Far more than the work takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(240);
const REPETITIONS: usize = 20;

/// Runs `work` on a thread of its own; if it hangs, the test fails and does not wait for it.
fn ends(work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    let (sender, receiver) = channel();
    let thread = thread::spawn(move || sender.send(work()).ok());
    match receiver.recv_timeout(LIMIT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("hangs"),
        Err(RecvTimeoutError::Disconnected) => resume_unwind(thread.join().expect_err("a panic")),
    }
}

fn pool() -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool")
}

/// A step that is large enough to run on several threads: 64 embeddings and so many classes.
fn large(
    classes: usize,
    device: &Device,
) -> Result<(MarginHead, Tensor<2>, Tensor<1, Int>), Error> {
    let mut head = MarginHeadConfig::new(32, classes).init(ArcFace::default(), device)?;
    head.weights = Param::from_tensor(numbers([classes, 32], 0.5, (device, DType::F32)));
    let labels: Vec<i64> = (0..64).map(|i| i * 7 % classes as i64).collect();
    let x = numbers([64, 32], 0.75, (device, DType::F32));
    Ok((head, x, Tensor::from_data(&labels[..], device)))
}

/// A thread that waits for the others of its step takes up another step of the pool: it must not
/// wait for what the first one holds.
#[test]
fn steps_of_one_head_run_side_by_side_in_a_pool() -> Result<(), Error> {
    ends(|| {
        let (head, x, labels) = large(6_000, &Device::flex())?;
        let step = || head.evaluate::<f32>(x.clone(), labels.clone());
        let (alone, pool) = (step()?, pool());
        for _ in 0..REPETITIONS {
            let steps: Vec<_> =
                pool.install(|| (0..8).into_par_iter().with_max_len(1).map(|_| step()).collect());
            for found in steps {
                assert_eq!(found?, alone);
            }
        }
        Ok(())
    })
}

/// Burn locks a graph during its backward pass, and these steps share one: that of the class
/// weights.
#[test]
fn backward_passes_run_side_by_side_in_a_pool() -> Result<(), Error> {
    ends(|| {
        let (head, x, labels) = large(1_500, &memory())?;
        let step = || {
            let whole = head.forward(x.clone(), labels.clone())?;
            let each = head.losses(x.clone(), labels.clone())?.mean();
            let gradients = (whole + each).backward();
            Ok::<_, Error>(values(head.weights.grad(&gradients).expect("a gradient")))
        };
        let (alone, pool) = (step()?, pool());
        for _ in 0..REPETITIONS / 4 {
            let steps: Vec<_> =
                pool.install(|| (0..8).into_par_iter().with_max_len(1).map(|_| step()).collect());
            for dw in steps {
                assert!(dw? == alone);
            }
        }
        Ok(())
    })
}

/// A step computes with one loss, the one before or the one after.
#[test]
fn loss_may_be_replaced_while_steps_run() -> Result<(), Error> {
    ends(|| {
        let (head, x, labels) = large(500, &Device::flex())?;
        let losses = [0.0, 0.5].map(|margin| ArcFace::new(64.0, margin).expect("a loss"));
        let step = || head.evaluate::<f32>(x.clone(), labels.clone());
        let results = losses.clone().map(|loss| {
            head.set_loss(loss);
            step().expect("a result")
        });
        pool().install(|| {
            (0..64).into_par_iter().with_max_len(1).try_for_each(|i: usize| {
                head.set_loss(losses[i % 2].clone());
                assert!(results.contains(&step()?), "step {i}");
                Ok(())
            })
        })
    })
}

/// A loss that panics.
#[derive(Debug)]
struct Faulty;

impl MarginLoss for Faulty {
    fn scale(&self) -> Scale {
        Scale::Fixed(64.0)
    }

    fn target(&self, _: &Angle) -> Target {
        panic!("a faulty loss")
    }
}

#[test]
fn loss_that_panics_leaves_the_head_fit_for_the_next_step() -> Result<(), Error> {
    let (head, x, labels) = large(500, &Device::flex())?;
    let step = || head.evaluate::<f32>(x.clone(), labels.clone());
    let before = step()?;
    head.set_loss(Faulty);
    assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
    head.set_loss(ArcFace::default());
    assert_eq!(step()?, before);
    Ok(())
}
