//! Commands that come over the broker: `standoff/<node>/camera/<cam>/alarm/<rule>/<setting>/set`, plain text. Pure.

use std::time::Duration;

use crate::types::command::{Action, Command, Limit, Order, Setting, Via};
use crate::types::{CameraId, NodeId, RuleId};

/// No payload that is accepted is longer.
const PAYLOAD_MAX_BYTES: usize = 64;

/// Why a message is not taken for a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// The broker kept it for later subscribers. It may be of any age: nobody acknowledges a siren of today by a
    /// message of last week.
    #[error("it is retained; publish commands without retain, and clear this topic")]
    Retained,
    /// The topic names nothing that can be set.
    #[error("the topic must end in camera/<camera>/alarm/<rule>/<setting>/set")]
    Topic,
    /// The payload is nothing that the setting takes.
    #[error("{0} takes {1}")]
    Payload(&'static str, &'static str),
}

fn levels<'a>(node: &NodeId, topic: &'a str) -> Option<[&'a str; 3]> {
    let inside = topic.strip_prefix("standoff/")?.strip_prefix(node.as_str())?.strip_prefix("/camera/")?;
    let levels: Vec<&str> = inside.split('/').collect();
    match levels[..] {
        [camera, "alarm", rule, setting, "set"] => Some([camera, rule, setting]),
        _ => None,
    }
}

/// The rule that a topic of commands speaks of.
pub fn rule_of(node: &NodeId, topic: &str) -> Option<(CameraId, RuleId)> {
    let [camera, rule, _] = levels(node, topic)?;
    Some((CameraId::new(camera).ok()?, RuleId::new(rule).ok()?))
}

/// The command that a message is. Errors say why it is none.
pub fn parse(node: &NodeId, topic: &str, payload: &[u8], retained: bool) -> Result<Command, NotUnderstood> {
    let [_, _, setting] = levels(node, topic).ok_or(NotUnderstood::Topic)?;
    let (camera, rule) = rule_of(node, topic).ok_or(NotUnderstood::Topic)?;
    let setting = Setting::parse(setting).ok_or(NotUnderstood::Topic)?;
    if retained {
        return Err(NotUnderstood::Retained);
    }
    let order = order(setting, payload).ok_or(NotUnderstood::Payload(setting.as_str(), takes(setting)))?;
    Ok(Command::new(Action::Rule { camera, rule, order }, "mqtt", Via::Mqtt))
}

fn takes(setting: Setting) -> &'static str {
    match setting {
        Setting::AlarmM | Setting::WarningM => "metres, as in 0.5",
        Setting::Armed => "ON or OFF",
        Setting::Acknowledge => "PRESS",
        Setting::Shelve => "a time as in 30m, a number of minutes, or OFF",
    }
}

fn order(setting: Setting, payload: &[u8]) -> Option<Order> {
    if payload.len() > PAYLOAD_MAX_BYTES {
        return None;
    }
    let text = std::str::from_utf8(payload).ok()?.trim();
    let metres = || text.parse::<f64>().ok().filter(|metres| metres.is_finite());
    match setting {
        Setting::AlarmM => metres().map(|value| Order::Limit(Limit::AlarmM, value)),
        Setting::WarningM => metres().map(|value| Order::Limit(Limit::WarningM, value)),
        Setting::Armed => match text {
            "ON" => Some(Order::Arm(true)),
            "OFF" => Some(Order::Arm(false)),
            _ => None,
        },
        Setting::Acknowledge => (text == "PRESS").then_some(Order::Acknowledge),
        Setting::Shelve if text == "OFF" => Some(Order::Unshelve),
        Setting::Shelve => duration(text).map(|time| match time {
            Duration::ZERO => Order::Unshelve,
            time => Order::Shelve(time),
        }),
    }
}

/// A time with its unit (`90s`, `30m`, `1.5h`), or a number of minutes.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.strip_suffix(unit)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" | "" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new("north").unwrap()
    }

    fn order_of(setting: &str, payload: &str) -> Option<Order> {
        let topic = format!("standoff/north/camera/dock/alarm/edge/{setting}/set");
        match parse(&node(), &topic, payload.as_bytes(), false).ok()?.action {
            Action::Rule { order, .. } => Some(order),
            Action::List => None,
        }
    }

    #[test]
    fn settings_and_their_payloads() {
        let minutes = |n: u64| Some(Order::Shelve(Duration::from_secs(n * 60)));
        for (setting, payload, order) in [
            ("alarm_m", "0.5", Some(Order::Limit(Limit::AlarmM, 0.5))),
            ("warning_m", " 2 ", Some(Order::Limit(Limit::WarningM, 2.0))),
            ("alarm_m", "NaN", None),
            ("alarm_m", "inf", None),
            ("alarm_m", "0,5", None),
            ("armed", "OFF", Some(Order::Arm(false))),
            ("armed", "ON", Some(Order::Arm(true))),
            ("armed", "off", None),
            ("acknowledge", "PRESS", Some(Order::Acknowledge)),
            ("acknowledge", "", None),
            ("shelve", "30m", minutes(30)),
            ("shelve", "30", minutes(30)),
            ("shelve", "1.5h", minutes(90)),
            ("shelve", "90s", Some(Order::Shelve(Duration::from_secs(90)))),
            ("shelve", "0", Some(Order::Unshelve)),
            ("shelve", "OFF", Some(Order::Unshelve)),
            ("shelve", "-5m", None),
            ("shelve", "5d", None),
            ("shelve", "m", None),
            ("shelve", "99999999999999999999999h", None),
            ("siren", "ON", None),
        ] {
            assert_eq!(order_of(setting, payload), order, "{setting} {payload:?}");
        }
    }

    #[test]
    fn only_fresh_messages_to_this_node_count() {
        let topic = "standoff/north/camera/dock/alarm/edge/acknowledge/set";
        assert_eq!(parse(&node(), topic, b"PRESS", true).err(), Some(NotUnderstood::Retained));
        for topic in [
            "standoff/northern/camera/dock/alarm/edge/acknowledge/set",
            "standoff/south/camera/dock/alarm/edge/acknowledge/set",
            "standoff/north/camera/dock/alarm/edge/acknowledge",
            "standoff/north/camera/dock/alarm/edge/x/acknowledge/set",
            "standoff/north/camera//alarm/edge/acknowledge/set",
            "standoff/north/camera/DOCK/alarm/edge/acknowledge/set",
            "",
        ] {
            assert_eq!(parse(&node(), topic, b"PRESS", false).err(), Some(NotUnderstood::Topic), "{topic}");
        }
        let command = parse(&node(), topic, b"PRESS", false).unwrap();
        assert_eq!((command.by.as_str(), command.via), ("mqtt", Via::Mqtt));
    }
}
