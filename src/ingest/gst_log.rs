//! Starts GStreamer and takes its log into ours. Its own log would go to stderr, and from level 4 on it
//! prints passwords: whatever `GST_DEBUG` says, nothing above 3 is taken, and what is taken is redacted.

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
