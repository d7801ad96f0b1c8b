//! The console: health and metrics over HTTP for machines that watch machines. One tokio task and one a
//! connection; it reads what other parts have said and changes nothing.
//!
//! `door` bounds what a client can cost, `health` makes the answers.

mod door;
mod health;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock;
use crate::heartbeat::Heart;
use crate::metrics::METRICS;
use crate::outbox::Outbox;
use crate::types::RunsOn;
use door::Door;

/// How long until a taken port is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Headers of a request, together, bytes. Prometheus sends some 300.
const HEADERS_MAX_BYTES: usize = 8 * 1024;
/// What `/metrics` is made of.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the console looks at.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Signs of life.
    pub heart: Arc<Heart>,
    /// What was said of cameras, and what waits.
    pub outbox: Arc<Outbox>,
    /// What the backbone runs on; empty until it is loaded.
    pub backend: Arc<OnceLock<RunsOn>>,
}

/// Starts the task, on the present tokio runtime. Where the address cannot be had it says so and goes on trying:
/// a taken port is no reason to stop watching cameras. Ends when `shutdown` becomes true or its sender is gone.
pub fn spawn(listen: SocketAddr, wiring: Wiring, shutdown: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        if !listen.ip().is_loopback() {
            tracing::warn!(%listen, "the console asks for no password, and can be read from other machines");
        }
        let Some(listener) = bind(listen, shutdown.clone()).await else { return };
        tracing::info!(%listen, "console");
        let app = router(wiring);
        let leave = stopped(shutdown.clone());
        let serving = axum::serve(Door::new(listener), app).with_graceful_shutdown(leave);
        tokio::select! {
            // Its listener does not fail, so it ends only when told to.
            _ = serving => {}
            // A slow client does not hold up the stop.
            () = async { stopped(shutdown).await; let _ = timeout(Duration::from_millis(300), std::future::pending::<()>()).await; } => {}
        }
    })
}

async fn bind(listen: SocketAddr, shutdown: watch::Receiver<bool>) -> Option<TcpListener> {
    let mut said = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return Some(listener),
            Err(error) if !said => {
                said = true;
                tracing::error!(
                    %listen, %error,
                    "no health and no metrics: the console cannot listen there; set `http.listen` to a free port or `off`"
                );
            }
            Err(_) => {}
        }
        if timeout(TRY_AGAIN, stopped(shutdown.clone())).await.is_ok() {
            return None;
        }
    }
}

async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which says the same.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn router(wiring: Wiring) -> Router {
    let answer = |route: &'static str, make: fn(&Wiring) -> Answer| {
        get(move |State(wiring): State<Wiring>, headers: HeaderMap| async move {
            let answer =
                if bytes(&headers) > HEADERS_MAX_BYTES { Answer::too_large() } else { make(&wiring) };
            METRICS.requests.of(&[&route, &answer.status.as_u16()]).inc();
            answer.into_response()
        })
    };
    Router::new()
        .route("/healthz", answer("/healthz", healthz))
        .route("/readyz", answer("/readyz", readyz))
        .route("/metrics", answer("/metrics", metrics))
        .with_state(wiring)
}

fn bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// What is sent back.
struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn json(good: bool, body: &impl serde::Serialize) -> Self {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Self { status, kind: "application/json", body: serde_json::to_string(body).unwrap_or_default() }
    }

    fn too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self { status, kind: "text/plain", body: "too many headers\n".to_owned() }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, self.kind), (header::CACHE_CONTROL, "no-store")];
        (self.status, headers, self.body).into_response()
    }
}

fn healthz(wiring: &Wiring) -> Answer {
    let health = health::alive(&wiring.heart, clock::monotonic());
    Answer::json(health.alive, &health)
}

fn readyz(wiring: &Wiring) -> Answer {
    let broker = METRICS.broker_connected.get() == 1;
    let backend = wiring.backend.get();
    let readiness = health::ready(backend, broker, &wiring.outbox.statements());
    Answer::json(readiness.ready, &readiness)
}

fn metrics(wiring: &Wiring) -> Answer {
    METRICS.events_waiting.of(&[&"all"]).set(i64::try_from(wiring.outbox.waiting()).unwrap_or(i64::MAX));
    health::note_process();
    match METRICS.encode() {
        Ok(body) => Answer { status: StatusCode::OK, kind: OPENMETRICS, body },
        Err(_) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Answer { status, kind: "text/plain", body: "the metrics cannot be written\n".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests;
