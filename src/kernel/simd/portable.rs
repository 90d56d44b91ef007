//! For CPUs without a level of their own: loops over arrays, for which the compiler chooses the
//! instructions.

use num_traits::Float;

use super::vector::{Isa, Rows, Vector};

/// No instructions beyond those of the target; multiplication and addition round separately.
#[derive(Debug, Clone, Copy)]
pub enum Portable {}

impl Isa for Portable {
    const FMA: bool = false;
    const ROWS: usize = 4;
    type F32 = [f32; 4];
    type F64 = [f64; 2];
}

impl<F: Float, const N: usize> Vector<F> for [F; N] {
    const LANES: usize = N;
    const SIDE: usize = N;

    #[inline(always)]
    unsafe fn load(from: *const F) -> Self {
        // SAFETY: the caller's pointer is to N numbers.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut F) {
        // SAFETY: the caller's pointer is to N numbers.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn splat(value: F) -> Self {
        [value; N]
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for (a, b) in self.iter_mut().zip(other) {
            *a = *a + b;
        }
        self
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, mut addend: Self) -> Self {
        for ((sum, a), b) in addend.iter_mut().zip(self).zip(factor) {
            *sum = a * b + *sum;
        }
        addend
    }

    #[inline(always)]
    unsafe fn transpose(rows: &Rows<F>, at: usize, to: *mut F, stride: usize) {
        // SAFETY: the caller's rows hold N numbers from `at` on.
        let rows: [Self; N] = std::array::from_fn(|j| unsafe { Self::load(rows[j].add(at)) });
        for k in 0..N {
            // SAFETY: the caller has room for N numbers at each of N strides.
            unsafe { rows.map(|row| row[k]).store(to.add(k * stride)) };
        }
    }
}
