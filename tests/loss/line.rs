//! The line between the daemon and the broker: a TCP proxy that can be cut, held and slowed, and that notes which
//! events the broker acknowledged. MQTT 3.1.1 only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

/// What the line does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Nothing passes, and nobody is told.
    Hole,
    /// So many bytes a second in each direction.
    Slow(u64),
}

#[derive(Debug)]
struct Shared {
    to: u16,
    mode: Mutex<Mode>,
    changed: Condvar,
    sockets: Mutex<Vec<TcpStream>>,
    /// Ids of events that the broker has acknowledged.
    acknowledged: Mutex<BTreeSet<String>>,
}

/// The proxy. Its threads end with the test's process.
#[derive(Debug, Clone)]
pub struct Line {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Line {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shared = Arc::new(Shared {
            to: port,
            mode: Mutex::new(Mode::Open),
            changed: Condvar::new(),
            sockets: Mutex::default(),
            acknowledged: Mutex::default(),
        });
        let line = Self { port: listener.local_addr().unwrap().port(), shared: shared.clone() };
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || shared.carry(near));
            }
        });
        line
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        self.shared.changed.notify_all();
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.shared.acknowledged.lock().unwrap().clone()
    }
}

impl Shared {
    /// Waits until bytes may pass; how many a second, if that is limited.
    fn pass(&self) -> Option<u64> {
        let mode = self.mode.lock().unwrap();
        match *self.changed.wait_while(mode, |mode| *mode == Mode::Hole).unwrap() {
            Mode::Slow(rate) => Some(rate),
            _ => None,
        }
    }

    fn carry(self: Arc<Self>, near: TcpStream) {
        self.pass();
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to)) else { return };
        {
            let mut sockets = self.sockets.lock().unwrap();
            sockets.truncate(64);
            sockets.insert(0, near.try_clone().unwrap());
            sockets.insert(0, far.try_clone().unwrap());
        }
        // Events that were sent over this connection, by packet id.
        let sent = Arc::new(Mutex::new(BTreeMap::<u16, String>::new()));
        let up = {
            let (shared, sent) = (self.clone(), sent.clone());
            let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                shared.pump(from, to, |packet| {
                    if let Some((id, event)) = packet.event() {
                        sent.lock().unwrap().insert(id, event);
                    }
                });
            })
        };
        self.pump(far, near, |packet| {
            let event = packet.acknowledges().and_then(|id| sent.lock().unwrap().remove(&id));
            if let Some(event) = event {
                self.acknowledged.lock().unwrap().insert(event);
            }
        });
        let _ = up.join();
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&Packet)) {
        let mut packets = Packets::default();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let rate = self.pass();
            // Noted before it is passed on: who gets it may act on it at once.
            packets.take(&buffer[..count], &mut see);
            if let Some(rate) = rate {
                std::thread::park_timeout(Duration::from_secs_f64(count as f64 / rate as f64));
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Cuts a stream into packets.
#[derive(Default)]
struct Packets(Vec<u8>);

struct Packet {
    head: u8,
    body: Vec<u8>,
}

impl Packets {
    fn take(&mut self, bytes: &[u8], see: &mut impl FnMut(&Packet)) {
        self.0.extend(bytes);
        while let Some((start, length)) = length(&self.0) {
            if self.0.len() < start + length {
                return;
            }
            let packet = Packet { head: self.0[0], body: self.0[start..start + length].to_vec() };
            self.0.drain(..start + length);
            see(&packet);
        }
    }
}

/// Where the first packet's body begins, and how long it is.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((at + 2, length));
        }
    }
    None
}

impl Packet {
    /// Packet id and event id of an event that is published with QoS 1.
    fn event(&self) -> Option<(u16, String)> {
        if self.head >> 4 != 3 || self.head >> 1 & 3 != 1 {
            return None;
        }
        let topic_length = usize::from(u16::from_be_bytes([*self.body.first()?, *self.body.get(1)?]));
        let topic = self.body.get(2..2 + topic_length)?;
        if !topic.ends_with(b"/event") && !topic.ends_with(b"/late") {
            return None;
        }
        let rest = self.body.get(2 + topic_length..)?;
        let id = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        let json: Value = serde_json::from_slice(rest.get(2..)?).ok()?;
        Some((id, json["event_id"].as_str()?.to_owned()))
    }

    /// Packet id of an acknowledgement.
    fn acknowledges(&self) -> Option<u16> {
        (self.head >> 4 == 4).then(|| Some(u16::from_be_bytes([*self.body.first()?, *self.body.get(1)?])))?
    }
}
