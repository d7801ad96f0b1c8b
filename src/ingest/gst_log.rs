//! Starts GStreamer and takes its log into ours. Its own log would go to stderr, and from level 4 on it
//! prints passwords: whatever `GST_DEBUG` says, levels are capped at 3, and what is taken is redacted. The
//! levels themselves must be capped: from level 6 on rtspsrc prints whole requests to stdout, past the log.

use std::sync::OnceLock;

use super::url::redacted;

/// Starts GStreamer, once for the process. Errors with what it says.
pub fn init() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(start).clone()
}

fn start() -> Result<(), String> {
    // Before the start, so that nothing is printed by it.
    gstreamer::log::remove_default_log_function();
    gstreamer::init().map_err(|e| e.to_string())?;
    if let Some(wanted) = std::env::var_os("GST_DEBUG") {
        gstreamer::log::set_threshold_from_string(&capped(&wanted.to_string_lossy()), true);
    }
    gstreamer::log::add_log_function(|category, level, _file, _function, _line, _object, message| {
        use gstreamer::DebugLevel;
        if !matches!(level, DebugLevel::Error | DebugLevel::Warning | DebugLevel::Fixme) {
            return;
        }
        // What matters comes over the bus; this is for people who look for more.
        let text = message.get().map(|text| redacted(&text)).unwrap_or_default();
        tracing::debug!(target: "gstreamer", category = category.name(), level = level.name().as_str(), "{text}");
    });
    Ok(())
}

/// A list of levels as in `GST_DEBUG` ("3" or "rtspsrc:6,*:2") with no level above 3.
fn capped(list: &str) -> String {
    let cap = |level: &str| match level.trim() {
        "NONE" => "0".to_owned(),
        "ERROR" => "1".to_owned(),
        "WARNING" => "2".to_owned(),
        level => level.parse::<u32>().unwrap_or(3).min(3).to_string(),
    };
    let parts: Vec<String> = list
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| match part.rsplit_once(':') {
            Some((category, level)) => format!("{}:{}", category.trim(), cap(level)),
            None => cap(part),
        })
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_capped() {
        assert_eq!(capped("9"), "3");
        assert_eq!(capped("2,rtspsrc:6, GST_*:LOG,*:1,x:ERROR"), "2,rtspsrc:3,GST_*:3,*:1,x:1");
        assert_eq!(capped("MEMDUMP,,"), "3");
        assert_eq!(capped(""), "");
    }
}
