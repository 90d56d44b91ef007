//! Configuration files: what they pick, and what they need not say.

use super::*;

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
