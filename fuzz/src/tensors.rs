//! Vectors and matrices of any small shape, in any layout, and labels.

use arbitrary::Arbitrary;
use ndarray::{Array1, Array2, ArrayView2, s};

use crate::numbers::{Number, Working};

/// Numbers for a shape that is known later: noise, and some entries that the fuzzer chose.
#[derive(Debug, Clone, Arbitrary)]
pub struct Vector {
    seed: u32,
    exponent: i8,
    chosen: Vec<(u16, Number)>,
}

impl Vector {
    /// `length` of these numbers.
    pub fn fill<F: Working>(&self, length: usize) -> Array1<F> {
        let scale = f64::from(self.exponent / 16).exp2();
        let mut values = Array1::from_shape_fn(length, |i| F::of(scale * noise(self.seed, i)));
        for &(place, number) in self.chosen.iter().filter(|_| length > 0) {
            values[usize::from(place) % length] = F::read(number);
        }
        values
    }
}

/// Even on [-1, 1): the finalising steps of a 64-bit hash of seed and place.
fn noise(seed: u32, place: usize) -> f64 {
    let mut bits = (u64::from(seed) << 32 | place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 29;
    (bits as i64) as f64 / i64::MAX as f64
}

/// How the entries of a matrix lie in memory.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Layout {
    Rows,
    Columns,
    Reversed,
    Stepped,
    SteppedColumns,
    SameRow,
    SameColumn,
    SameNumber,
}

/// A matrix as the fuzzer writes it down, for a shape that is known later.
#[derive(Debug, Clone, Arbitrary)]
pub struct Matrix {
    layout: Layout,
    numbers: Vector,
    /// Rows that repeat others, turned round or not: parallel and opposed pairs.
    copies: Vec<(u8, u8, bool)>,
}

impl Matrix {
    /// The matrix in this shape.
    pub fn fill<F: Working>(&self, rows: usize, columns: usize) -> Tensor2<F> {
        let shape = match self.layout {
            Layout::Rows | Layout::Reversed => (rows, columns),
            Layout::Columns => (columns, rows),
            Layout::Stepped => (2 * rows, 3 * columns),
            Layout::SteppedColumns => (2 * columns, 2 * rows),
            Layout::SameRow => (1, columns),
            Layout::SameColumn => (rows, 1),
            Layout::SameNumber => (1, 1),
        };
        let numbers = self.numbers.fill(shape.0 * shape.1);
        let mut buffer = Array2::from_shape_fn(shape, |(i, j)| numbers[i * shape.1 + j]);
        for &(from, to, turned) in self.copies.iter().filter(|_| shape.0 > 0) {
            let row = buffer.row(usize::from(from) % shape.0).to_owned();
            let row = if turned { -row } else { row };
            buffer.row_mut(usize::from(to) % shape.0).assign(&row);
        }
        Tensor2 { buffer, layout: self.layout, shape: (rows, columns) }
    }
}

/// A matrix, its entries anywhere in a buffer.
#[derive(Debug, Clone)]
pub struct Tensor2<F> {
    buffer: Array2<F>,
    layout: Layout,
    shape: (usize, usize),
}

impl<F: Working> Tensor2<F> {
    /// The matrix where it lies.
    pub fn view(&self) -> ArrayView2<'_, F> {
        let buffer = &self.buffer;
        let view = match self.layout {
            Layout::Rows => buffer.view(),
            Layout::Columns => buffer.t(),
            Layout::Reversed => buffer.slice(s![..;-1, ..;-1]),
            Layout::Stepped => buffer.slice(s![..;2, ..;3]),
            Layout::SteppedColumns => buffer.slice(s![..;-2, ..;2]).reversed_axes(),
            Layout::SameRow | Layout::SameColumn | Layout::SameNumber => {
                buffer.broadcast(self.shape).expect("one row, one column or one number")
            }
        };
        assert_eq!(view.dim(), self.shape);
        view
    }

    /// The same matrix, owned; what is transposed or reversed stays so.
    pub fn owned(&self) -> Array2<F> {
        match self.layout {
            Layout::Columns => self.buffer.clone().reversed_axes(),
            Layout::Reversed => {
                let mut array = self.buffer.clone();
                array.invert_axis(ndarray::Axis(0));
                array.invert_axis(ndarray::Axis(1));
                array
            }
            _ => self.view().to_owned(),
        }
    }
}

/// Labels: most name a class.
#[derive(Debug, Clone, Arbitrary)]
pub struct Labels {
    seed: u32,
    chosen: Vec<(u8, u16)>,
    wild: u64,
    /// Mostly none: one label more or less than there are samples, or one that may be no class.
    fault: u8,
}

impl Labels {
    /// Labels for this many samples and classes.
    pub fn fill(&self, samples: usize, classes: usize) -> Vec<usize> {
        let count = match self.fault {
            253 => samples.saturating_sub(1),
            254 => samples + 1,
            _ => samples,
        };
        let any = |i: usize| (noise(self.seed, i).abs() * 65536.0) as usize % classes.max(1);
        let mut labels: Vec<usize> = (0..count).map(any).collect();
        for &(place, label) in self.chosen.iter().filter(|_| count > 0) {
            labels[usize::from(place) % count] = usize::from(label) % classes.max(1);
        }
        if let (255, Some(last)) = (self.fault, labels.last_mut()) {
            *last = self.wild as usize;
        }
        labels
    }
}
