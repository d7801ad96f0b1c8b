//! Every state of a small model, breadth first.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use standoff::rules::LatchSettings;
use standoff::types::{Level, Reason, State, Verdict};

use super::spec::Ms;
use super::world::{Act, World, settings, shows};

const S: Ms = 1000;
/// Ages beyond this are all alike: it is more than every time of the settings.
const OLD_S: i64 = 4;

fn acts() -> Vec<Act> {
    use Level::{Near, Safe, TooNear};
    let mut acts = vec![Act::Wait(S), Act::Wait(3 * S)];
    for (raise, hold) in [(Safe, Safe), (Safe, Near), (Near, Near), (Near, TooNear), (TooNear, TooNear)] {
        acts.push(Act::See(0, shows(raise, hold)));
    }
    acts.extend([
        // A second late, too late, from the future.
        Act::See(1000, shows(Safe, Safe)),
        Act::See(1000, shows(TooNear, TooNear)),
        Act::See(3000, shows(Safe, Safe)),
        Act::See(-1000, shows(Safe, Safe)),
        Act::See(0, Verdict::NoEvidence(Reason::NotLocated)),
        Act::Fault,
        Act::Condition(true),
        Act::Condition(false),
        Act::Acknowledge,
        Act::Shelve(2 * S),
        Act::Shelve(9 * S),
        Act::Unshelve,
        Act::Arm(false),
        Act::Arm(true),
        Act::Restart(false),
        Act::Restart(true),
    ]);
    acts
}

/// The world as it matters for what comes: times as ages, without counters and without what is only said.
fn key(world: &World) -> String {
    let mut text = format!("{:?}{:?}", world.guard, world.spec);
    for name in ["newest", "last", "too_near", "shelved"] {
        text = ages(&text, &format!("{name}: Some("), world.now, 1);
    }
    let text = ages(&text, "Timestamp(", world.now, 1_000_000);
    let text = calm_ages(&text, world.now);
    let text = without(&text, "alarms: ");
    let text = without(&text, "reason: ");
    // The settings are the same in one search.
    match (text.find("configured: "), text.find("latch: Latch")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to..]),
        _ => text,
    }
}

/// Replaces each number after `mark` by its age in seconds, at most [`OLD_S`].
fn ages(text: &str, mark: &str, now: Ms, unit: u64) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        out.push_str(mark);
        match part[..digits].parse::<u64>() {
            Ok(value) => out.push_str(&age(value / unit, now)),
            Err(_) => out.push_str(&part[..digits]),
        }
        out.push_str(&part[digits..]);
    }
    out
}

fn age(then: Ms, now: Ms) -> String {
    ((now as i64 - then as i64) / S as i64).min(OLD_S).to_string()
}

/// The same for the two bare numbers in the checker's `calm: [Some(..), Some(..)]`.
fn calm_ages(text: &str, now: Ms) -> String {
    let Some(start) = text.rfind("calm: [") else { return text.to_owned() };
    let end = start + text[start..].find(']').unwrap_or(0);
    format!("{}{}{}", &text[..start], ages(&text[start..end], "Some(", now, 1), &text[end..])
}

/// Takes out the values after `mark`, up to the next comma.
fn without(text: &str, mark: &str) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([',', '}']).unwrap_or(part.len());
        out.push_str(&part[end..]);
    }
    out
}

fn search(latch: LatchSettings) -> usize {
    let first = World::new(settings(latch, Duration::from_secs(4)), 20 * S);
    let acts = acts();
    let mut seen = HashSet::from([key(&first)]);
    // How each state was reached, for the words of a failure.
    let mut reached: Vec<(usize, Option<Act>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, first)]);
    let mut words = HashSet::new();
    while let Some((index, world)) = queue.pop_front() {
        words.insert(world.guard.state().word());
        for &act in &acts {
            let mut next = world.clone();
            if let Err(broken) = next.step(act) {
                panic!("{broken}\nafter {:#?}", path(&reached, index, act));
            }
            if seen.insert(key(&next)) {
                reached.push((index, Some(act)));
                queue.push_back((reached.len() - 1, next));
            }
        }
        assert!(seen.len() < 3_000_000, "the model has no end: its key must be wrong");
    }
    assert_eq!(words.len(), 5, "every state is reached, or the search has shown nothing: {words:?}");
    seen.len()
}

fn path(reached: &[(usize, Option<Act>)], mut index: usize, last: Act) -> Vec<Act> {
    let mut acts = vec![last];
    while let (before, Some(act)) = reached[index] {
        acts.push(act);
        index = before;
    }
    acts.reverse();
    acts
}

#[test]
fn every_state_of_the_small_model_keeps_the_promises() {
    let seconds = Duration::from_secs;
    for (latch, alarm_after_s) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let settings = LatchSettings {
            stale_after: seconds(2),
            alarm_after: seconds(alarm_after_s),
            clear_after: seconds(2),
            latch,
        };
        let states = search(settings);
        println!(
            "latch {latch}, alarm_after {alarm_after_s} s: {states} states, {} acts in each",
            acts().len()
        );
    }
}

#[test]
fn the_key_forgets_how_late_it_is() {
    let latch = LatchSettings {
        stale_after: Duration::from_secs(2),
        alarm_after: Duration::ZERO,
        clear_after: Duration::from_secs(2),
        latch: true,
    };
    let world = |start: Ms| {
        let mut world = World::new(settings(latch, Duration::from_secs(4)), start);
        let calm = shows(Level::Safe, Level::Safe);
        let acts = [Act::See(0, calm), Act::Wait(S), Act::See(0, calm), Act::Shelve(2 * S)];
        acts.into_iter().for_each(|act| world.step(act).unwrap());
        assert!(matches!(world.guard.state(), State::Disarmed(_)));
        world
    };
    assert_eq!(key(&world(20 * S)), key(&world(77 * S)));
    let mut later = world(20 * S);
    later.step(Act::Wait(S)).unwrap();
    assert_ne!(key(&world(20 * S)), key(&later));
}
