//! The one error type: every refusal names the argument, the place and the value.

use std::fmt;
use std::ops::Range;

/// Defines the error type by its variants, each with the message that its fields fill in.
macro_rules! errors {
    ($(
        $(#[$of_variant:meta])*
        $variant:ident $(($name:ident: $inner:ty))?
            $({ $($(#[$of_field:meta])* $field:ident: $type:ty,)* })?
            => $message:literal $(, $argument:expr)*;
    )*) => {
        /// Why a call was refused. Nothing was written to the caller's buffers.
        ///
        /// ```
        /// use margin_softmax::{ArcFace, Error};
        ///
        /// let refused = ArcFace::new(f64::NAN, 0.5).unwrap_err();
        /// assert!(matches!(refused, Error::Parameter { parameter: "scale s", .. }));
        /// assert_eq!(refused.to_string(), "scale s must be finite and > 0, got NaN");
        /// ```
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$of_variant])* $variant $(($inner))? $({ $($(#[$of_field])* $field: $type,)* })?,)*
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Error::$variant $(($name))? $({ $($field),* })? => {
                        write!(f, $message $(, $argument)*)
                    })*
                }
            }
        }
    };
}

errors! {
    /// A hyper-parameter is outside its range, NaN included.
    Parameter {
        /// The usual name of the hyper-parameter, with its symbol.
        parameter: &'static str,
        /// The value that was given.
        value: f64,
        /// The range it must lie in.
        expected: &'static str,
    } => "{parameter} must be {expected}, got {value}";

    /// Two arguments do not fit each other.
    Shape {
        /// The argument whose shape is refused.
        argument: &'static str,
        /// The shape that the other arguments require.
        expected: Vec<usize>,
        /// The shape that was given.
        actual: Vec<usize>,
    } => "{argument} has shape {actual:?}, but the other arguments require {expected:?}";

    /// An argument has no rows or no columns: an empty batch, zero classes, zero dimensions.
    Empty {
        /// The empty argument.
        argument: &'static str,
        /// Its shape.
        actual: Vec<usize>,
    } => "{argument} has shape {actual:?}: no axis may be empty";

    /// A label names a class that does not exist.
    Label {
        /// The sample.
        row: usize,
        /// Its label. The message shows the upper half of the range as negative numbers: a -1 that
        /// was cast to `usize` is shown as -1, and so is [`IGNORED`](crate::IGNORED).
        label: usize,
        /// How many classes there are.
        classes: usize,
    } => "labels[{row}] is {}, but there are {classes} classes (0..{classes})", *label as isize;

    /// A label is negative, or too large for `usize`.
    LabelValue {
        /// The sample.
        row: usize,
        /// Its label.
        label: i128,
    } => "labels[{row}] is {label}: a label is the number of a class, 0 or more";

    /// Another step of this head is in progress on this rank: the calls of several would mix.
    Busy => "another step of this head is in progress: the steps of a rank follow one another";

    /// These arguments and this loss have no meaning together, or what was called needs something
    /// that they do not hold. The message says what, and what to do instead.
    Unsupported(message: &'static str) => "{message}";

    /// A number is NaN or infinite.
    NonFinite {
        /// The argument that holds it.
        argument: &'static str,
        /// Its row.
        row: usize,
        /// Its column; 0 in a vector.
        column: usize,
        /// The number.
        value: f64,
    } => "{argument}[{row}, {column}] is {value}: every entry must be finite";

    /// The norm of a row is zero or so small, or so large, that its direction or its gradient
    /// cannot be represented.
    DegenerateNorm {
        /// The argument that holds the row.
        argument: &'static str,
        /// The row.
        row: usize,
        /// Its Euclidean norm.
        norm: f64,
        /// The smallest norm that is accepted.
        minimum: f64,
        /// The largest norm that is accepted.
        maximum: f64,
    } => "{argument}[{row}] has norm {norm:e}; a norm must lie in [{minimum:e}, {maximum:e}]";

    /// A head that rounds the factors of its products to bf16
    /// ([`with_precision`](crate::Head::with_precision)) was given `f64` data.
    Precision => "Precision::Bf16 is for f32 data; f64 data needs Precision::Full";

    /// A bias was given to an angular loss: only [`Scale::Unnormalized`](crate::Scale), the plain
    /// softmax, has one.
    Bias =>
        "a bias was given, but this loss normalizes its weights and has none: only Softmax does; \
         a class prior is given by with_log_prior";

    /// A given cosine exceeds 1 by more than rounding can explain (1e-3).
    Cosine {
        /// The sample.
        row: usize,
        /// The class.
        column: usize,
        /// The value that was given.
        value: f64,
    } => "cosines[{row}, {column}] is {value}: a cosine lies in [-1, 1], up to 1e-3 of rounding";

    /// A loss returned something for a sample that is NaN or infinite.
    Target {
        /// The sample.
        row: usize,
        /// Its target angle in radians.
        theta: f64,
        /// The norm of its embedding.
        norm: f64,
        /// The field of [`SampleTarget`](crate::custom::SampleTarget).
        field: &'static str,
        /// Its value.
        value: f64,
    } =>
        "labels[{row}]: the loss returns the {field} {value} at the target angle {theta} and the \
         norm {norm:e}";

    /// A logit, a gradient, or after an update a parameter or its state, may exceed the largest
    /// number of its type.
    Overflow {
        /// What would overflow.
        quantity: &'static str,
        /// The sample that causes it; none in an update.
        row: Option<usize>,
        /// The bound on it.
        bound: f64,
        /// The largest magnitude that is safe.
        maximum: f64,
    } =>
        "{quantity}{} may reach {bound:e}, beyond {maximum:e}, the largest that is safe",
        row.map_or(String::new(), |row| format!(" of row {row}"));

    /// The `forward` argument of a backward pass is not that of this loss, these logits and labels.
    Forward {
        /// The first sample that differs.
        row: usize,
    } => "forward was not made by this loss from these logits and labels: sample {row} differs";

    /// Two class weights point the same way, or opposite ways where that counts as the same: their
    /// hyperspherical energy is infinite.
    Pole {
        /// Both rows.
        rows: [usize; 2],
        /// Whether they are opposed.
        opposed: bool,
        /// The distance of the unit vectors, one of them negated where they are opposed.
        distance: f64,
    } =>
        "class weights {} and {} point {} (unit vectors {distance:e} apart): the energy has a \
         pole there",
        rows[0], rows[1], if *opposed { "opposite ways" } else { "the same way" };

    /// The sampled classes are not those of this batch: not ascending, beyond the last class, or
    /// drawn for other labels.
    Sample {
        /// The field of [`ClassSample`](crate::sampling::ClassSample) that does not fit.
        field: &'static str,
        /// Its first entry that does not.
        position: usize,
    } =>
        "{field}[{position}] of the class sample does not fit this batch: a sample is made for \
         every batch, of classes that there are";

    /// The sampled classes were drawn for another number of classes than there are weights.
    SampledRange {
        /// The classes that the sampler draws from.
        sampled: Range<usize>,
        /// The classes whose weights are active in the step.
        held: Range<usize>,
    } =>
        "the class sample was drawn from classes {sampled:?}, but the class weights are those of \
         {held:?}";

    /// Row numbers do not name distinct rows in ascending order.
    Rows {
        /// The argument that holds the row numbers.
        argument: &'static str,
        /// The first entry that is refused.
        position: usize,
        /// The row that it names.
        row: usize,
        /// How many rows there are.
        rows: usize,
    } =>
        "{argument}[{position}] names row {row}: rows must ascend, each at most once, and lie \
         below {rows}";

    /// The ranks of a step do not agree, or one of them refused its input or is gone. Every rank
    /// returns the same error.
    Collective {
        /// The first rank that is at fault.
        rank: usize,
        /// The refusal of that rank, or how it differs from the others.
        reason: String,
    } => "rank {rank}: {reason}";

    /// A device, such as a graphics card, cannot run the step, failed in it, or computes wrong.
    Device {
        /// The device.
        device: String,
        /// What it reported, or what is wrong with it.
        reason: String,
    } => "{device}: {reason}";
}

impl std::error::Error for Error {}

impl Error {
    /// Refuses `actual` unless it is `expected`.
    pub(crate) fn check_shape(
        argument: &'static str,
        expected: &[usize],
        actual: &[usize],
    ) -> Result<(), Error> {
        if expected == actual {
            return Ok(());
        }
        Err(Error::Shape { argument, expected: expected.to_vec(), actual: actual.to_vec() })
    }

    /// Refuses a shape with an empty axis.
    pub(crate) fn check_not_empty(argument: &'static str, actual: &[usize]) -> Result<(), Error> {
        if actual.contains(&0) {
            return Err(Error::Empty { argument, actual: actual.to_vec() });
        }
        Ok(())
    }

    /// Refuses the first label that neither names a class nor is `ignored`.
    pub(crate) fn check_labels(
        labels: &[usize],
        classes: usize,
        ignored: Option<usize>,
    ) -> Result<(), Error> {
        match labels.iter().position(|&label| label >= classes && Some(label) != ignored) {
            Some(row) => Err(Error::Label { row, label: labels[row], classes }),
            None => Ok(()),
        }
    }

    /// Refuses a range that ends before it starts; `parameter` names its end.
    pub(crate) fn check_range(parameter: &'static str, range: &Range<usize>) -> Result<(), Error> {
        let (end, expected) = (range.end as f64, "no less than its start");
        Error::check_parameter(parameter, end, expected, range.start <= range.end).map(drop)
    }

    /// Refuses what has no meaning, for a reason.
    pub(crate) fn check_supported(supported: bool, reason: &'static str) -> Result<(), Error> {
        if supported { Ok(()) } else { Err(Error::Unsupported(reason)) }
    }

    /// Refuses a hyper-parameter for which `valid` is false.
    pub(crate) fn check_parameter(
        parameter: &'static str,
        value: f64,
        expected: &'static str,
        valid: bool,
    ) -> Result<f64, Error> {
        if valid { Ok(value) } else { Err(Error::Parameter { parameter, value, expected }) }
    }
}

/// Whether a number lies in a range, by the text that docs and errors have for it.
pub(crate) fn in_range(x: f64, range: &str) -> bool {
    match range {
        "finite" => x.is_finite(),
        "finite and > 0" => x.is_finite() && x > 0.0,
        "finite and >= 0" => x.is_finite() && x >= 0.0,
        "finite and >= 1" => x.is_finite() && x >= 1.0,
        "an integer >= 1" => x >= 1.0,
        "in [0, 1)" => (0.0..1.0).contains(&x),
        "in [0, 1]" => (0.0..=1.0).contains(&x),
        "in [-1, 1]" => x.abs() <= 1.0,
        "in (0, 1]" => x > 0.0 && x <= 1.0,
        // Half a turn or more can only be a mistake: degrees, or a scale.
        "in [0, π) radians" => (0.0..std::f64::consts::PI).contains(&x),
        // A larger margin can only be a mistake: per cent, or a scale.
        "in (-2, 2), a difference of cosines" => x.abs() < 2.0,
        _ => false, // a text that is none of these refuses every number, so that any test finds it
    }
}

/// Checks a number: `check!("angular margin m", m, "in [0, π) radians", "scale s, then margin m")`.
/// The range is one of [`in_range`], or a text and its condition. An order of the arguments is part
/// of the error, for they may be swapped.
macro_rules! check {
    ($parameter:expr, $value:expr, ($range:literal, $holds:expr) $(, $order:literal)?) => {{
        let (value, holds): (f64, fn(f64) -> bool) = (f64::from($value), $holds);
        let expected = concat!($range $(, " (arguments are ", $order, ")")?);
        $crate::error::Error::check_parameter($parameter, value, expected, holds(value))
    }};
    ($parameter:expr, $value:expr, $range:literal $(, $order:literal)?) => {
        $crate::error::check!(
            $parameter, $value, ($range, |x| $crate::error::in_range(x, $range)) $(, $order)?
        )
    };
}

pub(crate) use check;
