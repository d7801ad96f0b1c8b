//! YAML text to a tree of values that know their line. Scalars stay text: what a value is, the key says
//! that reads it, so that `password: 1234` or `is: no` mean what they look like.
//!
//! Bounded: depth, size, and what aliases may expand to.

use std::collections::BTreeMap;

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::TScalarStyle;

use super::problem::{Origin, Problem};

/// Bytes of a file. A configuration of a hundred cameras has about 150 kB.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Levels of nesting; the deepest key has nine.
const MAX_DEPTH: usize = 24;
/// Values after the expansion of aliases.
const MAX_VALUES: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) node: Node,
    /// In a mapping the place of its key.
    pub(super) origin: Origin,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Nothing, `~` or `null`: as if the key were not there.
    Null,
    Scalar(String),
    List(Vec<Value>),
    /// In the order of the file, keys unique.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// How many values it consists of.
    fn count(&self) -> usize {
        match &self.node {
            Node::Null | Node::Scalar(_) => 1,
            Node::List(items) => 1 + items.iter().map(Value::count).sum::<usize>(),
            Node::Map(entries) => 1 + entries.iter().map(|(_, value)| value.count()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.node {
            Node::Null | Node::Scalar(_) => 0,
            Node::List(items) => 1 + items.iter().map(Value::depth).max().unwrap_or(0),
            Node::Map(entries) => 1 + entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }
}

enum Open {
    List { items: Vec<Value>, line: usize, anchor: usize },
    Map { entries: Vec<(String, Value)>, key: Option<(String, usize)>, line: usize, anchor: usize },
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Value>,
    values: usize,
    root: Option<Value>,
    problems: Vec<Problem>,
}

/// Reads one document. The first thing that is not YAML ends the reading; keys that stand twice are all found.
pub(super) fn parse(text: &str) -> Result<Value, Vec<Problem>> {
    let whole = |message: String| vec![Problem { path: String::new(), origin: Origin::File, message }];
    if text.len() > MAX_BYTES {
        return Err(whole(format!("the file is larger than {MAX_BYTES} bytes")));
    }
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    loop {
        let (event, mark) = match parser.next_token() {
            Ok(token) => token,
            Err(error) => {
                let column = error.marker().col() + 1;
                builder.problems.push(Problem {
                    path: String::new(),
                    origin: Origin::Line(error.marker().line()),
                    message: format!("this is not YAML (column {column}): {}", error.info()),
                });
                return Err(builder.problems);
            }
        };
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart => documents += 1,
            event => {
                if let Err(problem) = builder.event(event, mark.line()) {
                    builder.problems.push(problem);
                    return Err(builder.problems);
                }
            }
        }
        if documents > 1 {
            return Err(whole("there is more than one YAML document ('---'); one is wanted".to_owned()));
        }
    }
    if !builder.problems.is_empty() {
        return Err(builder.problems);
    }
    Ok(builder.root.unwrap_or(Value { node: Node::Null, origin: Origin::File }))
}

impl Builder {
    fn event(&mut self, event: Event, line: usize) -> Result<(), Problem> {
        match event {
            Event::SequenceStart(anchor, _) => self.open(Open::List { items: vec![], line, anchor }, line),
            Event::MappingStart(anchor, _) => {
                self.open(Open::Map { entries: vec![], key: None, line, anchor }, line)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List { items, line, anchor }) => self.put(Node::List(items), line, anchor),
                Some(Open::Map { entries, line, anchor, .. }) => self.put(Node::Map(entries), line, anchor),
                None => Ok(()),
            },
            Event::Scalar(text, style, anchor, _) => {
                let null = style == TScalarStyle::Plain
                    && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                self.put(if null { Node::Null } else { Node::Scalar(text) }, line, anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(value) => {
                    self.values += value.count();
                    if self.stack.len() + value.depth() > MAX_DEPTH {
                        return Err(self.problem(line, format!("nested deeper than {MAX_DEPTH} levels")));
                    }
                    self.put(value.node, line, 0)
                }
                None => Err(self.problem(line, "this alias (*) has no anchor (&) before it")),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, line: usize) -> Result<(), Problem> {
        if self.stack.len() == MAX_DEPTH {
            return Err(self.problem(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            return Err(self.problem(line, "a key must be a plain word, not a list or a mapping"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn put(&mut self, node: Node, line: usize, anchor: usize) -> Result<(), Problem> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.problem(line, format!("more than {MAX_VALUES} values, aliases expanded")));
        }
        let value = Value { node, origin: Origin::Line(line) };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { entries, key, .. }) => match (key.take(), value.node) {
                (None, Node::Scalar(text)) => *key = Some((text, line)),
                (None, Node::Null) => *key = Some(("null".to_owned(), line)),
                (None, _) => {
                    return Err(self.problem(line, "a key must be a plain word, not a list or a mapping"));
                }
                (Some((name, line)), node) => {
                    if entries.iter().all(|(known, _)| *known != name) {
                        entries.push((name, Value { node, origin: Origin::Line(line) }));
                    } else {
                        let path = join(&self.path(), &name);
                        let message = "this key stands here for the second time".to_owned();
                        self.problems.push(Problem { path, origin: Origin::Line(line), message });
                    }
                }
            },
        }
        Ok(())
    }

    fn path(&self) -> String {
        self.stack.iter().fold(String::new(), |path, open| match open {
            Open::List { items, .. } => format!("{path}[{}]", items.len()),
            Open::Map { key: Some((name, _)), .. } => join(&path, name),
            Open::Map { key: None, .. } => path,
        })
    }

    fn problem(&self, line: usize, message: impl Into<String>) -> Problem {
        Problem { path: self.path(), origin: Origin::Line(line), message: message.into() }
    }
}

/// A key path with one key more. What does not look like a name is not shown: a slip of the finger makes a key of
/// `password; secret`, of `passwordsecret`, or of a URL with a password in it.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_name = key.len() <= 80 && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let runs_on = |name: &str| key.strip_prefix(name).is_some_and(|rest| !["", "_file"].contains(&rest));
    let key = if !is_name {
        "(a key that is no name)"
    } else if runs_on("password") {
        "password..."
    } else if runs_on("token") {
        "token..."
    } else {
        key
    };
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str, line: usize) -> Value {
        Value { node: Node::Scalar(text.into()), origin: Origin::Line(line) }
    }

    #[test]
    fn a_key_that_may_hold_a_secret_is_not_shown() {
        for (key, shown) in [
            ("password", "mqtt.password"),
            ("password_file", "mqtt.password_file"),
            ("passwordhunter2", "mqtt.password..."),
            ("tokenhunter2", "mqtt.token..."),
            ("password; hunter2", "mqtt.(a key that is no name)"),
            ("pasword", "mqtt.pasword"),
        ] {
            assert_eq!(join("mqtt", key), shown);
        }
    }

    #[test]
    fn values_keep_their_text_and_line() {
        let tree = parse("a: 007\nB:\n  - no\n  - ~\n  - 'null'\n").unwrap();
        let Node::Map(entries) = tree.node else { panic!() };
        assert_eq!(entries[0], ("a".into(), scalar("007", 1)));
        assert_eq!(entries[1].0, "B");
        assert_eq!(entries[1].1.origin, Origin::Line(2));
        let null = Value { node: Node::Null, origin: Origin::Line(4) };
        assert_eq!(entries[1].1.node, Node::List(vec![scalar("no", 3), null, scalar("null", 5)]));
    }

    #[test]
    fn every_key_that_stands_twice_is_found() {
        let problems = parse("cameras:\n  dock: {a: 1, a: 2}\n  dock: 3\n").unwrap_err();
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "line 2: cameras.dock.a: this key stands here for the second time",
                "line 3: cameras.dock: this key stands here for the second time",
            ]
        );
    }

    #[test]
    fn broken_yaml_says_where() {
        let problems = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(problems[0].to_string().starts_with("line 3: this is not YAML (column "), "{}", problems[0]);
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
        assert!(parse("a: *nothing\n").is_err());
        assert!(parse("? [1, 2]\n: 3\n").is_err());
    }

    #[test]
    fn an_alias_repeats_its_anchor() {
        let tree = parse("a: &x {k: v}\nb: *x\n").unwrap();
        let Node::Map(entries) = tree.node else { panic!() };
        assert_eq!(entries[0].1.node, entries[1].1.node);
        assert_eq!(entries[1].1.origin, Origin::Line(2));
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse(&laughs).unwrap_err()[0].message.contains("aliases"));
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
        assert!(parse(&" ".repeat(MAX_BYTES + 1)).is_err());
    }
}
