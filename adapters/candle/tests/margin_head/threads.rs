//! Steps of one head side by side.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use candle_core::{Result, Tensor, Var};
use margin_softmax::custom::{Angle, Target};
use margin_softmax::{ArcFace, Head, MarginLoss, Scale};
use margin_softmax_candle::MarginHead;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::tensors::{CPU, flat, numbers};

/// Far more than the work takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(240);
const REPETITIONS: usize = 20;

/// Runs `work` on a thread of its own; if it hangs, the test fails and does not wait for it.
fn ends(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
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
fn large(classes: usize) -> Result<(MarginHead, Var, Tensor)> {
    let matrix = |rows, seed| {
        let entries: Vec<f32> = numbers(rows, 32, seed).iter().map(|&v| v as f32).collect();
        Var::from_tensor(&Tensor::from_vec(entries, (rows, 32), &CPU)?)
    };
    let core = Head::new(std::sync::Arc::new(ArcFace::default()) as _);
    let head = MarginHead::from_parts(core, matrix(classes, 0.5)?.into_inner(), None)?;
    let labels: Vec<u32> = (0..64).map(|i| i * 7 % classes as u32).collect();
    Ok((head, matrix(64, 0.75)?, Tensor::new(labels, &CPU)?))
}

/// A thread that waits for the others of its step takes up another step of the pool: it must not
/// wait for what the first one holds.
#[test]
fn steps_of_one_head_run_side_by_side_in_a_pool() -> Result<()> {
    ends(|| {
        let (head, x, labels) = large(6_000)?;
        let alone = head.evaluate::<f32>(&x, &labels)?;
        let pool = pool();
        for _ in 0..REPETITIONS {
            let steps: Vec<_> = pool.install(|| {
                let steps = (0..8).into_par_iter().with_max_len(1);
                steps.map(|_| head.evaluate::<f32>(&x, &labels)).collect()
            });
            for step in steps {
                assert_eq!(step?, alone);
            }
        }
        Ok(())
    })
}

#[test]
fn backward_passes_run_side_by_side_in_a_pool() -> Result<()> {
    ends(|| {
        let (head, x, labels) = large(1_500)?;
        let step = || {
            let whole = head.forward(&x, &labels)?;
            let each = head.losses(&x, &labels)?.mean_all()?;
            let gradients = (whole + each)?.backward()?;
            flat(gradients.get(head.weight()).expect("a gradient"))
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
fn loss_may_be_replaced_while_steps_run() -> Result<()> {
    ends(|| {
        let (head, x, labels) = large(500)?;
        let losses = [0.0, 0.5].map(|margin| ArcFace::new(64.0, margin).expect("a loss"));
        let results = losses.clone().map(|loss| {
            head.set_loss(loss);
            head.evaluate::<f32>(&x, &labels).expect("a result")
        });
        pool().install(|| {
            (0..64).into_par_iter().with_max_len(1).try_for_each(|i| {
                head.set_loss(losses[i % 2].clone());
                let found = head.evaluate::<f32>(&x, &labels)?;
                assert!(results.contains(&found), "step {i}");
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
fn loss_that_panics_leaves_the_head_fit_for_the_next_step() -> Result<()> {
    let (head, x, labels) = large(500)?;
    let step = || head.evaluate::<f32>(&x, &labels);
    let before = step()?;
    head.set_loss(Faulty);
    assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
    head.set_loss(ArcFace::default());
    assert_eq!(step()?, before);
    Ok(())
}
