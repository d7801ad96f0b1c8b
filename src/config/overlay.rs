//! Environment variables over the file: `STANDOFF__MQTT__PASSWORD` sets `mqtt.password`.

use super::problem::Origin;
use super::read::Report;
use super::yaml::{Node, Value};

const PREFIX: &str = "STANDOFF__";

/// Sets what the variables say. Names are taken in lower case; a camera called `dock-2` is reached by `DOCK_2`.
pub(super) fn variables(tree: &mut Value, variables: &[(String, String)], report: &Report) {
    let mut ours: Vec<&(String, String)> =
        variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, text) in ours {
        let path = name.get(PREFIX.len()..).unwrap_or_default().to_lowercase();
        let keys: Vec<&str> = path.split("__").collect();
        let origin = Origin::Variable(name.clone());
        if keys.len() > 12 || keys.iter().any(|key| key.is_empty()) {
            report.add(
                "",
                &origin,
                format!("is not a key path; {PREFIX}MQTT__PASSWORD would set mqtt.password"),
            );
        } else if !set(tree, &keys, text, &origin) {
            report.add(&keys.join("."), &origin, "there is a value or a list above this key in the file");
        }
    }
}

fn set(value: &mut Value, keys: &[&str], text: &str, origin: &Origin) -> bool {
    let Some((key, rest)) = keys.split_first() else {
        value.node = if text.is_empty() { Node::Null } else { Node::Scalar(text.to_owned()) };
        value.origin = origin.clone();
        return true;
    };
    if value.node == Node::Null {
        value.node = Node::Map(vec![]);
    }
    let Node::Map(entries) = &mut value.node else { return false };
    let known = entries.iter().position(|(name, _)| name.replace('-', "_") == *key);
    let entry = match known {
        Some(index) => entries.get_mut(index),
        None => {
            entries.push(((*key).to_owned(), Value { node: Node::Null, origin: origin.clone() }));
            entries.last_mut()
        }
    };
    entry.is_some_and(|(_, value)| set(value, rest, text, origin))
}
