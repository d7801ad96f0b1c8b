//! `standoff audit`: checks the log of what happened.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::audit::{self, Head, Report};
use crate::config;

/// What to do with the log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Say whether the log is one unbroken chain, or which line breaks it
    Verify {
        /// The folder of the log; without it that of the default state folder
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        /// A line that was kept elsewhere: the log must hold it, so that its end cannot have been cut off
        #[arg(long, value_name = "N:HASH", value_parser = head)]
        head: Option<Head>,
    },
}

fn head(text: &str) -> Result<Head, String> {
    let (n, hash) = text.split_once(':').ok_or("must be a number and a hash, as in 1234:9c1f...")?;
    let n = n.parse().map_err(|_| format!("'{n}' is not the number of a line"))?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_hash {
        Ok(Head { n, hash: hash.to_owned() })
    } else {
        Err("the hash must have 64 hex digits".to_owned())
    }
}

/// Runs the command. Exit code 1 when the chain is broken.
pub fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify { folder, head } = command;
    let folder = folder.clone().unwrap_or_else(|| {
        let variables: Vec<(String, String)> = std::env::vars().collect();
        config::default_state_dir(&variables).join("audit")
    });
    let report = audit::verify(&folder, head.as_ref())?;
    println!("{}", text(&report));
    Ok(if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut lines = vec![];
    match &report.head {
        Some(head) => lines.push(format!(
            "{} lines in {} files, {} to {}; the last is {}:{}",
            report.records, report.files, report.first, head.n, head.n, head.hash
        )),
        None => lines.push("the log holds no line".to_owned()),
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.push(match &report.broken {
        Some(broken) => format!("BROKEN at {broken}"),
        None => "ok: every line follows the one before it".to_owned(),
    });
    lines.join("\n")
}
