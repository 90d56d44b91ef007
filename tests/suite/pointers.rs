//! A pointer to a loss is the same loss, and a wrapper is but for what it sets.

use std::sync::Arc;

use margin_softmax::custom::{
    Angle, BinaryForm, HardNegatives, Sample, SampleTarget, Target, TopMargin,
};
use margin_softmax::{Error, InterclassFilter, LabelSmoothing, MarginLoss, Scale, TopNegatives};

/// A loss whose every method differs from the one that the trait provides.
#[derive(Debug, Clone)]
struct Everything;

impl MarginLoss for Everything {
    fn scale(&self) -> Scale {
        Scale::Fixed(3.0)
    }

    fn target(&self, _: &Angle) -> Target {
        Target { value: 0.25, slope: -0.5 }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let target = SampleTarget::from(self.target(&sample.angle));
        target.with_norm_slope(sample.norm).with_penalty(sample.label as f64, sample.row as f64)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        Some(HardNegatives::above(0.5, 0.1, 0.2, 0.3))
    }

    fn top_negatives(&self) -> Option<TopMargin> {
        Some(TopMargin { k: 4, margin: 0.5 })
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        Err(Error::Empty { argument: "classes", actual: vec![classes] })
    }

    fn label_smoothing(&self) -> f64 {
        0.125
    }

    fn binary(&self) -> Option<BinaryForm> {
        Some(BinaryForm::new(0.5, 0.75, 2.0).with_negatives(2.0, 0.1, 0.2))
    }
}

type Answers = (
    Scale,
    Target,
    SampleTarget,
    (Option<HardNegatives>, Option<TopMargin>),
    Result<(), Error>,
    f64,
    Option<BinaryForm>,
);

/// What the methods of a loss return that it may provide itself.
fn answers(loss: &impl MarginLoss) -> Answers {
    let sample = Sample::new(Angle::from_theta(1.0), 7.0, 5, 3);
    (
        loss.scale(),
        loss.target(&sample.angle),
        loss.target_of(&sample),
        (loss.hard_negatives(), loss.top_negatives()),
        loss.check_classes(9),
        loss.label_smoothing(),
        loss.binary(),
    )
}

/// The methods that a loss may write: those of the trait that call no engine.
#[test]
fn the_answers_are_those_of_every_method_of_the_trait() {
    let text = include_str!("../../src/loss.rs");
    let of_trait = text.split_once("pub trait MarginLoss").unwrap().1;
    let of_trait = of_trait.split_once("\n}\n").unwrap().0;
    let methods = of_trait.lines().filter_map(|line| line.strip_prefix("    fn "));
    let names: Vec<_> = methods.map(|line| line.split(['(', '<']).next().unwrap()).collect();
    let answered = [
        "scale",
        "target",
        "target_of",
        "hard_negatives",
        "top_negatives",
        "check_classes",
        "label_smoothing",
        "binary",
    ];
    let of_engine = ["forward", "backward", "backward_into", "margin_free_logits"];
    assert_eq!(names, [&answered[..], &of_engine].concat());
}

#[test]
fn every_method_is_forwarded_by_every_pointer() {
    let expected = answers(&Everything);
    assert_eq!(answers(&&Everything), expected);
    assert_eq!(answers(&Box::new(Everything)), expected);
    assert_eq!(answers(&Arc::new(Everything)), expected);
    assert_eq!(answers(&(Box::new(Everything) as Box<dyn MarginLoss>)), expected);
    assert_eq!(answers(&(Arc::new(Everything) as Arc<dyn MarginLoss>)), expected);
}

/// The same without hard negatives, which a filter would have to replace.
#[derive(Debug)]
struct WithoutHardNegatives;

impl MarginLoss for WithoutHardNegatives {
    fn scale(&self) -> Scale {
        Everything.scale()
    }

    fn target(&self, angle: &Angle) -> Target {
        Everything.target(angle)
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        Everything.target_of(sample)
    }

    fn top_negatives(&self) -> Option<TopMargin> {
        Everything.top_negatives()
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        Everything.check_classes(classes)
    }

    fn label_smoothing(&self) -> f64 {
        Everything.label_smoothing()
    }

    fn binary(&self) -> Option<BinaryForm> {
        Everything.binary()
    }
}

#[test]
fn wrappers_forward_every_method_but_their_own() {
    let mut expected = answers(&Everything);
    expected.5 = 0.5;
    assert_eq!(answers(&LabelSmoothing::new(Everything, 0.5).unwrap()), expected);
    let mut expected = answers(&Everything);
    expected.3.1 = Some(TopMargin { k: 2, margin: 0.25 });
    assert_eq!(answers(&TopNegatives::new(Everything, 2, 0.25).unwrap()), expected);
    let mut expected = answers(&WithoutHardNegatives);
    expected.3.0 = Some(HardNegatives::above(0.25, 0.0, 0.0, 0.0));
    let filter = InterclassFilter::new(WithoutHardNegatives, 0.25).unwrap();
    assert_eq!(answers(&filter), expected);
}
