//! What comes in over MQTT: for whom a message is, by its topic alone. Pure; the sink subscribes and hands on.

use crate::types::NodeId;

/// For whom a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A value that a `when:` condition reads.
    Input,
    /// Somebody wants to change something: `standoff/<node>/.../set`.
    Command,
    /// Home Assistant says that it has started or stops.
    Birth,
    /// Nobody asked for it. A session that the broker kept can hold subscriptions of an older configuration.
    Nobody,
}

/// Where Home Assistant says that it has started.
pub const BIRTH_TOPIC: &str = "homeassistant/status";

/// Every topic on which somebody may want to change something.
pub fn command_filter(node: &NodeId) -> String {
    format!("standoff/{node}/camera/+/alarm/+/+/set")
}

/// For whom a message on this topic is; `watched` are the topics of `when:` conditions.
pub fn route(topic: &str, node: &NodeId, watched: &[String]) -> Route {
    if watched.iter().any(|watched| watched == topic) {
        return Route::Input;
    }
    if topic == BIRTH_TOPIC {
        return Route::Birth;
    }
    let below = topic.strip_prefix("standoff/").and_then(|rest| rest.strip_prefix(node.as_str()));
    match below {
        Some(rest) if rest.starts_with('/') && rest.ends_with("/set") => Route::Command,
        _ => Route::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_finds_its_reader() {
        let node = NodeId::new("north").unwrap();
        let watched = ["dock/3/trailer".to_owned(), "standoff/north/x/set".to_owned()];
        let route = |topic| route(topic, &node, &watched);
        assert_eq!(route("dock/3/trailer"), Route::Input);
        assert_eq!(route("standoff/north/x/set"), Route::Input, "what is watched goes to its condition");
        assert_eq!(route("standoff/north/camera/a/alarm/r/armed/set"), Route::Command);
        assert_eq!(route("standoff/north2/camera/a/alarm/r/armed/set"), Route::Nobody);
        assert_eq!(route("standoff/north/camera/a/alarm/r/armed"), Route::Nobody);
        assert_eq!(route("homeassistant/status"), Route::Birth);
        assert_eq!(route("dock/4/trailer"), Route::Nobody);
    }
}
