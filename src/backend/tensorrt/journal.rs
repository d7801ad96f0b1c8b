//! What TensorRT said, for the error that follows. Filled from its threads through the shim.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines kept: the last words are what explains a failure.
const KEPT: usize = 100;
/// Severity of the shim's own words, which say more than the lines of TensorRT's around them.
const OWN: i32 = -1;
/// TensorRT's severities up to this one are errors.
const ERROR: i32 = 1;
/// And up to this one worth a person's attention.
const WARNING: i32 = 2;

/// Hears each line with its severity (-1 the shim, 0 internal error, 1 error, 2 warning, 3 information, 4 verbose).
pub(super) type Hear = dyn Fn(i32, &str) + Send + Sync;

/// A journal. Its address is given to TensorRT, so it lives in an [`Arc`] that outlives what TensorRT made.
#[derive(Default)]
pub(super) struct Journal {
    lines: Mutex<Vec<(i32, String)>>,
    hear: Option<Box<Hear>>,
}

impl Journal {
    /// Empty; `hear` gets every line as it comes.
    pub fn new(hear: Option<Box<Hear>>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), hear })
    }

    /// What goes to the shim beside [`log`].
    pub fn user(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// The shim's words in one line, else TensorRT's errors, else its last warning; and forgets everything.
    pub fn last_words(&self) -> String {
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        let up_to = |most: i32| lines.iter().filter(move |line| line.0 <= most).map(|line| &*line.1);
        let mut errors: Vec<&str> = up_to(OWN).collect();
        if errors.is_empty() {
            errors.extend(up_to(ERROR));
        }
        errors.dedup();
        if errors.is_empty() {
            errors.extend(lines.iter().rev().find(|line| line.0 <= WARNING).map(|line| &*line.1));
        }
        if errors.is_empty() { "it said nothing".to_owned() } else { errors.join("; ") }
    }

    fn write(&self, severity: i32, words: &str) {
        if let Some(hear) = &self.hear {
            hear(severity, words);
        }
        if severity <= WARNING {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == KEPT {
                lines.remove(0);
            }
            lines.push((severity, words.trim().to_owned()));
        }
    }
}

/// What the shim calls for each line.
///
/// # Safety
/// `user` is from [`Journal::user`] of a living journal, `words` a C string or null.
pub(super) unsafe extern "C" fn log(user: *mut c_void, severity: i32, words: *const c_char) {
    if user.is_null() || words.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let (journal, words) = unsafe { (&*user.cast::<Journal>(), CStr::from_ptr(words)) };
    journal.write(severity, &words.to_string_lossy());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_first_and_are_forgotten_once_told() {
        let journal = Journal::new(None);
        assert_eq!(journal.last_words(), "it said nothing");
        // SAFETY: the journal lives, the words are C strings.
        let say = |severity, words: &CStr| unsafe { log(journal.user(), severity, words.as_ptr()) };
        say(2, c"slow");
        say(3, c"chatter");
        assert_eq!(journal.last_words(), "slow");
        say(2, c"slow");
        say(1, c"no such operator ");
        say(1, c"no such operator");
        say(0, c"cannot go on");
        assert_eq!(journal.last_words(), "no such operator; cannot go on");
        say(1, c"While parsing");
        say(-1, c"node 'x': no such operator");
        assert_eq!(journal.last_words(), "node 'x': no such operator");
        (0..3 * KEPT).for_each(|_| say(1, c"again"));
        assert_eq!(journal.lines.lock().unwrap().len(), KEPT);
    }
}
