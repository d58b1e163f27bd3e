//! The certificates of a run: one that the dispatchers are told to trust, and one that they are not.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{ALLOWED, ENDPOINTS, Place};

/// What makes TLS of connections.
#[derive(Clone)]
pub struct Certificates {
    /// The authority, as PEM, to be trusted.
    pub authority: String,
    /// With a certificate of that authority for every name.
    pub trusted: TlsAcceptor,
    /// With one that only says so itself.
    pub untrusted: TlsAcceptor,
}

impl Certificates {
    /// Makes new ones.
    pub fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        // Without names of their own it and what it signs would have the same, as if each signed itself.
        authority.distinguished_name.push(DnType::CommonName, "chaos");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let endpoints = ENDPOINTS.iter().filter(|endpoint| endpoint.place == Place::Named);
        let names: Vec<String> = endpoints.map(crate::endpoint::Endpoint::host).collect();
        let key = KeyPair::generate()?;
        let trusted = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let trusted = acceptor(trusted.der().clone(), &key)?;
        let key = KeyPair::generate()?;
        let untrusted = CertificateParams::new(vec![ALLOWED.to_string()])?.self_signed(&key)?;
        let untrusted = acceptor(untrusted.der().clone(), &key)?;
        Ok(Self { authority: pem, trusted, untrusted })
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> anyhow::Result<TlsAcceptor> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
