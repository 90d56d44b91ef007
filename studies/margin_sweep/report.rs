//! Prints the results as a table and in words. Every statement is computed from the runs.

use std::cmp::Ordering;

use anyhow::Result;

use crate::findings::{Reach, Sweep, find};
use crate::runs::{Fate, Outcome, Point};
use crate::say::say;
use crate::study::{Course, LossName, widest_angle};

pub fn print(sweeps: &[Sweep]) -> Result<()> {
    table(sweeps)?;
    let mut rates: Vec<f32> = sweeps.iter().map(|sweep| sweep.rate()).collect();
    rates.sort_by(f32::total_cmp);
    rates.dedup();
    let (small, large) = (rates[0], rates[rates.len() - 1]);
    let mut findings: Vec<String> = Vec::new();
    findings.extend(rates.iter().filter_map(|&rate| which_is_smaller(sweeps, rate)));
    if small < large {
        findings.push(effect_of_rate(sweeps, small, large));
    }
    findings.extend(rates.iter().filter_map(|&rate| effect_of_slow_margin(sweeps, rate)));
    findings.extend(rates.iter().filter_map(|&rate| effect_of_continuation(sweeps, rate)));
    findings.push(finiteness(sweeps));
    say("\nFindings:")?;
    findings.iter().try_for_each(|finding| say(format!("- {finding}")))
}

/// Prints the usable range of each sweep and its first failure.
fn table(sweeps: &[Sweep]) -> Result<()> {
    say(format!(
        "\nA margin trains if from every seed the held-out accuracy is at least {} and the\n\
         mean target angle below 90°. Collapsed: the accuracy is lower. Inside out: the\n\
         accuracy is reached, the angle is not. The band is the angle between two of ten\n\
         evenly spread classes ({:.1}° apart) that satisfies neither.\n",
        Outcome::ACCURATE,
        widest_angle().to_degrees(),
    ))?;
    say(format!(
        "{:<17} {:<24} {:>4} {:>6} {:>5}  first failure",
        "loss", "margin", "rate", "trains", "band"
    ))?;
    for &sweep in sweeps {
        let curve = sweep.curve();
        let (margin, band) = match sweep.reach() {
            Some(reach) => (format!("≤ {}", short(reach.margin)), format!("{:.0}°", reach.band)),
            None => ("never".into(), "–".into()),
        };
        say(format!(
            "{:<17} {:<24} {:>4} {:>6} {:>5}  {}",
            curve.name.title(),
            curve.course.title(),
            sweep.rate(),
            margin,
            band,
            sweep.first_failure().map_or("none".into(), failure),
        ))?;
    }
    let points = || sweeps.iter().flat_map(|sweep| sweep.usable());
    let means = || points().map(Point::mean_accuracy);
    if let (Some(least), Some(greatest)) = (means().reduce(f64::min), means().reduce(f64::max)) {
        say(format!("mean accuracies of all that train: {least:.3} to {greatest:.3}"))?;
    }
    Ok(())
}

/// Rounded to a tenth, the resolution of the tested margins.
pub fn short(margin: f64) -> f64 {
    (10.0 * margin).round() / 10.0
}

fn failure(point: &Point) -> String {
    let counts = [(Fate::Collapsed, "collapsed"), (Fate::InsideOut, "inside out")]
        .into_iter()
        .map(|(fate, name)| (point.count(fate), name))
        .filter(|&(count, _)| count > 0)
        .map(|(count, name)| format!("{count} of {} {name}", point.outcomes.len()));
    format!("{}: {}", short(point.margin), counts.collect::<Vec<_>>().join(", "))
}

/// Compares with the published remark that SphereFace and ArcFace are sensitive to m, and that the
/// usable range of ArcFace is smaller.
fn which_is_smaller(sweeps: &[Sweep], rate: f32) -> Option<String> {
    let at_once = |name| find(sweeps, name, Course::AtOnce, rate)?.reach();
    let (sphere, arc) = (at_once(LossName::SphereFace)?, at_once(LossName::ArcFace)?);
    let sensitive = match (sphere.whole, arc.whole) {
        (false, false) => "Both fail",
        (true, false) => "Only ArcFace fails",
        (false, true) => "Only SphereFace fails",
        (true, true) => "Neither fails",
    };
    let smaller = match arc.band.total_cmp(&sphere.band) {
        Ordering::Less => "ArcFace's usable range is the smaller one",
        Ordering::Equal => "their usable ranges are the same",
        Ordering::Greater => "SphereFace's usable range is the smaller one",
    };
    let up_to =
        |Reach { margin, band, .. }| format!("m = {} (a band of {band:.1}°)", short(margin));
    Some(format!(
        "Rate {rate}, whole margin at once: SphereFace trains up to {}, ArcFace up to {}. \
         {sensitive} within the tested range; measured by the band, {smaller}.",
        up_to(sphere),
        up_to(arc),
    ))
}

/// The effect of a large learning rate on the usable range of each sweep.
fn effect_of_rate(sweeps: &[Sweep], small: f32, large: f32) -> String {
    let end = |sweep: Sweep| sweep.reach().map_or("none".into(), |r| short(r.margin).to_string());
    let moved = sweeps.iter().filter(|sweep| sweep.rate() == small).filter_map(|&before| {
        let curve = before.curve();
        let after = find(sweeps, curve.name, curve.course, large)?;
        let (from, to) = (end(before), end(after));
        let name = format!("{} {}", curve.name.title(), curve.course.title());
        (from != to).then(|| format!("{name} from {from} to {to}"))
    });
    let moved: Vec<_> = moved.collect();
    let step = format!("A learning rate of {large} instead of {small}");
    match moved.as_slice() {
        [] => format!("{step} changes no usable range."),
        _ => format!("{step} changes the largest usable margin: {}.", moved.join("; ")),
    }
}

/// The effect of raising the margin slowly.
fn effect_of_slow_margin(sweeps: &[Sweep], rate: f32) -> Option<String> {
    let slow = [Course::Annealed, Course::AnnealedAway, Course::WarmedUp];
    let gains = sweeps.iter().filter(|sweep| sweep.rate() == rate).filter_map(|&sweep| {
        let curve = sweep.curve();
        let at_once = find(sweeps, curve.name, Course::AtOnce, rate)?.reach()?;
        let reach = sweep.reach().filter(|_| slow.contains(&curve.course))?;
        (reach.margin > at_once.margin).then(|| {
            format!(
                "{} ({}) {}{} instead of {}",
                curve.name.title(),
                curve.course.title(),
                short(reach.margin),
                if reach.whole { ", the largest tested," } else { "" },
                short(at_once.margin),
            )
        })
    });
    let gains: Vec<_> = gains.collect();
    (!gains.is_empty())
        .then(|| format!("Rate {rate}, margin raised slowly, trains up to: {}.", gains.join("; ")))
}

/// ArcFace's continuations beyond π, at the first margin that does not train with Raw.
fn effect_of_continuation(sweeps: &[Sweep], rate: f32) -> Option<String> {
    let raw = find(sweeps, LossName::ArcFace, Course::Raw, rate)?;
    let margin = raw.first_failure()?.margin;
    if margin == 0.0 {
        return None;
    }
    let results = [("Raw", Course::Raw), ("Linear", Course::Linear), ("Monotone", Course::AtOnce)]
        .into_iter()
        .filter_map(|(name, course)| {
            let sweep = find(sweeps, LossName::ArcFace, course, rate)?;
            let point = sweep.points.iter().find(|point| point.margin == margin)?;
            let angle = point.spread(|o| Some(o.evaluation?.target_angle.to_degrees().into()))?[1];
            Some(format!("{name} {:.3} and {angle:.0}°", point.mean_accuracy()))
        });
    Some(format!(
        "Rate {rate}, ArcFace at m = {} for each continuation beyond π, mean accuracy and \
         target angle: {}.",
        short(margin),
        results.collect::<Vec<_>>().join("; ")
    ))
}

fn finiteness(sweeps: &[Sweep]) -> String {
    let outcomes = || sweeps.iter().flat_map(|sweep| sweep.points).flat_map(|p| &p.outcomes);
    let steps: usize = outcomes().map(|outcome| outcome.steps).sum();
    let not_finite: usize = outcomes().map(|outcome| outcome.not_finite).sum();
    let refused = outcomes().filter(|outcome| outcome.evaluation.is_none()).count();
    format!(
        "{not_finite} of {steps} steps gave a loss or a gradient that is NaN or infinite. In \
         {refused} of {} runs the network diverged and the loss returned an error.",
        outcomes().count(),
    )
}
