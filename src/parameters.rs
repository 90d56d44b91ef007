//! Hyper-parameters, one line each: name, type, default, range and meaning. The fields of a type,
//! their table in its docs, getters, checks, `Default` and serde all come from these lines.

use crate::data::Scale;
use crate::math::Continuation;

/// Defines a type by its hyper-parameters. Each is one line, or two where it is long:
///
/// ```text
/// name: type = default, range of "order of the arguments", "meaning", "more";
/// ```
///
/// - A list, `Vec<f64> as &[f64]`, is read as a slice.
/// - A field with a default need not be in a file. Where all have one, they give `Default`; else a
///   default has to be that of its type.
/// - The range is one of `check!`; or `any`; or `(method "text")`, a method of the type that checks
///   it.
/// - The meaning is the name that errors use.
///
/// The docs above the type come before the table, those below it after. `Type<L>` is a loss around
/// another, its field `loss`. Constructors build the type and return its `checked()`.
macro_rules! hyper_parameters {
    ($(#[$docs:meta])* pub struct $name:ident;) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl $name {
            /// The loss; it has no hyper-parameters.
            pub fn new() -> Self {
                $name
            }
        }

        $crate::parameters::hyper_parameters!(@fields $name {});
    };

    (
        $(#[$before:meta])*
        pub struct $name:ident $(<$inner:ident>)? {
            $($field:ident: $type:ty $(as $view:ty)? $(= $default:expr)?,
                $range:tt $(of $order:literal)?, $meaning:literal $(, $more:literal)?;)*
        }
        $(#[$after:meta])*
    ) => {
        $(#[$before])*
        #[doc = ""]
        #[doc = " | hyper-parameter | default | range | meaning |"]
        #[doc = " |---|---|---|---|"]
        $(#[doc = concat!(
            " | `", stringify!($field), "` | ",
            $crate::parameters::hyper_parameters!(@default $($default)?), " | ",
            $crate::parameters::hyper_parameters!(@range $range), " | ",
            $meaning $(, ": ", $more)?, " |",
        )])*
        #[doc = ""]
        $(#[$after])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name $(<$inner>)? {
            $(loss: $inner,)?
            $($field: $type,)*
        }

        impl $(<$inner>)? $name $(<$inner>)? {
            $(
                /// The inner loss.
                pub fn loss(&self) -> &$inner {
                    &self.loss
                }

                /// The inner loss, to be changed between steps: a schedule, a state that observes.
                pub fn loss_mut(&mut self) -> &mut $inner {
                    &mut self.loss
                }
            )?

            $($crate::parameters::hyper_parameters! {
                @getter $field, $type $(as $view)?, concat!("The ", $meaning $(, ": ", $more)?, ".")
            })*
        }

        $crate::parameters::hyper_parameters!(@fields $name $(<$inner>)? {
            $($field: $type $(= $default)?, $range $(of $order)?, $meaning;)*
        });
    };

    (@fields $name:ident $(<$inner:ident>)? {
        $($field:ident: $type:ty $(= $default:expr)?, $range:tt $(of $order:literal)?,
            $meaning:literal;)*
    }) => {
        impl $(<$inner: $crate::loss::MarginLoss>)? $name $(<$inner>)? {
            /// Refuses the first hyper-parameter that is out of its range.
            pub(crate) fn checked(self) -> Result<Self, $crate::error::Error> {
                $($crate::parameters::hyper_parameters!(
                    @check self $field, $meaning, $range $(of $order)?
                );)*
                Ok(self)
            }
        }

        impl $(<$inner>)? $crate::parameters::Vary for $name $(<$inner>)? {
            fn vary(&mut self, _next: &mut dyn FnMut(f64) -> f64) {
                $($crate::parameters::Vary::vary(&mut self.$field, _next);)*
            }
        }

        $crate::parameters::hyper_parameters!(@read $name $(<$inner>)? {
            $($field: $type $(= $default)?;)*
        });
    };

    (@read $name:ident { $($field:ident: $type:ty = $default:expr;)* }) => {
        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),* }
            }
        }

        $crate::parameters::by_fields! {
            #[serde(default)]
            $name { $($field: $type,)* }

            impl Default for fields::$name {
                fn default() -> Self {
                    fields::$name { $($field: $default),* }
                }
            }
        }
    };
    (@read $name:ident $(<$inner:ident>)? { $($field:ident: $type:ty $(= $default:expr)?;)* }) => {
        $crate::parameters::by_fields! {
            $name $(<$inner>)? {
                $($(#[doc = stringify!($default)] #[serde(default)])? $field: $type,)*
            }
        }
    };

    (@default) => { "none" };
    (@default $default:expr) => { concat!("`", stringify!($default), "`") };

    (@range any) => { "any" };
    (@range ($check:ident $text:literal)) => { $text };
    (@range ($text:literal, $holds:expr)) => { $text };
    (@range $text:literal) => { $text };

    (@getter $field:ident, $type:ty as $view:ty, $docs:expr) => {
        #[doc = $docs]
        pub fn $field(&self) -> $view {
            &self.$field
        }
    };
    (@getter $field:ident, $type:ty, $docs:expr) => {
        #[doc = $docs]
        pub fn $field(&self) -> $type {
            self.$field
        }
    };

    (@check $self:ident $field:ident, $meaning:literal, any) => {};
    (@check $self:ident $field:ident, $meaning:literal, ($check:ident $text:literal)) => {
        $self.$check()?
    };
    (@check $self:ident $field:ident, $meaning:literal, $range:tt $(of $order:literal)?) => {
        $crate::error::check!($meaning, $self.$field, $range $(, $order)?)?
    };
}

/// Serialization of a type by its fields. What is read is `checked()`, so that a value which the
/// constructors refuse cannot be read either.
macro_rules! by_fields {
    (
        $(#[$container:meta])*
        $name:ident $(<$inner:ident>)? { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }
        $($of_fields:tt)*
    ) => {
        #[cfg(feature = "serde")]
        const _: () = {
            /// The fields as they are read, not yet checked.
            mod fields {
                #[allow(unused_imports)]
                use super::*;

                #[derive(serde::Serialize, serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                $(#[$container])*
                pub struct $name $(<$inner>)? {
                    $(pub of: $inner,)?
                    $($(#[$attribute])* pub $field: $type),*
                }
            }

            $($of_fields)*

            impl $(<$inner: serde::Serialize>)? serde::Serialize for $name $(<$inner>)? {
                fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
                where
                    S: serde::Serializer,
                {
                    let fields = fields::$name {
                        $(of: &self.loss as &$inner,)?
                        $($field: Clone::clone(&self.$field)),*
                    };
                    serde::Serialize::serialize(&fields, serializer)
                }
            }

            impl<'de $(, $inner: $crate::loss::MarginLoss + serde::Deserialize<'de>)?>
                serde::Deserialize<'de> for $name $(<$inner>)?
            {
                #[allow(unused_variables)]
                fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    let read: fields::$name $(<$inner>)? = $crate::parameters::read(deserializer)?;
                    let built = $name { $(loss: read.of as $inner,)? $($field: read.$field),* };
                    built.checked().map_err(serde::de::Error::custom)
                }
            }
        };
    };
}

pub(crate) use {by_fields, hyper_parameters};

/// Reads a `T`. An error in one of its fields carries the name of the field.
#[cfg(feature = "serde")]
pub(crate) fn read<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    serde_path_to_error::deserialize(deserializer).map_err(serde::de::Error::custom)
}

/// A value whose numbers can be replaced, each by what `next` makes of it, whatever their ranges:
/// how tests and fuzz targets get at every loss. A variant counts as its number.
pub(crate) trait Vary {
    fn vary(&mut self, next: &mut dyn FnMut(f64) -> f64);
}

/// For each type, its value as `next` makes it of the old one.
macro_rules! vary {
    ($next:ident: $($type:ty, $old:ident => $new:expr;)*) => {$(
        impl $crate::parameters::Vary for $type {
            fn vary(&mut self, $next: &mut dyn FnMut(f64) -> f64) {
                let $old = &*self;
                *self = $new;
            }
        }
    )*};
}
pub(crate) use vary;

vary! { next:
    f64, old => next(*old);
    u32, old => next(f64::from(*old)) as u32;
    u64, old => next(*old as f64) as u64;
    usize, old => next(*old as f64) as usize;
    (f64, f64), old => (next(old.0), next(old.1));
    Vec<f64>, old => old.iter().map(|old| next(*old)).collect();
    Scale, old => match (next(0.0) as usize % 3, *old) {
        (0, Scale::Fixed(s)) => Scale::Fixed(next(s)),
        (1, _) => Scale::Unnormalized,
        _ => Scale::FeatureNorm,
    };
    Continuation, old => {
        use Continuation::{EasyMargin, Linear, Monotone, Raw};
        [Monotone, Raw, Linear, EasyMargin][next(f64::from(*old as u8)) as usize % 4]
    };
}
