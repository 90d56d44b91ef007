//! Losses, schedules and samplers as they are written and read: bit for bit, and checked.

mod comes_back;
mod files;
mod refusals;

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
