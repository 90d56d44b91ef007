//! Tables of refusals.

use margin_softmax::Error;

/// Debug text, in which NaN equals NaN.
pub fn text<T: std::fmt::Debug>(value: &T) -> String {
    format!("{value:?}")
}

/// One refusal: what was done, what it was answered, what the answer must be, and what its message
/// must name.
pub type Row = (&'static str, Result<(), Error>, Error, &'static [&'static str]);

pub fn assert_table(table: impl IntoIterator<Item = Row>) {
    for (what, answer, expected, named) in table {
        let Err(found) = answer else { panic!("{what}: accepted") };
        assert_eq!(text(&found), text(&expected), "{what}");
        let message = found.to_string();
        for part in named {
            assert!(message.contains(part), "{what}: '{message}' does not name {part}");
        }
    }
}
