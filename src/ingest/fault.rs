//! What a pipeline's error means for the camera: which state, which reason, which words.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;

use super::StreamUrl;
use super::supervisor::Fault;
use crate::types::{CameraId, CameraState, Reason};

/// How long a silent host is listened to.
const PROBE: Duration = Duration::from_millis(750);
const SILENT: &str = "no answer in time; is the address right, and the camera on?";

/// What the session knows when its pipeline fails.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub camera: &'a CameraId,
    pub url: &'a StreamUrl,
    /// Pictures came before.
    pub had_frames: bool,
    /// Why the camera's certificate was not accepted.
    pub certificate: Option<String>,
}

impl Seen<'_> {
    fn fault(&self, state: CameraState, reason: Reason, what: &str) -> Fault {
        Fault {
            state,
            reason,
            detail: format!("camera '{}' ({}): {}", self.camera, self.url, self.url.redacted(what)),
        }
    }

    /// A fault that waiting may mend.
    pub fn retry(&self, reason: Reason, what: &str) -> Fault {
        self.fault(CameraState::Backoff, reason, what)
    }

    /// The camera said no.
    pub fn refused(&self, reason: Reason, what: &str) -> Fault {
        self.fault(CameraState::Refused, reason, what)
    }

    /// The stream ended without an error: so does a server that is killed.
    pub fn ended(&self) -> Fault {
        match self.had_frames {
            true => self.retry(Reason::ConnectionLost, "the camera closed the connection"),
            false => self
                .retry(Reason::ConnectionLost, "the camera closed the connection before the first picture"),
        }
    }

    /// By the error that the pipeline posted.
    pub fn error(&self, message: &gst::message::Error) -> Fault {
        if let Some(problem) = &self.certificate {
            return self.certificate_fault(problem);
        }
        let error = message.error();
        let debug = message.debug().unwrap_or_default();
        let status = message.details().and_then(|details| details.get::<u32>("rtsp-status-code").ok());
        let resource = error.kind::<gst::ResourceError>();
        if matches!(status, Some(401 | 403)) || resource == Some(gst::ResourceError::NotAuthorized) {
            let hint = match self.url.username() {
                Some(_) => "it refused user name or password (401): check `username` and `password`",
                None => "it wants a user name and a password (401): set `username` and `password`",
            };
            return self.refused(Reason::AuthFailed, hint);
        }
        if matches!(status, Some(404 | 410))
            || (status.is_none() && resource == Some(gst::ResourceError::NotFound))
        {
            return self
                .refused(Reason::NotFound, "it has no stream of this path (404): check the address's path");
        }
        if let Some(status) = status {
            let what = format!("it answered {status}; too many viewers, or a stream that is switched off?");
            return self.retry(Reason::Unreachable, &what);
        }
        if self.url.is_tls() && debug.contains("TLS support is not available") {
            return self
                .refused(Reason::TlsFailed, "no TLS here: install the Debian package glib-networking");
        }
        if self.url.is_tls() && !self.had_frames && (debug.contains("TLS") || debug.contains("ertificate")) {
            return self
                .certificate_fault("the encrypted connection could not be made; does the port speak rtsps?");
        }
        if error.is::<gst::StreamError>() || error.is::<gst::CoreError>() {
            let what = format!("the stream cannot be decoded: {}", first_line(&error.to_string()));
            return self.retry(Reason::ConnectionLost, &what);
        }
        if self.had_frames {
            return self.retry(Reason::ConnectionLost, "the connection broke");
        }
        self.retry(Reason::Unreachable, unreachable(self.url))
    }

    fn certificate_fault(&self, problem: &str) -> Fault {
        self.refused(
            Reason::TlsFailed,
            &format!("{problem}; for a certificate of your own give its authority in `ca_file`"),
        )
    }
}

/// Why there is no connection. rtspsrc reports a refused, a silent and an unknown host alike, so this looks
/// itself, on a thread of its own because a name lookup cannot be given a deadline.
fn unreachable(url: &StreamUrl) -> &'static str {
    let (address, (answer, answered)) = (url.address(), mpsc::sync_channel(1));
    let probe = std::thread::Builder::new().name("camera-probe".to_owned()).spawn(move || {
        // Nobody waits any more when it took too long.
        let _ = answer.send(connect(&address));
    });
    if probe.is_err() {
        return "it cannot be reached";
    }
    answered.recv_timeout(PROBE * 2).unwrap_or(SILENT)
}

fn connect((host, port): &(String, u16)) -> &'static str {
    let Ok(mut addresses) = (host.as_str(), *port).to_socket_addrs() else {
        return "its name cannot be resolved; is it right, and the name server reachable?";
    };
    let Some(address) = addresses.next() else { return "its name has no address" };
    match TcpStream::connect_timeout(&address, PROBE) {
        Ok(_) => "it takes the connection but does not answer; is this its RTSP port?",
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused; is it on, and the port right?",
            ErrorKind::HostUnreachable => "no route to it; is it on, and in this machine's network?",
            ErrorKind::NetworkUnreachable => "this machine is not connected to its network",
            _ => SILENT,
        },
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}
