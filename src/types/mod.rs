//! What travels between the rooms of the program: plain data with public fields, no behaviour that
//! needs a clock, a file or a thread. Units are SI and stand in the names.

pub mod appearance;
pub mod command;
pub mod event;
pub mod features;
pub mod frame;
pub mod ids;
pub mod report;
pub mod scene;
pub mod secret;
pub mod snapshot;

pub use appearance::Appearance;
pub use command::{Command, CommandSender};
pub use event::{
    CameraHealth, CameraState, CameraStatus, Evidence, Happening, Held, Level, Monitor, PairStatus, Reason,
    RuleStatus, StageTimes, State, StateStatus, Transition, Verdict, ViewStatus,
};
pub use features::{Batch, Dense, Features, Grid, PixelTransform, Seen};
pub use frame::{
    ChromaSiting, ColorMatrix, ColorRange, DevicePicture, DevicePlane, Frame, HostPlanes, Part, PixelFormat,
    Pixels, Plane,
};
pub use ids::{
    CameraId, ClassName, EdgeId, InvalidName, NodeId, PROOF_CAMERA, PairId, RuleId, StateName, StateValue,
};
pub use report::{DaemonStatus, ProofProgress, ProofReport, ProofStage, Report, RunsOn};
pub use scene::{
    Cut, DepthMap, DepthUnit, Distance, DistanceKind, HeadingVote, Likely, Mask, MetricScene, MetricThing,
    PairReading, Reading, Scene, StateReading, SurfaceVote, Thing, Trust,
};
pub use secret::Secret;
pub use snapshot::{Picture, Sighting, Snapshot};
