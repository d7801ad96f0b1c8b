//! One analysed frame with everything that was found in it, for people to look at.

use std::sync::Arc;

use bytes::Bytes;

use super::appearance::Appearance;
use super::event::{RuleStatus, StageTimes, Transition};
use super::frame::Frame;
use super::ids::CameraId;
use super::scene::{MetricScene, Scene};

/// Everything a person may want to look at of one analysed frame.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The picture.
    pub frame: Frame,
    /// What the heads saw.
    pub scene: Scene,
    /// The same in metres.
    pub metric: MetricScene,
    /// What it and its things look like.
    pub appearance: Appearance,
    /// The states after it.
    pub rules: Vec<RuleStatus>,
    /// How long each stage took.
    pub times: StageTimes,
}

/// Something that happened to a rule, with the frame that decided it.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// What happened, as the outbox numbered it.
    pub event: Arc<Transition>,
    /// The frame.
    pub snapshot: Arc<Snapshot>,
}

/// The picture of a camera's last alarm, as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The camera.
    pub camera: CameraId,
    /// JPEG; a clone is a reference count.
    pub jpeg: Bytes,
}
