//! Certificates for what goes out: whom we trust, and who we are. Files are PEM. There is no way to switch the
//! check of the other side off.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Where distributions keep the authorities that they trust: Debian and its kin, Fedora and its kin, openSUSE,
/// Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The part of a file that is read. A system's whole list of authorities has a quarter of it.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How a connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// Who may have signed the other side's certificate; without it those whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate with what leads to its authority, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not readable.
    #[error("'{}' cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file has no certificate.
    #[error("'{}' has no certificate in PEM form (-----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate cannot be understood.
    #[error("a certificate in '{}' is not usable: {error}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// A file has no key.
    #[error("'{}' has no private key in PEM form that needs no passphrase", .0.display())]
    NoKey(PathBuf),
    /// Certificate and key are of no use together.
    #[error("certificate '{}' and key '{}' do not belong together: {error}", cert.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// In the words of rustls.
        error: rustls::Error,
    },
    /// The system trusts nobody.
    #[error("this system has no list of trusted authorities: install ca-certificates or name a ca_file")]
    NoSystemRoots,
    /// Something is wrong with the TLS library.
    #[error("TLS cannot be prepared: {0}")]
    Library(#[from] rustls::Error),
}

/// Reads everything that the settings name.
pub fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let roots = match &settings.ca_file {
        Some(path) => roots(path)?,
        None => system_roots()?,
    };
    // The provider is named: a process-wide default would belong to whoever comes first.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((cert, key)) = &settings.client else { return Ok(builder.with_no_client_auth()) };
    let (chain, private) = (certificates(cert)?, private_key(key)?);
    builder.with_client_auth_cert(chain, private).map_err(|error| TlsError::Mismatch {
        cert: cert.clone(),
        key: key.clone(),
        error,
    })
}

/// All certificates of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::BadCertificate { path: path.to_owned(), error: error.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::NoKey(path.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || -> io::Result<Vec<u8>> {
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| TlsError::Read { path: path.to_owned(), error })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::BadCertificate { path: path.to_owned(), error: error.to_string() })?;
    }
    Ok(roots)
}

/// What `SSL_CERT_FILE` names, as other programs do it, or the first list that is there. One bad certificate
/// among a system's hundreds is passed over.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let path = system_roots_file().ok_or(TlsError::NoSystemRoots)?;
    let bytes = read(&path)?;
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).flatten());
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

/// The file of the authorities that this system trusts.
pub fn system_roots_file() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| SYSTEM_ROOTS.into_iter().map(PathBuf::from).find(|path| path.exists()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    #[test]
    fn every_wrong_file_is_named() {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        let (key, other_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = CertificateParams::new(vec!["c".into()]).unwrap().self_signed(&key).unwrap();
        let cert_file = files.write("cert.pem", &certificate.pem());
        let key_file = files.write("key.pem", &key.serialize_pem());
        let other_file = files.write("other.pem", &other_key.serialize_pem());
        let empty_file = files.write("empty.pem", "nothing\n");
        let settings = |ca: &Path, cert: &Path, key: &Path| TlsSettings {
            ca_file: Some(ca.to_owned()),
            client: Some((cert.to_owned(), key.to_owned())),
        };
        client_config(&settings(&cert_file, &cert_file, &key_file)).unwrap();
        let said = |ca, cert, key| client_config(&settings(ca, cert, key)).unwrap_err().to_string();
        let missing = Path::new("/nowhere/ca.pem");
        assert!(said(missing, &cert_file, &key_file).starts_with("'/nowhere/ca.pem' cannot be read"));
        assert!(said(&empty_file, &cert_file, &key_file).contains("empty.pem' has no certificate"));
        assert!(said(&cert_file, &key_file, &key_file).contains("key.pem' has no certificate"));
        assert!(said(&cert_file, &cert_file, &cert_file).contains("cert.pem' has no private key"));
        assert!(said(&cert_file, &cert_file, &other_file).contains("do not belong together"));
    }
}
