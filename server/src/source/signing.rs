//! Ed25519 signatures of manifests. The manifest names the model, its version and the hash of every file, so that a
//! signature of it covers all of them and fits no other place.
//!
//! `manifest.json.sig` holds the 64 bytes of the signature in base64 or as they are, keys are PEM as OpenSSL writes them:
//! `openssl genpkey -algorithm ed25519`, `openssl pkeyutl -sign -rawin`.

use std::path::Path;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::model::check::{Rejection, Stage};

const END: &str = "-----END PUBLIC KEY-----";

/// The public keys that are trusted. Several, so that they can be changed one after the other.
#[derive(Clone, Debug)]
pub struct Keys(Arc<[VerifyingKey]>);

impl Keys {
    /// Reads a PEM file of one or more public keys.
    ///
    /// # Errors
    /// One sentence that says how to make such a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |e: String| {
            let shown = path.display();
            format!("{shown}: {e}: it must hold Ed25519 public keys in PEM, as `openssl pkey -pubout` writes them")
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let keys: Vec<VerifyingKey> = text
            .split_inclusive(END)
            .filter(|block| block.contains("BEGIN"))
            .map(|block| VerifyingKey::from_public_key_pem(block.trim()).map_err(|e| failed(e.to_string())))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(failed("there is no public key".into())) } else { Ok(Self(keys.into())) }
    }

    /// Checks the signature of a manifest.
    ///
    /// # Errors
    /// At `verify`; a signature that is missing may still come.
    pub(super) fn check(&self, manifest: &[u8], signature: Option<&[u8]>) -> Result<(), Rejection> {
        let Some(bytes) = signature else {
            let reason = "there is no manifest.json.sig, and only signed manifests are accepted (--require-signature)";
            return Err(Stage::Verify.not_yet(reason));
        };
        let signature = parse(bytes).ok_or_else(|| {
            Stage::Verify.not_yet("manifest.json.sig is not an Ed25519 signature: 64 bytes, or these in base64")
        })?;
        if self.0.iter().any(|key| key.verify_strict(manifest, &signature).is_ok()) {
            return Ok(());
        }
        let reason = "manifest.json.sig was made by none of the trusted keys, or of another manifest.json";
        Err(Stage::Verify.not_yet(reason))
    }

    /// What has no manifest has no signature.
    pub(super) fn refuse_without_manifest(keys: Option<&Self>) -> Result<(), Rejection> {
        let reason = "it has no manifest.json, and only signed manifests are accepted (--require-signature)";
        keys.map_or(Ok(()), |_| Err(Stage::Verify.reject(reason)))
    }
}

fn parse(bytes: &[u8]) -> Option<Signature> {
    if let Ok(signature) = Signature::from_slice(bytes) {
        return Some(signature);
    }
    // Tools break base64 into lines.
    let text: String = std::str::from_utf8(bytes).ok()?.split_whitespace().collect();
    Signature::from_slice(&Base64::decode_vec(&text).ok()?).ok()
}

/// Signs a manifest with the private key of a PEM file.
///
/// # Errors
/// One sentence that says how to make such a file.
pub fn sign(manifest: &[u8], key: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: String| {
        let shown = key.display();
        format!(
            "{shown}: {e}: it must be an Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it"
        )
    };
    let text = std::fs::read_to_string(key).map_err(|e| failed(e.to_string()))?;
    let key = SigningKey::from_pkcs8_pem(text.trim()).map_err(|e| failed(e.to_string()))?;
    let mut signature = Base64::encode_string(&key.sign(manifest).to_bytes()).into_bytes();
    signature.push(b'\n');
    Ok(signature)
}
