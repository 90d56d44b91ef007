//! Hyper-parameters, one line each: name, type, default, range and meaning. The fields of a type,
//! their table in its docs, getters, setters, checks, `Default` and serde all come from these
//! lines.

/// Defines a type by its hyper-parameters. Each is one line, or two where it is long:
///
/// ```text
/// name: type = default, range of "order of the arguments", "meaning", "more" => setter;
/// ```
///
/// - A list, `Vec<f64> as &[f64]`, is read as a slice.
/// - A field with a default need not be in a file. Where all have one, they give `Default`; else a
///   default has to be that of its type.
/// - The range is one of `check!`; or `any`; or `[kind]`, that of a margin whose `MarginKind` is
///   the field `kind`; or `(method "text")`, a method of the type that checks it.
/// - The meaning is the name that errors use.
/// - The setter takes the type and returns it, checked unless the range is `any`.
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

        $crate::parameters::hyper_parameters!(@checked $name {});
    };

    (
        $(#[$before:meta])*
        pub struct $name:ident $(<$inner:ident>)? {
            $($field:ident: $type:ty $(as $view:ty)? $(= $default:expr)?,
                $range:tt $(of $order:literal)?, $meaning:literal $(, $more:literal)?
                $(=> $setter:ident)?;)*
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

            $($crate::parameters::hyper_parameters! {
                @setter [$($setter)?] $field: $type, $range,
                concat!("Sets the ", $meaning $(, ": ", $more)?, ".")
            })*
        }

        $crate::parameters::hyper_parameters!(@checked $name $(<$inner>)? {
            $($field: $type $(= $default)?, $range $(of $order)?, $meaning;)*
        });
    };

    (@default) => { "none" };
    (@default $default:expr) => { concat!("`", stringify!($default), "`") };

    (@range any) => { "any" };
    (@range [$kind:ident]) => { "in [0, π) radians; of cosines in (-2, 2)" };
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

    (@setter [] $($of_field:tt)*) => {};
    (@setter [$setter:ident] $field:ident: $type:ty, any, $docs:expr) => {
        #[doc = $docs]
        pub fn $setter(self, $field: $type) -> Self {
            Self { $field, ..self }
        }
    };
    (@setter [$setter:ident] $field:ident: $type:ty, $range:tt, $docs:expr) => {
        #[doc = $docs]
        ///
        /// # Errors
        /// [`Error::Parameter`](crate::Error::Parameter) for a value outside its range:
        #[doc = concat!($crate::parameters::hyper_parameters!(@range $range), ".")]
        pub fn $setter(self, $field: $type) -> Result<Self, $crate::error::Error> {
            Self { $field, ..self }.checked()
        }
    };

    (@checked $name:ident $(<$inner:ident>)? {
        $($field:ident: $type:ty $(= $default:expr)?, $range:tt $(of $order:literal)?,
            $meaning:literal;)*
    }) => {
        impl $(<$inner: $crate::loss::MarginLoss>)? $name $(<$inner>)? {
            /// Refuses the first hyper-parameter that is out of its range.
            #[allow(dead_code)] // without any, only what is read is asked
            pub(crate) fn checked(self) -> Result<Self, $crate::error::Error> {
                $($crate::parameters::hyper_parameters!(
                    @check self $field, $meaning, $range $(of $order)?
                );)*
                Ok(self)
            }
        }

        $crate::parameters::hyper_parameters!(@read $name $(<$inner>)? {
            $($field: $type $(= $default)?;)*
        });
    };

    (@check $self:ident $field:ident, $meaning:literal, any) => {};
    (@check $self:ident $field:ident, $meaning:literal, [$kind:ident] of $order:literal) => {
        match $self.$kind {
            MarginKind::Angular => $crate::error::check!(
                concat!("angular ", $meaning), $self.$field, "in [0, π) radians", $order
            ),
            MarginKind::Cosine => $crate::error::check!(
                concat!("cosine ", $meaning), $self.$field, "in (-2, 2), a difference of cosines",
                $order
            ),
        }?
    };
    (@check $self:ident $field:ident, $meaning:literal, ($check:ident $text:literal)) => {
        $self.$check()?
    };
    (@check $self:ident $field:ident, $meaning:literal, $range:tt $(of $order:literal)?) => {
        $crate::error::check!($meaning, $self.$field, $range $(, $order)?)?
    };

    (@read $name:ident { $($field:ident: $type:ty = $default:expr;)* }) => {
        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),* }
            }
        }

        // Without a bound of its own, serde would ask for a default of the fields, too.
        $crate::parameters::by_fields!(#[serde(default, bound = "")] $name { $($field: $type,)* });
    };
    (@read $name:ident $(<$inner:ident>)? { $($field:ident: $type:ty $(= $default:expr)?;)* }) => {
        $crate::parameters::by_fields! {
            $name $(<$inner>)? {
                $($(#[doc = stringify!($default)] #[serde(default)])? $field: $type,)*
            }
        }
    };
}

/// Serialization of a type by its fields. What is read is `checked()`, so that a value which the
/// constructors refuse cannot be read either.
macro_rules! by_fields {
    (
        $(#[$container:meta])*
        $name:ident $(<$inner:ident>)? { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }
    ) => {
        #[cfg(feature = "serde")]
        const _: () = {
            /// The fields as they are written, and as they are read, not yet checked.
            mod fields {
                #[allow(unused_imports)]
                use super::*;

                type Checked $(<$inner>)? = super::$name $(<$inner>)?;

                #[derive(serde::Serialize, serde::Deserialize)]
                #[serde(remote = "Checked", deny_unknown_fields)]
                $(#[$container])*
                pub struct $name $(<$inner>)? {
                    $(#[serde(rename = "of")] loss: $inner,)?
                    $($(#[$attribute])* $field: $type),*
                }
            }

            impl $(<$inner: serde::Serialize>)? serde::Serialize for $name $(<$inner>)? {
                fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    fields::$name::serialize(self, to)
                }
            }

            impl<'de $(, $inner: $crate::loss::MarginLoss + serde::Deserialize<'de>)?>
                serde::Deserialize<'de> for $name $(<$inner>)?
            {
                fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    $crate::parameters::read(from, |from| fields::$name::deserialize(from))?
                        .checked()
                        .map_err(serde::de::Error::custom)
                }
            }
        };
    };
}

pub(crate) use {by_fields, hyper_parameters};

/// What `fields` reads. An error in one of the fields carries the name of the field.
#[cfg(feature = "serde")]
pub(crate) fn read<'de, T, D: serde::Deserializer<'de>>(
    deserializer: D,
    fields: impl FnOnce(serde_path_to_error::Deserializer<'_, '_, D>) -> Result<T, D::Error>,
) -> Result<T, D::Error> {
    let mut track = serde_path_to_error::Track::new();
    let read = fields(serde_path_to_error::Deserializer::new(deserializer, &mut track));
    read.map_err(|refused| {
        serde::de::Error::custom(serde_path_to_error::Error::new(track.path(), refused))
    })
}
