//! What `standoff commission` measured of each camera's view: `<state_dir>/views/<camera>.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::types::CameraId;
use crate::view::Profile;

/// A profile has a few kilobytes; what is larger is none.
const LARGEST: u64 = 1 << 20;

fn path(state_dir: &Path, camera: &CameraId) -> PathBuf {
    state_dir.join("views").join(format!("{camera}.json"))
}

/// The camera's profile. One that cannot be used is as none, with a warning: the view is then watched without it.
pub fn load(state_dir: &Path, camera: &CameraId) -> Option<Profile> {
    let path = path(state_dir, camera);
    let problem = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
        Ok(file) if file.len() > LARGEST => "it is too large".to_owned(),
        Ok(_) => match fs::read_to_string(&path) {
            Err(error) => error.to_string(),
            Ok(text) => match Profile::parse(&text) {
                Ok(profile) => return Some(profile),
                Err(error) => error.to_string(),
            },
        },
    };
    tracing::warn!(
        %camera,
        path = %path.display(),
        problem,
        "the view's profile cannot be used, so a frozen picture is not noticed; run standoff commission again"
    );
    None
}

/// Stores the profile in place of the one before; after a crash the file is the old or the new one, whole.
/// Says where it is.
pub fn store(state_dir: &Path, camera: &CameraId, json: &str) -> io::Result<PathBuf> {
    let path = path(state_dir, camera);
    let folder = path.parent().unwrap_or(state_dir);
    fs::create_dir_all(folder)?;
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(json.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_profile_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let camera = CameraId::new("dock").unwrap();
        assert!(load(folder.path(), &camera).is_none());
        let path = store(folder.path(), &camera, "{\"v\":1,\"width\":640").unwrap();
        assert_eq!(path, folder.path().join("views/dock.json"));
        assert!(load(folder.path(), &camera).is_none());
        assert!(store(Path::new("/proc/nothing"), &camera, "{}").is_err());
    }
}
