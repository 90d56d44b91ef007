//! For a loss of your own: what a [`MarginLoss`](crate::MarginLoss) is asked and answers, and
//! [`check_loss`], which tests its derivative.

pub use crate::gradcheck::{Coordinate, GradientCheck, check_loss};
pub use crate::math::{Angle, BinaryForm, HardNegatives, Sample, SampleTarget, Target, TopMargin};
