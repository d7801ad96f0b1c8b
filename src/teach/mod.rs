//! The folder of examples that a site taught by, and what is fitted to them. Runs in the commands that teach; the
//! daemon only reads `taught.safetensors`. Every file is replaced as a whole, so that a crash leaves the one before or
//! the new one.
//!
//! | File | What |
//! | --- | --- |
//! | `examples.jsonl` | one line an example: what was marked where |
//! | `pictures/` | a copy of each picture, named by the SHA-256 of its bytes |
//! | `tokens/` | its tokens in half precision, so that fitting takes no inference |
//! | `taught.safetensors` | what was fitted last, and taken |
//! | `offered.safetensors` | what was fitted, until the daemon has taken it |

mod example;
mod fit;
mod tokens;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use example::{Example, Label, New};
pub use fit::{Lesson, lessons};

use crate::heads::HeadError;
use crate::heads::taught::{LessonError, Taught, model};
use crate::types::StateName;

/// The name of what was fitted, in the folder.
pub const TAUGHT: &str = "taught.safetensors";
/// The name of what was fitted and is not taken yet.
const OFFERED: &str = "offered.safetensors";
/// The name of the folder in the state folder.
pub const FOLDER: &str = "taught";
/// Examples that a folder holds at most. Fitting takes all of them into memory, about 1.5 MB each.
pub const EXAMPLES_MAX: usize = 1000;
/// A picture's file may be this large.
const PICTURE_MAX_BYTES: u64 = 64 << 20;

/// Why something about the examples failed.
#[derive(Debug, thiserror::Error)]
pub enum TeachError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {problem}; {mend}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        mend: &'static str,
    },
    /// The mark does not fit the picture.
    #[error("the mark cannot be used: {0}")]
    Mark(String),
    /// There are too many.
    #[error("the folder holds {EXAMPLES_MAX} examples, which is all it may: remove some")]
    Full,
    /// There is none of that name.
    #[error("there is no example {0}")]
    NoExample(u64),
    /// There is nothing to learn from.
    #[error("{} holds no example: `standoff teach add` makes one", .0.display())]
    Empty(PathBuf),
    /// The examples teach nothing.
    #[error(transparent)]
    Lesson(#[from] LessonError),
    /// One name for several things.
    #[error(
        "examples of the state '{state}' are of several {what}: {one} and {other}; remove those of one, or give it a name of its own"
    )]
    Mixed {
        /// The state.
        state: StateName,
        /// Cameras or zones.
        what: &'static str,
        /// An example.
        one: u64,
        /// And one that says otherwise.
        other: u64,
    },
    /// The tokens or the model are not usable.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The backbone failed on a picture.
    #[error("the tokens of {} cannot be made: {problem}", picture.display())]
    Tokens {
        /// The picture.
        picture: PathBuf,
        /// Why.
        problem: String,
    },
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> TeachError + '_ {
    move |source| TeachError::File { path: path.to_owned(), source }
}

/// A folder of examples. Whoever changes it holds its lock.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens the folder and waits for whoever else changes it; makes it when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn open(dir: &Path) -> Result<Self, TeachError> {
        for folder in [dir, &dir.join("pictures"), &dir.join("tokens")] {
            fs::create_dir_all(folder).map_err(file_error(folder))?;
        }
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(file_error(&path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| file_error(&path)(error.into()))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lays down what was fitted, for [`accept`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn offer(&self, taught: &Taught) -> Result<(), TeachError> {
        replace(&self.dir.join(OFFERED), &taught.write()?)
    }

    /// Takes away what was laid down and is refused.
    pub fn withdraw(&self) {
        // What stays behind is replaced by the next fit, and read by nobody before.
        let _ = fs::remove_file(self.dir.join(OFFERED));
    }
}

/// What was fitted and taken last in a folder; none when nothing was.
///
/// # Errors
/// When the file is damaged, too large or cannot be read.
pub fn load(dir: &Path) -> Result<Option<Taught>, TeachError> {
    taught(dir.join(TAUGHT))
}

/// What was fitted in a folder and is not taken yet.
///
/// # Errors
/// As [`load`].
pub fn offered(dir: &Path) -> Result<Option<Taught>, TeachError> {
    taught(dir.join(OFFERED))
}

/// Puts what was offered in the place of what was taken before. Returns where it is.
///
/// # Errors
/// When the file cannot be moved.
pub fn accept(dir: &Path) -> Result<PathBuf, TeachError> {
    let path = dir.join(TAUGHT);
    let moved = || -> io::Result<()> {
        fs::rename(dir.join(OFFERED), &path)?;
        File::open(dir)?.sync_all()
    };
    moved().map_err(file_error(&path))?;
    Ok(path)
}

fn taught(path: PathBuf) -> Result<Option<Taught>, TeachError> {
    let Some(bytes) = read(&path, model::MAX_BYTES)? else { return Ok(None) };
    let taught = Taught::read(&bytes).map_err(|error| TeachError::Damaged {
        path,
        problem: error.to_string(),
        mend: "`standoff teach fit` writes it again",
    })?;
    Ok(Some(taught))
}

/// A file's bytes; none when it is not there.
fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, TeachError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path)(error)),
    };
    let mut bytes = vec![];
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(file_error(path))?;
    if bytes.len() as u64 > max_bytes {
        let error = io::Error::other(format!("it is larger than {max_bytes} bytes"));
        return Err(file_error(path)(error));
    }
    Ok(Some(bytes))
}

/// Writes a file beside its place, syncs it and moves it there.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), TeachError> {
    let new = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The rename itself is on disk only when the folder is.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    written().map_err(file_error(path))
}
