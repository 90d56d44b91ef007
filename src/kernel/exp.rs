//! $e^x$ without a branch, so that a loop over it becomes vector code.
//!
//! $x = n\ln 2 + r$ with $|r| \le \frac{\ln 2}{2}$, then $e^x = 2^n(1 + r + r^2 q(r))$, $q$ a
//! polynomial interpolated at Chebyshev nodes. $\ln 2$ is split so that $n\cdot$ its upper part is exact, and
//! $2^n$ is applied in two halves, so that subnormal results are rounded once and the ends of the
//! range overflow and underflow by themselves. NaN passes through.

use super::dispatch::madd;

macro_rules! exp {
    (
        $name:ident, $float:ident, $bits:ident, $int:ident,
        range: $lowest:literal..$highest:literal,
        round: $round:literal, mantissa: $mantissa:literal, bias: $bias:literal,
        ln2: $high:literal + $low:literal,
        polynomial: [$($coefficient:literal),*]
    ) => {
        #[inline(always)]
        pub(crate) fn $name<const FMA: bool>(x: $float) -> $float {
            // Comparisons, not min and max: those would lose a NaN.
            let x = if x < $lowest { $lowest } else { x };
            let x = if x > $highest { $highest } else { x };
            // Adding 1.5 · 2^mantissa leaves the nearest integer in the lowest bits.
            let shifted = madd::<_, FMA>(x, std::$float::consts::LOG2_E, $round);
            let n = shifted - $round;
            let exponent = (shifted.to_bits() as $int).wrapping_sub(($round as $float).to_bits() as $int);
            let r = madd::<_, FMA>(n, -$high, x);
            let r = madd::<_, FMA>(n, -$low, r);
            let mut q: $float = 0.0;
            $(q = madd::<_, FMA>(q, r, $coefficient);)*
            let value = 1.0 + madd::<_, FMA>(r * r, q, r);
            let half = exponent >> 1;
            let power = |n: $int| $float::from_bits((n.wrapping_add($bias) as $bits) << $mantissa);
            value * power(half) * power(exponent.wrapping_sub(half))
        }
    };
}

exp! {
    exp_f32, f32, u32, i32,
    range: -105.0..89.0,
    round: 12_582_912.0, mantissa: 23, bias: 127,
    ln2: 0.693_145_75 + 1.428_606_8e-6,
    polynomial: [1.989_103e-4, 1.393_368_6e-3, 8.333_311e-3, 4.166_646_5e-2, 1.666_666_7e-1, 0.5]
}

exp! {
    exp_f64, f64, u64, i64,
    range: -746.0..710.0,
    round: 6_755_399_441_055_744.0, mantissa: 52, bias: 1023,
    ln2: 0.693_147_180_369_123_8 + 1.908_214_929_270_587_7e-10,
    polynomial: [
        2.091_471_734_171_637_6e-9, 2.510_525_953_844_849_3e-8, 2.755_727_357_010_214e-7,
        2.755_725_529_796_964_4e-6, 2.480_158_732_605_323e-5, 1.984_126_987_490_126e-4,
        1.388_888_888_888_373_2e-3, 8.333_333_333_326_112e-3, 4.166_666_666_666_667e-2,
        1.666_666_666_666_666_7e-1, 0.5
    ]
}
