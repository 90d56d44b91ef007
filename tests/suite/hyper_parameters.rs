//! Losses and samplers say what they were built with, and what they are by default.

use margin_softmax::{
    ArcFace, ClassSampler, Continuation, CosFace, FNormSphereFace, Generalized, MarginLoss, Scale,
    SphereFace,
};

#[test]
fn losses_say_what_they_were_built_with() {
    let arc = ArcFace::new(16.0, 0.4).unwrap().with_continuation(Continuation::Linear);
    assert_eq!((arc.s(), arc.m(), arc.continuation()), (16.0, 0.4, Continuation::Linear));
    let cos = CosFace::new(20.0, 0.25).unwrap();
    assert_eq!((cos.s(), cos.m()), (20.0, 0.25));
    let sphere = SphereFace::new(3).unwrap().with_annealing(5.0).unwrap();
    assert_eq!((sphere.m(), sphere.lambda()), (3, 5.0));
    let fnorm = FNormSphereFace::new(30.0, 2).unwrap().with_annealing(1.5).unwrap();
    assert_eq!((fnorm.s(), fnorm.m(), fnorm.lambda()), (30.0, 2, 1.5));
    let general = Generalized::new(Scale::FeatureNorm, 1.35, 0.4, 0.15)
        .and_then(|loss| loss.with_annealing(2.0))
        .and_then(|loss| loss.with_continuation(Continuation::Raw))
        .unwrap();
    assert_eq!(general.scale(), Scale::FeatureNorm);
    assert_eq!((general.m0(), general.m1(), general.m2()), (1.35, 0.4, 0.15));
    assert_eq!((general.lambda(), general.continuation()), (2.0, Continuation::Raw));
}

#[test]
fn defaults_are_the_published_ones() {
    assert_eq!(ArcFace::default(), ArcFace::new(64.0, 0.5).unwrap());
    assert_eq!(CosFace::default(), CosFace::new(64.0, 0.35).unwrap());
    assert_eq!(SphereFace::default(), SphereFace::new(4).unwrap());
    assert_eq!(FNormSphereFace::default(), FNormSphereFace::new(64.0, 4).unwrap());
    assert_eq!(Generalized::default(), Generalized::new(64.0, 1.0, 0.3, 0.2).unwrap());
}

#[test]
fn samplers_and_samples_say_what_they_were_built_with() {
    let sampler = ClassSampler::for_range(20..100, 0.5, 3).unwrap();
    assert_eq!((sampler.range(), sampler.rate()), (20..100, 0.5));
    let plain = sampler.clone().sample(&[20, 30]).unwrap();
    assert_eq!(plain.correction(), 0.0);
    // 78 classes are not in the batch, and 38 of them were drawn.
    let corrected = sampler.with_correction(true).sample(&[20, 30]).unwrap();
    assert_eq!(corrected.correction(), (78.0_f64 / 38.0).ln());
}
