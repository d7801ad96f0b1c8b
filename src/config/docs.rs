//! docs/configuration.md and pipelines/schema.json, written from the tables of [`super::keys`].

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::keys::{FILE, Key, Kind, Need, Section};
use super::read::DAYS;
use super::resolve::CLASSES;

const HEAD: &str = "\
# Configuration

<!-- Written by `UPDATE_DOCS=1 cargo test --release config::docs` from src/config/keys.rs: edit there. -->

One YAML file says everything. `standoff check FILE` names every problem in it at once, each with its line and key
path, and `standoff run` refuses a file that has one. The files in [pipelines/](../pipelines) are annotated examples;
[pipelines/schema.json](../pipelines/schema.json) lets an editor complete and check keys.

- Durations carry their unit: `500ms`, `1.5s`, `2m`, `1h`. Lengths are metres and say so in the key.
- Names given by you (cameras, edges, pairs, rules) have 1 to 40 of `a-z`, `0-9`, `_` and `-`, beginning with a letter
  or digit: they become levels of MQTT topics.
- Relative paths begin at the folder of the file. A key without a value is as if it were not there.
- A variable of the environment that begins with `STANDOFF__` sets a value over the file's: `STANDOFF__MQTT__PASSWORD`
  sets `mqtt.password`, `STANDOFF__CAMERAS__DOCK__URL` sets `cameras.dock.url` (write `_` for `-` in names).
- Passwords may stand in the file, in a file of their own (`password_file`, first line) or in such a variable. They are
  never shown.
";

/// The reference as Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let classes: Vec<String> = CLASSES.iter().map(|class| format!("`{class}`")).collect();
    // Writing into a String cannot fail.
    let _ = writeln!(page, "\nClasses that the shipped heads find: {}.", classes.join(", "));
    write_section(&mut page, "", &FILE);
    page
}

fn write_section(page: &mut String, path: &str, section: &'static Section) {
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    let about = if path.is_empty() { String::new() } else { format!("\n{}\n", section.about) };
    let _ = write!(
        page,
        "\n## {title}\n{about}\n| Key | Value | Without it | Meaning |\n| --- | --- | --- | --- |\n"
    );
    for Key { name, kind, need, doc } in section.keys {
        let need = match need {
            Need::Required => "an error".to_owned(),
            Need::Optional => "-".to_owned(),
            Need::Default(text) => format!("`{text}`"),
        };
        let _ = writeln!(page, "| `{name}` | {} | {need} | {doc} |", words(kind));
    }
    for key in section.keys {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match key.kind {
            Kind::Section(section) => write_section(page, &path, section),
            Kind::Named(section) => write_section(page, &format!("{path}.<name>"), section),
            Kind::List(section) => write_section(page, &format!("{path}[]"), section),
            _ => {}
        }
    }
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Topic => "MQTT topic".to_owned(),
        Kind::Name => "name".to_owned(),
        Kind::Number { min, max } => format!("number, {min} to {max}"),
        Kind::Integer { min, max } => format!("whole number, {min} to {max}"),
        Kind::Duration { min_ms, max_ms } => {
            let millis = std::time::Duration::from_millis;
            format!("duration, {:?} to {:?}", millis(*min_ms), millis(*max_ms))
        }
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Size { multiple_of: 1 } => "size, as in `640x360`".to_owned(),
        Kind::Size { multiple_of } => format!("size, multiples of {multiple_of}"),
        Kind::Window => "times, as in `06:00-22:00`".to_owned(),
        Kind::Days => format!("list of {}", DAYS.map(|day| format!("`{day}`")).join(", ")),
        Kind::Names => "list of names".to_owned(),
        Kind::Point => "`[x, y]`".to_owned(),
        Kind::Line => "list of `[x, y]`".to_owned(),
        Kind::Section(_) => "keys, below".to_owned(),
        Kind::Named(_) => "names with keys, below".to_owned(),
        Kind::List(_) => "list of keys, below".to_owned(),
    }
}

/// A JSON Schema (2020-12) by which editors complete and check the YAML.
pub fn json_schema() -> Value {
    let mut schema = section_schema(&FILE);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("standoff configuration"));
    Value::Object(schema)
}

fn section_schema(section: &'static Section) -> Map<String, Value> {
    let required: Vec<&str> =
        section.keys.iter().filter(|key| matches!(key.need, Need::Required)).map(|key| key.name).collect();
    let properties: Map<String, Value> =
        section.keys.iter().map(|key| (key.name.to_owned(), Value::Object(key_schema(key)))).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn key_schema(key: &Key) -> Map<String, Value> {
    let point = json!({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2});
    let name = "^[a-z0-9][a-z0-9_-]{0,39}$";
    let schema = match key.kind {
        Kind::Text | Kind::Secret => json!({"type": ["string", "number", "boolean"]}),
        Kind::Path | Kind::Topic => json!({"type": "string"}),
        Kind::Name => json!({"type": "string", "pattern": name}),
        Kind::Number { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Duration { .. } => {
            json!({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *(ms|s|m|min|h|d)$"})
        }
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Size { .. } => json!({"type": "string", "pattern": "^[0-9]+x[0-9]+$"}),
        Kind::Window => json!({"type": "string", "pattern": "^[0-9]{1,2}:[0-9]{2} *- *[0-9]{1,2}:[0-9]{2}$"}),
        Kind::Days => json!({"type": "array", "items": {"enum": DAYS}}),
        Kind::Names => json!({"type": "array", "items": {"type": "string", "pattern": name}}),
        Kind::Point => point,
        Kind::Line => json!({"type": "array", "items": point, "minItems": 2}),
        Kind::Section(section) => Value::Object(section_schema(section)),
        Kind::Named(section) => json!({
            "type": "object",
            "propertyNames": {"pattern": name},
            "additionalProperties": Value::Object(section_schema(section)),
        }),
        Kind::List(section) => json!({"type": "array", "items": Value::Object(section_schema(section))}),
    };
    let Value::Object(mut schema) = schema else { return Map::new() };
    schema.insert("description".to_owned(), json!(key.doc));
    if let (Need::Default(text), Kind::Text | Kind::Name | Kind::Duration { .. } | Kind::Size { .. }) =
        (key.need, key.kind)
    {
        schema.insert("default".to_owned(), json!(text));
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn committed(path: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
        let hint =
            "is not what src/config/keys.rs says: run `UPDATE_DOCS=1 cargo test --release config::docs`";
        assert!(on_disk == text, "{} {hint}", path.display());
    }

    #[test]
    fn the_committed_reference_is_up_to_date() {
        committed("docs/configuration.md", &reference());
    }

    #[test]
    fn the_committed_schema_is_up_to_date() {
        let schema = serde_json::to_string_pretty(&json_schema()).unwrap();
        committed("pipelines/schema.json", &format!("{schema}\n"));
    }
}
