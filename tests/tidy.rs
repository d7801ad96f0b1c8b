//! Holds the repository to its own rules: who may import whom, no panics by design, links that lead
//! somewhere, nothing private in the files.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module may import only from rows further down: the list of ARCHITECTURE.md, top row first.
const ROWS: [&[&str]; 8] = [
    &["main", "cli"],
    &["daemon", "replay"],
    &["config"],
    &["ingest", "infer", "analysis", "memory", "control", "publish", "console", "pictures", "teach"],
    &["slot", "outbox", "backend", "heads", "rules", "draw", "album", "audit", "view", "retrieval"],
    &["geometry", "preprocess", "model"],
    &["types", "metrics", "telemetry", "heartbeat"],
    // One row with the above on the page; but time stamps are part of the types.
    &["clock"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository, relative to its root: what git tracks or would track.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let files: Vec<_> = names
        .split('\0')
        .filter(|n| !n.is_empty())
        .map(PathBuf::from)
        .filter(|p| root().join(p).is_file())
        .collect();
    assert!(files.contains(&PathBuf::from("tests/tidy.rs")), "the list of files is not ours");
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|f| f.extension().is_some_and(|e| e == extension)).collect()
}

/// Rust files of the program that are not there for tests only.
fn sources() -> Vec<PathBuf> {
    let all: Vec<_> = with_extension("rs").into_iter().filter(|f| f.starts_with("src")).collect();
    let mut only_tests = BTreeSet::new();
    for file in &all {
        let text = read(file);
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let next = lines.peek().map(|l| l.trim()).unwrap_or_default();
            if line.trim() == "#[cfg(test)]"
                && let Some(name) = next.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                only_tests.insert(name.to_string());
            }
        }
    }
    let stem = |f: &Path| f.file_stem().is_some_and(|s| only_tests.contains(&*s.to_string_lossy()));
    all.into_iter().filter(|f| !stem(f)).collect()
}

/// The lines of a source that are neither comment nor test, with their numbers. Relies on rustfmt: an item
/// ends with a brace at its own indentation.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut code = Vec::new();
    let mut skip_until: Option<String> = None;
    for (i, line) in text.lines().enumerate() {
        if let Some(end) = &skip_until {
            if line == end {
                skip_until = None;
            }
            continue;
        }
        let trimmed = line.trim_start();
        if trimmed == "#[cfg(test)]" {
            skip_until = Some(format!("{}}}", &line[..line.len() - trimmed.len()]));
            continue;
        }
        if !trimmed.starts_with("//") {
            code.push((i + 1, line.split(" // ").next().unwrap_or(line).to_string()));
        }
    }
    code
}

/// Which top modules a source names by `crate::` or by climbing to the root with `super::`.
fn rooms_named(text: &str, depth: usize) -> Vec<(usize, String)> {
    let mut rooms = Vec::new();
    let lines = code(text);
    for (i, (number, line)) in lines.iter().enumerate() {
        let climb = "super::".repeat(depth);
        for prefix in ["crate::", climb.as_str()] {
            for (at, _) in line.match_indices(prefix) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                let rest = &line[at + prefix.len()..];
                if let Some(group) = rest.strip_prefix('{') {
                    let mut body = group.to_string();
                    body.extend(lines[i + 1..].iter().take(40).map(|(_, l)| l.trim().to_string()));
                    rooms.extend(group_heads(&body).into_iter().map(|room| (*number, room)));
                } else {
                    rooms.push((*number, word(rest)));
                }
            }
        }
    }
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of the members of `a::{b, c}, d}...`: here a and d.
fn group_heads(body: &str) -> Vec<String> {
    let (mut heads, mut depth, mut member) = (Vec::new(), 0usize, String::new());
    for c in body.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(word(std::mem::take(&mut member).trim())),
            _ if depth == 0 => member.push(c),
            _ => {}
        }
    }
    heads.push(word(member.trim()));
    heads.retain(|head| !head.is_empty());
    heads
}

fn row_of(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&room))
}

#[test]
fn modules_import_only_from_rows_below() {
    let mut faults = Vec::new();
    for file in sources() {
        let inside = file.strip_prefix("src").expect("a source");
        let parts: Vec<_> = inside.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let room = parts[0].trim_end_matches(".rs").to_string();
        if room == "lib" {
            continue;
        }
        let Some(row) = row_of(&room) else {
            faults.push(format!(
                "{}: '{room}' has no row in tests/tidy.rs and ARCHITECTURE.md",
                file.display()
            ));
            continue;
        };
        let depth = parts.len() - usize::from(parts.last().is_some_and(|p| p == "mod.rs"));
        for (line, named) in rooms_named(&read(&file), depth) {
            if named != room && row_of(&named).is_some_and(|other| other <= row) {
                faults.push(format!("{}:{line}: {room} may not import {named}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_row_of_the_page_is_a_row_of_the_test() {
    let page = read(Path::new("ARCHITECTURE.md"));
    for room in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(page.contains(&format!("`{room}`")), "ARCHITECTURE.md does not say in which row `{room}` is");
    }
}

#[test]
fn the_import_check_sees_what_it_should() {
    let text = "use crate::{\n    config::Config,\n    types::{Frame, Mask},\n};\n\
                fn f() { crate::clock::now(); super::super::publish::go(); not_crate::x(); }\n\
                // crate::comment\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    let rooms: Vec<_> = rooms_named(text, 2).into_iter().map(|(_, room)| room).collect();
    assert_eq!(rooms, ["config", "types", "clock", "publish"]);
}

#[test]
fn nothing_panics_by_design() {
    let forbidden = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "dbg!("];
    let mut faults = Vec::new();
    for file in sources() {
        for (number, line) in code(&read(&file)) {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{}:{number}: {word}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// `text` without code blocks and code spans, in which nothing is a link.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

fn link_targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose
        .match_indices("](")
        .filter_map(|(at, _)| prose[at + 2..].split([')', ' ', '\n']).next().map(str::to_string))
        .collect()
}

/// Anchors of the headings, as the forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            fenced ^= line.trim_start().starts_with("```");
            !fenced && line.starts_with('#')
        })
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut faults = Vec::new();
    for page in with_extension("md") {
        let text = read(&page);
        for target in link_targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let beside = page.parent().unwrap_or(Path::new(""));
            let file = if path.is_empty() { page.clone() } else { beside.join(path) };
            let there = root().join(&file);
            let found = match fs::read_to_string(&there) {
                Ok(text) => anchor.is_empty() || anchors(&text).iter().any(|a| a == anchor),
                Err(_) => there.exists() && anchor.is_empty(),
            };
            if !found {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

#[test]
fn the_link_check_sees_what_it_should() {
    let text = "# A b, c\nsee [x](y.md#z) and `[no](no)`\n```\n[no](no)\n# no\n```\n![p](p.png)\n";
    assert_eq!(link_targets(text), ["y.md#z", "p.png"]);
    assert_eq!(anchors(text), ["a-b-c"]);
}

#[test]
fn nothing_private_is_in_the_files() {
    // In two halves, so that this file does not hold what it looks for.
    let forbidden = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt"),
        concat!("/ro", "ot/"),
        concat!("BEGIN RSA ", "PRIVATE KEY"),
        concat!("BEGIN ", "PRIVATE KEY"),
        concat!("BEGIN OPENSSH ", "PRIVATE KEY"),
        concat!("AK", "IA"),
        concat!("gh", "p_"),
    ];
    let mut faults = Vec::new();
    for file in files() {
        // Pictures, clips and weights are no text.
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: {word}", file.display(), i + 1));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for file in files() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        if text.starts_with("#!/") {
            let mode = fs::metadata(root().join(&file)).expect("it is there").permissions().mode();
            assert!(mode & 0o111 != 0, "{} is a script that cannot be run: chmod +x", file.display());
        }
    }
}

#[test]
fn the_configuration_of_the_readme_is_accepted() {
    let readme = read(Path::new("README.md"));
    let (_, block) = readme.split_once("```yaml\n").expect("the README has an example");
    let (block, _) = block.split_once("```").expect("and it ends");
    // The block stands in a list, so it is indented.
    let yaml: String =
        block.lines().map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line))).collect();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("dock-1.password"), "not-a-secret\n").expect("written");
    let around = standoff::config::Surroundings {
        file: "README.md".into(),
        folder: folder.path().to_owned(),
        variables: vec![],
        machine_id: Some("0123456789abcdef".into()),
    };
    let config =
        standoff::config::Config::parse(&yaml, &around).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.cameras[0].rules.len(), 2);
}
