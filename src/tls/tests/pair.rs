//! A client and a server that speak TLS in memory, what went over the wire between them, and what their keys were.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use ring::digest::digest;
use ring::hmac;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, NamedGroup, ServerConfig,
    ServerConnection, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};

use crate::tls::keylog::{self, Line};
use crate::tls::schedule::Expander;
use crate::tls::suite::Hash;
use crate::tls::{LogLabel, Secret, Side};

/// What went between two ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    /// In the order it was sent.
    pub chunks: Vec<(Side, Vec<u8>)>,
    pub client: Vec<u8>,
    pub server: Vec<u8>,
    /// As logged.
    pub secrets: Vec<Secret>,
}

impl Wire {
    pub(crate) fn plain(&self, side: Side) -> &[u8] {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// All that a side sent.
    pub(crate) fn sent(&self, side: Side) -> Vec<u8> {
        self.chunks.iter().filter(|(from, _)| *from == side).flat_map(|(_, data)| data.clone()).collect()
    }
}

/// Collects the lines of a key log.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<Secret>>);

impl rustls::KeyLog for Log {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let Some(label) = LogLabel::named(label) else { return };
        let line = Line { label, client_random: client_random.try_into().unwrap(), secret };
        self.0.lock().unwrap().extend(keylog::parse(&line.to_string()));
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

type Verified<T> = Result<T, rustls::Error>;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Verified<ServerCertVerified> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Verified<ClientCertVerified> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A key exchange whose outcome is known beforehand.
#[derive(Debug)]
struct Known(NamedGroup);

const SHARED: [u8; 32] = [7; 32];

impl SupportedKxGroup for Known {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Known(self.0)))
    }

    fn name(&self) -> NamedGroup {
        self.0
    }
}

impl ActiveKeyExchange for Known {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
        Ok(SharedSecret::from(&SHARED[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[9; 32]
    }

    fn group(&self) -> NamedGroup {
        self.0
    }
}

/// The handshake secret of a connection without a key shared before (RFC 8446 section 7.1).
pub(in crate::tls) fn handshake_secret(hash: Hash) -> Vec<u8> {
    let zeros = vec![0; hash.len()];
    let extract = |salt: &[u8], key: &[u8]| hmac::sign(&hmac::Key::new(hash.hmac(), salt), key).as_ref().to_vec();
    let early = extract(&zeros, &zeros);
    let derived = Expander::new(hash, &early).derive("derived", digest(hash.digest(), b"").as_ref());
    extract(&derived, &SHARED)
}

/// How two ends are set up. The same may meet again, and then resume.
#[derive(Clone)]
pub(crate) struct Ends {
    pub client: ClientConfig,
    pub server: ServerConfig,
    log: Arc<Log>,
}

static GROUPS: [&dyn SupportedKxGroup; 2] = [&Known(NamedGroup::X25519), &Known(NamedGroup::secp256r1)];

/// Those that go with the certificate, which has an elliptic curve.
pub(crate) fn all_suites() -> Vec<SupportedCipherSuite> {
    let all = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| !format!("{:?}", suite.suite()).contains("_RSA_")).collect()
}

/// A suite by its name, as rustls has it.
pub(crate) fn suite(name: &str) -> SupportedCipherSuite {
    all_suites().into_iter().find(|suite| format!("{:?}", suite.suite()) == name).expect("rustls has it")
}

impl Ends {
    pub(crate) fn new(suite: SupportedCipherSuite) -> Ends {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![suite];
        provider.kx_groups = GROUPS.to_vec();
        let version: &[&'static SupportedProtocolVersion] = match suite {
            SupportedCipherSuite::Tls12(_) => &[&rustls::version::TLS12],
            SupportedCipherSuite::Tls13(_) => &[&rustls::version::TLS13],
        };
        let server_provider = Arc::new(CryptoProvider { kx_groups: vec![GROUPS[0]], ..provider.clone() });
        Ends::with(Arc::new(provider), server_provider, version, false)
    }

    /// The server takes another group than the client guesses.
    pub(crate) fn retried() -> Ends {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![suite("TLS13_AES_256_GCM_SHA384")];
        provider.kx_groups = GROUPS.to_vec();
        let server_provider = Arc::new(CryptoProvider { kx_groups: vec![GROUPS[1]], ..provider.clone() });
        Ends::with(Arc::new(provider), server_provider, &[&rustls::version::TLS13], false)
    }

    /// The client shows a certificate.
    pub(crate) fn with_client_certificate(suite: SupportedCipherSuite) -> Ends {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![suite];
        let provider = Arc::new(provider);
        Ends::with(provider.clone(), provider, rustls::ALL_VERSIONS, true)
    }

    fn with(
        client: Arc<CryptoProvider>,
        server: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
        asks_client: bool,
    ) -> Ends {
        let chain = || vec![CertificateDer::from(&include_bytes!("../../../tests/data/tls/certificate.der")[..])];
        let key =
            || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(&include_bytes!("../../../tests/data/tls/key.der")[..]));
        let log = Arc::new(Log::default());
        let anyone = Arc::new(Anyone(client.clone()));
        let builder = ClientConfig::builder_with_provider(client)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(anyone.clone());
        let mut client = match asks_client {
            true => builder.with_client_auth_cert(chain(), key()).unwrap(),
            false => builder.with_no_client_auth(),
        };
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        client.key_log = log.clone();
        let builder = ServerConfig::builder_with_provider(server).with_protocol_versions(versions).unwrap();
        let builder = match asks_client {
            true => builder.with_client_cert_verifier(anyone),
            false => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain(), key()).unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ends { client, server, log }
    }

    pub(crate) fn meet(&self) -> Pair {
        self.log.0.lock().unwrap().clear();
        let name = ServerName::try_from("app.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(self.client.clone()), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(self.server.clone())).unwrap();
        client.set_buffer_limit(None);
        server.set_buffer_limit(None);
        Pair { client, server, wire: Wire::default(), log: self.log.clone() }
    }
}

pub(crate) struct Pair {
    pub client: ClientConnection,
    pub server: ServerConnection,
    wire: Wire,
    log: Arc<Log>,
}

impl Pair {
    /// Carries over what both have to send, until neither has.
    pub(crate) fn carry(&mut self) {
        loop {
            let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
            while self.client.wants_write() {
                self.client.write_tls(&mut from_client).unwrap();
            }
            let mut rest = &from_client[..];
            while !rest.is_empty() {
                self.server.read_tls(&mut rest).unwrap();
                self.server.process_new_packets().unwrap();
                if let Some(mut early) = self.server.early_data() {
                    let _ = early.read_to_end(&mut Vec::new());
                }
                let _ = self.server.reader().read_to_end(&mut Vec::new());
            }
            while self.server.wants_write() {
                self.server.write_tls(&mut from_server).unwrap();
            }
            let mut rest = &from_server[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets().unwrap();
                let _ = self.client.reader().read_to_end(&mut Vec::new());
            }
            if from_client.is_empty() && from_server.is_empty() {
                return;
            }
            for (side, data) in [(Side::Client, from_client), (Side::Server, from_server)] {
                if !data.is_empty() {
                    self.wire.chunks.push((side, data));
                }
            }
        }
    }

    pub(crate) fn say(&mut self, side: Side, data: &[u8]) {
        match side {
            Side::Client => self.client.writer().write_all(data).unwrap(),
            Side::Server => self.server.writer().write_all(data).unwrap(),
        }
        match side {
            Side::Client => self.wire.client.extend_from_slice(data),
            Side::Server => self.wire.server.extend_from_slice(data),
        }
        self.carry();
    }

    /// Before the server has spoken. Counts as said only if the server takes it.
    pub(crate) fn say_early(&mut self, data: &[u8], is_taken: bool) {
        self.client.early_data().expect("the server lets it").write_all(data).unwrap();
        if is_taken {
            self.wire.client.extend_from_slice(data);
        }
    }

    /// How many bytes a side has sent so far.
    pub(crate) fn sent(&self, side: Side) -> usize {
        self.wire.sent(side).len()
    }

    pub(crate) fn update_keys(&mut self, side: Side) {
        match side {
            Side::Client => self.client.refresh_traffic_keys().unwrap(),
            Side::Server => self.server.refresh_traffic_keys().unwrap(),
        }
    }

    /// Both close; what went over the wire.
    pub(crate) fn part(mut self) -> Wire {
        self.client.send_close_notify();
        self.server.send_close_notify();
        self.carry();
        self.wire.secrets = self.log.0.lock().unwrap().clone();
        self.wire
    }
}

/// Bytes that repeat nowhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
