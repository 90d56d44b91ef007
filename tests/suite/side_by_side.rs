//! Steps of one head that run side by side, inside a pool of threads too.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use margin_softmax::{ArcFace, Batch, Forward, Gradients, Head, Reduction};
use rayon::prelude::*;

use crate::common::ranks::problem;

fn assert_send_sync<T: Send + Sync + Clone>() {}

/// Rayon lets a thread that waits within one step begin another step of the same head: a lock held
/// over a step would wait for its own thread.
#[test]
fn steps_of_one_head_nest_in_a_pool_without_waiting_for_each_other() {
    assert_send_sync::<Head<ArcFace>>();
    let (done, finished) = channel();
    std::thread::spawn(move || {
        let problem = problem(1, (64, 32, 6_000), false);
        let head = Arc::new(Head::new(ArcFace::default()));
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
        let step = |gradients: bool| {
            if !gradients {
                return head.forward(&batch).unwrap();
            }
            let mut gradients = Gradients::zeros_for(&batch);
            head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap()
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for _ in 0..5 {
            let steps = (0..8).into_par_iter().with_max_len(1).map(|i| step(i % 2 == 0));
            let all: Vec<Forward<f64>> = pool.install(|| steps.collect());
            assert!(all.iter().all(|forward| *forward == all[0]));
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(100)).expect("the steps end");
}

#[test]
fn a_clone_takes_the_same_steps() {
    let problem = problem(2, (6, 5, 40), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let head = Head::new(ArcFace::default()).with_memory_budget(0);
    let forward = head.forward(&batch).unwrap();
    assert_eq!(head.clone().forward(&batch).unwrap(), forward);
}
