//! Losses by their names and numbers, for the tests and the fuzz targets.

use margin_softmax::config::LossConfig;
use serde_json::{Value, json};

/// The names of the variants of a hyper-parameter.
const VARIANTS: [&[&str]; 2] =
    [&["Monotone", "Raw", "Linear", "EasyMargin"], &["Angular", "Cosine"]];

/// The loss of this name with the hyper-parameters of its paper, for this number of classes. One
/// around another is refused.
pub fn configuration(name: &str, classes: usize) -> Result<LossConfig, serde_json::Error> {
    serde_json::from_value(match name {
        "ClassMargins" => {
            json!({ "loss": name, "s": 64.0, "m1": vec![0.3; classes], "m2": vec![0.1; classes] })
        }
        _ => json!({ "loss": name }),
    })
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
