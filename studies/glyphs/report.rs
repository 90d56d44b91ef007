//! The tables of what has run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::experiments::groups;
use crate::picture;
use crate::plot::save;
use crate::results::Outcome;
use crate::summary::Summary;

/// Prints the tables, and writes them and the picture to a directory.
pub fn write(outcomes: &[Outcome], out: &Path) -> Result<()> {
    let mut text = String::new();
    for group in groups() {
        let names = group.experiments.iter().map(|experiment| experiment.name());
        let summaries: Vec<Summary> =
            names.filter_map(|name| Summary::new(&name, outcomes)).collect();
        if !summaries.is_empty() {
            text += &table(group.title, &summaries);
        }
    }
    print!("{text}");
    let path = out.join("glyphs.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    save(&picture::figure(outcomes).render(), &out.join("glyphs"))
}

fn table(title: &str, summaries: &[Summary]) -> String {
    let mut lines = vec![
        format!("\n## {title}\n"),
        "| loss | EER | TAR at FAR 1e-4 | recall@1 | CPU |".into(),
        "|---|---|---|---|---|".into(),
    ];
    lines.extend(summaries.iter().map(Summary::line));
    lines.join("\n") + "\n"
}
