use std::io::{Write, stderr};

/// Prints a line to standard error in one piece, so that `mpirun` does not mix it with others'.
pub fn report(line: &str) {
    // Where standard error is closed nobody listens.
    stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
