//! Every loss of the crate's table, so that a new one needs no entry in any test.

use margin_softmax::MarginLoss;
use margin_softmax::losses::LOSSES;

use super::random::Rng;

/// Each loss with the hyper-parameters of its paper, for this number of classes.
pub fn published(classes: usize) -> Vec<Box<dyn MarginLoss>> {
    LOSSES.iter().map(|build| build(classes, &mut |number| number).unwrap()).collect()
}

/// Each loss with other hyper-parameters and other variants: near the published values, and from −1
/// to 4 where those are 0. What leaves its range is refused and drawn again.
pub fn varied(rng: &mut Rng, classes: usize) -> Vec<Box<dyn MarginLoss>> {
    let mut near = |number: f64| match number {
        0.0 => rng.uniform(-1.0, 4.0),
        _ => number * rng.uniform(0.7, 1.1),
    };
    let mut draw = |build: &margin_softmax::losses::BuildLoss| {
        (0..1000).find_map(|_| build(classes, &mut near).ok()).expect("a loss within its ranges")
    };
    LOSSES.iter().map(|build| draw(build)).collect()
}
