//! The whole way from text to settings or problems.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::geometry::PairEnd;
use crate::ingest::RtspSource;
use crate::rules::RuleKind;
use crate::rules::when::Condition;

fn around(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        file: "test.yaml".into(),
        folder: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        variables: variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        machine_id: Some("some id".into()),
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, &around(&[]))
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems.list.iter().map(ToString::to_string).collect(),
    }
}

const GOOD: &str = r#"
cameras:
  dock:
    url: rtsp://user:hunter2@192.0.2.1/stream
    username: other
    password: 007
    calibration:
      size: 640x360
      hfov_deg: 70
      points:
        - {pixel: [238.37, 275.67], floor_m: [3.8177, 4.8098]}
        - {pixel: [600.89, 72.72], floor_m: [-20.7, 3.0219]}
        - {pixel: [157.56, 220.09], floor_m: [3.8527, 2.0616]}
        - {pixel: [548.8, 352.89], floor_m: [2.0, 9.0]}
    edges: {dock_edge: {line_m: [[0, 0], [1, 0]]}}
    pairs: {a: {from: forklift, to: dock_edge}, b: {from: forklift, to: person}}
    rules:
      r:
        pair: a
        warning_m: 2
        alarm_m: 0.5
        leave_alarm_m: 0.7
        alarm_after: 250ms
        when:
          - {topic: t, is_not: no}
          - {time: "22:00-06:00", days: [Mon, sun], reason: night shift}
"#;

#[test]
fn a_camera_is_resolved() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.node.as_str().len(), 8);
    assert_eq!(config.mqtt.client_id, format!("standoff-{}", config.node));
    assert_eq!((config.mqtt.port, config.mqtt.keep_alive), (1883, Duration::from_secs(15)));
    assert_eq!((config.model.input_width, config.model.max_batch), (392, 4));
    let dock = &config.cameras[0];
    assert_eq!(dock.stale_after, Duration::from_secs(1));
    let CameraSource::Rtsp(RtspSource { url, .. }) = &dock.source else { panic!() };
    assert_eq!((url.username(), url.password().unwrap().reveal()), (Some("other"), "007"));
    let calibration = dock.site.calibration.as_ref().unwrap();
    assert!((calibration.camera.lens.fx_px - 457.007).abs() < 1e-3);
    assert!((calibration.camera.pose.position_m[2] - 4.3).abs() < 0.05, "{:?}", calibration.camera.pose);
    assert!(matches!(&dock.site.pairs[0].to, PairEnd::Edge(edge) if edge.as_str() == "dock_edge"));
    assert!(matches!(&dock.site.pairs[1].to, PairEnd::Class(class) if class.as_str() == "person"));
    let rule = &dock.rules[0];
    let RuleKind::Proximity(limits) = &rule.kind;
    assert_eq!((limits.alarm_m, limits.leave_alarm_m), (0.5, 0.7));
    assert_eq!((limits.warning_m, limits.leave_warning_m), (Some(2.0), Some(2.3)));
    assert_eq!(rule.latch.alarm_after, Duration::from_millis(250));
    assert_eq!(rule.latch.clear_after, Duration::from_secs(1));
    let not_no = Condition::TopicIsNot { topic: "t".into(), value: "no".into(), reason: "t is no".into() };
    assert_eq!(rule.when[0], not_no);
    let days = [true, false, false, false, false, false, true];
    let night = Condition::TimeWindow { from: 1320, to: 360, days, reason: "night shift".into() };
    assert_eq!(rule.when[1], night);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn six_faults_are_named_at_once() {
    let text = GOOD
        .replace("warning_m: 2", "warning_m: 0.4")
        .replace("pair: a\n", "pair: aa\n")
        .replace("alarm_after: 250ms", "alarm_afer: 250ms")
        .replace("hfov_deg: 70", "hfov_deg: wide")
        .replace("from: forklift, to: person", "from: forklfit, to: person")
        .replace("topic: t", "topic: t/#");
    assert_eq!(
        problems(&text),
        [
            "line 9: cameras.dock.calibration.hfov_deg: 'wide' is not a number; a number from 5 to 170 is wanted",
            "line 16: cameras.dock.pairs.b.from: no head knows the class 'forklfit'; did you mean 'forklift'?",
            "line 19: cameras.dock.rules.r.pair: this camera has no pair 'aa'; did you mean 'a'?",
            "line 20: cameras.dock.rules.r.warning_m: 0.4 is not more than alarm_m, 0.5",
            "line 23: cameras.dock.rules.r.alarm_afer: unknown key; did you mean 'alarm_after'?",
            "line 25: cameras.dock.rules.r.when[0].topic: 't/#' is not a topic without wildcards",
        ]
    );
}

#[test]
fn each_fault_has_its_message() {
    for (from, to, expected) in [
        ("cameras:\n", "camera:\n", "camera: unknown key; did you mean 'cameras'?"),
        ("  dock:\n", "  Dock:\n", "cameras.Dock: not a valid name"),
        ("leave_alarm_m: 0.7", "leave_alarm_m: 0.3", "leave_alarm_m: 0.3 is less than alarm_m, 0.5"),
        ("        alarm_m: 0.5\n", "", "alarm_m: is missing; a number from 0 to 1000 is wanted"),
        ("alarm_after: 250ms", "alarm_after: 250", "'250' is not a duration"),
        ("alarm_after: 250ms", "alarm_after: 2h", "2h is out of range; a duration from 0ns to 60s"),
        (
            "to: dock_edge}",
            "to: dok_edge}",
            "'dok_edge' is neither an edge of this camera nor a class; did you mean",
        ),
        ("from: forklift, to: dock", "from: dock_edge, to: dock", "an edge can only be `to`"),
        ("edges: {dock_edge", "edges: {person", "a class has this name"),
        ("[[0, 0], [1, 0]]", "[[0, 0]]", "line_m: at least two points are wanted"),
        ("[[0, 0], [1, 0]]", "[[0, 0], [1, x]]", "line_m[1]: two numbers in brackets are wanted"),
        ("[548.8, 352.89]", "[548.8]", "points[3].pixel: two numbers in brackets"),
        (
            "        - {pixel: [548.8, 352.89], floor_m: [2.0, 9.0]}\n",
            "",
            "points: calibration has 3 floor points: give at least 4",
        ),
        ("hfov_deg: 70", "", "floor points and no lens: give `hfov_deg`"),
        ("password: 007", "password: 1\n    password_file: x", "password_file: there is also a `password`"),
        ("password: 007", "password_file: no/such", "password_file: the file cannot be read"),
        (
            "password: 007",
            "password_file: /dev/zero",
            "password_file: the file cannot be read: it is not a regular",
        ),
        ("url: rtsp", "url: http", "url: "),
        ("url: rtsp", "file: clip.mp4\n    url: rtsp", "file: only one of `url`, `file` and `images` can be"),
        ("url: rtsp://user:hunter2@192.0.2.1/stream", "file: no.mp4", "no.mp4' does not exist"),
        (
            "is_not: no",
            "is_not: no, is: yes",
            "when[0]: must be `topic` or `state` with either `is` or `is_not`",
        ),
        ("22:00-06:00", "22:00-22:00", "'22:00-22:00' is not such a window"),
        ("[Mon, sun]", "[Mon, sunday]", "when[1].days[1]: days are wanted"),
        ("    pairs:", "    mqtt: 1\n    pairs:", "cameras.dock.mqtt: unknown key; known here: url, file"),
        ("cameras:\n", "mqtt: {host: 'mqtt://x', port: 0}\ncameras:\n", "mqtt.port: 0 is out of range"),
        ("cameras:\n", "mqtt: {password: x}\ncameras:\n", "mqtt.username: is missing"),
        ("cameras:\n", "mqtt: {version: 4}\ncameras:\n", "mqtt.version: 3.1.1 or 5 is wanted"),
        (
            "cameras:\n",
            "mqtt: {version: 5, keep_alive: 3s}\ncameras:\n",
            "mqtt.keep_alive: must be at least 5 s with version 5",
        ),
        (
            "cameras:\n",
            "mqtt: {ca_file: a.pem}\ncameras:\n",
            "mqtt.ca_file: is of no use without `tls: true`",
        ),
        (
            "cameras:\n",
            "mqtt: {tls: true, client_key_file: a}\ncameras:\n",
            "`client_cert_file` and `client_key_file` belong together",
        ),
        (
            "cameras:\n",
            "mqtt: {tls: true, ca_file: /dev/zero}\ncameras:\n",
            "mqtt.tls: '/dev/zero' cannot be read: it is not a regular file",
        ),
        (
            "cameras:\n",
            "mqtt: {username: a, username_file: b}\ncameras:\n",
            "mqtt.username_file: there is also a `username`",
        ),
        ("cameras:\n", "modbus: {}\ncameras:\n", "modbus.rules: is missing"),
        (
            "cameras:\n",
            "modbus: {listen: here, rules: []}\ncameras:\n",
            "modbus.listen: an address with its port is wanted",
        ),
        (
            "cameras:\n",
            "modbus: {rules: [{address: 1, camera: duck, rule: r}]}\ncameras:\n",
            "modbus.rules[0].camera: there is no camera 'duck'; did you mean 'dock'?",
        ),
        (
            "cameras:\n",
            "modbus: {rules: [{address: 1, camera: dock, rule: x}]}\ncameras:\n",
            "modbus.rules[0].rule: its camera has no rule 'x'",
        ),
        (
            "cameras:\n",
            "modbus: {rules: [{address: 1, camera: dock, rule: r}, {address: 1, camera: dock, rule: r}]}\ncameras:\n",
            "modbus.rules[1].address: 1 is given to two rules",
        ),
        ("cameras:\n", "webhook: {}\ncameras:\n", "webhook.url: is missing"),
        ("cameras:\n", "webhook: {url: 'ftp://hunter2'}\ncameras:\n", "webhook.url: http://host/path or"),
        (
            "cameras:\n",
            "webhook: {url: 'http://x/', token: hunter2, token_file: b}\ncameras:\n",
            "webhook.token_file: there is also a `token`",
        ),
        (
            "cameras:\n",
            "model: {input: 393x224}\ncameras:\n",
            "'393x224' is not such a size; width and height",
        ),
        (
            "cameras:\n",
            "model: {depth: no.safetensors}\ncameras:\n",
            "no.safetensors' is of no use for depth: No such file",
        ),
        (
            "cameras:\n",
            "model: {depth: Cargo.toml, recorded: Cargo.toml}\ncameras:\n",
            "model.depth: does not go with `recorded`",
        ),
        (
            "cameras:\n",
            "model: {depth: Cargo.toml}\ncameras:\n",
            "it is neither safetensors nor ONNX; docs/depth.md says which files are",
        ),
        (
            "cameras:\n",
            "model: {depth_unit: feet}\ncameras:\n",
            "model.depth_unit: metres or inverse is wanted",
        ),
        (
            "cameras:\n",
            "model: {depth_unit: metres}\ncameras:\n",
            "model.depth_unit: says nothing without `depth`",
        ),
        ("cameras:\n", "node: [a]\ncameras:\n", "node: a list stands here; a name is wanted"),
        ("  dock:\n", "  dock: {}\n  dock:\n", "cameras.dock: this key stands here for the second time"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{to}: {found:#?} lacks {expected}");
        assert!(!found.iter().any(|problem| problem.contains("hunter2")), "{found:#?}");
    }
    assert_eq!(problems(""), ["cameras: is missing; names, each with its keys, are wanted"]);
    assert_eq!(problems("cameras: {}"), ["line 1: cameras: there is no camera"]);
    assert_eq!(problems("- 1"), ["line 1: must be keys with values, not a list"]);
}

#[test]
fn a_depth_head_takes_the_place_of_the_shipped_one() {
    use safetensors::tensor::{Dtype, TensorView};
    let folder = tempfile::tempdir().unwrap();
    let zeros = vec![0u8; 4 * 256 * 768];
    let view = |shape: &[usize]| {
        let bytes = 4 * shape.iter().product::<usize>();
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..bytes]).unwrap()
    };
    let tensors = [
        ("decode_head.conv_depth.weight", view(&[256, 768, 1, 1])),
        ("decode_head.conv_depth.bias", view(&[256])),
    ];
    let file = folder.path().join("dinov2_vits14_nyu_linear_head.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let text = format!("model: {{depth: '{}'}}\n{GOOD}", file.display());
    let config = parse(&text).unwrap();
    assert_eq!(config.model.depth.file(), Some(file.as_path()));
    let names = |config: &Config| -> Vec<(String, usize)> {
        let settings = config.backend().unwrap();
        assert_eq!(settings.depth, None, "it needs no second pass");
        settings.heads.iter().map(|head| (head.name.clone(), head.channels())).collect()
    };
    let mut shipped = names(&parse(GOOD).unwrap());
    let depth = shipped.iter_mut().find(|(name, _)| name == "depth").unwrap();
    assert_eq!(depth.1, 2, "mean and spread");
    depth.1 = 1;
    assert_eq!(names(&config), shipped);
    let other = text.replace("model: {", "model: {name: dinov2-base, ");
    assert!(
        problems(&other)[0].contains("is for tokens 384 wide, those of the model are 768 wide"),
        "{other}"
    );
    let with_unit = text.replace("model: {", "model: {depth_unit: inverse, ");
    assert!(problems(&with_unit)[0].contains("model.depth: "), "{:?}", problems(&with_unit));
}

#[test]
fn the_ways_out_are_resolved() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mqtt-username"), "me\n").unwrap();
    std::fs::write(folder.path().join("mqtt-password"), "hunter2\n").unwrap();
    let credentials = folder.path().display().to_string();
    let ways = "mqtt: {version: 5}\n\
                modbus: {listen: '[::1]:502', rules: [{address: 9, camera: dock, rule: r}]}\n\
                webhook: {url: 'http://x/', token: t}\ncameras:\n";
    let text = GOOD.replacen("cameras:\n", ways, 1);
    let config = Config::parse(&text, &around(&[("CREDENTIALS_DIRECTORY", &credentials)])).unwrap();
    assert_eq!(config.mqtt.username.as_deref(), Some("me"));
    assert_eq!(config.mqtt.password.as_ref().map(|password| password.reveal()), Some("hunter2"));
    assert_eq!((config.mqtt.version.to_string().as_str(), config.mqtt.port), ("5", 1883));
    let modbus = config.modbus.unwrap();
    assert_eq!((modbus.listen.port(), modbus.rules[&9].1.as_str()), (502, "r"));
    assert_eq!(config.webhook.unwrap().token.unwrap().reveal(), "t");
    let plain = parse(GOOD).unwrap();
    assert_eq!((plain.modbus, plain.webhook, plain.mqtt.tls), (None, None, None));
}

#[test]
fn latching_and_separation_are_resolved_and_off_without_their_keys() {
    use crate::rules::{Separation, Stopping};
    let plain = parse(GOOD).unwrap();
    let rule = &plain.cameras[0].rules[0];
    let RuleKind::Proximity(limits) = &rule.kind;
    assert_eq!((rule.latch.latch, limits.separation), (false, None));
    assert_eq!(rule.shelve_max, Duration::from_secs(8 * 3600));
    assert!(!plain.mqtt.allow_remote_control);

    let with = |keys: &str| GOOD.replace("alarm_after: 250ms", keys);
    let text =
        with("latch: true\n        shelve_max: 1h\n        separation: {stopping_m: 0.8, max_speed_mps: 3}");
    let config = parse(&text).unwrap();
    let rule = &config.cameras[0].rules[0];
    assert_eq!((rule.latch.latch, rule.shelve_max), (true, Duration::from_secs(3600)));
    let RuleKind::Proximity(limits) = &rule.kind;
    let expected =
        Separation { reaction: Duration::from_secs(1), stopping: Stopping::Fixed(0.8), max_speed_mps: 3.0 };
    assert_eq!(limits.separation, Some(expected));
    for (keys, words) in [
        ("separation: {max_speed_mps: 3}", "one of `stopping_m` and `deceleration_mps2` is missing"),
        ("separation: {stopping_m: 1, deceleration_mps2: 2, max_speed_mps: 3}", "there is also `stopping_m`"),
        ("separation: {stopping_m: 1}", "max_speed_mps"),
    ] {
        let problems = problems(&with(keys));
        assert!(problems.len() == 1 && problems[0].contains(words), "{keys}: {problems:?}");
    }
}

#[test]
fn the_control_socket_is_in_the_runtime_folder_if_there_is_one() {
    let socket = |variables: &[(&str, &str)]| {
        Config::parse(GOOD, &around(variables)).unwrap().control_socket.display().to_string()
    };
    let state = ("STATE_DIRECTORY", "/var/lib/standoff");
    assert_eq!(socket(&[state]), "/var/lib/standoff/control.sock");
    assert_eq!(socket(&[state, ("RUNTIME_DIRECTORY", "/run/standoff:/run/x")]), "/run/standoff/control.sock");
}

#[test]
fn variables_lie_over_the_file() {
    let variables = [
        ("STANDOFF__MQTT__HOST", "broker"),
        ("STANDOFF__CAMERAS__DOCK__RULES__R__ALARM_M", "0.25"),
        ("STANDOFF__CAMERAS__DOCK__PASSWORD", ""),
        ("STANDOFF_HOME", "elsewhere"),
    ];
    let config = Config::parse(GOOD, &around(&variables)).unwrap();
    assert_eq!(config.mqtt.host, "broker");
    assert_eq!(config.cameras[0].rules[0].limits_m().1, 0.25);
    let CameraSource::Rtsp(RtspSource { url, .. }) = &config.cameras[0].source else { panic!() };
    assert_eq!(url.password().unwrap().reveal(), "hunter2", "the one in the address is left");
    for (name, value, expected) in [
        ("STANDOFF__MQTT__PORT", "x", "variable STANDOFF__MQTT__PORT: mqtt.port: 'x' is not a whole number"),
        ("STANDOFF__MQT__PORT", "1", "variable STANDOFF__MQT__PORT: mqt: unknown key; did you mean 'mqtt'?"),
        ("STANDOFF__", "1", "variable STANDOFF__: is not a key path"),
        ("STANDOFF__CAMERAS__DOCK__URL__X", "1", "cameras.dock.url.x: there is a value or a list above"),
    ] {
        let found = Config::parse(GOOD, &around(&[(name, value)])).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_machine_without_an_id_needs_a_name() {
    let mut around = around(&[]);
    around.machine_id = None;
    assert!(Config::parse(GOOD, &around).unwrap_err().to_string().contains("node: is missing"));
    assert_eq!(Config::parse(&format!("node: x\n{GOOD}"), &around).unwrap().node.as_str(), "x");
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let problems = Config::load(Path::new("no/such.yaml")).unwrap_err();
    assert!(problems.to_string().starts_with("no/such.yaml: 1 problem\n  the file cannot be read: "));
}

/// Values that a person, or a generator gone wrong, may put anywhere.
fn any_scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1".to_owned()),
        Just("-1e308".to_owned()),
        Just(".nan".to_owned()),
        Just("nan".to_owned()),
        Just("forklift".to_owned()),
        Just("a".to_owned()),
        Just("640x360".to_owned()),
        Just("1s".to_owned()),
        Just("99999999999999999999h".to_owned()),
        Just("12:00-13:00".to_owned()),
        Just("~".to_owned()),
        Just("rtsp://a/b".to_owned()),
        "[ -~]{0,12}".prop_map(|text| format!("{text:?}")),
        "\\PC{0,6}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    any_scalar().prop_recursive(5, 60, 6, |inner| {
        let key = prop_oneof![known_key(), "[a-z_]{1,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((key, inner), 0..6).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    })
}

fn known_key() -> impl Strategy<Value = String> {
    let mut names = vec!["dock".to_owned(), "a".to_owned()];
    let mut open = vec![&keys::FILE];
    while let Some(section) = open.pop() {
        for key in section.keys {
            names.push(key.name.to_owned());
            if let keys::Kind::Section(inner) | keys::Kind::Named(inner) | keys::Kind::List(inner) = key.kind
            {
                open.push(inner);
            }
        }
    }
    prop::sample::select(names)
}

/// A value of nearly the right shape, so that the cross checks are reached.
fn any_file() -> impl Strategy<Value = String> {
    let lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
    (prop::collection::vec((0..lines.len(), any_value(), any::<bool>()), 0..4)).prop_map(move |changes| {
        let mut lines = lines.clone();
        for (at, value, key) in changes {
            let line = &mut lines[at];
            *line = match line.split_once(": ") {
                Some((name, _)) => format!("{name}: {value}"),
                None if key => format!("{line} {value}"),
                None => String::new(),
            };
        }
        lines.join("\n")
    })
}

fn gives_problems_or_a_config(text: &str) {
    if let Err(problems) = parse(text) {
        assert!(!problems.list.is_empty(), "neither a problem nor a configuration: {text}");
        assert!(problems.to_string().lines().count() == problems.list.len() + 1, "{problems}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_gives_problems_or_a_config(text in "[\\[\\]{}:,&*!|>'\"#%@` \\-?a-c0-9\\n\\t~.]{0,60}") {
        gives_problems_or_a_config(&text);
    }

    #[test]
    fn any_tree_gives_problems_or_a_config(text in any_value()) {
        gives_problems_or_a_config(&text);
    }

    #[test]
    fn any_change_of_a_good_file_gives_problems_or_a_config(text in any_file()) {
        gives_problems_or_a_config(&text);
    }
}

#[test]
fn what_is_doubtful_is_taken_and_said() {
    use crate::heads::taught::model::tests::door;
    let folder = tempfile::tempdir().unwrap();
    let around = Surroundings { folder: folder.path().to_owned(), ..around(&[]) };
    let parse = |condition: &str| {
        let text = GOOD.replace("- {topic: t, is_not: no}", condition);
        assert_ne!(text, GOOD, "the good file has such a condition");
        Config::parse(&format!("state_dir: .\n{text}"), &around)
    };
    let doubts =
        |condition| parse(condition).unwrap().doubts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let untaught = doubts("- {state: door, is: open}");
    assert!(untaught[0].contains("no 'door' is taught for this camera"), "{untaught:?}");

    let dir = folder.path().join("taught");
    let teach = |camera| {
        crate::teach::Folder::open(&dir).unwrap().offer(&door(camera)).unwrap();
        crate::teach::accept(&dir).unwrap();
    };
    teach("dock");
    assert_eq!(doubts("- {state: door, is: open}"), Vec::<String>::new());
    let wrong = parse("- {state: door, is: opne}").unwrap_err().to_string();
    assert!(wrong.contains("when[0].is: the state 'door' is never 'opne'; did you mean 'open'?"), "{wrong}");
    teach("yard");
    assert_eq!(doubts("- {state: door, is: opne}").len(), 1, "a state of another camera");
}
