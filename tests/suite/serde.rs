//! Losses, schedules and samplers as they are written and read: bit for bit, and checked.

use std::fmt::Debug;
use std::ops::Range;

use margin_softmax::{
    ArcFace, ClassSampler, Continuation, CosFace, FNormSphereFace, Generalized, LambdaAnnealing,
    LossConfig, MarginWarmup, ModifiedSoftmax, SamplerState, Scale, Softmax, SphereFace,
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
    for config in losses() {
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
    ] {
        assert_eq!(named(name), default);
    }
    let default: LambdaAnnealing = serde_json::from_str("{}").unwrap();
    assert_eq!(default, LambdaAnnealing::default());
    let half: CosFace = toml::from_str("m = 0.4").unwrap();
    assert_eq!(half, CosFace::new(CosFace::default().s(), 0.4).unwrap());
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
