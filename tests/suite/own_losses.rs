//! Losses of users: which samples they are asked about, and how ranks tell them apart.

use margin_softmax::custom::{Angle, Sample, SampleTarget, Target};
use margin_softmax::{
    AdaFace, Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, NormalizedLogits,
    Reduction, Scale,
};
use ndarray::{Array2, s};

use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};

/// CosFace with a margin by class and one by row, from tables: it panics at a class or a row that
/// does not exist.
#[derive(Debug, Clone)]
struct Tables {
    by_class: Vec<f64>,
    by_row: Vec<f64>,
}

impl MarginLoss for Tables {
    fn scale(&self) -> Scale {
        Scale::Fixed(8.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let margin = self.by_class[sample.label] + self.by_row[sample.row];
        SampleTarget::from(Target { value: sample.angle.cos - margin, slope: -sample.angle.sin })
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        if classes == self.by_class.len() {
            return Ok(());
        }
        let (expected, actual) = (vec![classes], vec![self.by_class.len()]);
        Err(Error::Shape { argument: "class margins", expected, actual })
    }
}

const LABELS: [usize; 3] = [4, IGNORED, 2];

fn inputs() -> (Array2<f64>, Array2<f64>) {
    let mut rng = Rng::new(1);
    (rng.matrix(3, 4), rng.matrix(5, 4))
}

fn at_every_entrance(loss: &Tables) -> Vec<Result<Forward<f64>, Error>> {
    let (x, w) = inputs();
    let batch = Batch::new(&x, &w, &LABELS).with_ignored_label(IGNORED);
    let head = Head::new(loss);
    let mut gradients = Gradients::zeros_for(&batch);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_ignored_label(IGNORED);
    let mut answers = vec![
        head.forward(&batch),
        head.forward_backward(&batch, Reduction::Mean, &mut gradients),
        loss.forward(&logits, &LABELS),
    ];
    answers.extend(on_ranks(&even(5, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &LABELS).with_ignored_label(IGNORED);
        Head::on_ranks(loss, collective, range).forward(&shard)
    }));
    answers
}

#[test]
fn a_loss_is_asked_for_its_classes_before_any_label_is_named() {
    for by_class in [vec![0.1; 3], vec![]] {
        let (expected, actual) = (vec![5], vec![by_class.len()]);
        let loss = Tables { by_class, by_row: vec![0.0; 3] };
        let refusal = Error::Shape { argument: "class margins", expected, actual };
        for answer in at_every_entrance(&loss) {
            assert_eq!(answer.unwrap_err(), refusal);
        }
    }
}

#[test]
fn a_loss_is_asked_for_samples_that_exist_alone() {
    let loss = Tables { by_class: vec![0.1, 0.2, 0.3, 0.4, 0.5], by_row: vec![0.01, 0.02, 0.03] };
    let answers: Vec<_> = at_every_entrance(&loss).into_iter().map(Result::unwrap).collect();
    for answer in &answers {
        approx::assert_relative_eq!(answer.losses, answers[0].losses, max_relative = 1e-13);
    }
}

/// The statistics clip alike but for norms between 28 and 29.
#[test]
fn ranks_with_losses_that_differ_for_few_norms_are_refused() {
    let (x, w) = inputs();
    let run = |others: (f64, f64)| {
        on_ranks(&even(5, 2), |collective, range| {
            let (mean, std) = if range.start == 0 { (28.0, 0.5) } else { others };
            let loss = AdaFace::default().with_statistics(mean, std).unwrap();
            let rows = w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&x, &rows, &[4, 0, 2]);
            Head::on_ranks(loss, collective, range).forward(&shard)
        })
    };
    assert!(run((28.0, 0.5)).iter().all(Result::is_ok));
    for answer in run((28.6, 0.5)) {
        let reason = "the loss or one of its parameters is not that of rank 0".into();
        assert_eq!(answer.unwrap_err(), Error::Collective { rank: 1, reason });
    }
}
