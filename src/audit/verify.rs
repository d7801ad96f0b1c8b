//! Reads a log from its first line to its last and says whether it is one unbroken chain.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::{self, Head, Line, NOTHING};
use super::log;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: usize,
    /// Sound lines, until the first that is not.
    pub records: u64,
    /// Number of the first line.
    pub first: u64,
    /// The last sound line.
    pub head: Option<Head>,
    /// What is worth knowing and no break.
    pub notes: Vec<Note>,
    /// Where the chain breaks first.
    pub broken: Option<Broken>,
}

/// Something that happened to the log and is stated in it, or that a crash explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The daemon did not say that it stops before it started again: it was killed, or power was lost.
    Killed {
        /// The line of the next start.
        n: u64,
    },
    /// A crash left an unfinished line, which was stated at the next start.
    Recovered {
        /// The line that states it.
        n: u64,
        /// Length of what was unfinished.
        bytes: u64,
    },
    /// The log ends in an unfinished line: the daemon was killed, or it is writing just now.
    Unfinished {
        /// Its length.
        bytes: usize,
    },
    /// Entries were lost because they could not be written in time.
    Lost {
        /// The line that states it.
        n: u64,
        /// How many.
        entries: u64,
    },
    /// The oldest lines were deleted because the log had become too large.
    Pruned {
        /// The last that was deleted.
        through: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { n } => {
                write!(f, "before line {n} the daemon ended without saying so (killed, or no power)")
            }
            Self::Recovered { n, bytes } => {
                write!(f, "line {n} states that a crash left {bytes} bytes of an unfinished line before it")
            }
            Self::Unfinished { bytes } => {
                write!(f, "the last {bytes} bytes are an unfinished line (killed, or being written)")
            }
            Self::Lost { n, entries } => {
                write!(f, "line {n} states that {entries} entries could not be written")
            }
            Self::Pruned { through } => {
                write!(f, "lines up to {through} were deleted by size, and that is stated")
            }
        }
    }
}

/// Where the chain breaks, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// Its line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Why a log could not be checked at all.
#[derive(Debug, thiserror::Error)]
#[error("the audit log '{path}' cannot be read: {source}")]
pub struct VerifyError {
    path: PathBuf,
    source: io::Error,
}

/// Checks the log in `folder`. `known` is a head that was kept elsewhere: the log must hold that very line.
pub fn verify(folder: &Path, known: Option<&Head>) -> Result<Report, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError { path: path.clone(), source }
    };
    let files = log::files(folder).map_err(failed(folder))?;
    let mut walk = Walk { known, ..Walk::default() };
    for (i, (first, path)) in files.iter().enumerate() {
        let bytes = log::read(path).map_err(failed(path))?;
        walk.report.files += 1;
        let is_last = i + 1 == files.len();
        if let Err((line, what)) = walk.file(&bytes, *first, is_last) {
            walk.report.broken = Some(Broken { file: path.clone(), line, what });
            return Ok(walk.report);
        }
    }
    if let Some((at, what)) = walk.end() {
        let file = if at == 0 { files.last() } else { files.first() };
        let file = file.map_or_else(|| folder.to_owned(), |(_, path)| path.clone());
        walk.report.broken = Some(Broken { file, line: at, what });
    }
    Ok(walk.report)
}

#[derive(Default)]
struct Walk<'a> {
    known: Option<&'a Head>,
    known_seen: bool,
    report: Report,
    last_kind: String,
    /// What the log says to be deleted.
    pruned: Vec<u64>,
}

impl Walk<'_> {
    /// One file. Errors with the line that breaks the chain.
    fn file(&mut self, bytes: &[u8], first: u64, is_last: bool) -> Result<(), (usize, String)> {
        let mut at = 0;
        let mut number = 0;
        while at < bytes.len() {
            number += 1;
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                return self.tail(rest, is_last).map_err(|what| (number, what));
            };
            let line = chain::read(rest.get(..length).unwrap_or_default());
            let line = match line {
                Ok(line) => line,
                Err(what) => {
                    // Unless a later line states it, as it does after a crash.
                    let (recovered, skipped, lines) =
                        self.recovery(rest).ok_or_else(|| (number, what.to_owned()))?;
                    at += skipped;
                    number += lines;
                    recovered
                }
            };
            if number == 1 && line.n != first {
                return Err((
                    number,
                    format!("the file's name says line {first}, and it begins with {}", line.n),
                ));
            }
            self.accept(&line).map_err(|what| (number, what))?;
            at += bytes
                .get(at..)
                .unwrap_or_default()
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(0, |n| n + 1);
        }
        Ok(())
    }

    /// A line that follows the last one.
    fn accept(&mut self, line: &Line) -> Result<(), String> {
        match &self.report.head {
            Some(head) if line.n != head.n + 1 => {
                let (after, n) = (head.n, line.n);
                return Err(if n > after {
                    format!("line {n} follows line {after}: {} lines are missing", n - after - 1)
                } else {
                    format!("line {n} follows line {after}: it is out of order or repeated")
                });
            }
            Some(head) if line.prev != head.hash => {
                return Err(format!(
                    "line {} does not follow the line before it: one of them was replaced",
                    line.n
                ));
            }
            None if line.n == 1 && line.prev != NOTHING => {
                return Err("the first line claims that there was one before it".to_owned());
            }
            None if line.n == 0 => return Err("there is no line 0".to_owned()),
            None => self.report.first = line.n,
            Some(_) => {}
        }
        if let Some(known) = self.known.filter(|known| known.n == line.n) {
            if known.hash != line.hash {
                return Err(format!("line {} is not the one whose hash was kept elsewhere", line.n));
            }
            self.known_seen = true;
        }
        let number = |key: &str| line.data.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        match line.kind.as_str() {
            "started" if self.report.head.is_some() && self.last_kind != "stopped" => {
                self.report.notes.push(Note::Killed { n: line.n });
            }
            "recovered" => {
                self.report.notes.push(Note::Recovered { n: line.n, bytes: number("torn_bytes") });
            }
            "lost" => self.report.notes.push(Note::Lost { n: line.n, entries: number("entries") }),
            "pruned" => self.pruned.push(number("through")),
            _ => {}
        }
        self.last_kind.clone_from(&line.kind);
        self.report.head = Some(line.head());
        self.report.records += 1;
        Ok(())
    }

    /// The line in `rest` that states the unsound bytes before it: the line, how many bytes to skip and how many
    /// lines those are.
    fn recovery(&self, rest: &[u8]) -> Option<(Line, usize, usize)> {
        let mut at = 0;
        let mut lines = 0;
        while let Some(length) = rest.get(at..)?.iter().position(|byte| *byte == b'\n') {
            if at > 0
                && let Ok(line) = chain::read(rest.get(at..at + length)?)
            {
                let torn = rest.get(..at)?;
                let says = |key: &str| line.data.get(key);
                let states = line.kind == "recovered"
                    && says("torn_bytes").and_then(serde_json::Value::as_u64) == u64::try_from(at).ok()
                    && says("torn_sha256").and_then(serde_json::Value::as_str) == Some(&chain::sha256(torn));
                // The first sound line decides: a crash leaves nothing sound between.
                return states.then_some((line, at, lines));
            }
            at += length + 1;
            lines += 1;
        }
        None
    }

    /// What follows the last newline of a file.
    fn tail(&mut self, tail: &[u8], is_last: bool) -> Result<(), String> {
        let begins = format!("{{\"v\":1,\"n\":{},", self.report.head.as_ref().map_or(1, |head| head.n + 1));
        let compared = tail.len().min(begins.len());
        let plausible = tail.get(..compared) == begins.as_bytes().get(..compared);
        // A crash leaves the beginning of a line; a whole line with something behind it is no such thing.
        let whole = (1..=tail.len().min(2)).any(|cut| {
            tail.len()
                .checked_sub(cut)
                .and_then(|end| tail.get(..end))
                .is_some_and(|part| chain::read(part).is_ok())
        });
        if is_last && plausible && !whole {
            self.report.notes.push(Note::Unfinished { bytes: tail.len() });
            return Ok(());
        }
        Err("the line is not ended as the log ends its lines".to_owned())
    }

    /// What can only be told at the end: the line (0 for the log's end) and what is wrong.
    fn end(&mut self) -> Option<(usize, String)> {
        let first = self.report.first;
        if first > 1 {
            if !self.pruned.contains(&(first - 1)) {
                return Some((
                    1,
                    format!(
                        "the log begins with line {first}, and no line states that those before were deleted"
                    ),
                ));
            }
            self.report.notes.insert(0, Note::Pruned { through: first - 1 });
        }
        let known = self.known?;
        let last = self.report.head.as_ref().map_or(0, |head| head.n);
        if self.known_seen || known.n == 0 || (known.n < first) {
            return None;
        }
        Some((
            0,
            format!(
                "line {} was known elsewhere, and the log ends with line {last}: its end was cut off",
                known.n
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::AuditSettings;
    use super::super::log::Log;
    use super::*;
    use crate::clock::UtcMillis;

    const TS: UtcMillis = UtcMillis(1_790_000_000_000);

    fn settings(folder: &Path) -> AuditSettings {
        AuditSettings { folder: folder.join("audit"), max_bytes: 1 << 20 }
    }

    fn write(settings: &AuditSettings, count: u64) -> Head {
        let mut log = Log::open(settings, TS).unwrap();
        for i in 0..count {
            log.append(TS, "event", &json!({"camera": "dock", "i": i})).unwrap();
        }
        log.sync().unwrap();
        log.head().clone()
    }

    fn only_file(settings: &AuditSettings) -> PathBuf {
        let files = log::files(&settings.folder).unwrap();
        assert_eq!(files.len(), 1);
        files[0].1.clone()
    }

    fn check(settings: &AuditSettings) -> Report {
        verify(&settings.folder, None).unwrap()
    }

    #[test]
    fn a_sound_log_is_sound_across_openings() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        write(&settings, 3);
        let head = write(&settings, 4);
        let report = check(&settings);
        assert_eq!((report.records, report.first, report.broken.clone()), (7, 1, None));
        assert!(report.notes.is_empty());
        assert_eq!(report.head, Some(head.clone()));
        assert_eq!(verify(&settings.folder, Some(&head)).unwrap().broken, None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        write(&settings, 4);
        let file = only_file(&settings);
        let sound = std::fs::read(&file).unwrap();
        for at in 0..sound.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = sound.clone();
                changed[at] ^= bit;
                std::fs::write(&file, &changed).unwrap();
                let report = check(&settings);
                assert!(report.broken.is_some(), "byte {at} bit {bit:02x}: {report:?}");
            }
        }
    }

    #[test]
    fn a_flip_is_found_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        write(&settings, 5);
        let file = only_file(&settings);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("\"i\":2", "\"i\":9", 1)).unwrap();
        let report = check(&settings);
        let broken = report.broken.unwrap();
        assert_eq!((broken.line, report.records), (3, 2), "{broken}");
    }

    #[test]
    fn lines_removed_swapped_repeated_or_made_up_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let head = write(&settings, 5);
        let file = only_file(&settings);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let broken_with = |lines: Vec<&str>| {
            std::fs::write(&file, format!("{}\n", lines.join("\n"))).unwrap();
            check(&settings).broken.map(|broken| (broken.line, broken.what))
        };
        assert_eq!(broken_with(lines.clone()), None);
        for gone in 1..4 {
            let mut left = lines.clone();
            left.remove(gone);
            let (line, what) = broken_with(left).unwrap();
            assert_eq!(line, gone + 1);
            assert!(what.contains("1 lines are missing"), "{what}");
        }
        let mut first_gone = lines.clone();
        first_gone.remove(0);
        assert!(broken_with(first_gone).is_some());
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_eq!(broken_with(swapped).unwrap().0, 2);
        let mut repeated = lines.clone();
        repeated.insert(2, lines[1]);
        assert_eq!(broken_with(repeated).unwrap().0, 3);
        // A line that is sound by itself but was made from another past.
        let other = Head { n: 2, hash: chain::sha256(b"another") };
        let (made_up, _) = chain::next(&other, TS, "event", &json!({"i": 2}));
        let mut replaced = lines.clone();
        replaced[2] = made_up.trim_end();
        assert_eq!(broken_with(replaced).unwrap().0, 3);
        // The end can be cut without a trace in the log itself, and not when the head is known elsewhere.
        let cut = lines[..3].to_vec();
        assert_eq!(broken_with(cut), None);
        let broken = verify(&settings.folder, Some(&head)).unwrap().broken.unwrap();
        assert!(broken.what.contains("cut off"), "{broken}");
    }

    #[test]
    fn files_follow_each_other_and_the_oldest_go_with_a_statement() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings { folder: folder.path().join("audit"), max_bytes: 100_000 };
        write(&settings, 200);
        let files = log::files(&settings.folder).unwrap();
        assert!(files.len() >= 2, "{files:?}");
        assert_eq!(check(&settings).broken, None);
        let head = write(&settings, 2000);
        let report = check(&settings);
        assert_eq!(report.broken, None, "{report:?}");
        assert!(report.first > 1 && report.notes.contains(&Note::Pruned { through: report.first - 1 }));
        assert_eq!(report.head, Some(head));
        let files = log::files(&settings.folder).unwrap();
        let size: u64 = files.iter().map(|(_, path)| path.metadata().unwrap().len()).sum();
        assert!(size <= 100_000 + 2 * chain::LINE_MAX as u64, "{size}");
        // A file that somebody takes away is missed, the first as well as one between.
        for gone in [0, 1] {
            let bytes = std::fs::read(&files[gone].1).unwrap();
            std::fs::remove_file(&files[gone].1).unwrap();
            assert!(check(&settings).broken.is_some(), "file {gone}");
            std::fs::write(&files[gone].1, bytes).unwrap();
        }
        assert_eq!(check(&settings).broken, None);
    }

    #[test]
    fn a_kill_is_noted_and_a_stop_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let run = |kinds: &[&str]| {
            let mut log = Log::open(&settings, TS).unwrap();
            kinds.iter().for_each(|kind| log.append(TS, kind, &json!({})).unwrap());
        };
        run(&["started", "event", "stopped"]);
        run(&["started", "event"]);
        run(&["started"]);
        assert_eq!(check(&settings).notes, [Note::Killed { n: 6 }]);
    }

    #[test]
    fn a_missing_folder_is_an_error_and_an_empty_one_a_log_without_lines() {
        let folder = tempfile::tempdir().unwrap();
        assert!(verify(&folder.path().join("none"), None).is_err());
        let report = verify(folder.path(), None).unwrap();
        assert_eq!((report.records, report.broken, report.head), (0, None, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// Power is lost at any byte; then zeros or nothing follow. The log goes on, is sound, and says so.
        #[test]
        fn a_torn_end_is_healed_and_stated(cut in 1usize..2000, zeros in 0usize..40, spoil in any::<proptest::sample::Index>()) {
            let folder = tempfile::tempdir().unwrap();
            let settings = settings(folder.path());
            write(&settings, 6);
            let file = only_file(&settings);
            let mut bytes = std::fs::read(&file).unwrap();
            bytes.truncate(cut.min(bytes.len()));
            let whole = bytes.last() == Some(&b'\n');
            bytes.extend(vec![0; zeros]);
            std::fs::write(&file, &bytes).unwrap();
            let before = check(&settings);
            let sound = whole && zeros == 0;
            prop_assert!(sound || before.broken.is_some() || !before.notes.is_empty(), "{:?}", before);

            write(&settings, 3);
            let report = check(&settings);
            prop_assert!(report.broken.is_none(), "{:?}", report);
            prop_assert_eq!(report.notes.iter().any(|note| matches!(note, Note::Recovered { .. })), !sound);
            prop_assert_eq!(report.records, before.records + 3 + u64::from(!sound));
            // And what is torn is under guard as well.
            let mut bytes = std::fs::read(&file).unwrap();
            let at = spoil.index(bytes.len());
            bytes[at] ^= 0x04;
            std::fs::write(&file, &bytes).unwrap();
            prop_assert!(check(&settings).broken.is_some(), "byte {}", at);
        }
    }
}
