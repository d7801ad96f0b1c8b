//! Pictures that are kept: where they lie, how long, and how they are deleted. Called by the thread that makes
//! pictures and by the command line, never by the analysis.
//!
//! One folder a camera, one file an event: `<camera>/<milliseconds since 1970>_<event id>.jpg`. Only files of such
//! names are ever deleted, and no link is followed: every step is taken relative to an open folder.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::clock::UtcMillis;
use crate::types::CameraId;

/// Reads and lists a folder, and fails on a link.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file that is being written. Left over only by a crash.
const UNFINISHED: &str = "unfinished";

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Older pictures are deleted. Zero keeps none.
    pub keep: Duration,
    /// Beyond this sum the oldest are deleted, bytes.
    pub max_bytes: u64,
}

/// Which pictures to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only those of this camera.
    pub camera: Option<CameraId>,
    /// Only those taken before.
    pub before: Option<UtcMillis>,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Pictures.
    pub pictures: u64,
    /// Their sum in bytes.
    pub bytes: u64,
}

/// Why pictures could not be kept or deleted.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} '{path}': {source}")]
pub struct AlbumError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The folder of the pictures.
#[derive(Debug, Clone)]
pub struct Album {
    folder: PathBuf,
    limits: Limits,
}

/// One picture, as its name says.
struct Picture {
    camera: String,
    name: String,
    taken: UtcMillis,
    bytes: u64,
}

impl Album {
    /// The album at this folder, which is made with the first picture.
    pub fn new(folder: PathBuf, limits: Limits) -> Self {
        Self { folder, limits }
    }

    /// Keeps a JPEG of an event, readable by the daemon's user and group. When nothing is to be kept, does nothing.
    ///
    /// Errors when it cannot be written; then nothing is left of it.
    pub fn store(
        &self,
        camera: &CameraId,
        taken: UtcMillis,
        event_id: &str,
        jpeg: &[u8],
    ) -> Result<(), AlbumError> {
        if self.limits.keep.is_zero() {
            return Ok(());
        }
        let path = self.folder.join(camera.as_str());
        let failed = |source: io::Error| AlbumError { what: "keep a picture in", path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let album = self.open().map_err(|error| failed(error.into()))?;
        match rustix::fs::mkdirat(&album, camera.as_str(), Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let folder = enter(&album, camera.as_str()).map_err(|error| failed(error.into()))?;
        let id: String = event_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let name = format!("{:013}_{id}.jpg", taken.0.max(0));
        write(&folder, &name, jpeg).map_err(failed)
    }

    /// Deletes what is too old, then the oldest until the rest is small enough. Call it now and then.
    pub fn tidy(&self, now: UtcMillis) -> Result<Deleted, AlbumError> {
        let oldest = now.minus(self.limits.keep);
        let mut pictures = self.list()?;
        pictures.sort_by_key(|picture| picture.taken);
        let mut sum: u64 = pictures.iter().map(|picture| picture.bytes).sum();
        let surplus = pictures.into_iter().take_while(|picture| {
            let over = picture.taken < oldest || sum > self.limits.max_bytes;
            sum -= picture.bytes;
            over
        });
        let surplus: Vec<Picture> = surplus.collect();
        self.remove(&surplus)
    }

    /// Deletes what a person chose.
    pub fn delete(&self, choice: &Choice) -> Result<Deleted, AlbumError> {
        let mut pictures = self.list()?;
        pictures.retain(|picture| {
            choice.camera.as_ref().is_none_or(|camera| camera.as_str() == picture.camera)
                && choice.before.is_none_or(|before| picture.taken < before)
        });
        self.remove(&pictures)
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(&self.folder, FOLDER, Mode::empty())
    }

    /// All pictures, in no order. Links and files of other names are passed over.
    fn list(&self) -> Result<Vec<Picture>, AlbumError> {
        let failed = |error: Errno| AlbumError {
            what: "list the pictures in",
            path: self.folder.clone(),
            source: error.into(),
        };
        let album = match self.open() {
            Ok(album) => album,
            Err(Errno::NOENT) => return Ok(vec![]),
            Err(error) => return Err(failed(error)),
        };
        let mut pictures = vec![];
        for camera in names(&album).map_err(failed)? {
            let Ok(folder) = enter(&album, &camera) else { continue };
            for name in names(&folder).map_err(failed)? {
                let Some(taken) = taken(&name) else { continue };
                let Ok(stat) = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                    pictures.push(Picture { camera: camera.clone(), name, taken, bytes });
                }
            }
        }
        Ok(pictures)
    }

    fn remove(&self, pictures: &[Picture]) -> Result<Deleted, AlbumError> {
        let mut deleted = Deleted::default();
        for picture in pictures {
            let gone = self
                .open()
                .and_then(|album| enter(&album, &picture.camera))
                .and_then(|folder| rustix::fs::unlinkat(&folder, &picture.name, AtFlags::empty()));
            match gone {
                Ok(()) => {
                    deleted.pictures += 1;
                    deleted.bytes += picture.bytes;
                }
                // Somebody else was faster; it is gone, which is what was wanted.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    let path = self.folder.join(&picture.camera).join(&picture.name);
                    return Err(AlbumError { what: "delete", path, source: error.into() });
                }
            }
        }
        Ok(deleted)
    }
}

/// Opens a folder inside a folder.
fn enter(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, FOLDER, Mode::empty())
}

/// The names in a folder, without those that are not UTF-8: ours are.
fn names(folder: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = vec![];
    for entry in Dir::read_from(folder)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// When a picture was taken, by its name; none when the name is not one of ours.
fn taken(name: &str) -> Option<UtcMillis> {
    let (millis, id) = name.strip_suffix(".jpg")?.split_once('_')?;
    let ours = millis.len() == 13
        && millis.bytes().all(|b| b.is_ascii_digit())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if ours { millis.parse().ok().map(UtcMillis) } else { None }
}

fn write(folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, UNFINISHED, flags, Mode::from_raw_mode(0o640))?;
    let written = File::from(file).write_all(bytes);
    let done = written.and_then(|()| Ok(rustix::fs::renameat(folder, UNFINISHED, folder, name)?));
    if done.is_err() {
        let _ = rustix::fs::unlinkat(folder, UNFINISHED, AtFlags::empty());
    }
    done
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW: UtcMillis = UtcMillis(1_790_000_000_000);

    fn camera(name: &str) -> CameraId {
        CameraId::new(name).unwrap()
    }

    fn album(folder: &Path, max_bytes: u64) -> Album {
        let keep = Duration::from_secs(7 * 86_400);
        Album::new(folder.join("pictures"), Limits { keep, max_bytes })
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names = vec![];
        for camera in std::fs::read_dir(folder.join("pictures")).unwrap().map(Result::unwrap) {
            if let Ok(files) = std::fs::read_dir(camera.path()) {
                names.extend(files.map(|file| {
                    let name = file.unwrap().file_name().into_string().unwrap();
                    format!("{}/{name}", camera.file_name().into_string().unwrap())
                }));
            }
        }
        names.sort();
        names
    }

    fn fill(album: &Album, ages_days: &[i64]) {
        for (i, age) in ages_days.iter().enumerate() {
            let taken = UtcMillis(NOW.0 - age * DAY_MS);
            album.store(&camera("dock"), taken, &format!("ab-{i}"), &[0; 100]).unwrap();
        }
    }

    #[test]
    fn what_is_too_old_goes_then_the_oldest_until_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let album = album(folder.path(), 250);
        fill(&album, &[1, 8, 2, 3, 30]);
        assert_eq!(album.tidy(NOW).unwrap(), Deleted { pictures: 3, bytes: 300 });
        let left = files(folder.path());
        assert_eq!(left.len(), 2);
        assert!(left[0].ends_with("ab-2.jpg") && left[1].ends_with("ab-0.jpg"), "{left:?}");
        assert_eq!(album.tidy(NOW).unwrap(), Deleted::default());
    }

    #[test]
    fn a_choice_by_camera_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let album = album(folder.path(), u64::MAX);
        fill(&album, &[1, 2, 3]);
        album.store(&camera("gate"), NOW, "ab-9", b"x").unwrap();
        let old = Choice { camera: Some(camera("dock")), before: Some(UtcMillis(NOW.0 - 2 * DAY_MS)) };
        assert_eq!(album.delete(&old).unwrap().pictures, 1);
        assert_eq!(album.delete(&Choice { camera: Some(camera("gate")), before: None }).unwrap().bytes, 1);
        assert_eq!(album.delete(&Choice::default()).unwrap().pictures, 2);
        assert!(files(folder.path()).is_empty());
    }

    #[test]
    fn links_lead_nowhere_and_foreign_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let name = "1000000000000_ab-1.jpg";
        std::fs::write(outside.join(name), "precious").unwrap();
        let album = album(folder.path(), u64::MAX);
        fill(&album, &[1]);
        let pictures = folder.path().join("pictures");
        symlink(&outside, pictures.join("linked-camera")).unwrap();
        symlink(outside.join(name), pictures.join("dock").join(name)).unwrap();
        std::fs::write(pictures.join("dock").join("notes.txt"), "mine").unwrap();
        assert_eq!(album.delete(&Choice::default()).unwrap().pictures, 1);
        assert_eq!(std::fs::read_to_string(outside.join(name)).unwrap(), "precious");
        assert!(pictures.join("dock").join("notes.txt").exists());
        assert!(pictures.join("dock").join(name).is_symlink());
        // A camera's folder that is a link is not written through either.
        assert!(album.store(&camera("linked-camera"), NOW, "ab-2", b"x").is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn the_album_itself_may_not_be_a_link_and_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let album = album(folder.path(), u64::MAX);
        assert_eq!(album.tidy(NOW).unwrap(), Deleted::default());
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, folder.path().join("pictures")).unwrap();
        assert!(album.tidy(NOW).unwrap_err().to_string().starts_with("cannot list the pictures in"));
        assert!(album.store(&camera("dock"), NOW, "ab-2", b"x").is_err());
    }

    #[test]
    fn zero_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { keep: Duration::ZERO, max_bytes: u64::MAX };
        Album::new(folder.path().join("pictures"), limits).store(&camera("dock"), NOW, "ab-1", b"x").unwrap();
        assert!(!folder.path().join("pictures").exists());
    }
}
