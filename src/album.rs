//! Pictures that are kept: where they lie, how long, and how they are deleted. Called by the thread that makes
//! pictures and by the command line, never by the analysis.
//!
//! One folder a camera, one picture an event: `<camera>/<milliseconds since 1970>_<event id>.jpg`, and beside it what it
//! looked like to the backbone (`.embedding`), which goes when the picture goes. Only files of such names are ever
//! deleted, and no link is followed: every step is taken relative to an open folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
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

/// Endings of the names: the embedding first, so that nothing which is left half deleted can be searched.
const ENDINGS: [&str; 2] = [".embedding", ".jpg"];

/// An embedding's file may be this large; one of the largest model is 10 KB.
const EMBEDDING_MAX_BYTES: u64 = 1 << 20;

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
    /// The sum of what went, embeddings too, in bytes.
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

/// One picture with its embedding, as the names of the files say.
struct Picture {
    camera: String,
    /// The files' name without its ending.
    stem: String,
    taken: UtcMillis,
    /// Size of each file in the order of [`ENDINGS`], bytes; none where it is not there.
    files: [Option<u64>; 2],
}

impl Picture {
    fn bytes(&self) -> u64 {
        self.files.iter().flatten().sum()
    }
}

/// An event of which an embedding is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its camera.
    pub camera: String,
    /// When its picture was taken.
    pub taken: UtcMillis,
    /// Its event's id, as far as it fits into a file's name.
    pub event_id: String,
    /// Its picture, if it is there.
    pub picture: Option<PathBuf>,
}

impl Album {
    /// The album at this folder, which is made with the first picture.
    pub fn new(folder: PathBuf, limits: Limits) -> Self {
        Self { folder, limits }
    }

    /// Keeps a JPEG of an event, and what it looked like when that is known, readable by the daemon's user and group.
    /// When nothing is to be kept, does nothing.
    ///
    /// Errors when a file cannot be written; then nothing is left of that file.
    pub fn store(
        &self,
        camera: &CameraId,
        taken: UtcMillis,
        event_id: &str,
        jpeg: &[u8],
        embedding: Option<&[u8]>,
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
        let stem = format!("{:013}_{id}", taken.0.max(0));
        for (ending, bytes) in ENDINGS.iter().zip([embedding, Some(jpeg)]).rev() {
            if let Some(bytes) = bytes {
                write(&folder, &format!("{stem}{ending}"), bytes).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Reads the embeddings of the events that `wanted` keeps, oldest first; none is opened of the others. What it looks
    /// at is known by the files' names.
    ///
    /// Errors when the album cannot be read. What is deleted meanwhile is passed over.
    pub fn embeddings(
        &self,
        wanted: impl Fn(&Kept) -> bool,
        mut each: impl FnMut(Kept, Vec<u8>),
    ) -> Result<(), AlbumError> {
        let mut pictures = self.list()?;
        pictures.sort_by(|a, b| (a.taken, &a.stem).cmp(&(b.taken, &b.stem)));
        let mut folders: BTreeMap<String, Option<OwnedFd>> = BTreeMap::new();
        for picture in pictures {
            let [embedding, jpeg] = picture.files;
            let Some((_, id)) = picture.stem.split_once('_').filter(|_| embedding.is_some()) else {
                continue;
            };
            let path = || self.folder.join(&picture.camera).join(&picture.stem);
            let kept = Kept {
                camera: picture.camera.clone(),
                taken: picture.taken,
                event_id: id.to_owned(),
                picture: jpeg.map(|_| path().with_extension("jpg")),
            };
            if !wanted(&kept) {
                continue;
            }
            let folder = folders
                .entry(picture.camera.clone())
                .or_insert_with(|| self.open().and_then(|album| enter(&album, &picture.camera)).ok());
            let Some(folder) = folder else { continue };
            match read(folder, &format!("{}{}", picture.stem, ENDINGS[0])) {
                Ok(bytes) => each(kept, bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(AlbumError { what: "read the embedding of", path: path(), source });
                }
            }
        }
        Ok(())
    }

    /// Deletes what is too old, then the oldest until the rest is small enough. Call it now and then.
    pub fn tidy(&self, now: UtcMillis) -> Result<Deleted, AlbumError> {
        let oldest = now.minus(self.limits.keep);
        let mut pictures = self.list()?;
        pictures.sort_by_key(|picture| picture.taken);
        let mut sum: u64 = pictures.iter().map(Picture::bytes).sum();
        let surplus = pictures.into_iter().take_while(|picture| {
            let over = picture.taken < oldest || sum > self.limits.max_bytes;
            sum -= picture.bytes();
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
            let mut found: BTreeMap<String, Picture> = BTreeMap::new();
            for name in names(&folder).map_err(failed)? {
                let Some((stem, file, taken)) = ours(&name) else { continue };
                let Ok(stat) = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    let new =
                        || Picture { camera: camera.clone(), stem: stem.to_owned(), taken, files: [None; 2] };
                    let picture = found.entry(stem.to_owned()).or_insert_with(new);
                    picture.files[file] = Some(u64::try_from(stat.st_size).unwrap_or(0));
                }
            }
            pictures.extend(found.into_values());
        }
        Ok(pictures)
    }

    fn remove(&self, pictures: &[Picture]) -> Result<Deleted, AlbumError> {
        let mut deleted = Deleted::default();
        for picture in pictures {
            for (ending, bytes) in ENDINGS.iter().zip(picture.files) {
                let Some(bytes) = bytes else { continue };
                let name = format!("{}{ending}", picture.stem);
                let gone = self
                    .open()
                    .and_then(|album| enter(&album, &picture.camera))
                    .and_then(|folder| rustix::fs::unlinkat(&folder, &name, AtFlags::empty()));
                match gone {
                    Ok(()) => {
                        deleted.pictures += u64::from(*ending == ".jpg");
                        deleted.bytes += bytes;
                    }
                    // Somebody else was faster; it is gone, which is what was wanted.
                    Err(Errno::NOENT) => {}
                    Err(error) => {
                        let path = self.folder.join(&picture.camera).join(name);
                        return Err(AlbumError { what: "delete", path, source: error.into() });
                    }
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

/// Name without ending, place of the ending in [`ENDINGS`], and when the picture was taken; none when the name is not
/// one of ours.
fn ours(name: &str) -> Option<(&str, usize, UtcMillis)> {
    let ending = |(at, ending): (usize, &&str)| Some((name.strip_suffix(ending)?, at));
    let (stem, file) = ENDINGS.iter().enumerate().find_map(ending)?;
    let (millis, id) = stem.split_once('_')?;
    let ours = millis.len() == 13
        && millis.bytes().all(|b| b.is_ascii_digit())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !ours {
        return None;
    }
    Some((stem, file, UtcMillis(millis.parse().ok()?)))
}

fn read(folder: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let mut bytes = vec![];
    file.take(EMBEDDING_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
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
            album.store(&camera("dock"), taken, &format!("ab-{i}"), &[0; 100], None).unwrap();
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
        album.store(&camera("gate"), NOW, "ab-9", b"x", None).unwrap();
        let old = Choice { camera: Some(camera("dock")), before: Some(UtcMillis(NOW.0 - 2 * DAY_MS)) };
        assert_eq!(album.delete(&old).unwrap().pictures, 1);
        assert_eq!(album.delete(&Choice { camera: Some(camera("gate")), before: None }).unwrap().bytes, 1);
        assert_eq!(album.delete(&Choice::default()).unwrap().pictures, 2);
        assert!(files(folder.path()).is_empty());
    }

    #[test]
    fn an_embedding_goes_with_its_picture() {
        let folder = tempfile::tempdir().unwrap();
        let album = album(folder.path(), 310);
        for (i, age) in [1, 2, 9].into_iter().enumerate() {
            let taken = UtcMillis(NOW.0 - age * DAY_MS);
            album.store(&camera("dock"), taken, &format!("ab-{i}"), &[0; 100], Some(&[i as u8; 50])).unwrap();
        }
        // One whose picture a crash or a person took away.
        let orphan = UtcMillis(NOW.0 - 8 * DAY_MS);
        album.store(&camera("gate"), orphan, "ab-9", b"x", Some(b"left")).unwrap();
        std::fs::remove_file(folder.path().join(format!("pictures/gate/{}_ab-9.jpg", orphan.0))).unwrap();
        let mut found = vec![];
        album.embeddings(|kept| kept.event_id != "ab-1", |kept, bytes| found.push((kept, bytes))).unwrap();
        let ids: Vec<_> = found.iter().map(|(kept, bytes)| (kept.event_id.as_str(), bytes[0])).collect();
        assert_eq!(ids, [("ab-2", 2), ("ab-9", b'l'), ("ab-0", 0)], "oldest first");
        assert!(found[1].0.picture.is_none() && found[2].0.picture.as_ref().unwrap().exists());

        assert_eq!(album.tidy(NOW).unwrap(), Deleted { pictures: 1, bytes: 154 });
        let left = files(folder.path());
        assert_eq!(left.len(), 4, "{left:?}");
        let one = Choice { before: Some(UtcMillis(NOW.0 - DAY_MS - 1)), camera: None };
        assert_eq!(album.delete(&one).unwrap(), Deleted { pictures: 1, bytes: 150 });
        assert!(files(folder.path()).iter().all(|name| name.contains("ab-0")));
    }

    #[test]
    fn the_album_is_too_small_for_half_an_event() {
        let folder = tempfile::tempdir().unwrap();
        let album = album(folder.path(), 160);
        for i in 0..2 {
            album
                .store(&camera("dock"), UtcMillis(NOW.0 + i), &format!("ab-{i}"), &[0; 100], Some(&[0; 50]))
                .unwrap();
        }
        assert_eq!(album.tidy(NOW).unwrap(), Deleted { pictures: 1, bytes: 150 });
        assert!(files(folder.path()).iter().all(|name| name.contains("ab-1")));
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
        assert!(album.store(&camera("linked-camera"), NOW, "ab-2", b"x", None).is_err());
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
        assert!(album.store(&camera("dock"), NOW, "ab-2", b"x", None).is_err());
    }

    #[test]
    fn zero_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { keep: Duration::ZERO, max_bytes: u64::MAX };
        let album = Album::new(folder.path().join("pictures"), limits);
        album.store(&camera("dock"), NOW, "ab-1", b"x", Some(b"y")).unwrap();
        assert!(!folder.path().join("pictures").exists());
    }
}
