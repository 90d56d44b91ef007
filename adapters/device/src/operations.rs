//! What a framework's tensors must do.

use std::fmt::Debug;
use std::ops::Range;

use margin_softmax::{Error, Real};
use ndarray::{Array2, ArrayView2};

/// A function of every entry of a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Map {
    /// |z|
    Abs,
    /// The larger of z and a number.
    AtLeast(f64),
    /// e^z
    Exp,
    /// 1/z
    Reciprocal,
    /// √z
    Root,
    /// z²
    Square,
    /// z^t of z ≥ 0, for t ≥ 0
    Power(f64),
    /// factor·z + constant
    Affine(f64, f64),
}

/// An operation on two matrices, entry by entry; an axis of length 1 is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// What one number is left of along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Smallest,
    Largest,
}

/// Operations on the matrices of a framework, without a graph; all of a step are on one device.
pub trait Operations: Clone + Debug + Send + Sync + 'static {
    /// The type that is computed in.
    type Float: Real;
    /// A matrix. Those of class weights may be of another type than `Float`.
    type Matrix: Clone + Debug + Send + Sync + 'static;
    /// Which entries of a matrix are meant.
    type Mask: Clone;
    /// The error of the framework.
    type Error;

    /// The framework's error for one of the core.
    fn refused(&self, error: Error) -> Self::Error;
    /// The name of the device, for errors.
    fn name(&self) -> String;
    /// Whether the device is a CPU, whose caches hold smaller tiles.
    fn is_cpu(&self) -> bool;
    /// The most columns whose indices the device's integers and f32 hold.
    fn most_columns(&self) -> usize {
        1 << 24
    }

    /// Rows and columns.
    fn shape(&self, matrix: &Self::Matrix) -> [usize; 2];
    /// Puts numbers on the device.
    fn upload(&self, numbers: Array2<Self::Float>) -> Result<Self::Matrix, Self::Error>;
    /// Reads matrices of any type, all at once.
    fn download(
        &self,
        matrices: Vec<Self::Matrix>,
    ) -> Result<Vec<Array2<Self::Float>>, Self::Error>;
    /// Reads a matrix of type `Float` in main memory, without a copy.
    fn view<R>(
        &self,
        matrix: &Self::Matrix,
        read: impl FnOnce(ArrayView2<'_, Self::Float>) -> Result<R, Self::Error>,
    ) -> Result<R, Self::Error>;
    /// Zeros of type `Float`.
    fn zeros(&self, shape: [usize; 2]) -> Result<Self::Matrix, Self::Error>;

    /// Some rows, converted to `Float`.
    fn rows(&self, of: &Self::Matrix, rows: Range<usize>) -> Result<Self::Matrix, Self::Error>;
    /// Some columns.
    fn columns(
        &self,
        of: &Self::Matrix,
        columns: Range<usize>,
    ) -> Result<Self::Matrix, Self::Error>;
    /// The rows with these ascending numbers, of the type of the matrix.
    fn select(&self, from: &Self::Matrix, rows: &[usize]) -> Result<Self::Matrix, Self::Error>;
    /// Matrices below each other (axis 0) or side by side (axis 1).
    fn cat(&self, parts: Vec<Self::Matrix>, axis: usize) -> Result<Self::Matrix, Self::Error>;
    /// Adds `part` to the rows with these numbers, each of which is named once.
    fn add_rows(
        &self,
        to: Self::Matrix,
        rows: &[usize],
        part: Self::Matrix,
    ) -> Result<Self::Matrix, Self::Error>;
    /// Puts `part` in the place of the rows from `start` on, in place where nothing else holds the
    /// matrix.
    fn put_rows(
        &self,
        to: Self::Matrix,
        start: usize,
        part: Self::Matrix,
    ) -> Result<Self::Matrix, Self::Error>;

    /// A function of every entry.
    fn map(&self, matrix: Self::Matrix, map: Map) -> Result<Self::Matrix, Self::Error>;
    /// Two matrices, entry by entry.
    fn combine(
        &self,
        a: Self::Matrix,
        operation: Binary,
        b: &Self::Matrix,
    ) -> Result<Self::Matrix, Self::Error>;
    /// What is left along an axis, which keeps length 1.
    fn reduce(
        &self,
        matrix: &Self::Matrix,
        reduce: Reduce,
        axis: usize,
    ) -> Result<Self::Matrix, Self::Error>;
    /// The matrix product.
    fn product(&self, a: &Self::Matrix, b: &Self::Matrix) -> Result<Self::Matrix, Self::Error>;
    /// The transposed matrix.
    fn transposed(&self, matrix: &Self::Matrix) -> Result<Self::Matrix, Self::Error>;

    /// The largest entry of each row (N, 1), and its column as a number of type `Float`: the first
    /// of equals. The column may pass through no narrower type.
    fn largest(&self, matrix: &Self::Matrix) -> Result<(Self::Matrix, Self::Matrix), Self::Error>;
    /// The largest of every `k` entries of a row in turn (N, columns / k), and 1 at the first of
    /// these, 0 elsewhere (N, columns).
    fn largest_of(
        &self,
        matrix: Self::Matrix,
        k: usize,
    ) -> Result<(Self::Matrix, Self::Matrix), Self::Error>;
    /// Each entry `k` times in turn.
    fn repeat(&self, matrix: &Self::Matrix, k: usize) -> Result<Self::Matrix, Self::Error>;

    /// The entry of each row at the column whose number is that of the row (N, 1), of so many
    /// `columns`; none for a number that is no column's.
    fn at(&self, numbers: &Self::Matrix, columns: usize) -> Result<Self::Mask, Self::Error>;
    /// The entries above the number of their row (N, 1).
    fn above(
        &self,
        matrix: &Self::Matrix,
        threshold: &Self::Matrix,
    ) -> Result<Self::Mask, Self::Error>;
    /// The matrix, with the entries of `other` where the mask says so.
    fn replace(
        &self,
        matrix: Self::Matrix,
        mask: &Self::Mask,
        other: &Self::Matrix,
    ) -> Result<Self::Matrix, Self::Error>;
    /// The matrix, with a number where the mask says so.
    fn fill(
        &self,
        matrix: Self::Matrix,
        mask: &Self::Mask,
        number: f64,
    ) -> Result<Self::Matrix, Self::Error>;
}
