//! Hard negatives, penalties and sub-centers over the ranks of a job: the formulas of one machine.

#[path = "../../../tests/suite/common/mod.rs"]
mod common;
mod support;

use std::process::ExitCode;

use common::ranks::even;
use common::wide::{Wide, WideProblem};
use margin_softmax::custom::HardNegatives;
use margin_softmax::{Batch, CurricularFace, Error, Gradients, Head, Reduction, Scale};
use ndarray::s;
use support::{assert_close, on_ranks};

#[test]
fn every_rank_has_the_answer_of_the_formulas() -> ExitCode {
    let mv = Some(HardNegatives::above_target(0.2, 1.2, 0.0));
    let fixed = Wide { hard: mv, lambda: 0.1, ..Wide::new(Scale::Fixed(16.0)) };
    let by_norm = Wide { hard: mv, epsilon: 0.1, kappa: 0.1, ..Wide::new(Scale::FeatureNorm) };
    on_ranks(&[1, 2, 3], |collective| {
        for (loss, k) in [(&fixed, 1), (&by_norm, 1), (&fixed, 3)] {
            let (problem, answer) = WideProblem::<f64>::new(7, (9, 6, 40, k), loss);
            assert!(answer.hard > 0);
            let range = even(40, collective.size())[collective.rank()].clone();
            let rows = range.start * k..range.end * k;
            let w = problem.w.slice(s![rows.clone(), ..]);
            let batch = Batch::new(&problem.x, &w, &problem.labels).with_sub_centers(k);
            let mut gradients = Gradients::zeros_for(&batch);
            let head = Head::on_ranks(loss.clone(), collective, range);
            let reduction = Reduction::Weighted(&problem.upstream);
            let forward = head.forward_backward(&batch, reduction, &mut gradients)?;
            let (what, tolerance) = (format!("{loss:?} {k}"), answer.tolerance(f64::EPSILON));
            assert_close(&what, forward.losses.view(), answer.losses.view(), tolerance);
            assert_close(&what, gradients.embeddings.view(), answer.dx.view(), tolerance);
            let expected = answer.dw.slice(s![rows, ..]);
            assert_close(&what, gradients.weights.view(), expected, tolerance);
            assert_eq!(forward.predictions(), answer.predictions());
            assert_eq!(forward.sub_centers(), answer.sub_centers);
        }
        Ok::<(), Error>(())
    })
}

/// The state of CurricularFace, t, follows from what every rank knows.
#[test]
fn curricularface_observes_the_same_on_every_rank() -> ExitCode {
    let loss = Wide::new(Scale::Fixed(64.0));
    let (problem, _) = WideProblem::<f64>::new(3, (9, 6, 40, 1), &loss);
    on_ranks(&[3], |collective| {
        let range = even(40, collective.size())[collective.rank()].clone();
        let w = problem.w.slice(s![range.clone(), ..]);
        let mut head = Head::on_ranks(CurricularFace::default(), collective, range);
        let mut alone = Head::new(CurricularFace::default());
        for _ in 0..3 {
            let batch = Batch::new(&problem.x, &w, &problem.labels);
            let forward = head.forward(&batch)?;
            head.loss_mut().observe(&forward.target_angles().to_vec())?;
            let whole = Batch::new(&problem.x, &problem.w, &problem.labels);
            let one = alone.forward(&whole)?;
            alone.loss_mut().observe(&one.target_angles().to_vec())?;
            assert_close("losses", forward.losses.view(), one.losses.view(), 1e-12);
            assert_eq!(head.loss().t(), alone.loss().t());
        }
        assert!(head.loss().t() > 0.0);
        Ok::<(), Error>(())
    })
}
