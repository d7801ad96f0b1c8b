//! The analysis: heads, geometry, rules and latches, and all state that is kept per camera.
//!
//! [`Analysis`] is plain: time is an argument, and a replay drives it by hand. [`spawn`] is the thread that
//! drives it live: it wakes on features or on the tick, so that a hung camera or backend is noticed by a
//! thread that is not hung. It never touches a disk or a socket.

mod observe;
mod reload;
mod shadow;
mod states;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;

pub use reload::{Order, Reconfigure};
pub use shadow::Shadow;
pub use states::Lesson;
use states::{Held, read_by};

use crate::clock::{self, Now, Timestamp, UtcMillis};
use crate::geometry::{self, Site, Tracks};
use crate::heads::{self, Head};
use crate::heartbeat::Pulse;
use crate::metrics::METRICS;
use crate::outbox::{Outbox, Statement};
use crate::retrieval;
use crate::rules::guard::Done;
use crate::rules::when::{self, LocalTime};
use crate::rules::{Guard, Latency, Memory, Rule, RuleMemory, RuleSettings};
use crate::slot::{HealthBoard, InputBoard, Latest, Slots};
use crate::types::command::{self, Action, Answer, Command, Refusal};
use crate::types::{
    CameraHealth, CameraId, CameraState, CameraStatus, ClassName, Distance, Evidence, Features, Frame,
    Happening, MetricScene, PairStatus, ProofStage, Reading, Reason, RuleStatus, Scene, Seen, Sighting,
    Snapshot, StageTimes, State, StateName, Transition, Trust, Verdict,
};
use crate::view::{Profile, View, ViewSettings};

/// How often the analysis looks at the time when no frame wakes it.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a reader may believe a state without hearing it again.
pub const VALID_FOR: Duration = Duration::from_secs(10);

/// How often every state is said again, so that `VALID_FOR` never ends while we run.
const RESAY: Duration = Duration::from_secs(4);

/// Over how long the rate of analysed frames is counted.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// One camera as the analysis needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraSetup {
    /// Its name.
    pub id: CameraId,
    /// Calibration, edges and pairs.
    pub site: Site,
    /// Its rules.
    pub rules: Vec<RuleSettings>,
    /// How its view is watched.
    pub view: ViewSettings,
    /// What commissioning measured of its view.
    pub profile: Option<Arc<Profile>>,
}

impl CameraSetup {
    /// Watches its view.
    fn watch(&self) -> View {
        let lens = self.site.calibration.as_ref().map(|calibration| calibration.camera.lens);
        let focal = lens.map(|lens| lens.fx_px / lens.width_px);
        View::new(self.view, self.profile.clone()).with_focal(focal)
    }
}

/// What there is to say after a step or a tick.
#[derive(Debug, Default)]
pub struct Output {
    /// What replaces what was said before.
    pub statements: Vec<Statement>,
    /// What happened.
    pub transitions: Vec<Transition>,
    /// What there is to see, after a frame.
    pub snapshot: Option<Snapshot>,
    /// All that must survive a restart, when any of it has changed.
    pub memory: Option<Memory>,
}

/// What the analysis looks at beside the frames.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Health of the cameras, as far as it was said.
    pub health: BTreeMap<CameraId, CameraHealth>,
    /// Frames dropped at each camera's slot since the start.
    pub dropped: BTreeMap<CameraId, u64>,
    /// Newest value of each outside topic.
    pub topics: BTreeMap<String, String>,
}

struct RuleRun {
    guard: Guard,
    rule: Box<dyn Rule>,
    said: State,
    /// How many alarms there were when the state was said.
    alarms: u64,
    since: UtcMillis,
    distance: Option<Distance>,
    /// What separation by speed asked for at that distance, metres.
    separation_m: Option<f64>,
    captured: Option<UtcMillis>,
    /// What was given out to be remembered.
    remembered: RuleMemory,
}

struct CameraRun {
    setup: CameraSetup,
    rules: Vec<RuleRun>,
    analysed: VecDeque<Timestamp>,
    newest: Option<Timestamp>,
    latency: Latency,
    said: Option<CameraStatus>,
    view: View,
    /// Things that are followed.
    tracks: Tracks,
    /// Taught states.
    states: BTreeMap<StateName, Held>,
    /// Pictures that were taken before are another camera's of the same name.
    born: Timestamp,
}

/// When and about which camera something is said.
struct Occasion<'a> {
    camera: &'a CameraId,
    utc: UtcMillis,
    /// Whether it is time to say everything again.
    resay: bool,
    /// How long the deciding frame took, when a frame decided.
    times: Option<StageTimes>,
}

/// The whole analysis of a daemon, or of a replay.
pub struct Analysis {
    zone: TimeZone,
    heads: Vec<Box<dyn Head>>,
    /// Classes that pairs speak of and no head finds.
    missing: BTreeSet<ClassName>,
    cameras: BTreeMap<CameraId, CameraRun>,
    resaid: Option<Timestamp>,
    /// Whether rules went of which something may be remembered.
    forgotten: bool,
}

impl Analysis {
    /// For these cameras. `zone` is the zone of time windows.
    pub fn new(
        zone: TimeZone,
        heads: Vec<Box<dyn Head>>,
        setups: Vec<CameraSetup>,
        start: UtcMillis,
    ) -> Self {
        let camera = |setup: CameraSetup| {
            let mut camera = CameraRun::new(setup, start);
            // Nothing was read before, so nothing is taken back.
            camera.follow_states(read_by(&heads), |_| false, start, &mut Output::default());
            (camera.setup.id.clone(), camera)
        };
        let cameras = setups.into_iter().map(camera).collect();
        Self { zone, heads, missing: BTreeSet::new(), cameras, resaid: None, forgotten: false }
    }

    /// The same without heads for these classes: pairs that speak of them are unknown, not calm.
    pub fn lacking(self, missing: BTreeSet<ClassName>) -> Self {
        Self { missing, ..self }
    }

    /// Takes up what was remembered of the rules. What is remembered of others is dropped.
    pub fn restore(&mut self, now: Now, mut memory: Memory) {
        for (id, camera) in &mut self.cameras {
            let mut rules = memory.remove(id).unwrap_or_default();
            for rule in &mut camera.rules {
                let settings = rule.guard.settings().clone();
                if let Some(memory) = rules.remove(&settings.id) {
                    *rule = RuleRun::restored(id, settings, memory, now);
                }
            }
        }
    }

    /// Does what is asked, or says why not.
    pub fn obey(&mut self, now: Now, command: &Command, around: &Surroundings) -> (Output, Answer) {
        let mut output = Output::default();
        let Action::Rule { camera: id, rule: rule_id, order } = &command.action else {
            self.look_around(now, around, &mut output, None);
            let rules = self
                .cameras
                .iter()
                .flat_map(|(id, camera)| camera.rules.iter().map(move |rule| rule.status(id, now.utc)));
            return (output, Ok(rules.collect()));
        };
        let Some(camera) = self.cameras.get_mut(id) else {
            return (output, Err(Refusal::NoCamera(id.clone())));
        };
        let Some(at) = camera.rules.iter().position(|rule| rule.guard.settings().id == *rule_id) else {
            return (output, Err(Refusal::NoRule(id.clone(), rule_id.clone())));
        };
        let rule = &mut camera.rules[at];
        let occasion = Occasion { camera: id, utc: now.utc, resay: false, times: None };
        let done = rule.guard.obey(now, *order, &command.by, command.via);
        if let Ok(Some(done)) = &done {
            rule.rule = rule.guard.settings().build();
            rule.tell(done.clone(), &occasion, &mut output);
        }
        self.look_around(now, around, &mut output, None);
        let status = self.cameras.get(id).and_then(|camera| Some(camera.rules.get(at)?.status(id, now.utc)));
        // Said also when nothing has changed, so that whoever shows what was asked for is put right.
        output.statements.extend(status.clone().map(Statement::Rule));
        (output, done.map(|_| status.into_iter().collect()))
    }

    /// Takes one frame's features.
    pub fn step(&mut self, now: Now, features: Features, around: &Surroundings) -> Output {
        let mut output = Output::default();
        let Some(camera) = self.cameras.get_mut(&features.frame.camera) else {
            return output;
        };
        if features.frame.captured < camera.born {
            return output;
        }
        let mut times = features.times;
        let started = clock::monotonic();
        let mut scene = see(&mut self.heads, &features);
        camera.look(&features.frame, &mut scene);
        let seen = clock::monotonic();
        let appearance = retrieval::appearance(&features, &scene);
        let site = &camera.setup.site;
        let mut metric = geometry::follow(&scene, site, &appearance.things, &mut camera.tracks);
        withhold(&mut metric, &camera.setup.site, &self.missing);
        let measured = clock::monotonic();
        times.heads = seen.since(started);
        times.geometry = measured.since(seen);
        let local = LocalTime::at(now.utc, &self.zone);
        camera.note_states(&scene);
        let states = camera.known_states(now.mono);
        camera.judge(now, &scene, &metric, times, |rule| {
            when::disarmed(&rule.when, &around.topics, &states, local)
        });
        camera.note(now.mono, scene.captured);
        times.rules = clock::monotonic().since(measured);

        for pair in &metric.pairs {
            output.statements.push(Statement::Pair(PairStatus {
                camera: metric.camera.clone(),
                pair: pair.pair.clone(),
                reading: pair.reading.clone(),
                captured: metric.captured_utc,
                ts: now.utc,
            }));
        }
        let id = features.frame.camera.clone();
        self.look_around(now, around, &mut output, Some((&id, times)));
        if let Some(camera) = self.cameras.get(&id) {
            let rules = camera.rules.iter().map(|rule| rule.status(&id, now.utc)).collect();
            let frame = features.frame;
            output.snapshot = Some(Snapshot { frame, scene, metric, appearance, rules, times });
        }
        output
    }

    /// Takes the news that a frame could not be inferred.
    pub fn fail(
        &mut self,
        now: Now,
        camera: &CameraId,
        captured: Timestamp,
        reason: Reason,
        around: &Surroundings,
    ) -> Output {
        if let Some(camera) = self.cameras.get_mut(camera)
            && captured >= camera.born
        {
            for rule in &mut camera.rules {
                rule.guard.observe(now.mono, captured, Verdict::NoEvidence(reason));
            }
        }
        self.tick(now, around)
    }

    /// Notes how old each camera's newest analysed frame is.
    fn note_ages(&self, now: Timestamp) {
        for (id, camera) in &self.cameras {
            if let Some(newest) = camera.newest {
                METRICS.frame_age.of(&[id]).set(now.since(newest).as_secs_f64());
            }
        }
    }

    /// Looks at the time, the cameras' health and the conditions.
    pub fn tick(&mut self, now: Now, around: &Surroundings) -> Output {
        let mut output = Output::default();
        self.look_around(now, around, &mut output, None);
        output
    }

    /// Says of every rule that nothing is known any more, because the daemon stops.
    pub fn stop(&mut self, now: Now) -> Output {
        let mut output = Output::default();
        for (id, camera) in &mut self.cameras {
            camera.end(id, now, &mut output);
        }
        output
    }

    fn look_around(
        &mut self,
        now: Now,
        around: &Surroundings,
        output: &mut Output,
        deciding: Option<(&CameraId, StageTimes)>,
    ) {
        let local = LocalTime::at(now.utc, &self.zone);
        let resay = self.resaid.is_none_or(|last| now.mono.since(last) >= RESAY);
        if resay {
            self.resaid = Some(now.mono);
        }
        for (id, camera) in &mut self.cameras {
            let fault = around.health.get(id).and_then(fault).or(camera.view.fault());
            let states = camera.known_states(now.mono);
            for rule in &mut camera.rules {
                let condition = when::disarmed(&rule.guard.settings().when, &around.topics, &states, local);
                let ended = rule.guard.tick(now, fault, condition);
                let times = deciding.filter(|(camera, _)| *camera == id).map(|(_, times)| times);
                let occasion = Occasion { camera: id, utc: now.utc, resay, times };
                if let Some(ended) = ended {
                    rule.tell(ended, &occasion, output);
                }
                rule.report(&occasion, output);
            }
            camera.report(id, now, around, resay, output);
            camera.report_states(id, now, resay, output);
        }
        self.remember(output);
    }

    /// Gives out all that must survive a restart, when any of it has changed.
    fn remember(&mut self, output: &mut Output) {
        let mut changed = std::mem::take(&mut self.forgotten);
        for rule in self.cameras.values_mut().flat_map(|camera| &mut camera.rules) {
            let memory = rule.guard.memory();
            changed |= memory != rule.remembered;
            rule.remembered = memory;
        }
        if !changed {
            return;
        }
        let rules = |camera: &CameraRun| {
            let worth = camera.rules.iter().filter(|rule| rule.remembered != RuleMemory::default());
            worth.map(|rule| (rule.guard.settings().id.clone(), rule.remembered.clone())).collect()
        };
        output.memory = Some(self.cameras.iter().map(|(id, camera)| (id.clone(), rules(camera))).collect());
    }
}

/// The reason why a camera's health alone makes its rules unknown.
fn fault(health: &CameraHealth) -> Option<Reason> {
    match health.state {
        CameraState::Live => None,
        CameraState::Connecting => Some(health.reason.unwrap_or(Reason::Connecting)),
        CameraState::Stalled => Some(health.reason.unwrap_or(Reason::Stalled)),
        CameraState::Backoff | CameraState::Refused => Some(health.reason.unwrap_or(Reason::ConnectionLost)),
        CameraState::Ended => Some(health.reason.unwrap_or(Reason::EndOfClip)),
    }
}

/// A pair of a class that no head finds is not measured, however calm that looks.
fn withhold(metric: &mut MetricScene, site: &Site, missing: &BTreeSet<ClassName>) {
    for reading in &mut metric.pairs {
        let pair = site.pairs.iter().find(|pair| pair.id == reading.pair);
        if pair.is_some_and(|pair| pair.classes().any(|class| missing.contains(class))) {
            reading.reading = Reading::Unavailable(Reason::HeadFailed);
        }
    }
}

/// What the heads see in one frame and in the closer looks at parts of it. A head that fails makes the scene untrusted.
pub fn see(heads: &mut [Box<dyn Head>], features: &Features) -> Scene {
    let frame = &features.frame;
    let mut scene = heads::empty_scene(features);
    let apply = |head: &mut Box<dyn Head>, features: &Features, scene: &mut Scene| {
        if let Err(error) = head.apply(features, scene) {
            tracing::debug!(camera = %frame.camera, seq = frame.seq, %error, "head failed");
            scene.trust = Trust::Untrusted(Reason::HeadFailed);
        }
    };
    heads.iter_mut().for_each(|head| apply(head, features, &mut scene));
    for closer in &features.closer {
        let mut part = heads::empty_scene(closer);
        heads.iter_mut().filter(|head| head.looks_closer()).for_each(|head| apply(head, closer, &mut part));
        heads::closer::adopt(&mut scene, part.things);
        if part.trust != Trust::Trusted {
            scene.trust = part.trust;
        }
    }
    scene
}

impl CameraRun {
    fn new(setup: CameraSetup, start: UtcMillis) -> Self {
        let rules = setup.rules.iter().map(|settings| RuleRun::new(settings.clone(), start)).collect();
        let view = setup.watch();
        Self {
            setup,
            rules,
            analysed: VecDeque::new(),
            newest: None,
            latency: Latency::default(),
            said: None,
            view,
            tracks: Tracks::default(),
            states: BTreeMap::new(),
            born: Timestamp::default(),
        }
    }

    /// A view that cannot be believed makes the scene untrusted, whatever the heads see in it.
    fn look(&mut self, frame: &Frame, scene: &mut Scene) {
        let before = self.view.fault();
        if let Trust::Untrusted(reason) = self.view.look(frame) {
            scene.trust = Trust::Untrusted(reason);
        }
        let camera = &self.setup.id;
        match self.view.fault() {
            Some(reason) if before.is_none() => {
                METRICS.view_faults.of(&[camera, &reason]).inc();
                let detail = self.view.drift().map(|drift| drift.to_string());
                tracing::warn!(%camera, seq = frame.seq, %reason, detail, "the view is no evidence any more");
            }
            None if before.is_some() => {
                tracing::info!(%camera, seq = frame.seq, "the view is evidence again");
            }
            _ => {}
        }
    }

    fn judge(
        &mut self,
        now: Now,
        scene: &Scene,
        metric: &MetricScene,
        times: StageTimes,
        disarmed: impl Fn(&RuleSettings) -> Option<String>,
    ) {
        self.latency.note(now.mono.since(metric.captured) + times.heads + times.geometry);
        for rule in &mut self.rules {
            let stale_after = rule.guard.settings().latch.stale_after;
            let latency = self.latency.p99(stale_after);
            let verdict = match scene.trust {
                Trust::Untrusted(reason) => Verdict::NoEvidence(reason),
                Trust::Trusted => rule.rule.judge(metric, latency),
            };
            let late = now.mono.since(metric.captured) > stale_after;
            // It came in time and was worked on for too long: that is ours, not the camera's.
            let verdict = if late && times.ingest < stale_after {
                Verdict::NoEvidence(Reason::Overloaded)
            } else {
                verdict
            };
            rule.guard.arm(disarmed(rule.guard.settings()));
            rule.guard.observe(now.mono, metric.captured, verdict);
            let reading = metric.pairs.iter().find(|pair| pair.pair == *rule.guard.settings().pair());
            rule.distance = match reading.map(|pair| &pair.reading) {
                Some(Reading::Measured(distance)) => Some(distance.clone()),
                _ => None,
            };
            let asked =
                rule.distance.as_ref().map(|distance| rule.guard.settings().separation_m(distance, latency));
            rule.separation_m = asked.flatten();
            rule.captured = Some(metric.captured_utc);
        }
    }

    fn note(&mut self, now: Timestamp, captured: Timestamp) {
        self.analysed.push_back(now);
        self.newest = self.newest.max(Some(captured));
    }

    fn report(&mut self, id: &CameraId, now: Now, around: &Surroundings, resay: bool, output: &mut Output) {
        while self.analysed.front().is_some_and(|time| now.mono.since(*time) > RATE_WINDOW) {
            self.analysed.pop_front();
        }
        let health = around.health.get(id);
        let status = CameraStatus {
            camera: id.clone(),
            state: health.map_or(CameraState::Connecting, |health| health.state),
            reason: health.map_or(Some(Reason::Starting), fault),
            detail: health
                .map(|health| health.detail.clone())
                .filter(|detail| !detail.is_empty())
                .or_else(|| self.view.drift().map(|drift| drift.to_string()))
                .unwrap_or_default(),
            analysed_fps: self.analysed.len() as f64 / RATE_WINDOW.as_secs_f64(),
            frame_age_s: self.newest.map(|newest| now.mono.since(newest).as_secs_f64()),
            dropped: around.dropped.get(id).copied().unwrap_or(0),
            connects: health.map_or(0, |health| health.connects),
            view: self.view.status(),
            ts: now.utc,
        };
        let changed = self.said.as_ref().is_none_or(|said| {
            (said.state, said.reason, &said.detail, said.view)
                != (status.state, status.reason, &status.detail, status.view)
        });
        if changed || resay {
            self.said = Some(status.clone());
            output.statements.push(Statement::Camera(status));
        }
    }
}

impl RuleRun {
    fn new(settings: RuleSettings, start: UtcMillis) -> Self {
        Self::of(Guard::new(settings), start)
    }

    /// A rule of which something is remembered. Says what becomes of limits that were set from afar.
    fn restored(camera: &CameraId, settings: RuleSettings, memory: RuleMemory, now: Now) -> Self {
        let set: Vec<_> = memory.limits.keys().copied().collect();
        let run =
            Self { remembered: memory.clone(), ..Self::of(Guard::restore(settings, memory, now), now.utc) };
        let (rule, kept) = (&run.guard.settings().id, &run.guard.memory().limits);
        for limit in set.iter().filter(|limit| !kept.contains_key(limit)) {
            tracing::warn!(%camera, %rule, "{limit} that was set from afar is dropped: the configuration says something else now");
        }
        if let Some(reason) = run.guard.off_by() {
            tracing::warn!(%camera, %rule, "the rule is still {reason}");
        }
        if run.guard.held().is_some() {
            tracing::info!(%camera, %rule, "the rule is still in its latched alarm");
        }
        run
    }

    fn of(guard: Guard, start: UtcMillis) -> Self {
        Self {
            rule: guard.settings().build(),
            said: guard.state(),
            alarms: guard.alarms(),
            guard,
            since: start,
            distance: None,
            separation_m: None,
            captured: None,
            remembered: RuleMemory::default(),
        }
    }

    fn status(&self, camera: &CameraId, ts: UtcMillis) -> RuleStatus {
        let settings = self.guard.settings();
        let (warning_m, alarm_m) = settings.limits_m();
        let evidence = self.guard.evidence();
        let is_fresh = evidence == Evidence::Fresh;
        RuleStatus {
            camera: camera.clone(),
            rule: settings.id.clone(),
            pair: settings.pair().clone(),
            state: self.guard.state(),
            evidence,
            distance: self.distance.clone().filter(|_| is_fresh),
            warning_m,
            alarm_m,
            held: self.guard.held().cloned(),
            armed: self.guard.is_armed(),
            shelved_until: self.guard.shelved_until(),
            separation_m: self.separation_m.filter(|_| is_fresh),
            since: self.since,
            ts,
            captured: self.captured,
            valid_for: VALID_FOR,
        }
    }

    /// Tells what somebody did. The state is still the one that was said; what follows from it is told next.
    fn tell(&mut self, done: Done, occasion: &Occasion<'_>, output: &mut Output) {
        let status = self.status(occasion.camera, occasion.utc);
        output.transitions.push(Transition {
            event_id: String::new(),
            seq: 0,
            what: done.what,
            from: self.said.clone(),
            status: RuleStatus { state: self.said.clone(), ..status },
            times: None,
            order: Some(done.order),
        });
    }

    /// Says the state when it changed, or when it is time to say it again. A change of its word is an event, and so
    /// is a new alarm while the one before is still held.
    fn report(&mut self, occasion: &Occasion<'_>, output: &mut Output) {
        let state = self.guard.state();
        let another = state == State::Alarm && self.guard.alarms() != self.alarms;
        self.alarms = self.guard.alarms();
        let event = state.word() != self.said.word() || another;
        if event {
            self.since = occasion.utc;
        }
        if event || state != self.said || occasion.resay {
            output.statements.push(Statement::Rule(self.status(occasion.camera, occasion.utc)));
        }
        if event {
            output.transitions.push(Transition {
                event_id: String::new(),
                seq: 0,
                what: Happening::of_change(&self.said, &state),
                from: self.said.clone(),
                status: self.status(occasion.camera, occasion.utc),
                times: occasion.times,
                order: None,
            });
        }
        self.said = state;
    }
}

/// What the analysis thread is connected to.
pub struct Wiring {
    /// Results of the inference thread.
    pub seen: Receiver<Vec<Seen>>,
    /// Health of the cameras.
    pub health: Arc<HealthBoard>,
    /// For the counts of dropped frames.
    pub slots: Arc<Slots>,
    /// Values of outside topics.
    pub inputs: Arc<InputBoard>,
    /// Where to say things.
    pub outbox: Arc<Outbox>,
    /// Where pictures of alarms are made.
    pub pictures: SyncSender<Sighting>,
    /// Where to show things.
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// What people ask.
    pub commands: Receiver<Command>,
    /// Where what must survive a restart is put down.
    pub memory: Arc<Latest<Memory>>,
    /// New configurations. The thread ends when nobody can give any more.
    pub orders: Receiver<Order>,
    /// What was taught anew.
    pub lessons: Receiver<Lesson>,
    /// The proof test's camera, when there is a proof test.
    pub shadow: Option<Shadow>,
    /// Beats on every wake-up.
    pub pulse: Pulse,
}

/// Starts the thread. It ends, and says of every rule that it is stopping, when the inference thread has ended or
/// nobody can give it orders any more (a hung inference thread does not end).
pub fn spawn(mut analysis: Analysis, mut wiring: Wiring) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("analysis".into()).spawn(move || {
        loop {
            let batch = match wiring.seen.recv_timeout(TICK) {
                Ok(batch) => batch,
                Err(RecvTimeoutError::Timeout) => vec![],
                Err(RecvTimeoutError::Disconnected) => break,
            };
            wiring.pulse.beat(clock::monotonic());
            match wiring.orders.try_recv() {
                Ok(order) => {
                    wiring.deliver(analysis.reconfigure(clock::now(), order.new));
                    // Whoever asked may have given up waiting.
                    let _ = order.done.try_send(());
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => break,
            }
            for lesson in wiring.lessons.try_iter() {
                wiring.deliver(analysis.teach(clock::now(), lesson));
            }
            let around = wiring.look(&analysis);
            for seen in batch {
                let now = clock::now();
                let Some(seen) = wiring.prove(now, seen) else { continue };
                let output = match seen {
                    Seen::Frame(features) => analysis.step(now, *features, &around),
                    Seen::Failed { camera, captured, reason } => {
                        METRICS.frames_dropped.of(&[&camera, &reason]).inc();
                        analysis.fail(now, &camera, captured, reason, &around)
                    }
                };
                wiring.deliver(output);
            }
            let now = clock::now();
            analysis.note_ages(now.mono);
            wiring.deliver(analysis.tick(now, &around));
            for command in wiring.commands.try_iter() {
                let (output, answer) = analysis.obey(clock::now(), &command, &around);
                log_command(&command, &answer);
                wiring.deliver(output);
                if let Some(reply) = command.reply {
                    // Whoever asked may have given up waiting.
                    let _ = reply.send(answer);
                }
            }
        }
        wiring.deliver(analysis.stop(clock::now()));
    })
}

impl Wiring {
    fn look(&self, analysis: &Analysis) -> Surroundings {
        let ids = || analysis.cameras.keys();
        Surroundings {
            health: ids().filter_map(|id| Some((id.clone(), self.health.get(id)?))).collect(),
            dropped: ids().map(|id| (id.clone(), self.slots.dropped(id))).collect(),
            topics: self.inputs.snapshot(),
        }
    }

    /// Takes what is the proof test's out of what was seen.
    fn prove(&mut self, now: Now, seen: Seen) -> Option<Seen> {
        let camera = match &seen {
            Seen::Frame(features) => &features.frame.camera,
            Seen::Failed { camera, .. } => camera,
        };
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| shadow.takes(camera)) else {
            return Some(seen);
        };
        match seen {
            Seen::Frame(features) => {
                if let Some(alarm) = shadow.step(now, *features) {
                    let event = self.outbox.push(alarm);
                    shadow.pushed(&event.event_id);
                }
            }
            Seen::Failed { reason, .. } => {
                shadow.say(ProofStage::Injected, Some(format!("the model failed: {reason}")));
            }
        }
        None
    }

    fn deliver(&self, output: Output) {
        observe::note(&output);
        let snapshot = output.snapshot.map(Arc::new);
        // First, because the events wait until it is on disk: a restart must not know less than was said.
        if let Some(memory) = output.memory {
            self.memory.put(memory);
        }
        for transition in output.transitions {
            log(&transition);
            let event = self.outbox.push(transition);
            if let Some(snapshot) = &snapshot {
                self.show(event, snapshot);
            }
        }
        for statement in output.statements {
            self.outbox.say(statement);
        }
        if snapshot.is_some() {
            self.snapshots.send_replace(snapshot);
        }
    }

    /// Has a picture made of an alarm that this frame decided.
    fn show(&self, event: Arc<Transition>, snapshot: &Arc<Snapshot>) {
        let begins = matches!(event.what, Happening::Enter | Happening::Escalate);
        if !begins || event.status.state != State::Alarm || event.status.camera != snapshot.frame.camera {
            return;
        }
        if self.pictures.try_send(Sighting { event, snapshot: snapshot.clone() }).is_err() {
            METRICS.pictures_dropped.of(&[&"busy"]).inc();
        }
    }
}

fn log_command(command: &Command, answer: &Answer) {
    let Action::Rule { camera, rule, order } = &command.action else { return };
    let by = &command.by;
    let action = match order {
        command::Order::Acknowledge => "acknowledge",
        command::Order::Shelve(_) => "shelve",
        command::Order::Unshelve => "unshelve",
        command::Order::Arm(true) => "arm",
        command::Order::Arm(false) => "disarm",
        command::Order::Limit(..) => "limit",
    };
    let result = if answer.is_ok() { "done" } else { "refused" };
    METRICS.commands.of(&[&action, &command.via, &result]).inc();
    match answer {
        Ok(_) => tracing::info!(%camera, %rule, %by, via = %command.via, ?order, "command"),
        Err(why) => tracing::warn!(%camera, %rule, %by, via = %command.via, ?order, "command refused: {why}"),
    }
}

fn log(transition: &Transition) {
    let status = &transition.status;
    let distance_m = status.distance.as_ref().map(|distance| (distance.nearest_m * 100.0).round() / 100.0);
    tracing::info!(
        camera = %status.camera,
        rule = %status.rule,
        from = transition.from.word(),
        to = status.state.word(),
        reason = status.state.reason(),
        distance_m,
        "transition"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Pair, PairEnd};
    use crate::rules::when::Condition;
    use crate::rules::{LatchSettings, ProximitySettings, RuleKind};
    use crate::types::{
        ChromaSiting, ClassName, ColorMatrix, ColorRange, EdgeId, Frame, Grid, PairId, PixelFormat,
        PixelTransform, Pixels, RuleId,
    };

    fn camera() -> CameraId {
        CameraId::new("dock").unwrap()
    }

    pub(super) fn setup(when: Vec<Condition>) -> CameraSetup {
        let pair = PairId::new("forklift_edge").unwrap();
        let to = PairEnd::Edge(EdgeId::new("dock_edge").unwrap());
        let rule = RuleSettings {
            id: RuleId::new("near_edge").unwrap(),
            kind: RuleKind::Proximity(ProximitySettings {
                pair: pair.clone(),
                warning_m: Some(2.0),
                alarm_m: 0.5,
                leave_warning_m: None,
                leave_alarm_m: 0.8,
                separation: None,
                alarm_contact: None,
            }),
            latch: LatchSettings {
                stale_after: Duration::from_secs(1),
                alarm_after: Duration::ZERO,
                clear_after: Duration::from_secs(1),
                latch: false,
            },
            shelve_max: Duration::from_secs(8 * 3600),
            when,
        };
        let pairs = vec![Pair { id: pair, from: ClassName::new("forklift").unwrap(), to }];
        CameraSetup {
            id: camera(),
            site: Site { pairs, ..Site::default() },
            rules: vec![rule],
            view: ViewSettings::default(),
            profile: None,
        }
    }

    pub(super) fn analysis(when: Vec<Condition>) -> Analysis {
        let setup = setup(when);
        Analysis::new(TimeZone::UTC, vec![], vec![setup], UtcMillis(0))
    }

    pub(super) fn at(ms: u64) -> Now {
        Now { mono: Timestamp::from_nanos(ms * 1_000_000), utc: UtcMillis(ms as i64) }
    }

    pub(super) fn features(ms: u64) -> Features {
        let transform = PixelTransform {
            source_width: 14,
            source_height: 14,
            input_width: 14,
            input_height: 14,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        Features {
            frame: Frame {
                camera: camera(),
                seq: 0,
                captured: at(ms).mono,
                captured_utc: UtcMillis(ms as i64),
                arrived: at(ms).mono,
                width: 14,
                height: 14,
                pixels: Pixels::Host { format: PixelFormat::I420, data: bytes::Bytes::new(), planes: vec![] },
                matrix: ColorMatrix::Bt709,
                range: ColorRange::Limited,
                siting: ChromaSiting::MPEG2,
            },
            transform,
            grid: Grid { rows: 1, cols: 1, patch_px: 14 },
            dim: 1,
            layers: vec![],
            cls: vec![0.0],
            dense: BTreeMap::new(),
            closer: vec![],
            times: StageTimes::default(),
        }
    }

    fn around(state: CameraState, reason: Option<Reason>) -> Surroundings {
        let health =
            CameraHealth { state, reason, detail: "detail".into(), since: Timestamp::default(), connects: 1 };
        Surroundings { health: BTreeMap::from([(camera(), health)]), ..Surroundings::default() }
    }

    fn states(output: &Output) -> Vec<State> {
        let rule = |statement: &Statement| match statement {
            Statement::Rule(status) => Some(status.state.clone()),
            _ => None,
        };
        output.statements.iter().filter_map(rule).collect()
    }

    #[test]
    fn everything_is_said_at_the_start_and_again_before_it_expires() {
        let mut analysis = analysis(vec![]);
        let calm = around(CameraState::Live, None);
        assert_eq!(states(&analysis.tick(at(0), &calm)), [State::Unknown(Reason::Starting)]);
        let said: usize = (1..100).map(|tick| states(&analysis.tick(at(tick * 100), &calm)).len()).sum();
        assert_eq!(said, 2, "at 4 and 8 s");
        assert!(RESAY * 2 < VALID_FOR);
    }

    #[test]
    fn without_calibration_it_stays_unknown() {
        let mut analysis = analysis(vec![]);
        let calm = around(CameraState::Live, None);
        let output = analysis.step(at(100), features(50), &calm);
        assert_eq!(states(&output), [State::Unknown(Reason::NotCalibrated)]);
        assert!(output.transitions.is_empty());
        assert!(output.snapshot.is_some());
    }

    #[test]
    fn the_cameras_fault_is_the_reason() {
        let mut analysis = analysis(vec![]);
        let lost = around(CameraState::Backoff, Some(Reason::ConnectionLost));
        assert_eq!(states(&analysis.tick(at(0), &lost)), [State::Unknown(Reason::ConnectionLost)]);
        let ended = around(CameraState::Ended, None);
        assert_eq!(states(&analysis.tick(at(100), &ended)), [State::Unknown(Reason::EndOfClip)]);
    }

    #[test]
    fn conditions_disarm_with_their_reason_and_stopping_is_said() {
        let docked = Condition::TopicIsNot {
            topic: "trailer".into(),
            value: "docked".into(),
            reason: "trailer docked".into(),
        };
        let mut analysis = analysis(vec![docked]);
        let mut around = around(CameraState::Live, None);
        around.topics.insert("trailer".into(), "docked".into());
        let output = analysis.tick(at(0), &around);
        assert_eq!(states(&output), [State::Disarmed("trailer docked".into())]);
        assert_eq!(output.transitions.len(), 1);
        assert_eq!(output.transitions[0].from.word(), "unknown");
        let output = analysis.stop(at(100));
        assert_eq!(states(&output), [State::Unknown(Reason::Stopping)]);
    }

    fn anew(cameras: Vec<CameraSetup>, fresh: &[CameraId]) -> Reconfigure {
        let fresh = fresh.iter().cloned().collect();
        Reconfigure { cameras, fresh, heads: vec![], missing: BTreeSet::new() }
    }

    #[test]
    fn a_pair_of_a_class_that_no_head_finds_is_unknown_and_not_calm() {
        let calm = around(CameraState::Live, None);
        let mut setup = setup(vec![]);
        let lens = geometry::Lens::from_horizontal_fov(14.0, 14.0, 1.0);
        let camera = geometry::camera::tests::camera_above_origin(lens);
        setup.site.calibration = Some(geometry::Calibration::exact(camera));
        setup.site.pairs[0].to = PairEnd::Class(ClassName::new("car").unwrap());
        let run = |missing: &[&str]| {
            let missing = missing.iter().map(|name| ClassName::new(name).unwrap()).collect();
            let mut analysis =
                Analysis::new(TimeZone::UTC, vec![], vec![setup.clone()], UtcMillis(0)).lacking(missing);
            let mut said = vec![];
            for ms in (100..3000).step_by(100) {
                said.extend(states(&analysis.step(at(ms + 50), features(ms), &calm)));
            }
            said.pop()
        };
        assert_eq!(run(&["car"]), Some(State::Unknown(Reason::HeadFailed)));
        assert_eq!(run(&["tree"]), Some(State::Clear), "nothing is there, and somebody looked");
    }

    fn asks(order: command::Order) -> Command {
        let rule = RuleId::new("near_edge").unwrap();
        Command::new(Action::Rule { camera: camera(), rule, order }, "ann", command::Via::Socket)
    }

    fn alarmed() -> Analysis {
        let mut analysis = analysis(vec![]);
        let mut setup = setup(vec![]);
        setup.rules[0].latch.latch = true;
        let cameras = vec![setup];
        analysis.reconfigure(at(0), anew(cameras, &[]));
        let too_near =
            Verdict::Evidence { raise: crate::types::Level::TooNear, hold: crate::types::Level::TooNear };
        let rule = &mut analysis.cameras.get_mut(&camera()).unwrap().rules[0];
        rule.guard.observe(at(100).mono, at(100).mono, too_near);
        analysis
    }

    fn told(output: &Output) -> Vec<(Happening, &'static str, &'static str)> {
        let word = |event: &Transition| (event.what, event.from.word(), event.status.state.word());
        output.transitions.iter().map(word).collect()
    }

    #[test]
    fn what_people_do_is_told_before_what_follows_from_it() {
        let calm = around(CameraState::Live, None);
        let mut analysis = alarmed();
        let output = analysis.tick(at(100), &calm);
        assert_eq!(told(&output), [(Happening::Enter, "unknown", "alarm")]);
        let memory = output.memory.unwrap();
        assert!(memory[&camera()].values().next().unwrap().held.is_some());
        assert!(analysis.tick(at(150), &calm).memory.is_none(), "nothing new to remember");

        let shelve = asks(command::Order::Shelve(Duration::from_secs(60)));
        let (output, answer) = analysis.obey(at(200), &shelve, &calm);
        assert_eq!(
            told(&output),
            [(Happening::Shelved, "alarm", "alarm"), (Happening::Disarmed, "alarm", "disarmed")]
        );
        assert_eq!(output.transitions[0].order.as_ref().unwrap().by, "ann");
        assert_eq!(answer.unwrap()[0].state.word(), "disarmed");
        let (output, _) = analysis.obey(at(300), &asks(command::Order::Unshelve), &calm);
        assert_eq!(
            told(&output),
            [(Happening::Unshelved, "disarmed", "disarmed"), (Happening::Enter, "disarmed", "alarm")]
        );
        let (output, _) = analysis.obey(at(400), &asks(command::Order::Acknowledge), &calm);
        assert_eq!(told(&output), [(Happening::Acknowledged, "alarm", "alarm")]);
        let (output, answer) = analysis.obey(at(500), &asks(command::Order::Unshelve), &calm);
        assert_eq!((told(&output), answer), (vec![], Err(Refusal::NotShelved)));
        assert_eq!(states(&output).len(), 1, "whoever shows it is put right");
    }

    #[test]
    fn a_held_alarm_comes_back_from_memory_and_through_a_reload() {
        let calm = around(CameraState::Live, None);
        let mut before = alarmed();
        let memory = before.tick(at(100), &calm).memory.unwrap();
        let mut setup = setup(vec![]);
        setup.rules[0].latch.latch = true;
        let mut after = Analysis::new(TimeZone::UTC, vec![], vec![setup.clone()], UtcMillis(0));
        after.restore(at(200), memory);
        let output = after.tick(at(200), &calm);
        assert_eq!((states(&output), told(&output)), (vec![State::Alarm], vec![]), "said, and no new event");

        let RuleKind::Proximity(settings) = &mut setup.rules[0].kind;
        settings.alarm_m = 0.6;
        let cameras = vec![setup];
        let output = after.reconfigure(at(300), anew(cameras, &[camera()]));
        assert_eq!((states(&output).last(), told(&output)), (Some(&State::Alarm), vec![]));
        after.tick(at(300), &calm);
        let list = Command::new(Action::List, "", command::Via::Socket);
        assert_eq!(after.obey(at(300), &list, &calm).1.unwrap()[0].state, State::Alarm);
    }

    #[test]
    fn nobody_is_asked_about_what_is_not_there() {
        let calm = around(CameraState::Live, None);
        let mut analysis = analysis(vec![]);
        let mut command = asks(command::Order::Arm(false));
        let Action::Rule { rule, .. } = &mut command.action else { panic!() };
        *rule = RuleId::new("other").unwrap();
        let (_, answer) = analysis.obey(at(0), &command, &calm);
        assert!(matches!(answer, Err(Refusal::NoRule(..))));
        let list = Command::new(Action::List, "", command::Via::Socket);
        assert_eq!(analysis.obey(at(0), &list, &calm).1.unwrap().len(), 1);
    }

    #[test]
    fn a_failed_frame_is_no_evidence() {
        let mut analysis = analysis(vec![]);
        let calm = around(CameraState::Live, None);
        let output = analysis.fail(at(100), &camera(), at(50).mono, Reason::BackendFailed, &calm);
        assert_eq!(states(&output), [State::Unknown(Reason::BackendFailed)]);
    }
}
