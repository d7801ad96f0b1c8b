//! The webhook sink: each event as an HTTP POST, in order, from the same outbox as MQTT, with a mark of its own on
//! what has been delivered. One tokio task; the request itself, which blocks, is made on tokio's pool for that.
//!
//! An event has arrived when the other side answers 2xx. Everything else is tried again for ever, later and later,
//! except an answer that says that this one event is not wanted (400, 404, 413 and their kin): it is tried
//! [`REJECTED_MAX`] times, so that one bad event does not hold up all that come after, and then counted as dropped
//! and named in the log. docs/webhook.md says so too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

use super::message;
use super::tls::{self, TlsError};
use super::trouble::{Line, Trouble};
use crate::clock;
use crate::metrics::METRICS;
use crate::outbox::{OutboxReader, Waiting};
use crate::types::{NodeId, Secret};

/// Name of the sink in the outbox and in the metrics.
pub const NAME: &str = "webhook";
/// How long one request may take, from the name's look-up to the end of the answer.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How often an event is tried that the other side does not want.
pub const REJECTED_MAX: u32 = 6;
/// Longest pause between those attempts: the others wait behind it.
const REJECTED_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the last events may take when the daemon stops. What is left is sent after the next start.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Where events are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// `http://` or `https://`. May hold a secret in its path or query, so it is never shown.
    pub url: Secret,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// Who may have signed the other side's certificate; without it those whom the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// It is no address of HTTP.
    #[error("http://host/path or https://host/path is wanted")]
    Url,
    /// The other side cannot be checked.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What may be shown of the address: neither user, path nor query.
fn shown(url: &Url) -> String {
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Checks the settings and reads the certificates.
pub fn check(settings: &WebhookSettings) -> Result<(), WebhookError> {
    Caller::new(settings).map(|_| ())
}

/// Makes requests.
struct Caller {
    agent: Agent,
    url: Url,
    token: Option<Secret>,
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It has arrived.
    Arrived,
    /// The other side does not want this event.
    Rejected(String),
    /// It may arrive later; not before this pause, when the other side named one.
    Later(String, Option<Duration>),
}

impl Caller {
    fn new(settings: &WebhookSettings) -> Result<Self, WebhookError> {
        let url = Url::parse(settings.url.reveal()).map_err(|_| WebhookError::Url)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(WebhookError::Url);
        }
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if url.scheme() == "https" {
            let path = settings.ca_file.clone().or_else(tls::system_roots_file);
            let certificates = tls::certificates(&path.ok_or(TlsError::NoSystemRoots)?)?;
            let roots = certificates
                .iter()
                .map(|certificate| ureq::tls::Certificate::from_der(certificate).to_owned())
                .collect();
            tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(REQUEST_MAX))
            // An event is for the address that was configured, not for one that an answer names.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("standoff/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: Agent::new_with_config(config), url, token: settings.token.clone() })
    }

    fn post(&self, event_id: &str, body: &[u8]) -> Outcome {
        let mut request = self
            .agent
            .post(self.url.as_str())
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", event_id);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token.reveal()));
        }
        match request.send(body) {
            Ok(answer) => {
                let wait = answer
                    .headers()
                    .get("Retry-After")
                    .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
                    .map(Duration::from_secs);
                judge(answer.status().as_u16(), wait)
            }
            Err(error) => Outcome::Later(reason(&error), None),
        }
    }
}

/// What a status means for the event. 401, 403, 404, 405, 410 and redirections are about the address and not about
/// the event: a person must mend that, and no event may be lost until then.
fn judge(status: u16, wait: Option<Duration>) -> Outcome {
    match status {
        200..=299 => Outcome::Arrived,
        400 | 409 | 411 | 413 | 415 | 422 | 431 => Outcome::Rejected(format!("it answers {status}")),
        401 | 403 => Outcome::Later(format!("it answers {status}: check webhook.token_file"), wait),
        300..=399 | 404 | 405 | 410 => {
            Outcome::Later(format!("it answers {status}: check webhook.url"), wait)
        }
        _ => Outcome::Later(format!("it answers {status}"), wait),
    }
}

/// In words, without the address, which may hold a secret.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", REQUEST_MAX.as_secs()),
        ureq::Error::HostNotFound => "its name is not known: check webhook.url and the network".to_owned(),
        ureq::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            _ => error.to_string(),
        },
        ureq::Error::Rustls(error) => {
            format!("its certificate is not accepted ({error}): check webhook.ca_file")
        }
        ureq::Error::ConnectionFailed => "it cannot be reached".to_owned(),
        ureq::Error::Protocol(error) => format!("it does not speak HTTP: {error}"),
        _ => "the request failed".to_owned(),
    }
}

/// Starts the task, on the present tokio runtime. When told to stop it sends what waits, as long as that works and
/// for 1.5 s at most.
pub fn spawn(
    settings: &WebhookSettings,
    node: NodeId,
    reader: OutboxReader,
    shutdown: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, WebhookError> {
    let caller = Arc::new(Caller::new(settings)?);
    let place = shown(&caller.url);
    let sink = Sink { caller, place, node, reader, shutdown, trouble: Trouble::default(), pause: PAUSES.0 };
    Ok(tokio::spawn(sink.run()))
}

struct Sink {
    caller: Arc<Caller>,
    place: String,
    node: NodeId,
    reader: OutboxReader,
    shutdown: watch::Receiver<bool>,
    trouble: Trouble,
    pause: Duration,
}

impl Sink {
    async fn run(mut self) {
        let mut shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = self.deliver_all() => {}
                () = stopped(&mut shutdown) => break,
            }
            tokio::select! {
                () = self.reader.changed() => {}
                () = stopped(&mut shutdown) => break,
            }
        }
        let _ = timeout(FAREWELL, self.deliver_all()).await;
    }

    /// Sends one event after the other until none waits. When it is cancelled, the event that was under way is sent
    /// again: its id makes that harmless.
    async fn deliver_all(&mut self) {
        while let Some(waiting) = self.reader.pending_events(&clock::stamp(), 1).pop() {
            // The proof test ends at the broker; whoever is called here would take it for an alarm.
            if waiting.event.status.camera.is_proof_test() {
                self.reader.delivered(waiting.number, &clock::stamp());
                continue;
            }
            self.deliver(&waiting).await;
            self.reader.delivered(waiting.number, &clock::stamp());
        }
    }

    /// Ends when the event has arrived, or was given up.
    async fn deliver(&mut self, waiting: &Waiting) {
        let event_id = waiting.event.event_id.clone();
        let body: Arc<[u8]> = message::event(&self.node, &waiting.event, waiting.late).payload.into();
        let mut rejected = 0;
        loop {
            let outcome = {
                let (caller, body, event_id) = (self.caller.clone(), body.clone(), event_id.clone());
                tokio::task::spawn_blocking(move || caller.post(&event_id, &body)).await
            };
            let (problem, pause) = match outcome {
                Ok(Outcome::Arrived) => {
                    self.pause = PAUSES.0;
                    if let Some(Line::Connected { away: Some(away) }) =
                        self.trouble.connected(clock::monotonic())
                    {
                        tracing::info!(webhook = %self.place, away_s = away.as_secs_f64(), "events arrive again");
                    }
                    return;
                }
                Ok(Outcome::Rejected(why)) => {
                    rejected += 1;
                    if rejected == REJECTED_MAX {
                        METRICS.events_dropped.of(&[&NAME, &"rejected"]).inc();
                        tracing::error!(
                            webhook = %self.place,
                            event_id,
                            "an event is given up after {REJECTED_MAX} attempts: {why}"
                        );
                        return;
                    }
                    let pause = self.pause.min(REJECTED_PAUSE_MAX);
                    self.pause = (self.pause * 2).min(PAUSES.1);
                    (format!("an event is not wanted, {why}"), pause)
                }
                Ok(Outcome::Later(why, wait)) => {
                    let pause = wait.unwrap_or_default().clamp(self.pause, PAUSES.1);
                    self.pause = (self.pause * 2).min(PAUSES.1);
                    (why, pause)
                }
                Err(error) => (format!("the request could not be made: {error}"), PAUSES.1),
            };
            match self.trouble.lost(clock::monotonic(), &problem) {
                Some(Line::New) => tracing::warn!(webhook = %self.place, "{problem}; trying again"),
                Some(Line::Still { attempts, .. }) => {
                    tracing::warn!(webhook = %self.place, attempts, "events still wait: {problem}");
                }
                _ => {}
            }
            // Only time can end this wait.
            let _ = timeout(pause, std::future::pending::<()>()).await;
        }
    }
}

/// Ends when the daemon is to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which says the same.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_event_counts_against_it() {
        assert_eq!(judge(204, None), Outcome::Arrived);
        assert!(matches!(judge(400, None), Outcome::Rejected(_)));
        assert!(matches!(judge(413, None), Outcome::Rejected(_)));
        for status in [301, 401, 403, 404, 405, 408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(judge(status, None), Outcome::Later(..)), "{status}");
        }
    }

    #[test]
    fn an_address_is_checked_and_shown_without_its_secrets() {
        let settings = |url: &str| WebhookSettings { url: Secret::new(url), token: None, ca_file: None };
        for bad in ["", "hooks", "ftp://x/", "http://", "mailto:x@y"] {
            assert!(matches!(check(&settings(bad)), Err(WebhookError::Url)), "{bad}");
        }
        assert!(check(&settings("http://127.0.0.1:8080/hook?key=hunter2")).is_ok());
        let url = Url::parse("https://me:hunter2@hooks.example:444/hunter2?key=hunter2").unwrap();
        assert_eq!(shown(&url), "https://hooks.example:444");
    }
}
