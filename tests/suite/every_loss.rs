//! Every loss that a configuration may name, so that a new one needs no entry in any test.

use margin_softmax::MarginLoss;
use margin_softmax::config::LossConfig;

use crate::common::random::Rng;
use crate::configuration::{configuration, with_numbers};

/// Each loss that stands alone with the hyper-parameters of its paper, for this number of classes.
pub fn configurations(classes: usize) -> Vec<LossConfig> {
    let read = |name: &&str| {
        let read = configuration(name, classes);
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
