//! The files of TLS, all that belong together or none; and where the server can be asked without it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Raw, Reader};
use crate::http::tls::Files;

impl Raw {
    /// Where a server of this machine with these settings says whether it is ready: `--ops`, or `--http` where that is off.
    ///
    /// # Errors
    /// One sentence for each value that cannot be used.
    pub fn readiness(&self) -> Result<SocketAddr, Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let address = reader.address("ops").or_else(|| {
            if reader.tls().is_some() {
                reader.mistakes.push("where --ops is off, --tls-cert leaves no port that this command can ask".into());
            }
            reader.address("http")
        });
        match address {
            _ if !reader.mistakes.is_empty() => Err(reader.mistakes),
            Some(address) if address.port() > 0 => Ok(address),
            _ => Err(vec!["where the server answers is not known: name its port with --ops or --http".into()]),
        }
    }
}

impl Reader<'_> {
    pub(super) fn tls(&mut self) -> Option<Files> {
        let [cert, key, client_ca] =
            ["tls-cert", "tls-key", "tls-client-ca"].map(|name| self.optional(name).map(PathBuf::from));
        match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => Some(Files { cert, key, client_ca }),
            (None, None, None) => None,
            (cert, _, _) => {
                let missing = if cert.is_some() { "tls-key" } else { "tls-cert" };
                self.mistakes.push(format!(
                    "{missing} is missing: TLS needs a certificate and its key, --tls-cert and --tls-key"
                ));
                None
            }
        }
    }
}
