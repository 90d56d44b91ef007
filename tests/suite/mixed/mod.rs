//! All options at once, at every entrance, against the naive formulas: a new option is one more draw
//! in `draw.rs`. `MARGIN_SOFTMAX_MIXED` sets the number of seeds for a longer run.

mod draw;
mod entrances;

use margin_softmax::{Forward, IGNORED, Precision, Real};
use ndarray::{Array1, Array2, Axis};

use crate::common::compare::{assert_rows, assert_vector, epsilon};
use crate::common::naive::NaiveAnswer;
use draw::Case;
use entrances::Entrance;

/// Seeds of the usual run.
const SEEDS: u64 = 150;
/// Others that have found a mistake in a longer run.
const FOUND: [u64; 2] = [167, 2825];

/// What one entrance returned: gradients of `rows` of the class weights.
pub struct Found<F> {
    pub forward: Forward<F>,
    pub dx: Array2<F>,
    pub dw: Array2<F>,
    pub db: Option<Array1<F>>,
    pub rows: Vec<usize>,
}

/// Errors allowed of losses and gradients, relative to the terms behind them: docs/math.md, section
/// 9.2, and in bf16 section 12 on top of it.
struct Tolerance {
    loss: f64,
    gradient: f64,
    /// Of a logit, absolutely.
    logit: f64,
}

impl Tolerance {
    fn new<F: Real>(answer: &NaiveAnswer, precision: Precision) -> Self {
        let full = answer.tolerance(epsilon::<F>());
        let logit = 16.0 * epsilon::<F>() * answer.reach;
        if precision == Precision::Full {
            return Tolerance { loss: full, gradient: full, logit };
        }
        const U: f64 = 1.0 / 256.0;
        let delta = (2.0 * U + U * U) * answer.reach;
        // Finite: of a gradient that is 0 nothing is allowed.
        let gradient = ((2.0 * delta).exp() * (1.0 + U) * (1.0 + U) - 1.0).min(1e300);
        // Of label smoothing's part, whose size is ε, the error is that of the logits.
        let loss = delta.exp_m1().clamp(2.0 * delta, 1e300);
        Tolerance { loss: loss + 2.0 * full, gradient: gradient + 2.0 * full, logit: logit + delta }
    }
}

impl<F: Real> Entrance<F> {
    /// Compares everything with the formulas; returns how many numbers.
    fn check(&self, what: &str, case: &Case, answer: &NaiveAnswer) -> usize {
        let tolerance = Tolerance::new::<F>(answer, self.precision);
        let Found { forward, dx, dw, db, rows } = &self.found;
        let sizes = &answer.size_loss;
        assert_vector(what, &forward.losses, &answer.losses, sizes, tolerance.loss);
        let margin_free = &answer.margin_free_losses;
        assert_vector(what, forward.margin_free_losses(), margin_free, margin_free, tolerance.loss);
        let angles = answer.angles.mapv(|angle| angle + 1.0);
        let allowed = 2.0 * epsilon::<F>() + 8.0 * f64::EPSILON;
        assert_vector(what, forward.target_angles(), &answer.angles, &angles, allowed);
        assert_rows(what, dx, &answer.dx, &answer.size_x, tolerance.gradient);
        let (expected, sizes) =
            (answer.dw.select(Axis(0), rows), answer.size_w.select(Axis(0), rows));
        assert_rows(what, dw, &expected, &sizes, tolerance.gradient);
        if let Some(db) = db {
            let (expected, sizes) =
                (answer.db.select(Axis(0), rows), answer.size_b.select(Axis(0), rows));
            assert_vector(what, db, &expected, &sizes, tolerance.gradient);
        }
        assert_eq!(forward.sub_centers(), answer.sub_centers, "{what}");
        assert_eq!(forward.counted(), case.counted.iter().filter(|c| **c).count(), "{what}");
        for (i, &prediction) in forward.predictions().iter().enumerate() {
            if !case.counted[i] {
                assert_eq!((prediction, forward.losses[i]), (IGNORED, F::zero()), "{what}");
                assert!(
                    dx.row(i).iter().all(|&g| g == F::zero()),
                    "{what}: row {i} has a gradient"
                );
                continue;
            }
            let plain = answer.plain.row(i);
            let best = plain.iter().fold(f64::NEG_INFINITY, |best, &z| best.max(z));
            let nearest = plain[prediction] >= best - 2.0 * tolerance.logit;
            assert!(nearest, "{what}: sample {i} is predicted {prediction}");
            let others = plain.iter().enumerate().filter(|(class, _)| *class != case.labels[i]);
            let best = others.fold(f64::NEG_INFINITY, |best, (_, &z)| best.max(z));
            let negative = forward.nearest_negatives().0[i];
            let nearest = match plain.get(negative) {
                Some(&z) => negative != case.labels[i] && z >= best - 2.0 * tolerance.logit,
                None => negative == IGNORED && best == f64::NEG_INFINITY,
            };
            assert!(nearest, "{what}: the nearest negative of sample {i} is {negative}");
        }
        4 * forward.losses.len() + dx.len() + dw.len() + db.as_ref().map_or(0, |db| db.len())
    }
}

/// How often each thing was drawn, so that none is lost unseen.
#[derive(Debug, Default)]
struct Counts {
    numbers: usize,
    hard: usize,
    top: usize,
    priors: usize,
    entrances: std::collections::BTreeMap<&'static str, usize>,
}

fn run<F: Real>(seed: u64, counts: &mut Counts) {
    let case = Case::new::<F>(seed);
    let what = |entrance: &str| {
        format!("seed {seed}, {}, {entrance}: {case:?}", std::any::type_name::<F>())
    };
    for entrance in entrances::all::<F>(&case) {
        let answer = case.solve(&entrance.offsets, entrance.name == "logits");
        let what = what(entrance.name);
        counts.numbers += entrance.check(&what, &case, &answer);
        counts.hard += answer.hard;
        counts.top += answer.top;
        counts.priors += usize::from(case.log_prior.is_some());
        *counts.entrances.entry(entrance.name).or_default() += 1;
    }
}

#[test]
fn every_mixture_of_options_agrees_with_the_formulas() {
    let seeds = std::env::var("MARGIN_SOFTMAX_MIXED").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"));
    let mut counts = Counts::default();
    for seed in (0..seeds).chain(FOUND) {
        match seed % 2 {
            0 => run::<f64>(seed, &mut counts),
            _ => run::<f32>(seed, &mut counts),
        }
    }
    println!("{seeds} mixtures: {counts:?}");
    let drawn = counts.hard > 1000 && counts.top > 1000 && counts.priors > 100;
    assert!(seeds < SEEDS || (counts.entrances.len() == 6 && drawn), "{counts:?}");
}
