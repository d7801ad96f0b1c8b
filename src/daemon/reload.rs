//! From one configuration to another while the daemon runs. First all that can fail is tried and nothing is changed;
//! then cameras that go are stopped, the analysis follows, and cameras that come are started. A camera that is the
//! same in both keeps its thread, its connection and every state.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::teaching::Heads;
use super::{Daemon, camera_setups, sites};
use crate::analysis::{Order, Reconfigure};
use crate::config::{Camera, Config};
use crate::heads::HeadError;
use crate::ingest::{self, IngestError};
use crate::metrics::METRICS;
use crate::types::{CameraId, RuleId};

/// How long the analysis may take to follow: some of its ticks, and whatever it works on.
const FOLLOW_WITHIN: Duration = Duration::from_secs(5);

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New cameras.
    pub added: Vec<CameraId>,
    /// Cameras that are not there any more.
    pub removed: Vec<CameraId>,
    /// Cameras whose pictures come from elsewhere now, or have another age: connected anew.
    pub reconnected: Vec<CameraId>,
    /// Cameras with another site or other rules; they stay connected.
    pub changed: Vec<CameraId>,
    /// Cameras that are as before.
    pub kept: Vec<CameraId>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("connected anew", &self.reconnected),
            ("changed", &self.changed),
        ];
        let words: Vec<String> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(word, list)| {
                format!("{word}: {}", list.iter().map(CameraId::as_str).collect::<Vec<_>>().join(", "))
            })
            .collect();
        let words = if words.is_empty() { "no camera changed".to_owned() } else { words.join("; ") };
        write!(f, "{words}; as before: {}", self.kept.len())
    }
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// These keys cannot change while the daemon runs. Nothing was changed.
    #[error("{} cannot change while the daemon runs: restart it (systemctl restart standoff)", list(.0))]
    NeedsRestart(Vec<String>),
    /// The heads are being changed by a lesson. Nothing was changed.
    #[error("a lesson is being taken up and does not come to an end: reload again")]
    Busy,
    /// The heads for the new classes are not usable. Nothing was changed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A camera cannot be watched at all. Nothing was changed.
    #[error(transparent)]
    Camera(IngestError),
    /// The change was begun and could not be completed: only a new process helps.
    #[error("the change was begun and is not complete: {0}")]
    HalfWay(String),
}

fn list(keys: &[String]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// What must change, or the keys that cannot.
///
/// # Errors
/// [`ReloadError::NeedsRestart`].
pub fn plan(old: &Config, new: &Config) -> Result<Changes, ReloadError> {
    let fixed = fixed_keys(old, new);
    if !fixed.is_empty() {
        return Err(ReloadError::NeedsRestart(fixed));
    }
    let mut changes = Changes::default();
    let is_in = |config: &Config, id: &CameraId| config.cameras.iter().any(|camera| camera.id == *id);
    for camera in &new.cameras {
        let list = match old.cameras.iter().find(|before| before.id == camera.id) {
            None => &mut changes.added,
            Some(before) if before == camera => &mut changes.kept,
            Some(before) if same_pictures(before, camera) => &mut changes.changed,
            Some(_) => &mut changes.reconnected,
        };
        list.push(camera.id.clone());
    }
    let removed = old.cameras.iter().map(|camera| &camera.id).filter(|id| !is_in(new, id));
    changes.removed = removed.cloned().collect();
    Ok(changes)
}

/// Keys whose change this process cannot follow: everything but the cameras.
fn fixed_keys(old: &Config, new: &Config) -> Vec<String> {
    let same = Config {
        cameras: old.cameras.clone(),
        source: old.source.clone(),
        doubts: old.doubts.clone(),
        ..new.clone()
    } == *old;
    if same {
        return vec![];
    }
    let changes = old.source.changes(&new.source).into_iter().map(|change| change.key);
    let named: Vec<String> = changes.filter(|key| !key.starts_with("cameras.")).collect();
    // The text says the same: a file that it names, or the environment, does not.
    if named.is_empty() { vec!["a file or credential outside of cameras".to_owned()] } else { named }
}

/// All rules with their cameras.
fn rules(config: &Config) -> BTreeSet<(CameraId, RuleId)> {
    let rules = |camera: &Camera| {
        let id = camera.id.clone();
        camera.rules.iter().map(move |rule| (id.clone(), rule.id.clone())).collect::<Vec<_>>()
    };
    config.cameras.iter().flat_map(rules).collect()
}

/// Whether the camera's thread would do the same.
fn same_pictures(old: &Camera, new: &Camera) -> bool {
    old.source == new.source && old.camera_latency == new.camera_latency
}

impl Daemon {
    /// Follows a new configuration, or changes nothing and says why not.
    ///
    /// # Errors
    /// As [`ReloadError`]; after [`ReloadError::HalfWay`] the daemon is to be stopped.
    pub fn reload(&mut self, new: Config) -> Result<Changes, ReloadError> {
        let changes = plan(&self.config, &new)?;
        // Held to the end: what a lesson replaces meanwhile would be put back.
        let school = self.school.clone();
        let _turn = self.runtime.block_on(school.turn()).ok_or(ReloadError::Busy)?;
        let Heads { list: heads, missing } = school.heads(&new)?;
        let starts: Vec<&Camera> = new
            .cameras
            .iter()
            .filter(|camera| changes.added.contains(&camera.id) || changes.reconnected.contains(&camera.id))
            .collect();
        for camera in &starts {
            ingest::ready(&camera.id, &camera.source).map_err(ReloadError::Camera)?;
        }

        // From here on it is done.
        let ends = |id: &CameraId| changes.removed.contains(id) || changes.reconnected.contains(id);
        let (ending, staying) =
            std::mem::take(&mut self.cameras).into_iter().partition(|handle| ends(handle.camera()));
        self.cameras = staying;
        ingest::stop_all(ending);
        changes.removed.iter().chain(&changes.reconnected).for_each(|id| self.slots.remove(id));
        self.sinks.reconfigure(&new);
        self.sites.send_replace(sites(&new));
        let fresh: BTreeSet<CameraId> = changes.reconnected.iter().cloned().collect();
        self.order(Reconfigure { cameras: camera_setups(&new), fresh, heads, missing })?;
        for id in &changes.removed {
            self.health.remove(id);
            METRICS.forget_camera(id.as_str());
        }
        for (camera, rule) in rules(&self.config).difference(&rules(&new)) {
            METRICS.forget_rule(camera.as_str(), rule.as_str());
        }
        for camera in starts {
            let handle =
                self.start_camera(camera).map_err(|error| ReloadError::HalfWay(error.to_string()))?;
            self.cameras.push(handle);
        }
        self.config = new;
        Ok(changes)
    }

    /// Has the analysis follow, and waits until it does.
    fn order(&self, new: Reconfigure) -> Result<(), ReloadError> {
        let (done, is_done) = sync_channel(1);
        let sent = self.orders.try_send(Order { new, done }).map_err(|error| error.to_string());
        sent.and_then(|()| is_done.recv_timeout(FOLLOW_WITHIN).map_err(|error| error.to_string()))
            .map_err(|problem| ReloadError::HalfWay(format!("the analysis does not follow ({problem})")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    fn config(text: &str) -> Config {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let around = Surroundings { file: "site.yaml".into(), folder, ..Surroundings::default() };
        Config::parse(text, &around).unwrap()
    }

    const SITE: &str = "
node: n
mqtt: {host: 127.0.0.1}
cameras:
  a: {url: 'rtsp://a/1', pairs: {p: {from: forklift, to: person}}, rules: {r: {pair: p, alarm_m: 1}}}
  b: {url: 'rtsp://b/1', pairs: {p: {from: forklift, to: person}}, rules: {r: {pair: p, alarm_m: 1}}}
  c: {url: 'rtsp://c/1', pairs: {p: {from: forklift, to: person}}, rules: {r: {pair: p, alarm_m: 1}}}
";

    #[test]
    fn each_camera_is_in_one_list() {
        let old = config(SITE);
        assert_eq!(plan(&old, &old).unwrap().to_string(), "no camera changed; as before: 3");
        let new = SITE
            .replace("  a:", "  d:")
            .replace("rtsp://b/1", "rtsp://b/2")
            .replacen("alarm_m: 1}}}\n", "alarm_m: 2}}}\n", 3)
            .replacen("rtsp://c/1', pairs", "rtsp://c/1', stale_after: 2s, pairs", 1);
        let changes = plan(&old, &config(&new)).unwrap();
        assert_eq!(changes.to_string(), "added: d; removed: a; connected anew: b; changed: c; as before: 0");
        let slow = SITE.replacen("{url: 'rtsp://a/1'", "{camera_latency: 200ms, url: 'rtsp://a/1'", 1);
        assert_eq!(plan(&old, &config(&slow)).unwrap().to_string(), "connected anew: a; as before: 2");
        let password = SITE.replacen("rtsp://a/1", "rtsp://user:new@a/1", 1);
        assert_eq!(plan(&old, &config(&password)).unwrap().to_string(), "connected anew: a; as before: 2");
    }

    #[test]
    fn what_cannot_change_is_named() {
        let old = config(SITE);
        let new =
            SITE.replace("node: n", "node: m").replace("127.0.0.1", "127.0.0.2").replace("  a:", "  d:");
        let error = plan(&old, &config(&new)).unwrap_err().to_string();
        assert_eq!(
            error,
            "`mqtt.host`, `node` cannot change while the daemon runs: restart it (systemctl restart standoff)"
        );
    }
}
