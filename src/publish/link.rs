//! What is on its way in one connection: handed to the transport, written, acknowledged. Keeps the account from
//! which the outbox learns what has arrived, and notices a broker that owes an answer for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::message::Message;
use super::transport::{HANDED_MAX, NotTaken, Transport};
use crate::clock::Timestamp;

/// After how long an event is sent again that the broker did not want.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Which event of the outbox a message is, if any.
type Tag = Option<u64>;

/// One connection's account.
pub(super) struct Link {
    pub(super) transport: Transport,
    pub(super) connected: bool,
    /// Not yet handed to the transport.
    queue: VecDeque<(Message, Tag)>,
    /// Handed over, in order, and not yet written.
    handed: VecDeque<Tag>,
    /// Since when the oldest of `handed` waits and nothing has moved.
    handed_since: Option<Timestamp>,
    /// Written, by packet id, and not yet acknowledged.
    unacknowledged: BTreeMap<u16, Tag>,
    /// Events on their way.
    events: BTreeSet<u64>,
    /// Number of the first event that was not yet taken in this connection.
    pub(super) next_event: u64,
    /// Since when the broker owes an answer and has said nothing.
    waiting_since: Option<Timestamp>,
    /// The first event that the broker did not want, and when it is to be sent again.
    refused: Option<(u64, Timestamp)>,
    /// Topics that the broker was asked for in this connection.
    pub(super) watched: Vec<String>,
    /// False when some are still to be asked for.
    pub(super) watched_all: bool,
    /// Whether we hear Home Assistant start.
    pub(super) hears_births: bool,
}

impl Link {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            connected: false,
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            handed_since: None,
            unacknowledged: BTreeMap::new(),
            events: BTreeSet::new(),
            next_event: 0,
            waiting_since: None,
            refused: None,
            watched: vec![],
            watched_all: true,
            hears_births: false,
        }
    }

    pub(super) fn push(&mut self, message: Message) {
        self.queue.push_back((message, None));
    }

    pub(super) fn push_event(&mut self, number: u64, message: Message) {
        self.events.insert(number);
        self.next_event = number + 1;
        self.queue.push_back((message, Some(number)));
    }

    /// Messages that wait here.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Hands over what the transport has room for. Gives the topic and the limit of a message that the broker
    /// is known not to take.
    pub(super) fn pump(&mut self, now: Timestamp) -> Option<(String, usize)> {
        while self.connected && self.handed.len() < HANDED_MAX {
            let (message, tag) = self.queue.pop_front()?;
            match self.transport.publish(&message) {
                Ok(()) => {
                    self.handed.push_back(tag);
                    self.handed_since.get_or_insert(now);
                }
                Err(NotTaken::Full) => {
                    self.queue.push_front((message, tag));
                    return None;
                }
                Err(NotTaken::TooLarge(max)) => {
                    self.unwanted(tag, now);
                    return Some((message.topic, max));
                }
            }
        }
        None
    }

    pub(super) fn written(&mut self, id: u16, now: Timestamp) {
        let tag = self.handed.pop_front().flatten();
        self.handed_since = (!self.handed.is_empty()).then_some(now);
        if id != 0 {
            self.unacknowledged.insert(id, tag);
            self.waiting_since.get_or_insert(now);
        }
    }

    pub(super) fn asked(&mut self, now: Timestamp) {
        self.waiting_since.get_or_insert(now);
    }

    pub(super) fn heard(&mut self, now: Timestamp) {
        self.waiting_since = (!self.unacknowledged.is_empty()).then_some(now);
        self.handed_since = (!self.handed.is_empty()).then_some(now);
    }

    /// Takes an acknowledgement; gives the number up to which all events have arrived, if that is news.
    pub(super) fn acknowledged(&mut self, id: u16) -> Option<u64> {
        let tag = self.taken_off(id)?;
        self.events.remove(&tag?);
        let first_missing = self.events.first().copied().unwrap_or(self.next_event);
        first_missing.checked_sub(1)
    }

    /// Takes a refusal. An event stays on its way, and with it all that come after: it is sent again later.
    pub(super) fn refused(&mut self, id: u16, now: Timestamp) {
        if let Some(tag) = self.taken_off(id) {
            self.unwanted(tag, now);
        }
    }

    fn taken_off(&mut self, id: u16) -> Option<Tag> {
        let tag = self.unacknowledged.remove(&id)?;
        if self.unacknowledged.is_empty() {
            self.waiting_since = None;
        }
        Some(tag)
    }

    fn unwanted(&mut self, tag: Tag, now: Timestamp) {
        let Some(number) = tag else { return };
        let first = self.refused.map_or(number, |(first, _)| first.min(number));
        self.refused = Some((first, now + REFUSED_PAUSE));
    }

    /// Goes back to the first refused event when its time has come. True when there is something to send again.
    pub(super) fn retry_refused(&mut self, now: Timestamp) -> bool {
        match self.refused {
            Some((first, due)) if now >= due => {
                self.refused = None;
                self.next_event = first;
                true
            }
            _ => false,
        }
    }

    /// Whether the broker owes an answer, or takes nothing, for longer than `patience`.
    pub(super) fn is_dead(&self, now: Timestamp, patience: Duration) -> bool {
        [self.waiting_since, self.handed_since].into_iter().flatten().any(|since| now.since(since) > patience)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.handed.is_empty() && self.unacknowledged.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_nanos(s * 1_000_000_000)
    }

    fn message() -> Message {
        Message { topic: "t".into(), payload: vec![], qos: 1, retain: false, expiry: None }
    }

    fn link(events: std::ops::Range<u64>) -> Link {
        let mut link = Link::new(Transport::idle());
        link.connected = true;
        let count = events.end - events.start;
        events.for_each(|number| link.push_event(number, message()));
        assert_eq!(link.pump(at(1)), None);
        (1..=count).for_each(|id| link.written(u16::try_from(id).unwrap(), at(1)));
        link
    }

    #[test]
    fn an_event_has_arrived_when_all_before_it_have() {
        let mut link = link(5..8);
        assert_eq!(link.acknowledged(2), Some(4));
        assert_eq!(link.acknowledged(1), Some(6));
        assert_eq!(link.acknowledged(9), None);
        assert!(!link.is_idle());
        assert_eq!(link.acknowledged(3), Some(7));
        assert!(link.is_idle());
    }

    #[test]
    fn a_refused_event_is_not_lost_but_sent_again() {
        let mut link = link(5..8);
        assert_eq!(link.acknowledged(1), Some(5));
        link.refused(2, at(10));
        assert_eq!(link.acknowledged(3), Some(5), "7 has arrived, 6 has not");
        assert!(!link.retry_refused(at(14)));
        assert!(link.retry_refused(at(15)));
        assert_eq!(link.next_event, 6);
        assert!(!link.retry_refused(at(99)));
    }

    #[test]
    fn a_message_that_is_too_large_is_named_and_does_not_block_the_others() {
        let mut link = Link::new(Transport::idle());
        link.connected = true;
        link.push(Message { topic: "picture".into(), payload: vec![0; 2 << 20], ..message() });
        link.push(message());
        assert_eq!(link.pump(at(1)).unwrap().0, "picture");
        assert_eq!(link.pump(at(1)), None);
        assert_eq!((link.queued(), link.handed.len()), (0, 1));
    }

    #[test]
    fn silence_counts_only_while_an_answer_is_due() {
        let mut link = Link::new(Transport::idle());
        let patience = Duration::from_secs(7);
        assert!(!link.is_dead(at(100), patience));
        link.asked(at(100));
        assert!(!link.is_dead(at(107), patience) && link.is_dead(at(108), patience));
        link.heard(at(105));
        assert!(!link.is_dead(at(1000), patience));
    }

    #[test]
    fn a_broker_that_takes_nothing_is_dead_too() {
        let mut link = Link::new(Transport::idle());
        link.connected = true;
        link.push(Message { qos: 0, ..message() });
        link.pump(at(100));
        assert!(!link.is_dead(at(107), Duration::from_secs(7)));
        assert!(link.is_dead(at(108), Duration::from_secs(7)));
        link.written(0, at(108));
        assert!(!link.is_dead(at(1000), Duration::from_secs(7)));
    }
}
