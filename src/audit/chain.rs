//! One line of the log: `{"v":1,"n":N,"ts":"...","kind":"...","data":{...},"prev":"HASH","hash":"HASH"}`.
//!
//! `hash` is the SHA-256 of all bytes of the line before `,"hash":`, in hex; `prev` is the `hash` of the line
//! before, so that each line stands for all before it. `n` counts from 1 over all files.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::clock::UtcMillis;

/// Longest line, bytes. Entries come nowhere near it; a line beyond is no line of ours.
pub(super) const LINE_MAX: usize = 16 * 1024;

const HASH_KEY: &[u8] = b",\"hash\":\"";

/// What `prev` is in the first line.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The newest line of a log, which stands for all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub n: u64,
    /// Its hash, hex.
    pub hash: String,
}

impl Head {
    /// Of a log without lines.
    pub(super) fn nothing() -> Self {
        Self { n: 0, hash: NOTHING.to_owned() }
    }
}

/// A line that was read and whose own hash is right.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Line {
    pub(super) v: u32,
    pub(super) n: u64,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) data: Value,
    pub(super) prev: String,
    pub(super) hash: String,
}

impl Line {
    pub(super) fn head(&self) -> Head {
        Head { n: self.n, hash: self.hash.clone() }
    }
}

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The next line after `head`, with its newline, and the new head.
pub(super) fn next(head: &Head, ts: UtcMillis, kind: &str, data: &Value) -> (String, Head) {
    let n = head.n + 1;
    let body = |data: &Value| {
        let (kind, prev) = (json!(kind), &head.hash);
        format!("{{\"v\":1,\"n\":{n},\"ts\":\"{ts}\",\"kind\":{kind},\"data\":{data},\"prev\":\"{prev}\"")
    };
    let mut text = body(data);
    if text.len() + 100 > LINE_MAX {
        text = body(&json!({ "too_long_bytes": text.len() }));
    }
    let hash = sha256(text.as_bytes());
    text.push_str(&format!(",\"hash\":\"{hash}\"}}\n"));
    (text, Head { n, hash })
}

/// Reads a line without its newline. The error says what is wrong with the line by itself.
pub(super) fn read(line: &[u8]) -> Result<Line, &'static str> {
    if line.len() > LINE_MAX {
        return Err("the line is too long to be ours");
    }
    let at = line.windows(HASH_KEY.len()).rposition(|window| window == HASH_KEY);
    let Some((body, end)) = at.and_then(|at| line.split_at_checked(at)) else {
        return Err("the line has no hash");
    };
    let hash = sha256(body);
    // The very bytes, so that not even the case of a digit can change.
    if end != format!(",\"hash\":\"{hash}\"}}").as_bytes() {
        return Err("the line was changed: its hash does not fit");
    }
    match serde_json::from_slice::<Line>(line) {
        Ok(line) if line.v == 1 => Ok(line),
        _ => Err("the line is not of this format"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_follows_the_one_before() {
        let (first, head) = next(&Head::nothing(), UtcMillis(0), "test", &json!({"a": "b,\"hash\":\"c"}));
        let line = read(first.trim_end().as_bytes()).unwrap();
        assert_eq!((line.n, line.kind.as_str(), line.prev.as_str()), (1, "test", NOTHING));
        assert_eq!(line.head(), head);
        let (second, _) = next(&head, UtcMillis(0), "test", &json!({}));
        assert_eq!(read(second.trim_end().as_bytes()).unwrap().prev, head.hash);
        // By hand: printf '%s' '<before ,"hash">' | sha256sum
        let body = r#"{"v":1,"n":1,"ts":"1970-01-01T00:00:00.000Z","kind":"k","data":{},"prev":""#;
        let (text, _) = next(&Head::nothing(), UtcMillis(0), "k", &json!({}));
        assert!(text.starts_with(&format!("{body}{NOTHING}\",\"hash\":\"")), "{text}");
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn data_that_is_too_long_is_replaced_by_its_length() {
        let (text, _) = next(&Head::nothing(), UtcMillis(0), "k", &json!({ "x": "y".repeat(LINE_MAX) }));
        let line = read(text.trim_end().as_bytes()).unwrap();
        assert!(line.data["too_long_bytes"].as_u64().unwrap() > LINE_MAX as u64);
    }
}
