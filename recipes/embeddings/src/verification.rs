//! How well images of unseen identities are told apart, and the threshold to use.

use anyhow::Result;
use margin_softmax_evaluation::{Bootstrap, Error, Figure, Threshold, Verification};
use ndarray::Array2;

use crate::images::Images;

/// The share of pairs of different identities that the recommended threshold accepts.
const FAR: f64 = 0.01;

/// All pairs of these images.
pub fn of(embeddings: &Array2<f32>, images: &Images) -> Result<Verification> {
    Ok(Verification::from_embeddings(embeddings, &images.labels())?)
}

/// Prints the figures and a threshold.
pub fn report(pairs: &Verification, seed: u64) -> Result<()> {
    println!("held-out pairs: {} genuine, {} impostors", pairs.genuine(), pairs.impostors());
    let equal = pairs.eer();
    println!("EER {}", with_interval(pairs, Figure::Eer, equal.rate, seed)?);
    match pairs.tar_at_far(FAR) {
        Ok(point) if point.threshold != Threshold::REJECT_ALL => {
            let tar = with_interval(pairs, Figure::TarAtFar(FAR), point.tar, seed)?;
            println!("TAR at FAR {}: {tar}", percent(FAR));
            recommend(point.threshold, point.tar, point.far);
        }
        Ok(_) => recommend(equal.threshold, 1.0 - equal.frr, equal.far),
        Err(error @ Error::TooFewImpostors { .. }) => {
            println!("TAR at FAR {}: {error}", percent(FAR));
            recommend(equal.threshold, 1.0 - equal.frr, equal.far);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// With a bootstrap interval over identities, where every score was kept and the identities are
/// enough.
fn with_interval(pairs: &Verification, figure: Figure, value: f64, seed: u64) -> Result<String> {
    let value = percent(value);
    match pairs.interval(figure, &Bootstrap::new(seed)) {
        Ok(interval) => {
            let (low, high) = (percent(interval.low), percent(interval.high));
            Ok(format!("{value} (95 % of resampled identities: {low} to {high})"))
        }
        Err(Error::NoIdentities | Error::DegenerateBootstrap { .. }) => Ok(value),
        Err(error) => Err(error.into()),
    }
}

/// `tar` and `far` are the shares of the pairs of one identity, and of two, that it accepts.
fn recommend(threshold: Threshold, tar: f64, far: f64) {
    let squared = threshold.squared_distance().unwrap_or(f64::NAN);
    let distance = squared.sqrt();
    let (tar, far) = (percent(tar), percent(far));
    println!("threshold: two images show one identity if their cosine is at least {threshold:.4};");
    println!("that is a distance of unit vectors of at most {distance:.4}, squared {squared:.4}.");
    println!("Chosen on the held-out pairs, it accepts {tar} of those of one identity,");
    println!("and {far} of those of two.");
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
