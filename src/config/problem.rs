//! What is wrong in a configuration: all of it at once, each with its place and what to do.

use std::fmt;

/// One thing that is wrong. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path, as in `cameras.dock.rules.forklift_near_edge.alarm_m`; empty for the whole file.
    pub path: String,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong, and what is accepted.
    pub message: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
    /// Nowhere: the file as a whole.
    File,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Line(line) => write!(f, "line {line}: ")?,
            Origin::Variable(name) => write!(f, "variable {name}: ")?,
            Origin::File => {}
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file, for people.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| match &problem.origin {
            Origin::File => (0, 0),
            Origin::Line(line) => (1, *line),
            Origin::Variable(_) => (2, 0),
        });
        Self { file: file.to_owned(), list }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.list.len();
        write!(f, "{}: {count} {}", self.file, if count == 1 { "problem" } else { "problems" })?;
        for problem in &self.list {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// The one of `known` that a person most likely meant by `typed`, if any is near enough.
pub(super) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.chars().take(64).flat_map(char::to_lowercase).collect();
    let limit = (typed.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|key| (edits(&typed, &key.chars().collect::<Vec<_>>()), key))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// Levenshtein's distance, with the swap of two neighbours counted as one edit.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(rows[i - 1][j - 1] + 1);
            }
            row.push(cost);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_offered_when_it_is_near() {
        let known = ["alarm_m", "alarm_after", "warning_m", "url"];
        assert_eq!(nearest("alram_m", known), Some("alarm_m"));
        assert_eq!(nearest("Warning_m", known), Some("warning_m"));
        assert_eq!(nearest("alarm-after", known), Some("alarm_after"));
        assert_eq!(nearest("uri", known), Some("url"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn problems_read_as_a_list_in_file_order() {
        let problem = |line, path: &str, message: &str| Problem {
            path: path.into(),
            origin: Origin::Line(line),
            message: message.into(),
        };
        let problems =
            Problems::new("a.yaml", vec![problem(9, "b.c", "is wrong"), problem(2, "a", "is missing")]);
        assert_eq!(
            problems.to_string(),
            "a.yaml: 2 problems\n  line 2: a: is missing\n  line 9: b.c: is wrong"
        );
    }
}
