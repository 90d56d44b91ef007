//! Gradients of the embeddings alone, or of the class weights alone: the same bits as both give,
//! and the other array is never there.

use margin_softmax::ranks::ThreadCollective;
use margin_softmax::{Batch, Error, Gradients, Head, Reduction};
use ndarray::s;

use crate::common::layout::Layout;
use crate::common::ranks::{even, on_ranks, problem};
use crate::common::spec::{Spec, menu};

/// More samples than dimensions and fewer, so that logits wait in both places.
const SHAPES: [(usize, usize, usize); 2] = [(5, 8, 300), (9, 4, 300)];

#[test]
fn one_side_has_the_bits_of_both() {
    for shape in SHAPES {
        for spec in menu() {
            let inputs =
                problem(5, shape, spec == Spec::Softmax).inputs::<f32>([Layout::Standard; 2]);
            let batch = inputs.batch();
            let reduction = Reduction::Weighted(&inputs.upstream);
            for budget in [0, 1 << 20] {
                let head = Head::new(spec.build()).with_memory_budget(budget);
                let run = |mut gradients: Gradients<f32>| {
                    let forward = head.forward_backward(&batch, reduction, &mut gradients);
                    (forward.unwrap(), gradients)
                };
                let (forward, both) = run(Gradients::zeros_for(&batch));
                let (by_x, of_x) = run(Gradients::embeddings_only(&batch));
                let (by_w, of_w) = run(Gradients::weights_only(&batch));
                assert_eq!((&by_x, &by_w), (&forward, &forward), "{spec:?}");
                assert_eq!(of_x.embeddings, both.embeddings, "{spec:?} {shape:?} {budget}");
                assert_eq!(of_w.weights, both.weights, "{spec:?} {shape:?} {budget}");
                assert_eq!(of_w.bias, both.bias, "{spec:?}");
                assert!(
                    of_x.weights.is_empty() && of_x.bias.is_none() && of_w.embeddings.is_empty()
                );
            }
        }
    }
}

#[test]
fn one_side_over_ranks_is_that_of_both() {
    let problem = problem(6, (5, 8, 40), false);
    let loss = menu()[3].build();
    let step = |gradients_for: fn(&Batch<'_, f64>) -> Gradients<f64>| {
        on_ranks(&even(40, 3), |collective, range| {
            let rows = problem.w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&problem.x, &rows, &problem.labels);
            let mut gradients = gradients_for(&shard);
            let head = Head::on_ranks(&loss, collective, range);
            head.forward_backward(&shard, Reduction::Mean, &mut gradients).unwrap();
            gradients
        })
    };
    let both = step(Gradients::zeros_for);
    let of_x = step(Gradients::embeddings_only);
    let of_w = step(Gradients::weights_only);
    for ((both, of_x), of_w) in both.iter().zip(&of_x).zip(&of_w) {
        assert_eq!(of_x.embeddings, both.embeddings);
        assert_eq!(of_w.weights, both.weights);
    }
}

#[test]
fn ranks_must_ask_for_the_same_side() {
    let problem = problem(6, (5, 8, 40), false);
    let errors = on_ranks(&even(40, 2), |collective: ThreadCollective, range| {
        let rows = problem.w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&problem.x, &rows, &problem.labels);
        let mut gradients = match collective.rank() {
            0 => Gradients::zeros_for(&shard),
            _ => Gradients::weights_only(&shard),
        };
        let head = Head::on_ranks(menu()[3].build(), collective, range);
        head.forward_backward(&shard, Reduction::Mean, &mut gradients).unwrap_err()
    });
    let reason = "the gradient of the embeddings is requested on some ranks only".to_string();
    assert_eq!(errors, [(); 2].map(|()| Error::Collective { rank: 1, reason: reason.clone() }));
}

#[test]
fn target_angles_are_those_of_a_step() {
    for spec in menu() {
        let inputs =
            problem(8, (6, 3, 10), spec == Spec::Softmax).inputs::<f64>([Layout::Standard; 2]);
        let batch: Batch<f64> = inputs.batch();
        let head = Head::new(spec.build());
        let forward = head.forward(&batch).unwrap();
        assert_eq!(head.target_angles(&batch).unwrap(), forward.target_angles(), "{spec:?}");
    }
}
