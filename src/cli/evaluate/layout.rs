//! How a folder of labelled data is laid out, and what is in it. Reads names and small texts, no pixels.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::cli::train::dataset::{self, IGNORED, Truth};
use crate::ingest::stills::is_picture;

/// A picture, or a part of one, of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The file.
    pub picture: PathBuf,
    /// Left, top, width and height of the part in pixels; none for all of it.
    pub crop: Option<[u32; 4]>,
    /// Index of its class.
    pub class: usize,
}

/// Pictures with a class each.
#[derive(Debug, Default, PartialEq)]
pub struct Labelled {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What may be learned from; for retrieval the gallery. Empty where one part is all there is.
    pub train: Vec<Sample>,
    /// What is scored; for retrieval the queries.
    pub val: Vec<Sample>,
}

/// A picture whose pixels are labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The file.
    pub picture: PathBuf,
    /// Its mask.
    pub mask: Option<PathBuf>,
    /// Its depth.
    pub depth: Option<PathBuf>,
}

/// Pictures whose pixels are labelled.
#[derive(Debug, Default, PartialEq)]
pub struct Scenes {
    /// Names of the masks' ids, empty without masks.
    pub classes: Vec<String>,
    /// Whether there is depth.
    pub depth: bool,
    /// What may be learned from.
    pub train: Vec<Scene>,
    /// What is scored.
    pub val: Vec<Scene>,
}

/// All that a folder holds.
#[derive(Debug, Default, PartialEq)]
pub struct Data {
    /// The layout's name.
    pub layout: &'static str,
    /// For classification.
    pub labelled: Option<Labelled>,
    /// For segmentation and depth.
    pub scenes: Option<Scenes>,
    /// For retrieval; when `train` is empty, each of `val` is looked for among the others.
    pub retrieval: Option<Labelled>,
    /// Rendered frames with camera, edges and objects, for metres.
    pub frames: Vec<PathBuf>,
}

const LAYOUTS: &str = "a folder is laid out as one of\n  \
    train/CLASS/*.jpg and val/CLASS/*.jpg\n  \
    train/images/*.jpg with train/masks/*.png and classes.txt, or train/depth/*.png, or both; the same in val/\n  \
    query/CLASS/*.jpg and gallery/CLASS/*.jpg\n  \
    CLASS/*.jpg (retrieval only)\n  \
    train/NNNNN.jpg with _depth.png, _seg.png and .json, as standoff train takes them; the same in val/\n  \
    NNNNN.jpg with _depth.png, _seg.png, _inst.png and .json (metres only)";

/// Finds the layout and lists what is there.
///
/// # Errors
/// No layout fits, or one fits and something in it is missing.
pub fn find(dir: &Path) -> anyhow::Result<Data> {
    ensure!(dir.is_dir(), "{} is no folder: {LAYOUTS}", dir.display());
    let [train, val, query, gallery] = ["train", "val", "query", "gallery"].map(|name| dir.join(name));
    if query.is_dir() || gallery.is_dir() {
        let retrieval = class_folders(&gallery, &query, true)?;
        return Ok(Data { layout: "query and gallery", retrieval: Some(retrieval), ..Data::default() });
    }
    if !train.is_dir() && !val.is_dir() && has_json(dir)? {
        let frames = dataset::pictures(dir)?;
        return Ok(Data { layout: "rendered frames", frames, ..Data::default() });
    }
    if !train.is_dir() && !val.is_dir() {
        let mut folders = folders(dir)?;
        folders.retain(|folder| entries(folder).is_ok_and(|entries| entries.iter().any(|e| is_picture(e))));
        let (classes, val) = (names(&folders), samples(folders.iter().zip(0..))?);
        ensure!(classes.len() > 1, "{} holds nothing that can be evaluated: {LAYOUTS}", dir.display());
        let retrieval = Some(Labelled { classes, train: vec![], val });
        return Ok(Data { layout: "class folders", retrieval, ..Data::default() });
    }
    for part in [&train, &val] {
        ensure!(part.is_dir(), "{} is missing: {LAYOUTS}", part.display());
    }
    if train.join("images").is_dir() {
        let scenes = Some(images_with_labels(dir)?);
        return Ok(Data { layout: "images with labels", scenes, ..Data::default() });
    }
    if has_json(&train)? {
        return dock(&train, &val);
    }
    let labelled = class_folders(&train, &val, false)?;
    let retrieval = Labelled { train: vec![], classes: labelled.classes.clone(), val: labelled.val.clone() };
    let layout = "class folders in train and val";
    Ok(Data { layout, labelled: Some(labelled), retrieval: Some(retrieval), ..Data::default() })
}

/// Everything in a folder by name, hidden files left out.
fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut out = vec![];
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn stem_of(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn has_json(dir: &Path) -> anyhow::Result<bool> {
    Ok(entries(dir)?.iter().any(|path| path.extension().is_some_and(|e| e == "json")))
}

fn names(folders: &[PathBuf]) -> Vec<String> {
    folders.iter().map(|folder| name_of(folder)).collect()
}

fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// The pictures of each folder with its class.
fn samples<'a>(folders: impl Iterator<Item = (&'a PathBuf, usize)>) -> anyhow::Result<Vec<Sample>> {
    let mut out = vec![];
    for (folder, class) in folders {
        let pictures: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| is_picture(path)).collect();
        ensure!(
            !pictures.is_empty(),
            "{} holds no jpg or png: put some in, or remove the folder",
            folder.display()
        );
        out.extend(pictures.into_iter().map(|picture| Sample { picture, crop: None, class }));
    }
    Ok(out)
}

/// Class folders on two sides. With `others_allowed` the second may hold classes that the first lacks, and the first
/// such that the second lacks.
fn class_folders(train: &Path, val: &Path, others_allowed: bool) -> anyhow::Result<Labelled> {
    let (train_folders, val_folders) = (folders(train)?, folders(val)?);
    let mut classes = names(&train_folders);
    for (side, folders) in [(train, &train_folders), (val, &val_folders)] {
        ensure!(!folders.is_empty(), "{} holds no class folders: {LAYOUTS}", side.display());
    }
    let mut val_classes = vec![];
    for (folder, name) in val_folders.iter().zip(names(&val_folders)) {
        val_classes.push(match classes.iter().position(|known| *known == name) {
            Some(class) => class,
            None if others_allowed => {
                classes.push(name);
                classes.len() - 1
            }
            None => bail!(
                "{} is of a class that {} does not have: add it there, or remove it here",
                folder.display(),
                train.display()
            ),
        });
    }
    if !others_allowed {
        ensure!(classes.len() > 1, "{} holds one class only: nothing can be told apart", train.display());
    }
    let train = samples(train_folders.iter().zip(0..))?;
    Ok(Labelled { classes, train, val: samples(val_folders.iter().zip(val_classes))? })
}

fn images_with_labels(dir: &Path) -> anyhow::Result<Scenes> {
    let [masks, depth] =
        ["masks", "depth"].map(|name| ["train", "val"].map(|part| dir.join(part).join(name).is_dir()));
    for (name, [train, val]) in [("masks", masks), ("depth", depth)] {
        let missing = if train { "val" } else { "train" };
        ensure!(
            train == val,
            "{} is missing, and the other part has it: {LAYOUTS}",
            dir.join(missing).join(name).display()
        );
    }
    ensure!(
        masks[0] || depth[0],
        "{} has images, but neither masks/ nor depth/ beside them: {LAYOUTS}",
        dir.join("train").display()
    );
    let classes = if masks[0] { read_classes(&dir.join("classes.txt"))? } else { vec![] };
    let part = |name: &str| -> anyhow::Result<Vec<Scene>> {
        let part = dir.join(name);
        let pictures = entries(&part.join("images"))?;
        let pictures: Vec<PathBuf> = pictures.into_iter().filter(|path| is_picture(path)).collect();
        ensure!(!pictures.is_empty(), "{} holds no jpg or png", part.join("images").display());
        let mut stems = BTreeMap::new();
        let mut out = vec![];
        for picture in pictures {
            let stem = stem_of(&picture);
            let label = |wanted: bool, folder: &str| -> anyhow::Result<Option<PathBuf>> {
                let path = part.join(folder).join(format!("{stem}.png"));
                ensure!(
                    !wanted || path.is_file(),
                    "{} is missing: {} has no label; add it, or take the picture out",
                    path.display(),
                    picture.display()
                );
                Ok(wanted.then_some(path))
            };
            let (mask, depth) = (label(masks[0], "masks")?, label(depth[0], "depth")?);
            if let Some(other) = stems.insert(stem, picture.clone()) {
                bail!("{} and {} would have the same labels: rename one", other.display(), picture.display());
            }
            out.push(Scene { picture, mask, depth });
        }
        Ok(out)
    };
    Ok(Scenes { classes, depth: depth[0], train: part("train")?, val: part("val")? })
}

fn read_classes(path: &Path) -> anyhow::Result<Vec<String>> {
    let what = "it names the ids of the masks, one a line, the first line is id 0";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}: {what}", path.display()))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    ensure!(!names.is_empty(), "{} is empty: {what}", path.display());
    ensure!(
        names.len() <= usize::from(IGNORED),
        "{} has {} lines, a mask has at most {IGNORED} ids",
        path.display(),
        names.len()
    );
    for (at, name) in names.iter().enumerate() {
        ensure!(!name.is_empty(), "line {} of {} is empty: {what}", at + 1, path.display());
        ensure!(
            !names[..at].contains(name),
            "line {} of {} repeats '{name}': {what}",
            at + 1,
            path.display()
        );
    }
    Ok(names)
}

/// Things smaller than this are not classified.
const LEAST_VISIBLE_PX: u32 = 400;
/// How much of its surroundings a thing's picture shows on each side, as a share of its box.
const MARGIN: f64 = 0.1;

/// Rendered frames: pixels, and the things in them as pictures of their own.
fn dock(train: &Path, val: &Path) -> anyhow::Result<Data> {
    const CLASSES: [&str; 3] = ["person", "forklift without load", "forklift with load"];
    let mut scenes = Scenes { depth: true, ..Scenes::default() };
    let mut labelled = Labelled { classes: CLASSES.map(str::to_owned).to_vec(), ..Labelled::default() };
    for (dir, scene_list, samples) in
        [(train, &mut scenes.train, &mut labelled.train), (val, &mut scenes.val, &mut labelled.val)]
    {
        for picture in dataset::pictures(dir)? {
            let truth = Truth::read(&picture)?;
            if scenes.classes.is_empty() {
                scenes.classes = truth.classes.clone();
            }
            ensure!(
                scenes.classes == truth.classes && truth.classes.len() <= usize::from(IGNORED),
                "{} names other classes than the first frame",
                picture.with_extension("json").display()
            );
            for object in truth.objects.iter().filter(|object| object.visible_px >= LEAST_VISIBLE_PX) {
                let class = match (object.cls.as_str(), object.loaded) {
                    ("person", _) => 0,
                    (_, Some(loaded)) => 1 + usize::from(loaded),
                    _ => continue,
                };
                let crop = object.bbox2d_visible.and_then(|b| grown(b, truth.size_px()));
                let crop = crop.with_context(|| {
                    format!(
                        "{} gives an object that is seen no box in the picture",
                        picture.with_extension("json").display()
                    )
                })?;
                samples.push(Sample { picture: picture.clone(), crop: Some(crop), class });
            }
            let [mask, depth] =
                ["_seg.png", "_depth.png"].map(|suffix| Some(dataset::beside(&picture, suffix)));
            scene_list.push(Scene { picture, mask, depth });
        }
    }
    let retrieval = Labelled { train: vec![], classes: labelled.classes.clone(), val: labelled.val.clone() };
    let whole = !labelled.train.is_empty() && !labelled.val.is_empty();
    let frames = scenes.val.iter().map(|scene| scene.picture.clone()).collect();
    Ok(Data {
        layout: "rendered frames",
        frames,
        labelled: whole.then_some(labelled),
        scenes: Some(scenes),
        retrieval: whole.then_some(retrieval),
    })
}

/// Left, top, width and height of a box with its margin, in whole pixels, at least 16 where the picture has them.
fn grown([left, top, right, bottom]: [f64; 4], [width, height]: [f64; 2]) -> Option<[u32; 4]> {
    let side = |from: f64, to: f64, limit: f64| -> Option<(u32, u32)> {
        let spare = f64::max((to - from) * MARGIN, (16.0 - (to - from)) / 2.0);
        let (from, to) = ((from - spare).floor().max(0.0), (to + spare).ceil().min(limit));
        (from < to).then_some((from as u32, (to - from) as u32))
    };
    let ((x, w), (y, h)) = (side(left, right, width)?, side(top, bottom, height)?);
    Some([x, y, w, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "floor\nwall\n").unwrap();
        }
        dir
    }

    fn error(files: &[&str]) -> String {
        format!("{:#}", find(tree(files).path()).unwrap_err())
    }

    #[test]
    fn class_folders_are_listed() {
        let dir = tree(&["train/cat/1.jpg", "train/dog/2.PNG", "train/dog/notes.txt", "val/dog/3.jpeg"]);
        let data = find(dir.path()).unwrap();
        let labelled = data.labelled.unwrap();
        assert_eq!(labelled.classes, ["cat", "dog"]);
        let of =
            |samples: &[Sample]| samples.iter().map(|s| (name_of(&s.picture), s.class)).collect::<Vec<_>>();
        assert_eq!(of(&labelled.train), [("1.jpg".to_owned(), 0), ("2.PNG".to_owned(), 1)]);
        assert_eq!(of(&labelled.val), [("3.jpeg".to_owned(), 1)]);
        assert_eq!(data.retrieval.unwrap().train, []);
        let dir = tree(&["query/a/1.jpg", "gallery/a/2.jpg", "gallery/b/3.jpg", "query/c/1.jpg"]);
        let retrieval = find(dir.path()).unwrap().retrieval.unwrap();
        assert_eq!(retrieval.classes, ["a", "b", "c"]);
        assert_eq!(of(&retrieval.val), [("1.jpg".to_owned(), 0), ("1.jpg".to_owned(), 2)]);
    }

    #[test]
    fn pictures_find_their_labels() {
        let files =
            ["train/images/a.jpg", "train/masks/a.png", "val/images/b.png", "val/masks/b.png", "classes.txt"];
        let scenes = find(tree(&files).path()).unwrap().scenes.unwrap();
        assert_eq!((scenes.classes, scenes.depth), (vec!["floor".to_owned(), "wall".to_owned()], false));
        assert!(scenes.val[0].mask.as_ref().unwrap().ends_with("val/masks/b.png"));
        assert_eq!(scenes.val[0].depth, None);
    }

    #[test]
    fn frames_alone_are_for_metres() {
        let data = find(tree(&["2.jpg", "2.json", "1.jpg", "1.json", "1_seg.png", "3.jpg"]).path()).unwrap();
        assert_eq!(data.frames.iter().map(|f| name_of(f)).collect::<Vec<_>>(), ["1.jpg", "2.jpg"]);
        assert!(data.labelled.is_none() && data.scenes.is_none() && data.retrieval.is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let says = |files: &[&str], words: &[&str]| {
            let text = error(files);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        says(&["readme.txt"], &["nothing that can be evaluated", "train/CLASS/*.jpg"]);
        says(&["train/cat/1.jpg"], &["val is missing"]);
        says(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cow/1.jpg"], &["val/cow", "does not have"]);
        says(&["train/cat/1.jpg", "val/cat/1.jpg"], &["one class only"]);
        says(&["train/cat/1.txt", "train/dog/1.jpg", "val/cat/1.jpg"], &["train/cat holds no jpg or png"]);
        says(&["train/1.jpg", "val/1.jpg"], &["train holds no class folders"]);
        says(&["query/a/1.jpg"], &["cannot read", "gallery"]);
        let image = ["train/images/a.jpg", "val/images/a.jpg"];
        says(&image, &["neither masks/ nor depth/"]);
        let [a, b] = image;
        says(&[a, b, "train/masks/a.png"], &["val/masks is missing"]);
        let masks = [a, b, "train/masks/a.png", "val/masks/a.png"];
        says(&masks, &["classes.txt", "one a line"]);
        says(&[&masks[..], &["classes.txt", "val/images/c.jpg"]].concat(), &["c.png is missing", "c.jpg"]);
        says(&[&masks[..], &["classes.txt", "val/images/a.png"]].concat(), &["a.png would have the same"]);
        says(
            &["train/images/x.txt", "train/depth/x.png", "val/images/b.jpg", "val/depth/b.png"],
            &["no jpg"],
        );
        says(&["train/1.jpg", "train/1.json", "val/1.jpg", "val/1.json"], &["train/1.json is not a frame"]);
    }

    #[test]
    fn names_of_classes_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.txt");
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            read_classes(&path).map_err(|error| error.to_string())
        };
        assert_eq!(of("floor\r\n wall \n").unwrap(), ["floor", "wall"]);
        assert!(of("").unwrap_err().contains("is empty"));
        assert!(of("floor\n\nwall").unwrap_err().contains("line 2"));
        assert!(of("floor\nfloor").unwrap_err().contains("repeats 'floor'"));
        let many: String = (0..256).map(|i| format!("c{i}\n")).collect();
        assert!(of(&many).unwrap_err().contains("256 lines"));
    }

    #[test]
    fn boxes_grow_and_stay_in_the_picture() {
        assert_eq!(grown([10.0, 20.0, 60.0, 120.0], [392.0, 224.0]), Some([5, 10, 60, 120]));
        assert_eq!(grown([0.0, 200.0, 4.0, 224.0], [392.0, 224.0]), Some([0, 197, 10, 27]));
        assert_eq!(grown([400.0, 0.0, 420.0, 20.0], [392.0, 224.0]), None);
    }
}
