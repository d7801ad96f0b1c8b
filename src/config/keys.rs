//! Every key of the configuration, once: its type with its range, its default and what it means. The reader
//! checks by these tables; docs/configuration.md and pipelines/schema.json are written from them.

/// A mapping with fixed keys.
#[derive(Debug)]
pub(super) struct Section {
    /// What it is, for the reference.
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
}

/// One key of a section.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    pub(super) doc: &'static str,
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    Required,
    Optional,
    /// Read as if this text stood there.
    Default(&'static str),
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Text that is never shown.
    Secret,
    /// A path, relative to the configuration file.
    Path,
    /// An MQTT topic without wildcards.
    Topic,
    /// A name of the alphabet of `types::ids`.
    Name,
    Number {
        min: f64,
        max: f64,
    },
    Integer {
        min: u64,
        max: u64,
    },
    /// With its unit: `500ms`, `1.5s`, `2m`. Bounds in milliseconds.
    Duration {
        min_ms: u64,
        max_ms: u64,
    },
    /// `true` or `false`.
    Flag,
    /// Width and height, as in `392x224`.
    Size {
        multiple_of: u32,
    },
    /// Two times of day, as in `06:00-22:00`.
    Window,
    /// Days of the week, as in `[mon, tue]`.
    Days,
    /// Names in brackets, as in `[person]`.
    Names,
    /// Two numbers in brackets.
    Point,
    /// At least two points in brackets.
    Line,
    Section(&'static Section),
    /// Sections by names that the user gives.
    Named(&'static Section),
    List(&'static Section),
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, need: Need::Required, doc }
}

const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, need: Need::Optional, doc }
}

const fn default(name: &'static str, kind: Kind, text: &'static str, doc: &'static str) -> Key {
    Key { name, kind, need: Need::Default(text), doc }
}

const METRES: Kind = Kind::Number { min: 0.0, max: 1000.0 };
const PIXELS: Kind = Kind::Number { min: -100_000.0, max: 100_000.0 };
const BEND: Kind = Kind::Number { min: -5.0, max: 5.0 };
const LENGTH_M: Kind = Kind::Number { min: 0.01, max: 1000.0 };
const SIGMA_M: Kind = Kind::Number { min: 0.0, max: 1000.0 };
const HEIGHT: Kind = Kind::Number { min: -100.0, max: 100.0 };
const FOCAL: Kind = Kind::Number { min: 1.0, max: 1_000_000.0 };

/// The whole file.
pub(super) static FILE: Section = Section {
    about: "The whole file.",
    keys: &[
        optional(
            "node",
            Kind::Name,
            "Name of this daemon in topics and messages. Without it a hash of the machine's id, never its host name.",
        ),
        optional("model", Kind::Section(&MODEL), "The model that looks at the pictures."),
        optional("mqtt", Kind::Section(&MQTT), "The broker that alarms go to."),
        optional(
            "state_dir",
            Kind::Path,
            "Folder for what must survive a restart; one daemon each. Without it `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/standoff`, else `~/.local/state/standoff`, else `/var/lib/standoff`.",
        ),
        optional("home_assistant", Kind::Section(&HOME_ASSISTANT), "Devices and entities in Home Assistant."),
        optional("outbox", Kind::Section(&OUTBOX), "How events wait for the broker."),
        optional("http", Kind::Section(&HTTP), "Health and metrics over HTTP."),
        optional("privacy", Kind::Section(&PRIVACY), "What is kept of people, and for how long."),
        optional("audit", Kind::Section(&AUDIT), "The log of what happened and who did what."),
        optional("proof_test", Kind::Section(&PROOF_TEST), "Tries the whole path now and then."),
        optional("modbus", Kind::Section(&MODBUS), "A server for a PLC. Without it there is none."),
        optional("webhook", Kind::Section(&WEBHOOK), "Where events are posted besides. Without it nowhere."),
        required("cameras", Kind::Named(&CAMERA), "The cameras, each by a name that appears in topics."),
    ],
};

static MODEL: Section = Section {
    about: "The model that looks at the pictures.",
    keys: &[
        default(
            "name",
            Kind::Name,
            "dinov2-small",
            "An installed model; `standoff model fetch` installs it.",
        ),
        default(
            "input",
            Kind::Size { multiple_of: 14 },
            "392x224",
            "Size of the model's input in pixels. Pictures are fitted into it without distortion.",
        ),
        default(
            "threads",
            Kind::Integer { min: 0, max: 256 },
            "0",
            "Threads of the model on the CPU. 0 takes as many as there are cores.",
        ),
        default(
            "max_batch",
            Kind::Integer { min: 1, max: 64 },
            "4",
            "Cameras whose newest frames go through the model together.",
        ),
        default(
            "batch_wait",
            Kind::Duration { min_ms: 0, max_ms: 100 },
            "0ms",
            "How long a picture may wait for those of other cameras that are due, so that they go through the model together. While the model is busy they gather by themselves; waiting longer saves power on a GPU that has time, and costs just as much delay.",
        ),
        default(
            "closer_looks",
            Kind::Integer { min: 0, max: 16 },
            "4",
            "How many parts of a picture may go through the model again, larger, where things are small: that makes distances more exact. Live they are only taken while every camera still gets its answer in time.",
        ),
        default(
            "backend",
            Kind::Text,
            "auto",
            "What the model runs on: `tensorrt`, `cuda` (ONNX Runtime), `cpu`, or the best of these that works (`auto`). Where the one that is named does not work the next one runs, and the daemon's health says so.",
        ),
        default(
            "precision",
            Kind::Text,
            "mixed",
            "Floats on a GPU: `mixed` (16 bits where that is enough) or `full` (32). The CPU always takes 32.",
        ),
        optional(
            "taught",
            Kind::Path,
            "Folder of what `standoff teach` learned. Without it `taught` in the state folder.",
        ),
        optional(
            "depth",
            Kind::Path,
            "A file that gives the depth instead of the shipped head: a depth head that DINOv2's authors published (safetensors), or Depth Anything V2 (ONNX), which costs a second backbone pass: [depth.md](depth.md).",
        ),
        optional(
            "depth_unit",
            Kind::Text,
            "What the values of an ONNX file in `depth` are: `inverse` (Depth Anything V2's relative models) or `metres` (its metric ones). Without it `inverse`.",
        ),
        optional(
            "recorded",
            Kind::Path,
            "FOR TESTS ONLY: a file of features (`standoff bench --record`) that answers instead of the model, whatever the cameras see.",
        ),
    ],
};

static MQTT: Section = Section {
    about: "The broker that alarms go to. Topics and messages: [mqtt.md](mqtt.md).",
    keys: &[
        default("host", Kind::Text, "127.0.0.1", "Name or address of the broker."),
        optional(
            "port",
            Kind::Integer { min: 1, max: 65535 },
            "Its port. Without it 1883, or 8883 with `tls`.",
        ),
        default(
            "version",
            Kind::Text,
            "3.1.1",
            "Version of the protocol: `3.1.1` or `5`. By 5 old states expire in the broker, and refusals have reasons.",
        ),
        default("tls", Kind::Flag, "false", "Encrypt the connection (TLS 1.2 or 1.3) and check who answers."),
        optional(
            "ca_file",
            Kind::Path,
            "Certificate (PEM) of the authority that signed the broker's. Without it those that the system trusts.",
        ),
        optional(
            "client_cert_file",
            Kind::Path,
            "Our own certificate (PEM), when the broker asks for one, with what leads to its authority.",
        ),
        optional("client_key_file", Kind::Path, "Its private key (PEM, without a passphrase)."),
        optional("username", Kind::Text, "User name, when the broker asks for one."),
        optional(
            "username_file",
            Kind::Path,
            "A file whose first line is the user name. Without any, systemd's credential `mqtt-username`.",
        ),
        optional(
            "password",
            Kind::Secret,
            "Its password. Better in `password_file` or the variable `STANDOFF__MQTT__PASSWORD`.",
        ),
        optional(
            "password_file",
            Kind::Path,
            "A file whose first line is the password. Without any, systemd's credential `mqtt-password`.",
        ),
        optional("client_id", Kind::Text, "MQTT client id. Without it `standoff-` and the node's name."),
        default(
            "allow_remote_control",
            Kind::Flag,
            "false",
            "Let whoever may publish on the broker acknowledge, shelve, switch off and set limits of rules.",
        ),
        default(
            "keep_alive",
            Kind::Duration { min_ms: 2000, max_ms: 600_000 },
            "15s",
            "A broker that is silent for one and a half times as long is given up and connected again.",
        ),
    ],
};

static HOME_ASSISTANT: Section = Section {
    about: "Devices and entities in Home Assistant, made by its MQTT discovery: [home-assistant.md](home-assistant.md).",
    keys: &[
        default(
            "discovery",
            Kind::Text,
            "off",
            "`device`: one retained message for the daemon and each camera, for Home Assistant 2024.12 and later. `components`: one for each entity, for older ones. `off`: nothing is published outside of `standoff/`.",
        ),
        default(
            "prefix",
            Kind::Topic,
            "homeassistant",
            "Where Home Assistant looks for them, its `discovery_prefix`.",
        ),
    ],
};

static OUTBOX: Section = Section {
    about: "How events wait for the broker: on disk, until it acknowledges them.",
    keys: &[
        default(
            "max_size_mib",
            Kind::Integer { min: 1, max: 256 },
            "16",
            "Space that is reserved on disk at the start, MiB. When it is full of events that nobody took, the oldest go and are counted. 1 MiB holds about a thousand.",
        ),
        default(
            "max_age",
            Kind::Duration { min_ms: 60_000, max_ms: 30 * 86_400_000 },
            "168h",
            "An event that nobody took for so long is dropped and counted.",
        ),
        default(
            "max_event_age",
            Kind::Duration { min_ms: 1_000, max_ms: 86_400_000 },
            "60s",
            "An older event goes to the topic `late` instead of `event`, so that no siren answers the past.",
        ),
        default(
            "resend",
            Kind::Duration { min_ms: 0, max_ms: 600_000 },
            "30s",
            "What was acknowledged within this time is sent again to a broker that has forgotten us: it may have died before it passed it on.",
        ),
    ],
};

static HTTP: Section = Section {
    about: "Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`. See [observability.md](observability.md).",
    keys: &[default(
        "listen",
        Kind::Text,
        "127.0.0.1:9464",
        "Address and port, or `off`. It asks for no password: on another address than loopback everyone there can read it.",
    )],
};

static PRIVACY: Section = Section {
    about: "What is kept of people, and for how long. See [privacy.md](privacy.md).",
    keys: &[
        optional(
            "blur",
            Kind::Names,
            "Classes that are made unrecognisable in pictures before they are kept or sent: `[person]`. No embedding is kept of them.",
        ),
        default(
            "keep_pictures",
            Kind::Duration { min_ms: 0, max_ms: 3650 * 86_400_000 },
            "7d",
            "Pictures of alarms and their embeddings are deleted when they are older. 0s keeps none.",
        ),
        default(
            "max_pictures_mib",
            Kind::Integer { min: 1, max: 1 << 20 },
            "512",
            "Space for them, MiB; then the oldest are deleted.",
        ),
    ],
};

static MODBUS: Section = Section {
    about: "A Modbus TCP server from which a PLC reads coils and registers. The map: [modbus.md](modbus.md).",
    keys: &[
        default(
            "listen",
            Kind::Text,
            "127.0.0.1:1502",
            "Address and port. Modbus has no password: listen only where the PLC's network is. Ports below 1024 need a right.",
        ),
        required("rules", Kind::List(&MODBUS_RULE), "Which rule has which address."),
    ],
};

static MODBUS_RULE: Section = Section {
    about: "The place of one rule.",
    keys: &[
        required(
            "address",
            Kind::Integer { min: 0, max: crate::publish::modbus::ADDRESS_MAX as u64 },
            "The rule's coil. Its registers begin at 100 + 10 times the address.",
        ),
        required("camera", Kind::Name, "One of the cameras."),
        required("rule", Kind::Name, "One of its rules."),
    ],
};

static WEBHOOK: Section = Section {
    about: "Each event is posted as JSON, in order, until it is taken. See [webhook.md](webhook.md).",
    keys: &[
        required(
            "url",
            Kind::Secret,
            "`https://host/path` or `http://host/path`. Only its host is ever shown.",
        ),
        optional("token", Kind::Secret, "Sent as `Authorization: Bearer`. Better in `token_file`."),
        optional("token_file", Kind::Path, "A file whose first line is the token."),
        optional(
            "ca_file",
            Kind::Path,
            "Certificate (PEM) of the authority that signed the other side's. Without it those that the system trusts.",
        ),
    ],
};

static AUDIT: Section = Section {
    about: "The log of what happened and who did what, chained by hashes. See [audit.md](audit.md).",
    keys: &[default(
        "max_size_mib",
        Kind::Integer { min: 0, max: 65536 },
        "64",
        "Space for the log, MiB; then its oldest part is deleted. 0 keeps no log.",
    )],
};

static PROOF_TEST: Section = Section {
    about: "Puts a picture of a near-miss through the whole path, on a rule of its own, and says whether it arrived.",
    keys: &[default(
        "every",
        Kind::Text,
        "1h",
        "How often, 1m to 24h, or `off`. The first is 15 s after the start.",
    )],
};

static CAMERA: Section = Section {
    about: "One camera. Exactly one of `url`, `file` and `images` says where its pictures come from.",
    keys: &[
        optional(
            "url",
            Kind::Secret,
            "Stream, `rtsp://host/path` or `rtsps://host/path`. A user name and password in it are never shown.",
        ),
        optional("file", Kind::Path, "A clip, played in real time."),
        optional("images", Kind::Path, "A folder of pictures, in the order of their names."),
        default("loop", Kind::Flag, "false", "Begin the clip or the pictures again at their end."),
        default("fps", Kind::Number { min: 0.1, max: 120.0 }, "10", "Pictures of the folder a second."),
        optional("username", Kind::Text, "User name of the stream, if it is not in the URL."),
        optional("password", Kind::Secret, "Its password, if it is not in the URL."),
        optional("password_file", Kind::Path, "A file whose first line is the password."),
        optional("ca_file", Kind::Path, "Certificate (PEM) that an `rtsps://` camera is checked against."),
        default(
            "decode",
            Kind::Text,
            "auto",
            "What decodes a stream: `cpu`, `gpu`, or the GPU where the model runs on one (`auto`). See [gpu.md](gpu.md).",
        ),
        default(
            "camera_latency",
            Kind::Duration { min_ms: 0, max_ms: 10_000 },
            "0ms",
            "How long the camera itself takes from light to network. It cannot be seen from here.",
        ),
        default(
            "stale_after",
            Kind::Duration { min_ms: 100, max_ms: 60_000 },
            "1s",
            "A picture older than this is no evidence: the rules become unknown.",
        ),
        optional("view", Kind::Section(&VIEW), "When its picture counts as evidence."),
        optional(
            "calibration",
            Kind::Section(&CALIBRATION),
            "Where the floor is. Without it there are no metres and every rule stays unknown.",
        ),
        optional(
            "floors",
            Kind::List(&FLOOR),
            "Pieces of floor at their heights, such as a dock above a yard. A thing stands on the first whose area holds it. Without any the floor is at 0 everywhere.",
        ),
        optional(
            "edges",
            Kind::Named(&EDGE),
            "Lines on the floor that things may come too close to, by name.",
        ),
        optional("pairs", Kind::Named(&PAIR), "Distances that are measured, by name."),
        optional("rules", Kind::Named(&RULE), "What is too close, by name."),
    ],
};

static VIEW: Section = Section {
    about: "When the picture counts as evidence: not while it is frozen, dark, washed out, blurred or covered, see [view-health.md](view-health.md). `standoff commission` measures what it normally is.",
    keys: &[
        default(
            "enabled",
            Kind::Flag,
            "true",
            "`false` believes every picture that arrives. For pictures that are no camera's, such as drawings.",
        ),
        default(
            "after",
            Kind::Duration { min_ms: 500, max_ms: 60_000 },
            "1800ms",
            "How long a fault must be seen before the rules become unknown, and be gone before they return. Shorter notices sooner; what passes close to the lens must be gone within it.",
        ),
    ],
};

pub(super) static CALIBRATION: Section = Section {
    about: "Pixels to metres: the pose by what was measured on the floor, the lens by `hfov_deg` or `intrinsics`; without either its focal length is found as well. `standoff calibrate` says how good it is: [calibration.md](calibration.md).",
    keys: &[
        required(
            "size",
            Kind::Size { multiple_of: 1 },
            "Size of the picture in which the pixels were read. A stream of another size is scaled to it.",
        ),
        optional(
            "hfov_deg",
            Kind::Number { min: 5.0, max: 170.0 },
            "Horizontal field of view in degrees, from the camera's data sheet. The axis is taken as the middle.",
        ),
        optional("intrinsics", Kind::Section(&INTRINSICS), "The lens as measured, instead of `hfov_deg`."),
        default(
            "distortion",
            Kind::Text,
            "given",
            "`solve` finds the radial distortion k1 and k2 from at least 6 points (8 for k2), where they show any; `given` takes that of `intrinsics`, or none.",
        ),
        optional(
            "points",
            Kind::List(&POINT),
            "Places on the floor, seen in the picture and measured on the floor, not on one line. At least four, or fewer with `lengths` and `uprights`.",
        ),
        optional(
            "lengths",
            Kind::List(&LENGTH),
            "Distances between two places of the floor. Without points the origin is below the camera and y is where it looks.",
        ),
        optional(
            "uprights",
            Kind::List(&UPRIGHT),
            "Vertical things of known height that stand on the floor.",
        ),
    ],
};

static INTRINSICS: Section = Section {
    about: "The lens as measured, in pixels of `size`.",
    keys: &[
        required("fx", FOCAL, "Focal length along a row, pixels."),
        required("fy", FOCAL, "Focal length along a column, pixels."),
        required("cx", PIXELS, "Column of the axis, pixels from the left edge."),
        required("cy", PIXELS, "Row of the axis, pixels from the top edge."),
        default("k1", BEND, "0", "Radial distortion: `r (1 + k1 r^2 + k2 r^4)`, as OpenCV has it."),
        default("k2", BEND, "0", "Its second coefficient."),
    ],
};

static POINT: Section = Section {
    about: "One place on the floor.",
    keys: &[
        required(
            "pixel",
            Kind::Point,
            "Where it is in the picture: `[x, y]` in pixels from the top left corner.",
        ),
        required("floor_m", Kind::Point, "Where it is on the floor: `[x, y]` in metres, z up, any origin."),
        default("height_m", HEIGHT, "0", FLOOR_HEIGHT),
        optional("what", Kind::Text, "A note for people."),
    ],
};

const FLOOR_HEIGHT: &str = "Height of the floor that it is on, metres: a yard below the dock has another.";
const PLANE_HEIGHT: &str =
    "Height of both ends, metres: of the floor that it is on, or above it (a car's sides).";

static LENGTH: Section = Section {
    about: "One distance on the floor.",
    keys: &[
        required("from_pixel", Kind::Point, "Where it begins in the picture: `[x, y]`."),
        required("to_pixel", Kind::Point, "Where it ends."),
        required("length_m", LENGTH_M, "How long it is, metres."),
        default(
            "sigma_m",
            SIGMA_M,
            "0",
            "Standard deviation of that, metres: 0 when it was measured, more when it is assumed. Lengths of the same `length_m` and `sigma_m` rest on one assumption and are wrong together.",
        ),
        default("height_m", HEIGHT, "0", PLANE_HEIGHT),
        optional("what", Kind::Text, "A note for people."),
    ],
};

static UPRIGHT: Section = Section {
    about: "One vertical thing: a post, the edge of a door frame.",
    keys: &[
        required("foot_pixel", Kind::Point, "Where it meets the floor in the picture: `[x, y]`."),
        required("top_pixel", Kind::Point, "Its top, straight above that."),
        required("tall_m", LENGTH_M, "From foot to top, metres."),
        default("height_m", HEIGHT, "0", FLOOR_HEIGHT),
        optional("what", Kind::Text, "A note for people."),
    ],
};

static FLOOR: Section = Section {
    about: "One horizontal piece of floor.",
    keys: &[
        default("height_m", HEIGHT, "0", "Its height, metres."),
        optional("area_m", Kind::Line, "Its corners on the ground, metres. Without them it is everywhere."),
    ],
};

static EDGE: Section = Section {
    about: "A line on the floor.",
    keys: &[required(
        "line_m",
        Kind::Line,
        "Its points in metres on the floor, at least two: `[[x, y], [x, y]]`.",
    )],
};

static PAIR: Section = Section {
    about: "A distance that is measured: from the things of a class to the nearest thing of another, or to an edge.",
    keys: &[
        required("from", Kind::Name, "A class, see below."),
        required("to", Kind::Name, "A class or the name of one of this camera's edges."),
    ],
};

static RULE: Section = Section {
    about: "What is too close. Distances are compared by the near end of their interval.",
    keys: &[
        required("pair", Kind::Name, "One of this camera's pairs."),
        required("alarm_m", METRES, "Alarm below this distance, metres."),
        optional("warning_m", METRES, "Warning below this distance, metres; more than `alarm_m`."),
        optional(
            "leave_alarm_m",
            METRES,
            "The alarm is left beyond this distance, metres. Without it `alarm_m` and 0.3 m.",
        ),
        optional(
            "leave_warning_m",
            METRES,
            "The warning is left beyond this distance, metres. Without it `warning_m` and 0.3 m.",
        ),
        default(
            "alarm_after",
            Kind::Duration { min_ms: 0, max_ms: 60_000 },
            "0s",
            "How long a thing must be too close before it is said. 0 says it on the first picture.",
        ),
        default(
            "clear_after",
            Kind::Duration { min_ms: 0, max_ms: 600_000 },
            "1s",
            "How long pictures must show that nothing is too close before a lower state is said.",
        ),
        default(
            "latch",
            Kind::Flag,
            "false",
            "Hold an alarm until somebody has acknowledged it and its own pictures show that it is over.",
        ),
        optional(
            "alarm_contact",
            Kind::Duration { min_ms: 100, max_ms: 60_000 },
            "Alarm also when the two may touch within this time at the speed at which they approach: the near end of the distance over the upper end of the speed. 2s, say. Known once both were seen three times.",
        ),
        optional(
            "separation",
            Kind::Section(&SEPARATION),
            "Alarm also at the distance that the approach speed asks for, where that is more than `alarm_m`.",
        ),
        default(
            "shelve_max",
            Kind::Duration { min_ms: 1000, max_ms: 604_800_000 },
            "8h",
            "For how long a person may switch the rule off at a time; then it comes back by itself.",
        ),
        optional(
            "when",
            Kind::List(&CONDITION),
            "All of these must hold for the rule to be armed. What is not known counts as holding.",
        ),
    ],
};

static SEPARATION: Section = Section {
    about: "Separation by speed: speed * (measured p99 latency + `reaction`) + stopping distance, in the form of ISO 13855; advisory only. One of `stopping_m` and `deceleration_mps2`. The near end of the measured distance is compared.",
    keys: &[
        default(
            "reaction",
            Kind::Duration { min_ms: 0, max_ms: 60_000 },
            "1s",
            "From the alarm's decision here until whoever hears it acts: broker, siren, driver.",
        ),
        optional("stopping_m", METRES, "How far a thing still goes when it stops, metres."),
        optional(
            "deceleration_mps2",
            Kind::Number { min: 0.1, max: 20.0 },
            "Or how hard it brakes, metres a second per second; the distance is then `v * v / (2 * deceleration)`.",
        ),
        required(
            "max_speed_mps",
            Kind::Number { min: 0.1, max: 50.0 },
            "The approach speed that counts while none is measured, metres a second.",
        ),
    ],
};

static CONDITION: Section = Section {
    about: "One condition: an MQTT topic (`topic` with `is` or `is_not`), a taught state (`state` with `is` or `is_not`) or a time of day (`time`, `days`).",
    keys: &[
        optional("topic", Kind::Topic, "An MQTT topic; its values should be published retained."),
        optional(
            "state",
            Kind::Name,
            "A state that `standoff teach` learned, as this camera shows it. One that is unknown counts as holding.",
        ),
        optional("is", Kind::Text, "It holds while the topic or state has this value."),
        optional("is_not", Kind::Text, "It holds while the topic or state has another value."),
        optional(
            "time",
            Kind::Window,
            "It holds in this window of local time. `22:00-06:00` passes midnight, `00:00-24:00` is the whole day.",
        ),
        optional("days", Kind::Days, "Days on which the window begins. Without it every day."),
        optional("reason", Kind::Text, "What the disarmed state says, at most 200 characters."),
    ],
};
