//! Every loss that a configuration may name, so that a new one needs no entry in any test.

use margin_softmax::MarginLoss;
use margin_softmax::config::LossConfig;
use serde_json::{Value, json};

use crate::common::random::Rng;

/// The names of the variants of a hyper-parameter.
const VARIANTS: [&[&str]; 2] =
    [&["Monotone", "Raw", "Linear", "EasyMargin"], &["Angular", "Cosine"]];

/// Each loss that stands alone with the hyper-parameters of its paper, for this number of classes.
pub fn configurations(classes: usize) -> Vec<LossConfig> {
    let read = |name: &&str| {
        let json = match *name {
            "ClassMargins" => {
                json!({ "loss": name, "s": 64.0, "m1": vec![0.3; classes], "m2": vec![0.1; classes] })
            }
            _ => json!({ "loss": name }),
        };
        let read = serde_json::from_value(json);
        let around_another =
            |refused: &serde_json::Error| refused.to_string().contains("missing field `of`");
        match read {
            Err(refused) if around_another(&refused) => None,
            read => Some(read.unwrap()),
        }
    };
    LossConfig::NAMES.iter().filter_map(read).collect()
}

pub fn published(classes: usize) -> Vec<Box<dyn MarginLoss>> {
    configurations(classes).into_iter().map(LossConfig::build).collect()
}

/// Each loss with other hyper-parameters and other variants: near the published values, and from −1
/// to 4 where those are 0. What leaves its range is refused and drawn again.
pub fn varied(rng: &mut Rng, classes: usize) -> Vec<Box<dyn MarginLoss>> {
    let mut near = |number: f64| match number {
        0.0 => rng.uniform(-1.0, 4.0),
        _ => number * rng.uniform(0.7, 1.1),
    };
    let mut draw = |config: &LossConfig| {
        (0..1000).find_map(|_| with_numbers(config, &mut near)).expect("a loss within its ranges")
    };
    configurations(classes).iter().map(|config| draw(config).build()).collect()
}

/// The loss with each of its numbers replaced by what `next` makes of it, a variant by its number;
/// none where one is out of its range.
pub fn with_numbers(config: &LossConfig, next: &mut impl FnMut(f64) -> f64) -> Option<LossConfig> {
    let mut json = serde_json::to_value(config).unwrap();
    for (field, value) in json.as_object_mut().unwrap() {
        match (&field[..], next(0.0) as usize % 3) {
            ("loss", _) => (),
            ("scale", 0) => *value = json!("FeatureNorm"),
            ("scale", 1) => *value = json!("Unnormalized"),
            _ => vary(value, next),
        }
    }
    serde_json::from_value(json).ok()
}

fn vary(value: &mut Value, next: &mut impl FnMut(f64) -> f64) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| vary(value, next)),
        Value::Number(number) if number.is_f64() => *value = json!(next(number.as_f64().unwrap())),
        Value::Number(number) => *value = json!(next(number.as_f64().unwrap()) as u32),
        Value::String(name) => {
            let at = |names: &&[&str]| names.iter().position(|other| other == name);
            let (names, at) = VARIANTS.iter().find_map(|names| Some((names, at(names)?))).unwrap();
            *value = json!(names[next(at as f64) as usize % names.len()]);
        }
        _ => panic!("no number, list or name: {value}"),
    }
}
