//! What a pipeline's error means for the camera: which state, which reason, which words.

use gstreamer as gst;

use super::StreamUrl;
use super::supervisor::Fault;
use crate::types::{CameraId, CameraState, Reason};

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
        match resource {
            Some(gst::ResourceError::Read) => self.retry(
                Reason::Unreachable,
                "it takes the connection but does not answer; is this its RTSP port?",
            ),
            _ => self.retry(
                Reason::Unreachable,
                &format!("it cannot be reached: {}", first_line(&unreachable(&debug))),
            ),
        }
    }

    fn certificate_fault(&self, problem: &str) -> Fault {
        self.refused(
            Reason::TlsFailed,
            &format!("{problem}; for a certificate of your own give its authority in `ca_file`"),
        )
    }
}

/// The useful part of rtspsrc's debug text: "... Failed to connect. (Could not connect to ...: Connection refused)".
fn unreachable(debug: &str) -> String {
    let lower = debug.to_lowercase();
    for (sign, words) in [
        ("connection refused", "connection refused; is the camera on, and the port right?"),
        ("timed out", "no answer in time; is the address right, and the camera on?"),
        ("timeout", "no answer in time; is the address right, and the camera on?"),
        ("no route", "no route to it; is this machine in the camera's network?"),
        ("network is unreachable", "this machine is not connected to its network"),
        ("resolv", "its name cannot be resolved; is it right?"),
        ("name or service not known", "its name cannot be resolved; is it right?"),
        ("name resolution", "its name cannot be resolved; is it right?"),
    ] {
        if lower.contains(sign) {
            return words.to_owned();
        }
    }
    "no connection".to_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}
