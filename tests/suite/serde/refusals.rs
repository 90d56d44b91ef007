//! What is refused on reading, with its field and value.

use super::*;

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
             then margin m, then t), got 2",
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
