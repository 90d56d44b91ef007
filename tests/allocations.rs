//! What the tiled head allocates: the bytes of a call, and the peak beside what it is given.
//!
//! The allocator is a few lines of this file because it measures two things at once, bytes
//! requested in all and a peak that can be started anew. Of the published ones `stats_alloc` knows
//! only the first and `peak_alloc` only the second, and neither can be laid over the other on
//! stable Rust; the peak of `cap` cannot be started anew.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use margin_softmax::{ArcFace, Batch, BatchMut, Forward, Gradients, Head, Reduction, Sgd};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const KIB: usize = 1 << 10;
const MB: usize = 1_000_000;
/// Each thread has a tile of its own, so that what is said here is said of so many.
const THREADS: usize = 4;

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// The system's allocator, counting.
struct Counting {
    /// Bytes held now.
    held: AtomicUsize,
    /// Most bytes held since the peak was last started anew.
    peak: AtomicUsize,
    /// Bytes ever requested.
    asked: AtomicUsize,
}

impl Counting {
    const fn new() -> Self {
        let [held, peak, asked] = [const { AtomicUsize::new(0) }; 3];
        Counting { held, peak, asked }
    }

    fn count(&self, bytes: usize) {
        self.asked.fetch_add(bytes, Relaxed);
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(held, Relaxed);
    }
}

// SAFETY: every call goes to `System` with the arguments it came with; the counters are atomics
// and allocate nothing. `realloc` is the trait's own, made of these.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: the caller keeps the promises of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Bytes requested, given back or not.
    asked: usize,
    /// Most bytes held beyond those held before.
    peak: usize,
}

fn taken<T>(work: impl FnOnce() -> T) -> Taken {
    let (asked, held) = (MEMORY.asked.load(Relaxed), MEMORY.held.load(Relaxed));
    MEMORY.peak.store(held, Relaxed);
    work();
    let peak = MEMORY.peak.load(Relaxed).saturating_sub(held);
    Taken { asked: MEMORY.asked.load(Relaxed) - asked, peak }
}

/// The counters belong to the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global();
    rayon::broadcast(|_| Case::new(100, 100, 100).step(&head()));
    guard
}

/// A batch and its gradients, all there before anything is measured.
struct Case {
    x: Array2<f32>,
    w: Array2<f32>,
    labels: Vec<usize>,
    gradients: Gradients<f32>,
}

impl Case {
    fn new(samples: usize, dims: usize, classes: usize) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut matrix =
            |rows| Array2::from_shape_simple_fn((rows, dims), || rng.random_range(-1.0..1.0));
        let (x, w) = (matrix(samples), matrix(classes));
        let labels: Vec<usize> = (0..samples).map(|i| (i * 7919 + 13) % classes).collect();
        let mut gradients = Gradients::zeros_for(&Batch::new(&x, &w, &labels));
        // Zeros fresh from the system take no memory until they are written.
        gradients.weights.fill(1.0);
        Case { x, w, labels, gradients }
    }

    fn step(&mut self, head: &Head<ArcFace>) -> Forward<f32> {
        let batch = Batch::new(&self.x, &self.w, &self.labels);
        head.forward_backward(&batch, Reduction::Mean, &mut self.gradients).unwrap()
    }

    fn forward(&self, head: &Head<ArcFace>) -> Forward<f32> {
        head.forward(&Batch::new(&self.x, &self.w, &self.labels)).unwrap()
    }
}

fn head() -> Head<ArcFace> {
    Head::new(ArcFace::default())
}

/// The peak of a piece of work on one thread.
fn peak_on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> usize {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    // The thread's own first product is not what is measured.
    pool.install(|| Case::new(100, 100, 100).step(&head()));
    pool.install(|| taken(work)).peak
}

/// The peak of a whole step with a new head.
fn step_peak(head: Head<ArcFace>, (samples, dims, classes): (usize, usize, usize)) -> usize {
    let mut case = Case::new(samples, dims, classes);
    peak_on_one_thread(|| case.step(&head))
}

#[test]
fn a_hundred_thousand_classes_take_32_mb_and_later_steps_next_to_nothing() {
    let _alone = alone();
    let mut case = Case::new(512, 512, 100_000);
    let head = head();
    let first = taken(|| case.step(&head));
    let later = [(); 2].map(|()| taken(|| case.step(&head)));
    assert!(first.peak <= 32 * MB, "{first:?}");
    for later in later {
        assert!(later.asked <= 64 * KIB, "{later:?}");
    }
}

/// A step that updates the weights needs no gradient of them (205 MB here): logits within the budget,
/// and beside them what a step with gradients takes, each thread's tile of gradient rows and the
/// targets' old rows.
#[test]
fn a_step_that_moves_the_weights_takes_no_array_of_their_shape() {
    let _alone = alone();
    let Case { x, mut w, labels, .. } = Case::new(512, 512, 100_000);
    const BUDGET: usize = 16 * MB;
    let head = head().with_memory_budget(BUDGET);
    let mut update = Sgd::new(0.1).unwrap();
    let mut dx = Array2::zeros(x.dim());
    let mut step = || {
        let mut batch = BatchMut::new(&x, &mut w, &labels);
        head.step(&mut batch, Reduction::Mean, &mut update, &mut dx).unwrap();
    };
    let first = taken(&mut step);
    let later = [(); 2].map(|()| taken(&mut step));
    assert!(first.peak <= BUDGET + 38 * MB, "{first:?}");
    for later in later {
        assert!(later.asked <= 64 * KIB, "{later:?}");
    }
}

/// Resident memory as the system counts it, on new threads, which hold nothing yet.
#[test]
#[cfg(target_os = "linux")]
fn resident_memory_grows_by_32_mb_at_most() {
    fn kib(field: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }
    let _alone = alone();
    let mut case = Case::new(512, 512, 100_000);
    let before = kib("VmRSS:");
    // Starts the peak anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    pool.install(|| case.step(&head()));
    let grown = kib("VmHWM:").saturating_sub(before) * KIB;
    assert!(grown <= 32 * MB, "{grown}");
}

/// What may come with more classes, bounded: the factors of the first 65,536, and statistics of at
/// most 32 chunks.
const BOUNDED: usize = 768 * KIB;
/// What the test harness may do meanwhile.
const NOISE: usize = 16 * KIB;

fn grows_no_more([few, more, most]: [usize; 3]) {
    assert!(more <= few + BOUNDED, "{few}, {more}");
    assert!(most <= more + NOISE, "{more}, {most}");
}

#[test]
fn memory_of_a_step_does_not_grow_with_the_classes() {
    let _alone = alone();
    grows_no_more([40_000, 100_000, 200_000].map(|classes| step_peak(head(), (64, 64, classes))));
}

#[test]
fn memory_of_a_forward_pass_is_that_of_its_tiles() {
    let _alone = alone();
    for (samples, dims) in [(256, 64), (64, 256)] {
        grows_no_more([20_000, 100_000, 200_000].map(|classes| {
            let (case, head) = (Case::new(samples, dims, classes), head());
            peak_on_one_thread(|| case.forward(&head))
        }));
    }
}

#[test]
fn logits_stay_within_the_budget_whatever_the_classes() {
    let _alone = alone();
    for classes in [20_000, 100_000] {
        let peak = |budget| step_peak(head().with_memory_budget(budget), (512, 32, classes));
        let without = peak(0);
        assert!(without <= 10 * MB, "{without}");
        // The second fits not even the logits of the fewer classes.
        for budget in [8 * MB, 40 * MB] {
            let with = peak(budget);
            assert!(with <= without + budget + NOISE, "{without}, {with} with {budget}");
            assert!(with + MB >= without + budget, "{without}, {with} with {budget}");
        }
    }
}
