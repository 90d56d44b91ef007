//! The study in small, on characters made of random strokes.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::experiments::{self, Experiment, Model};
use crate::fonts;
use crate::images::{Glyphs, Quality, STORED};
use crate::measure::Measured;
use crate::results::{self, Outcome};
use crate::runs::{Alphabet, pending, run_once};
use crate::training::Plan;

const CLASSES: usize = 60;

fn alphabet() -> Alphabet {
    Alphabet {
        train: synthetic(0..CLASSES, 0..8),
        classes: CLASSES,
        test: synthetic(CLASSES..CLASSES + 40, 8..12),
    }
}

/// Characters made of random strokes in `fonts` that move each stroke a little.
fn synthetic(classes: Range<usize>, fonts: Range<u64>) -> Glyphs {
    const STROKES: usize = 6;
    let mut glyphs = Glyphs::default();
    for font in fonts {
        for (label, class) in classes.clone().enumerate() {
            let mut strokes = Pcg64::seed_from_u64(class as u64);
            let mut moved = Pcg64::seed_from_u64(1 << 32 | font << 16 | class as u64);
            let mut image = [0; STORED * STORED];
            for _ in 0..STROKES {
                let corner = |rng: &mut Pcg64| rng.random_range(4..18_usize);
                let (x, y) = (corner(&mut strokes), corner(&mut strokes));
                let across = strokes.random_bool(0.5);
                let (dx, dy) = (moved.random_range(0..2), moved.random_range(0..2));
                for step in 0..8 {
                    let (x, y) = if across { (x + step, y) } else { (x, y + step) };
                    image[(y + dy) * STORED + x + dx] = 255;
                }
            }
            glyphs.push(&image, label);
        }
    }
    glyphs
}

fn measured(experiment: &Experiment, epochs: usize) -> Measured {
    let plan = Plan { epochs, rate: 0.1, layers: [64, 32], far: 1e-2 };
    let outcome = run_once(experiment, 0, &alphabet(), &plan).unwrap();
    assert_eq!(outcome.experiment, experiment.name());
    outcome.measured.expect("it does not diverge")
}

fn named(name: &str) -> Experiment {
    experiments::all().into_iter().find(|experiment| experiment.name() == name).unwrap()
}

#[test]
fn a_trained_network_verifies_unseen_characters_better_than_an_untrained_one() {
    let untrained = measured(&named("untrained"), 0);
    let arcface = measured(&named("ArcFace s=32 m=0.3"), 20);
    assert!(arcface.eer.high < untrained.eer.low, "{arcface:?} {untrained:?}");
    assert!(arcface.tar.low > untrained.tar.high, "{arcface:?} {untrained:?}");
    assert!(arcface.recall.low > untrained.recall.high, "{arcface:?} {untrained:?}");
}

#[test]
fn every_experiment_runs_and_gives_the_same_again() {
    for experiment in experiments::all() {
        let first = measured(&experiment, 1);
        assert!((0.0..=1.0).contains(&first.eer.value), "{experiment:?}");
        if matches!(experiment.model, Model::Trained { centers: 3, .. })
            || experiment.quality == Quality::Mixed
        {
            assert_eq!(first, measured(&experiment, 1), "{experiment:?}");
        }
    }
}

#[test]
fn experiments_have_names_of_their_own_without_commas() {
    let names: Vec<String> = experiments::all().iter().map(Experiment::name).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(names.iter().all(|name| !name.contains(',')));
}

#[test]
fn what_is_in_the_table_does_not_run_again() {
    let path = std::env::temp_dir().join(format!("glyphs-{}.csv", std::process::id()));
    let measured = Some(measured(&named("pixels"), 0));
    let done = Outcome { experiment: "pixels".into(), seed: 1, measured, seconds: 2.5 };
    let diverged = Outcome { seed: 2, measured: None, ..done.clone() };
    for outcome in [&done, &diverged] {
        results::append(&path, outcome).unwrap();
    }
    let read = results::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[1], diverged);
    let [expected, found] = [&done, &read[0]].map(|run| run.measured.unwrap().tar.value);
    assert!((expected - found).abs() <= 5e-7);
    let seeds: Vec<u64> =
        pending("pixels", &[0, 1, 2, 3], &read, 9).into_iter().map(|(_, seed)| seed).collect();
    assert_eq!(seeds, [0, 3]);
}

#[test]
fn the_list_of_fonts_has_fifteen_designs_with_a_license() {
    let designs = fonts::designs().unwrap();
    assert!(designs.len() >= 15);
    assert!(designs.iter().all(|design| !design.license.is_empty()));
    assert!(designs.iter().filter(|design| !design.trained).count() >= 5);
}
