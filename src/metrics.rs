//! Counters of this process, which anyone may bump from any thread: atomics and short read locks, never I/O.
//! The console writes them out for Prometheus (`/metrics`); `docs/observability.md` says what each means.
//!
//! Labels are names of the configuration (camera, rule) or words that the code chooses (reason, stage), never
//! what came from outside, so their number is bounded. A camera that a reload takes away is forgotten.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};
use std::sync::atomic::AtomicU64;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// A gauge of any number.
pub type GaugeF64 = Gauge<f64, AtomicU64>;

/// Names and values of a family's labels, in the family's order.
type LabelSet = Vec<(&'static str, String)>;

/// The words of a rule's state, of which one is 1 and the others are 0.
const STATES: [&str; 5] = ["unknown", "clear", "warning", "alarm", "disarmed"];

/// Upper bounds of the histograms in seconds: from the geometry's tenths of a millisecond to a frame that nobody
/// should wait for. 1 s (the default `stale_after`) and 2 s (what is promised for a fault) are bounds, so that
/// the share beyond them is exact.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Upper bounds of the histogram of batch sizes: what GPU backends compile for.
const BATCHES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// A metric with labels that remembers which label sets it has, so that those of a camera can be forgotten.
pub struct Labelled<M, C = fn() -> M> {
    names: &'static [&'static str],
    family: Family<LabelSet, M, C>,
    known: Mutex<BTreeSet<LabelSet>>,
}

impl<M, C: MetricConstructor<M> + Clone> Labelled<M, C> {
    fn new(names: &'static [&'static str], constructor: C) -> Self {
        Self { names, family: Family::new_with_constructor(constructor), known: Mutex::default() }
    }
}

impl<M: Clone, C: MetricConstructor<M>> Labelled<M, C> {
    /// The metric with these values of its labels, in the order in which the field says them.
    pub fn of(&self, values: &[&dyn Display]) -> M {
        let labels: LabelSet =
            self.names.iter().zip(values).map(|(name, value)| (*name, value.to_string())).collect();
        if let Some(metric) = self.family.get(&labels) {
            return metric.clone();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(labels.clone());
        self.family.get_or_create_owned(&labels)
    }

    /// Takes away every metric in which the label has this value.
    fn forget(&self, name: &str, value: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|labels| {
            let gone = labels.iter().any(|(key, set)| *key == name && set == value);
            if gone {
                self.family.remove(labels);
            }
            !gone
        });
    }
}

/// Everything that is counted. Label names stand beside each family, in the order of [`Labelled::of`].
pub struct Metrics {
    registry: Registry,
    names: Vec<String>,

    /// Age of the newest analysed frame, seconds; grows while nothing comes. `camera`
    pub frame_age: Labelled<GaugeF64>,
    /// Frames analysed. `camera`
    pub frames: Labelled<Counter>,
    /// Frames that were not analysed. `camera`, `reason`: `replaced` (a newer one came before the backend was
    /// free), `backend_failed`, or another word of the place that drops.
    pub frames_dropped: Labelled<Counter>,
    /// Duration of a stage, seconds. `stage`: fields of `types::StageTimes`.
    pub stage: Labelled<Histogram>,
    /// 1 while the camera is live. `camera`
    pub camera_live: Labelled<Gauge>,
    /// Connections to a camera that ended or failed. `camera`, `reason`
    pub camera_reconnects: Labelled<Counter>,
    /// Times at which the view of a camera stopped to be evidence. `camera`, `reason`
    pub view_faults: Labelled<Counter>,

    /// 1 for the state that the rule is in. `camera`, `rule`, `state`
    pub rule_state: Labelled<Gauge>,
    /// Changes of a rule's state. `camera`, `rule`, `state`: the state entered.
    pub transitions: Labelled<Counter>,
    /// Commands taken. `action`, `via`, `result`: `done`, `refused`
    pub commands: Labelled<Counter>,

    /// From the capture of the deciding picture until a subscriber's side acknowledged the event, seconds. `sink`
    pub delivery: Labelled<Histogram>,
    /// Events acknowledged. `sink`
    pub events_delivered: Labelled<Counter>,
    /// Events that wait for their acknowledgement. `sink`
    pub events_waiting: Labelled<Gauge>,
    /// Events that were lost. `sink`, `reason`
    pub events_dropped: Labelled<Counter>,
    /// Repeats that were dropped, of events that the broker may have forgotten. `sink`
    pub events_not_resent: Labelled<Counter>,
    /// Events sent to the `late` topic. `sink`
    pub events_late: Labelled<Counter>,
    /// Events sent once more, because the other side may have forgotten them. `sink`
    pub events_resent: Labelled<Counter>,
    /// Bytes of the journal on disk that hold something that is still needed.
    pub journal_bytes: Gauge,
    /// 1 while events are not written to disk.
    pub journal_degraded: Gauge,
    /// 1 while the broker is connected.
    pub broker_connected: Gauge,
    /// Connections to the broker that ended or failed. `reason`
    pub broker_reconnects: Labelled<Counter>,

    /// Loads of the configuration. `result`: `applied`, `rejected`
    pub reloads: Labelled<Counter>,
    /// Proof tests. `result`: `ok` or the stage at which it stopped
    pub proof_tests: Labelled<Counter>,
    /// From injection to acknowledgement of the last proof test that arrived, seconds.
    pub proof_test: GaugeF64,
    /// 1 when the last proof test arrived, 0 when it did not, -1 before the first.
    pub proof_test_ok: Gauge,
    /// Pictures stored.
    pub pictures: Counter,
    /// Pictures that were not made or not stored. `reason`
    pub pictures_dropped: Labelled<Counter>,
    /// Records written to the audit log.
    pub audit_records: Counter,
    /// Records that the audit log lost. They are stated in the log itself.
    pub audit_dropped: Counter,
    /// 1 while the audit log cannot be written.
    pub audit_degraded: Gauge,
    /// 1 while the states of the rules cannot be written, so that a restart would not find the newest.
    pub memory_degraded: Gauge,

    /// 1 for the reason for which a better backend, which was expected, does not run. `reason`: `backend::choice::REASONS`
    pub backend_degraded: Labelled<Gauge>,
    /// Frames that went through the model together.
    pub batch_frames: Histogram,
    /// How long a batch was held back for cameras that were due, seconds.
    pub batch_wait: Histogram,

    /// Requests answered by the console. `route`, `status`
    pub requests: Labelled<Counter>,
    /// Resident memory of the process, bytes.
    pub process_memory: Gauge,
    /// Open files of the process.
    pub process_files: Gauge,
    /// Threads of the process.
    pub process_threads: Gauge,
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A registry with the house's prefix, and what was registered.
struct Register(Registry, Vec<String>);

impl Register {
    fn plain<M: Clone + EncodeMetric + Send + Sync + Debug + 'static>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        metric: M,
    ) -> M {
        let unit_name = unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        self.1.push(format!("standoff_{name}{unit_name}"));
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, metric.clone()),
            None => self.0.register(name, help, metric.clone()),
        }
        metric
    }

    fn family<M>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        labels: &'static [&'static str],
        help: &str,
        constructor: fn() -> M,
    ) -> Labelled<M>
    where
        M: Clone + EncodeMetric + TypedMetric + Send + Sync + Debug + 'static,
    {
        let labelled = Labelled::new(labels, constructor);
        self.plain(name, unit, help, labelled.family.clone());
        labelled
    }

    fn counter(&mut self, name: &str, labels: &'static [&'static str], help: &str) -> Labelled<Counter> {
        self.family(name, None, labels, help, Counter::default)
    }

    fn gauge(&mut self, name: &str, labels: &'static [&'static str], help: &str) -> Labelled<Gauge> {
        self.family(name, None, labels, help, Gauge::default)
    }

    fn seconds(&mut self, name: &str, labels: &'static [&'static str], help: &str) -> Labelled<Histogram> {
        self.family(name, Some(Unit::Seconds), labels, help, histogram)
    }
}

impl Metrics {
    fn new() -> Self {
        let mut r = Register(Registry::with_prefix("standoff"), vec!["standoff_build".to_owned()]);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
        r.0.register("build", "The running program", build);
        let s = || Some(Unit::Seconds);
        let metrics = Self {
            frame_age: r.family(
                "frame_age",
                s(),
                &["camera"],
                "Age of the newest analysed frame",
                GaugeF64::default,
            ),
            frames: r.counter("frames", &["camera"], "Frames analysed"),
            frames_dropped: r.counter("frames_dropped", &["camera", "reason"], "Frames not analysed"),
            stage: r.seconds("stage", &["stage"], "Duration of a stage of the work on one frame"),
            camera_live: r.gauge("camera_live", &["camera"], "1 while the camera is live"),
            camera_reconnects: r.counter(
                "camera_reconnects",
                &["camera", "reason"],
                "Connections to a camera that ended or failed",
            ),
            view_faults: r.counter(
                "view_faults",
                &["camera", "reason"],
                "Times a view stopped to be evidence",
            ),
            rule_state: r.gauge(
                "rule_state",
                &["camera", "rule", "state"],
                "1 for the state that the rule is in",
            ),
            transitions: r.counter("transitions", &["camera", "rule", "state"], "States entered"),
            commands: r.counter("commands", &["action", "via", "result"], "Commands taken"),
            delivery: r.seconds("delivery", &["sink"], "From capture to acknowledgement of an event"),
            events_delivered: r.counter("events_delivered", &["sink"], "Events acknowledged"),
            events_waiting: r.gauge(
                "events_waiting",
                &["sink"],
                "Events that wait for their acknowledgement",
            ),
            events_dropped: r.counter("events_dropped", &["sink", "reason"], "Events lost"),
            events_not_resent: r.counter(
                "events_not_resent",
                &["sink"],
                "Events not sent again for want of room",
            ),
            events_late: r.counter("events_late", &["sink"], "Events sent to the late topic"),
            events_resent: r.counter("events_resent", &["sink"], "Events sent once more"),
            journal_bytes: r.plain(
                "journal",
                Some(Unit::Bytes),
                "Journal that is still needed",
                Gauge::default(),
            ),
            journal_degraded: r.plain(
                "journal_degraded",
                None,
                "1 while events are not on disk",
                Gauge::default(),
            ),
            broker_connected: r.plain(
                "broker_connected",
                None,
                "1 while the broker is connected",
                Gauge::default(),
            ),
            broker_reconnects: r.counter(
                "broker_reconnects",
                &["reason"],
                "Connections to the broker that ended or failed",
            ),
            reloads: r.counter("reloads", &["result"], "Configurations loaded or rejected"),
            proof_tests: r.counter("proof_tests", &["result"], "Proof tests by result"),
            proof_test: r.plain(
                "proof_test",
                s(),
                "Duration of the last proof test that arrived",
                Gauge::default(),
            ),
            proof_test_ok: r.plain(
                "proof_test_ok",
                None,
                "Whether the last proof test arrived",
                Gauge::default(),
            ),
            pictures: r.plain("pictures", None, "Pictures stored", Counter::default()),
            pictures_dropped: r.counter("pictures_dropped", &["reason"], "Pictures not made or not stored"),
            audit_records: r.plain("audit_records", None, "Audit records written", Counter::default()),
            audit_dropped: r.plain("audit_dropped", None, "Audit records lost", Counter::default()),
            audit_degraded: r.plain(
                "audit_degraded",
                None,
                "1 while no audit can be written",
                Gauge::default(),
            ),
            memory_degraded: r.plain(
                "memory_degraded",
                None,
                "1 while the states of the rules cannot be written",
                Gauge::default(),
            ),
            backend_degraded: r.gauge(
                "backend_degraded",
                &["reason"],
                "1 while a better backend, which was expected, does not run",
            ),
            batch_frames: r.plain(
                "batch_frames",
                None,
                "Frames that went through the model together",
                Histogram::new(BATCHES),
            ),
            batch_wait: r.plain("batch_wait", s(), "How long a batch was held back", histogram()),
            requests: r.counter("console_requests", &["route", "status"], "Requests answered by the console"),
            process_memory: r.plain("process_memory", Some(Unit::Bytes), "Resident memory", Gauge::default()),
            process_files: r.plain("process_open_files", None, "Open files", Gauge::default()),
            process_threads: r.plain("process_threads", None, "Threads", Gauge::default()),
            registry: r.0,
            names: r.1,
        };
        metrics.proof_test_ok.set(-1);
        metrics
    }

    /// Everything in the text format of OpenMetrics 1.0.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Names of all families, with their units and without `_total`, `_bucket` and the like.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Notes how long a stage took.
    pub fn stage_took(&self, stage: &'static str, took: Duration) {
        self.stage.of(&[&stage]).observe(took.as_secs_f64());
    }

    /// Says which state a rule is in; `word` is `types::State::word`.
    pub fn set_rule_state(&self, camera: &dyn Display, rule: &dyn Display, word: &str) {
        for state in STATES {
            self.rule_state.of(&[camera, rule, &state]).set(i64::from(state == word));
        }
    }

    /// Notes that an event was acknowledged, `latency` after its picture was taken when a picture decided it.
    pub fn event_delivered(&self, sink: &'static str, latency: Option<Duration>) {
        self.events_delivered.of(&[&sink]).inc();
        if let Some(latency) = latency {
            self.delivery.of(&[&sink]).observe(latency.as_secs_f64());
        }
    }

    /// Forgets a camera that was taken away, with its rules.
    pub fn forget_camera(&self, camera: &str) {
        self.frame_age.forget("camera", camera);
        self.camera_live.forget("camera", camera);
        self.rule_state.forget("camera", camera);
        let counters = [
            &self.frames,
            &self.frames_dropped,
            &self.camera_reconnects,
            &self.view_faults,
            &self.transitions,
        ];
        for counter in counters {
            counter.forget("camera", camera);
        }
    }

    /// Forgets a rule that was taken away.
    pub fn forget_rule(&self, camera: &str, rule: &str) {
        for state in STATES {
            let labels = [("camera", camera), ("rule", rule), ("state", state)];
            let labels: LabelSet = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            for known in [&self.rule_state.known, &self.transitions.known] {
                known.lock().unwrap_or_else(PoisonError::into_inner).remove(&labels);
            }
            self.rule_state.family.remove(&labels);
            self.transitions.family.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, start: &str) -> Vec<String> {
        let text = metrics.encode().unwrap();
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn names_follow_the_house_and_the_format() {
        let metrics = Metrics::new();
        metrics.frames_dropped.of(&[&"dock", &"replaced"]).inc_by(3);
        metrics.stage_took("backbone", Duration::from_millis(300));
        metrics.frame_age.of(&[&"dock"]).set(0.25);
        let has =
            |line: &str| assert!(lines(&metrics, line).len() == 1, "{line}: {}", metrics.encode().unwrap());
        has("standoff_frames_dropped_total{camera=\"dock\",reason=\"replaced\"} 3");
        has("standoff_stage_seconds_bucket{le=\"0.25\",stage=\"backbone\"} 0");
        has("standoff_stage_seconds_bucket{le=\"0.5\",stage=\"backbone\"} 1");
        has("standoff_stage_seconds_sum{stage=\"backbone\"} 0.3");
        has("standoff_frame_age_seconds{camera=\"dock\"} 0.25");
        has("standoff_build_info{version=");
        has("standoff_proof_test_ok -1");
        assert!(metrics.encode().unwrap().ends_with("# EOF\n"));
    }

    /// Names of metrics in a text.
    fn named(text: &str) -> std::collections::BTreeSet<String> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = text.match_indices("standoff_").map(|(at, _)| &text[at..]);
        starts.map(|rest| rest.chars().take_while(|c| word(*c)).collect()).collect()
    }

    #[test]
    fn dashboard_alerts_and_page_name_only_what_exists() {
        let metrics = Metrics::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = ["deploy/grafana/standoff.json", "deploy/prometheus/alerts.yml", "docs/observability.md"];
        for file in files {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            for name in named(&text) {
                let family = ["_total", "_bucket", "_sum", "_count", "_info"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .unwrap_or(&name);
                assert!(metrics.names().iter().any(|known| known == family), "{file} names {name}");
            }
        }
        let page = named(&std::fs::read_to_string(root.join("docs/observability.md")).unwrap());
        for name in metrics.names() {
            assert!(page.iter().any(|there| there.starts_with(name.as_str())), "the page leaves out {name}");
        }
        let json = std::fs::read_to_string(root.join(files[0])).unwrap();
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
    }

    #[test]
    fn exactly_one_state_of_a_rule_is_set() {
        let metrics = Metrics::new();
        metrics.set_rule_state(&"dock", &"edge", "alarm");
        metrics.set_rule_state(&"dock", &"edge", "unknown");
        let set: Vec<_> =
            lines(&metrics, "standoff_rule_state{").into_iter().filter(|line| line.ends_with(" 1")).collect();
        assert_eq!(set, ["standoff_rule_state{camera=\"dock\",rule=\"edge\",state=\"unknown\"} 1"]);
    }

    #[test]
    fn a_forgotten_camera_leaves_nothing_and_others_stay() {
        let metrics = Metrics::new();
        for camera in ["gone", "stays"] {
            metrics.set_rule_state(&camera, &"edge", "clear");
            metrics.transitions.of(&[&camera, &"edge", &"clear"]).inc();
            metrics.frames.of(&[&camera]).inc();
            metrics.frames_dropped.of(&[&camera, &"replaced"]).inc();
            metrics.frame_age.of(&[&camera]).set(1.0);
            metrics.camera_live.of(&[&camera]).set(1);
            metrics.camera_reconnects.of(&[&camera, &"stalled"]).inc();
            metrics.view_faults.of(&[&camera, &"frozen"]).inc();
        }
        let before = lines(&metrics, "standoff_").len();
        metrics.forget_camera("gone");
        let text = metrics.encode().unwrap();
        assert!(!text.contains("\"gone\""), "{text}");
        assert_eq!(lines(&metrics, "standoff_").len(), before - 12);
        metrics.forget_rule("stays", "edge");
        assert!(!metrics.encode().unwrap().contains("rule=\"edge\""));
        // And it can come back, from zero.
        metrics.frames.of(&[&"gone"]).inc();
        assert_eq!(
            lines(&metrics, "standoff_frames_total{camera=\"gone\"}"),
            ["standoff_frames_total{camera=\"gone\"} 1"]
        );
    }
}
