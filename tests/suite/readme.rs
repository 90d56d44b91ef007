//! What the Markdown files say of other files.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the repository; of a package only those that it holds.
fn markdown_files() -> Vec<PathBuf> {
    let folders = ["", "docs", "evaluation", "adapters/burn", "adapters/candle", "adapters/mpi"];
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

/// The adapters' READMEs are compiled as their documentation; the README of this crate cannot be,
/// where it shows what needs a framework.
#[test]
fn code_that_needs_an_adapter_stands_in_its_readme() {
    let adapters: String = ["burn", "candle", "mpi"]
        .iter()
        .filter_map(|name| {
            fs::read_to_string(root().join("adapters").join(name).join("README.md")).ok()
        })
        .collect();
    if adapters.is_empty() {
        return;
    }
    let known: Vec<&str> = adapters.lines().map(str::trim).collect();
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme.split("```rust,ignore\n").skip(1).collect();
    assert_eq!(blocks.len(), 3);
    for line in blocks.iter().flat_map(|block| block.split("```").next().unwrap().lines()) {
        assert!(known.contains(&line.trim()), "no adapter has this line: {line}");
    }
}

/// rustdoc makes quotation marks of them, and may then take an underscore after one as emphasis.
#[test]
fn formulas_have_no_apostrophes() {
    let text = include_str!("../../docs/math.md");
    let formulas: Vec<&str> = text.split('$').skip(1).step_by(2).collect();
    assert!(formulas.len() > 300 && text.split('$').count() % 2 == 1);
    for formula in formulas {
        assert!(!formula.contains('\''), "{formula}");
    }
}
