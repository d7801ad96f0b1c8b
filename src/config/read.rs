//! Reads a tree of values by the tables of [`super::keys`]. What is wrong goes into the [`Report`] and reading
//! goes on, so that everything is found in one go; a getter's `None` means "not there" or "already reported".

use std::cell::RefCell;
use std::time::Duration;

use super::keys::{Kind, Need, Section};
use super::problem::{Origin, Problem, nearest};
use super::yaml::{Node, Value, join};
use crate::types::Secret;

/// Collects what is wrong, and what is only doubtful.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    doubts: RefCell<Vec<Problem>>,
}

impl Report {
    pub(super) fn add(&self, path: &str, origin: &Origin, message: impl Into<String>) {
        let problem = Problem { path: path.to_owned(), origin: origin.clone(), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    fn doubt(&self, path: &str, origin: &Origin, message: impl Into<String>) {
        let problem = Problem { path: path.to_owned(), origin: origin.clone(), message: message.into() };
        self.doubts.borrow_mut().push(problem);
    }

    /// What is doubtful, so far.
    pub(super) fn doubts(&self) -> Vec<Problem> {
        self.doubts.borrow().clone()
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// One section of the file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    section: &'static Section,
    path: String,
    origin: Origin,
    entries: &'a [(String, Value)],
    report: &'a Report,
}

impl<'a> Reader<'a> {
    /// Opens a section: says which keys are unknown and which are missing.
    pub(super) fn open(
        section: &'static Section,
        value: &'a Value,
        path: String,
        report: &'a Report,
    ) -> Option<Self> {
        let entries: &[(String, Value)] = match &value.node {
            Node::Map(entries) => entries,
            Node::Null => &[],
            other => {
                report.add(&path, &value.origin, format!("must be keys with values, not {}", sort(other)));
                return None;
            }
        };
        for (name, value) in entries {
            if section.keys.iter().all(|key| key.name != name) {
                let known = section.keys.iter().map(|key| key.name);
                let hint = match nearest(name, known.clone()) {
                    Some(key) => format!("did you mean '{key}'?"),
                    None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                };
                report.add(&join(&path, name), &value.origin, format!("unknown key; {hint}"));
            }
        }
        let reader = Self { section, path, origin: value.origin.clone(), entries, report };
        for key in section.keys {
            if matches!(key.need, Need::Required) && reader.value(key.name).is_none() {
                report.add(
                    &reader.path_of(key.name),
                    &reader.origin,
                    format!("is missing; {}", wanted(&key.kind)),
                );
            }
        }
        Some(reader)
    }

    /// Says that the section as a whole is wrong.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.report.add(&self.path, &self.origin, message);
    }

    /// Says that a key's value is wrong.
    pub(super) fn wrong_key(&self, key: &str, message: impl Into<String>) {
        let origin = self.value(key).map_or(&self.origin, |value| &value.origin);
        self.report.add(&self.path_of(key), origin, message);
    }

    /// Says that a key's value is taken, and is probably not what was meant.
    pub(super) fn doubt_key(&self, key: &str, message: impl Into<String>) {
        let origin = self.value(key).map_or(&self.origin, |value| &value.origin);
        self.report.doubt(&self.path_of(key), origin, message);
    }

    /// Whether the key stands there with a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.scalar(key, |text| Ok(text.to_owned()))
    }

    /// Text that is never shown.
    pub(super) fn secret(&self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    /// Text that `make` turns into something else; its error is reported.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        key: &str,
        make: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.scalar(key, |text| make(text).map_err(|error| Wrong::Fully(error.to_string())))
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        let Kind::Number { min, max } = self.kind(key)? else { return self.mismatch(key) };
        self.scalar(key, |text| {
            let number = text.parse::<f64>().map_err(|_| not(text, "a number"))?;
            if (min..=max).contains(&number) { Ok(number) } else { Err(out_of_range(text)) }
        })
    }

    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        let Kind::Integer { min, max } = self.kind(key)? else { return self.mismatch(key) };
        self.scalar(key, |text| {
            let number = text.parse::<u64>().map_err(|_| not(text, "a whole number"))?;
            if (min..=max).contains(&number) { Ok(number) } else { Err(out_of_range(text)) }
        })
    }

    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        let Kind::Duration { min_ms, max_ms } = self.kind(key)? else { return self.mismatch(key) };
        self.scalar(key, |text| {
            let duration = duration_of(text).ok_or_else(|| not(text, "a duration"))?;
            let range = Duration::from_millis(min_ms)..=Duration::from_millis(max_ms);
            if range.contains(&duration) { Ok(duration) } else { Err(out_of_range(text)) }
        })
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.scalar(key, |text| text.parse::<bool>().map_err(|_| not(text, "either")))
    }

    /// Width and height.
    pub(super) fn size(&self, key: &str) -> Option<(u32, u32)> {
        let Kind::Size { multiple_of } = self.kind(key)? else { return self.mismatch(key) };
        self.scalar(key, |text| {
            let size = text
                .split_once('x')
                .and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)));
            let fits = |side: u32| (1..=16384).contains(&side) && side.is_multiple_of(multiple_of);
            match size {
                Some((width, height)) if fits(width) && fits(height) => Ok((width, height)),
                _ => Err(not(text, "such a size")),
            }
        })
    }

    /// Two minutes of a day: the first from 0 to 1439, the second from 1 to 1440, not equal.
    pub(super) fn window(&self, key: &str) -> Option<(u16, u16)> {
        self.scalar(key, |text| {
            let window =
                text.split_once('-').and_then(|(from, to)| Some((time_of_day(from)?, time_of_day(to)?)));
            match window {
                Some((from, to)) if from < 1440 && from != to => Ok((from, if to == 0 { 1440 } else { to })),
                _ => Err(not(text, "such a window")),
            }
        })
    }

    /// Days of the week, Monday first.
    pub(super) fn days(&self, key: &str) -> Option<[bool; 7]> {
        let mut days = [false; 7];
        let mut well = true;
        for (path, value) in self.list_of(key)? {
            let index = match &value.node {
                Node::Scalar(text) => DAYS.iter().position(|day| *day == text.to_lowercase()),
                _ => None,
            };
            match index.and_then(|index| days.get_mut(index)) {
                Some(day) => *day = true,
                None => {
                    self.report.add(&path, &value.origin, wanted(&Kind::Days));
                    well = false;
                }
            }
        }
        well.then_some(days)
    }

    /// A list of single values, each made by `make`; its error is reported at the value.
    pub(super) fn each<T, E: std::fmt::Display>(
        &self,
        key: &str,
        make: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let mut made = vec![];
        for (path, value) in self.list_of(key)? {
            let one = match &value.node {
                Node::Scalar(text) => make(text).map_err(|error| error.to_string()),
                other => Err(format!("{} stands here; a name is wanted", sort(other))),
            };
            match one {
                Ok(one) => made.push(one),
                Err(message) => self.report.add(&path, &value.origin, message),
            }
        }
        Some(made)
    }

    pub(super) fn point(&self, key: &str) -> Option<[f64; 2]> {
        let value = self.value(key)?;
        self.point_of(&self.path_of(key), value)
    }

    /// At least two points.
    pub(super) fn line(&self, key: &str) -> Option<Vec<[f64; 2]>> {
        let list = self.list_of(key)?;
        let count = list.len();
        let points: Vec<[f64; 2]> =
            list.iter().filter_map(|(path, value)| self.point_of(path, value)).collect();
        if count < 2 {
            self.wrong_key(key, wanted(&Kind::Line));
        }
        (count >= 2 && points.len() == count).then_some(points)
    }

    /// A section. One that is not there but has defaults is read as if it stood there empty.
    pub(super) fn section(&self, key: &str) -> Option<Reader<'a>> {
        let Kind::Section(section) = self.kind(key)? else { return self.mismatch(key) };
        Reader::open(section, self.value(key).unwrap_or(&EMPTY), self.path_of(key), self.report)
    }

    /// The path and the value of a key, as they stand there.
    pub(super) fn raw(&self, key: &str) -> Option<(String, &'a Value)> {
        Some((self.path_of(key), self.value(key)?))
    }

    /// Sections by name, in the order of the file.
    pub(super) fn named(&self, key: &str) -> Vec<(&'a str, Reader<'a>)> {
        let (Some(Kind::Named(section)), Some(value)) = (self.kind(key), self.value(key)) else {
            return vec![];
        };
        let path = self.path_of(key);
        let Node::Map(entries) = &value.node else {
            let message = format!("must be names, each with its keys, not {}", sort(&value.node));
            self.report.add(&path, &value.origin, message);
            return vec![];
        };
        let open = |(name, value): &'a (String, Value)| {
            Some((name.as_str(), Reader::open(section, value, join(&path, name), self.report)?))
        };
        entries.iter().filter_map(open).collect()
    }

    /// The names of such sections, also of those that are wrong inside.
    pub(super) fn names(&self, key: &str) -> Vec<&'a str> {
        match self.value(key).map(|value| &value.node) {
            Some(Node::Map(entries)) => entries.iter().map(|(name, _)| name.as_str()).collect(),
            _ => vec![],
        }
    }

    /// Sections in a list.
    pub(super) fn list(&self, key: &str) -> Vec<Reader<'a>> {
        let Some(Kind::List(section)) = self.kind(key) else { return vec![] };
        let items = self.list_of(key).unwrap_or_default();
        items
            .into_iter()
            .filter_map(|(path, value)| Reader::open(section, value, path, self.report))
            .collect()
    }

    fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    fn kind(&self, key: &str) -> Option<Kind> {
        let known = self.section.keys.iter().find(|known| known.name == key);
        debug_assert!(known.is_some(), "{key} is not in the table of {}", self.section.about);
        known.map(|known| known.kind)
    }

    fn mismatch<T>(&self, key: &str) -> Option<T> {
        debug_assert!(false, "{key} is read as another type than its table says");
        None
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        let entry = self.entries.iter().find(|(name, _)| name == key);
        entry.map(|(_, value)| value).filter(|value| value.node != Node::Null)
    }

    fn scalar<T>(&self, key: &str, make: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let kind = self.kind(key)?;
        let Some(value) = self.value(key) else {
            let need = self.section.keys.iter().find(|known| known.name == key)?.need;
            let Need::Default(text) = need else { return None };
            let made = make(text);
            debug_assert!(made.is_ok(), "the default of {key} is not accepted");
            return made.ok();
        };
        let made = match &value.node {
            Node::Scalar(text) => make(text),
            other => Err(Wrong::Type(format!("{} stands here", sort(other)))),
        };
        let message = match made {
            Ok(made) => return Some(made),
            Err(Wrong::Type(problem)) => format!("{problem}; {}", wanted(&kind)),
            Err(Wrong::Fully(message)) => message,
        };
        self.report.add(&self.path_of(key), &value.origin, message);
        None
    }

    fn list_of(&self, key: &str) -> Option<Vec<(String, &'a Value)>> {
        let value = self.value(key)?;
        let path = self.path_of(key);
        match &value.node {
            Node::List(items) => {
                Some(items.iter().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect())
            }
            other => {
                self.report.add(&path, &value.origin, format!("must be a list, not {}", sort(other)));
                None
            }
        }
    }

    fn point_of(&self, path: &str, value: &Value) -> Option<[f64; 2]> {
        let number = |value: &Value| match &value.node {
            Node::Scalar(text) => text.parse::<f64>().ok().filter(|number| number.abs() <= 100_000.0),
            _ => None,
        };
        let point = match &value.node {
            Node::List(items) => match items.as_slice() {
                [x, y] => number(x).zip(number(y)),
                _ => None,
            },
            _ => None,
        };
        if point.is_none() {
            self.report.add(path, &value.origin, wanted(&Kind::Point));
        }
        point.map(|(x, y)| [x, y])
    }
}

/// Why a scalar is not accepted.
enum Wrong {
    /// To be followed by what is wanted.
    Type(String),
    /// Says everything itself.
    Fully(String),
}

fn not(text: &str, what: &str) -> Wrong {
    Wrong::Type(format!("'{}' is not {what}", short(text)))
}

fn out_of_range(text: &str) -> Wrong {
    Wrong::Type(format!("{} is out of range", short(text)))
}

static EMPTY: Value = Value { node: Node::Null, origin: Origin::File };

pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What a key accepts, in words.
pub(super) fn wanted(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text is wanted".to_owned(),
        Kind::Secret => "text is wanted".to_owned(),
        Kind::Path => "a path is wanted".to_owned(),
        Kind::Topic => "an MQTT topic without wildcards is wanted".to_owned(),
        Kind::Name => "a name is wanted".to_owned(),
        Kind::Number { min, max } => format!("a number from {min} to {max} is wanted"),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max} is wanted"),
        Kind::Duration { min_ms, max_ms } => {
            let (min, max) = (Duration::from_millis(*min_ms), Duration::from_millis(*max_ms));
            format!("a duration from {min:?} to {max:?} with its unit (500ms, 1.5s, 2m) is wanted")
        }
        Kind::Flag => "true or false is wanted".to_owned(),
        Kind::Size { multiple_of: 1 } => "width and height in pixels are wanted, as in 640x360".to_owned(),
        Kind::Size { multiple_of } => {
            format!("width and height in pixels are wanted, multiples of {multiple_of}, as in 392x224")
        }
        Kind::Window => "two times of day are wanted, as in 06:00-22:00".to_owned(),
        Kind::Days => format!("days are wanted: {}", DAYS.join(", ")),
        Kind::Names => "names in brackets are wanted, as in [person]".to_owned(),
        Kind::Point => "two numbers in brackets are wanted, as in [3.8, 4.8]".to_owned(),
        Kind::Line => "at least two points are wanted, as in [[0, 0], [13, 0]]".to_owned(),
        Kind::Section(_) => "keys with values are wanted".to_owned(),
        Kind::Named(_) => "names, each with its keys, are wanted".to_owned(),
        Kind::List(_) => "a list is wanted".to_owned(),
    }
}

fn sort(node: &Node) -> &'static str {
    match node {
        Node::Null => "nothing",
        Node::Scalar(_) => "a single value",
        Node::List(_) => "a list",
        Node::Map(_) => "a mapping",
    }
}

/// The beginning of a text, so that a message stays a line.
fn short(text: &str) -> String {
    let line: String = text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() { format!("{line}...") } else { line }
}

/// `500ms`, `1.5s`, `2m`, `1h`, `7d`.
pub(super) fn duration_of(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let number = number.trim_end();
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let micros = (number.parse::<f64>().ok()? * seconds * 1e6).round();
    Duration::try_from_secs_f64(micros / 1e6).ok()
}

fn time_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !(1..=2).contains(&hour.len()) || minute.len() != 2 || !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
    (minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration_of("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration_of("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration_of("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration_of("0s"), Some(Duration::ZERO));
        for bad in ["5", "", "s", "-1s", "1e9s", "inf s", "1.5.s", "1 day", "99999999999999999999999h"] {
            assert_eq!(duration_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_of_day() {
        assert_eq!(time_of_day("06:00"), Some(360));
        assert_eq!(time_of_day("24:00"), Some(1440));
        for bad in ["24:01", "6", "6:5", "06:60", "+6:00:00", "-1:00", "006:00"] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }
}
