//! What the examples do with arguments that cannot be, and with a reader that stops reading.
//!
//! `cargo test` builds them; where a single test is built, there may be none to run.

use std::env;
use std::process::{Command, Stdio};

/// The program of an example, if it has been built.
pub fn example(name: &str) -> Option<Command> {
    let tests = env::current_exe().unwrap();
    let path = tests.parent()?.parent()?.join("examples").join(name);
    path.exists().then(|| Command::new(path))
}

#[test]
fn arguments_that_cannot_be_are_refused() {
    let refused = [
        ("noisy_labels", "--noise=2", "a share must be from 0 to 0.9"),
        ("noisy_labels", "--noise=nan", "a share must be from 0 to 0.9"),
        ("noisy_labels", "--suspect=nan", "an angle must be above 0"),
        ("train_digits", "--splits=400", "400 is not in 0..=10"),
        ("million_classes", "--classes=0", "0 is not in 1.."),
    ];
    for (name, argument, reason) in refused {
        let Some(mut program) = example(name) else { return };
        let output = program.arg(argument).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name} {argument}: {text}");
        assert!(text.contains(reason), "{name} {argument}: {text}");
    }
}

#[test]
fn a_reader_that_stops_reading_ends_an_example() {
    for name in ["train_digits", "noisy_labels", "custom_loss"] {
        let Some(mut program) = example(name) else { return };
        if name == "noisy_labels" {
            program.args(["--seeds=1", "--epochs=1"]);
        }
        let mut running = program
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(running.stdout.take());
        let output = running.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("panicked"), "{name}: {text}");
    }
}
