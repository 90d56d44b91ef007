//! The published formulas of the wider family on one small batch, computed in 40 digits. Published
//! code clips cosines by 1e-3 (AdaFace) and falls back to other formulas where θ + m > π or θ > π/2;
//! this crate does neither. All samples of this batch lie within 76° of their classes, and no cosine
//! within 1e-3 of ±1, so that both agree on every value here.

use margin_softmax::losses::Continuation;
use margin_softmax::{
    AdaFace, ArcFace, Batch, ClassMargins, CurricularFace, Forward, Head, MagFace, MarginLoss,
    MvSoftmax, NormalizedLogits, SphereFace2, UnifiedCrossEntropy,
};
use ndarray::{Array1, Array2, Axis, array};

/// The embeddings and class weights of the tables of values.
pub fn inputs() -> (Array2<f64>, Array2<f64>) {
    let x = array![[12.0, 3.0, -4.0], [-6.0, 18.0, 13.0], [2.0, -3.0, 6.0], [60.0, 60.0, 70.0]];
    let w = array![
        [1.0, 2.0, 2.0],
        [-2.0, 6.0, 3.0],
        [2.0, -1.0, 2.0],
        [0.0, 3.0, -4.0],
        [6.0, -6.0, 7.0]
    ];
    (x, w)
}

pub const LABELS: [usize; 4] = [0, 1, 2, 0];

/// Runs the batch at both levels, which must agree, and returns what the head found.
fn forward<L: MarginLoss>(loss: &L) -> Forward<f64> {
    let (x, w) = inputs();
    let logits = loss.forward(&NormalizedLogits::new(&x, &w).unwrap(), &LABELS).unwrap();
    let forward = Head::new(loss).forward(&Batch::new(&x, &w, &LABELS)).unwrap();
    assert_losses(loss, &logits.losses, &forward.losses.to_vec());
    forward
}

/// Each loss to a part in 10¹⁰: as many digits as were written down.
fn assert_losses<L: MarginLoss>(loss: &L, found: &Array1<f64>, expected: &[f64]) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected;
        assert!(error < 1e-10, "{loss:?}, sample {i}: {found} for {expected}");
    }
}

fn assert_published<L: MarginLoss>(loss: L, expected: [f64; 4]) {
    assert_losses(&loss, &forward(&loss).losses, &expected);
}

#[test]
fn arcface() {
    let expected = [39.9083291251, 1.53768003732, 22.0964795075, 0.000350550055057];
    let loss = ArcFace::new(64.0, 0.5).unwrap();
    assert_published(loss.clone(), expected);
    assert_published(loss.with_continuation(Continuation::Raw), expected);
}

#[test]
fn sub_center_arcface() {
    let (x, mut w) = inputs();
    // Three classes of two rows each.
    w.push(Axis(0), array![3.0, -4.0, 0.0].view()).unwrap();
    let expected = [40.1888861981, 92.90677533, 16.26305901, 0.000280393191469];
    let loss = ArcFace::new(64.0, 0.5).unwrap().with_continuation(Continuation::Raw);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(2).unwrap();
    assert_losses(&loss, &loss.forward(&logits, &LABELS).unwrap().losses, &expected);
    let batch = Batch::new(&x, &w, &LABELS).with_sub_centers(2);
    assert_losses(&loss, &Head::new(&loss).forward(&batch).unwrap().losses, &expected);
}

#[test]
fn curricularface_at_its_first_step() {
    let angles = forward(&ArcFace::default()).target_angles().to_vec();
    let mut loss = CurricularFace::new(64.0, 0.5).unwrap();
    loss.observe(&angles).unwrap();
    assert!((loss.t() - 0.00779611692655).abs() < 1e-14, "{}", loss.t());
    let expected = [25.0049680353, 0.000307934132349, 18.6770474056, 0.000350550055057];
    assert_published(loss.clone(), expected);
    assert_published(loss.with_continuation(Continuation::Linear), expected);
}

#[test]
fn mv_softmax() {
    let expected = [24.2951124905, 17.1627329544, 24.5541125541, 0.678426601007];
    assert_published(MvSoftmax::am(32.0, 0.35, 0.2).unwrap(), expected);
    let expected = [24.1984571531, 0.127965192497, 19.7828968357, 0.00127061210281];
    assert_published(MvSoftmax::arc(32.0, 0.35, 0.2).unwrap(), expected);
    assert_published(MvSoftmax::default(), expected);
}

#[test]
fn magface_with_and_without_its_penalty() {
    let expected = [37.4419423579, 1.40253057486, 19.5605903277, 6.99061101829];
    let unpunished = MagFace::new(64.0, (10.0, 110.0), (0.45, 0.8), 0.0).unwrap();
    assert_published(unpunished.clone(), expected);
    assert_published(unpunished.clone().with_continuation(Continuation::EasyMargin), expected);
    let punished = forward(&MagFace::default()).losses - forward(&unpunished).losses;
    let penalty = punished.mean().unwrap() / 35.0;
    assert!((penalty - 0.0605962022168).abs() < 1e-12, "{penalty}");
}

#[test]
fn adaface_with_the_statistics_of_the_batch() {
    let norms = forward(&ArcFace::default()).norms().to_vec();
    let mut loss = AdaFace::default().with_rate(1.0).unwrap();
    loss.observe(&norms).unwrap();
    assert_published(loss, [33.7289637325, 12.2716671914, 24.5157033463, 13.3269013028]);
}

#[test]
fn landmark_margins() {
    let loss = ClassMargins::from_counts(64.0, &[1, 10, 100, 1000], (0.05, 0.5), -0.25).unwrap();
    for (found, expected) in loss.m1().iter().zip([0.5, 0.2604559757, 0.1257504717, 0.05]) {
        assert!((found - expected).abs() < 1e-10, "{found} for {expected}");
    }
    assert_eq!(loss.m2(), [0.0; 4]);
}

#[test]
fn sphereface2() {
    let expected = [15.7775556224, 6.58901547324, 9.71314247144, 4.1389396544];
    assert_published(SphereFace2::new(32.0, 0.2).unwrap(), expected);
    assert_published(SphereFace2::default(), expected);
}

#[test]
fn unified_cross_entropy() {
    let loss = UnifiedCrossEntropy::default();
    let b = loss.starting_bias(5);
    let expected = [58.9512231378, 48.0895867221, 76.4011698719, 90.3717627231];
    assert_published(loss.with_bias(b).unwrap(), expected);
}
