//! The webhook sink against a real web server.

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use standoff::publish::webhook::{self, NAME, REJECTED_MAX, WebhookSettings};
use standoff::types::{NodeId, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// What came: idempotency key, authorization, event.
type Post = (String, String, Value);
/// What is answered to the n-th post and the event's `seq`; none: no answer at all.
type Answer = Box<dyn Fn(usize, u64) -> Option<u16> + Send + Sync>;

struct Hooks {
    posts: Mutex<Vec<Post>>,
    answer: Mutex<Answer>,
}

impl Hooks {
    fn new(answer: impl Fn(usize, u64) -> Option<u16> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { posts: Mutex::default(), answer: Mutex::new(Box::new(answer)) })
    }

    async fn serve(self: &Arc<Self>, address: SocketAddr) -> JoinHandle<()> {
        let app = Router::new().route("/hook", post(take)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
    }

    fn seqs(&self) -> Vec<u64> {
        self.posts.lock().unwrap().iter().map(|(_, _, event)| event["seq"].as_u64().unwrap()).collect()
    }
}

async fn take(Shared(hooks): Shared<Arc<Hooks>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header =
        |name: &str| headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let event: Value = serde_json::from_slice(&body).unwrap();
    let seq = event["seq"].as_u64().unwrap();
    let count = {
        let mut posts = hooks.posts.lock().unwrap();
        posts.push((header("Idempotency-Key"), header("Authorization"), event));
        posts.len()
    };
    let answer = (hooks.answer.lock().unwrap())(count, seq);
    match answer {
        Some(status) => StatusCode::from_u16(status).unwrap(),
        None => std::future::pending().await,
    }
}

struct Sink {
    outbox: Arc<Outbox>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sink {
    fn start(outbox: Arc<Outbox>, settings: &WebhookSettings) -> Self {
        let (shutdown, stopped) = watch::channel(false);
        let reader = outbox.reader(NAME);
        let task = webhook::spawn(settings, NodeId::new("n").unwrap(), reader, stopped).unwrap();
        Self { outbox, shutdown, task }
    }

    async fn arrived(&self) {
        until("everything has arrived", async || self.outbox.waiting() == 0).await;
    }
}

fn settings(address: SocketAddr) -> WebhookSettings {
    WebhookSettings {
        url: Secret::new(format!("http://{address}/hook")),
        token: Some(Secret::new("hunter2")),
        ca_file: None,
    }
}

#[tokio::test]
async fn events_are_posted_once_in_order_with_their_ids() {
    let (hooks, address) = (Hooks::new(|_, _| Some(204)), free_address());
    let _server = hooks.serve(address).await;
    let sink = Sink::start(Arc::new(Outbox::default()), &settings(address));
    push(&sink.outbox, 20);
    sink.arrived().await;
    assert_eq!(hooks.seqs(), (1..=20).collect::<Vec<_>>());
    for (key, authorization, event) in hooks.posts.lock().unwrap().iter() {
        assert_eq!(*key, event["event_id"].as_str().unwrap());
        assert_eq!(authorization, "Bearer hunter2");
        assert_eq!((&event["v"], &event["state"]), (&Value::from(1), &Value::from("alarm")));
    }
}

#[tokio::test]
async fn a_server_that_is_down_fails_or_is_restarted_gets_every_event() {
    let address = free_address();
    let sink = Sink::start(Arc::new(Outbox::default()), &settings(address));
    push(&sink.outbox, 3);
    // Down: nothing listens. Then it fails twice, then it works.
    let hooks = Hooks::new(|count, _| Some(if count <= 2 { 500 } else { 200 }));
    let server = hooks.serve(address).await;
    sink.arrived().await;
    assert_eq!(hooks.seqs(), [1, 1, 1, 2, 3]);
    server.abort();
    let _ = server.await;
    push(&sink.outbox, 2);
    let again = Hooks::new(|_, _| Some(200));
    let _server = again.serve(address).await;
    sink.arrived().await;
    assert_eq!(again.seqs(), [4, 5]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_asked_again() {
    let (hooks, address) = (Hooks::new(|count, _| (count > 1).then_some(200)), free_address());
    let _server = hooks.serve(address).await;
    let sink = Sink::start(Arc::new(Outbox::default()), &settings(address));
    push(&sink.outbox, 1);
    sink.arrived().await;
    assert_eq!(hooks.seqs(), [1, 1]);
}

#[tokio::test]
async fn one_event_that_nobody_wants_does_not_hold_up_the_others() {
    let (hooks, address) = (Hooks::new(|_, seq| Some(if seq == 2 { 400 } else { 200 })), free_address());
    let _server = hooks.serve(address).await;
    let sink = Sink::start(Arc::new(Outbox::default()), &settings(address));
    let dropped = || standoff::metrics::METRICS.events_dropped.of(&[&NAME, &"rejected"]).get();
    let before = dropped();
    push(&sink.outbox, 3);
    until("the third has come", async || hooks.seqs().contains(&3)).await;
    sink.arrived().await;
    let second = hooks.seqs().iter().filter(|seq| **seq == 2).count();
    assert_eq!(second, REJECTED_MAX as usize);
    assert_eq!(dropped(), before + 1);
}

#[tokio::test]
async fn a_wrong_token_loses_nothing() {
    let (hooks, address) = (Hooks::new(|_, _| Some(401)), free_address());
    let _server = hooks.serve(address).await;
    let sink = Sink::start(Arc::new(Outbox::default()), &settings(address));
    push(&sink.outbox, 2);
    until("it was tried again", async || hooks.seqs().len() >= 3).await;
    assert_eq!((hooks.seqs().iter().max(), sink.outbox.waiting()), (Some(&1), 2));
    *hooks.answer.lock().unwrap() = Box::new(|_, _| Some(200));
    sink.arrived().await;
    assert_eq!(hooks.seqs().last(), Some(&2));
}

#[tokio::test]
async fn what_waits_at_the_stop_is_sent_and_what_cannot_be_waits_on() {
    let (hooks, address) = (Hooks::new(|_, _| Some(200)), free_address());
    let server = hooks.serve(address).await;
    let outbox = Arc::new(Outbox::default());
    let mut sink = Sink::start(outbox.clone(), &settings(address));
    push(&outbox, 5);
    sink.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut sink.task).await.expect("ends in time").unwrap();
    // What was on its way when the stop came may go twice.
    let mut seqs = hooks.seqs();
    seqs.dedup();
    assert_eq!((seqs, outbox.waiting()), (vec![1, 2, 3, 4, 5], 0));

    server.abort();
    let _ = server.await;
    let mut sink = Sink::start(outbox.clone(), &settings(address));
    push(&outbox, 2);
    sink.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut sink.task).await.expect("ends in time").unwrap();
    assert_eq!(outbox.waiting(), 2, "for the next start");
    let _server = hooks.serve(address).await;
    let sink = Sink::start(outbox, &settings(address));
    sink.arrived().await;
    let mut seqs = hooks.seqs();
    seqs.dedup();
    assert_eq!(seqs, (1..=7).collect::<Vec<_>>());
}

/// A server by TLS that answers every request with 204, for one request a connection.
async fn encrypted(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = rumqttc::tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                match stream.read(&mut buffer).await {
                    Ok(count @ 1..) => request.extend(&buffer[..count]),
                    _ => break,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn an_encrypted_server_is_checked_by_the_named_authority() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    };
    let ((ours, issuer), (theirs, _)) = (authority("ours"), authority("theirs"));
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = server.signed_by(&key, &issuer).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let address = encrypted(vec![certificate.der().clone()], private).await;
    let settings = WebhookSettings {
        url: Secret::new(format!("https://{address}/hook")),
        token: None,
        ca_file: Some(ca_file.clone()),
    };
    let outbox = Arc::new(Outbox::default());
    let before = outbox.waiting();
    std::fs::write(&ca_file, theirs).unwrap();
    let mut wrong = Sink::start(outbox.clone(), &settings);
    push(&outbox, 1);
    wrong.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut wrong.task).await.expect("ends in time").unwrap();
    assert_eq!(outbox.waiting(), before + 1, "nothing goes to a server of another authority");
    std::fs::write(&ca_file, ours).unwrap();
    Sink::start(outbox, &settings).arrived().await;
}
