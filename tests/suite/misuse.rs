//! What was once accepted in silence, or refused though it is right: each with the right value.

use margin_softmax::ranks::{Collective, class_range};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, CosFace, Error, Gradients, Head, IGNORED, LogitGradients, MarginLoss,
    ModifiedSoftmax, NormalizedLogits, Reduction, Softmax, SphereFace, ZeroEmbedding,
};
use ndarray::{Array1, Array2, array, s};

use crate::common::layout::Layout;
use crate::common::ranks::{even, on_ranks, problem, ranges};

#[test]
fn feature_norms_are_taken_only_where_the_logits_have_none() {
    let (x, w) = (array![[3.0, 4.0], [1.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let refused = logits.clone().with_feature_norms(array![2.0, 2.0]).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(message) if message.contains("feature norms")));
    let elsewhere = NormalizedLogits::from_cosines(logits.cosines().clone()).unwrap();
    let elsewhere = elsewhere.with_feature_norms(array![5.0, 1.0]).unwrap();
    let losses = |logits| ModifiedSoftmax::new().forward(logits, &[0, 1]).unwrap().losses;
    approx::assert_relative_eq!(losses(&elsewhere), losses(&logits), epsilon = 1e-14);
}

#[test]
fn backward_takes_the_forward_of_its_own_loss_alone() {
    let problem = problem(4, (4, 3, 6), false);
    let logits = NormalizedLogits::new(&problem.x, &problem.w).unwrap();
    let labels = &problem.labels[..];
    let losses: Vec<Box<dyn MarginLoss>> = vec![
        Box::new(ArcFace::new(64.0, 0.5).unwrap()),
        Box::new(ArcFace::new(8.0, 0.5).unwrap()),
        Box::new(ArcFace::new(64.0, 0.4).unwrap()),
        Box::new(CosFace::new(64.0, 0.4).unwrap()),
        Box::new(SphereFace::new(4).unwrap()),
        Box::new(SphereFace::new(4).unwrap().with_annealing(5.0).unwrap()),
    ];
    for (i, made) in losses.iter().enumerate() {
        let forward = made.forward(&logits, labels).unwrap();
        for (j, taken) in losses.iter().enumerate() {
            let mut gradients = LogitGradients::zeros_for(&logits);
            let reduction = Reduction::Mean;
            let result = taken.backward_into(&logits, labels, &forward, reduction, &mut gradients);
            if i == j {
                result.unwrap();
            } else {
                assert_eq!(result.unwrap_err(), Error::Forward { row: 0 }, "{made:?}, {taken:?}");
                assert_eq!(gradients, LogitGradients::zeros_for(&logits), "nothing is written");
            }
        }
        // The step of a head over the same batch is the same forward pass.
        let batch = Batch::new(&problem.x, &problem.w, labels);
        let forward = Head::new(made).forward(&batch).unwrap();
        made.backward(&logits, labels, &forward, Reduction::Mean).unwrap();
    }
}

/// Other negatives, or fewer, though every target is the same.
#[test]
fn backward_takes_the_forward_of_its_own_negatives_alone() {
    let x = array![[1.0, 0.2, 0.3], [-0.4, 1.0, 0.1]];
    let w = array![[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.3, 0.2, 1.0], [0.5, -1.0, 0.4]];
    let mut other = w.clone();
    other[[3, 0]] = 0.6;
    let three = w.slice(s![..3, ..]).to_owned();
    let (loss, labels) = (ArcFace::new(8.0, 0.3).unwrap(), [0, 1]);
    let all = [w, other, three].map(|w| NormalizedLogits::new(&x, &w).unwrap());
    for (i, made) in all.iter().enumerate() {
        let forward = loss.forward(made, &labels).unwrap();
        for (j, taken) in all.iter().enumerate() {
            let mut gradients = LogitGradients::zeros_for(taken);
            let before = gradients.clone();
            let result =
                loss.backward_into(taken, &labels, &forward, Reduction::Sum, &mut gradients);
            if i != j {
                assert_eq!(result.unwrap_err(), Error::Forward { row: 0 }, "{i}, {j}");
                assert_eq!(gradients, before, "nothing is written");
            } else {
                result.unwrap();
            }
        }
    }
}

#[test]
fn sub_centers_of_logits_are_set_once() {
    let problem = problem(4, (4, 3, 8), false);
    let logits = NormalizedLogits::new(&problem.x, &problem.w).unwrap();
    let logits = logits.with_sub_centers(2).unwrap();
    for k in [1, 2, 4] {
        let refused = logits.clone().with_sub_centers(k).unwrap_err().to_string();
        assert_eq!(refused, format!("sub-centers per class k must be set once, got {k}"));
    }
}

/// Padding has no direction, and no logit but 0; without an ignored label it is no padding.
#[test]
fn margin_free_logits_of_padding_rows_are_zeros() {
    let x = array![[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]];
    let w = array![[1.0, 0.0], [0.0, 2.0]];
    let losses: [Box<dyn MarginLoss>; 2] =
        [Box::new(ArcFace::new(10.0, 0.5).unwrap()), Box::new(SphereFace::new(4).unwrap())];
    for (loss, expected) in losses.iter().zip([[6.0, 8.0], [3.0, 4.0]]) {
        let logits = NormalizedLogits::new(&x, &w).unwrap();
        let refused = loss.margin_free_logits(&logits).unwrap_err();
        assert!(matches!(refused, Error::DegenerateNorm { row: 0, .. }), "{refused}");
        for label in [IGNORED, 0] {
            let logits = logits.clone().with_ignored_label(label);
            loss.forward(&logits, &[label, 1, label]).unwrap();
            let plain = loss.margin_free_logits(&logits).unwrap();
            let expected = array![[0.0, 0.0], expected, [0.0, 0.0]];
            approx::assert_relative_eq!(plain, expected, max_relative = 1e-15);
        }
    }
}

/// Gradients that leave the type are refused, whatever their number: 3e38 four times, or times the
/// scale.
#[test]
fn gradients_of_bias_and_cosines_beyond_the_type_are_refused() {
    let (x, w, b) = (Array2::<f32>::zeros((4, 2)), Array2::zeros((3, 2)), Array1::zeros(3));
    let labels = [0, 1, 1, 1];
    let batch = Batch::new(&x, &w, &labels).with_bias(&b);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_bias(&b).unwrap();
    let forward = Softmax::new().forward(&logits, &labels).unwrap();
    let attempt = |upstream: f32| {
        let upstream = Array1::from_elem(4, upstream);
        let reduction = Reduction::Weighted(&upstream);
        let mut gradients = Gradients::zeros_for(&batch);
        let mut written = gradients.clone();
        let head = Head::new(Softmax::new());
        let by_head = head.forward_backward(&batch, reduction, &mut written);
        if by_head.is_err() {
            assert_eq!(written, gradients);
        }
        gradients.bias = written.bias;
        let by_logits = Softmax::new().backward(&logits, &labels, &forward, reduction);
        [by_head.map(|_| gradients.bias.unwrap()), by_logits.map(|g| g.bias.unwrap())]
    };
    for answer in attempt(3e38) {
        let refused = answer.unwrap_err();
        assert!(matches!(refused, Error::Overflow { quantity: "the gradient of the bias", .. }));
    }
    for answer in attempt(1e36) {
        let third = 1e36 / 3.0;
        let expected = array![4.0 * third - 1e36, 4.0 * third - 3e36, 4.0 * third];
        approx::assert_relative_eq!(answer.unwrap(), expected, max_relative = 1e-5);
    }

    let (x, w) = (array![[100.0_f32, 0.0]], array![[0.0_f32, 100.0], [100.0, 0.0]]);
    let (loss, logits) = (CosFace::new(64.0, 0.0).unwrap(), NormalizedLogits::new(&x, &w).unwrap());
    let forward = loss.forward(&logits, &[0]).unwrap();
    let upstream = array![6e36];
    let refused = loss.backward(&logits, &[0], &forward, Reduction::Weighted(&upstream));
    let quantity = "the gradient of the cosines";
    assert!(matches!(refused, Err(Error::Overflow { quantity: found, .. }) if found == quantity));
}

#[test]
fn a_gradient_filled_by_hand_carries_every_column_once_its_labels_are_known() {
    let (x, w) = (array![[2.0, 1.0]], array![[1.0, 2.0], [3.0, -1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let mut gradients = LogitGradients::zeros_for(&logits);
    gradients.cosines.assign(&array![[0.5, -2.0]]);
    let refused = logits.backward(&gradients).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(message) if message.contains("no labels")));
    let carried = logits.backward(&gradients.with_labels(&[IGNORED]).unwrap()).unwrap();
    // ∂c_j/∂x = (v_j − c_j·u)/‖x‖
    let unit = |row: ndarray::ArrayView1<f64>| &row / row.dot(&row).sqrt();
    let (u, r) = (unit(x.row(0)), 5.0_f64.sqrt());
    let by_x = |j: usize| (&unit(w.row(j)) - &(&u * unit(w.row(j)).dot(&u))) / r;
    let expected = by_x(0) * 0.5 + by_x(1) * -2.0;
    approx::assert_abs_diff_eq!(carried.embeddings.row(0), expected, epsilon = 1e-15);
}

#[test]
fn ranks_with_different_losses_or_embeddings_are_refused() {
    let problem = problem(9, (4, 3, 10), false);
    let refused = |loss_of: &(dyn Fn(usize) -> Box<dyn MarginLoss> + Sync), sign: f64| {
        let errors = on_ranks(&even(10, 2), |collective, range| {
            let rank = Collective::<f64>::rank(&collective);
            let x = if rank == 1 { &problem.x * sign } else { problem.x.clone() };
            let rows = problem.w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&x, &rows, &problem.labels);
            let head = Head::on_ranks(loss_of(rank), collective, range);
            head.forward(&shard).map(drop)
        });
        assert_eq!(errors[0], errors[1]);
        errors[0].clone()
    };
    let reason = |error: Result<(), Error>| match error {
        Err(Error::Collective { rank: 1, reason }) => reason,
        other => panic!("{other:?}"),
    };
    let arcface = |m: f64| -> Box<dyn MarginLoss> { Box::new(ArcFace::new(64.0, m).unwrap()) };
    assert_eq!(refused(&|_| arcface(0.5), 1.0), Ok(()));
    let embeddings = "the values of the embeddings are not those of rank 0";
    assert_eq!(reason(refused(&|_| arcface(0.5), -1.0)), embeddings);
    let loss = "the loss or one of its parameters is not that of rank 0";
    let others: [&(dyn Fn() -> Box<dyn MarginLoss> + Sync); 4] = [
        &|| arcface(0.5_f64.next_up()),
        &|| Box::new(ArcFace::new(64.0_f64.next_up(), 0.5).unwrap()),
        &|| Box::new(CosFace::new(64.0, 0.5).unwrap()),
        &|| {
            let raw = margin_softmax::losses::Continuation::Raw;
            Box::new(ArcFace::new(64.0, 0.5).unwrap().with_continuation(raw))
        },
    ];
    for other in others {
        let of_rank = |rank| if rank == 1 { other() } else { arcface(0.5) };
        assert_eq!(reason(refused(&of_rank, 1.0)), loss);
    }
}

#[test]
fn a_sampler_of_other_classes_than_there_are_weights_is_refused() {
    let problem = problem(9, (4, 3, 150), false);
    let labels = [1, 2, 3, 4];
    let batch = Batch::new(&problem.x, &problem.w, &labels);
    let sample = ClassSampler::new(100, 0.5, 1).unwrap().sample(&labels).unwrap();
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let error = Head::new(ModifiedSoftmax::new())
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap_err();
    assert_eq!(error, Error::SampledRange { sampled: 0..100, held: 0..150 });
}

#[test]
fn samplers_of_ranges_draw_independently_of_seeds_and_starts() {
    let draw = |seed, start| {
        let mut sampler = ClassSampler::for_range(start..start + 1000, 0.05, seed).unwrap();
        sampler.sample(&[]).unwrap().classes
    };
    assert_eq!(draw(10, 0), draw(10, 0));
    let draws = [draw(10, 0), draw(0, 10), draw(5, 5), draw(9, 1), draw(0, 0)];
    for (i, a) in draws.iter().enumerate() {
        for b in &draws[..i] {
            assert_ne!(a, b);
        }
    }
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
fn a_range_that_ends_before_it_starts_is_refused() {
    let error = ClassSampler::for_range(5..3, 0.5, 1).unwrap_err();
    let message = "range end of the sampler must be no less than its start, got 3";
    assert_eq!(error.to_string(), message);
    let (x, w) = (Array2::<f64>::ones((1, 2)), Array2::ones((0, 2)));
    let errors = on_ranks(&ranges(&[0, 0]), |collective, _| {
        let shard = Batch::new(&x, &w, &[0]);
        let head = Head::on_ranks(ModifiedSoftmax::new(), collective, 5..3);
        head.forward(&shard).unwrap_err()
    });
    let message = "end of the class range must be no less than its start, got 3";
    assert_eq!(errors[0].to_string(), message);
}

#[test]
fn numbers_of_ranks_and_classes_may_be_as_large_as_they_come() {
    assert_eq!(class_range(10, usize::MAX, 3), 10..10);
    assert_eq!(class_range(usize::MAX, 2, 3).end, usize::MAX);
    let (x, w) = (Array2::<f64>::ones((1, 2)), Array2::ones((2, 2)));
    let errors = on_ranks(&ranges(&[0, 0]), |collective, _| {
        let shard = Batch::new(&x, &w, &[0]);
        let range = usize::MAX - 2..usize::MAX;
        let head = Head::on_ranks(ModifiedSoftmax::new(), collective, range);
        head.forward(&shard).unwrap_err()
    });
    assert!(matches!(errors[0], Error::Collective { rank: 0, .. }), "{errors:?}");
    let mut sampler = ClassSampler::for_range(usize::MAX - 20..usize::MAX, 0.5, 1).unwrap();
    let sample = sampler.sample(&[usize::MAX - 7]).unwrap();
    assert_eq!(sample.classes[sample.labels[0]], 13);
}

#[test]
fn no_prediction_is_claimed_for_an_embedding_that_is_skipped() {
    let (x, w) = (array![[0.0, 0.0], [1.0, 0.1]], array![[0.0, 1.0], [1.0, 0.0]]);
    let head = Head::new(ArcFace::default()).with_zero_embeddings(ZeroEmbedding::Skip);
    let forward = head.forward(&Batch::new(&x, &w, &[0, 1])).unwrap();
    assert_eq!(forward.predictions(), [IGNORED, 1]);
    assert_eq!((forward.accuracy(), forward.counted()), (1.0, 1));
    assert_eq!(head.predict(&Batch::unlabeled(&x, &w)).unwrap(), [IGNORED, 1]);
}

/// Whether the loss has a margin or not, and at both levels.
#[test]
fn margin_free_losses_and_norms_come_with_every_forward_pass() {
    let problem = problem(2, (5, 4, 30), false);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let with_margin = CosFace::new(16.0, 0.35).unwrap();
    let plain = Head::new(CosFace::new(16.0, 0.0).unwrap()).forward(&inputs.batch()).unwrap();
    let by_head = Head::new(&with_margin).forward(&inputs.batch()).unwrap();
    let by_logits = with_margin.forward(&inputs.logits(), &problem.labels).unwrap();
    let norms = problem.x.rows().into_iter().map(|row| row.dot(&row).sqrt());
    let norms: ndarray::Array1<f64> = norms.collect();
    for forward in [by_head, by_logits] {
        approx::assert_relative_eq!(
            forward.margin_free_losses(),
            &plain.losses,
            max_relative = 1e-12
        );
        approx::assert_relative_eq!(forward.norms(), &norms, max_relative = 1e-15);
        assert!(forward.losses.iter().zip(forward.margin_free_losses()).all(|(a, b)| a > b));
    }
}

#[test]
fn an_empty_gradient_is_not_asked_for_and_stays_empty() {
    let problem = problem(2, (5, 4, 30), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let mut none = Gradients::embeddings_only(&batch);
    none.embeddings = Array2::zeros((0, 4));
    let head = Head::new(ArcFace::default());
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut none).unwrap();
    assert_eq!(forward, head.forward(&batch).unwrap());
    assert!(none.embeddings.is_empty() && none.weights.is_empty());
}

#[test]
fn a_reversed_bias_is_read_in_its_own_order() {
    let (x, w, b) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0]], array![3.0, 0.5]);
    let reversed = b.slice(s![..;-1]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let losses = |bias: &ndarray::ArrayRef1<f64>| {
        let logits = logits.clone().with_bias(bias).unwrap();
        margin_softmax::Softmax::new().forward(&logits, &[0]).unwrap().losses
    };
    assert_eq!(losses(&reversed), losses(&array![0.5, 3.0]));
}
