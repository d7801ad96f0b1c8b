//! The sinks that need no broker, as their clients see them: a PLC that speaks Modbus TCP by bare frames, and a web
//! server that is down, slow or wrong.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "outputs/modbus.rs"]
mod modbus;
#[path = "outputs/webhook.rs"]
mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use standoff::clock::UtcMillis;
use standoff::outbox::{Outbox, Statement};
use standoff::types::{CameraId, Evidence, Happening, PairId, Reason, RuleId, RuleStatus, State, Transition};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

fn status(state: State, ts: i64) -> RuleStatus {
    let evidence = match &state {
        State::Unknown(reason) => Evidence::None(*reason),
        _ => Evidence::Fresh,
    };
    RuleStatus {
        camera: CameraId::new("dock").unwrap(),
        rule: RuleId::new("edge").unwrap(),
        pair: PairId::new("p").unwrap(),
        state,
        evidence,
        distance: None,
        warning_m: Some(2.0),
        alarm_m: 0.5,
        held: None,
        armed: true,
        shelved_until: None,
        separation_m: None,
        since: UtcMillis(1),
        ts: UtcMillis(ts),
        captured: None,
        valid_for: Duration::from_secs(2),
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !condition().await {
            ticks.tick().await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "never: {what}");
}

fn push(outbox: &Outbox, count: usize) {
    for _ in 0..count {
        outbox.push(Transition {
            event_id: String::new(),
            seq: 0,
            what: Happening::Enter,
            from: State::Unknown(Reason::Stale),
            status: status(State::Alarm, 1),
            times: None,
            order: None,
        });
    }
}

fn say(outbox: &Arc<Outbox>, state: State, ts: i64) {
    outbox.say(Statement::Rule(status(state, ts)));
}
