//! What losses observe of a batch moves their state as published.

use super::*;

#[test]
fn adaface_moves_its_statistics_as_published() {
    let start = AdaFace::default().with_rate(0.25).unwrap();
    let mut loss = start.clone();
    // Mean 30, and squares of 400, 100 and 900 over n − 1 = 2.
    loss.observe(&[10.0, 20.0, 60.0]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 22.5, max_relative = 1e-15);
    let std = 0.25 * 700.0_f64.sqrt() + 75.0;
    approx::assert_relative_eq!(loss.std(), std, max_relative = 1e-15);
    loss.observe(&[42.5_f32, 42.5]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 27.5, max_relative = 1e-15);
    approx::assert_relative_eq!(loss.std(), 0.75 * std, max_relative = 1e-15);
    assert_eq!((loss.s(), loss.m(), loss.h(), loss.rate()), (64.0, 0.4, 0.333, 0.25));
}

#[test]
fn adaface_clips_the_norms_that_it_observes() {
    let mut loss = AdaFace::default().with_rate(1.0).unwrap();
    loss.observe(&[0.0, 1e6]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 50.0005, max_relative = 1e-15);
    approx::assert_relative_eq!(loss.std(), 99.999 / 2.0_f64.sqrt(), max_relative = 1e-15);
    loss.observe(&[f32::MAX]).unwrap();
    assert_eq!(loss.mean(), 100.0);
    loss.observe(&[1e-30]).unwrap();
    assert_eq!(loss.mean(), 1e-3);
}

#[test]
fn one_norm_has_no_deviation_and_no_norm_changes_nothing() {
    let mut loss = AdaFace::default().with_rate(0.5).unwrap();
    loss.observe(&[30.0]).unwrap();
    assert_eq!((loss.mean(), loss.std()), (25.0, 100.0));
    let before = loss.clone();
    loss.observe::<f64>(&[]).unwrap();
    loss.observe::<f32>(&[]).unwrap();
    assert_eq!(loss, before);
}

#[test]
fn adaface_refuses_what_is_no_norm_and_is_then_as_it_was() {
    let mut loss = AdaFace::default();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = loss.observe(&[1.0, 2.0, value]).unwrap_err();
        let expected = Error::NonFinite { argument: "norms", row: 2, column: 0, value };
        assert_eq!(text(&refused), text(&expected));
        assert_eq!(loss, AdaFace::default());
    }
    let refused = loss.observe(&[1.0, -0.5]).unwrap_err();
    let Error::DegenerateNorm { argument: "norms", row: 1, norm: -0.5, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(refused.to_string().contains("-5e-1"), "{refused}");
    assert_eq!(loss, AdaFace::default());
}

#[test]
fn curricularface_moves_t_as_published() {
    let mut loss = CurricularFace::default().with_t(0.2).unwrap();
    // Cosines 1, 0.5, 0 and −1.
    loss.observe(&[0.0, FRAC_PI_3, FRAC_PI_2, PI]).unwrap();
    approx::assert_relative_eq!(loss.t(), 0.01 * 0.125 + 0.99 * 0.2, max_relative = 1e-14);
    let mut quick = CurricularFace::default().with_rate(1.0).unwrap();
    quick.observe(&[PI]).unwrap();
    assert_eq!(quick.t(), -1.0);
    quick.observe(&[0.0_f32; 3]).unwrap();
    assert_eq!(quick.t(), 1.0);
    let before = quick.clone();
    quick.observe::<f64>(&[]).unwrap();
    assert_eq!(quick, before);
}

#[test]
fn curricularface_refuses_angles_that_are_not_finite_and_is_then_as_it_was() {
    let mut loss = CurricularFace::default().with_t(0.2).unwrap();
    let before = loss.clone();
    for value in [f64::NAN, f64::INFINITY] {
        let refused = loss.observe(&[1.0, value, 2.0]).unwrap_err();
        let expected = Error::NonFinite { argument: "target angles", row: 1, column: 0, value };
        assert_eq!(text(&refused), text(&expected));
        assert_eq!(loss, before);
    }
}

/// Ignored rows have norm 0 and angle π/2, which are no observations.
#[test]
fn what_is_observed_is_of_the_samples_that_count() {
    let x = array![[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [1.0, 0.0]];
    let w = array![[3.0, 4.0], [0.0, 1.0]];
    let batch = Batch::new(&x, &w, &[0, IGNORED, 1, IGNORED]).with_ignored_label(IGNORED);
    let forward = Head::new(CosFace::default()).forward(&batch).unwrap();
    assert_eq!(forward.counted_norms(), [5.0, 10.0]);
    let angle = 0.6_f64.atan2(0.8);
    let angles = forward.counted_target_angles();
    approx::assert_relative_eq!(angles[..], [0.0, angle][..], epsilon = 1e-15);
    approx::assert_relative_eq!(forward.mean_target_angle(), angle / 2.0, epsilon = 1e-15);
    let mean = forward.margin_free_losses().sum() / 2.0;
    approx::assert_relative_eq!(forward.mean_margin_free_loss(), mean, max_relative = 1e-15);
    let batch = Batch::new(&x, &w, &[IGNORED; 4]).with_ignored_label(IGNORED);
    let forward = Head::new(CosFace::default()).forward(&batch).unwrap();
    assert_eq!((forward.mean_target_angle(), forward.mean_margin_free_loss()), (0.0, 0.0));
}
