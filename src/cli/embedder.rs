//! What `search` and `curate` share: whose incidents are meant, and the backbone that reads new pictures.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use jiff::tz::TimeZone;

use super::{EXIT_USAGE, privacy};
use crate::album::{Album, Kept, Limits};
use crate::backend::{self, Backend, BackendSettings};
use crate::clock::{self, UtcMillis};
use crate::config::{self, Config};
use crate::pictures::Model;
use crate::types::{Batch, CameraId, Features, Frame};

/// Whose incidents, and which model.
#[derive(Debug, Args)]
pub struct Place {
    /// The daemon's configuration: names the state folder and the model
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Installed model, where no configuration names one
    #[arg(long, value_name = "NAME", default_value = "dinov2-small")]
    model: String,
    /// Size of the model's input, where no configuration names one
    #[arg(long, value_name = "WxH", default_value = "392x224", value_parser = super::teach::size)]
    input: (u32, u32),
}

/// Which incidents.
#[derive(Debug, Args)]
pub struct Filter {
    /// Incidents of this camera only
    #[arg(long, value_name = "ID", value_parser = CameraId::new)]
    pub camera: Option<CameraId>,
    /// Incidents since a day (2026-11-01), a moment (2026-11-01T12:00:00Z), or so long ago (24h, 7d)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Incidents before a day, a moment, or so long ago
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

impl Filter {
    /// A function that says whether an incident is meant.
    pub fn compile(&self) -> anyhow::Result<impl Fn(&Kept) -> bool + use<>> {
        let moment = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<UtcMillis>> {
            text.as_deref()
                .map(|text| privacy::moment(flag, text, clock::utc(), &TimeZone::system()))
                .transpose()
        };
        let (since, until) = (moment("--since", &self.since)?, moment("--until", &self.until)?);
        let camera = self.camera.clone();
        Ok(move |kept: &Kept| {
            camera.as_ref().is_none_or(|camera| camera.as_str() == kept.camera)
                && since.is_none_or(|since| kept.taken >= since)
                && until.is_none_or(|until| kept.taken < until)
        })
    }
}

/// The pictures that a daemon keeps, and the backbone that made their embeddings.
pub struct Embedder {
    /// Where the incidents are.
    pub album: Album,
    settings: BackendSettings,
    backend: Option<Box<dyn Backend>>,
}

impl Embedder {
    /// Finds it; opens nothing yet. The exit code when the configuration is wrong, which is then said.
    pub fn find(place: &Place) -> anyhow::Result<Result<Self, ExitCode>> {
        let mut settings = BackendSettings {
            model: place.model.clone(),
            input_width: place.input.0,
            input_height: place.input.1,
            ..BackendSettings::default()
        };
        let state_dir = match &place.config {
            None => config::default_state_dir(&std::env::vars().collect::<Vec<_>>()),
            Some(file) => match Config::load(file) {
                Ok(config) => {
                    settings = BackendSettings { layers: true, max_batch: 1, ..config.model.backend(vec![]) };
                    config.state_dir
                }
                Err(problems) => {
                    eprintln!("{problems}");
                    return Ok(Err(ExitCode::from(EXIT_USAGE)));
                }
            },
        };
        // Only the daemon deletes by limits.
        let limits = Limits { keep: std::time::Duration::MAX, max_bytes: u64::MAX };
        let album = Album::new(state_dir.join("pictures"), limits);
        Ok(Ok(Self { album, settings, backend: None }))
    }

    /// The model's name in records.
    pub fn record_name(&self) -> anyhow::Result<String> {
        let BackendSettings { model, input_width, input_height, recorded, .. } = &self.settings;
        if recorded.is_some() {
            bail!("the configuration answers with recorded features, which say nothing of other pictures");
        }
        let model = Model { name: model.clone(), input_width: *input_width, input_height: *input_height };
        Ok(model.record_name()?)
    }

    /// What the backbone makes of a picture.
    pub fn infer(&mut self, frame: Frame) -> anyhow::Result<Features> {
        if self.backend.is_none() {
            self.backend = Some(backend::open(&self.settings)?);
        }
        let backend = self.backend.as_mut().context("the backend is gone")?;
        backend.infer(&Batch { frames: vec![frame] })?.pop().context("the backend gave nothing")
    }
}

/// "2026-11-23 14:03:07", as the clock on the wall says.
pub fn time(utc: UtcMillis) -> String {
    match jiff::Timestamp::from_millisecond(utc.0) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => String::new(),
    }
}
