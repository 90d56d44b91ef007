//! Losses and samplers say what they were built with, what they are by default, and where the ranges
//! of their hyper-parameters end.

use std::f64::consts::PI;
use std::fmt::Debug;

use margin_softmax::custom::{Angle, Sample};
use margin_softmax::losses::{Continuation, MarginKind};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, ElasticFace, Error, FNormSphereFace,
    Generalized, InterclassFilter, LabelSmoothing, MagFace, MarginLoss, MvSoftmax, Scale,
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
fn the_wider_family_says_what_it_was_built_with() {
    let ada = AdaFace::new(32.0, 0.25, 0.5).unwrap();
    assert_eq!((ada.mean(), ada.std(), ada.rate()), (20.0, 100.0, 0.01));
    let ada = ada.with_statistics(7.0, 3.0).unwrap().with_rate(0.125).unwrap();
    assert_eq!((ada.s(), ada.m(), ada.h()), (32.0, 0.25, 0.5));
    assert_eq!((ada.mean(), ada.std(), ada.rate()), (7.0, 3.0, 0.125));
    let mag = MagFace::new(16.0, (2.0, 9.0), (0.1, 0.6), 4.0).unwrap();
    assert_eq!(mag.continuation(), Continuation::Monotone);
    let mag = mag.with_continuation(Continuation::EasyMargin);
    assert_eq!((mag.s(), mag.norms(), mag.margins()), (16.0, (2.0, 9.0), (0.1, 0.6)));
    assert_eq!((mag.lambda_g(), mag.continuation()), (4.0, Continuation::EasyMargin));
    for (elastic, kind) in [
        (ElasticFace::arc(20.0, 0.4, 0.1, 5), MarginKind::Angular),
        (ElasticFace::cos(20.0, 0.4, 0.1, 5), MarginKind::Cosine),
    ] {
        let elastic = elastic.unwrap();
        assert_eq!((elastic.step(), elastic.clone().at_step(8).step()), (0, 8));
        let elastic = elastic.at_step(8);
        assert_eq!((elastic.kind(), elastic.s(), elastic.m()), (kind, 20.0, 0.4));
        assert_eq!((elastic.sigma(), elastic.seed()), (0.1, 5));
        assert_eq!(elastic.scale(), Scale::Fixed(20.0));
    }
    let classes = ClassMargins::new(24.0, vec![0.1, 0.2], vec![-0.3, 0.4]).unwrap();
    assert_eq!(
        (classes.s(), classes.m1(), classes.m2()),
        (24.0, &[0.1, 0.2][..], &[-0.3, 0.4][..])
    );
    let curricular = CurricularFace::new(40.0, 0.3).unwrap();
    assert_eq!((curricular.t(), curricular.rate()), (0.0, 0.01));
    let curricular = curricular.with_t(-0.5).unwrap().with_rate(0.25).unwrap();
    let curricular = curricular.with_continuation(Continuation::Linear);
    assert_eq!((curricular.s(), curricular.m(), curricular.t()), (40.0, 0.3, -0.5));
    assert_eq!((curricular.rate(), curricular.continuation()), (0.25, Continuation::Linear));
    for (mv, kind) in [
        (MvSoftmax::arc(12.0, 0.2, 0.7), MarginKind::Angular),
        (MvSoftmax::am(12.0, 0.2, 0.7), MarginKind::Cosine),
    ] {
        let mv = mv.unwrap();
        assert_eq!((mv.kind(), mv.s(), mv.m(), mv.t()), (kind, 12.0, 0.2, 0.7));
    }
    let filter = InterclassFilter::new(CosFace::default(), 0.3).unwrap();
    assert_eq!((filter.threshold(), filter.loss()), (0.3, &CosFace::default()));
    let smoothing = LabelSmoothing::new(filter.clone(), 0.2).unwrap();
    assert_eq!((smoothing.epsilon(), smoothing.loss()), (0.2, &filter));
}

#[test]
fn defaults_are_the_published_ones() {
    assert_eq!(ArcFace::default(), ArcFace::new(64.0, 0.5).unwrap());
    assert_eq!(CosFace::default(), CosFace::new(64.0, 0.35).unwrap());
    assert_eq!(SphereFace::default(), SphereFace::new(4).unwrap());
    assert_eq!(FNormSphereFace::default(), FNormSphereFace::new(64.0, 4).unwrap());
    assert_eq!(Generalized::default(), Generalized::new(64.0, 1.0, 0.3, 0.2).unwrap());
    let ada = AdaFace::new(64.0, 0.4, 0.333).unwrap().with_statistics(20.0, 100.0).unwrap();
    assert_eq!(AdaFace::default(), ada.with_rate(0.01).unwrap());
    let mag = MagFace::new(64.0, (10.0, 110.0), (0.45, 0.8), 35.0).unwrap();
    assert_eq!(MagFace::default(), mag.with_continuation(Continuation::Monotone));
    assert_eq!(ElasticFace::default(), ElasticFace::arc(64.0, 0.5, 0.05, 0).unwrap().at_step(0));
    let curricular = CurricularFace::new(64.0, 0.5).unwrap().with_t(0.0).unwrap();
    let curricular = curricular.with_continuation(Continuation::Monotone);
    assert_eq!(CurricularFace::default(), curricular.with_rate(0.01).unwrap());
    assert_eq!(MvSoftmax::default(), MvSoftmax::arc(32.0, 0.35, 0.2).unwrap());
}

/// The smallest number above 0.
const LEAST: f64 = f64::from_bits(1);

/// Asserts where the range of an argument ends: its ends are accepted, what lies just beyond them
/// and NaN are refused under the name of the argument.
fn assert_range<L: Debug>(
    named: &str,
    accepted: [f64; 2],
    refused: [f64; 2],
    build: impl Fn(f64) -> Result<L, Error>,
) {
    for value in accepted {
        assert!(build(value).is_ok(), "{named} = {value:e}: {:?}", build(value));
    }
    for value in [refused[0], refused[1], f64::NAN] {
        let refusal = build(value).unwrap_err();
        assert!(matches!(refusal, Error::Parameter { .. }), "{named} = {value:e}: {refusal:?}");
        let said = refusal.to_string();
        assert!(said.starts_with(named), "{said}");
        assert!(said.ends_with(&format!("got {value}")), "{said}");
    }
}

const POSITIVE: ([f64; 2], [f64; 2]) = ([LEAST, f64::MAX], [0.0, f64::INFINITY]);
const NOT_NEGATIVE: ([f64; 2], [f64; 2]) = ([0.0, f64::MAX], [-LEAST, f64::INFINITY]);
const ANGLE: ([f64; 2], [f64; 2]) = ([0.0, PI.next_down()], [-LEAST, PI]);
const COSINE: ([f64; 2], [f64; 2]) = ([-2.0_f64.next_down(), 2.0_f64.next_down()], [-2.0, 2.0]);
const SHARE: ([f64; 2], [f64; 2]) = ([LEAST, 1.0], [0.0, 1.0_f64.next_up()]);

#[test]
fn scales_of_the_wider_family_are_finite_and_positive() {
    let (accepted, refused) = POSITIVE;
    assert_range("scale s", accepted, refused, |s| AdaFace::new(s, 0.4, 0.333));
    let (norms, margins) = ((10.0, 110.0), (0.45, 0.8));
    assert_range("scale s", accepted, refused, |s| MagFace::new(s, norms, margins, 35.0));
    assert_range("scale s", accepted, refused, |s| ElasticFace::arc(s, 0.5, 0.05, 1));
    assert_range("scale s", accepted, refused, |s| ElasticFace::cos(s, 0.35, 0.05, 1));
    assert_range("scale s", accepted, refused, |s| ClassMargins::new(s, vec![0.1], vec![0.1]));
    let counts = [1_u8, 7];
    let from_counts = |s| ClassMargins::from_counts(s, &counts, (0.05, 0.5), -0.25);
    assert_range("scale s", accepted, refused, from_counts);
    assert_range("scale s", accepted, refused, |s| CurricularFace::new(s, 0.5));
    assert_range("scale s", accepted, refused, |s| MvSoftmax::arc(s, 0.35, 0.2));
    assert_range("scale s", accepted, refused, |s| MvSoftmax::am(s, 0.35, 0.2));
}

#[test]
fn adaface_takes_what_its_ranges_hold() {
    let below_one = ([0.0, 1.0_f64.next_down()], [-LEAST, 1.0]);
    assert_range("margin m", below_one.0, below_one.1, |m| AdaFace::new(64.0, m, 0.333));
    let unit = ([-1.0, 1.0], [(-1.0_f64).next_down(), 1.0_f64.next_up()]);
    assert_range("concentration h", unit.0, unit.1, |h| AdaFace::new(64.0, 0.4, h));
    let (accepted, refused) = NOT_NEGATIVE;
    let with = |mean, std| AdaFace::default().with_statistics(mean, std);
    assert_range("mean of the norms", accepted, refused, |mean| with(mean, 1.0));
    assert_range("std of the norms", accepted, refused, |std| with(1.0, std));
    let named = "rate of the statistics";
    assert_range(named, SHARE.0, SHARE.1, |rate| AdaFace::default().with_rate(rate));
}

#[test]
fn magface_takes_what_its_ranges_hold() {
    let by_norms = |low, high| MagFace::new(64.0, (low, high), (0.45, 0.8), 35.0);
    let (accepted, refused) = ([LEAST, 110.0_f64.next_down()], [0.0, f64::INFINITY]);
    assert_range("smallest norm l_a", accepted, refused, |low| by_norms(low, 110.0));
    let (accepted, refused) = ([10.0_f64.next_up(), f64::MAX], [10.0, f64::INFINITY]);
    assert_range("largest norm u_a", accepted, refused, |high| by_norms(10.0, high));
    let by_margins = |low, high| MagFace::new(64.0, (10.0, 110.0), (low, high), 35.0);
    assert_range("smallest margin l_m", [0.0, 0.8], [-LEAST, PI], |low| by_margins(low, 0.8));
    let (accepted, refused) = ([0.45, PI.next_down()], [0.45_f64.next_down(), PI]);
    assert_range("largest margin u_m", accepted, refused, |high| by_margins(0.45, high));
    let (accepted, refused) = NOT_NEGATIVE;
    let by_penalty = |lambda| MagFace::new(64.0, (10.0, 110.0), (0.45, 0.8), lambda);
    assert_range("penalty lambda_g", accepted, refused, by_penalty);
    // s K u² l² / (u² − l²) = 64 · 0.0035 · 1,210,000 / 12,000
    let smallest = MagFace::default().smallest_lambda();
    approx::assert_relative_eq!(smallest, 0.224 * 1210.0 / 12.0, max_relative = 1e-14);
}

#[test]
fn elasticface_takes_what_its_ranges_hold() {
    let (accepted, refused) = ANGLE;
    let named = "angular margin m";
    assert_range(named, accepted, refused, |m| ElasticFace::arc(64.0, m, 0.05, 1));
    let named = "standard deviation sigma";
    assert_range(named, accepted, refused, |sigma| ElasticFace::arc(64.0, 0.5, sigma, 1));
    let below_two = ([0.0, 2.0_f64.next_down()], [-LEAST, 2.0]);
    let by_sigma = |sigma| ElasticFace::cos(64.0, 0.35, sigma, 1);
    assert_range(named, below_two.0, below_two.1, by_sigma);
    let (accepted, refused) = COSINE;
    let named = "cosine margin m";
    assert_range(named, accepted, refused, |m| ElasticFace::cos(64.0, m, 0.05, 1));
}

#[test]
fn class_margins_take_what_their_ranges_hold() {
    let named = "angular margin m1 of a class";
    let by_m1 = |m| ClassMargins::new(64.0, vec![0.1, m], vec![0.0; 2]);
    assert_range(named, ANGLE.0, ANGLE.1, by_m1);
    let named = "cosine margin m2 of a class";
    let by_m2 = |m| ClassMargins::new(64.0, vec![0.1; 2], vec![0.0, m]);
    assert_range(named, COSINE.0, COSINE.1, by_m2);
    let none = ClassMargins::new(64.0, vec![], vec![]).unwrap_err();
    assert!(matches!(none, Error::Empty { argument: "angular margins m1", .. }), "{none:?}");
    let uneven = ClassMargins::new(64.0, vec![0.1; 3], vec![0.1; 2]).unwrap_err();
    let (expected, actual) = (vec![3], vec![2]);
    assert_eq!(uneven, Error::Shape { argument: "cosine margins m2", expected, actual });
}

#[test]
fn margins_from_counts_take_what_their_ranges_hold() {
    let counts = [1_u32, 10, 100];
    let by_margins = |low, high| ClassMargins::from_counts(64.0, &counts, (low, high), -0.25);
    assert_range("lowest margin", [0.0, 0.5], [-LEAST, PI], |low| by_margins(low, 0.5));
    let (accepted, refused) = ([0.05, PI.next_down()], [0.05_f64.next_down(), PI]);
    assert_range("highest margin", accepted, refused, |high| by_margins(0.05, high));
    let by_power = |power| ClassMargins::from_counts(64.0, &counts, (0.05, 0.5), power);
    let named = "power of the counts";
    assert_range(named, [-LEAST, f64::MIN], [0.0, f64::NEG_INFINITY], by_power);
    // So steep a power leaves the smallest class alone with the highest margin.
    assert_eq!(by_power(f64::MIN).unwrap().m1(), [0.5, 0.05, 0.05]);
    let refusal = |counts: &[i64]| ClassMargins::from_counts(64.0, counts, (0.05, 0.5), -0.25);
    for (count, counts) in [(0, [5, 0, 7]), (-3, [-3, 5, 7])] {
        let said = refusal(&counts).unwrap_err().to_string();
        assert_eq!(said, format!("number of samples of a class must be >= 1, got {count}"));
    }
    let none = refusal(&[]).unwrap_err();
    assert!(matches!(none, Error::Empty { argument: "counts", .. }), "{none:?}");
    // Classes of one size all have the highest margin, whatever the size.
    for counts in [vec![1], vec![i64::MAX; 3], vec![250, 250]] {
        let loss = refusal(&counts).unwrap();
        assert!(loss.m1().iter().all(|&m| m == 0.5), "{loss:?}");
        assert_eq!(loss.m2(), vec![0.0; counts.len()]);
    }
}

/// The shares are of n^p between those of the smallest and the largest class, which for p → 0 are
/// those of ln n.
#[test]
fn margins_from_counts_are_those_of_the_formula_at_every_power() {
    let by = |counts: &[u64], power| ClassMargins::from_counts(64.0, counts, (0.0, 0.5), power);
    let close = |loss: Result<ClassMargins, Error>, expected: [f64; 3]| {
        let loss = loss.unwrap();
        let off = loss.m1().iter().zip(expected).map(|(m, e)| (m - e).abs());
        assert!(off.fold(0.0, f64::max) < 1e-15, "{loss:?}, not {expected:?}");
    };
    for power in [-1e-320, -1e-20, -1e-17] {
        close(by(&[1, 10, 1000], power), [0.5, 0.5 * 2.0 / 3.0, 0.0]);
    }
    // Counts beyond the integers of f64, and as close to each other as integers can be.
    let large = 1_u64 << 60;
    close(by(&[large, large + 1, large + 2], -0.25), [0.5, 0.25, 0.0]);
    // A range of no width, at the end of what margins may be.
    for margin in [0.05, PI.next_down()] {
        let counts = [1_u64, 3, 7, 29, 1000];
        let loss = ClassMargins::from_counts(64.0, &counts, (margin, margin), -0.25).unwrap();
        assert_eq!(loss.m1(), [margin; 5]);
    }
}

#[test]
fn magface_takes_norms_of_any_magnitude() {
    for unit in [1e-300, 1e-170, 1.0, 1e170, 1e300] {
        let norms = (10.0 * unit, 110.0 * unit);
        let loss = MagFace::new(64.0, norms, (0.45, 0.8), 35.0).unwrap();
        let expected = 0.224 * 1210.0 / 12.0 * unit;
        approx::assert_relative_eq!(loss.smallest_lambda(), expected, max_relative = 1e-14);
        let at = |norm| loss.target_of(&Sample::new(Angle::from_theta(0.5), norm, 0, 0));
        let middle = at(60.0 * unit);
        approx::assert_relative_eq!(middle.value, 1.125_f64.cos(), max_relative = 1e-14);
        let penalty = 35.0 * (60.0 / 12100.0 + 1.0 / 60.0) / unit;
        approx::assert_relative_eq!(middle.penalty, penalty, max_relative = 1e-14);
        assert_eq!(at(110.0 * unit).penalty_slope, 0.0);
    }
    let narrow = (1e-320, 2e-320);
    let loss = MagFace::new(64.0, narrow, (0.45, 0.8), 0.0).unwrap();
    let target = loss.target_of(&Sample::new(Angle::from_theta(0.5), 1.0, 0, 0));
    approx::assert_relative_eq!(target.value, 1.3_f64.cos(), max_relative = 1e-14);
    assert_eq!((target.penalty, target.norm_slope), (0.0, 0.0));
}

#[test]
fn losses_with_hard_negatives_take_what_their_ranges_hold() {
    let named = "angular margin m";
    assert_range(named, ANGLE.0, ANGLE.1, |m| CurricularFace::new(64.0, m));
    assert_range(named, ANGLE.0, ANGLE.1, |m| MvSoftmax::arc(32.0, m, 0.2));
    assert_range("cosine margin m", COSINE.0, COSINE.1, |m| MvSoftmax::am(32.0, m, 0.2));
    let around = ([-1.0, 1.0], [(-1.0_f64).next_down(), 1.0_f64.next_up()]);
    let with_t = |t| CurricularFace::default().with_t(t);
    assert_range("mean target cosine t", around.0, around.1, with_t);
    assert_range("rate of t", SHARE.0, SHARE.1, |rate| CurricularFace::default().with_rate(rate));
    let (accepted, refused) = NOT_NEGATIVE;
    let named = "weight t of hard negatives";
    assert_range(named, accepted, refused, |t| MvSoftmax::arc(32.0, 0.35, t));
    assert_range(named, accepted, refused, |t| MvSoftmax::am(32.0, 0.35, t));
}

#[test]
fn losses_around_losses_take_what_their_ranges_hold() {
    let (accepted, refused) = ([(-1.0_f64).next_up(), 1.0], [-1.0, 1.0_f64.next_up()]);
    let filter = |threshold| InterclassFilter::new(CosFace::default(), threshold);
    assert_range("interclass threshold", accepted, refused, filter);
    let (accepted, refused) = ([0.0, 1.0], [-LEAST, 1.0_f64.next_up()]);
    let smoothing = |epsilon| LabelSmoothing::new(CosFace::default(), epsilon);
    assert_range("label smoothing epsilon", accepted, refused, smoothing);
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
