//! What a level of instructions offers: registers, and the operations on them.

/// One level of instructions.
pub trait Isa: Copy + 'static {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;
    /// The most rows of a block of a product: with two vectors of sums for each, a row of the
    /// right factor and an entry of the left one, they fill the registers.
    const ROWS: usize;

    type F32: Vector<f32>;
    type F64: Vector<f64>;
}

/// A vector register of numbers of type `F`.
///
/// # Safety
/// Every method needs a CPU that has the instructions of the level, and pointers to as many numbers
/// as it reads or writes, at any alignment.
pub trait Vector<F>: Copy {
    /// Numbers in the register.
    const LANES: usize;
    /// Rows and columns of a block that [`transpose`](Self::transpose) takes; at most
    /// [`MAX_SIDE`].
    const SIDE: usize;

    /// # Safety
    /// See [`Vector`].
    unsafe fn load(from: *const F) -> Self;
    /// # Safety
    /// See [`Vector`].
    unsafe fn store(self, to: *mut F);
    /// # Safety
    /// See [`Vector`].
    unsafe fn splat(value: F) -> Self;
    /// # Safety
    /// See [`Vector`].
    unsafe fn add(self, other: Self) -> Self;
    /// `self` · `factor` + `addend`, fused where the level has the instruction.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self;
    /// Reads SIDE numbers from each of the first SIDE `rows`, from number `at` on, and writes
    /// number k of all rows side by side at `to + k · stride`, in the order of k: with a stride
    /// less than SIDE, what comes later overwrites.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn transpose(rows: &Rows<F>, at: usize, to: *mut F, stride: usize);
}

/// A vector that lies anywhere: as many numbers, one after the other.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Unaligned<V: Copy>(pub V);

/// The largest [`Vector::SIDE`].
pub const MAX_SIDE: usize = 8;

/// Where the rows of a block begin.
pub type Rows<F> = [*const F; MAX_SIDE];

/// A register of one part of 128 bits or two, in which blocks are transposed.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub trait Interleave<F>: Vector<F> {
    /// A part from `first`; the other part, if there is one, from `second`.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn load_parts(first: *const F, second: *const F) -> Self;
    /// Part by part the lower halves of both registers, number by number in turn, and the upper
    /// halves.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn interleave(self, other: Self) -> [Self; 2];
}

/// As [`Vector::transpose`], for blocks of as many rows as the register has numbers: each part is a
/// square of its own.
///
/// # Safety
/// See [`Vector`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) unsafe fn transpose<F, V: Interleave<F>>(
    rows: &Rows<F>,
    at: usize,
    to: *mut F,
    stride: usize,
) {
    let part = 16 / size_of::<F>();
    for first in (0..V::LANES).step_by(part) {
        let row = |j: usize| rows[j].wrapping_add(at + first);
        // SAFETY: the caller answers for CPU and pointers; of registers of one part the second
        // pointer is not read.
        unsafe {
            let load = |j: usize| V::load_parts(row(j), row(j + part));
            let [a, b] = load(0).interleave(load(part / 2));
            let columns = if part == 2 {
                [a, b, a, b]
            } else {
                let [c, d] = load(1).interleave(load(3));
                let ([first, second], [third, fourth]) = (a.interleave(c), b.interleave(d));
                [first, second, third, fourth]
            };
            for (k, column) in columns.into_iter().take(part).enumerate() {
                column.store(to.add((first + k) * stride));
            }
        }
    }
}

/// Implements [`Vector`] for a register by the instructions of each operation, and [`Interleave`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! vector {
    (
        $register:ty: $lanes:literal of $float:ty, blocks of $block:ty,
        $load:ident, $store:ident, $splat:ident, $add:ident,
        |$a:ident, $b:ident, $c:ident| $multiply_add:expr
        $(, |$first:ident, $second:pat_param| $load_parts:expr, $low:ident, $high:ident)?
    ) => {
        // SAFETY, of every block: the caller answers for CPU and pointers.
        impl super::vector::Vector<$float> for $register {
            const LANES: usize = $lanes;
            const SIDE: usize = <$block as super::vector::Vector<$float>>::LANES;

            #[inline(always)]
            unsafe fn load(from: *const $float) -> Self {
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut $float) {
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            unsafe fn splat(value: $float) -> Self {
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
                let ($a, $b, $c) = (self, factor, addend);
                unsafe { $multiply_add }
            }

            #[inline(always)]
            unsafe fn transpose(rows: &Rows<$float>, at: usize, to: *mut $float, stride: usize) {
                unsafe { super::vector::transpose::<$float, $block>(rows, at, to, stride) }
            }
        }

        $(impl super::vector::Interleave<$float> for $register {
            #[inline(always)]
            unsafe fn load_parts($first: *const $float, $second: *const $float) -> Self {
                unsafe { $load_parts }
            }

            #[inline(always)]
            unsafe fn interleave(self, other: Self) -> [Self; 2] {
                unsafe { [$low(self, other), $high(self, other)] }
            }
        })?
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use vector;
