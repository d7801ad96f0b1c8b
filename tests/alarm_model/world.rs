//! A rule, the checker, and what can happen to both.

use std::time::Duration;

use standoff::clock::{Now, Timestamp, UtcMillis};
use standoff::rules::guard::forget_time;
use standoff::rules::{Guard, LatchSettings, Memory, ProximitySettings, RuleKind, RuleSettings};
use standoff::types::command::{Order, Via};
use standoff::types::{CameraId, Level, PairId, Reason, RuleId, State, Verdict};

use super::spec::{Ms, Spec};

/// What can happen. Each is followed by a look at the time, as in the daemon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// Time passes.
    Wait(Ms),
    /// A picture is judged that was taken so long ago (or will be taken, below 0).
    See(i64, Verdict),
    Fault,
    Condition(bool),
    Acknowledge,
    Shelve(Ms),
    Unshelve,
    Arm(bool),
    /// The daemon dies and comes back; in another boot of the machine.
    Restart(bool),
}

#[derive(Debug, Clone)]
pub struct World {
    pub guard: Guard,
    pub spec: Spec,
    pub now: Ms,
    settings: RuleSettings,
}

pub const fn shows(raise: Level, hold: Level) -> Verdict {
    Verdict::Evidence { raise, hold }
}

pub fn settings(latch: LatchSettings, shelve_max: Duration) -> RuleSettings {
    RuleSettings {
        id: RuleId::new("edge").unwrap(),
        kind: RuleKind::Proximity(ProximitySettings {
            pair: PairId::new("p").unwrap(),
            warning_m: Some(2.0),
            alarm_m: 0.5,
            leave_warning_m: None,
            leave_alarm_m: 0.8,
            separation: None,
            alarm_contact: None,
        }),
        latch,
        when: vec![],
        shelve_max,
    }
}

impl World {
    pub fn new(settings: RuleSettings, now: Ms) -> Self {
        Self { guard: Guard::new(settings.clone()), spec: Spec::new(&settings.latch), now, settings }
    }

    fn at(&self) -> Now {
        // The time of day decides nothing, so it stands still here.
        Now { mono: Timestamp::from_nanos(self.now * 1_000_000), utc: UtcMillis(0) }
    }

    fn condition(&self) -> Option<String> {
        self.spec.condition.then(|| "trailer docked".to_owned())
    }

    fn obey(&mut self, order: Order) -> Result<bool, String> {
        let now = self.at();
        self.guard.obey(now, order, "ann", Via::Socket).map(|_| true).or(Ok(false))
    }

    /// Lets it happen, and checks what is reported after.
    pub fn step(&mut self, act: Act) -> Result<(), String> {
        let before = self.guard.state();
        let alarms = self.guard.alarms();
        let alarms_meant = self.spec.alarms;
        let mut restarted = false;
        match act {
            Act::Wait(ms) => self.now += ms,
            Act::See(ago, verdict) => {
                let captured = self.now.checked_add_signed(-ago).unwrap();
                self.guard.arm(self.condition());
                self.spec.arm();
                self.guard.observe(self.at().mono, Timestamp::from_nanos(captured * 1_000_000), verdict);
                self.spec.see(self.now, captured, verdict);
            }
            Act::Fault => {}
            Act::Condition(holds_not) => self.spec.condition = holds_not,
            Act::Acknowledge => {
                let (done, meant) = (self.obey(Order::Acknowledge)?, self.spec.acknowledge());
                if done != meant {
                    return Err(format!("acknowledged: {done}, should be {meant}"));
                }
            }
            Act::Shelve(ms) => {
                if self.obey(Order::Shelve(Duration::from_millis(ms)))? {
                    self.spec.shelved = Some(self.now + ms);
                }
                let max_ms = u64::try_from(self.settings.shelve_max.as_millis()).unwrap();
                if self.spec.shelved.is_some_and(|until| until > self.now + max_ms) {
                    return Err("shelved for longer than allowed".into());
                }
            }
            Act::Unshelve => {
                self.obey(Order::Unshelve)?;
                self.spec.shelved = None;
            }
            Act::Arm(on) => {
                self.obey(Order::Arm(on))?;
                self.spec.off = !on;
            }
            Act::Restart(other_boot) => {
                let rule = [(self.settings.id.clone(), self.guard.memory())];
                let camera = CameraId::new("dock").unwrap();
                let memory: Memory = [(camera.clone(), rule.into())].into();
                let json = serde_json::to_string(&memory).unwrap();
                let mut memory: Memory = serde_json::from_str(&json).unwrap();
                if other_boot {
                    // The clock of another boot begins anew.
                    self.now = 20_000;
                    forget_time(&mut memory, self.at());
                    self.spec.shelved = self.spec.shelved.map(|_| self.now);
                }
                let memory = memory.remove(&camera).unwrap().remove(&self.settings.id).unwrap();
                self.guard = Guard::restore(self.settings.clone(), memory, self.at());
                self.spec.restart();
                restarted = true;
                if !matches!(self.guard.state(), State::Unknown(_) | State::Alarm) {
                    return Err(format!("a restart begins with {:?}", self.guard.state()));
                }
            }
        }
        let fault = act == Act::Fault;
        self.guard.tick(self.at(), fault.then_some(Reason::Stalled), self.condition());
        self.spec.tick(self.now, fault);
        if self.settings.latch.latch && !restarted {
            let (begun, meant) = (self.guard.alarms() - alarms, self.spec.alarms - alarms_meant);
            if begun != meant {
                return Err(format!("{begun} alarms begun, should be {meant}"));
            }
        }
        self.spec.check(&before, &self.guard.state(), self.guard.evidence())
    }
}
