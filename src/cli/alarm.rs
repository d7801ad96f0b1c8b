//! `standoff alarm`: what people do with the alarms of the daemon that runs on this machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::EXIT_USAGE;
use crate::config::{self, Config};
use crate::control::{self, Ask, Reply, Request, Target};
use crate::types::{CameraId, Evidence, RuleId, RuleStatus};

/// Where systemd's unit has the socket.
const SYSTEM_SOCKET: &str = "/run/standoff/control.sock";

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct AlarmArguments {
    /// What to do
    #[command(subcommand)]
    command: AlarmCommand,
    /// The daemon's control socket; without it /run/standoff/control.sock, or the one in your own state folder
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The daemon's configuration, to find its socket by
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "socket")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AlarmCommand {
    /// Show how every rule is
    List,
    /// Acknowledge a latched alarm; it ends when its own pictures are calm as well
    Ack(OfRule),
    /// Switch a rule off for a time; then it comes back by itself
    Shelve {
        #[command(flatten)]
        rule: OfRule,
        /// For how long: 90s, 30m, 2h
        #[arg(long = "for", value_name = "TIME", value_parser = config::duration)]
        time: Duration,
    },
    /// Switch a shelved rule on again now
    Unshelve(OfRule),
    /// Switch a rule on that was switched off
    Arm(OfRule),
    /// Switch a rule off until somebody switches it on again
    Disarm(OfRule),
}

#[derive(Debug, Args)]
struct OfRule {
    /// The camera
    #[arg(value_parser = CameraId::new)]
    camera: CameraId,
    /// The rule
    #[arg(value_parser = RuleId::new)]
    rule: RuleId,
    /// Who you are, for the record; your user id is added
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Exit code 0 when it is done, 1 when it was refused or no daemon answers, 2 on wrong usage.
pub fn run(arguments: &AlarmArguments) -> anyhow::Result<ExitCode> {
    let path = match (&arguments.socket, &arguments.config) {
        (Some(path), _) => path.clone(),
        (None, Some(file)) => match Config::load(file) {
            Ok(config) => config.control_socket,
            Err(problems) => {
                eprintln!("{problems}");
                return Ok(ExitCode::from(EXIT_USAGE));
            }
        },
        (None, None) => found(),
    };
    let asks = |rule: &OfRule, ask: fn(Target) -> Ask| {
        let target = Target { camera: rule.camera.clone(), rule: rule.rule.clone() };
        Request { by: rule.by.clone(), ask: ask(target) }
    };
    let request = match &arguments.command {
        AlarmCommand::List => Request { by: None, ask: Ask::List },
        AlarmCommand::Ack(rule) => asks(rule, Ask::Ack),
        AlarmCommand::Unshelve(rule) => asks(rule, Ask::Unshelve),
        AlarmCommand::Arm(rule) => asks(rule, Ask::Arm),
        AlarmCommand::Disarm(rule) => asks(rule, Ask::Disarm),
        AlarmCommand::Shelve { rule, time } => {
            let target = Target { camera: rule.camera.clone(), rule: rule.rule.clone() };
            Request { by: rule.by.clone(), ask: Ask::Shelve { target, for_s: time.as_secs() } }
        }
    };
    match ask(&path, &request)? {
        Reply::Now { rules } => {
            print!("{}", table(&rules));
            Ok(ExitCode::SUCCESS)
        }
        Reply::Refused { error } => {
            eprintln!("standoff: refused: {error}");
            Ok(ExitCode::FAILURE)
        }
        Reply::Picture { .. } | Reply::Place { .. } | Reply::Done { .. } => {
            Err(anyhow::anyhow!("the daemon answered something else"))
        }
    }
}

/// The socket of the machine's daemon, else of one that this user runs by hand.
pub(super) fn found() -> PathBuf {
    let system = PathBuf::from(SYSTEM_SOCKET);
    let own = config::default_state_dir(&std::env::vars().collect::<Vec<_>>()).join(control::SOCKET);
    if !system.exists() && own.exists() { own } else { system }
}

fn ask(path: &Path, request: &Request) -> anyhow::Result<Reply> {
    let shown = path.display();
    control::ask(path, request).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "no daemon has its control socket at {shown}; does `standoff run` run? give --config or --socket"
        ),
        ErrorKind::ConnectionRefused => {
            anyhow::anyhow!("the daemon whose control socket is {shown} does not run any more")
        }
        ErrorKind::PermissionDenied => anyhow::anyhow!(
            "you may not use {shown}: join its group (see `ls -l {shown}`), then log in again"
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow::anyhow!("the daemon at {shown} does not answer")
        }
        _ => anyhow::Error::new(error).context(format!("what answers at {shown} is not understood")),
    })
}

fn table(rules: &[RuleStatus]) -> String {
    let head =
        ["CAMERA", "RULE", "STATE", "EVIDENCE", "DISTANCE", "ALARM", "WARNING", "NOTE"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(rules.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(status: &RuleStatus) -> [String; 8] {
    let metres = |value: f64| format!("{value:.2} m");
    let evidence = match status.evidence {
        Evidence::Fresh => "fresh".to_owned(),
        Evidence::None(reason) => format!("none: {reason}"),
    };
    let held = status.held.as_ref().map(|held| match &held.acknowledged {
        Some(deed) => format!("latched, acknowledged by {} at {}", deed.by, deed.at),
        None => "latched, not acknowledged".to_owned(),
    });
    let notes: Vec<String> = status.state.reason().into_iter().chain(held).collect();
    [
        status.camera.to_string(),
        status.rule.to_string(),
        status.state.word().to_owned(),
        evidence,
        status.distance.as_ref().map_or_else(|| "-".to_owned(), |distance| metres(distance.nearest_m)),
        metres(status.separation_m.map_or(status.alarm_m, |asked_m| asked_m.max(status.alarm_m))),
        status.warning_m.map_or_else(|| "-".to_owned(), metres),
        notes.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::{Held, PairId, Reason, State};

    #[test]
    fn the_table_says_what_matters() {
        let status = RuleStatus {
            camera: CameraId::new("dock").unwrap(),
            rule: RuleId::new("edge").unwrap(),
            pair: PairId::new("p").unwrap(),
            state: State::Alarm,
            evidence: Evidence::None(Reason::ConnectionLost),
            distance: None,
            warning_m: Some(2.0),
            alarm_m: 0.5,
            held: Some(Held { acknowledged: None }),
            armed: true,
            shelved_until: None,
            separation_m: None,
            since: UtcMillis(0),
            ts: UtcMillis(0),
            captured: None,
            valid_for: Duration::from_secs(10),
        };
        assert_eq!(
            table(&[status]),
            "CAMERA  RULE  STATE  EVIDENCE               DISTANCE  ALARM   WARNING  NOTE\n\
             dock    edge  alarm  none: connection_lost  -         0.50 m  2.00 m   latched, not acknowledged\n"
        );
    }

    #[test]
    fn whoever_is_not_there_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(control::SOCKET);
        let list = Request { by: None, ask: Ask::List };
        assert!(
            ask(&path, &list).unwrap_err().to_string().starts_with("no daemon has its control socket at")
        );
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ask(&path, &list).unwrap_err().to_string().contains("does not run any more"));
    }
}
