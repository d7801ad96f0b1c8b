//! The file that keeps the embeddings of an incident, beside its picture: safetensors with `frame` and `things` in half
//! precision, and what incident it was in the metadata.

use std::collections::HashMap;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::clock::UtcMillis;
use crate::types::{CameraId, ClassName, RuleId};

const FORMAT: &str = "standoff-embedding-1";

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("the embeddings of an incident are unusable: {0}")]
pub struct RecordError(String);

/// What incident it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The camera.
    pub camera: CameraId,
    /// The rule that alarmed.
    pub rule: RuleId,
    /// When the picture was taken.
    pub captured: UtcMillis,
    /// The event, as it was sent.
    pub event_id: String,
    /// What made the embeddings: only those of one model and input size can be compared.
    pub model: String,
    /// Classes of the things, in the order of their embeddings.
    classes: Vec<ClassName>,
}

impl About {
    /// Of an incident whose things are not said yet.
    pub fn new(camera: CameraId, rule: RuleId, captured: UtcMillis, event_id: &str, model: &str) -> Self {
        let (event_id, model) = (event_id.to_owned(), model.to_owned());
        Self { camera, rule, captured, event_id, model, classes: vec![] }
    }
}

/// The name of what makes embeddings: a model by the SHA-256 of its weights, and the size of its input in pixels.
pub fn model_name(sha256: &str, input_width: u32, input_height: u32) -> String {
    format!("{}-{input_width}x{input_height}", sha256.get(..12).unwrap_or(sha256))
}

/// One of the two things of the pair that alarmed.
#[derive(Debug, Clone, PartialEq)]
pub struct ThingRecord {
    /// What it is.
    pub class: ClassName,
    /// Its embedding, of length 1.
    pub embedding: Vec<f32>,
}

/// Embeddings of an incident.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What incident it was.
    pub about: About,
    /// The whole frame, of length 1.
    pub frame: Vec<f32>,
    /// The things of the pair, without those that may not be recognised and without any where the backend gave no tokens.
    pub things: Vec<ThingRecord>,
}

impl Record {
    /// The file's bytes.
    ///
    /// # Errors
    /// When a thing's embedding is as long as no other's.
    pub fn write(&self) -> Result<Vec<u8>, RecordError> {
        let dim = self.things.first().map_or(0, |thing| thing.embedding.len());
        if self.things.iter().any(|thing| thing.embedding.len() != dim) {
            return Err(RecordError("its things have embeddings of different lengths".to_owned()));
        }
        let failed = |e: &dyn std::fmt::Display| RecordError(e.to_string());
        let classes = self.things.iter().map(|thing| thing.class.clone()).collect();
        let about =
            serde_json::to_string(&About { classes, ..self.about.clone() }).map_err(|e| failed(&e))?;
        let bytes = |values: &mut dyn Iterator<Item = &f32>| -> Vec<u8> {
            values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
        };
        let frame = bytes(&mut self.frame.iter());
        let things = bytes(&mut self.things.iter().flat_map(|thing| &thing.embedding));
        let view = |shape, data| TensorView::new(Dtype::F16, shape, data).map_err(|e| failed(&e));
        let tensors = [
            ("frame", view(vec![self.frame.len()], &frame)?),
            ("things", view(vec![self.things.len(), dim], &things)?),
        ];
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("about".to_owned(), about)]);
        safetensors::tensor::serialize(tensors, Some(metadata)).map_err(|e| failed(&e))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is damaged or of another format.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let damaged = |e: &dyn std::fmt::Display| RecordError(format!("the file is damaged: {e}"));
        // The header is parsed once: a search reads very many of these files.
        let (length, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(&e))?;
        let metadata = header.metadata().as_ref().ok_or_else(|| damaged(&"it says nothing of itself"))?;
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(RecordError(
                "the file is of another format; this is not a version that reads it".to_owned(),
            ));
        }
        let about = metadata.get("about").ok_or_else(|| damaged(&"it names no incident"))?;
        let about: About = serde_json::from_str(about).map_err(|e| damaged(&e))?;
        let values = |name: &str| -> Result<Vec<f32>, RecordError> {
            let info = header.info(name).filter(|info| info.dtype == Dtype::F16);
            let info = info.ok_or_else(|| damaged(&format!("it has no half floats '{name}'")))?;
            let (from, to) = info.data_offsets;
            // Counted from the end of the header, which begins with its own length in eight bytes.
            let data =
                bytes.get(8 + length + from..8 + length + to).ok_or_else(|| damaged(&"it is too short"))?;
            let values: Vec<f32> =
                data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(damaged(&"a number is none")) }
        };
        let (frame, things) = (values("frame")?, values("things")?);
        let dim = things.len().checked_div(about.classes.len()).unwrap_or(0);
        if dim * about.classes.len() != things.len() || (dim == 0 && !about.classes.is_empty()) {
            return Err(damaged(&"classes and things do not fit"));
        }
        let things = about.classes.iter().zip(things.chunks_exact(dim.max(1)));
        let things =
            things.map(|(class, values)| ThingRecord { class: class.clone(), embedding: values.to_vec() });
        Ok(Self { things: things.collect(), frame, about: About { classes: vec![], ..about } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(things: usize) -> Record {
        let about = About::new(
            CameraId::new("dock").unwrap(),
            RuleId::new("edge").unwrap(),
            UtcMillis(1_795_300_000_000),
            "ab-7",
            &model_name("0123456789abcdef", 392, 224),
        );
        let thing = |class: &str, embedding| ThingRecord { class: ClassName::new(class).unwrap(), embedding };
        let things =
            [thing("forklift", vec![0.5, -0.25]), thing("person", vec![0.0, 1.0])][..things].to_vec();
        Record { about, frame: vec![0.75, 0.5, -1.0], things }
    }

    #[test]
    fn what_was_written_is_read() {
        for things in 0..=2 {
            let record = record(things);
            let bytes = record.write().unwrap();
            assert_eq!(Record::read(&bytes).unwrap(), record);
            assert_eq!(record.about.model, "0123456789ab-392x224");
        }
    }

    #[test]
    fn damaged_files_are_refused_at_any_length() {
        let bytes = record(2).write().unwrap();
        for length in 0..bytes.len() {
            assert!(Record::read(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut uneven = record(2);
        uneven.things[0].embedding.pop();
        assert!(uneven.write().unwrap_err().to_string().contains("different lengths"));
        let mut odd = record(1);
        odd.frame[0] = f32::NAN;
        assert!(Record::read(&odd.write().unwrap()).unwrap_err().to_string().contains("a number is none"));
    }
}
