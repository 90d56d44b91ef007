//! Large buffers whose pages are first touched by the threads that use them.

/// `count` zeros. On Linux their pages are huge where the system allows a program to ask for that:
/// touching ordinary ones for the first time can take as long as the rest of a step.
pub(crate) fn large_zeros<F: super::Real>(count: usize) -> Vec<F> {
    let zeros = vec![F::zero(); count];
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        unsafe extern "C" {
            fn madvise(address: *const u8, length: usize, advice: i32) -> i32;
        }
        const HUGE_PAGE: usize = 2 << 20;
        const MADV_HUGEPAGE: i32 = 14;
        let start = zeros.as_ptr().cast::<u8>();
        let before = start.align_offset(HUGE_PAGE);
        let length = size_of_val(&zeros[..]).saturating_sub(before) / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: whole pages of the vector; the advice changes no contents, and a system that does
        // not take it returns an error, with which nothing is lost.
        unsafe { madvise(start.wrapping_add(before), length, MADV_HUGEPAGE) };
    }
    zeros
}
