//! How the parts of a job are written down: a struct with a default beside
//! each field.
//!
//! On the wire a field that has its default is left out, so that a job is
//! small, and so that bytes of before a field existed decode, and encode again
//! to the same bytes. Where people read (JSON), every field is shown.
//!
//! Three rules follow, since signed bytes must mean the same for ever: a
//! default never changes (the language may put another value into new jobs),
//! it is what jobs of before the field meant, and fields keep their order.

/// Defines a struct as above: `Default`, `Serialize`, and a `Deserialize` that
/// refuses unknown fields.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let all = to.is_human_readable();
                let usual = $name::default();
                let fields = 0 $(+ usize::from(all || self.$field != usual.$field))*;
                let mut record = to.serialize_struct(stringify!($name), fields)?;
                $(if all || self.$field != usual.$field {
                    record.serialize_field(stringify!($field), &self.$field)?;
                } else {
                    record.skip_field(stringify!($field))?;
                })*
                record.end()
            }
        }
    };
}
pub(crate) use record;
