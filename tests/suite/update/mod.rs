//! Updates of class weights: their values, the rows of their state, and refusals, after which nothing
//! has changed.

use std::ops::Range;

use margin_softmax::update::WeightUpdate;
use margin_softmax::{AdamW, Error, Real, Sgd};
use ndarray::{Array1, Array2, ArrayView2};

use crate::common::random::Rng;
use crate::common::refuse::text;

/// What the tests need of both updates.
trait Update<F: Real>: WeightUpdate<F> + Clone + PartialEq {
    fn extend(&mut self, rows: usize) -> Result<(), Error>;
    fn rows(&self, range: Range<usize>) -> Result<Self, Error>;
    fn concatenate(parts: &[Self]) -> Result<Self, Error>;
    fn moments(&self) -> Vec<Array2<F>>;
}

macro_rules! update {
    ($name:ident, $($moments:ident),*) => {
        impl<F: Real> Update<F> for $name<F> {
            fn extend(&mut self, rows: usize) -> Result<(), Error> {
                $name::extend(self, rows)
            }

            fn rows(&self, range: Range<usize>) -> Result<Self, Error> {
                $name::rows(self, range)
            }

            fn concatenate(parts: &[Self]) -> Result<Self, Error> {
                $name::concatenate(parts)
            }

            fn moments(&self) -> Vec<Array2<F>> {
                [$(self.$moments()),*].into_iter().flatten().map(|m| m.to_owned()).collect()
            }
        }
    };
}

update!(Sgd, momentum_buffer);
update!(AdamW, first_moments, second_moments);

fn plain<F: Real>() -> Sgd<F> {
    Sgd::new(0.1).unwrap().with_weight_decay(0.05).unwrap()
}

fn momentum<F: Real>() -> Sgd<F> {
    plain().with_momentum(0.9).unwrap()
}

fn nesterov<F: Real>() -> Sgd<F> {
    momentum().with_nesterov(true)
}

fn adamw<F: Real>() -> AdamW<F> {
    AdamW::new(0.1).unwrap()
}

/// Runs a generic check on every kind of update, in both types.
macro_rules! for_every_update {
    ($check:ident) => {{
        $check::<f32, _>(plain());
        $check::<f32, _>(momentum());
        $check::<f32, _>(nesterov());
        $check::<f32, _>(adamw());
        $check::<f64, _>(plain());
        $check::<f64, _>(momentum());
        $check::<f64, _>(nesterov());
        $check::<f64, _>(adamw());
    }};
}

fn matrix<F: Real>(rng: &mut Rng, rows: usize, dims: usize) -> Array2<F> {
    rng.matrix(rows, dims).mapv(|v| F::from_f64(v).unwrap())
}

fn vector<F: Real>(rng: &mut Rng, len: usize) -> Array1<F> {
    rng.vector(len).mapv(|v| F::from_f64(v).unwrap())
}

/// One range of all rows.
fn whole(rows: usize) -> Vec<Range<usize>> {
    std::iter::once(0..rows).collect()
}

/// Debug text, which tells every number from every other, the two zeros too.
fn assert_bits<T: std::fmt::Debug>(found: &T, expected: &T, what: &str) {
    assert_eq!(text(found), text(expected), "{what}");
}

fn assert_same_state<F: Real, U: Update<F>>(found: &U, expected: &U, what: &str) {
    assert!(found == expected, "{what}");
    assert_bits(&found.moments(), &expected.moments(), what);
}

/// Within `tolerance` of the largest entry.
fn assert_close<F: Real>(
    found: ArrayView2<'_, F>,
    expected: &Array2<f64>,
    tolerance: f64,
    what: &str,
) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let largest = expected.fold(0.0_f64, |largest, v| largest.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let error = (found.to_f64().unwrap() - expected).abs();
        assert!(error <= tolerance * largest, "{what}: {found} for {expected}");
    }
}

mod limits;
mod refusals;
mod rows;
#[cfg(feature = "serde")]
mod stored;
mod values;
