//! The source tree is a house of rooms that use one another one way: each room those above it in
//! this list, and no file, in a circle of any length, itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the lowest room to the highest; rooms on one line do not know each other.
const ROOMS: &[&[&str]] = &[
    &["error"],
    &["parallel"],
    &["kernel"],
    &["math"],
    &["data"],
    &["logits"],
    &["loss"],
    &["parameters"],
    &["losses"],
    &["update"],
    &["step"],
    &["head"],
    &["offload"],
    &["energy", "sampling", "ranks", "boundary", "gradcheck", "schedule", "sub_centers"],
    &["custom", "config"],
];

/// Pages of documentation, and the root that joins all.
const OUTSIDE: &[&str] = &["guide", "lib"];

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `a/b.rs` as `a::b`, `a/mod.rs` as `a`; the root is `lib`.
fn module(file: &Path, root: &Path) -> String {
    let path = file.strip_prefix(root).unwrap().with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    parts.join("::").trim_end_matches("::mod").to_string()
}

/// The `use` items of a file without its tests, each on one line, and the paths from the root in
/// its code; comments are removed.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<_> = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join(" ");
    let items = code.split("use ").skip(1).filter_map(|rest| rest.split_once(';'));
    let items = items.map(|(item, _)| item.split_whitespace().collect());
    // Paths in the code itself: `crate::head::Head::new(loss)`.
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let inline = code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|letter| !is_path(letter)).unwrap_or(rest.len());
        format!("crate::{}", rest[..end].trim_end_matches(':'))
    });
    items.chain(inline).collect()
}

/// The modules that an import names: `a::{b, c::D}` names `a::b` and `a::c::D`.
fn paths(item: &str) -> Vec<String> {
    let Some((head, group)) = item.split_once('{') else { return vec![item.to_string()] };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in group.chars() {
        match letter {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                parts.last_mut().unwrap().push(letter);
            }
        }
    }
    let joined =
        |part: String| if part == "self" { head.to_string() } else { format!("{head}{part}") };
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| paths(&joined(part)))
        .collect()
}

/// Which modules each module imports: by `crate::`, `super::` or the name of a module of its own.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    let modules: BTreeSet<String> = files.iter().map(|file| module(file, &root)).collect();
    let resolve = |from: &str, path: String| {
        let (parent, name) = from.rsplit_once("::").unwrap_or(("", from));
        let is_folder = root.join(from.replace("::", "/")).is_dir();
        let base = if is_folder || name == "lib" { from } else { parent };
        let path = match path.strip_prefix("crate::") {
            Some(path) => path.to_string(),
            None => match path.strip_prefix("super::") {
                Some(path) if is_folder => format!("{parent}::{path}"),
                Some(path) => format!("{parent}::{path}"),
                None => format!("{base}::{}", path.trim_start_matches("self::")),
            },
        };
        let path = path.trim_start_matches("::").to_string();
        let mut path = &path[..];
        loop {
            if modules.contains(path) && path != from {
                return Some(path.to_string());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let edges = files.iter().map(|file| {
        let from = module(file, &root);
        let text = fs::read_to_string(file).unwrap();
        let paths = imports(&text).into_iter().flat_map(|item| paths(&item));
        let to = paths.filter_map(|path| resolve(&from, path)).collect();
        (from, to)
    });
    edges.collect()
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn floor(module: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room(module)))
}

#[test]
fn every_room_imports_only_rooms_above_it() {
    let mut imports = 0;
    for (from, to) in graph() {
        if OUTSIDE.contains(&room(&from)) {
            continue;
        }
        let own = floor(&from).unwrap_or_else(|| panic!("{from} is in no room: see ROOMS"));
        for to in to {
            let other = floor(&to).unwrap_or_else(|| panic!("{from} imports {to}"));
            let up = other < own || room(&from) == room(&to);
            assert!(up, "{from} imports {to}, which is not above it");
            imports += 1;
        }
    }
    // The reading itself works: the crate has well over a hundred imports.
    assert!(imports > 100, "{imports}");
}

#[test]
fn no_file_imports_itself_in_a_circle() {
    let graph = graph();
    // A folder's `mod.rs` joins its files and may be named by them for what it defines itself;
    // a circle is one among the files beside it.
    let files: BTreeSet<&String> = graph.keys().collect();
    let is_folder =
        |module: &str| files.iter().any(|other| other.starts_with(&format!("{module}::")));
    let mut left: BTreeMap<&str, BTreeSet<&str>> = (graph.iter())
        .filter(|(from, _)| !is_folder(from) && *from != "lib")
        .map(|(from, to)| {
            let to = to.iter().map(|to| &to[..]).filter(|to| !is_folder(to));
            (&from[..], to.collect())
        })
        .collect();
    // Files whose imports are all gone are in no circle.
    loop {
        let free: Vec<&str> = (left.iter())
            .filter(|(_, to)| to.iter().all(|to| !left.contains_key(to)))
            .map(|(from, _)| *from)
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|file| drop(left.remove(file)));
    }
    assert!(left.is_empty(), "these files import one another in a circle: {left:?}");
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "use crate::a;\n// use crate::no;\npub(crate) use b::{c, d::{self, E}};\n\
                fn f() { crate::g::h(1) }\n#[cfg(test)]\nuse x::y;";
    let read: Vec<_> = imports(text).iter().flat_map(|item| paths(item)).collect();
    assert_eq!(read, ["crate::a", "b::c", "b::d::", "b::d::E", "crate::a", "crate::g::h"]);
}
