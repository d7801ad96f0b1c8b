//! Logging: one line an event on standard error. On a terminal with colours, into the systemd journal with
//! the level as priority and without a time (the journal has its own), otherwise plain; or JSON.

use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people and the journal.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of the environment is not one.
    #[error("{variable}='{value}' is not a log filter ({problem}): write a level, or target=level,...")]
    Filter {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Logging was set up before.
    #[error("logging is already set up: {0}")]
    Again(String),
}

/// Where text lines go, and so what they begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Terminal,
    Plain,
    Journal,
}

/// Starts logging at `level` and above; `STANDOFF_LOG`, or else `RUST_LOG`, overrides it. A bare level is for
/// standoff's own lines: other crates stay at `warn` unless they are named (`STANDOFF_LOG=info,rumqttc=debug`).
pub fn init(format: Format, level: Level) -> Result<(), TelemetryError> {
    let (variable, value) = ["STANDOFF_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()).map(|value| (name, value)))
        .unwrap_or(("STANDOFF_LOG", level.to_string()));
    let filter = filter(&value).map_err(|problem| TelemetryError::Filter { variable, value, problem })?;
    let again = |error: Box<dyn std::error::Error + Send + Sync>| TelemetryError::Again(error.to_string());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let sink = sink();
            let builder = builder.with_ansi(sink == Sink::Terminal && std::env::var_os("NO_COLOR").is_none());
            builder.event_format(Line { sink }).try_init().map_err(again)
        }
        Format::Json => builder.json().flatten_event(true).with_timer(Utc).try_init().map_err(again),
    }
}

/// The broker inside the demo takes every client that leaves for an error.
const DEMO_BROKER: &str = "rumqttd=off";

fn filter(value: &str) -> Result<EnvFilter, String> {
    let parts: Vec<String> = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| if part.contains(['=', '[']) { part.to_string() } else { bare(part) })
        .collect();
    EnvFilter::try_new(format!("warn,{DEMO_BROKER},{}", parts.join(","))).map_err(|error| error.to_string())
}

/// A bare level is for our own lines. Anything else is left to the parser, which takes it for a target.
fn bare(part: &str) -> String {
    let is_level =
        ["off", "error", "warn", "info", "debug", "trace"].contains(&part.to_ascii_lowercase().as_str());
    if is_level { format!("standoff={part}") } else { part.to_string() }
}

fn sink() -> Sink {
    // systemd sets JOURNAL_STREAM to the device and inode of the journal's socket; a child whose standard
    // error goes elsewhere inherits the variable but not the socket.
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stderr = std::fs::metadata("/proc/self/fd/2").ok().map(|m| format!("{}:{}", m.dev(), m.ino()));
    if stream.is_some() && stream == stderr {
        Sink::Journal
    } else if std::io::stderr().is_terminal() {
        Sink::Terminal
    } else {
        Sink::Plain
    }
}

struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", clock::utc())
    }
}

/// `time LEVEL span-fields: message fields`.
struct Line {
    sink: Sink,
}

/// The journal's priorities (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn ansi(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.sink == Sink::Journal {
            write!(writer, "<{}>", priority(level))?;
        } else {
            let (on, off) = if writer.has_ansi_escapes() { (ansi(level), "\x1b[0m") } else { ("", "") };
            write!(writer, "{} {on}{level:>5}{off} ", clock::utc())?;
        }
        let mut in_span = false;
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, "{}{fields}", if in_span { " " } else { "" })?;
                in_span = true;
            }
        }
        if in_span {
            writer.write_str(": ")?;
        }
        // Other crates' lines say whose they are.
        let target = event.metadata().target();
        if !target.starts_with("standoff") {
            write!(writer, "{target}: ")?;
        }
        ctx.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(sink: Sink, ansi: bool, value: &str) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(value).unwrap())
            .with_ansi(ansi)
            .with_writer(move || writer.clone())
            .event_format(Line { sink })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(target: "standoff::ingest", "camera", camera = "dock-1");
            let _entered = span.enter();
            tracing::info!(target: "standoff::ingest", attempt = 3, "connected");
            tracing::debug!(target: "standoff::ingest", "detail");
            tracing::info!(target: "rumqttc::state", "chatter");
            tracing::error!(target: "rumqttd", "a client has left");
            tracing::error!(target: "ort", "broken");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let lines = lines(Sink::Journal, false, "info");
        assert_eq!(lines, "<6>camera=\"dock-1\": connected attempt=3\n<3>camera=\"dock-1\": ort: broken\n");
    }

    #[test]
    fn plain_lines_have_time_and_level_and_no_escapes() {
        let lines = lines(Sink::Plain, false, "info");
        let first = lines.lines().next().unwrap();
        assert_eq!(first.find("Z  INFO camera=\"dock-1\": connected attempt=3"), Some(23), "{first}");
        assert!(!lines.contains('\x1b'));
    }

    #[test]
    fn terminals_get_colours() {
        assert!(lines(Sink::Terminal, true, "info").contains("\x1b[1;31mERROR\x1b[0m"));
    }

    #[test]
    fn a_bare_level_is_for_our_own_lines() {
        let debug = lines(Sink::Journal, false, "debug");
        assert!(debug.contains("detail") && !debug.contains("chatter"), "{debug}");
        let named = lines(Sink::Journal, false, "warn,rumqttc=info");
        assert!(named.contains("chatter") && !named.contains("connected"), "{named}");
    }

    #[test]
    fn a_wrong_filter_is_refused() {
        assert!(filter("standoff=loud").is_err());
        assert!(filter("").is_ok());
    }
}
