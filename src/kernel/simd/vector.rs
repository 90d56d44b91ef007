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

/// Implements [`Vector`] for a register by the instructions of each operation.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! vector {
    (
        $register:ty: $lanes:literal of $float:ty, side $side:literal,
        $load:ident, $store:ident, $splat:ident, $add:ident,
        |$a:ident, $b:ident, $c:ident| $multiply_add:expr,
        $transpose:path
    ) => {
        // SAFETY, of every block: the caller answers for CPU and pointers.
        impl super::vector::Vector<$float> for $register {
            const LANES: usize = $lanes;
            const SIDE: usize = $side;

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
                unsafe { $transpose(rows, at, to, stride) }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use vector;
