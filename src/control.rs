//! The control socket: what people ask on the machine itself. A tokio task with its own socket, and the client's side.
//!
//! One request a connection: a line of JSON in, a line of JSON out. Who may connect is decided by the socket's group
//! (mode 0660); who did is known from the kernel and becomes part of the name that events carry. Requests are
//! bounded in size, time and number at once; the analysis answers them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::types::command::{Action, Command, CommandSender, Order, Via};
use crate::types::{CameraId, RuleId, RuleStatus};

/// The socket's name in the runtime or state folder.
pub const SOCKET: &str = "control.sock";
/// Requests are shorter.
const REQUEST_MAX_BYTES: u64 = 4096;
/// Answers are shorter: a few hundred bytes a rule.
const ANSWER_MAX_BYTES: u64 = 16 << 20;
/// Connections at a time; others wait.
const CLIENTS_MAX: usize = 8;
/// How long a client may take to ask, and to take the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long the analysis may take to answer. It looks at least ten times a second, but only once the model is loaded.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The part of a given name that is kept, in characters; the user id follows it.
const NAME_MAX: usize = 40;

/// A request on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks, in their own words.
    pub by: Option<String>,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What can be asked over the socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Ask {
    /// How every rule is.
    List,
    /// Acknowledge the latched alarm.
    Ack(Target),
    /// Switch the rule off for a time.
    Shelve {
        /// The rule.
        #[serde(flatten)]
        target: Target,
        /// For how long, seconds.
        for_s: u64,
    },
    /// End the shelving.
    Unshelve(Target),
    /// Switch the rule on.
    Arm(Target),
    /// Switch the rule off without an end.
    Disarm(Target),
    /// Take up what was taught in a folder.
    Taught {
        /// The folder, which must be the one that this daemon reads.
        dir: PathBuf,
    },
    /// The newest picture of a camera.
    Picture {
        /// The camera.
        camera: CameraId,
    },
    /// Where it reads what was taught, and by which model.
    Place,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its camera.
    pub camera: CameraId,
    /// Its name.
    pub rule: RuleId,
}

/// An answer on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// What is now.
    Now {
        /// The rules that were asked about.
        rules: Vec<RuleStatus>,
    },
    /// A camera's picture.
    Picture {
        /// JPEG, two hexadecimal digits a byte.
        jpeg_hex: String,
    },
    /// Where and by what the daemon is taught.
    Place {
        /// The folder.
        dir: PathBuf,
        /// The installed model's name.
        model: String,
        /// Width and height of its input, pixels.
        input: [u32; 2],
    },
    /// It is done.
    Done {
        /// What, in words.
        done: String,
    },
    /// Why not.
    Refused {
        /// In words.
        error: String,
    },
}

/// Answers what is no matter of the rules, on a thread that may wait: teaching. Told is also who asks. An error is a
/// refusal in words.
pub type Teaching = Arc<dyn Fn(Ask, &str) -> Result<Reply, String> + Send + Sync>;

impl Ask {
    /// What the analysis is asked; the request itself when it is none of its matters.
    fn action(self) -> Result<Action, Self> {
        let (Target { camera, rule }, order) = match self {
            Self::Taught { .. } | Self::Picture { .. } | Self::Place => return Err(self),
            Self::List => return Ok(Action::List),
            Self::Ack(target) => (target, Order::Acknowledge),
            Self::Shelve { target, for_s } => (target, Order::Shelve(Duration::from_secs(for_s))),
            Self::Unshelve(target) => (target, Order::Unshelve),
            Self::Arm(target) => (target, Order::Arm(true)),
            Self::Disarm(target) => (target, Order::Arm(false)),
        };
        Ok(Action::Rule { camera, rule, order })
    }
}

/// Starts the task on the present tokio runtime. It ends when `shutdown` becomes true or loses its sender.
///
/// # Errors
/// When the socket cannot be made: the folder is not there or not ours, the path is too long, another daemon
/// answers on it.
pub fn spawn(
    path: PathBuf,
    commands: CommandSender,
    teaching: Teaching,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let listener = listen(&path)?;
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(permit) = clients.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (commands, teaching) = (commands.clone(), teaching.clone());
                    tokio::spawn(async move {
                        serve(stream, &commands, teaching).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most often. Others close some.
                    tracing::warn!(%error, "the control socket cannot accept");
                    let _ = timeout(Duration::from_millis(200), shutdown.wait_for(|stop| *stop)).await;
                }
            }
        }
        // Best effort: a socket that nobody listens on says so to whoever connects.
        let _ = fs::remove_file(&path);
    }))
}

/// Binds beside the path and moves it there: so it never stands there with another mode, and a dead daemon's is
/// replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another standoff answers on it"));
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o660))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn serve(mut stream: UnixStream, commands: &CommandSender, teaching: Teaching) {
    let uid = stream.peer_cred().map(|credentials| credentials.uid()).ok();
    let reply = match timeout(CLIENT_PATIENCE, read_line(&mut stream, REQUEST_MAX_BYTES)).await {
        Ok(Ok(line)) => answer(&line, uid, commands, teaching).await,
        // Whoever does not ask needs no answer.
        Ok(Err(_)) | Err(_) => return,
    };
    let Ok(mut line) = serde_json::to_vec(&reply) else { return };
    line.push(b'\n');
    // Whoever does not listen has lost the answer; the command is done.
    let _ = timeout(CLIENT_PATIENCE, stream.write_all(&line)).await;
}

async fn read_line(stream: &mut UnixStream, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut line = vec![];
    BufReader::new(stream.take(max_bytes)).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

async fn answer(line: &[u8], uid: Option<u32>, commands: &CommandSender, teaching: Teaching) -> Reply {
    let refused = |error: String| Reply::Refused { error };
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return refused(format!("the request is not understood: {error}")),
    };
    let uid = uid.map_or_else(|| "uid unknown".to_owned(), |uid| format!("uid {uid}"));
    let by = match request.by.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => {
            format!("{} ({uid})", name.chars().take(NAME_MAX).collect::<String>())
        }
        _ => uid,
    };
    let action = match request.ask.action() {
        Ok(action) => action,
        Err(ask) => {
            let asked = tokio::task::spawn_blocking(move || teaching(ask, &by)).await;
            return match asked {
                Ok(Ok(reply)) => reply,
                Ok(Err(why)) => refused(why),
                Err(_) => refused("the daemon failed on it; its log says more".to_owned()),
            };
        }
    };
    let (command, reply) = Command::new(action, &by, Via::Socket).with_reply();
    if let Err(error) = commands.send(command) {
        return refused(error.to_string());
    }
    match timeout(ANSWER_WITHIN, reply).await {
        Ok(Ok(Ok(rules))) => Reply::Now { rules },
        Ok(Ok(Err(why))) => refused(why.to_string()),
        Ok(Err(_)) => refused("the daemon is stopping".to_owned()),
        Err(_) => refused("the daemon does not answer (is it loading its model?); what was asked waits and is done when it can be".to_owned()),
    }
}

/// Asks the daemon that listens on `path`, as a client.
///
/// # Errors
/// When nobody listens there, the permission is missing, or the answer does not come or is none.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    use std::io::{BufRead, Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    let patience = Some(ANSWER_WITHIN + CLIENT_PATIENCE);
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = vec![];
    io::BufReader::new(stream.take(ANSWER_MAX_BYTES)).read_until(b'\n', &mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::types::command::{Refusal, channel};

    struct Site {
        runtime: tokio::runtime::Runtime,
        path: PathBuf,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
        _folder: tempfile::TempDir,
    }

    fn site() -> (Site, Receiver<Command>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (sender, commands) = channel();
        let task = runtime
            .block_on(async {
                spawn(path.clone(), sender, Arc::new(|_, by| Err(format!("no lessons for {by}"))), stopped)
            })
            .unwrap();
        (Site { runtime, path, stop, task, _folder: folder }, commands)
    }

    fn target() -> Target {
        Target { camera: CameraId::new("dock").unwrap(), rule: RuleId::new("edge").unwrap() }
    }

    fn raw(path: &Path, bytes: &[u8]) -> String {
        let mut client = Client::connect(path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may hang up before it has read all.
        let _ = client.write_all(bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_request_becomes_a_command_with_who_asked() {
        let (site, commands) = site();
        let mode = fs::metadata(&site.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let analysis = std::thread::spawn(move || {
            let mut seen = vec![];
            for command in commands.iter().take(2) {
                let answer = match &command.action {
                    Action::List => Ok(vec![]),
                    Action::Rule { camera, rule, .. } => Err(Refusal::NoRule(camera.clone(), rule.clone())),
                };
                seen.push((command.action, command.by, command.via));
                command.reply.unwrap().send(answer).unwrap();
            }
            seen
        });
        let listed = ask(&site.path, &Request { by: None, ask: Ask::List }).unwrap();
        assert_eq!(listed, Reply::Now { rules: vec![] });
        let shelve = Request { by: Some("ann".into()), ask: Ask::Shelve { target: target(), for_s: 60 } };
        let Reply::Refused { error } = ask(&site.path, &shelve).unwrap() else { panic!() };
        assert_eq!(error, "camera 'dock' has no rule 'edge'");
        let uid = rustix::process::getuid().as_raw();
        let lesson = Request { by: Some("bob".into()), ask: Ask::Taught { dir: "/x".into() } };
        let expected = Reply::Refused { error: format!("no lessons for bob (uid {uid})") };
        assert_eq!(ask(&site.path, &lesson).unwrap(), expected);
        let Target { camera, rule } = target();
        let order = Order::Shelve(Duration::from_secs(60));
        let expected = [
            (Action::List, format!("uid {uid}"), Via::Socket),
            (Action::Rule { camera, rule, order }, format!("ann (uid {uid})"), Via::Socket),
        ];
        assert_eq!(analysis.join().unwrap(), expected);

        site.stop.send_replace(true);
        site.runtime.block_on(site.task).unwrap();
        assert!(!site.path.exists());
    }

    #[test]
    fn bad_requests_are_refused_and_slow_clients_do_not_block_others() {
        let (site, commands) = site();
        let silent: Vec<Client> =
            (0..CLIENTS_MAX + 2).map(|_| Client::connect(&site.path).unwrap()).collect();
        assert!(raw(&site.path, b"{\"action\":\"ack\"}\n").contains("not understood"));
        assert!(raw(&site.path, b"\xff\xfe\n").contains("not understood"));
        assert_eq!(raw(&site.path, &vec![b'x'; 1 << 20]), "", "too long");
        assert_eq!(raw(&site.path, b"no end of line"), "");
        assert!(commands.try_recv().is_err());
        drop(silent);
        drop(commands);
        assert!(raw(&site.path, b"{\"action\":\"list\"}\n").contains("the daemon is stopping"));
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
        let (site, _commands) = site();
        let _guard = site.runtime.enter();
        assert_eq!(listen(&site.path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        site.task.abort();
        site.runtime.block_on(site.task).unwrap_err();
        assert!(site.path.exists(), "as after a crash");
        assert!(listen(&site.path).is_ok());
    }
}
