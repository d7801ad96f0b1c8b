//! The picture of the last alarm: the frame that decided it, with what was seen and the distance drawn in. One
//! thread, behind a bounded queue, so that the analysis neither draws nor waits; it keeps each picture in the
//! album, with what the incident looked like to the backbone (`standoff search` finds it by that), and says the newest of each camera to the outbox. It decides nothing and must not be in the way of an
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
use crate::model::store::{Store, StoreError};
use crate::outbox::{Outbox, Statement};
use crate::preprocess::color::rgb_from_frame;
use crate::retrieval::record::{self, About, Record, ThingRecord};
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
    /// What is made unrecognisable in them, and of which no embedding is kept.
    pub blur: Vec<ClassName>,
    /// Whose embeddings are kept; none where features are not a model's.
    pub model: Option<Model>,
}

/// The model that makes embeddings.
#[derive(Debug, Clone)]
pub struct Model {
    /// An installed model's name, or a path.
    pub name: String,
    /// Width of its input in pixels.
    pub input_width: u32,
    /// Height of its input in pixels.
    pub input_height: u32,
}

impl Model {
    /// The name in records, by the weights themselves. Reads the whole file.
    ///
    /// # Errors
    /// When the model is not there.
    pub fn record_name(&self) -> Result<String, StoreError> {
        let sha256 = Store::locate()?.sha256(&self.name)?;
        Ok(record::model_name(&sha256, self.input_width, self.input_height))
    }
}

/// Starts the thread. It draws for the cameras that `sites` names, with the floor and edges found there, and ends
/// when the sender is dropped.
pub fn spawn(
    settings: Settings,
    sites: watch::Receiver<BTreeMap<CameraId, Site>>,
    outbox: Arc<Outbox>,
) -> std::io::Result<(SyncSender<Sighting>, JoinHandle<()>)> {
    let (sender, sightings) = sync_channel(QUEUE_MAX);
    let studio = Studio { settings, sites, outbox, tidied: None, model: None };
    let thread = std::thread::Builder::new().name("pictures".into()).spawn(move || studio.run(&sightings))?;
    Ok((sender, thread))
}

struct Studio {
    settings: Settings,
    sites: watch::Receiver<BTreeMap<CameraId, Site>>,
    outbox: Arc<Outbox>,
    tidied: Option<Timestamp>,
    /// What records say of the model.
    model: Option<String>,
}

impl Studio {
    fn run(mut self, sightings: &Receiver<Sighting>) {
        let name = self.settings.model.as_ref().map(Model::record_name);
        self.model = name.and_then(|name| {
            name.inspect_err(|error| tracing::warn!(%error, "no embeddings of incidents are kept")).ok()
        });
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
        let embedding = self.model.as_ref().and_then(|model| {
            let record = record(sighting, &self.settings.blur, model)?;
            let failed =
                |error: &record::RecordError| tracing::warn!(%camera, %error, "an embedding is not kept");
            record.write().inspect_err(failed).ok()
        });
        let id = &sighting.event.event_id;
        match self.settings.album.store(camera, taken, id, &jpeg, embedding.as_deref()) {
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

/// What the incident looked like: the frame, and the things of the pair but for those that are blurred. None when the
/// backend gave nothing.
fn record(sighting: &Sighting, blur: &[ClassName], model: &str) -> Option<Record> {
    let Sighting { event, snapshot } = sighting;
    let (status, appearance) = (&event.status, &snapshot.appearance);
    if appearance.frame.is_empty() {
        return None;
    }
    let taken = snapshot.frame.captured_utc;
    let about = About::new(status.camera.clone(), status.rule.clone(), taken, &event.event_id, model);
    let pair = status.distance.iter().flat_map(|distance| [distance.from_index, distance.to_index]);
    let things = pair.flatten().filter_map(|index| {
        let class = snapshot.scene.things.get(index)?.class.clone();
        let embedding = appearance.things.get(index).filter(|embedding| !embedding.is_empty())?.clone();
        (!blur.contains(&class)).then_some(ThingRecord { class, embedding })
    });
    Some(Record { about, frame: appearance.frame.clone(), things: things.collect() })
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
        Appearance, ChromaSiting, ColorMatrix, ColorRange, Cut, Distance, DistanceKind, Evidence, Frame,
        Grid, Happening, Mask, MetricScene, PairId, PixelFormat, PixelTransform, Pixels, Plane, Reason,
        RuleId, RuleStatus, Scene, Snapshot, StageTimes, State, Thing, Transition, Trust,
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
            from_index: Some(0),
            to_index: None,
            from_track: None,
            to_track: None,
            others: vec![],
            to_edge: None,
            approach_mps: None,
            approach_sigma_mps: None,
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
            appearance: Appearance { frame: vec![0.6, 0.8], things: vec![] },
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
        let (sender, thread) = spawn(Settings { album, blur: vec![], model: None }, sites, outbox).unwrap();
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
    fn the_pairs_things_are_recorded_but_not_what_may_not_be_recognised() {
        let mut sighting = sighting(640, 360);
        let mut snapshot = (*sighting.snapshot).clone();
        let transform = snapshot.scene.transform;
        let thing = |class: &str| Thing {
            class: ClassName::new(class).unwrap(),
            score: 1.0,
            transform,
            mask: Mask { cell_px: 14.0, left: 0, top: 0, width: 0, height: 0, cells: vec![] },
            meets_floor: vec![],
            votes: vec![],
            cut: Cut::default(),
        };
        // The pair is the third and the first thing.
        snapshot.scene.things = ["person", "truck", "forklift"].map(thing).to_vec();
        snapshot.appearance.things = vec![vec![1.0, 0.0], vec![0.5, 0.5], vec![0.0, 1.0]];
        let mut event = (*sighting.event).clone();
        let distance = event.status.distance.as_mut().unwrap();
        (distance.from_index, distance.to_index) = (Some(2), Some(0));
        sighting = Sighting { event: Arc::new(event), snapshot: Arc::new(snapshot) };

        let of = |blur: &[ClassName]| record(&sighting, blur, "m-14x14").unwrap();
        let whole = of(&[]);
        assert_eq!((whole.frame.as_slice(), whole.about.event_id.as_str()), (&[0.6, 0.8][..], "ab-7"));
        let things = |record: &Record| -> Vec<(String, Vec<f32>)> {
            record.things.iter().map(|thing| (thing.class.to_string(), thing.embedding.clone())).collect()
        };
        let forklift = ("forklift".to_owned(), vec![0.0, 1.0]);
        assert_eq!(things(&whole), [forklift.clone(), ("person".to_owned(), vec![1.0, 0.0])]);
        assert_eq!(things(&of(&[ClassName::new("person").unwrap()])), [forklift]);
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
