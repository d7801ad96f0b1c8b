//! What was taught on site, in the daemon: read at the start, at a reload, and when `standoff teach` says that it is
//! new. Also the newest picture of a camera, to teach by.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::classes;
use crate::analysis::Lesson;
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

/// The heads of a configuration: the shipped ones, then what was taught.
///
/// # Errors
/// A damaged shipped head, or a pair's class that no head knows.
pub(super) fn heads_of(config: &Config) -> Result<Vec<Box<dyn Head>>, HeadError> {
    let shipped = heads::shipped::classes()?;
    let (known, others): (Vec<ClassName>, Vec<ClassName>) =
        classes(config).into_iter().partition(|class| shipped.iter().any(|name| name == class.as_str()));
    let mut heads = heads::shipped::heads(&known)?;
    let taught = read(config).unwrap_or_else(|why| {
        tracing::error!("what was taught is not used: {why}");
        None
    });
    let knows = |class: &ClassName| taught.as_ref().is_some_and(|head| head.knows(class));
    if let Some(class) = others.iter().find(|class| !knows(class)) {
        let problem = format!("it has no class '{class}', which a pair measures");
        return Err(HeadError::File { name: "taught".to_owned(), problem });
    }
    heads.extend(taught.map(|head| Box::new(head) as Box<dyn Head>));
    Ok(heads)
}

/// What was taught, when there is something and the backbone gives its tokens.
fn read(config: &Config) -> Result<Option<TaughtHead>, String> {
    let Some(taught) = teach::load(&config.taught_dir()).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    if !config.reads_tokens() {
        return Err("the backend gives no tokens; set `model.taught` and restart".to_owned());
    }
    fits(config, &taught)?;
    Ok(Some(TaughtHead::new(taught)))
}

/// Whether it was taught on the tokens that this daemon makes.
fn fits(config: &Config, taught: &Taught) -> Result<(), String> {
    let weights = Store::locate().and_then(|store| store.sha256(&config.model.name));
    let ours = Backbone {
        sha256: weights.map_err(|error| error.to_string())?,
        input_width: config.model.input_width,
        input_height: config.model.input_height,
    };
    if taught.backbone == ours {
        return Ok(());
    }
    let Backbone { input_width, input_height, .. } = &taught.backbone;
    Err(format!(
        "it was fitted for another model or input size ({input_width} x {input_height}): \
         `standoff teach fit --config FILE` fits it for this one"
    ))
}

/// Answers what is asked about teaching, over the control socket.
pub(super) fn teaching(
    config: &Config,
    lessons: SyncSender<Lesson>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) -> Teaching {
    let config = config.clone();
    // What a restart alone can change was decided at the start: a folder made later brings no tokens.
    let tokens = config.reads_tokens();
    Arc::new(move |ask| match ask {
        Ask::Taught { dir } => {
            if !tokens {
                return Err("this daemon's backend gives no tokens; set `model.taught` and restart it once"
                    .to_owned());
            }
            follow(&config, &dir, &lessons)
        }
        Ask::Picture { camera } => picture(&camera, snapshots.clone()),
        _ => Err("this is no matter of teaching".to_owned()),
    })
}

fn follow(config: &Config, dir: &Path, lessons: &SyncSender<Lesson>) -> Result<Reply, String> {
    let ours = config.taught_dir();
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    };
    if !same(dir, &ours) {
        return Err(format!(
            "this daemon reads {}, not {}: set `model.taught` and restart it, or give --config to `standoff teach`",
            ours.display(),
            dir.display()
        ));
    }
    let head = read(config)?.ok_or_else(|| format!("nothing was fitted in {}", ours.display()))?;
    let words = words(head.taught());
    let (done, is_done) = oneshot::channel();
    lessons
        .try_send(Lesson { head, done })
        .map_err(|_| "another lesson is being taken up, or the daemon is starting or stopping".to_owned())?;
    match Handle::current().block_on(async { timeout(FOLLOW_WITHIN, is_done).await }) {
        Ok(Ok(result)) => result?,
        Ok(Err(_)) => return Err("the daemon is stopping".to_owned()),
        Err(_) => return Err("the analysis does not answer; it follows as soon as it can".to_owned()),
    }
    tracing::info!("taught: {words}");
    Ok(Reply::Done { done: words })
}

fn words(taught: &Taught) -> String {
    let classes = taught.classes.iter().map(|class| format!("class {}", class.name));
    let states = taught.states.iter().map(|state| format!("state {}", state.name));
    classes.chain(states).collect::<Vec<_>>().join(", ")
}

fn picture(id: &CameraId, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> Result<Reply, String> {
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
