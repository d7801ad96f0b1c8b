//! Long random lives.

use std::time::Duration;

use proptest::prelude::*;
use standoff::rules::LatchSettings;
use standoff::types::{Level, Reason, Verdict};

use super::world::{Act, World, settings, shows};

fn verdict() -> impl Strategy<Value = Verdict> {
    let level = prop_oneof![Just(Level::Safe), Just(Level::Near), Just(Level::TooNear)];
    prop_oneof![
        6 => Just(shows(Level::Safe, Level::Safe)),
        4 => (level.clone(), level).prop_map(|(a, b)| shows(a.min(b), a.max(b))),
        1 => Just(Verdict::NoEvidence(Reason::CutByPictureEdge)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let behind = prop_oneof![8 => Just(0i64), 4 => 0i64..400, 1 => -300i64..3000];
    prop_oneof![
        40 => (behind, verdict()).prop_map(|(behind, verdict)| Act::See(behind, verdict)),
        3 => (0u64..3000).prop_map(Act::Wait),
        1 => Just(Act::Fault),
        1 => any::<bool>().prop_map(Act::Condition),
        2 => Just(Act::Acknowledge),
        1 => (0u64..6000).prop_map(Act::Shelve),
        1 => Just(Act::Unshelve),
        1 => prop_oneof![1 => Just(false), 3 => Just(true)].prop_map(Act::Arm),
        1 => prop_oneof![4 => Just(false), 1 => Just(true)].prop_map(Act::Restart),
    ]
}

/// Steps with the time that passes before each.
fn life() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let pause = prop_oneof![8 => Just(100u64), 2 => 0u64..150, 1 => 0u64..1500];
    prop::collection::vec((pause, act()), 1..250)
}

fn cases() -> u32 {
    std::env::var("STANDOFF_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(4000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn every_random_life_keeps_the_promises(
        life in life(),
        latch in any::<bool>(),
        alarm_after_ms in prop_oneof![Just(0u64), 0u64..600],
        clear_after_ms in prop_oneof![Just(500u64), 0u64..2000],
    ) {
        let latch = LatchSettings {
            stale_after: Duration::from_millis(1000),
            alarm_after: Duration::from_millis(alarm_after_ms),
            clear_after: Duration::from_millis(clear_after_ms),
            latch,
        };
        let mut world = World::new(settings(latch, Duration::from_secs(5)), 20_000);
        for (pause, act) in life {
            // Time passes without anybody looking.
            world.now += pause;
            world.step(act).map_err(TestCaseError::fail)?;
        }
    }
}
