//! A row of parameters moved by its gradient, entry by entry.

use super::dispatch::op;
use super::real::Real;

/// What an update does to one entry, whose state is K numbers.
pub(crate) trait UpdateEntry<const K: usize>: Copy {
    /// The next value and the next state. Must be `#[inline(always)]`.
    fn next(self, value: f64, gradient: f64, state: [f64; K]) -> (f64, [f64; K]);
}

op! {
    /// Moves `values` by their `gradient`. Every entry is computed in f64 by additions,
    /// multiplications, divisions and square roots, none of them fused, and rounded once: the bits
    /// are the same at every level.
    pub(crate) fn update_row<I at level>[F: Real, U: UpdateEntry<K>, const K: usize](
        rule: U,
        values: &mut [F],
        gradient: &[F],
        state: [&mut [F]; K],
    ) {
        assert_eq!(values.len(), gradient.len());
        assert!(state.iter().all(|state| state.len() == values.len()));
        // The lengths are equal; saying so here keeps the checks of bounds out of the loop.
        let len = values.len();
        let gradient = &gradient[..len];
        let state = state.map(|state| &mut state[..len]);
        for i in 0..len {
            let mut before = [0.0; K];
            for k in 0..K {
                before[k] = state[k][i].widen();
            }
            let (value, after) = rule.next(values[i].widen(), gradient[i].widen(), before);
            values[i] = F::narrow(value);
            for k in 0..K {
                state[k][i] = F::narrow(after[k]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Level;
    use super::*;

    #[derive(Clone, Copy)]
    struct Rule;

    impl UpdateEntry<2> for Rule {
        #[inline(always)]
        fn next(self, value: f64, gradient: f64, [a, b]: [f64; 2]) -> (f64, [f64; 2]) {
            let a = 0.9 * a + 0.1 * gradient;
            let b = 0.99 * b + 0.01 * gradient * gradient;
            (value - 0.1 * a / (b.sqrt() + 1e-8), [a, b])
        }
    }

    #[test]
    fn every_level_has_the_same_bits() {
        let numbers = |factor: f32| (0..77).map(|i| (i as f32 * factor).sin()).collect::<Vec<_>>();
        let (gradient, mut first) = (numbers(0.7), None);
        for level in Level::available() {
            let (mut w, mut a, mut b) = (numbers(0.3), numbers(0.9), vec![0.5_f32; 77]);
            let state = [&mut a[..], &mut b[..]];
            update_row(level, Rule, &mut w, &gradient, state);
            let found = (w, a, b);
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{level:?}");
        }
    }
}
