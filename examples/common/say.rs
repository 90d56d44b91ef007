//! Output that a reader may stop reading, as `head` does.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process;

use anyhow::{Context, Result};

/// Prints a line. Where nobody reads the output any more the program ends, as others do in a pipe;
/// `println!` would panic.
pub fn say(line: impl Display) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => process::exit(0),
        result => result.context("cannot write to the standard output"),
    }
}
