//! The numeric gate: no backend is believed before it has given, on known frames, what ONNX Runtime on the CPU gives in
//! 32 bits. Compilers and drivers for GPUs have been seen to give wrong answers silently. Runs in the thread that opens
//! the backend, before any camera is watched.
//!
//! Every size of batch that the backend may compile for is tried, and every position in it with frames that no other
//! position gets, so that entries that were mixed up show.

mod closeness;
pub mod frames;
mod limits;
mod reference;

use std::fmt;

pub use self::reference::Reference;

use self::limits::{Seen, outputs};
use super::Backend;
use crate::preprocess::letterbox;
use crate::types::{Batch, CameraId, Features, Frame};

/// What the gate found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Name of the backend.
    pub backend: String,
    /// Sizes of batch that were tried.
    pub batches: Vec<usize>,
    /// One an output.
    pub outputs: Vec<Measured>,
    /// What has nothing to do with one output: an inference that failed, an answer for another frame.
    pub failure: Option<String>,
}

/// The worst that was seen of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Name of the output.
    pub name: String,
    /// Least cosine with the reference; NaN when there was a value that is no number.
    pub cosine: f64,
    /// Largest length of the difference over that of the reference.
    pub relative: f64,
    /// How much of what the limits allow was used, of the one that is nearest: more than 1 breaks it.
    pub used: f64,
    /// The first limit that it broke, and where.
    pub broken: Option<String>,
}

impl Report {
    /// Why the backend must not be used; none when it may be.
    pub fn rejection(&self) -> Option<String> {
        if let Some(failure) = &self.failure {
            return Some(failure.clone());
        }
        let mut broken = self.outputs.iter().filter_map(|output| output.broken.as_ref());
        let first = broken.next()?;
        match broken.count() {
            0 => Some(first.clone()),
            others => Some(format!("{first}; {others} more of {} outputs are wrong", self.outputs.len())),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches: Vec<String> = self.batches.iter().map(ToString::to_string).collect();
        writeln!(f, "{}, batches of {}", self.backend, batches.join(", "))?;
        let width = self.outputs.iter().map(|output| output.name.len()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$}  least cosine  largest difference  of what is allowed", "output")?;
        for Measured { name, cosine, relative, used, broken } in &self.outputs {
            let mark = if broken.is_some() { "  WRONG" } else { "" };
            let percent = used * 100.0;
            writeln!(f, "{name:width$}  {cosine:12.7}  {relative:18.1e}  {percent:16.1} %{mark}")?;
        }
        match self.rejection() {
            None => writeln!(f, "agrees with ONNX Runtime on the CPU"),
            Some(why) => writeln!(f, "REJECTED: {why}"),
        }
    }
}

/// Tries the backend on the reference's frames, in every size and position of batch.
pub fn check(backend: &mut dyn Backend, reference: &Reference) -> Report {
    let spec = backend.spec().clone();
    let batches = batch_sizes(spec.max_batch);
    let mut report = Report { backend: spec.name, batches, outputs: vec![], failure: None };
    let wanted: Vec<&str> = reference.heads.iter().map(|head| head.name.as_str()).collect();
    if spec.heads != wanted {
        report.failure = Some(format!("it has the heads {:?}, the settings {wanted:?}", spec.heads));
        return report;
    }
    for size in report.batches.clone() {
        for round in rounds(size, reference.frames.len()) {
            if let Err(failure) = one_batch(backend, reference, &round, &mut report.outputs) {
                report.failure = Some(format!("batch of {size}: {failure}"));
                return report;
            }
        }
    }
    report
}

/// The powers of two up to the largest batch, which backends compile for; the largest itself; and three, which has to
/// be filled up to four.
fn batch_sizes(max_batch: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |size: &usize| size.checked_mul(2));
    let mut sizes: Vec<usize> = powers.take_while(|size| *size <= max_batch).chain([3, max_batch]).collect();
    sizes.retain(|size| (1..=max_batch).contains(size));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Which frame goes to which position, batch after batch, so that all frames are seen and no two positions get the
/// same frames: position `p` gets the digits of `p` to the base of the number of frames.
fn rounds(size: usize, frames: usize) -> Vec<Vec<usize>> {
    if size < frames {
        let count = frames.div_ceil(size);
        return (0..count).map(|round| (0..size).map(|p| (round * size + p) % frames).collect()).collect();
    }
    let bases = std::iter::successors(Some(1), |base: &usize| base.checked_mul(frames.max(2)));
    bases.take_while(|base| *base < size).map(|base| (0..size).map(|p| p / base % frames).collect()).collect()
}

/// Runs one batch and measures all that comes out. `which` are indices of the reference's frames.
fn one_batch(
    backend: &mut dyn Backend,
    reference: &Reference,
    which: &[usize],
    measured: &mut Vec<Measured>,
) -> Result<(), String> {
    let frame = |(position, at): (usize, &usize)| {
        let camera = CameraId::new(&format!("gate-{position}")).map_err(|error| error.to_string())?;
        let frame = reference.frames.get(*at).ok_or("a frame is missing")?;
        Ok(Frame { camera, ..frame.clone() })
    };
    let frames: Vec<Frame> = which.iter().enumerate().map(frame).collect::<Result<_, String>>()?;
    let answers = backend.infer(&Batch { frames: frames.clone() }).map_err(|error| error.to_string())?;
    if answers.len() != frames.len() {
        return Err(format!("{} answers came", answers.len()));
    }
    for (position, (answer, (frame, at))) in answers.iter().zip(frames.iter().zip(which)).enumerate() {
        let place = format!("frame {at}, position {position} of a batch of {}", which.len());
        let expected = reference.expected.get(*at).ok_or("a frame has no reference")?;
        same_frame(answer, frame, reference.input).map_err(|problem| format!("{place}: {problem}"))?;
        for (name, seen) in outputs(answer, expected, &reference.heads) {
            note(measured, &name, seen, &place);
        }
    }
    Ok(())
}

/// Whether the answer is for that frame and says rightly where its pixels went.
fn same_frame(answer: &Features, frame: &Frame, input: [u32; 2]) -> Result<(), String> {
    if (&answer.frame.camera, answer.frame.seq) != (&frame.camera, frame.seq) {
        return Err("the answer is for another frame".to_owned());
    }
    let (found, right) = (answer.transform, letterbox([frame.width, frame.height], input));
    if found != right {
        return Err(format!("the pixels went elsewhere: {found:?} instead of {right:?}"));
    }
    Ok(())
}

/// Adds what was seen of an output to the worst so far.
fn note(measured: &mut Vec<Measured>, name: &str, seen: Seen, place: &str) {
    let broken = seen.broken.map(|problem| format!("output '{name}' ({place}): {problem}"));
    let (cosine, relative, used) = (seen.cosine, seen.relative, seen.used);
    let Some(known) = measured.iter_mut().find(|known| known.name == name) else {
        measured.push(Measured { name: name.to_owned(), cosine, relative, used, broken });
        return;
    };
    known.cosine = worse(known.cosine, cosine, f64::min);
    known.relative = worse(known.relative, relative, f64::max);
    known.used = worse(known.used, used, f64::max);
    known.broken = known.broken.take().or(broken);
}

/// The worse of two; what is no number is the worst, and `min` and `max` would pass over it.
fn worse(a: f64, b: f64, of: fn(f64, f64) -> f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { of(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_that_may_be_compiled_is_tried() {
        assert_eq!(batch_sizes(1), [1]);
        assert_eq!(batch_sizes(4), [1, 2, 3, 4]);
        assert_eq!(batch_sizes(6), [1, 2, 3, 4, 6]);
        assert_eq!(batch_sizes(16), [1, 2, 3, 4, 8, 16]);
    }

    #[test]
    fn every_frame_is_seen_and_no_two_positions_see_the_same() {
        for size in 1..=40 {
            let rounds = rounds(size, 4);
            let mut seen: Vec<usize> = rounds.concat();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 1, 2, 3], "batch of {size}");
            let mut columns: Vec<Vec<usize>> =
                (0..size).map(|p| rounds.iter().map(|round| round[p]).collect()).collect();
            columns.sort();
            columns.dedup();
            assert_eq!(columns.len(), size, "batch of {size}");
        }
        assert_eq!(rounds(8, 4), [[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1, 1]]);
    }
}
