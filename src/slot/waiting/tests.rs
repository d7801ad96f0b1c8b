use proptest::prelude::*;

use super::super::tests::frame;
use super::*;

fn ms(ms: u64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

/// A camera that sends every `period_ms` from `first_ms` on until `last_ms`, each picture late by up to `jitter_ms`.
#[derive(Debug, Clone)]
struct Camera {
    first_ms: u64,
    period_ms: u64,
    jitter_ms: u64,
    last_ms: u64,
}

fn camera() -> impl Strategy<Value = Camera> {
    (0..200u64, 10..150u64, 0..20u64, prop_oneof![Just(5_000u64), 300..2_000u64]).prop_map(
        |(first_ms, period_ms, jitter_ms, last_ms)| Camera { first_ms, period_ms, jitter_ms, last_ms },
    )
}

/// When frames come, in order: moment in ms, camera.
fn arrivals(cameras: &[Camera]) -> Vec<(u64, usize)> {
    let mut all: Vec<(u64, usize)> = cameras
        .iter()
        .enumerate()
        .flat_map(|(id, camera)| {
            let moments = (camera.first_ms..camera.last_ms).step_by(camera.period_ms as usize);
            // Not random, but of no period that the cameras have.
            moments.enumerate().map(move |(n, at)| (at + n as u64 * 7919 % (camera.jitter_ms + 1), id))
        })
        .collect();
    all.sort_unstable();
    all
}

/// A batch that was taken.
#[derive(Debug)]
struct Taken {
    /// When the model was free and a frame was there, and when the batch started.
    ready_ms: u64,
    start_ms: u64,
    /// Since when the frame that had waited longest did so, and how many waited at `ready_ms`.
    since_ms: u64,
    waiting: usize,
    cameras: Vec<String>,
    /// For each of them, how many batches began while it waited, this one included.
    rounds: Vec<usize>,
}

/// Plays the arrivals against a model that takes `busy_ms` for a batch.
fn play(arrivals: &[(u64, usize)], batching: Batching, busy_ms: u64) -> Vec<Taken> {
    let (mut waiting, mut taken) = (Waiting::default(), vec![]);
    let mut since: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    let (mut next, mut now, mut rounds) = (0, 0, 0);
    loop {
        let put_until =
            |now: u64, waiting: &mut Waiting, since: &mut BTreeMap<_, _>, next: &mut usize, rounds| {
                while let Some((at, id)) = arrivals.get(*next).filter(|(at, _)| *at <= now) {
                    let name = format!("c{id}");
                    waiting.put(frame(&name, *next as u64, at * 1_000_000));
                    since.entry(name).or_insert((*at, rounds));
                    *next += 1;
                }
            };
        put_until(now, &mut waiting, &mut since, &mut next, rounds);
        if waiting.is_empty() {
            let Some((at, _)) = arrivals.get(next) else { return taken };
            now = *at;
            put_until(now, &mut waiting, &mut since, &mut next, rounds);
        }
        let (ready_ms, at_first) = (now, since.len());
        let since_ms = since.values().map(|(at, _)| *at).min().unwrap();
        while let Some(until) = waiting.hold_until(ms(now), batching) {
            assert!(until > ms(now), "there is something to wait for");
            let coming = arrivals.get(next).map_or(u64::MAX, |(at, _)| *at);
            now = coming.min(until.as_nanos() / 1_000_000);
            put_until(now, &mut waiting, &mut since, &mut next, rounds);
        }
        let frames = waiting.take(batching.max);
        rounds += 1;
        assert!(frames.is_sorted_by_key(|frame| frame.captured), "in the order of capture");
        let cameras: Vec<String> = frames.iter().map(|frame| frame.camera.to_string()).collect();
        let waited = cameras.iter().map(|name| rounds - since.remove(name).expect("one frame a camera").1);
        let (start_ms, waiting) = (now, at_first);
        taken.push(Taken { ready_ms, start_ms, since_ms, waiting, rounds: waited.collect(), cameras });
        now += busy_ms;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_waits_longer_than_the_wait_or_more_rounds_than_it_takes_to_serve_all(
        cameras in prop::collection::vec(camera(), 1..12),
        max in 1..6usize,
        wait_ms in prop_oneof![Just(0u64), 1..60u64],
        busy_ms in 1..150u64,
    ) {
        let batching = Batching { max, wait: Duration::from_millis(wait_ms) };
        let most = cameras.len().div_ceil(max);
        for taken in play(&arrivals(&cameras), batching, busy_ms) {
            prop_assert!((1..=max).contains(&taken.cameras.len()));
            prop_assert!(
                taken.start_ms <= taken.ready_ms.max(taken.since_ms + wait_ms),
                "held back too long: {taken:?}"
            );
            prop_assert!(taken.waiting < max || taken.start_ms == taken.ready_ms, "full: {taken:?}");
            for (camera, rounds) in taken.cameras.iter().zip(&taken.rounds) {
                prop_assert!(*rounds <= most, "{camera} was taken in its round {rounds} of {most}");
            }
        }
    }
}

/// The newest frame of a camera of 60 pictures a second is always younger than those of the others. Whoever takes the
/// oldest capture first never takes it.
#[test]
fn a_fast_camera_does_not_starve_among_slow_ones() {
    let slow = |first_ms| Camera { first_ms, period_ms: 100, jitter_ms: 0, last_ms: 5_000 };
    let fast = Camera { first_ms: 0, period_ms: 16, jitter_ms: 0, last_ms: 5_000 };
    let taken = play(&arrivals(&[fast, slow(20), slow(50)]), Batching::up_to(1), 100);
    let of = |name: &str| taken.iter().filter(|taken| taken.cameras == [name]).count();
    println!("batches of c0: {}, c1: {}, c2: {}", of("c0"), of("c1"), of("c2"));
    // 50 batches in 5 s, a third each.
    assert!([of("c0"), of("c1"), of("c2")].iter().all(|count| *count >= 15));
}

#[test]
fn a_batch_is_held_back_only_for_who_is_due_in_time() {
    let batching = Batching { max: 4, wait: Duration::from_millis(10) };
    let mut waiting = Waiting::default();
    let put = |waiting: &mut Waiting, camera: &str, at_ms: u64| {
        waiting.put(frame(camera, at_ms, at_ms * 1_000_000));
    };
    // b comes every 100 ms, 5 ms after a; c came twice, 40 ms apart, and not any more; d has come once.
    for (camera, at_ms) in [("a", 0), ("b", 5), ("c", 10), ("d", 15), ("c", 50), ("a", 100), ("b", 105)] {
        put(&mut waiting, camera, at_ms);
    }
    assert_eq!(waiting.take(4).len(), 4);
    put(&mut waiting, "a", 200);
    assert_eq!(waiting.hold_until(ms(200), batching), Some(ms(210)), "b is due at 205");
    assert_eq!(waiting.hold_until(ms(207), batching), Some(ms(210)), "b is a little late");
    assert_eq!(waiting.hold_until(ms(210), batching), None, "long enough");
    assert_eq!(waiting.hold_until(ms(200), Batching::up_to(4)), None, "nothing is held back by default");
    assert_eq!(waiting.hold_until(ms(200), Batching { max: 1, ..batching }), None, "full");
    let short = Batching { wait: Duration::from_millis(4), ..batching };
    assert_eq!(waiting.hold_until(ms(200), short), None, "b is due too late");
    put(&mut waiting, "b", 206);
    assert_eq!(waiting.hold_until(ms(206), batching), None, "nobody else is due: c has missed its turn");
    put(&mut waiting, "a", 209);
    assert_eq!(waiting.hold_until(ms(209), batching), None, "a new picture does not start the wait again");
}
