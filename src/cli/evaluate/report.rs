//! What came out, as a table or as JSON.

use std::fmt;

use serde::Serialize;

use super::classify::{Classified, Retrieved};
use super::dense::{ClassIou, Ranged, Segmented};
use super::embed::Embedder;
use super::metres::Metres;

/// All results.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// SHA-256 of its weights.
    pub model_sha256: String,
    /// Width and height of its input in pixels.
    pub input: [u32; 2],
    /// How the data is laid out.
    pub layout: &'static str,
    /// Classes of pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// Classes and depth of pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Dense>,
    /// Retrieval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieved>,
    /// Distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metres: Option<Metres>,
}

/// Classes of pictures.
#[derive(Debug, Serialize)]
pub struct Classification {
    /// Their names.
    pub classes: Vec<String>,
    /// Pictures that were learned from.
    pub train: usize,
    /// Pictures that were scored.
    pub val: usize,
    /// Each method.
    pub methods: Vec<Classified>,
}

/// Classes and depth of pixels.
#[derive(Debug, Serialize)]
pub struct Dense {
    /// Pictures that were learned from.
    pub train: usize,
    /// Pictures that were scored.
    pub val: usize,
    /// Classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Segmented>,
    /// Depth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<Ranged>,
}

impl Report {
    /// Without results yet.
    pub fn new(model: &str, embedder: &Embedder, layout: &'static str) -> Self {
        Self {
            model: model.to_owned(),
            model_sha256: embedder.sha256().to_owned(),
            input: embedder.input(),
            layout,
            classification: None,
            dense: None,
            retrieval: None,
            metres: None,
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {} x {}; {}", self.model, self.input[0], self.input[1], self.layout)?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<44} {value}");
        if let Some(c) = &self.classification {
            writeln!(f, "classification, {} classes: {} train, {} val", c.classes.len(), c.train, c.val)?;
            for method in &c.methods {
                let (top_1, mean) = (percent(method.top_1), percent(method.mean_class_top_1));
                let ridge = method.ridge.map(|ridge| format!(", ridge {ridge:e}")).unwrap_or_default();
                row(f, &method.method, format!("top-1 {top_1}, mean of classes {mean}{ridge}"))?;
            }
        }
        if let Some(dense) = &self.dense {
            if let Some(s) = &dense.segmentation {
                writeln!(f, "segmentation, linear: {} train, {} val", dense.train, dense.val)?;
                row(f, "mIoU", format!("{:.3}", s.mean_iou))?;
                row(f, "pixel accuracy", percent(s.pixel_accuracy))?;
                row(f, "mean class accuracy", percent(s.mean_class_accuracy))?;
                for ClassIou { class, iou } in &s.classes {
                    let iou = iou.map_or("not there, not found".to_owned(), |iou| format!("{iou:.3}"));
                    row(f, &format!("IoU {class}"), iou)?;
                }
            }
            if let Some(d) = &dense.depth {
                let (near, far) = d.range_m;
                writeln!(
                    f,
                    "depth, linear, {near:.2} to {far:.2} m: {} train, {} val",
                    dense.train, d.pictures
                )?;
                row(f, "RMSE", format!("{:.3} m", d.score.rmse_m))?;
                row(f, "AbsRel", format!("{:.4}", d.score.abs_rel))?;
                row(f, "delta-1", format!("{:.3}", d.score.delta_1))?;
                row(f, "log10", format!("{:.4}", d.score.log10))?;
                row(f, "SILog", format!("{:.2}", d.score.silog))?;
            }
        }
        if let Some(r) = &self.retrieval {
            writeln!(f, "retrieval, cosine of CLS: {} queries, each among {}", r.queries, r.gallery)?;
            row(f, "mAP", format!("{:.3}", r.mean_average_precision))?;
            row(f, "first is right", percent(r.first))?;
            if r.without_match > 0 {
                row(f, "queries without another of their class", r.without_match.to_string())?;
            }
        }
        if let Some(metres) = &self.metres {
            write!(f, "{metres}")?;
        }
        Ok(())
    }
}
