//! Numbers of every kind.

use arbitrary::Arbitrary;
use margin_softmax::Real;

/// A number as the fuzzer writes it down.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Number {
    /// A multiple of 1/16: what data looks like.
    Plain(i8),
    /// Any magnitude of the type, the subnormal ones included.
    Scaled { digits: i8, exponent: i8 },
    /// Any bits: NaN of every payload, infinities, both zeros.
    Bits(u64),
    /// 1 but for a rounding: `ulps` away, or its negative.
    NearOne { ulps: i8, negative: bool },
}

/// A working type and how to make its numbers.
pub trait Working: Real {
    /// The nearest number of this type.
    fn of(value: f64) -> Self;
    /// The number as this type has it.
    fn read(number: Number) -> Self;
}

macro_rules! working {
    ($float:ident, $bits:ident, $exponents:literal) => {
        impl Working for $float {
            fn of(value: f64) -> Self {
                value as $float
            }

            fn read(number: Number) -> Self {
                match number {
                    Number::Plain(sixteenths) => $float::from(sixteenths) / 16.0,
                    Number::Scaled { digits, exponent } => {
                        let scale = f64::from(exponent) * $exponents;
                        (f64::from(digits) * scale.exp2()) as $float
                    }
                    Number::Bits(bits) => $float::from_bits(bits as $bits),
                    Number::NearOne { ulps, negative } => {
                        let one = 1.0 + $float::from(ulps) * $float::EPSILON / 2.0;
                        if negative { -one } else { one }
                    }
                }
            }
        }
    };
}

working!(f32, u32, 1.2);
working!(f64, u64, 8.5);

impl Number {
    /// As a hyper-parameter.
    pub fn value(self) -> f64 {
        f64::read(self)
    }
}
