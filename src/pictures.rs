//! The picture of the last alarm: the frame that decided it, with what was seen and the distance drawn in. One
//! thread, behind a bounded queue, so that the analysis neither draws nor waits; it keeps each picture in the
//! album and says the newest of each camera to the outbox. It decides nothing and must not be in the way of an
//! alarm: when it is slow, pictures are dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use image::RgbImage;
use image::imageops::{self, FilterType};
use jiff::tz::TimeZone;
use tokio::sync::watch;

use crate::album::Album;
use crate::clock::{self, Timestamp, UtcMillis};
use crate::draw::{self, Banner, DrawError};
use crate::geometry::Site;
use crate::metrics::METRICS;
use crate::outbox::{Outbox, Statement};
use crate::preprocess::color::rgb_from_frame;
use crate::types::{CameraId, ClassName, Picture, Sighting};

/// Alarms that may wait. Each holds a whole frame.
const QUEUE_MAX: usize = 4;

/// A published picture is at most this large: it goes through a broker, to a telephone.
const JPEG_MAX_BYTES: usize = 200_000;

/// A published picture is at most this wide, pixels.
const WIDTH_MAX_PX: u32 = 1280;

/// How often old pictures are deleted when there are no new ones.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// How pictures are made and kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where they are kept.
    pub album: Album,
    /// What is made unrecognisable in them.
    pub blur: Vec<ClassName>,
}

/// Starts the thread. It draws for the cameras that `sites` names, with the floor and edges found there, and ends
/// when the sender is dropped.
pub fn spawn(
    settings: Settings,
    sites: watch::Receiver<BTreeMap<CameraId, Site>>,
    outbox: Arc<Outbox>,
) -> std::io::Result<(SyncSender<Sighting>, JoinHandle<()>)> {
    let (sender, sightings) = sync_channel(QUEUE_MAX);
    let studio = Studio { settings, sites, outbox, tidied: None };
    let thread = std::thread::Builder::new().name("pictures".into()).spawn(move || studio.run(&sightings))?;
    Ok((sender, thread))
}

struct Studio {
    settings: Settings,
    sites: watch::Receiver<BTreeMap<CameraId, Site>>,
    outbox: Arc<Outbox>,
    tidied: Option<Timestamp>,
}

impl Studio {
    fn run(mut self, sightings: &Receiver<Sighting>) {
        loop {
            match sightings.recv_timeout(TIDY_EVERY) {
                Ok(sighting) => self.take(&sighting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tidy();
        }
    }

    fn take(&self, sighting: &Sighting) {
        let status = &sighting.event.status;
        let camera = &status.camera;
        // A camera that was taken away since, or that is none of the configuration's.
        let Some(site) = self.sites.borrow().get(camera).cloned() else { return };
        let drawn = picture(sighting, &site, &self.settings.blur, &TimeZone::system());
        let jpeg = match drawn {
            Ok(jpeg) => jpeg,
            Err(error) => {
                tracing::warn!(%camera, event_id = sighting.event.event_id, %error, "no picture of the alarm");
                METRICS.pictures_dropped.of(&[&"failed"]).inc();
                return;
            }
        };
        let taken = sighting.snapshot.frame.captured_utc;
        match self.settings.album.store(camera, taken, &sighting.event.event_id, &jpeg) {
            Ok(()) => {
                METRICS.pictures.inc();
            }
            Err(error) => {
                tracing::warn!(%camera, event_id = sighting.event.event_id, %error, "a picture is not kept");
                METRICS.pictures_dropped.of(&[&"not_stored"]).inc();
            }
        }
        self.outbox.say(Statement::Picture(Picture { camera: camera.clone(), jpeg: Bytes::from(jpeg) }));
    }

    fn tidy(&mut self) {
        let now = clock::now();
        if self.tidied.is_some_and(|last| now.mono.since(last) < TIDY_EVERY) {
            return;
        }
        self.tidied = Some(now.mono);
        match self.settings.album.tidy(now.utc) {
            Ok(deleted) if deleted.pictures > 0 => {
                tracing::info!(pictures = deleted.pictures, bytes = deleted.bytes, "old pictures deleted");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "old pictures are not deleted"),
        }
    }
}

/// The alarm's frame as JPEG: blurred first, then drawn on, then made small enough to send.
fn picture(
    sighting: &Sighting,
    site: &Site,
    blur: &[ClassName],
    zone: &TimeZone,
) -> Result<Vec<u8>, DrawError> {
    let Sighting { event, snapshot } = sighting;
    let mut frame = rgb_from_frame(&snapshot.frame);
    draw::blur(&mut frame, &snapshot.scene.things, blur);
    let distance = event.status.distance.as_ref().map(draw::interval);
    let mut text = event.status.rule.to_string();
    if let Some(distance) = distance {
        text = format!("{text}  {distance}");
    }
    let banner =
        Banner { state: event.status.state.clone(), text, time: time(snapshot.frame.captured_utc, zone) };
    let image = draw::annotate(&frame, &draw::overlays(snapshot, site, Some(banner)));
    draw::jpeg(&fitted(image), JPEG_MAX_BYTES)
}

fn fitted(image: RgbImage) -> RgbImage {
    if image.width() <= WIDTH_MAX_PX {
        return image;
    }
    let height = u64::from(image.height()) * u64::from(WIDTH_MAX_PX) / u64::from(image.width());
    let height = u32::try_from(height).unwrap_or(WIDTH_MAX_PX).max(1);
    imageops::resize(&image, WIDTH_MAX_PX, height, FilterType::Triangle)
}

/// "2026-11-23 14:03:07 +01:00".
fn time(utc: UtcMillis, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_millisecond(utc.0) {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::album::Limits;
    use crate::types::{
        ChromaSiting, ColorMatrix, ColorRange, Distance, DistanceKind, Evidence, Frame, Grid, Happening,
        MetricScene, PairId, PixelFormat, PixelTransform, Pixels, Plane, Reason, RuleId, RuleStatus, Scene,
        Snapshot, StageTimes, State, Transition, Trust,
    };

    const TAKEN: UtcMillis = UtcMillis(1_795_300_000_000);

    fn camera() -> CameraId {
        CameraId::new("dock").unwrap()
    }

    /// An alarm on a frame of even grey.
    fn sighting(width: u32, height: u32) -> Sighting {
        let (luma, chroma) = ((width * height) as usize, (width / 2 * height / 2) as usize);
        let data = [vec![120; luma], vec![128; 2 * chroma]].concat();
        let plane = |offset: usize, stride: u32| Plane { offset, stride: stride as usize };
        let frame = Frame {
            camera: camera(),
            seq: 1,
            captured: Timestamp::default(),
            captured_utc: TAKEN,
            arrived: Timestamp::default(),
            width,
            height,
            pixels: Pixels::Host {
                format: PixelFormat::I420,
                data: data.into(),
                planes: vec![plane(0, width), plane(luma, width / 2), plane(luma + chroma, width / 2)],
            },
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            siting: ChromaSiting::MPEG2,
        };
        let transform = PixelTransform {
            source_width: width,
            source_height: height,
            input_width: width,
            input_height: height,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        let distance = Distance {
            nearest_m: 0.4,
            lower_m: 0.2,
            upper_m: 0.6,
            kind: DistanceKind::Value,
            from_ground: [0.0; 2],
            to_ground: [0.4, 0.0],
            from: ClassName::new("forklift").unwrap(),
            from_index: 0,
            to_index: None,
            to_edge: None,
            approach_mps: None,
            captured: Timestamp::default(),
        };
        let status = RuleStatus {
            camera: camera(),
            rule: RuleId::new("edge").unwrap(),
            pair: PairId::new("p").unwrap(),
            state: State::Alarm,
            evidence: Evidence::Fresh,
            distance: Some(distance),
            warning_m: None,
            alarm_m: 0.5,
            held: None,
            armed: true,
            shelved_until: None,
            separation_m: None,
            since: TAKEN,
            ts: TAKEN,
            captured: Some(TAKEN),
            valid_for: Duration::from_secs(10),
        };
        let event = Transition {
            event_id: "ab-7".into(),
            seq: 7,
            what: Happening::Enter,
            from: State::Unknown(Reason::Starting),
            status,
            times: None,
            order: None,
        };
        let snapshot = Snapshot {
            frame,
            scene: Scene {
                camera: camera(),
                seq: 1,
                captured: Timestamp::default(),
                captured_utc: TAKEN,
                transform,
                things: vec![],
                grid: Grid { rows: 0, cols: 0, patch_px: 14 },
                floor: vec![],
                depth: None,
                states: vec![],
                trust: Trust::Trusted,
            },
            metric: MetricScene {
                camera: camera(),
                seq: 1,
                captured: Timestamp::default(),
                captured_utc: TAKEN,
                things: vec![],
                pairs: vec![],
            },
            rules: vec![],
            times: StageTimes::default(),
        };
        Sighting { event: Arc::new(event), snapshot: Arc::new(snapshot) }
    }

    #[test]
    fn an_alarms_picture_is_kept_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Duration::from_secs(100 * 365 * 86_400);
        let album = Album::new(folder.path().join("pictures"), Limits { keep, max_bytes: 1 << 20 });
        let outbox = Arc::new(Outbox::default());
        let mut reader = outbox.reader("test");
        let (_sites, sites) = watch::channel(BTreeMap::from([(camera(), Site::default())]));
        let (sender, thread) = spawn(Settings { album, blur: vec![] }, sites, outbox).unwrap();
        sender.send(sighting(640, 360)).unwrap();
        drop(sender);
        thread.join().unwrap();
        let said = reader.all_statements();
        let [Statement::Picture(picture)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(picture.camera, camera());
        let image = image::load_from_memory(&picture.jpeg).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (1280, 720), "enlarged to be read");
        let [r, g, b] = image.get_pixel(3, 3).0;
        assert!(r > 170 && g < 60 && b < 60, "the banner is as red as an alarm");
        let kept = std::fs::read(folder.path().join("pictures/dock/1795300000000_ab-7.jpg")).unwrap();
        assert_eq!(kept, picture.jpeg);
    }

    #[test]
    fn a_large_frame_becomes_small_enough_to_send() {
        let jpeg = picture(&sighting(3840, 2160), &Site::default(), &[], &TimeZone::UTC).unwrap();
        assert!(jpeg.len() <= JPEG_MAX_BYTES);
        assert_eq!(image::load_from_memory(&jpeg).unwrap().to_rgb8().dimensions(), (1280, 720));
    }

    #[test]
    fn the_time_says_its_zone() {
        assert_eq!(time(TAKEN, &TimeZone::UTC), "2026-11-21 22:26:40 +00:00");
    }
}
