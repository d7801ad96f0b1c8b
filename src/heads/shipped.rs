//! The heads that come with the program. `shipped/CARD.md` says what they were trained on and what they reach;
//! `standoff train` makes them.

use super::file::HeadFile;
use super::{DepthHead, Head, HeadError, SegmentHead, SurfaceHead, decoder};
use crate::model::graph::GraphHead;
use crate::types::ClassName;

/// Name and bytes of each file.
const FILES: [(&str, &[u8]); 2] = [
    (decoder::NAME, include_bytes!("shipped/decoder.safetensors")),
    ("depth", include_bytes!("shipped/depth.safetensors")),
];

/// The shipped files, read.
///
/// # Errors
/// A damaged file, which a test excludes.
pub fn files() -> Result<Vec<HeadFile>, HeadError> {
    FILES.iter().map(|(name, bytes)| HeadFile::read(name, bytes)).collect()
}

/// Their part of the graph.
///
/// # Errors
/// As [`files`].
pub fn graph_heads() -> Result<Vec<GraphHead>, HeadError> {
    Ok(files()?.into_iter().map(|f| f.graph).collect())
}

/// Their host part, in the order in which they must be applied. `wanted` are the classes that become things.
///
/// # Errors
/// As [`files`], and a wanted class that the segmentation does not know.
pub fn heads(wanted: &[ClassName]) -> Result<Vec<Box<dyn Head>>, HeadError> {
    let mut out: Vec<Box<dyn Head>> = Vec::new();
    for file in files()? {
        match file.graph.name.as_str() {
            decoder::NAME => {
                out.push(Box::new(SegmentHead::new(&file.classes, wanted)?));
                out.push(Box::new(SurfaceHead));
            }
            "depth" => out.push(Box::new(DepthHead)),
            _ => {}
        }
    }
    Ok(out)
}

/// Those that plan closer looks.
///
/// # Errors
/// As [`heads`].
pub fn scouts(wanted: &[ClassName]) -> Result<Vec<Box<dyn Head>>, HeadError> {
    let segment = SegmentHead::new(&classes()?, wanted)?.scout();
    Ok(vec![Box::new(segment), Box::new(SurfaceHead)])
}

/// The classes that the shipped segmentation knows.
///
/// # Errors
/// As [`files`].
pub fn classes() -> Result<Vec<String>, HeadError> {
    Ok(files()?.into_iter().find(|f| f.graph.name == decoder::NAME).map(|f| f.classes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_files_are_whole_and_fit_vit_s() {
        let files = files().unwrap();
        assert_eq!(files.iter().map(|f| f.graph.name.as_str()).collect::<Vec<_>>(), [decoder::NAME, "depth"]);
        for (file, outputs) in files.iter().zip([decoder::CHANNELS, 256]) {
            assert_eq!(file.graph.outputs(), outputs);
            assert_eq!(file.graph.weight.len(), file.graph.bias.len() * 4 * 384);
        }
        assert!(classes().unwrap().contains(&"forklift".to_owned()));
        let total: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= 3_600_000, "{total} bytes");
    }
}
