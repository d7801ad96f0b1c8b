//! From values to settings: what the tables cannot say, such as which keys belong together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::keys;
use super::problem::nearest;
use super::read::{Reader, Report, duration_of};
use super::survey;
use super::taught::{Asked, Known};
use super::yaml::Value;
use super::{Camera, Config, ModelSettings, Privacy, Source, Surroundings, text_of};
use crate::album::Limits;
use crate::audit::AuditSettings;
use crate::backend::Wanted;
use crate::geometry::{Edge, FloorPlane, Pair, PairEnd, Site};
use crate::ingest::{CameraSource, Decode, RtspSource, StreamUrl};
use crate::model::depth::DepthSource;
use crate::model::graph::Precision;
use crate::outbox::OutboxSettings;
use crate::publish::discovery::{HomeAssistant, Mode};
use crate::publish::modbus::ModbusSettings;
use crate::publish::tls::{self, TlsSettings};
use crate::publish::transport::V5_KEEP_ALIVE_MIN;
use crate::publish::webhook::{self, WebhookError, WebhookSettings};
use crate::publish::{MqttSettings, MqttVersion};
use crate::rules::when::Condition;
use crate::rules::{LatchSettings, ProximitySettings, RuleKind, RuleSettings, Separation, Stopping};
use crate::types::ids::InvalidName;
use crate::types::{
    CameraId, ClassName, DepthUnit, EdgeId, NodeId, PROOF_CAMERA, PairId, RuleId, Secret, StateName,
    StateValue,
};
use crate::view::ViewSettings;

/// What the shipped heads can find in a picture.
pub(super) const CLASSES: [&str; 2] = ["forklift", "person"];

/// How much farther than a limit a thing must go before it is left, metres, when nothing else is said.
const HYSTERESIS_M: f64 = 0.3;

/// Bytes of a file with a password.
const SECRET_MAX_BYTES: usize = 64 << 10;

/// Resolves the whole file. Nothing is complete while the report holds a problem.
pub(super) fn config(tree: &Value, around: &Surroundings, report: &Report) -> Option<Config> {
    let file = Reader::open(&keys::FILE, tree, String::new(), report)?;
    let node = node(&file, around);
    let model = file.section("model").and_then(|section| model(&section, around));
    let mqtt = file.section("mqtt").and_then(|section| mqtt(&section, node.as_ref(), around));
    let cameras = file.named("cameras");
    if file.has("cameras") && cameras.is_empty() {
        file.wrong_key("cameras", "there is no camera");
    }
    let state_dir = state_dir(&file, around);
    let named = model.as_ref().and_then(|model| model.taught.clone());
    let taught = Known::of(&named.unwrap_or_else(|| state_dir.join(crate::teach::FOLDER)));
    if let Some(why) = &taught.damaged {
        file.doubt_key(
            "model",
            format!("{why}; until then what was taught is unknown, and so are its pairs"),
        );
    }
    let cameras: Vec<Camera> =
        cameras.iter().filter_map(|(name, section)| camera(name, section, around, &taught)).collect();
    let outbox = file.section("outbox").and_then(|section| outbox(&section));
    let home_assistant = file.section("home_assistant").and_then(|section| home_assistant(&section));
    let modbus = if_there(&file, "modbus", |section| modbus(section, &cameras));
    let webhook = if_there(&file, "webhook", |section| webhook(section, around));
    let control_socket = control_socket(&state_dir, around);
    let http = file.section("http").and_then(|section| http(&section));
    let audit = file.section("audit").and_then(|section| audit(&section, &state_dir));
    let privacy = file.section("privacy").and_then(|section| privacy(&section));
    let proof_test = file.section("proof_test").and_then(|section| proof_test(&section));
    Some(Config {
        node: node?,
        state_dir,
        control_socket,
        model: model?,
        mqtt: mqtt?,
        home_assistant: home_assistant?,
        outbox: outbox?,
        modbus: modbus?,
        webhook: webhook?,
        cameras,
        http: http?,
        audit: audit?,
        privacy: privacy?,
        proof_test: proof_test?,
        source: Source::default(),
        doubts: report.doubts(),
    })
}

fn state_dir(file: &Reader<'_>, around: &Surroundings) -> PathBuf {
    if let Some(path) = file.text("state_dir") {
        return around.folder.join(path);
    }
    default_state_dir(&around.variables)
}

/// Where the control socket is: in systemd's runtime folder, else with what is kept.
fn control_socket(state_dir: &Path, around: &Surroundings) -> PathBuf {
    let runtime =
        around.variables.iter().find(|(name, value)| name == "RUNTIME_DIRECTORY" && !value.is_empty());
    let folder = runtime.and_then(|(_, list)| list.split(':').next()).map(Path::new);
    folder.unwrap_or(state_dir).join(crate::control::SOCKET)
}

/// The state folder when the configuration names none.
pub(super) fn default_state_dir(variables: &[(String, String)]) -> PathBuf {
    let variable = |wanted: &str| {
        let found = variables.iter().find(|(name, value)| name == wanted && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    // systemd lists several folders with colons between.
    if let Some(path) = variable("STATE_DIRECTORY").and_then(|list| list.split(':').next()) {
        return path.into();
    }
    if let Some(path) = variable("XDG_STATE_HOME") {
        return Path::new(path).join("standoff");
    }
    match variable("HOME") {
        Some(path) => Path::new(path).join(".local/state/standoff"),
        None => "/var/lib/standoff".into(),
    }
}

fn home_assistant(section: &Reader<'_>) -> Option<HomeAssistant> {
    let mode = section.parsed("discovery", |text| match text {
        "off" => Ok(Mode::Off),
        "device" => Ok(Mode::Device),
        "components" => Ok(Mode::Components),
        _ => Err("`device`, `components` or `off` is wanted"),
    });
    let prefix = section.parsed("prefix", |text| {
        let fits = (1..=100).contains(&text.len()) && !text.contains(['+', '#']);
        let plain = !text.contains(char::is_control) && !text.starts_with('/') && !text.ends_with('/');
        if fits && plain {
            Ok(text.to_owned())
        } else {
            Err("not the beginning of a topic, such as homeassistant")
        }
    });
    Some(HomeAssistant { mode: mode?, prefix: prefix? })
}

fn outbox(section: &Reader<'_>) -> Option<OutboxSettings> {
    let (max_age, max_event_age) = (section.duration("max_age"), section.duration("max_event_age"));
    let (max_size_mib, resend) = (section.integer("max_size_mib"), section.duration("resend"));
    Some(OutboxSettings {
        max_bytes: max_size_mib? << 20,
        max_age: max_age?,
        max_event_age: max_event_age?,
        resend: resend?,
    })
}

/// `None` inside: it is off.
fn http(section: &Reader<'_>) -> Option<Option<SocketAddr>> {
    section.parsed("listen", |text| match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            format!("'{}' is neither `off` nor an address with a port, as in 127.0.0.1:9464", start(text))
        }),
    })
}

fn audit(section: &Reader<'_>, state_dir: &Path) -> Option<Option<AuditSettings>> {
    let max_bytes = section.integer("max_size_mib")? << 20;
    Some((max_bytes > 0).then(|| AuditSettings { folder: state_dir.join("audit"), max_bytes }))
}

fn privacy(section: &Reader<'_>) -> Option<Privacy> {
    let class = |text: &str| {
        if CLASSES.contains(&text) {
            return ClassName::new(text).map_err(|error| error.to_string());
        }
        Err(format!("no head knows the class '{}'{}", start(text), hint(text, &CLASSES)))
    };
    let blur = section.each("blur", class).unwrap_or_default();
    let (keep, max) = (section.duration("keep_pictures"), section.integer("max_pictures_mib"));
    Some(Privacy { blur, pictures: Limits { keep: keep?, max_bytes: max? << 20 } })
}

fn proof_test(section: &Reader<'_>) -> Option<Option<Duration>> {
    let range = Duration::from_secs(60)..=Duration::from_secs(86_400);
    section.parsed("every", |text| match (text, duration_of(text)) {
        ("off", _) => Ok(None),
        (_, Some(every)) if range.contains(&every) => Ok(Some(every)),
        _ => Err(format!("'{}' is neither `off` nor a time from 1m to 24h", start(text))),
    })
}

fn node(file: &Reader<'_>, around: &Surroundings) -> Option<NodeId> {
    if file.has("node") {
        return file.parsed("node", NodeId::new);
    }
    let Some(id) = &around.machine_id else {
        file.wrong_key("node", "is missing, and this machine has no id to make it from; give it a name");
        return None;
    };
    // The id itself is confidential (man 5 machine-id); what is published must not lead back to it.
    let hash = Sha256::digest(format!("standoff node {id}"));
    let name: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    NodeId::new(&name).ok()
}

fn model(section: &Reader<'_>, around: &Surroundings) -> Option<ModelSettings> {
    let recorded = section.parsed("recorded", |text| {
        let path = around.folder.join(text);
        if path.is_file() { Ok(path) } else { Err(format!("'{}' is not a file", path.display())) }
    });
    let taught = section.text("taught").map(|text| around.folder.join(text));
    let depth = depth(section, around);
    let (name, size) = (section.text("name"), section.size("input"));
    let (threads, max_batch) = (section.integer("threads"), section.integer("max_batch"));
    let backend = section.parsed("backend", |text| match text {
        "auto" => Ok(Wanted::Auto),
        "tensorrt" => Ok(Wanted::TensorRt),
        "cuda" => Ok(Wanted::Cuda),
        "cpu" => Ok(Wanted::Cpu),
        _ => Err("auto, tensorrt, cuda or cpu is wanted"),
    });
    let precision = section.parsed("precision", |text| match text {
        "mixed" => Ok(Precision::Mixed),
        "full" => Ok(Precision::Full),
        _ => Err("mixed or full is wanted"),
    });
    let batch_wait = section.duration("batch_wait");
    let closer_looks = section.integer("closer_looks");
    let (input_width, input_height) = size?;
    Some(ModelSettings {
        name: name?,
        input_width,
        input_height,
        threads: usize::try_from(threads?).ok()?,
        max_batch: usize::try_from(max_batch?).ok()?,
        backend: backend?,
        precision: precision?,
        batch_wait: batch_wait?,
        // What was recorded knows the whole picture only.
        closer_looks: if recorded.is_some() { 0 } else { usize::try_from(closer_looks?).ok()? },
        depth,
        recorded,
        taught,
    })
}

fn depth(section: &Reader<'_>, around: &Surroundings) -> DepthSource {
    let unit = section.parsed("depth_unit", str::parse::<DepthUnit>);
    if section.has("depth") && section.has("recorded") {
        section.wrong_key(
            "depth",
            "does not go with `recorded`, which answers with the depth that was recorded",
        );
    }
    if section.has("depth_unit") && !section.has("depth") {
        section.wrong_key("depth_unit", "says nothing without `depth`");
    }
    let source = section.parsed("depth", |text| DepthSource::read(&around.folder.join(text), unit));
    if let Some(DepthSource::Official(head)) = &source
        && let Some(dim) = section.text("name").and_then(|name| dim_of(&name))
        && let Err(problem) = head.check(dim)
    {
        section.wrong_key("depth", problem);
    }
    source.unwrap_or_default()
}

/// Width of the tokens of the models that have their published names; others tell it when they are opened.
fn dim_of(model: &str) -> Option<usize> {
    let known = [("small", 384), ("base", 768), ("large", 1024), ("giant", 1536)];
    let size = model.strip_prefix("dinov2-")?;
    known.into_iter().find_map(|(name, dim)| (name == size).then_some(dim))
}

fn mqtt(section: &Reader<'_>, node: Option<&NodeId>, around: &Surroundings) -> Option<MqttSettings> {
    let host = section.parsed("host", |text| {
        let ipv6 = text.parse::<std::net::Ipv6Addr>().is_ok();
        let plain =
            !text.is_empty() && !text.contains(['/', ':', '@']) && !text.contains(char::is_whitespace);
        if ipv6 || plain {
            Ok(text.to_owned())
        } else {
            Err("only the broker's name or address belongs here")
        }
    });
    let tls = tls(section, around);
    let default_port = if section.flag("tls") == Some(true) { 8883 } else { 1883 };
    let port = if section.has("port") { section.integer("port") } else { Some(default_port) };
    let version = section.parsed("version", |text| match text {
        "3.1.1" => Ok(MqttVersion::V311),
        "5" => Ok(MqttVersion::V5),
        _ => Err("3.1.1 or 5 is wanted"),
    });
    let username = username(section, around);
    let password = password(section, around)
        .or_else(|| Some(Secret::new(credential(around, "mqtt-password").filter(|_| username.is_some())?)));
    let has_name = section.has("username") || section.has("username_file") || username.is_some();
    if (section.has("password") || section.has("password_file")) && !has_name {
        section.wrong_key("username", "is missing: a password alone is of no use");
    }
    let client_id = section.parsed("client_id", |text| {
        let fits = (1..=128).contains(&text.len()) && !text.contains(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err("must have 1 to 128 characters") }
    });
    let keep_alive = section.duration("keep_alive");
    let allow_remote_control = section.flag("allow_remote_control");
    if version == Some(MqttVersion::V5) && keep_alive.is_some_and(|time| time < V5_KEEP_ALIVE_MIN) {
        section.wrong_key("keep_alive", "must be at least 5 s with version 5");
    }
    Some(MqttSettings {
        host: host?,
        port: u16::try_from(port?).ok()?,
        version: version?,
        tls: tls?,
        username,
        password,
        client_id: client_id.or_else(|| Some(format!("standoff-{}", node?)))?,
        keep_alive: keep_alive?,
        allow_remote_control: allow_remote_control?,
    })
}

/// How a connection is encrypted, if it is. The files are read, so that `check` finds what is wrong with them.
fn tls(section: &Reader<'_>, around: &Surroundings) -> Option<Option<TlsSettings>> {
    if !section.flag("tls")? {
        for key in ["ca_file", "client_cert_file", "client_key_file"] {
            if section.has(key) {
                section.wrong_key(key, "is of no use without `tls: true`");
            }
        }
        return Some(None);
    }
    let path = |key: &str| section.text(key).map(|text| around.folder.join(text));
    let (cert, key) = (path("client_cert_file"), path("client_key_file"));
    if cert.is_some() != key.is_some() {
        section.wrong("`client_cert_file` and `client_key_file` belong together; one is missing");
        return None;
    }
    let settings = TlsSettings { ca_file: path("ca_file"), client: cert.zip(key) };
    match tls::client_config(&settings) {
        Ok(_) => Some(Some(settings)),
        Err(error) => {
            section.wrong_key("tls", error.to_string());
            None
        }
    }
}

/// The user name that stands in the section itself, in a file that it names, or in systemd's credential.
fn username(section: &Reader<'_>, around: &Surroundings) -> Option<String> {
    if section.has("username") && section.has("username_file") {
        section.wrong_key("username_file", "there is also a `username`; one of the two must go");
        return None;
    }
    if section.has("username_file") {
        return section.parsed("username_file", |text| first_line(&around.folder.join(text), "user name"));
    }
    section.text("username").or_else(|| credential(around, "mqtt-username"))
}

/// What systemd hands over to the unit by this name (`LoadCredential=`), if it does.
fn credential(around: &Surroundings, name: &str) -> Option<String> {
    let (_, folder) = around.variables.iter().find(|(key, _)| key == "CREDENTIALS_DIRECTORY")?;
    first_line(&Path::new(folder).join(name), name).ok()
}

fn first_line(path: &Path, what: &str) -> Result<String, String> {
    let content = text_of(path, SECRET_MAX_BYTES)?;
    match content.lines().next().map(str::trim_end) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("the file has no {what} in its first line")),
    }
}

/// A section that may be missing: then there is nothing, and nothing is wrong.
fn if_there<T>(
    file: &Reader<'_>,
    key: &str,
    make: impl FnOnce(&Reader<'_>) -> Option<T>,
) -> Option<Option<T>> {
    if !file.has(key) {
        return Some(None);
    }
    file.section(key).and_then(|section| make(&section)).map(Some)
}

fn modbus(section: &Reader<'_>, cameras: &[Camera]) -> Option<ModbusSettings> {
    let listen = section.parsed("listen", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| "an address with its port is wanted, as in 127.0.0.1:1502 or [::1]:1502")
    });
    let mut rules = BTreeMap::new();
    for place in section.list("rules") {
        let camera = place.parsed("camera", |text| {
            let found = cameras.iter().find(|camera| camera.id.as_str() == text);
            let known: Vec<&str> = cameras.iter().map(|camera| camera.id.as_str()).collect();
            found.ok_or_else(|| format!("there is no camera '{}'{}", start(text), hint(text, &known)))
        });
        let address = place.integer("address").and_then(|address| u16::try_from(address).ok());
        let (Some(camera), Some(address)) = (camera, address) else { continue };
        let rule = place.parsed("rule", |text| {
            let known: Vec<&str> = camera.rules.iter().map(|rule| rule.id.as_str()).collect();
            let found = camera.rules.iter().find(|rule| rule.id.as_str() == text);
            let missing = || format!("its camera has no rule '{}'{}", start(text), hint(text, &known));
            found.map(|rule| rule.id.clone()).ok_or_else(missing)
        });
        let Some(rule) = rule else { continue };
        if rules.insert(address, (camera.id.clone(), rule)).is_some() {
            place.wrong_key("address", format!("{address} is given to two rules"));
        }
    }
    Some(ModbusSettings { listen: listen?, rules })
}

fn webhook(section: &Reader<'_>, around: &Surroundings) -> Option<WebhookSettings> {
    if section.has("token") && section.has("token_file") {
        section.wrong_key("token_file", "there is also a `token`; one of the two must go");
        return None;
    }
    let read = |text: &str| first_line(&around.folder.join(text), "token").map(Secret::new);
    let token = section.secret("token").or_else(|| section.parsed("token_file", read));
    let ca_file = section.text("ca_file").map(|text| around.folder.join(text));
    let settings = WebhookSettings { url: section.secret("url")?, token, ca_file };
    match webhook::check(&settings) {
        Ok(()) => Some(settings),
        Err(error @ WebhookError::Url) => {
            section.wrong_key("url", error.to_string());
            None
        }
        Err(error @ WebhookError::Tls(_)) => {
            section.wrong_key("ca_file", error.to_string());
            None
        }
    }
}

/// The password that stands in the section itself or in a file that it names.
fn password(section: &Reader<'_>, around: &Surroundings) -> Option<Secret> {
    let inline = section.secret("password");
    if section.has("password") && section.has("password_file") {
        section.wrong_key("password_file", "there is also a `password`; one of the two must go");
        return None;
    }
    let read = |text: &str| first_line(&around.folder.join(text), "password").map(Secret::new);
    inline.or_else(|| section.parsed("password_file", read))
}

fn camera(name: &str, section: &Reader<'_>, around: &Surroundings, taught: &Known) -> Option<Camera> {
    let id = named(section, CameraId::new(name));
    if name == PROOF_CAMERA {
        section.wrong("this name is the proof test's own; take another");
    }
    let source = source(section, around);
    let camera_latency = section.duration("camera_latency");
    let stale_after = section.duration("stale_after");
    let calibration = if section.has("calibration") {
        section.section("calibration").and_then(|section| survey::calibrated(&section))
    } else {
        None
    };
    let view = section.section("view").and_then(|section| view(&section));
    let planes = floors(section);
    let edges: Vec<Edge> =
        section.named("edges").iter().filter_map(|(name, edge_)| edge(name, edge_)).collect();
    let edge_names: Vec<&str> = section.names("edges");
    let pair_names: Vec<&str> = section.names("pairs");
    let pairs = section.named("pairs");
    let pairs: Vec<Pair> =
        pairs.iter().filter_map(|(name, pair_)| pair(name, pair_, &edge_names, taught)).collect();
    let rules: Vec<RuleSettings> = section
        .named("rules")
        .iter()
        .filter_map(|(name_, rule_)| rule(name_, rule_, &pair_names, stale_after, (name, taught)))
        .collect();
    Some(Camera {
        id: id?,
        source: source?,
        camera_latency: camera_latency?,
        stale_after: stale_after?,
        site: Site { calibration, edges, pairs, planes },
        rules,
        view: view?,
    })
}

fn view(section: &Reader<'_>) -> Option<ViewSettings> {
    let (enabled, after) = (section.flag("enabled"), section.duration("after"));
    Some(ViewSettings { enabled: enabled?, after: after? })
}

/// The pieces of floor; none when none is configured.
pub(super) fn floors(section: &Reader<'_>) -> Vec<FloorPlane> {
    let floor = |floor: &Reader<'_>| {
        let area_m = if floor.has("area_m") { floor.line("area_m")? } else { vec![] };
        if (1..3).contains(&area_m.len()) {
            floor.wrong_key("area_m", "at least three corners are wanted");
            return None;
        }
        Some(FloorPlane { height_m: floor.number("height_m")?, area_m })
    };
    section.list("floors").iter().filter_map(floor).collect()
}

/// A name that the user gave to a section.
fn named<T>(section: &Reader<'_>, name: Result<T, InvalidName>) -> Option<T> {
    name.map_err(|error| section.wrong(error.to_string())).ok()
}

pub(super) fn source(section: &Reader<'_>, around: &Surroundings) -> Option<CameraSource> {
    let there: Vec<&str> = ["url", "file", "images"].into_iter().filter(|key| section.has(key)).collect();
    let password = password(section, around);
    let username = section.text("username");
    let only = |keys: &[&'static str], what: &str| {
        for key in keys.iter().filter(|key| section.has(key)) {
            section.wrong_key(key, format!("belongs to a camera with `{what}`"));
        }
    };
    let exists = |path: &Path| {
        let path = around.folder.join(path);
        if path.exists() { Ok(path) } else { Err(format!("'{}' does not exist", path.display())) }
    };
    let file = |key: &str| section.parsed(key, |text| exists(Path::new(text)));
    let ca_file: Option<PathBuf> = file("ca_file");
    let (repeat, fps) = (section.flag("loop"), section.number("fps"));
    let decode = section.parsed("decode", |text| match text {
        "auto" => Ok(Decode::Auto),
        "cpu" => Ok(Decode::Cpu),
        "gpu" => Ok(Decode::Gpu),
        _ => Err("auto, cpu or gpu is wanted"),
    });
    match there.as_slice() {
        ["url"] => {
            only(&["loop"], "file` or `images");
            only(&["fps"], "images");
            let parse = |text: &str| StreamUrl::parse(text, username.as_deref(), password.as_ref());
            let url = section.parsed("url", parse)?;
            Some(CameraSource::Rtsp(RtspSource { ca_file, decode: decode?, ..RtspSource::new(url) }))
        }
        ["file"] => {
            only(&["username", "password", "password_file", "ca_file", "decode"], "url");
            only(&["fps"], "images");
            Some(CameraSource::File { path: file("file")?, loop_: repeat? })
        }
        ["images"] => {
            only(&["username", "password", "password_file", "ca_file", "decode"], "url");
            Some(CameraSource::Images { dir: file("images")?, fps: fps?, loop_: repeat? })
        }
        [] => {
            section.wrong("one of `url`, `file` and `images` is missing: where do its pictures come from?");
            None
        }
        [_, rest @ ..] => {
            for key in rest {
                section.wrong_key(key, "only one of `url`, `file` and `images` can be");
            }
            None
        }
    }
}

fn edge(name: &str, section: &Reader<'_>) -> Option<Edge> {
    let id = named(section, EdgeId::new(name));
    if CLASSES.contains(&name) {
        section.wrong("a class has this name; a pair could not tell the two apart");
    }
    Some(Edge { line_m: section.line("line_m")?, id: id? })
}

fn pair(name: &str, section: &Reader<'_>, edges: &[&str], taught: &Known) -> Option<Pair> {
    let id = named(section, PairId::new(name));
    let classes: Vec<&str> = CLASSES.into_iter().chain(taught.classes()).collect();
    let class = |text: &str| {
        // What cannot be read may hold any class.
        if classes.contains(&text) || taught.damaged.is_some() {
            return ClassName::new(text).map_err(|error| error.to_string());
        }
        let looked = match nearest(text, classes.iter().copied()) {
            Some(_) => String::new(),
            None => format!("; what was taught is looked for in {}", taught.dir().display()),
        };
        Err(format!("no head knows the class '{}'{}{looked}", start(text), hint(text, &classes)))
    };
    let from = section.parsed("from", |text| {
        if edges.contains(&text) { Err("an edge can only be `to`".to_owned()) } else { class(text) }
    });
    let to = section.parsed("to", |text| {
        if edges.contains(&text) {
            return EdgeId::new(text).map(PairEnd::Edge).map_err(|error| error.to_string());
        }
        let known: Vec<&str> = edges.iter().chain(&classes).copied().collect();
        class(text).map(PairEnd::Class).map_err(|_| {
            format!("'{}' is neither an edge of this camera nor a class{}", start(text), hint(text, &known))
        })
    });
    Some(Pair { id: id?, from: from?, to: to? })
}

fn rule(
    name: &str,
    section: &Reader<'_>,
    pairs: &[&str],
    stale_after: Option<Duration>,
    states: (&str, &Known),
) -> Option<RuleSettings> {
    let id = named(section, RuleId::new(name));
    let pair = section.parsed("pair", |text| {
        if pairs.contains(&text) {
            return PairId::new(text).map_err(|error| error.to_string());
        }
        Err(format!("this camera has no pair '{}'{}", start(text), hint(text, pairs)))
    });
    let (alarm, warning) = (section.number("alarm_m"), section.number("warning_m"));
    let (leave_alarm, leave_warning) = (section.number("leave_alarm_m"), section.number("leave_warning_m"));
    let (alarm_after, clear_after) = (section.duration("alarm_after"), section.duration("clear_after"));
    if let (Some(alarm), Some(warning)) = (alarm, warning)
        && warning <= alarm
    {
        section.wrong_key("warning_m", format!("{warning} is not more than alarm_m, {alarm}"));
    }
    let not_less = |key: &str, leave: Option<f64>, limit_key: &str, limit: Option<f64>| {
        if let (Some(leave), Some(limit)) = (leave, limit)
            && leave < limit
        {
            section.wrong_key(key, format!("{leave} is less than {limit_key}, {limit}"));
        }
    };
    not_less("leave_alarm_m", leave_alarm, "alarm_m", alarm);
    not_less("leave_warning_m", leave_warning, "warning_m", warning);
    if leave_warning.is_some() && !section.has("warning_m") {
        section.wrong_key("leave_warning_m", "there is no `warning_m` to leave");
    }
    let (latch, shelve_max) = (section.flag("latch"), section.duration("shelve_max"));
    let separation = if section.has("separation") {
        Some(section.section("separation").and_then(|section| separation(&section)))
    } else {
        None
    };
    let alarm_contact = section.has("alarm_contact").then(|| section.duration("alarm_contact"));
    let conditions = section.list("when");
    let when: Vec<Condition> =
        conditions.iter().filter_map(|condition_| condition(condition_, states)).collect();
    let alarm_m = alarm?;
    Some(RuleSettings {
        id: id?,
        kind: RuleKind::Proximity(ProximitySettings {
            pair: pair?,
            warning_m: warning,
            alarm_m,
            leave_warning_m: leave_warning.or(warning.map(|limit| limit + HYSTERESIS_M)),
            leave_alarm_m: leave_alarm.unwrap_or(alarm_m + HYSTERESIS_M),
            separation: match separation {
                Some(separation) => Some(separation?),
                None => None,
            },
            alarm_contact: match alarm_contact {
                Some(within) => Some(within?),
                None => None,
            },
        }),
        latch: LatchSettings {
            stale_after: stale_after?,
            alarm_after: alarm_after?,
            clear_after: clear_after?,
            latch: latch?,
        },
        when,
        shelve_max: shelve_max?,
    })
}

fn separation(section: &Reader<'_>) -> Option<Separation> {
    let (reaction, max_speed_mps) = (section.duration("reaction"), section.number("max_speed_mps"));
    let (fixed, deceleration) = (section.number("stopping_m"), section.number("deceleration_mps2"));
    let stopping = match (section.has("stopping_m"), section.has("deceleration_mps2")) {
        (true, false) => fixed.map(Stopping::Fixed),
        (false, true) => deceleration.map(Stopping::Deceleration),
        (true, true) => {
            section.wrong_key("deceleration_mps2", "there is also `stopping_m`; one of the two must go");
            None
        }
        (false, false) => {
            section.wrong("one of `stopping_m` and `deceleration_mps2` is missing");
            None
        }
    };
    Some(Separation { reaction: reaction?, stopping: stopping?, max_speed_mps: max_speed_mps? })
}

fn condition(section: &Reader<'_>, (camera, taught): (&str, &Known)) -> Option<Condition> {
    let topic = section.parsed("topic", |text| {
        let fits = (1..=1000).contains(&text.len()) && !text.contains(['+', '#', '\0']);
        if fits {
            Ok(text.to_owned())
        } else {
            Err(format!("'{}' is not a topic without wildcards", start(text)))
        }
    });
    let reason = section.parsed("reason", |text| {
        let fits = (1..=200).contains(&text.chars().count()) && !text.contains(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err("must be one line of 1 to 200 characters") }
    });
    let state = section.parsed("state", |text| StateName::new(text).map_err(|error| error.to_string()));
    let value =
        |key: &str| section.parsed(key, |text| StateValue::new(text.trim()).map_err(|e| e.to_string()));
    if section.has("state") {
        let others = ["topic", "time", "days"].iter().any(|key| section.has(key));
        let (key, is) = if section.has("is") { ("is", true) } else { ("is_not", false) };
        if others || section.has("is") == section.has("is_not") {
            section.wrong("`state` stands with either `is` or `is_not`, and nothing else but `reason`");
            return None;
        }
        let (state, value) = (state?, value(key)?);
        match taught.asks(camera, &state, &value) {
            Asked::Sound => {}
            Asked::Untaught => section.doubt_key(
                "state",
                format!(
                    "no '{state}' is taught for this camera; the condition counts as holding until it is"
                ),
            ),
            Asked::Never(hint) => {
                section.wrong_key(key, format!("the state '{state}' is never '{value}'; {hint}"));
                return None;
            }
        }
        let word = if is { "is not" } else { "is" };
        let reason = reason.unwrap_or_else(|| format!("{state} {word} {value}"));
        return Some(Condition::State { state, value, is, reason });
    }
    let (is, is_not) = (section.text("is"), section.text("is_not"));
    let (time, days) = (section.window("time"), section.days("days"));
    match (section.has("topic"), section.has("time"), section.has("is"), section.has("is_not")) {
        (true, false, true, false) if !section.has("days") => {
            let (topic, value) = (topic?, is?.trim().to_owned());
            let reason = reason.unwrap_or_else(|| format!("{} is not {}", start(&topic), start(&value)));
            Some(Condition::TopicIs { topic, value, reason })
        }
        (true, false, false, true) if !section.has("days") => {
            let (topic, value) = (topic?, is_not?.trim().to_owned());
            let reason = reason.unwrap_or_else(|| format!("{} is {}", start(&topic), start(&value)));
            Some(Condition::TopicIsNot { topic, value, reason })
        }
        (false, true, false, false) => {
            let (from, to) = time?;
            let days = if section.has("days") { days? } else { [true; 7] };
            let reason = reason.unwrap_or_else(|| "outside its time window".to_owned());
            Some(Condition::TimeWindow { from, to, days, reason })
        }
        _ => {
            section.wrong(
                "must be `topic` or `state` with either `is` or `is_not`, or `time` with or without `days`",
            );
            None
        }
    }
}

/// The beginning of a text, so that a message stays short.
fn start(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn hint(typed: &str, known: &[&str]) -> String {
    match nearest(typed, known.iter().copied()) {
        Some(name) => format!("; did you mean '{name}'?"),
        None if known.is_empty() => "; there are none".to_owned(),
        None => format!("; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_a_shipped_head_and_has_a_size() {
        let found = crate::heads::shipped::classes().unwrap();
        for class in CLASSES {
            assert!(found.iter().any(|name| name == class), "{class} is not in {found:?}");
            assert!(
                crate::geometry::sizes::of(&ClassName::new(class).unwrap()).is_some(),
                "{class} has no size"
            );
        }
    }
}
