//! The Modbus TCP sink: a server that a PLC reads, and that needs no broker. Tokio tasks; nothing can be written.
//!
//! Everything is de-energised to alarm: a coil is 1 only while its rule is `Clear` by fresh evidence, the statement
//! is younger than its `valid_for`, and the analysis moves. Start, stop, a lost camera, a hung thread and what is
//! not configured are 0. The heartbeat register counts rounds of the pipeline, not of this task.
//!
//! docs/modbus.md has the map. What an address means never changes when rules are added: addresses are configured.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response};

use super::trouble::{Line, Trouble};
use crate::clock::{self, Timestamp};
use crate::heartbeat::{Heart, Part};
use crate::outbox::{Outbox, Statement};
use crate::types::{CameraId, Evidence, RuleId, RuleStatus, State};

/// Clients at a time. More are turned away.
const CLIENTS_MAX: usize = 8;
/// A client that neither asks nor takes its answer for so long (and up to twice that) is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often statements and heartbeats are looked at.
const TICK: Duration = Duration::from_millis(100);
/// The analysis wakes every 100 ms. When it has not for so long, nothing it said counts.
const ANALYSIS_SILENCE_MAX: Duration = Duration::from_secs(1);
/// Pause before another attempt to listen.
const LISTEN_PAUSE: Duration = Duration::from_secs(2);

/// Largest address of a rule.
pub const ADDRESS_MAX: u16 = 999;
/// What the first register says: goes up when a register changes its meaning.
const MAP_VERSION: u16 = 1;
/// First register of the rule at address 0, and how many each rule has.
const RULES_FROM: u16 = 100;
const RULE_REGISTERS: u16 = 10;
/// What is not known, or too large.
const NONE: u16 = u16::MAX;

/// Where the server listens and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusSettings {
    /// Address and port.
    pub listen: SocketAddr,
    /// Address of each rule: its coil, and its block of registers.
    pub rules: BTreeMap<u16, (CameraId, RuleId)>,
}

/// What is known of a rule.
#[derive(Debug, Clone)]
struct Known {
    status: RuleStatus,
    /// When it was first seen here.
    heard: Timestamp,
}

/// What a PLC can read.
#[derive(Debug)]
struct Image {
    rules: BTreeMap<u16, (CameraId, RuleId)>,
    known: BTreeMap<(CameraId, RuleId), Known>,
    rounds: u16,
    /// When the inference and the analysis had beaten at the last count.
    beats: Option<(Timestamp, Timestamp)>,
    silence_ms: u16,
    stopping: bool,
}

impl Image {
    fn new(rules: BTreeMap<u16, (CameraId, RuleId)>) -> Self {
        let known = BTreeMap::new();
        Self { rules, known, rounds: 0, beats: None, silence_ms: NONE, stopping: false }
    }

    /// Takes the present statements. One that is the same as before keeps the time at which it was first seen.
    fn take(&mut self, statements: Vec<Statement>, now: Timestamp) {
        let mut known = BTreeMap::new();
        for statement in statements {
            let Statement::Rule(status) = statement else { continue };
            let name = (status.camera.clone(), status.rule.clone());
            let heard = match self.known.get(&name) {
                Some(before) if before.status == status => before.heard,
                _ => now,
            };
            known.insert(name, Known { status, heard });
        }
        self.known = known;
    }

    /// Counts a round when both the inference and the analysis have beaten since the last one.
    fn beat(&mut self, infer: Option<Duration>, analysis: Option<Duration>, now: Timestamp) {
        let (Some(infer), Some(analysis)) = (infer, analysis) else {
            self.silence_ms = NONE;
            return;
        };
        let longest = infer.max(analysis);
        self.silence_ms = u16::try_from(longest.as_millis()).unwrap_or(NONE);
        if longest == Duration::MAX {
            return;
        }
        let new = (now.minus(infer), now.minus(analysis));
        match self.beats {
            Some((infer, analysis)) if new.0 <= infer || new.1 <= analysis => {}
            _ => {
                self.beats = Some(new);
                self.rounds = self.rounds.wrapping_add(1);
            }
        }
    }

    /// The statement on the rule at an address, while it can be believed.
    fn fresh(&self, address: u16, moves: bool, now: Timestamp) -> Option<&Known> {
        let known = self.known.get(self.rules.get(&address)?)?;
        let believed = moves && !self.stopping && now.since(known.heard) < known.status.valid_for;
        believed.then_some(known)
    }

    fn coil(&self, address: u16, moves: bool, now: Timestamp) -> bool {
        self.fresh(address, moves, now).is_some_and(|known| {
            known.status.state == State::Clear && known.status.evidence == Evidence::Fresh
        })
    }

    fn register(&self, register: u16, moves: bool, now: Timestamp) -> u16 {
        if let Some(in_rules) = register.checked_sub(RULES_FROM) {
            return self.rule_register(in_rules / RULE_REGISTERS, in_rules % RULE_REGISTERS, moves, now);
        }
        match register {
            0 => MAP_VERSION,
            1 => self.rounds,
            2 => self.silence_ms,
            3 => u16::try_from(self.rules.len()).unwrap_or(NONE),
            _ => 0,
        }
    }

    fn rule_register(&self, address: u16, offset: u16, moves: bool, now: Timestamp) -> u16 {
        let known = self.fresh(address, moves, now);
        let status = known.map(|known| &known.status);
        let distance = status.and_then(|status| status.distance.as_ref());
        match offset {
            0 => status.map_or(0, |status| code(&status.state)),
            1 => status.map_or(0, |status| u16::from(status.evidence == Evidence::Fresh)),
            2 => millimetres(distance.map(|distance| distance.nearest_m)),
            3 => millimetres(distance.map(|distance| distance.lower_m)),
            4 => millimetres(distance.map(|distance| distance.upper_m)),
            5 => known.map_or(NONE, |known| {
                u16::try_from(now.since(known.heard).as_millis() / 100).unwrap_or(NONE)
            }),
            6 => millimetres(status.map(|status| status.alarm_m)),
            7 => millimetres(status.and_then(|status| status.warning_m)),
            8 => u16::from(status.is_some_and(|status| status.held.is_some())),
            _ => 0,
        }
    }
}

/// A state as a number. 0 is the one that must be what nobody wrote.
fn code(state: &State) -> u16 {
    match state {
        State::Unknown(_) => 0,
        State::Clear => 1,
        State::Warning => 2,
        State::Alarm => 3,
        State::Disarmed(_) => 4,
    }
}

/// Whole millimetres, rounded down so that nothing seems farther than it is; [`NONE`] when not known, one less when
/// it is more than that.
fn millimetres(metres: Option<f64>) -> u16 {
    match metres {
        Some(metres) if metres.is_finite() => {
            let whole = (metres.max(0.0) * 1000.0).floor().min(f64::from(NONE - 1));
            // In range by the line above.
            whole as u16
        }
        _ => NONE,
    }
}

/// Answers requests; one for all clients.
struct Plc {
    image: Mutex<Image>,
    heart: Arc<Heart>,
}

impl Plc {
    fn image(&self) -> std::sync::MutexGuard<'_, Image> {
        // Nothing here can panic while it holds the lock, and an image is always whole.
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<'_>, now: Timestamp) -> Result<Response, ExceptionCode> {
        let moves = self.heart.silence(Part::Analysis, now).is_some_and(|s| s <= ANALYSIS_SILENCE_MAX);
        let image = self.image();
        let bits = |from: u16, count: u16| -> Result<Vec<bool>, ExceptionCode> {
            let range = range(from, count, 2000, ADDRESS_MAX)?;
            Ok(range.map(|address| image.coil(address, moves, now)).collect())
        };
        let words = |from: u16, count: u16| -> Result<Vec<u16>, ExceptionCode> {
            let last = RULES_FROM + ADDRESS_MAX * RULE_REGISTERS + RULE_REGISTERS - 1;
            let range = range(from, count, 125, last)?;
            Ok(range.map(|register| image.register(register, moves, now)).collect())
        };
        match *request {
            Request::ReadCoils(from, count) => bits(from, count).map(Response::ReadCoils),
            Request::ReadDiscreteInputs(from, count) => bits(from, count).map(Response::ReadDiscreteInputs),
            Request::ReadInputRegisters(from, count) => words(from, count).map(Response::ReadInputRegisters),
            Request::ReadHoldingRegisters(from, count) => {
                words(from, count).map(Response::ReadHoldingRegisters)
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

/// The addresses that are asked for; `most` of them at once by the protocol.
fn range(
    from: u16,
    count: u16,
    most: u16,
    last: u16,
) -> Result<std::ops::RangeInclusive<u16>, ExceptionCode> {
    if count == 0 || count > most {
        return Err(ExceptionCode::IllegalDataValue);
    }
    match from.checked_add(count - 1) {
        Some(end) if end <= last => Ok(from..=end),
        _ => Err(ExceptionCode::IllegalDataAddress),
    }
}

/// One client's side of [`Plc`]. Holds its place among the clients.
struct Client {
    plc: Arc<Plc>,
    _place: OwnedSemaphorePermit,
}

impl tokio_modbus::server::Service for Client {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.plc.answer(&request, clock::monotonic()))
    }
}

/// Starts the server, on the present tokio runtime. It ends when `shutdown` becomes true or loses its sender; until
/// then a port that is taken is tried again.
pub fn spawn(
    settings: ModbusSettings,
    outbox: Arc<Outbox>,
    heart: Arc<Heart>,
    shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(run(settings, outbox, heart, shutdown))
}

async fn run(
    settings: ModbusSettings,
    outbox: Arc<Outbox>,
    heart: Arc<Heart>,
    mut shutdown: watch::Receiver<bool>,
) {
    let plc = Arc::new(Plc { image: Mutex::new(Image::new(settings.rules)), heart });
    tokio::select! {
        () = serve(settings.listen, plc.clone()) => {}
        () = follow(&plc, &outbox) => {}
        // An error means that whoever could say so is gone, which says the same.
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    // The connections are closed with the server; what is still being answered says 0.
    plc.image().stopping = true;
}

/// Keeps the image at what is said and beaten.
async fn follow(plc: &Plc, outbox: &Outbox) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = clock::monotonic();
        let statements = outbox.statements();
        let silence = |part| plc.heart.silence(part, now);
        let (infer, analysis) = (silence(Part::Infer), silence(Part::Analysis));
        let mut image = plc.image();
        image.take(statements, now);
        image.beat(infer, analysis, now);
    }
}

async fn serve(address: SocketAddr, plc: Arc<Plc>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut trouble = Trouble::default();
    loop {
        let problem = match TcpListener::bind(address).await {
            Ok(listener) => {
                let _ = trouble.connected(clock::monotonic());
                tracing::info!(%address, "Modbus TCP is served");
                let (plc, places) = (plc.clone(), places.clone());
                let welcome = move |stream: TcpStream, client: SocketAddr| {
                    let place = places.clone().try_acquire_owned();
                    if place.is_err() {
                        tracing::warn!(%client, "a Modbus client is turned away: there are {CLIENTS_MAX} already");
                    }
                    let plc = plc.clone();
                    let guest = place
                        .ok()
                        .map(|place| (Client { plc, _place: place }, Impatient::new(stream, IDLE_MAX)));
                    ready(Ok(guest))
                };
                let failed = |error: io::Error| tracing::debug!(%error, "a Modbus client left");
                match Server::new(listener).serve(&welcome, failed).await {
                    Ok(()) => return,
                    Err(error) => format!("no Modbus client can be taken at {address}: {error}"),
                }
            }
            Err(error) => {
                format!("Modbus cannot be served at {address}: {error}; check modbus.listen")
            }
        };
        match trouble.lost(clock::monotonic(), &problem) {
            Some(Line::New) => tracing::error!("{problem}; trying again"),
            Some(Line::Still { attempts, .. }) => tracing::error!(attempts, "still: {problem}"),
            _ => {}
        }
        // Only time can end this wait.
        let _ = timeout(LISTEN_PAUSE, std::future::pending::<()>()).await;
    }
}

/// A stream that fails when nothing was read or written for a while: a client that is gone without a word must not
/// keep its place, and one that does not read must not be waited for.
struct Impatient {
    stream: TcpStream,
    ticks: Interval,
    moved: bool,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        let mut ticks = interval(patience);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, ticks, moved: true }
    }

    /// What the stream says, or that it took too long.
    fn judge<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.moved = true;
            return polled;
        }
        while self.ticks.poll_tick(context).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Poll::Pending
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.judge(polled, context)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::{PairId, Reason};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn says(state: State, evidence: Evidence, ts: i64) -> Statement {
        Statement::Rule(RuleStatus {
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
            since: UtcMillis(0),
            ts: UtcMillis(ts),
            captured: None,
            valid_for: Duration::from_secs(10),
        })
    }

    fn image() -> Image {
        let rule = (CameraId::new("dock").unwrap(), RuleId::new("edge").unwrap());
        Image::new(BTreeMap::from([(7, rule)]))
    }

    #[test]
    fn a_coil_is_energised_only_in_a_fresh_clear_of_a_moving_pipeline() {
        let mut image = image();
        assert!(!image.coil(7, true, at(0)), "nothing was said");
        image.take(vec![says(State::Clear, Evidence::Fresh, 1)], at(1000));
        assert!(image.coil(7, true, at(1000)));
        assert!(!image.coil(6, true, at(1000)), "an address that nobody has");
        assert!(!image.coil(7, false, at(1000)), "the analysis does not move");
        image.take(vec![says(State::Clear, Evidence::Fresh, 1)], at(9000));
        assert!(image.coil(7, true, at(10_999)));
        assert!(
            !image.coil(7, true, at(11_000)),
            "the statement is as old as it may be: it was not said again"
        );
        image.take(vec![says(State::Clear, Evidence::Fresh, 2)], at(11_100));
        assert!(image.coil(7, true, at(11_100)), "said again");
        for state in
            [State::Unknown(Reason::Stale), State::Warning, State::Alarm, State::Disarmed("night".into())]
        {
            image.take(vec![says(state.clone(), Evidence::Fresh, 3)], at(12_000));
            assert!(!image.coil(7, true, at(12_000)), "{state:?}");
        }
        image.take(vec![says(State::Clear, Evidence::None(Reason::Stale), 4)], at(12_000));
        assert!(!image.coil(7, true, at(12_000)), "no evidence");
        image.take(vec![], at(12_000));
        assert!(!image.coil(7, true, at(12_000)), "the rule is gone");
        image.take(vec![says(State::Clear, Evidence::Fresh, 5)], at(13_000));
        image.stopping = true;
        assert!(!image.coil(7, true, at(13_000)), "the daemon stops");
    }

    #[test]
    fn registers_say_the_state_and_the_distances() {
        let mut image = image();
        let block = |image: &Image, now| -> Vec<u16> {
            (170..180).map(|register| image.register(register, true, at(now))).collect()
        };
        assert_eq!(block(&image, 0), [0, 0, NONE, NONE, NONE, NONE, NONE, NONE, 0, 0]);
        image.take(vec![says(State::Alarm, Evidence::Fresh, 1)], at(1000));
        assert_eq!(block(&image, 1550), [3, 1, NONE, NONE, NONE, 5, 500, 2000, 0, 0]);
        assert_eq!(block(&image, 11_000), [0, 0, NONE, NONE, NONE, NONE, NONE, NONE, 0, 0]);
        assert_eq!((image.register(0, true, at(0)), image.register(3, true, at(0))), (1, 1));
    }

    #[test]
    fn metres_become_millimetres_that_are_never_too_large() {
        assert_eq!(millimetres(Some(1.2349)), 1234);
        assert_eq!(millimetres(Some(-0.1)), 0);
        assert_eq!(millimetres(Some(70.0)), NONE - 1);
        assert_eq!((millimetres(None), millimetres(Some(f64::NAN))), (NONE, NONE));
    }

    #[test]
    fn the_heartbeat_counts_only_when_inference_and_analysis_both_move() {
        let mut image = image();
        let ms = |ms| Some(Duration::from_millis(ms));
        image.beat(None, ms(0), at(100));
        assert_eq!((image.rounds, image.silence_ms), (0, NONE));
        image.beat(ms(50), ms(20), at(1000));
        assert_eq!((image.rounds, image.silence_ms), (1, 50));
        image.beat(ms(150), ms(10), at(1100));
        assert_eq!((image.rounds, image.silence_ms), (1, 150), "the inference has not beaten");
        image.beat(ms(5), ms(110), at(1200));
        assert_eq!(image.rounds, 2, "both have, each in its time");
        image.beat(ms(5), ms(210), at(1300));
        assert_eq!(image.rounds, 2, "the analysis has not");
        image.beat(Some(Duration::MAX), ms(1), at(1400));
        assert_eq!((image.rounds, image.silence_ms), (2, NONE), "the inference has ended");
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(range(0, 0, 125, 10), Err(ExceptionCode::IllegalDataValue));
        assert_eq!(range(0, 126, 125, 1000), Err(ExceptionCode::IllegalDataValue));
        assert_eq!(range(5, 7, 125, 10), Err(ExceptionCode::IllegalDataAddress));
        assert_eq!(range(u16::MAX, 2, 125, u16::MAX), Err(ExceptionCode::IllegalDataAddress));
        assert_eq!(range(5, 6, 125, 10), Ok(5..=10));
    }
}
