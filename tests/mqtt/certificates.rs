//! TLS with a real mosquitto: what is accepted, and a clear word for each thing that is not.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use standoff::publish::MqttVersion;
use standoff::publish::tls::TlsSettings;

use super::*;

/// An authority of this test's own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A broker with this certificate, that asks clients for one of the same authority if it is to.
fn broker(authority: &Authority, server: &(String, String), ask: bool) -> Option<Broker> {
    Broker::configured(|folder| {
        let ca = write(folder, "ca.pem", &authority.pem);
        let cert = write(folder, "server.pem", &server.0);
        let key = write(folder, "server.key", &server.1);
        format!(
            "allow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate {ask}",
            ca.display(),
            cert.display(),
            key.display()
        )
    })
}

fn settings(port: u16, version: MqttVersion, ca: &Path) -> MqttSettings {
    MqttSettings {
        version,
        tls: Some(TlsSettings { ca_file: Some(ca.to_owned()), client: None }),
        keep_alive: Duration::from_secs(5),
        ..MqttSettings::plain("127.0.0.1", port, "standoff-n")
    }
}

/// Starts a sink and waits until this stands in the log.
async fn says(settings: MqttSettings, wanted: &str) {
    let log = Log::default();
    let _listening = log.listen();
    let _sink = Sink::start(settings);
    log.says(wanted).await;
}

const CONNECTED: &str = "connected to the broker";
const BOTH: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

#[tokio::test]
async fn a_certificate_of_the_named_authority_is_accepted() {
    let authority = Authority::new("ours");
    let Some(broker) = broker(&authority, &authority.sign("127.0.0.1", |_| {}), false) else { return };
    let ca = broker.folder.path().join("ca.pem");
    for version in BOTH {
        says(settings(broker.port, version, &ca), CONNECTED).await;
    }
}

#[tokio::test]
async fn each_wrong_certificate_has_its_word() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let ca = write(folder.path(), "ca.pem", &ours.pem);
    let good = ours.sign("127.0.0.1", |_| {});
    let stranger = theirs.sign("127.0.0.1", |_| {});
    let old = ours.sign("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = ours.sign("127.0.0.1", |params| params.not_before = date_time_ymd(2090, 1, 1));
    let other = ours.sign("broker.example", |_| {});
    for (server, wanted) in [
        (&stranger, "is not signed by mqtt.ca_file"),
        (&old, "has expired"),
        (&early, "is not valid yet"),
        (&other, "is for another name"),
    ] {
        let Some(broker) = broker(&ours, server, false) else { return };
        for version in BOTH {
            says(settings(broker.port, version, &ca), wanted).await;
        }
    }
    let Some(broker) = broker(&ours, &good, false) else { return };
    let system = settings(broker.port, MqttVersion::V311, &ca);
    let system = MqttSettings { tls: Some(TlsSettings::default()), ..system };
    says(system, "signed by nobody whom this machine trusts").await;
    let gone = settings(broker.port, MqttVersion::V311, Path::new("/nowhere/ca.pem"));
    says(gone, "'/nowhere/ca.pem' cannot be read").await;
}

#[tokio::test]
async fn tls_and_plain_ports_are_told_apart() {
    let authority = Authority::new("ours");
    let Some(encrypted) = broker(&authority, &authority.sign("127.0.0.1", |_| {}), false) else { return };
    let Some(plain) = Broker::start(None) else { return };
    let ca = encrypted.folder.path().join("ca.pem");
    for version in BOTH {
        says(settings(plain.port, version, &ca), "is it the broker's TLS port").await;
        let to_tls = MqttSettings { tls: None, ..settings(encrypted.port, version, &ca) };
        says(to_tls, "mqtt.tls").await;
    }
}

#[tokio::test]
async fn a_broker_may_ask_who_we_are() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Some(broker) = broker(&ours, &ours.sign("127.0.0.1", |_| {}), true) else { return };
    let folder = broker.folder.path();
    let ca = folder.join("ca.pem");
    let client = |name: &str, (cert, key): (String, String)| {
        let cert = write(folder, &format!("{name}.pem"), &cert);
        Some((cert, write(folder, &format!("{name}.key"), &key)))
    };
    let good = client("good", ours.sign("standoff", |_| {}));
    let bad = client("bad", theirs.sign("standoff", |_| {}));
    for version in BOTH {
        let plain = settings(broker.port, version, &ca);
        let with = |client| MqttSettings {
            tls: Some(TlsSettings { ca_file: Some(ca.clone()), client }),
            ..plain.clone()
        };
        says(with(good.clone()), CONNECTED).await;
        says(plain.clone(), "wants a client certificate").await;
        says(with(bad.clone()), "refuses our client certificate").await;
    }
}
