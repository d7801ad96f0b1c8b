//! `standoff privacy`: deletes what is kept of people.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::tz::TimeZone;

use super::EXIT_USAGE;
use crate::album::{Album, Choice};
use crate::clock::{self, UtcMillis};
use crate::config::{self, Config};
use crate::types::CameraId;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum PrivacyCommand {
    /// Delete pictures of alarms with what they looked like to the model; also while the daemon runs
    Delete {
        /// The configuration whose pictures are meant (YAML)
        #[arg(value_name = "FILE")]
        config: PathBuf,
        /// All of them
        #[arg(long, conflicts_with_all = ["before", "camera"], required_unless_present_any = ["before", "camera"])]
        all: bool,
        /// Those taken before a day (2026-11-01), a moment (2026-11-01T12:00:00Z), or longer ago than a time (24h, 7d)
        #[arg(long, value_name = "TIME")]
        before: Option<String>,
        /// Those of this camera
        #[arg(long, value_name = "CAMERA")]
        camera: Option<String>,
    },
}

/// Runs the command.
pub fn run(command: &PrivacyCommand) -> anyhow::Result<ExitCode> {
    let PrivacyCommand::Delete { config, all: _, before, camera } = command;
    let config = match Config::load(config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let before = before
        .as_deref()
        .map(|text| moment("--before", text, clock::utc(), &TimeZone::system()))
        .transpose()?;
    let camera = camera.as_deref().map(CameraId::new).transpose()?;
    let album = Album::new(config.state_dir.join("pictures"), config.privacy.pictures);
    let deleted = album.delete(&Choice { camera, before })?;
    println!(
        "deleted {} pictures and their embeddings ({:.1} MB)",
        deleted.pictures,
        deleted.bytes as f64 / 1e6
    );
    println!("The broker keeps the newest picture of each camera: docs/privacy.md says how to clear it.");
    Ok(ExitCode::SUCCESS)
}

/// A day, a moment or an age that an option gives.
pub(super) fn moment(flag: &str, text: &str, now: UtcMillis, zone: &TimeZone) -> anyhow::Result<UtcMillis> {
    if let Ok(age) = config::duration(text) {
        return Ok(now.minus(age));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(UtcMillis(moment.as_millisecond()));
    }
    let Ok(day) = text.parse::<jiff::civil::Date>() else {
        bail!(
            "{flag}: '{text}' is neither a day (2026-11-01) nor a moment (2026-11-01T12:00:00Z) nor a time (24h)"
        );
    };
    let start = day.to_zoned(zone.clone()).with_context(|| format!("{flag}: there is no such day here"))?;
    Ok(UtcMillis(start.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_days_instants_or_ages() {
        let now = UtcMillis(1_790_000_000_000);
        let at = |text: &str| moment("--before", text, now, &TimeZone::UTC).unwrap().0;
        assert_eq!(at("24h"), now.0 - 86_400_000);
        assert_eq!(at("7d"), now.0 - 7 * 86_400_000);
        assert_eq!(at("1970-01-02"), 86_400_000);
        assert_eq!(at("1970-01-01T00:00:01Z"), 1000);
        assert!(moment("--since", "yesterday", now, &TimeZone::UTC).is_err());
    }
}
