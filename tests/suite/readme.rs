//! What the Markdown files say of other files.

use std::fs;
use std::path::{Path, PathBuf};

use margin_softmax::schedule::adacos_scale;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the repository; of a package only those that it holds.
fn markdown_files() -> Vec<PathBuf> {
    let folders = [
        "",
        "docs",
        "evaluation",
        "adapters/burn",
        "adapters/candle",
        "adapters/device",
        "adapters/mpi",
        "recipes/embeddings",
        "benches/peers",
        "examples/data",
        "tests/golden",
        "tests/torch",
        "evaluation/tests/retrieval",
        "evaluation/tests/sklearn",
    ];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(root().join(folder)).ok());
    let paths = entries.flatten().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The targets of all links in a text, inline ones and those of definitions.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let definitions = text
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: "))
        .map(|(_, target)| target);
    inline.map(|(target, _)| target).chain(definitions)
}

#[test]
fn every_relative_link_leads_to_a_file() {
    // A package has no adapters, and the links to them lead to the repository.
    if !root().join("adapters").exists() {
        return;
    }
    let mut checked = 0;
    for file in markdown_files() {
        let text = fs::read_to_string(&file).unwrap();
        for target in targets(&text).filter(|target| !target.contains("://")) {
            let (path, _) = target.split_once('#').unwrap_or((target, ""));
            let path = file.parent().unwrap().join(path);
            assert!(path.exists(), "{} links to {target}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

/// The code block of a text that starts with this line.
fn block<'a>(text: &'a str, first: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("{first}\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

/// A doc test runs it; the example is the same program.
#[test]
fn the_first_program_prints_what_stands_below_it() {
    let readme = include_str!("../../README.md");
    let program = fs::read_to_string(root().join("examples/first_program.rs")).unwrap();
    assert_eq!(block(readme, "```rust"), program);
    let Some(mut example) = crate::examples::example("first_program") else { return };
    let output = example.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), block(readme, "```text"));
}

/// What the guide "Which loss" says of scales and first losses.
#[test]
fn numbers_of_the_guide_follow_from_its_formulas() {
    let bound = |classes: f64, f0: f64| ((classes - 1.0) * 0.99_f64 / 0.01).ln() / f0;
    let without = |classes: f64| (classes - 1.0) / classes * bound(classes, 1.0);
    let guide = include_str!("../../docs/which-loss.md");
    for (name, classes) in [
        ("10", 10),
        ("1,000", 1000),
        ("10,000", 10_000),
        ("100,000", 100_000),
        ("1,000,000", 1_000_000),
    ] {
        let c = f64::from(classes);
        let row = [without(c), bound(c, 0.5_f64.cos()), bound(c, 0.65)]
            .map(|scale| format!("{scale:.1}"))
            .join(" | ");
        let adacos = adacos_scale(classes as usize).unwrap();
        let row = format!("| {name} | {row} | {adacos:.1} |");
        assert!(guide.contains(&row), "{row}");
    }
    let speakers = [
        adacos_scale(5994).unwrap(),
        bound(5994.0, 0.2_f64.cos()),
        2.0 * bound(5994.0, 0.2_f64.cos()),
    ];
    assert_eq!(speakers.map(|s| (10.0 * s).round() / 10.0), [12.3, 13.6, 27.1]);

    let start = |margin: f64| 10_575_f64.ln() + 64.0 * 64.0 / (2.0 * 512.0) + 64.0 * margin;
    let firsts = [start(0.5_f64.sin()), start(0.35), start(0.0)];
    assert_eq!(firsts.map(|loss| format!("{loss:.1}")).join(" "), "43.9 35.7 13.3");
}

/// Outside rustdoc pictures are files; in the documentation those that rustdoc hides stand inline.
#[test]
fn every_picture_of_the_guides_is_a_file() {
    if !root().join("adapters").exists() {
        return;
    }
    for file in markdown_files() {
        let text = fs::read_to_string(&file).unwrap();
        for picture in text.split("<img src=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(
                file.parent().unwrap().join(picture).exists(),
                "{} shows {picture}",
                file.display()
            );
        }
    }
}

/// The words of the guides are American English and the field's own.
#[test]
fn words_are_those_of_the_field() {
    const OTHERS: [&str; 20] = [
        "centre",
        "colour",
        "normalis",
        "optimis",
        "initialis",
        "neighbour",
        "behaviour",
        "recognis",
        "licence",
        "labelled",
        "generalis",
        "materialis",
        "grey",
        "count harder",
        "counts harder",
        "asked for",
        "take part",
        "takes part",
        "working type",
        "without a past",
    ];
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("md" | "rs") => found.push(path),
                None if path.is_dir() => files(&path, found),
                _ => (),
            }
        }
    }
    let mut found = vec![root().join("README.md")];
    for folder in ["docs", "examples", "src"] {
        files(&root().join(folder), &mut found);
    }
    for file in found {
        let text = fs::read_to_string(&file).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            let other = OTHERS.iter().find(|&&other| line.contains(other));
            assert_eq!(other, None, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

/// rustdoc makes quotation marks of apostrophes, and may then take an underscore after one as
/// emphasis; of a backslash before a sign, as in a thin space, it leaves the sign alone.
#[test]
fn formulas_have_nothing_that_markdown_takes_for_its_own() {
    let text = include_str!("../../docs/math.md");
    let formulas: Vec<&str> = text.split('$').skip(1).step_by(2).collect();
    assert!(formulas.len() > 300 && text.split('$').count() % 2 == 1);
    for formula in formulas {
        assert!(!formula.contains('\''), "{formula}");
        let escaped = |pair: &[u8]| pair[0] == b'\\' && pair[1].is_ascii_punctuation();
        assert!(!formula.as_bytes().windows(2).any(escaped), "{formula}");
    }
}
