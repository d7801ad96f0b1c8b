//! The supervisor, a tokio task: looks at the signs of life, feeds systemd's watchdog only while every part makes
//! progress, and says how things are in a line for `systemctl status`. It restarts nothing: a part that hangs or
//! ends leaves the process in a state that nobody has tested, and a clean process is back within seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::notify;
use crate::clock::{self, Timestamp};
use crate::heartbeat::{Heart, Trouble};
use crate::outbox::{Outbox, Statement};
use crate::types::CameraState;

/// How often it looks; more often where the watchdog is impatient.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A look that comes this late means that the process was stopped or the machine asleep: nobody could beat.
const ASLEEP: Duration = Duration::from_secs(3);

/// Decides whether the parts make progress. Plain: time is an argument.
#[derive(Debug, Default)]
pub struct Watch {
    looked: Option<Timestamp>,
    awake_since: Timestamp,
}

impl Watch {
    /// What is wrong now; nothing means that the watchdog may be fed.
    pub fn look(&mut self, now: Timestamp, heart: &Heart) -> Vec<Trouble> {
        if self.looked.is_none_or(|last| now.since(last) > ASLEEP) {
            self.awake_since = now;
        }
        self.looked = Some(now);
        heart.troubles(now, self.awake_since)
    }
}

/// Starts the task, on the present tokio runtime. What it answers is empty until something is wrong; then the
/// watchdog is not fed any more and the task has ended. It also ends when nobody listens.
pub fn spawn(heart: Arc<Heart>, outbox: Arc<Outbox>) -> watch::Receiver<Vec<Trouble>> {
    let (sender, troubles) = watch::channel(vec![]);
    tokio::spawn(async move {
        let feed_every = notify::watchdog_every();
        let every = feed_every.map_or(LOOK_EVERY, |every| LOOK_EVERY.min(every / 4));
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        let mut said = String::new();
        while !sender.is_closed() {
            ticks.tick().await;
            let troubles = watch.look(clock::monotonic(), &heart);
            if !troubles.is_empty() {
                sender.send_replace(troubles);
                return;
            }
            if feed_every.is_some() {
                notify::watchdog();
            }
            let line = status_line(&outbox.statements());
            if line != said {
                notify::status(&line);
                said = line;
            }
        }
    });
    troubles
}

/// How things are: cameras that are live, and how many rules are in which state, the worst first.
pub fn status_line(statements: &[Statement]) -> String {
    let (mut cameras, mut live) = (0, 0);
    let mut states = [("alarm", 0), ("warning", 0), ("unknown", 0), ("disarmed", 0), ("clear", 0)];
    for statement in statements {
        match statement {
            Statement::Camera(status) => {
                cameras += 1;
                live += usize::from(status.state == CameraState::Live);
            }
            Statement::Rule(status) => {
                let word = status.state.word();
                if let Some((_, count)) = states.iter_mut().find(|(known, _)| *known == word) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
    let rules: Vec<String> = states
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
    format!("{live} of {cameras} cameras live; rules: {rules}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UtcMillis;
    use crate::heartbeat::Part;
    use crate::types::{CameraId, CameraStatus};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// Looks every half second from `from` to `to`, while the parts of `alive` beat; the first trouble with its time.
    fn live(
        watch: &mut Watch,
        heart: &Heart,
        pulses: &[&crate::heartbeat::Pulse],
        (from, to): (u64, u64),
    ) -> Option<(u64, Trouble)> {
        (from..=to).step_by(500).find_map(|ms| {
            pulses.iter().for_each(|pulse| pulse.beat(at(ms)));
            watch.look(at(ms), heart).first().map(|trouble| (ms, *trouble))
        })
    }

    #[test]
    fn a_part_that_hangs_is_found_when_its_patience_ends_and_not_before() {
        let heart = Arc::new(Heart::default());
        let (infer, analysis) = (heart.pulse(Part::Infer, at(0)), heart.pulse(Part::Analysis, at(0)));
        let mut watch = Watch::default();
        assert_eq!(live(&mut watch, &heart, &[&infer, &analysis], (500, 100_000)), None);
        let found = live(&mut watch, &heart, &[&infer], (100_500, 200_000));
        assert_eq!(found, Some((110_500, Trouble::Silent(Part::Analysis, Duration::from_millis(10_500)))));
        // A batch that takes half a minute is slow, not hung.
        analysis.beat(at(110_500));
        assert_eq!(live(&mut watch, &heart, &[&analysis], (111_000, 140_000)), None);
        drop(analysis);
        let found = live(&mut watch, &heart, &[], (140_500, 141_000));
        assert_eq!(found, Some((140_500, Trouble::Ended(Part::Analysis))));
    }

    #[test]
    fn a_machine_that_slept_gives_everyone_time_to_wake() {
        let heart = Arc::new(Heart::default());
        let mqtt = heart.pulse(Part::Mqtt, at(0));
        let mut watch = Watch::default();
        assert_eq!(live(&mut watch, &heart, &[&mqtt], (500, 10_000)), None);
        assert_eq!(live(&mut watch, &heart, &[], (90_000, 100_000)), None, "10 s of looking");
        assert!(live(&mut watch, &heart, &[], (100_500, 101_000)).is_some());
    }

    #[test]
    fn the_status_line_counts() {
        let camera = |name: &str, state| {
            Statement::Camera(CameraStatus {
                camera: CameraId::new(name).unwrap(),
                state,
                reason: None,
                detail: String::new(),
                analysed_fps: 0.0,
                frame_age_s: None,
                dropped: 0,
                connects: 0,
                view: crate::types::ViewStatus::default(),
                ts: UtcMillis(0),
            })
        };
        assert_eq!(status_line(&[]), "0 of 0 cameras live; rules: none");
        let two = [camera("a", CameraState::Live), camera("b", CameraState::Stalled)];
        assert_eq!(status_line(&two), "1 of 2 cameras live; rules: none");
    }
}
