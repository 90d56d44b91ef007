//! Losses, schedules and samplers as they are written and read: bit for bit, and checked.

use std::fmt::Debug;
use std::ops::Range;

use margin_softmax::config::LossConfig;
use margin_softmax::losses::Continuation;
use margin_softmax::sampling::{ClassSampler, SamplerState};
use margin_softmax::schedule::{LambdaAnnealing, MarginWarmup};
use margin_softmax::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, ElasticFace, FNormSphereFace,
    Generalized, InterclassFilter, LabelSmoothing, MagFace, MarginLoss, ModifiedSoftmax, MvSoftmax,
    Scale, Softmax, SphereFace,
};
use proptest::num::f64::{NORMAL, POSITIVE, SUBNORMAL, ZERO};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Equal to the last bit: `Debug` tells every f64 from every other, the two zeros too.
fn assert_same<T: Debug>(read: &T, written: &T) {
    assert_eq!(format!("{read:?}"), format!("{written:?}"));
}

fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn through_toml<T: Serialize + DeserializeOwned>(value: &T) -> T {
    toml::from_str(&toml::to_string(value).unwrap()).unwrap()
}

fn through_postcard<T: Serialize + DeserializeOwned>(value: &T) -> T {
    postcard::from_bytes(&postcard::to_stdvec(value).unwrap()).unwrap()
}

fn through_cbor<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    ciborium::from_reader(bytes.as_slice()).unwrap()
}

fn assert_comes_back<T: Serialize + DeserializeOwned + Debug>(value: &T) {
    for read in
        [through_json(value), through_toml(value), through_postcard(value), through_cbor(value)]
    {
        assert_same(&read, value);
    }
}

fn refusal<T: DeserializeOwned + Debug>(json: &str) -> String {
    serde_json::from_str::<T>(json).unwrap_err().to_string()
}

/// Numbers that a careless writer or reader moves by a bit.
const AWKWARD: [f64; 4] = [0.1 + 0.2, f64::MIN_POSITIVE / 4096.0, f64::MAX, 1.0 - f64::EPSILON];

fn losses() -> Vec<LossConfig> {
    let [a, b, c, d] = AWKWARD;
    let continued = |loss: Generalized| loss.with_continuation(Continuation::Raw).unwrap();
    let generalized = |scale: Scale| {
        let loss = Generalized::new(scale, a, b, -0.0).unwrap().with_annealing(c).unwrap();
        LossConfig::Generalized(continued(loss))
    };
    vec![
        LossConfig::Softmax(Softmax::new()),
        LossConfig::ModifiedSoftmax(ModifiedSoftmax::new()),
        LossConfig::SphereFace(SphereFace::new(u32::MAX).unwrap().with_annealing(b).unwrap()),
        LossConfig::FNormSphereFace(FNormSphereFace::new(a, 3).unwrap().with_annealing(d).unwrap()),
        LossConfig::CosFace(CosFace::new(c, -d).unwrap()),
        LossConfig::ArcFace(
            ArcFace::new(d, a).unwrap().with_continuation(Continuation::EasyMargin),
        ),
        generalized(Scale::Fixed(d)),
        generalized(Scale::FeatureNorm),
        generalized(Scale::Unnormalized),
    ]
}

/// The wider family, each loss with a state that no default has.
fn wider_losses() -> Vec<LossConfig> {
    let [a, b, c, d] = AWKWARD;
    let adaface = AdaFace::new(c, a, b).unwrap().with_statistics(d, b).unwrap();
    let magface = MagFace::new(c, (b, a), (-0.0, d), c).unwrap();
    // TOML has whole numbers of 63 bits.
    let (seed, step) = (i64::MAX as u64, i64::MAX as u64 - 1);
    let curricular = CurricularFace::new(d, a).unwrap().with_t(-a).unwrap();
    let inner = Box::new(LossConfig::CurricularFace(curricular.clone().with_rate(a).unwrap()));
    let smoothed = LossConfig::LabelSmoothing(LabelSmoothing::new(inner, b).unwrap());
    let elastic = ElasticFace::arc(d, a, b, seed).unwrap().at_step(step);
    let filtered = Box::new(LossConfig::ElasticFace(elastic.clone()));
    let filtered = LossConfig::InterclassFilter(InterclassFilter::new(filtered, -a).unwrap());
    vec![
        LossConfig::AdaFace(adaface.with_rate(a).unwrap()),
        LossConfig::MagFace(magface.with_continuation(Continuation::Linear)),
        LossConfig::ElasticFace(elastic),
        LossConfig::ElasticFace(ElasticFace::cos(a, -d, b, 7).unwrap().at_step(1)),
        LossConfig::ClassMargins(ClassMargins::new(a, vec![a, b, 0.0], vec![-0.0, -a, d]).unwrap()),
        LossConfig::CurricularFace(curricular.with_continuation(Continuation::Raw)),
        LossConfig::MvSoftmax(MvSoftmax::arc(c, d, b).unwrap()),
        LossConfig::MvSoftmax(MvSoftmax::am(b, -d, c).unwrap()),
        LossConfig::LabelSmoothing(LabelSmoothing::new(Box::new(filtered.clone()), d).unwrap()),
        smoothed,
        filtered,
    ]
}

#[test]
fn every_loss_comes_back_bit_for_bit() {
    for config in losses() {
        for read in [through_json(&config), through_toml(&config), through_cbor(&config)] {
            assert_same(&read, &config);
        }
        match &config {
            LossConfig::Softmax(loss) => assert_comes_back(loss),
            LossConfig::ModifiedSoftmax(loss) => assert_comes_back(loss),
            LossConfig::SphereFace(loss) => assert_comes_back(loss),
            LossConfig::FNormSphereFace(loss) => assert_comes_back(loss),
            LossConfig::CosFace(loss) => assert_comes_back(loss),
            LossConfig::ArcFace(loss) => assert_comes_back(loss),
            LossConfig::Generalized(loss) => assert_comes_back(loss),
            other => panic!("{other:?} is not in the list"),
        }
    }
}

#[test]
fn every_loss_of_the_wider_family_comes_back_with_its_state_bit_for_bit() {
    for config in wider_losses() {
        for read in [through_json(&config), through_toml(&config), through_cbor(&config)] {
            assert_same(&read, &config);
        }
        match &config {
            LossConfig::AdaFace(loss) => assert_comes_back(loss),
            LossConfig::MagFace(loss) => assert_comes_back(loss),
            LossConfig::ElasticFace(loss) => assert_comes_back(loss),
            LossConfig::ClassMargins(loss) => assert_comes_back(loss),
            LossConfig::CurricularFace(loss) => assert_comes_back(loss),
            LossConfig::MvSoftmax(loss) => assert_comes_back(loss),
            // These hold a configuration, which a format without names cannot hold.
            LossConfig::LabelSmoothing(_) | LossConfig::InterclassFilter(_) => (),
            other => panic!("{other:?} is not in the list"),
        }
    }
    let inner = InterclassFilter::new(ArcFace::new(AWKWARD[0], 0.1).unwrap(), AWKWARD[3]).unwrap();
    assert_comes_back(&LabelSmoothing::new(inner.clone(), AWKWARD[1]).unwrap());
    assert_comes_back(&inner);
}

#[test]
fn a_loss_read_again_observes_on_as_if_it_had_never_stopped() {
    let (mut adaface, mut curricular) = (AdaFace::default(), CurricularFace::default());
    for step in 0..20 {
        let (mut adaface_again, mut curricular_again) =
            (through_json(&adaface), through_cbor(&curricular));
        let norms = [10.0 + f64::from(step), 3.7, 90.1];
        let angles = [0.1 * f64::from(step), 1.3];
        adaface.observe(&norms).unwrap();
        adaface_again.observe(&norms).unwrap();
        assert_same(&adaface_again, &adaface);
        curricular.observe(&angles).unwrap();
        curricular_again.observe(&angles).unwrap();
        assert_same(&curricular_again, &curricular);
    }
    let elastic = ElasticFace::arc(64.0, 0.5, 0.05, 9).unwrap().at_step(123);
    let again = through_toml(&elastic);
    assert!((0..50).all(|row| again.margin_of(row) == elastic.margin_of(row)));
}

#[test]
fn every_schedule_comes_back_bit_for_bit() {
    let [a, b, c, d] = AWKWARD;
    assert_comes_back(&LambdaAnnealing::new(a, b, c, d).unwrap());
    // TOML has whole numbers of 63 bits.
    let steps = i64::MAX as usize;
    let warmup = MarginWarmup::new(-a, steps).unwrap().with_start(d).unwrap();
    assert_comes_back(&warmup.with_delay(17));
}

proptest! {
    #[test]
    fn any_number_comes_back_bit_for_bit(
        s in POSITIVE | NORMAL | SUBNORMAL, m in prop_oneof![-1.9..1.9, SUBNORMAL | ZERO],
    ) {
        assert_comes_back(&CosFace::new(s.abs(), m).unwrap());
    }
}

#[test]
fn every_scale_and_continuation_comes_back() {
    use Continuation::{EasyMargin, Linear, Monotone, Raw};
    for continuation in [Monotone, Raw, Linear, EasyMargin] {
        assert_same(&through_json(&continuation), &continuation);
        assert_same(&through_postcard(&continuation), &continuation);
    }
    for scale in [Scale::Fixed(64.0), Scale::FeatureNorm, Scale::Unnormalized] {
        assert_same(&through_json(&scale), &scale);
        assert_same(&through_postcard(&scale), &scale);
    }
}

#[test]
fn a_configuration_picks_the_loss() {
    let arcface = ArcFace::new(32.0, 0.4).unwrap();
    let config: LossConfig =
        serde_json::from_str(r#"{ "m": 0.4, "loss": "ArcFace", "s": 32 }"#).unwrap();
    assert_eq!(config, LossConfig::ArcFace(arcface.clone()));
    assert_same(&format!("{:?}", config.build()), &format!("{arcface:?}"));
    for config in losses().into_iter().chain(wider_losses()) {
        let (name, built) = (format!("{config:?}"), format!("{:?}", config.build()));
        assert!(name.ends_with(&format!("({built})")), "{name} builds {built}");
    }
}

#[test]
fn a_training_run_reads_its_losses_and_schedules_from_one_file() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Run {
        loss: LossConfig,
        annealing: LambdaAnnealing,
        warmup: MarginWarmup,
    }

    let run: Run = toml::from_str(
        r#"
        [loss]
        loss = "Generalized"
        scale = "FeatureNorm"
        m0 = 3
        m1 = 0
        m2 = 0.0
        continuation = "Raw"

        [annealing]
        minimum = 2

        [warmup]
        margin = 3
        steps = 1000
        start = 1
        "#,
    )
    .unwrap();
    let loss = Generalized::new(Scale::FeatureNorm, 3.0, 0.0, 0.0).unwrap();
    let loss = loss.with_continuation(Continuation::Raw).unwrap();
    assert_eq!(run.loss, LossConfig::Generalized(loss));
    assert_eq!(run.annealing, LambdaAnnealing::new(1000.0, 0.12, 1.0, 2.0).unwrap());
    assert_eq!(run.warmup.at(500), 2.0);
}

#[test]
fn a_missing_field_has_the_papers_value() {
    let named = |name: &str| -> LossConfig {
        serde_json::from_str(&format!(r#"{{ "loss": "{name}" }}"#)).unwrap()
    };
    for (name, default) in [
        ("Softmax", LossConfig::Softmax(Softmax)),
        ("ModifiedSoftmax", LossConfig::ModifiedSoftmax(ModifiedSoftmax)),
        ("SphereFace", LossConfig::SphereFace(SphereFace::default())),
        ("FNormSphereFace", LossConfig::FNormSphereFace(FNormSphereFace::default())),
        ("CosFace", LossConfig::CosFace(CosFace::default())),
        ("ArcFace", LossConfig::ArcFace(ArcFace::default())),
        ("Generalized", LossConfig::Generalized(Generalized::default())),
        ("AdaFace", LossConfig::AdaFace(AdaFace::default())),
        ("MagFace", LossConfig::MagFace(MagFace::default())),
        ("ElasticFace", LossConfig::ElasticFace(ElasticFace::default())),
        ("CurricularFace", LossConfig::CurricularFace(CurricularFace::default())),
        ("MvSoftmax", LossConfig::MvSoftmax(MvSoftmax::default())),
    ] {
        assert_eq!(named(name), default);
    }
    let default: LambdaAnnealing = serde_json::from_str("{}").unwrap();
    assert_eq!(default, LambdaAnnealing::default());
    let half: CosFace = toml::from_str("m = 0.4").unwrap();
    assert_eq!(half, CosFace::new(CosFace::default().s(), 0.4).unwrap());
    let statistics: AdaFace = toml::from_str("mean = 31").unwrap();
    assert_eq!(statistics, AdaFace::default().with_statistics(31.0, 100.0).unwrap());
    let cosine: ElasticFace = toml::from_str("kind = 'Cosine'\nm = 0.35\nstep = 4").unwrap();
    assert_eq!(cosine, ElasticFace::cos(64.0, 0.35, 0.05, 0).unwrap().at_step(4));
    let am: MvSoftmax = toml::from_str("kind = 'Cosine'").unwrap();
    assert_eq!(am, MvSoftmax::am(32.0, 0.35, 0.2).unwrap());
}

#[test]
fn what_has_no_default_is_needed() {
    for (fields, missing) in [
        (r#""ClassMargins", "m1": [0.1], "m2": [0]"#, "s"),
        (r#""ClassMargins", "s": 64, "m2": [0]"#, "m1"),
        (r#""ClassMargins", "s": 64, "m1": [0.1]"#, "m2"),
        (r#""LabelSmoothing", "of": { "loss": "CosFace" }"#, "epsilon"),
        (r#""LabelSmoothing", "epsilon": 0.1"#, "of"),
        (r#""InterclassFilter", "of": { "loss": "CosFace" }"#, "threshold"),
        (r#""InterclassFilter", "threshold": 0.4"#, "of"),
    ] {
        let said = refusal::<LossConfig>(&format!(r#"{{ "loss": {fields} }}"#));
        assert!(said.contains(&format!("missing field `{missing}`")), "{said}");
    }
}

#[test]
fn losses_around_losses_are_read_from_the_inside_out() {
    let config: LossConfig = serde_json::from_str(
        r#"{ "loss": "LabelSmoothing", "epsilon": 0.1, "of": {
            "loss": "InterclassFilter", "threshold": 0.4, "of": { "loss": "ArcFace", "s": 32 } } }"#,
    )
    .unwrap();
    let arcface = LossConfig::ArcFace(ArcFace::new(32.0, 0.5).unwrap());
    let filter = InterclassFilter::new(Box::new(arcface), 0.4).unwrap();
    let filter = Box::new(LossConfig::InterclassFilter(filter));
    let expected = LossConfig::LabelSmoothing(LabelSmoothing::new(filter, 0.1).unwrap());
    assert_eq!(config, expected);
    assert_eq!((config.label_smoothing(), config.scale()), (0.1, Scale::Fixed(32.0)));
    assert_eq!(config.hard_negatives().unwrap().coefficients(), [0.0; 3]);
    let said = refusal::<LossConfig>(
        r#"{ "loss": "LabelSmoothing", "epsilon": 0.1, "of": { "loss": "ArcFace", "m": -1 } }"#,
    );
    assert!(said.starts_with("of: angular margin m must be in [0, π)"), "{said}");
}

#[test]
fn a_number_out_of_range_is_refused_with_its_field_and_value() {
    for (fields, expected) in [
        (r#""SphereFace", "m": 0"#, "angular factor m must be an integer >= 1, got 0"),
        (r#""SphereFace", "lambda": -1"#, "annealing lambda must be finite and >= 0, got -1"),
        (r#""FNormSphereFace", "s": -0.0"#, "scale s must be finite and > 0, got -0"),
        (r#""CosFace", "s": 0"#, "scale s must be finite and > 0, got 0"),
        (
            r#""ArcFace", "m": -0.5"#,
            "angular margin m must be in [0, π) radians (arguments are scale s, then margin m), \
             got -0.5",
        ),
        (r#""Generalized", "m0": 0"#, "angular factor m0 must be finite and > 0, got 0"),
        (r#""Generalized", "scale": -2"#, "scale: scale s must be finite and > 0, got -2"),
        (
            r#""Generalized", "m0": 2, "continuation": "Linear""#,
            "angular factor m0 must be 1 for the continuations Linear and EasyMargin, got 2",
        ),
        (
            r#""AdaFace", "m": 1"#,
            "margin m must be in [0, 1): the cosine margin reaches 2m (arguments are scale s, then \
             margin m, then concentration h), got 1",
        ),
        (r#""AdaFace", "h": -1.5"#, "concentration h must be in [-1, 1], got -1.5"),
        (r#""AdaFace", "mean": -1"#, "mean of the norms must be finite and >= 0, got -1"),
        (r#""AdaFace", "std": -1"#, "std of the norms must be finite and >= 0, got -1"),
        (r#""AdaFace", "rate": 0"#, "rate of the statistics must be in (0, 1], got 0"),
        (
            r#""MagFace", "norms": [10, 10]"#,
            "largest norm u_a must be finite and above the smallest norm l_a, got 10",
        ),
        (
            r#""MagFace", "margins": [0.8, 0.45]"#,
            "largest margin u_m must be no less than the smallest margin l_m, got 0.45",
        ),
        (r#""MagFace", "lambda_g": -35"#, "penalty lambda_g must be finite and >= 0, got -35"),
        (
            r#""ElasticFace", "sigma": 4"#,
            "standard deviation sigma must be in [0, π) radians (arguments are scale s, then m, \
             then sigma), got 4",
        ),
        (
            r#""ElasticFace", "kind": "Cosine", "sigma": 2"#,
            "standard deviation sigma must be in [0, 2), got 2",
        ),
        (
            r#""ClassMargins", "s": 64, "m1": [0.1, 4], "m2": [0, 0]"#,
            "angular margin m1 of a class must be in [0, π) radians, got 4",
        ),
        (r#""CurricularFace", "t": 1.5"#, "mean target cosine t must be in [-1, 1], got 1.5"),
        (r#""CurricularFace", "rate": 2"#, "rate of t must be in (0, 1], got 2"),
        (
            r#""MvSoftmax", "t": -0.2"#,
            "weight t of hard negatives must be finite and >= 0, got -0.2",
        ),
        (
            r#""MvSoftmax", "kind": "Cosine", "m": 2"#,
            "cosine margin m must be in (-2, 2), a difference of cosines (arguments are scale s, \
             margin m, t), got 2",
        ),
        (
            r#""LabelSmoothing", "epsilon": 1.1, "of": { "loss": "Softmax" }"#,
            "label smoothing epsilon must be in [0, 1], got 1.1",
        ),
        (
            r#""InterclassFilter", "threshold": -1, "of": { "loss": "CosFace" }"#,
            "interclass threshold must be in (-1, 1], got -1",
        ),
        (
            r#""InterclassFilter", "threshold": 0.4, "of": { "loss": "MvSoftmax" }"#,
            "number of rules for hard negatives must be 0: a filter takes the place of the inner \
             loss's own, got 1",
        ),
    ] {
        assert_eq!(refusal::<LossConfig>(&format!(r#"{{ "loss": {fields} }}"#)), expected);
    }
    let said = toml::from_str::<CosFace>("m = nan").unwrap_err().to_string();
    assert!(said.contains("cosine margin m must be in (-2, 2)"), "{said}");
    let said = refusal::<LambdaAnnealing>(r#"{ "gamma": -0.12 }"#);
    assert!(said.starts_with("annealing gamma must be finite and >= 0, got -0.12"), "{said}");
}

#[test]
fn a_value_of_another_kind_is_refused_with_its_field() {
    for (fields, expected) in [
        (r#""ArcFace", "s": "64""#, r#"s: invalid type: string "64", expected f64"#),
        (r#""ArcFace", "m": null"#, "m: invalid type: null, expected f64"),
        (r#""SphereFace", "m": -4"#, "m: invalid value: integer `-4`, expected u32"),
        (r#""SphereFace", "m": 2.5"#, "m: invalid type: floating point `2.5`, expected u32"),
        (
            r#""Generalized", "scale": "Fixed""#,
            "scale: invalid value: string \"Fixed\", expected a number, \"FeatureNorm\" or \
             \"Unnormalized\"",
        ),
        (
            r#""ArcFace", "continuation": "linear""#,
            "continuation: unknown variant `linear`, expected one of `Monotone`, `Raw`, \
             `Linear`, `EasyMargin`",
        ),
        (
            r#""MvSoftmax", "kind": "Arc""#,
            "kind: unknown variant `Arc`, expected `Angular` or `Cosine`",
        ),
        (r#""ElasticFace", "step": -1"#, "step: invalid value: integer `-1`, expected u64"),
        (r#""AdaFace", "mean": "20""#, r#"mean: invalid type: string "20", expected f64"#),
        (
            r#""ClassMargins", "s": 64, "m1": [0.1, "x"], "m2": [0, 0]"#,
            r#"m1[1]: invalid type: string "x", expected f64"#,
        ),
    ] {
        assert_eq!(refusal::<LossConfig>(&format!(r#"{{ "loss": {fields} }}"#)), expected);
    }
}

#[test]
fn what_a_loss_does_not_have_is_refused() {
    for (json, expected) in [
        (
            r#"{ "loss": "ArcFace", "margin": 1 }"#,
            "unknown field `margin`, expected one of `s`, `m`, `continuation`",
        ),
        (
            r#"{ "loss": "AdaFace", "alpha": 1 }"#,
            "unknown field `alpha`, expected one of `s`, `m`, `h`, `mean`, `std`, `rate`",
        ),
        (
            r#"{ "loss": "MagFace", "l_a": 10 }"#,
            "unknown field `l_a`, expected one of `s`, `norms`, `margins`, `lambda_g`, `continuation`",
        ),
        (
            r#"{ "loss": "ElasticFace", "std": 0.05 }"#,
            "unknown field `std`, expected one of `kind`, `s`, `m`, `sigma`, `seed`, `step`",
        ),
        (
            r#"{ "loss": "ClassMargins", "s": 64, "m1": [0], "m2": [0], "m3": [0] }"#,
            "unknown field `m3`, expected one of `s`, `m1`, `m2`",
        ),
        (
            r#"{ "loss": "CurricularFace", "alpha": 0.01 }"#,
            "unknown field `alpha`, expected one of `s`, `m`, `t`, `rate`, `continuation`",
        ),
        (
            r#"{ "loss": "MvSoftmax", "rate": 0.01 }"#,
            "unknown field `rate`, expected one of `kind`, `s`, `m`, `t`",
        ),
        (
            r#"{ "loss": "LabelSmoothing", "epsilon": 0.1, "s": 64, "of": { "loss": "CosFace" } }"#,
            "unknown field `s`, expected `of` or `epsilon`",
        ),
        (
            r#"{ "loss": "InterclassFilter", "loss_of": 1 }"#,
            "unknown field `loss_of`, expected `of` or `threshold`",
        ),
        (r#"{ "loss": "Softmax", "s": 64 }"#, "unknown field `s`, there are no fields"),
        (r#"{ "loss": "SphereFace", "s": 64 }"#, "unknown field `s`, expected `m` or `lambda`"),
        (r#"{ "loss": "CosFace", "m": 0.3, "m": 0.4 }"#, "duplicate field `m`"),
        (r#"{ "loss": "Arcface" }"#, "unknown variant `Arcface`, expected one of `Softmax`"),
        (r#"{ "s": 64 }"#, "missing field `loss`"),
    ] {
        let said = refusal::<LossConfig>(json);
        assert!(said.contains(expected), "{said}");
    }
    let said = refusal::<MarginWarmup>(r#"{ "margin": 0.5 }"#);
    assert!(said.contains("missing field `steps`"), "{said}");
}

#[test]
fn a_sampler_read_again_draws_on_as_if_it_had_never_stopped() {
    for sampler in [
        ClassSampler::new(1000, 0.1 + 0.2, 7).unwrap().with_correction(true),
        ClassSampler::for_range(250..500, 0.02, 7).unwrap(),
    ] {
        let mut sampler = sampler;
        for step in 0..20 {
            let readers = [through_json, through_toml, through_postcard, through_cbor];
            let mut again = readers.map(|through| through(&sampler));
            let labels = [step, 500 - step, 251];
            let drawn = sampler.sample(&labels).unwrap();
            assert!(again.iter_mut().all(|read| read.sample(&labels).unwrap() == drawn));
            assert!(again.iter().all(|read| read.state() == sampler.state()));
        }
        assert_comes_back(&sampler.state());
    }
}

#[test]
fn a_state_that_no_sampler_has_is_refused() {
    let state = ClassSampler::new(10, 0.5, 1).unwrap().state();
    let refused = |state: SamplerState| {
        let json = serde_json::to_string(&state).unwrap();
        refusal::<ClassSampler>(&json)
    };
    let part = SamplerState { whole: false, ..state.clone() };
    for (state, expected) in [
        (SamplerState { rate: 1.5, ..state.clone() }, "sampling rate must be in (0, 1], got 1.5"),
        (
            SamplerState { random: 2, ..state.clone() },
            "random state of the sampler must be odd, got 2",
        ),
        (
            SamplerState { range: 3..10, ..state.clone() },
            "range start of all classes must be 0, got 3",
        ),
        (SamplerState { range: 0..0, ..state.clone() }, "range end of the sampler must be"),
        (
            SamplerState { range: Range { start: 7, end: 3 }, ..part },
            "range end of the sampler must be",
        ),
    ] {
        let said = refused(state);
        assert!(said.contains(expected), "{said}");
    }
    let json = serde_json::to_string(&state).unwrap();
    let spoiled = json.replace(r#""random":""#, r#""random":"x"#);
    let said = refusal::<ClassSampler>(&spoiled);
    assert!(said.starts_with("random: invalid value: string"), "{said}");
    let said = refusal::<ClassSampler>(&json.replace("0.5", "\"half\""));
    assert!(said.starts_with("rate: invalid type: string \"half\""), "{said}");
    let said = refusal::<ClassSampler>(&json.replace(r#""whole":true,"#, ""));
    assert!(said.contains("missing field `whole`"), "{said}");
}
