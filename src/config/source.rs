//! What a configuration was made of: the hash of its text and its values by key path, so that the audit log can
//! say which one ran and what a reload changed. Secrets are compared and never shown.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::keys::{self, Kind, Section};
use super::yaml::{Node, Value, join};
use crate::types::Secret;

/// Longest value that is shown, characters.
const SHOWN_MAX: usize = 200;

/// The text and the environment that a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// SHA-256 of the file's text, hex. Variables of the environment are not in it; their values are in the changes.
    pub sha256: String,
    values: BTreeMap<String, Shown>,
}

/// A value, as far as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Text(String),
    Hidden(Secret),
}

/// A key whose value is not what it was. Texts are cut to 200 characters; a secret is `(secret)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Key path.
    pub key: String,
    /// What it was; none when it was not there.
    pub from: Option<String>,
    /// What it is; none when it is not there any more.
    pub to: Option<String>,
}

impl Source {
    pub(super) fn new(text: &str, tree: &Value) -> Self {
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut values = BTreeMap::new();
        note(&mut values, String::new(), Some(&Kind::Section(&keys::FILE)), tree);
        Self { sha256, values }
    }

    /// What is different in `new`, in the order of the key paths.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let mut keys: Vec<&String> = self.values.keys().chain(new.values.keys()).collect();
        keys.sort();
        keys.dedup();
        let changed = keys.into_iter().filter(|key| self.values.get(*key) != new.values.get(*key));
        let shown = |source: &Self, key: &str| source.values.get(key).map(Shown::text);
        changed.map(|key| Change { key: key.clone(), from: shown(self, key), to: shown(new, key) }).collect()
    }
}

impl Shown {
    fn text(&self) -> String {
        match self {
            Self::Text(text) if text.chars().count() > SHOWN_MAX => {
                format!("{}...", text.chars().take(SHOWN_MAX).collect::<String>())
            }
            Self::Text(text) => text.clone(),
            Self::Hidden(_) => "(secret)".to_owned(),
        }
    }
}

/// Puts every single value under `path` into the list. What no table knows is not shown either.
fn note(values: &mut BTreeMap<String, Shown>, path: String, kind: Option<&Kind>, value: &Value) {
    match &value.node {
        Node::Null => {}
        Node::Scalar(text) => {
            let open = kind.is_some_and(|kind| !matches!(kind, Kind::Secret));
            let shown =
                if open { Shown::Text(text.clone()) } else { Shown::Hidden(Secret::new(text.clone())) };
            values.insert(path, shown);
        }
        Node::List(items) => {
            let section = match kind {
                Some(Kind::List(section)) => Some(Kind::Section(section)),
                other => other.copied(),
            };
            for (i, item) in items.iter().enumerate() {
                note(values, format!("{path}[{i}]"), section.as_ref(), item);
            }
        }
        Node::Map(entries) => {
            for (name, value) in entries {
                let inner = match kind {
                    Some(Kind::Section(section)) => kind_of(section, name),
                    Some(Kind::Named(section)) => Some(Kind::Section(section)),
                    _ => None,
                };
                note(values, join(&path, name), inner.as_ref(), value);
            }
        }
    }
}

fn kind_of(section: &Section, name: &str) -> Option<Kind> {
    section.keys.iter().find(|key| key.name == name).map(|key| key.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn source(text: &str) -> Source {
        Source::new(text, &yaml::parse(text).unwrap())
    }

    const SITE: &str = "mqtt:\n  host: broker\n  password: hunter2\ncameras:\n  dock:\n    url: rtsp://u:p@h/a\n    \
                        edges:\n      e: { line_m: [[0, 0], [1, 0]] }\n    rules:\n      r: { pair: p, alarm_m: 1, \
                        when: [{ topic: a/b, is: 'on' }] }\n";

    #[test]
    fn changes_are_named_by_key_and_secrets_are_not_shown() {
        let new = SITE
            .replace("alarm_m: 1", "alarm_m: 2")
            .replace("hunter2", "hunter3")
            .replace("u:p@h", "u:q@h")
            .replace("is: 'on'", "is_not: 'off'")
            .replace("[1, 0]", "[1, 5]");
        let changes = source(SITE).changes(&source(&new));
        let line = |c: &Change| format!("{} {:?} {:?}", c.key, c.from.as_deref(), c.to.as_deref());
        assert_eq!(
            changes.iter().map(line).collect::<Vec<_>>(),
            [
                r#"cameras.dock.edges.e.line_m[1][1] Some("0") Some("5")"#,
                r#"cameras.dock.rules.r.alarm_m Some("1") Some("2")"#,
                r#"cameras.dock.rules.r.when[0].is Some("on") None"#,
                r#"cameras.dock.rules.r.when[0].is_not None Some("off")"#,
                r#"cameras.dock.url Some("(secret)") Some("(secret)")"#,
                r#"mqtt.password Some("(secret)") Some("(secret)")"#,
            ]
        );
        for secret in ["hunter", "p@h", "q@h"] {
            assert!(!format!("{changes:?} {:?}", source(&new)).contains(secret), "{secret}");
        }
        assert!(source(SITE).changes(&source(SITE)).is_empty());
    }

    #[test]
    fn comments_change_the_hash_and_no_key() {
        let (a, b) = (source(SITE), source(&format!("# a note\n{SITE}")));
        assert_ne!(a.sha256, b.sha256);
        assert!(a.changes(&b).is_empty());
        assert_eq!(a.sha256.len(), 64);
    }
}
