//! The only file that reads a clock. Elsewhere time is an argument, so that a clip can be replayed
//! in virtual time and gives the same result every time.

use std::fmt;
use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on the monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds. GStreamer's pipelines are
/// pinned to the same clock, so that capture times need no conversion. In a replay it counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From nanoseconds of the monotonic clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds of the monotonic clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment less `duration`, at least the clock's start.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

/// Coordinated universal time in milliseconds since 1970. For messages and pictures only: it decides
/// nothing while the daemon runs, because it can jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UtcMillis(pub i64);

impl UtcMillis {
    /// This moment and `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment less `duration`.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for UtcMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Both clocks read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Decides.
    pub mono: Timestamp,
    /// Is written into messages.
    pub utc: UtcMillis,
}

impl Now {
    /// The time of day at which something happened that the monotonic clock saw at `then`.
    pub fn utc_of(&self, then: Timestamp) -> UtcMillis {
        self.utc.minus(self.mono.since(then))
    }
}

/// A moment that can still be aged after this process, or the machine, has started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Names one boot of the machine; 0 when the machine does not say.
    pub boot: u128,
    /// Since that boot, time asleep included (`CLOCK_BOOTTIME`).
    pub uptime: Duration,
    /// Time of day, which may have been wrong.
    pub utc: UtcMillis,
}

impl Stamp {
    /// How long ago `earlier` was. Within one boot by its clock, else by the time of day; none when that has
    /// gone backwards.
    pub fn age_of(&self, earlier: &Self) -> Option<Duration> {
        if self.boot == earlier.boot && self.boot != 0 {
            return self.uptime.checked_sub(earlier.uptime);
        }
        u64::try_from(self.utc.0.checked_sub(earlier.utc.0)?).ok().map(Duration::from_millis)
    }
}

/// Reads the clocks that survive a restart.
pub fn stamp() -> Stamp {
    static BOOT: OnceLock<u128> = OnceLock::new();
    let boot = *BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or(0)
    });
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let uptime = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
    Stamp { boot, uptime, utc: utc() }
}

/// Reads both clocks.
pub fn now() -> Now {
    Now { mono: monotonic(), utc: utc() }
}

/// Reads the monotonic clock.
pub fn monotonic() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Timestamp(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Reads the time of day.
pub fn utc() -> UtcMillis {
    UtcMillis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_saturate() {
        let a = Timestamp::from_nanos(5);
        assert_eq!(a.since(Timestamp::from_nanos(9)), Duration::ZERO);
        assert_eq!(a.minus(Duration::from_secs(1)), Timestamp::from_nanos(0));
        assert_eq!((a + Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn age_is_by_the_boot_clock_and_across_boots_by_the_time_of_day() {
        let at = |boot, uptime_s, utc_ms| Stamp {
            boot,
            uptime: Duration::from_secs(uptime_s),
            utc: UtcMillis(utc_ms),
        };
        assert_eq!(at(1, 90, 0).age_of(&at(1, 30, 999_000)), Some(Duration::from_secs(60)));
        assert_eq!(at(2, 5, 10_000).age_of(&at(1, 30, 7_000)), Some(Duration::from_secs(3)));
        assert_eq!(at(2, 5, 6_000).age_of(&at(1, 30, 7_000)), None, "the time of day went backwards");
        let (first, second) = (stamp(), stamp());
        assert!(second.age_of(&first).is_some_and(|age| age < Duration::from_secs(60)));
    }

    #[test]
    fn utc_follows_the_monotonic_difference() {
        let now = Now { mono: Timestamp::from_nanos(3_000_000_000), utc: UtcMillis(10_000) };
        assert_eq!(now.utc_of(Timestamp::from_nanos(1_500_000_000)), UtcMillis(8_500));
        assert_eq!(UtcMillis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
