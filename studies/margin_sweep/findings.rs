//! Results of the runs: up to which margin each loss trains.

use crate::runs::{Fate, Outcome, Point};
use crate::study::{Course, Curve, LossName, widest_angle};

/// One curve at one learning rate: its margins in ascending order, starting without a margin.
#[derive(Clone, Copy)]
pub struct Sweep<'a> {
    pub points: &'a [Point],
}

/// The usable range of a sweep.
#[derive(Clone, Copy)]
pub struct Reach {
    /// The largest margin up to which all margins train from every seed.
    pub margin: f64,
    /// That margin as a band between two classes, in degrees.
    pub band: f64,
    /// Whether this is the largest margin tested.
    pub whole: bool,
}

pub fn sweeps(points: &[Point]) -> Vec<Sweep<'_>> {
    let same = |a: &Point, b: &Point| a.curve == b.curve && a.rate == b.rate;
    points.chunk_by(same).map(|points| Sweep { points }).collect()
}

/// The sweep of a loss at a learning rate, if it is among the runs.
pub fn find<'a>(
    sweeps: &[Sweep<'a>],
    name: LossName,
    course: Course,
    rate: f32,
) -> Option<Sweep<'a>> {
    let curve = Curve { name, course };
    sweeps.iter().copied().find(|sweep| sweep.curve() == curve && sweep.rate() == rate)
}

impl<'a> Sweep<'a> {
    pub fn curve(self) -> Curve {
        self.points[0].curve
    }

    pub fn rate(self) -> f32 {
        self.points[0].rate
    }

    /// The margins before the first that does not train.
    pub fn usable(self) -> &'a [Point] {
        let count = self.points.iter().take_while(|point| point.trains()).count();
        &self.points[..count]
    }

    /// `None` if some seed does not train even without a margin.
    pub fn reach(self) -> Option<Reach> {
        let usable = self.usable();
        let last = usable.last()?;
        // A margin that no sample can satisfy takes the whole angle between two classes.
        let band = last.band.unwrap_or_else(widest_angle).to_degrees();
        Some(Reach { margin: last.margin, band, whole: usable.len() == self.points.len() })
    }

    /// The first margin that does not train from every seed.
    pub fn first_failure(self) -> Option<&'a Point> {
        self.points.iter().find(|point| !point.trains())
    }
}

impl Point {
    /// Whether the margin trains from every seed.
    pub fn trains(&self) -> bool {
        self.count(Fate::Trained) == self.outcomes.len()
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.fate() == fate).count()
    }

    /// Minimum, mean and maximum over the seeds that have this value.
    pub fn spread(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<[f64; 3]> {
        let figures: Vec<f64> = self.outcomes.iter().filter_map(figure).collect();
        let least = figures.iter().copied().reduce(f64::min)?;
        let greatest = figures.iter().copied().reduce(f64::max)?;
        Some([least, figures.iter().sum::<f64>() / figures.len() as f64, greatest])
    }

    pub fn mean_accuracy(&self) -> f64 {
        self.outcomes.iter().map(Outcome::accuracy).sum::<f64>() / self.outcomes.len() as f64
    }
}
