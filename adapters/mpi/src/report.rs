use std::io::{Write, stderr};

/// Prints a line to standard error in one piece, so that `mpirun` does not mix it with others'.
pub fn report(line: &str) {
    // An error here means that standard error is closed.
    stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
