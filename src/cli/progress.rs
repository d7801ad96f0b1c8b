//! Progress bars; on a terminal only, on the standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `total` steps, or a counter when the total is not known.
pub fn bar(total: Option<u64>, unit: &str) -> ProgressBar {
    let template = match total {
        Some(_) => format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left {{msg}}"),
        None => format!("{{spinner}} {{pos}} {unit} {{msg}}"),
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    total.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
}
