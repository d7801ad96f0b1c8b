//! What was taught on site, in the daemon: read at the start, at a reload, and when `standoff teach` says that it is
//! new. Also the newest picture of a camera, to teach by.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio::time::timeout;

use crate::analysis::Lesson;
use crate::audit::{Audit, Entry};
use crate::clock;
use crate::config::Config;
use crate::control::{Ask, Reply, Teaching};
use crate::draw;
use crate::heads::taught::{Backbone, Taught};
use crate::heads::{self, Head, HeadError, TaughtHead};
use crate::model::store::Store;
use crate::preprocess::color::rgb_from_frame;
use crate::teach;
use crate::types::{CameraId, ClassName, Snapshot};

/// How long the analysis may take to follow: it looks ten times a second.
const FOLLOW_WITHIN: Duration = Duration::from_secs(5);
/// How long a camera may take to give its next picture.
const PICTURE_WITHIN: Duration = Duration::from_secs(5);
/// A picture to teach by.
const JPEG_MAX_BYTES: usize = 3 << 20;

/// How this process takes up what is taught.
pub(super) struct School {
    /// Whether the backend gives tokens: decided when it was opened. A folder made later brings none.
    tokens: bool,
    /// What makes them: the model that was there at the start.
    backbone: OnceLock<Result<Backbone, String>>,
    /// A lesson and a reload both change the heads: one at a time, or the later would put back what the other replaced.
    turn: Semaphore,
    audit: OnceLock<Audit>,
}

/// The heads of a configuration.
pub(super) struct Heads {
    /// The shipped ones, then what was taught.
    pub list: Vec<Box<dyn Head>>,
    /// Classes that pairs speak of and none of them finds: these pairs are unknown, the rest goes on.
    pub missing: BTreeSet<ClassName>,
}

impl School {
    pub fn new(config: &Config) -> Self {
        Self {
            tokens: config.reads_tokens(),
            backbone: OnceLock::new(),
            turn: Semaphore::new(1),
            audit: OnceLock::new(),
        }
    }

    /// Whether the backend is to give tokens.
    pub fn tokens(&self) -> bool {
        self.tokens
    }

    /// Where it is written down who taught.
    pub fn audit_to(&self, audit: Audit) {
        // Given once.
        let _ = self.audit.set(audit);
    }

    /// Waits until no lesson is being taken up; none comes while the answer is held.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(FOLLOW_WITHIN, self.turn.acquire()).await.ok()?.ok()
    }

    /// The heads of a configuration: the shipped ones, then what was taught. What cannot be read is said and left out.
    ///
    /// # Errors
    /// A damaged shipped head.
    pub fn heads(&self, config: &Config) -> Result<Heads, HeadError> {
        let shipped = heads::shipped::classes()?;
        let (known, others): (Vec<ClassName>, Vec<ClassName>) = config
            .classes()
            .into_iter()
            .cloned()
            .partition(|class| shipped.iter().any(|name| name == class.as_str()));
        let mut list = heads::other_depth::heads(&config.model.depth, &known)?;
        let loaded = teach::load(&config.taught_dir()).map_err(|error| error.to_string());
        let taught = loaded.and_then(|taught| taught.map(|taught| self.head(config, taught)).transpose());
        let taught = taught.unwrap_or_else(|why| {
            tracing::error!("what was taught is not used: {why}");
            None
        });
        let knows = |class: &ClassName| taught.as_ref().is_some_and(|head| head.knows(class));
        let missing: BTreeSet<ClassName> = others.into_iter().filter(|class| !knows(class)).collect();
        if !missing.is_empty() {
            let missing = missing.iter().map(ClassName::as_str).collect::<Vec<_>>().join(", ");
            tracing::error!("pairs are unknown for want of taught classes: {missing}");
        }
        list.extend(taught.map(|head| Box::new(head) as Box<dyn Head>));
        Ok(Heads { list, missing })
    }

    /// What was taught as a head, if it was taught on the tokens that this daemon makes.
    fn head(&self, config: &Config, taught: Taught) -> Result<TaughtHead, String> {
        if !self.tokens {
            return Err(
                "this daemon's backend gives no tokens; set `model.taught` and restart it once".to_owned()
            );
        }
        let ours = self.backbone.get_or_init(|| {
            let weights = Store::locate().and_then(|store| store.sha256(&config.model.name));
            Ok(Backbone {
                sha256: weights.map_err(|error| error.to_string())?,
                input_width: config.model.input_width,
                input_height: config.model.input_height,
            })
        });
        if taught.backbone == *ours.as_ref().map_err(Clone::clone)? {
            return Ok(TaughtHead::new(taught));
        }
        let Backbone { input_width, input_height, .. } = &taught.backbone;
        Err(format!(
            "it was fitted for another model or input size ({input_width} x {input_height}): \
             `standoff teach fit` fits it for this one"
        ))
    }

    fn note(&self, by: &str, what: &str, on: &str, result: &Result<Reply, String>) {
        if let Some(audit) = self.audit.get() {
            let result = result.as_ref().map_or_else(|why| format!("refused: {why}"), |_| "done".to_owned());
            let data = json!({"by": by, "what": what, "on": on, "result": result});
            audit.note(Entry::new(clock::utc(), "teaching", data));
        }
    }
}

/// Answers what is asked about teaching, over the control socket.
pub(super) fn teaching(
    config: &Config,
    school: Arc<School>,
    lessons: SyncSender<Lesson>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) -> Teaching {
    let config = config.clone();
    Arc::new(move |ask, by| match ask {
        Ask::Place => Ok(Reply::Place {
            dir: config.taught_dir(),
            model: config.model.name.clone(),
            input: [config.model.input_width, config.model.input_height],
        }),
        Ask::Taught { dir } => {
            let result = follow(&config, &school, &dir, &lessons);
            let what = match &result {
                Ok(Reply::Done { done }) => done.clone(),
                _ => String::new(),
            };
            school.note(by, "lesson", &what, &result);
            result
        }
        Ask::Picture { camera } => {
            let result = picture(&config, &camera, snapshots.clone());
            school.note(by, "picture", camera.as_str(), &result);
            result
        }
        _ => Err("this is no matter of teaching".to_owned()),
    })
}

/// Takes up the lesson that was laid into the folder, and puts it in its place there once it is in force. What is
/// refused leaves both as they are, so that the next start is not worse off.
fn follow(
    config: &Config,
    school: &School,
    dir: &Path,
    lessons: &SyncSender<Lesson>,
) -> Result<Reply, String> {
    let ours = config.taught_dir();
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    };
    if !same(dir, &ours) {
        return Err(format!(
            "this daemon reads {}, not {}: leave `--dir` away, or set `model.taught` and restart it",
            ours.display(),
            dir.display()
        ));
    }
    let _turn = school
        .turn
        .try_acquire()
        .map_err(|_| "a reload or another lesson is under way: ask again in a moment".to_owned())?;
    let offered = teach::offered(&ours).map_err(|error| error.to_string())?;
    let offered = offered.ok_or_else(|| format!("no new lesson lies in {}", ours.display()))?;
    let words = words(&offered);
    let head = school.head(config, offered)?;
    let (done, is_done) = oneshot::channel();
    lessons
        .try_send(Lesson { head, done })
        .map_err(|_| "another lesson is being taken up, or the daemon is starting or stopping".to_owned())?;
    // A lesson that nobody waits for any more is dropped by the analysis.
    match Handle::current().block_on(async { timeout(FOLLOW_WITHIN, is_done).await }) {
        Ok(Ok(result)) => result?,
        Ok(Err(_)) => return Err("the daemon is stopping".to_owned()),
        Err(_) => return Err("the analysis does not answer; ask again".to_owned()),
    }
    if let Err(error) = teach::accept(&ours) {
        tracing::warn!("{error}: whoever taught has to put the lesson in its place");
    }
    tracing::info!("taught: {words}");
    Ok(Reply::Done { done: words })
}

fn words(taught: &Taught) -> String {
    let classes = taught.classes.iter().map(|class| format!("class {}", class.name));
    let states = taught.states.iter().map(|state| format!("state {}", state.name));
    classes.chain(states).collect::<Vec<_>>().join(", ")
}

fn picture(
    config: &Config,
    id: &CameraId,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) -> Result<Reply, String> {
    if !config.privacy.blur.is_empty() {
        return Err(
            "`privacy.blur` is set, and a picture to teach by would show people: take it elsewhere and \
                    give it as a file"
                .to_owned(),
        );
    }
    // The newest of all cameras travels here; the next of this one comes in its turn.
    let next = async {
        snapshots
            .wait_for(|snapshot| snapshot.as_ref().is_some_and(|snapshot| snapshot.frame.camera == *id))
            .await
            .map(|snapshot| snapshot.clone())
    };
    let found = Handle::current().block_on(async { timeout(PICTURE_WITHIN, next).await });
    let snapshot = match found {
        Ok(Ok(Some(snapshot))) => snapshot,
        Ok(_) => return Err("the daemon is stopping".to_owned()),
        Err(_) => return Err(format!("no camera '{id}' gave a picture for {} s", PICTURE_WITHIN.as_secs())),
    };
    let jpeg =
        draw::jpeg(&rgb_from_frame(&snapshot.frame), JPEG_MAX_BYTES).map_err(|error| error.to_string())?;
    Ok(Reply::Picture { jpeg_hex: crate::model::weights::hex(&jpeg) })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::config::Surroundings;
    use crate::heads::taught::Standard;
    use crate::heads::taught::model::tests::car_class;

    fn config(folder: &Path, more: &str) -> Config {
        // What the daemon reads must not depend on whether this machine has a model.
        let text = format!(
            "node: n\nstate_dir: {}\nmqtt: {{host: 127.0.0.1}}\nmodel: {{backend: cpu}}\n{more}",
            folder.display()
        );
        let around =
            Surroundings { file: "site.yaml".into(), folder: folder.to_owned(), ..Surroundings::default() };
        Config::parse(&text, &around).unwrap_or_else(|problems| panic!("{problems}"))
    }

    const CARS: &str = "cameras: {a: {url: 'rtsp://a/1', pairs: {p: {from: car, to: person}}, \
                        rules: {r: {pair: p, alarm_m: 1}}}}\n";
    const PEOPLE: &str = "cameras: {a: {url: 'rtsp://a/1', pairs: {p: {from: forklift, to: person}}, \
                          rules: {r: {pair: p, alarm_m: 1}}}}\n";

    fn backbone(sha256: &str) -> Backbone {
        Backbone { sha256: sha256.to_owned(), input_width: 392, input_height: 224 }
    }

    fn cars(sha256: &str) -> Taught {
        let standard = Standard { mean: vec![0.0, 1.0], sigma: vec![1.0, 2.0] };
        Taught { backbone: backbone(sha256), standard, classes: vec![car_class()], states: vec![] }
    }

    fn school(tokens: bool) -> School {
        let backbone = OnceLock::from(Ok(backbone("ours")));
        School { tokens, backbone, turn: Semaphore::new(1), audit: OnceLock::new() }
    }

    fn store(folder: &Path, taught: &Taught) {
        let dir = folder.join(teach::FOLDER);
        teach::Folder::open(&dir).unwrap().offer(taught).unwrap();
        teach::accept(&dir).unwrap();
    }

    fn missing(school: &School, config: &Config) -> Vec<String> {
        school.heads(config).unwrap().missing.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_pairs_suffer_from_a_lesson_that_cannot_be_used() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &cars("ours"));
        let config_ = config(folder.path(), CARS);
        assert!(config_.doubts.is_empty());
        assert!(missing(&school(true), &config_).is_empty());
        assert_eq!(missing(&school(false), &config_), ["car"], "a backend without tokens");
        store(folder.path(), &cars("another model's"));
        assert_eq!(missing(&school(true), &config_), ["car"]);

        let file = folder.path().join(teach::FOLDER).join(teach::TAUGHT);
        std::fs::write(&file, b"half").unwrap();
        let config_ = config(folder.path(), CARS);
        assert_eq!(missing(&school(true), &config_), ["car"], "damaged, and the daemon starts");
        let doubt = config_.doubts[0].to_string();
        assert!(doubt.contains("taught.safetensors is damaged") && doubt.contains("teach fit"), "{doubt}");
        assert!(missing(&school(true), &config(folder.path(), PEOPLE)).is_empty());
    }

    /// Asks the daemon to follow while `answer` is what the analysis says.
    fn ask(school: &School, config: &Config, answer: Result<(), String>) -> Result<Reply, String> {
        let (sender, lessons): (_, Receiver<Lesson>) = sync_channel(1);
        let analysis = std::thread::spawn(move || lessons.recv().map(|lesson| lesson.done.send(answer)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let result = follow(config, school, &config.taught_dir(), &sender);
        drop(sender);
        let _ = analysis.join().unwrap();
        result
    }

    #[test]
    fn a_lesson_takes_its_place_only_when_it_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &cars("ours"));
        let config = config(folder.path(), CARS);
        let dir = config.taught_dir();
        let school = school(true);
        let classes = || teach::load(&dir).unwrap().unwrap().classes.len();
        let none = Taught { classes: vec![], ..cars("ours") };
        let offer = |taught: &Taught| teach::Folder::open(&dir).unwrap().offer(taught).unwrap();

        assert!(ask(&school, &config, Ok(())).unwrap_err().contains("no new lesson"));
        offer(&none);
        assert_eq!(ask(&school, &config, Err("no".into())), Err("no".into()));
        assert_eq!(classes(), 1, "the next start is as before");
        offer(&Taught { backbone: backbone("theirs"), ..none.clone() });
        assert!(ask(&school, &config, Ok(())).unwrap_err().contains("another model"));
        assert_eq!(classes(), 1);
        offer(&none);
        {
            let _reload = school.turn.try_acquire().unwrap();
            assert!(ask(&school, &config, Ok(())).unwrap_err().contains("a reload or another lesson"));
        }
        assert!(ask(&school, &config, Ok(())).is_ok());
        assert_eq!(classes(), 0);
    }

    #[test]
    fn no_clear_picture_leaves_a_site_that_blurs() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &format!("privacy: {{blur: [person]}}\n{PEOPLE}"));
        let (_sender, snapshots) = watch::channel(None);
        let said = picture(&config, &CameraId::new("a").unwrap(), snapshots).unwrap_err();
        assert!(said.contains("privacy.blur"), "{said}");
    }
}
