//! The runs: several at a time, each on a thread of its own.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use rayon::ThreadPoolBuilder;

use crate::diverged::diverged;
use crate::experiments::{self, Experiment};
use crate::fonts::{self, Typeface};
use crate::images::Glyphs;
use crate::measure::measure;
use crate::results::{self, Outcome};
use crate::training::{Plan, train};

/// The images of all runs.
pub struct Alphabet {
    pub train: Glyphs,
    /// The number of characters of the training.
    pub classes: usize,
    /// Other characters in other fonts.
    pub test: Glyphs,
}

impl Alphabet {
    /// Half of the characters that all fonts share in those for training, the other half in the
    /// others.
    pub fn of_fonts(typefaces: &[Typeface]) -> Result<Self> {
        /// The same halves for all seeds.
        const HALVES: u64 = 2017;
        let mut characters = fonts::shared_characters(typefaces);
        ensure!(characters.len() >= 5000, "the fonts share {} characters", characters.len());
        characters.shuffle(&mut Pcg64::seed_from_u64(HALVES));
        let (known, unknown) = characters.split_at(characters.len() / 2);
        let of = |trained| typefaces.iter().filter(move |face| face.design.trained == trained);
        let train = fonts::render(of(true), known)?;
        let test = fonts::render(of(false), unknown)?;
        println!(
            "{} images of {} characters in {} fonts; tests: {} images of {} others in {} others",
            train.len(),
            known.len(),
            of(true).count(),
            test.len(),
            unknown.len(),
            of(false).count(),
        );
        Ok(Self { train, classes: known.len(), test })
    }
}

/// The runs that the table lacks, seed after seed.
pub fn pending(
    only: &str,
    seeds: &[u64],
    done: &[Outcome],
    limit: usize,
) -> Vec<(Experiment, u64)> {
    let all = experiments::all();
    let lacks = |experiment: &Experiment, seed| {
        let name = experiment.name();
        name.contains(only) && !done.iter().any(|run| run.experiment == name && run.seed == seed)
    };
    let runs = seeds.iter().flat_map(|&seed| {
        all.iter().filter(move |run| lacks(run, seed)).map(move |run| (run.clone(), seed))
    });
    runs.take(limit).collect()
}

/// Runs them, and adds a line to the table for each.
pub fn run(
    pending: &[(Experiment, u64)],
    alphabet: &Alphabet,
    plan: &Plan,
    jobs: usize,
    table: &Path,
) -> Result<()> {
    let next = Mutex::new(pending.iter());
    let file = Mutex::new(());
    let work = || -> Result<()> {
        let pool = ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let taken = next.lock().expect("no thread panics here").next();
            let Some((experiment, seed)) = taken else { return Ok(()) };
            let outcome = pool.install(|| run_once(experiment, *seed, alphabet, plan))?;
            let _one_at_a_time = file.lock().expect("no thread panics here");
            println!("{outcome}");
            results::append(table, &outcome)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a run panicked"))
    })
}

pub fn run_once(
    experiment: &Experiment,
    seed: u64,
    alphabet: &Alphabet,
    plan: &Plan,
) -> Result<Outcome> {
    let clock = Clock::start();
    let trained = train(experiment, &alphabet.train, alphabet.classes, plan, seed);
    let seconds = clock.seconds();
    let measured = match trained {
        Ok(embedder) => {
            let embeddings = embedder.embed(&alphabet.test);
            Some(measure(&embeddings, alphabet.test.labels(), plan.far)?)
        }
        Err(error) if diverged(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(Outcome { experiment: experiment.name(), seed, measured, seconds })
}

/// The processor time of a thread where Linux tells it, which other programs leave as it is, and
/// the time that passes elsewhere.
struct Clock {
    start: Instant,
    on_processor: Option<f64>,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now(), on_processor: on_processor() }
    }

    fn seconds(&self) -> f64 {
        match (self.on_processor, on_processor()) {
            (Some(start), Some(end)) => end - start,
            _ => self.start.elapsed().as_secs_f64(),
        }
    }
}

fn on_processor() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}
