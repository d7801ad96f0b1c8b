//! Examples: adding, listing, removing.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{EXAMPLES_MAX, Folder, PICTURE_MAX_BYTES, TeachError, file_error, read, replace};
use crate::clock::UtcMillis;
use crate::heads::taught::{Backbone, Region, Tokens};
use crate::model::weights::hex;
use crate::types::{CameraId, ClassName, StateName, StateValue};

/// One example: a line of `examples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Its number, never given twice while it is there.
    pub id: u64,
    /// Its picture's file in `pictures/`.
    pub picture: String,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// What it shows.
    pub label: Label,
    /// The camera that it is of, when that is known.
    pub camera: Option<CameraId>,
    /// Where it came from, for people.
    pub source: String,
    /// When it was added.
    pub added: UtcMillis,
}

/// What an example shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// A class in a part of the picture.
    Class {
        /// The class; none for what is none of them.
        class: Option<ClassName>,
        /// The part, pixels.
        region: Region,
    },
    /// The value of a state.
    State {
        /// The state.
        state: StateName,
        /// Its value.
        value: StateValue,
        /// The zone as shares of the picture's width and height; none for the whole picture.
        zone: Option<Vec<[f64; 2]>>,
    },
}

/// An example that is to be added.
#[derive(Debug, Clone)]
pub struct New<'a> {
    /// Bytes of a jpg or png file.
    pub picture: &'a [u8],
    /// `jpg` or `png`.
    pub kind: &'static str,
    /// Its tokens.
    pub tokens: &'a Tokens,
    /// What made them.
    pub backbone: &'a Backbone,
    /// What it shows.
    pub label: Label,
    /// The camera that it is of, when that is known.
    pub camera: Option<CameraId>,
    /// Where it came from.
    pub source: String,
    /// When.
    pub added: UtcMillis,
}

const LIST: &str = "examples.jsonl";
/// A thousand outlines of a thousand points are less.
const LIST_MAX_BYTES: u64 = 64 << 20;

impl Folder {
    fn list(&self) -> PathBuf {
        self.dir.join(LIST)
    }

    /// The file of an example's picture.
    pub fn picture(&self, example: &Example) -> PathBuf {
        self.dir.join("pictures").join(&example.picture)
    }

    /// All examples, in the order in which they were added.
    ///
    /// # Errors
    /// When the list cannot be read or a line of it is none of ours.
    pub fn examples(&self) -> Result<Vec<Example>, TeachError> {
        let path = self.list();
        let Some(bytes) = read(&path, LIST_MAX_BYTES)? else { return Ok(vec![]) };
        let damaged = |problem: String| TeachError::Damaged {
            path: path.clone(),
            problem,
            mend: "take the line out, or the file away to begin anew",
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
        let mut examples: Vec<Example> = vec![];
        for (number, line) in text.lines().enumerate() {
            let example: Example =
                serde_json::from_str(line).map_err(|e| damaged(format!("line {}: {e}", number + 1)))?;
            // The name becomes a path.
            let name = example.picture.split_once('.');
            if !name.is_some_and(|(sha, kind)| is_hex(sha) && matches!(kind, "jpg" | "png")) {
                return Err(damaged(format!(
                    "line {}: '{}' is no picture of ours",
                    number + 1,
                    example.picture
                )));
            }
            if examples.iter().any(|known| known.id == example.id) {
                return Err(damaged(format!("line {}: example {} is there twice", number + 1, example.id)));
            }
            examples.push(example);
        }
        Ok(examples)
    }

    fn write_list(&self, examples: &[Example]) -> Result<(), TeachError> {
        let path = self.list();
        let mut text = String::new();
        for example in examples {
            let line = serde_json::to_string(example).map_err(|e| file_error(&path)(e.into()))?;
            text.push_str(&line);
            text.push('\n');
        }
        replace(&path, text.as_bytes())
    }

    /// Adds an example. The list is written last: before that the folder says nothing of it.
    ///
    /// # Errors
    /// A mark outside of the picture, a full folder, or a file that cannot be written.
    pub fn add(&self, new: New<'_>) -> Result<Example, TeachError> {
        let transform = &new.tokens.transform;
        let (width, height) = (transform.source_width, transform.source_height);
        let problem = match &new.label {
            Label::Class { region, .. } => region.problem(width, height),
            Label::State { zone, .. } => {
                zone.as_ref().and_then(|zone| Region::Polygon(zone.clone()).problem(1, 1))
            }
        };
        if let Some(problem) = problem {
            return Err(TeachError::Mark(problem));
        }
        let mut examples = self.examples()?;
        if examples.len() >= EXAMPLES_MAX {
            return Err(TeachError::Full);
        }
        let sha = &hex(&Sha256::digest(new.picture))[..24];
        let example = Example {
            id: examples.iter().map(|example| example.id).max().unwrap_or(0) + 1,
            picture: format!("{sha}.{}", new.kind),
            width,
            height,
            label: new.label,
            camera: new.camera,
            source: new.source,
            added: new.added,
        };
        let picture = self.picture(&example);
        if new.picture.len() as u64 > PICTURE_MAX_BYTES {
            return Err(TeachError::Mark(format!("the picture is larger than {PICTURE_MAX_BYTES} bytes")));
        }
        replace(&picture, new.picture)?;
        self.keep_tokens(&example, new.tokens, new.backbone)?;
        examples.push(example.clone());
        self.write_list(&examples)?;
        Ok(example)
    }

    /// Removes an example, and its picture unless another one shows the same.
    ///
    /// # Errors
    /// When there is none of that number, or the list cannot be written.
    pub fn remove(&self, id: u64) -> Result<Example, TeachError> {
        let mut examples = self.examples()?;
        let at = examples.iter().position(|example| example.id == id).ok_or(TeachError::NoExample(id))?;
        let gone = examples.remove(at);
        self.write_list(&examples)?;
        if examples.iter().all(|example| example.picture != gone.picture) {
            // What stays behind is not in the list, so it teaches nothing.
            let _ = fs::remove_file(self.picture(&gone));
            let _ = fs::remove_file(self.tokens_path(&gone));
        }
        Ok(gone)
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
pub(crate) mod tests {
    use half::f16;

    use super::*;
    use crate::types::{Grid, PixelTransform};

    pub(crate) fn tokens() -> Tokens {
        let grid = Grid { rows: 1, cols: 2, patch_px: 14 };
        let transform = PixelTransform {
            source_width: 28,
            source_height: 14,
            input_width: 28,
            input_height: 14,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        let rows = [1.0, -1.0, 0.5, 2.0].map(f16::from_f32).to_vec();
        Tokens { grid, transform, inputs: 2, rows, cls: vec![f16::ONE] }
    }

    pub(crate) fn backbone() -> Backbone {
        Backbone { sha256: "m1".into(), input_width: 28, input_height: 14 }
    }

    fn add(folder: &Folder, picture: &[u8], region: Region) -> Result<Example, TeachError> {
        let label = Label::Class { class: Some(ClassName::new("car").unwrap()), region };
        let (tokens, backbone) = (tokens(), backbone());
        folder.add(New {
            picture,
            kind: "jpg",
            tokens: &tokens,
            backbone: &backbone,
            label,
            camera: None,
            source: "a.jpg".into(),
            added: UtcMillis(5),
        })
    }

    #[test]
    fn examples_are_kept_and_removed_with_their_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let click = || Region::Clicks(vec![[3.0, 4.0]]);
        let first = add(&folder, b"one", click()).unwrap();
        let second = add(&folder, b"one", Region::Box([0.0, 0.0, 9.0, 9.0])).unwrap();
        let third = add(&folder, b"two", Region::Whole).unwrap();
        assert_eq!([first.id, second.id, third.id], [1, 2, 3]);
        assert_eq!(folder.examples().unwrap(), [first.clone(), second.clone(), third.clone()]);
        folder.remove(1).unwrap();
        assert!(folder.picture(&second).exists(), "the second shows the same picture");
        folder.remove(2).unwrap();
        assert!(!folder.picture(&second).exists() && folder.picture(&third).exists());
        assert!(matches!(folder.remove(2), Err(TeachError::NoExample(2))));
        assert_eq!(add(&folder, b"three", click()).unwrap().id, 4);
    }

    #[test]
    fn marks_outside_of_the_picture_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let error = add(&folder, b"one", Region::Clicks(vec![[30.0, 4.0]])).unwrap_err().to_string();
        assert!(error.contains("(30, 4) is outside of the picture, which is 28 x 14"), "{error}");
        assert!(folder.examples().unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("pictures")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_list_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        add(&folder, b"one", Region::Whole).unwrap();
        let list = dir.path().join(LIST);
        let good = fs::read_to_string(&list).unwrap();
        for (bad, word) in [
            (format!("{good}{{\n"), "line 2"),
            (format!("{good}{good}"), "example 1 is there twice"),
            (good.replace(".jpg\"", "/../x.jpg\""), "no picture of ours"),
            (good[..good.len() / 2].to_owned(), "line 1"),
        ] {
            fs::write(&list, bad).unwrap();
            let error = folder.examples().unwrap_err().to_string();
            assert!(error.contains("examples.jsonl is damaged") && error.contains(word), "{error}");
        }
    }
}
