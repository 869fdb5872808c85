//! TLS on the data ports: who is served, and what happens when certificates are renewed.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::http::{self, Client, Reply};
use common::repo::{Repo, row};
use common::{Server, grpc, onnxd, wait_for};
use onnxd::http::grpc::proto::{ServerReadyRequest, ServerReadyResponse};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Signed {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn sign(&self, name: &str) -> Signed {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        Signed { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this one, with or without a certificate of its own.
    fn client(&self, own: Option<&Signed>, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        config.alpn_protocols = vec![protocol.into()];
        Arc::new(config)
    }
}

/// The files of a server.
struct Files(TempDir);

impl Files {
    fn new(server: &Signed) -> Self {
        let files = Self(TempDir::new().expect("a folder"));
        files.renew(server);
        files
    }

    /// Puts another certificate and key in the place of those before, one after the other.
    fn renew(&self, server: &Signed) {
        self.write("cert.pem", &server.cert);
        self.write("key.pem", &server.key);
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    fn start(&self, repo: &Repo, args: &[&str]) -> Server {
        let (cert, key) = (self.0.path().join("cert.pem"), self.0.path().join("key.pem"));
        let tls = ["--tls-cert", path(&cert), "--tls-key", path(&key)];
        Server::start(repo.path(), &[&tls, args].concat())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

type Encrypted = Client<StreamOwned<ClientConnection, TcpStream>>;

fn connect(server: &Server, config: &Arc<ClientConfig>) -> std::io::Result<Encrypted> {
    let name = ServerName::IpAddress(server.http.ip().into());
    let session = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    Ok(Client::over(StreamOwned::new(session, http::socket(server.http)?)))
}

fn predict(client: &mut Encrypted) -> std::io::Result<Reply> {
    client.post("/predict", &row(1).to_string())
}

/// What a connection of its own brings: an answer's status, or why there is none.
fn ask(server: &Server, config: &Arc<ClientConfig>) -> Result<u16, String> {
    let mut client = connect(server, config).map_err(|e| e.to_string())?;
    predict(&mut client).map(|reply| reply.status).map_err(|e| e.to_string())
}

#[test]
fn both_data_ports_are_encrypted_and_take_nothing_else() {
    let (repo, authority) = (Repo::serving("good", None), Authority::new());
    let files = Files::new(&authority.sign("127.0.0.1"));
    let server = files.start(&repo, &[]);
    let plain = Server::start(repo.path(), &[]);
    let mut client = connect(&server, &authority.client(None, "http/1.1")).expect("it accepts");
    for _ in 0..2 {
        let reply = predict(&mut client).expect("an answer");
        assert_eq!((reply.status, reply.json()), (200, plain.predict(&row(1))));
    }
    for port in [server.http, server.grpc] {
        let client = grpc::Client::connect_by_tls(port, authority.client(None, "h2"));
        if port == server.grpc {
            let ready: ServerReadyResponse = client.call("ServerReady", ServerReadyRequest {}).expect("an answer");
            assert!(ready.ready);
        }
    }
    assert!(ask(&server, &Authority::new().client(None, "http/1.1")).is_err(), "of another authority");
    // Plain text ends without an answer to it.
    let mut plain = http::raw(server.http, b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut said = vec![];
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    // Health, metrics and status are as they were.
    assert_eq!(server.ops("/livez").status, 200);
    // Who connects and says nothing takes nobody's place.
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(server.http).expect("accepted")).collect();
    assert_eq!(ask(&server, &authority.client(None, "http/1.1")), Ok(200));
    drop(silent);
}

#[test]
fn a_renewed_certificate_is_served_to_whoever_connects_next() {
    let (repo, old, new) = (Repo::serving("good", None), Authority::new(), Authority::new());
    let files = Files::new(&old.sign("127.0.0.1"));
    let server = files.start(&repo, &[]);
    let (by_old, by_new) = (old.client(None, "http/1.1"), new.client(None, "http/1.1"));
    let mut before = connect(&server, &by_old).expect("it accepts");
    assert_eq!(predict(&mut before).expect("an answer").status, 200);
    assert!(ask(&server, &by_new).is_err());
    // One that cannot be used, as when only half of it is written: the one before goes on, and the log says why, once.
    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\n");
    let told = || server.log().matches("the certificate before goes on").count();
    wait_for("the reason in the log", || (told() > 0).then_some(()));
    assert_eq!(ask(&server, &by_old), Ok(200));
    files.renew(&new.sign("127.0.0.1"));
    wait_for("the new certificate", || (ask(&server, &by_new) == Ok(200)).then_some(()));
    assert!(ask(&server, &by_old).is_err());
    assert!(told() <= 2, "{}", server.log());
    // Connections are not ended for it.
    assert_eq!(predict(&mut before).expect("an answer").status, 200);
}

#[test]
fn clients_are_served_by_their_certificate() {
    let (repo, authority, clients, others) =
        (Repo::serving("good", None), Authority::new(), Authority::new(), Authority::new());
    let files = Files::new(&authority.sign("127.0.0.1"));
    let trusted = files.write("clients.pem", &clients.0.pem());
    let server = files.start(&repo, &["--tls-client-ca", path(&trusted)]);
    let (good, bad) = (clients.sign("cart"), others.sign("cart"));
    let ask = |own: Option<&Signed>| ask(&server, &authority.client(own, "http/1.1"));
    assert_eq!(ask(Some(&good)), Ok(200));
    assert!(ask(None).is_err(), "without a certificate");
    assert!(ask(Some(&bad)).is_err(), "of an authority that is not trusted");
    // Whom it trusts is read again, too.
    files.write("clients.pem", &(clients.0.pem() + &others.0.pem()));
    wait_for("the other authority", || (ask(Some(&bad)) == Ok(200)).then_some(()));
    assert_eq!(ask(Some(&good)), Ok(200));
}

#[test]
fn requests_are_answered_before_the_server_ends() {
    let (repo, authority) = (Repo::serving("good", None), Authority::new());
    let files = Files::new(&authority.sign("127.0.0.1"));
    let mut server = files.start(&repo, &[]);
    let config = authority.client(None, "http/1.1");
    let mut client = connect(&server, &config).expect("it accepts");
    assert_eq!(predict(&mut client).expect("an answer").status, 200);
    // In the middle of agreeing on keys when the server ends.
    let mut halfway = TcpStream::connect(server.http).expect("accepted");
    halfway.write_all(&[22, 3, 1]).expect("sent");
    server.signal("TERM");
    let status = server.wait();
    assert!(status.success(), "{status}: {}", server.log());
}

#[test]
fn files_that_do_not_fit_are_told_at_the_start() {
    let (authority, folder) = (Authority::new(), TempDir::new().expect("a folder"));
    let (one, other) = (authority.sign("127.0.0.1"), authority.sign("127.0.0.1"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (cert, key) = (write("cert.pem", &one.cert), write("key.pem", &one.key));
    let (stranger, empty) = (write("other.pem", &other.key), write("empty.pem", ""));
    for (args, reason) in [
        (vec!["--tls-cert", &cert], "tls-key is missing: TLS needs a certificate and its key"),
        (vec!["--tls-client-ca", &cert], "tls-cert is missing: TLS needs a certificate and its key"),
        (vec!["--tls-cert", &cert, "--tls-key", &stranger], "keys"),
        (vec!["--tls-cert", &empty, "--tls-key", &key], "no certificate in PEM"),
        (vec!["--tls-cert", &cert, "--tls-key", &cert], "no private key in PEM"),
        (vec!["--tls-cert", &cert, "--tls-key", "none.pem"], "--tls-key none.pem: No such file"),
        (vec!["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &empty], "--tls-client-ca"),
    ] {
        let (code, _, errors) = onnxd(&[&["serve", "models", "--http", "127.0.0.1:0"], &args[..]].concat());
        assert_ne!(code, 0, "{args:?}");
        assert!(errors.contains(reason), "{args:?}: {errors}");
    }
}
