//! The one error type: every refusal names the argument, the place and the value.

use std::fmt;

/// Why a call was refused.
///
/// ```
/// use margin_softmax_evaluation::{Error, Verification};
///
/// let refused = Verification::from_scores(&[0.9, f64::NAN], &[true, false]).unwrap_err();
/// assert!(matches!(refused, Error::NonFinite { argument: "scores", row: 1, .. }));
/// assert_eq!(refused.to_string(), "scores[1, 0] is NaN: every entry must be finite");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is outside its range, NaN included.
    Parameter {
        /// The parameter, with its symbol where it has one.
        parameter: &'static str,
        /// The value that was given.
        value: f64,
        /// The range it must lie in.
        expected: &'static str,
    },

    /// Two arguments do not fit each other.
    Shape {
        /// The argument whose shape is refused.
        argument: &'static str,
        /// The shape that the other arguments require.
        expected: Vec<usize>,
        /// The shape that was given.
        actual: Vec<usize>,
    },

    /// An argument has no rows or no columns.
    Empty {
        /// The empty argument.
        argument: &'static str,
        /// Its shape.
        actual: Vec<usize>,
    },

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
    },

    /// An embedding is zero: it has no direction and no cosine.
    ZeroEmbedding {
        /// The argument that holds it.
        argument: &'static str,
        /// Its row.
        row: usize,
    },

    /// A pair names an embedding that does not exist.
    PairRow {
        /// The position of the pair.
        position: usize,
        /// The row that it names.
        row: usize,
        /// How many embeddings there are.
        rows: usize,
    },

    /// No pair is genuine: there is no TAR and no FRR.
    NoGenuinePair {
        /// How many pairs there are, all of them impostor pairs.
        pairs: u64,
    },

    /// No pair is an impostor pair: there is no FAR.
    NoImpostorPair {
        /// How many pairs there are, all of them genuine.
        pairs: u64,
    },

    /// Of queries and gallery one has groups, and the other has none.
    Groups {
        /// The side without groups.
        argument: &'static str,
    },

    /// The probes or queries are the gallery itself, so that each would find itself. `within`
    /// searches a set for each of its own items without that item.
    SameSet {
        /// The argument that is the gallery.
        argument: &'static str,
        /// How many rows it has.
        rows: usize,
    },

    /// No probe has a mate in the gallery, or no query a relevant item: there is no rank.
    NoMate {
        /// How many probes there are.
        probes: usize,
    },

    /// All probes have a mate in the gallery: there is no FAR.
    NoUnknownProbe {
        /// How many probes there are.
        probes: usize,
    },

    /// The impostor pairs, or unknown probes, are too few to say anything about so small a FAR.
    /// `with_minimum_false_accepts` sets how many are enough.
    TooFewImpostors {
        /// The requested FAR.
        far: f64,
        /// How many there are.
        impostors: u64,
        /// The least number that is accepted; `u64::MAX` for a FAR of 0, for which none is enough.
        required: u64,
    },

    /// Every fold is needed twice: to test, and with the others to choose the threshold. The pairs
    /// that are left for one of the two lack a kind.
    Fold {
        /// The fold.
        fold: usize,
        /// What it lacks.
        lacks: &'static str,
    },

    /// A bootstrap over identities needs the identities of the pairs and every single score.
    /// These pairs have no identities, or their scores were counted in bins.
    NoIdentities,

    /// No replicate of the bootstrap has both genuine and impostor pairs.
    DegenerateBootstrap {
        /// How many replicates were drawn.
        replicates: usize,
    },

    /// The bins that a figure rests on hold more scores than are kept in memory.
    CrowdedBins {
        /// How many scores they hold.
        scores: u64,
        /// The largest number that is kept.
        limit: u64,
    },

    /// The counts are of other pairs than those of these embeddings: in all, or in the first bin that
    /// differs.
    OtherPairs {
        /// The genuine and impostor pairs of the embeddings.
        expected: [u64; 2],
        /// Those that were counted.
        actual: [u64; 2],
    },

    /// A picture could not be rendered.
    Picture {
        /// The reason given by the renderer.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parameter { parameter, value, expected } => {
                write!(f, "{parameter} must be {expected}, got {value}")
            }
            Error::Shape { argument, expected, actual } => write!(
                f,
                "{argument} has shape {actual:?}, but the other arguments require {expected:?}",
            ),
            Error::Empty { argument, actual } => {
                write!(f, "{argument} has shape {actual:?}: no axis may be empty")
            }
            Error::NonFinite { argument, row, column, value } => {
                write!(f, "{argument}[{row}, {column}] is {value}: every entry must be finite")
            }
            Error::ZeroEmbedding { argument, row } => {
                write!(f, "{argument}[{row}] is zero: it has no direction")
            }
            Error::PairRow { position, row, rows } => {
                write!(f, "pairs[{position}] names row {row}, but there are {rows} embeddings")
            }
            Error::NoGenuinePair { pairs } => {
                write!(f, "none of the {pairs} pairs is genuine: there is no TAR")
            }
            Error::NoImpostorPair { pairs } => {
                write!(f, "none of the {pairs} pairs is an impostor pair: there is no FAR")
            }
            Error::Groups { argument } => {
                write!(f, "{argument} has no groups, but the other side has: give both or neither")
            }
            Error::SameSet { argument, rows } => write!(
                f,
                "{argument} has the {rows} rows of the gallery, so that each finds itself: search \
                 one set with `within`",
            ),
            Error::NoMate { probes } => {
                write!(f, "none of the {probes} probes has a mate in the gallery")
            }
            Error::NoUnknownProbe { probes } => {
                write!(f, "all {probes} probes have a mate in the gallery: there is no FAR")
            }
            Error::TooFewImpostors { far, impostors, required } => {
                if *required == u64::MAX {
                    write!(f, "no number of impostors is enough for a FAR of {far:e}")?;
                } else {
                    write!(f, "a FAR of {far:e} needs at least {required} impostors")?;
                }
                write!(
                    f,
                    ", got {impostors}: with_minimum_false_accepts sets how many false accepts must be \
                     expected, 10 by default",
                )
            }
            Error::Fold { fold, lacks } => write!(f, "fold {fold} lacks {lacks}"),
            Error::NoIdentities => f.write_str(
                "a bootstrap over identities needs the identity of every embedding and every \
                 score: use from_embeddings on a small set, from_identified_scores, or \
                 AllPairs::intervals",
            ),
            Error::DegenerateBootstrap { replicates } => write!(
                f,
                "none of {replicates} replicates has both genuine and impostor pairs: there are \
                 too few identities",
            ),
            Error::CrowdedBins { scores, limit } => write!(
                f,
                "the bins of this figure hold {scores} scores, more than the {limit} that are kept",
            ),
            Error::OtherPairs { expected, actual } => write!(
                f,
                "{} genuine and {} impostor pairs were counted, but these embeddings have {} and \
                 {}",
                actual[0], actual[1], expected[0], expected[1],
            ),
            Error::Picture { reason } => write!(f, "the picture was not rendered: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Refuses a parameter for which `valid` is false.
    pub(crate) fn check_parameter(
        parameter: &'static str,
        value: f64,
        expected: &'static str,
        valid: bool,
    ) -> Result<f64, Error> {
        if valid { Ok(value) } else { Err(Error::Parameter { parameter, value, expected }) }
    }

    /// Refuses a vector of another length than `expected`.
    pub(crate) fn check_len(
        argument: &'static str,
        expected: usize,
        actual: usize,
    ) -> Result<(), Error> {
        if expected == actual {
            return Ok(());
        }
        Err(Error::Shape { argument, expected: vec![expected], actual: vec![actual] })
    }

    /// Refuses a matrix with another number of columns than `expected`.
    pub(crate) fn check_columns(
        argument: &'static str,
        (rows, columns): (usize, usize),
        expected: usize,
    ) -> Result<(), Error> {
        if columns == expected {
            return Ok(());
        }
        let (expected, actual) = (vec![rows, expected], vec![rows, columns]);
        Err(Error::Shape { argument, expected, actual })
    }

    /// Refuses a shape with an empty axis.
    pub(crate) fn check_not_empty(argument: &'static str, actual: &[usize]) -> Result<(), Error> {
        if actual.contains(&0) {
            return Err(Error::Empty { argument, actual: actual.to_vec() });
        }
        Ok(())
    }

    /// Refuses scores that are NaN or infinite, or none at all.
    pub(crate) fn check_scores(argument: &'static str, scores: &[f64]) -> Result<(), Error> {
        Error::check_not_empty(argument, &[scores.len()])?;
        match scores.iter().position(|score| !score.is_finite()) {
            Some(row) => Err(Error::NonFinite { argument, row, column: 0, value: scores[row] }),
            None => Ok(()),
        }
    }
}
