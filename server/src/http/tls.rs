//! TLS of the data ports: a certificate, its key, and who signs those of clients, if clients need one. Whoever renews them writes
//! the files; connections made from then on get the new ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::MissedTickBehavior;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{Accept, TlsAcceptor};

/// How often it is looked whether the files are others. They are small.
const LOOK: Duration = Duration::from_secs(2);
/// The longest file of certificates: a bundle with all public authorities has some 200 KB.
const MOST_BYTES: u64 = 4 << 20;

/// Where everything is, in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients' certificates; with none, clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// The texts of the files.
#[derive(PartialEq)]
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What connections begin with.
pub struct Tls {
    files: Files,
    /// What the last look found, whether it could be used or not.
    seen: Mutex<Result<Texts, String>>,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One sentence: which file is wrong, and how.
    pub fn open(files: &Files) -> Result<Arc<Self>, String> {
        let texts = Texts::read(files)?;
        let config = ArcSwap::from_pointee(texts.config(files)?);
        Ok(Arc::new(Self { files: files.clone(), seen: Mutex::new(Ok(texts)), config }))
    }

    /// Begins a connection.
    pub(super) fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> Accept<S> {
        TlsAcceptor::from(self.config.load_full()).accept(socket)
    }

    /// Reads the files again and again, as long as the server lives.
    pub async fn watch(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let tls = Arc::clone(&self);
            // A file system may hang. A panic was reported already, and the next look may be better.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// Takes up other files. What cannot be used is told once; the certificate before goes on.
    fn look(&self) {
        let found = Texts::read(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if found == *seen {
            return;
        }
        match found.as_ref().map_err(Clone::clone).and_then(|texts| texts.config(&self.files)) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!(cert = %self.files.cert.display(), "new connections get another certificate");
            }
            Err(reason) => tracing::error!(reason, "the certificate before goes on"),
        }
        *seen = found;
    }
}

impl Texts {
    fn read(files: &Files) -> Result<Self, String> {
        Ok(Self {
            cert: read("tls-cert", &files.cert)?,
            key: read("tls-key", &files.key)?,
            client_ca: files.client_ca.as_deref().map(|file| read("tls-client-ca", file)).transpose()?,
        })
    }

    fn config(&self, files: &Files) -> Result<ServerConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("tls-cert", &files.cert, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| format!("--tls-key {}: no private key in PEM: {e}", files.key.display()))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(file), Some(text)) => {
                let wrong = |e: &dyn std::fmt::Display| format!("--tls-client-ca {}: {e}", file.display());
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls-client-ca", file, text)? {
                    roots.add(certificate).map_err(|e| wrong(&e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| wrong(&e))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| format!("--tls-cert {} with --tls-key {}: {e}", files.cert.display(), files.key.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("--{flag} {}: {e}", file.display());
    let about = fs::metadata(file).map_err(|e| wrong(&e))?;
    if !about.is_file() || about.len() > MOST_BYTES {
        return Err(wrong(&"no file of PEM, or a far too long one"));
    }
    fs::read(file).map_err(|e| wrong(&e))
}

fn certificates(flag: &str, file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("--{flag} {}: no certificate in PEM", file.display())),
        Err(e) => Err(format!("--{flag} {}: {e}", file.display())),
    }
}
