//! e^x without a branch, so that a loop over it becomes vector code.
//!
//! x = n ln 2 + r with |r| ≤ (ln 2)/2, then e^x = 2ⁿ (1 + r + r² q(r)), q a polynomial interpolated
//! at Chebyshev nodes. ln 2 is split so that n times its upper part is exact, and 2ⁿ is applied in
//! two halves, so that subnormal results are rounded once and the ends of the range overflow and
//! underflow by themselves. NaN passes through.

use super::dispatch::madd;
use super::simd::Isa;

macro_rules! exp {
    (
        $name:ident, $float:ident, $bits:ident, $int:ident,
        range: $lowest:literal..$highest:literal,
        round: $round:literal, mantissa: $mantissa:literal, bias: $bias:literal,
        ln2: $high:literal + $low:literal,
        polynomial: [$($coefficient:literal),*]
    ) => {
        #[inline(always)]
        pub(crate) fn $name<I: Isa>(x: $float) -> $float {
            // At the lowest, the first half of 2ⁿ is 0: rounding a number below the smallest takes a
            // CPU many cycles, and masked logits are −∞. Comparisons, not min and max: those would
            // lose a NaN.
            let x = if x < $lowest { $lowest } else { x };
            let x = if x > $highest { $highest } else { x };
            // Adding 1.5 · 2^mantissa leaves the nearest integer in the lowest bits.
            let shifted = madd::<_, I>(x, std::$float::consts::LOG2_E, $round);
            let n = shifted - $round;
            let integer = |x: $float| x.to_bits() as $int;
            let exponent = integer(shifted).wrapping_sub(integer($round));
            let r = madd::<_, I>(n, -$high, x);
            let r = madd::<_, I>(n, -$low, r);
            let mut q: $float = 0.0;
            $(q = madd::<_, I>(q, r, $coefficient);)*
            let value = 1.0 + madd::<_, I>(r * r, q, r);
            let half = exponent >> 1;
            let power = |n: $int| $float::from_bits((n.wrapping_add($bias) as $bits) << $mantissa);
            value * power(half) * power(exponent.wrapping_sub(half))
        }
    };
}

exp! {
    exp_f32, f32, u32, i32,
    range: -176.0..89.0,
    round: 12_582_912.0, mantissa: 23, bias: 127,
    ln2: 0.693_145_75 + 1.428_606_8e-6,
    polynomial: [1.989_103e-4, 1.393_368_6e-3, 8.333_311e-3, 4.166_646_5e-2, 1.666_666_7e-1, 0.5]
}

exp! {
    exp_f64, f64, u64, i64,
    range: -1418.0..710.0,
    round: 6_755_399_441_055_744.0, mantissa: 52, bias: 1023,
    ln2: 0.693_147_180_369_123_8 + 1.908_214_929_270_587_7e-10,
    polynomial: [
        2.091_471_734_171_637_6e-9, 2.510_525_953_844_849_3e-8, 2.755_727_357_010_214e-7,
        2.755_725_529_796_964_4e-6, 2.480_158_732_605_323e-5, 1.984_126_987_490_126e-4,
        1.388_888_888_888_373_2e-3, 8.333_333_333_326_112e-3, 4.166_666_666_666_667e-2,
        1.666_666_666_666_666_7e-1, 0.5
    ]
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::{Level, op};
    use super::super::real::Real;
    use rayon::prelude::*;

    op! {
        fn exp<I at level>[F: Real](numbers: &mut [F]) {
            numbers.iter_mut().for_each(|x| *x = x.exp_inline::<I>());
        }
    }

    fn at(level: Level, x: f64) -> f64 {
        let mut x = [x];
        exp(level, &mut x);
        x[0]
    }

    /// Distance in units of the last place of f32, which is that of the smallest normal number for
    /// all smaller ones.
    fn ulps_f32(found: f32, reference: f64) -> f64 {
        let exponent = reference.log2().floor().max(-126.0) as i32;
        (f64::from(found) - reference).abs() / 2.0_f64.powi(exponent - 23)
    }

    fn error_f32(x: f32, found: f32) -> f64 {
        let reference = f64::from(x).exp();
        if x.is_nan() {
            return if found.is_nan() { 0.0 } else { f64::INFINITY };
        }
        // Beyond the midpoint between the largest number and the next power of two.
        if reference >= 3.402_823_567_797_336_6e38 {
            return if found == f32::INFINITY { 0.0 } else { f64::INFINITY };
        }
        if reference == 0.0 { f64::from(found) } else { ulps_f32(found, reference) }
    }

    /// The largest error over a range of bit patterns, at every level.
    fn worst_f32(bits: std::ops::Range<u64>) -> f64 {
        let inputs: Vec<f32> = bits.map(|bits| f32::from_bits(bits as u32)).collect();
        let errors = Level::available().flat_map(|level| {
            let mut outputs = inputs.clone();
            exp(level, &mut outputs);
            let pairs = inputs.iter().zip(outputs);
            pairs.map(|(&x, found)| error_f32(x, found)).collect::<Vec<_>>()
        });
        errors.fold(0.0, f64::max)
    }

    fn worst_f32_of(blocks: impl IntoParallelIterator<Item = u64>) -> f64 {
        let worst = |block: u64| worst_f32(block << 16..(block + 1) << 16);
        blocks.into_par_iter().map(worst).reduce(|| 0.0, f64::max)
    }

    #[test]
    fn f32_is_within_1_02_ulp_on_a_sample_of_inputs() {
        let blocks: Vec<u64> = (0..1_u64 << 16).step_by(997).collect();
        let worst = worst_f32_of(blocks);
        assert!(worst <= 1.02, "{worst} ulp");
    }

    #[test]
    #[ignore = "all 2^32 inputs take minutes: .ci/run runs it"]
    fn f32_is_within_1_02_ulp_on_every_input() {
        let worst = worst_f32_of(0..1_u64 << 16);
        assert!(worst <= 1.02, "{worst} ulp");
    }

    /// A number as the unevaluated sum of two f64: about 105 bits.
    #[derive(Clone, Copy)]
    struct Double(f64, f64);

    impl Double {
        fn of(high: f64, low: f64) -> Self {
            let sum = high + low;
            Double(sum, low - (sum - high))
        }

        fn times(self, other: Self) -> Self {
            let product = self.0 * other.0;
            let error = self.0.mul_add(other.0, -product);
            Double::of(product, error + (self.0 * other.1 + self.1 * other.0))
        }

        fn over(self, divisor: f64) -> Self {
            let quotient = self.0 / divisor;
            let rest = (-quotient).mul_add(divisor, self.0) + self.1;
            Double::of(quotient, rest / divisor)
        }

        fn plus_one(self) -> Self {
            let sum = 1.0 + self.0;
            let error = (1.0 - (sum - (sum - 1.0))) + (self.0 - (sum - 1.0));
            Double::of(sum, error + self.1)
        }
    }

    /// The exponent n and e^x / 2ⁿ, by Taylor's series in double-double arithmetic.
    fn reference(x: f64) -> (i32, Double) {
        let n = (x * std::f64::consts::LOG2_E).round();
        // ln 2 in three parts, the first short enough for n times it to be exact.
        const LN2: [f64; 3] =
            [0.693_147_180_369_123_8, 1.908_214_910_081_745_7e-10, 1.918_884_186_126_613_5e-18];
        let high = x - n * LN2[0];
        let r =
            Double::of(high - n * LN2[1], ((high - (high - n * LN2[1])) - n * LN2[1]) - n * LN2[2]);
        let series = (1..=27)
            .rev()
            .fold(Double(1.0, 0.0), |sum, k| r.over(f64::from(k)).times(sum).plus_one());
        (n as i32, series)
    }

    #[test]
    fn f64_is_within_1_5_ulp_on_dense_samples() {
        let mut worst = 0.0_f64;
        for step in 0..2_000_000 {
            // From the first subnormal result to the last finite one.
            let x = -745.0 + 1454.7 * (f64::from(step) + 0.37) / 2e6;
            let (n, Double(high, low)) = reference(x);
            for level in Level::available() {
                let found = at(level, x);
                // Both halves of 2ⁿ are exact, and so is dividing by them above the subnormals.
                let lowest = (-1022 - n).max(if high < 1.0 { -1 } else { 0 });
                let unit = 2.0_f64.powi(lowest - 52);
                let scaled = found * 2.0_f64.powi(-n / 2) * 2.0_f64.powi(-n - -n / 2);
                worst = worst.max(((scaled - high) - low).abs() / unit);
            }
        }
        assert!(worst <= 1.5, "{worst} ulp");
    }

    #[test]
    fn ends_of_the_range_are_right() {
        for level in Level::available() {
            for x in [f64::NEG_INFINITY, -1e300, -746.0, f64::MIN] {
                assert_eq!(at(level, x), 0.0);
            }
            for x in [f64::INFINITY, 1e300, 709.8, f64::MAX] {
                assert_eq!(at(level, x), f64::INFINITY);
            }
            assert!(at(level, f64::NAN).is_nan());
            assert_eq!((at(level, 0.0), at(level, -0.0)), (1.0, 1.0));
            assert_eq!(at(level, -745.1), f64::from_bits(1));
        }
    }
}
