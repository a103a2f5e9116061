//! What a connection's handshake says of its keys, and the keys themselves once their secrets were seen.

use ring::digest::{Context, digest};

use super::Side;
use super::cipher::Opener;
use super::handshake::MESSAGE_HASH;
use super::kept::{Kept, KeptKeys};
use super::schedule::{Expander, update};
use super::secrets::{Bytes, LogLabel, Secrets};
use super::suite::{Hash, Suite};

/// What a side's records are sealed with, in the order of a connection's life (RFC 8446 section 2). TLS 1.2 knows
/// `Application` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Epoch {
    Early,
    Handshake,
    Application,
}

/// The transcript of TLS 1.3 up to its ServerHello (RFC 8446 section 4.4.1).
#[derive(Default)]
pub(super) struct Hellos {
    /// The only ClientHello, until its hash is known.
    client: Vec<u8>,
    /// Once the server has asked for another.
    retried: Option<Context>,
}

impl Hellos {
    pub(super) fn client(&mut self, message: &[u8]) {
        match &mut self.retried {
            Some(context) => context.update(message),
            None => self.client = message.to_vec(),
        }
    }

    pub(super) fn retry(&mut self, hash: Hash, message: &[u8]) {
        let mut context = Context::new(hash.digest());
        context.update(&[MESSAGE_HASH, 0, 0, hash.len() as u8]);
        context.update(digest(hash.digest(), &self.client).as_ref());
        context.update(message);
        self.retried = Some(context);
        self.client = Vec::new();
    }

    pub(super) fn is_retried(&self) -> bool {
        self.retried.is_some()
    }

    pub(super) fn held(&self) -> usize {
        self.client.capacity()
    }

    /// Hash(ClientHello), and the hash of all so far, to go on with.
    fn hashed(self, hash: Hash) -> (Vec<u8>, Context) {
        let algorithm = hash.digest();
        let transcript = self.retried.unwrap_or_else(|| {
            let mut context = Context::new(algorithm);
            context.update(&self.client);
            context
        });
        (digest(algorithm, &self.client).as_ref().to_vec(), transcript)
    }
}

/// Of a connection whose suite is known.
pub(super) enum Keys {
    Tls12 {
        suite: Suite,
        client_random: [u8; 32],
        server_random: [u8; 32],
        encrypt_then_mac: bool,
        /// Once it was seen.
        master: Option<Bytes>,
    },
    Tls13(Box<Schedule>),
}

impl Keys {
    /// Of TLS 1.3, from its ServerHello on.
    pub(super) fn of_13(suite: Suite, hellos: Hellos, client_random: [u8; 32], server_hello: &[u8]) -> Keys {
        Keys::Tls13(Box::new(Schedule {
            suite,
            client_random,
            unhashed: Some((hellos, server_hello.to_vec())),
            early: Vec::new(),
            transcript: None,
            hellos: Vec::new(),
            finished: None,
            early_data: None,
            handshake: Pair::default(),
            master: None,
            application: Pair::default(),
        }))
    }

    /// As an earlier agent has kept them.
    pub(super) fn of_kept(kept: &Kept) -> Keys {
        let suite = kept.suite;
        match kept.keys.clone() {
            KeptKeys::Tls12 { master, client_random, server_random, encrypt_then_mac } => {
                Keys::Tls12 { suite, client_random, server_random, encrypt_then_mac, master: Some(master) }
            }
            KeptKeys::Tls13 { client, server } => Keys::Tls13(Box::new(Schedule {
                suite,
                client_random: [0; 32],
                unhashed: None,
                early: Vec::new(),
                transcript: None,
                hellos: Vec::new(),
                finished: None,
                early_data: None,
                handshake: Pair::default(),
                master: None,
                application: Pair { client: Some(client), server: Some(server) },
            })),
        }
    }

    /// What opens all that both sides will say, once that is known.
    pub(super) fn keep(&self) -> Option<(Suite, KeptKeys)> {
        match self {
            Keys::Tls12 { suite, client_random, server_random, encrypt_then_mac, master } => {
                let (client_random, server_random) = (*client_random, *server_random);
                let (master, encrypt_then_mac) = (master.clone()?, *encrypt_then_mac);
                Some((*suite, KeptKeys::Tls12 { master, client_random, server_random, encrypt_then_mac }))
            }
            Keys::Tls13(schedule) => {
                let Pair { client, server } = &schedule.application;
                Some((schedule.suite, KeptKeys::Tls13 { client: client.clone()?, server: server.clone()? }))
            }
        }
    }

    /// What the next records of a side are opened with; none while the secret was not seen.
    pub(super) fn opener(&mut self, side: Side, epoch: Epoch, secrets: &Secrets) -> Option<Opener> {
        match self {
            Keys::Tls12 { suite, client_random, server_random, encrypt_then_mac, master } => {
                if master.is_none() {
                    let found = secrets.master(client_random)?;
                    secrets.tell(LogLabel::ClientRandom, client_random, &found);
                    *master = Some(found);
                }
                let randoms = (&*client_random, &*server_random);
                Opener::of_master(*suite, master.as_ref()?, randoms, *encrypt_then_mac, side)
            }
            Keys::Tls13(schedule) => {
                let secret = match epoch {
                    Epoch::Early => schedule.early_data(secrets),
                    Epoch::Handshake => schedule.handshake(side, secrets),
                    Epoch::Application => schedule.application(side, secrets),
                }?;
                Opener::of_traffic(schedule.suite, &secret)
            }
        }
    }

    /// Takes both sides' secrets for data as soon as a library has logged them: they are not kept for anybody who asks later.
    /// Whether nothing is missing.
    pub(super) fn gather(&mut self, secrets: &Secrets) -> bool {
        let Keys::Tls13(schedule) = self else { return true };
        if schedule.master.is_some() {
            // They follow from what is here.
            return true;
        }
        let Schedule { application, client_random, suite, .. } = &mut **schedule;
        application.look_up(APPLICATION, secrets, (client_random, suite.hash));
        application.client.is_some() && application.server.is_some()
    }

    /// What a side's records are opened with once it has updated its keys, which `update` says it has.
    pub(super) fn updated(&self, side: Side) -> Option<Opener> {
        let Keys::Tls13(schedule) = self else { return None };
        let next = update(schedule.suite.hash, schedule.application.of(side).as_ref()?);
        Opener::of_traffic(schedule.suite, &next)
    }

    pub(super) fn update(&mut self, side: Side) {
        let Keys::Tls13(schedule) = self else { return };
        if let Some(secret) = schedule.application.of_mut(side) {
            *secret = update(schedule.suite.hash, secret);
        }
    }

    /// Bytes of memory beside its own size.
    pub(super) fn held(&self) -> usize {
        match self {
            Keys::Tls12 { .. } => 0,
            Keys::Tls13(schedule) => {
                let unhashed = schedule.unhashed.as_ref();
                size_of::<Schedule>() + unhashed.map_or(0, |(hellos, hello)| hellos.held() + hello.capacity())
            }
        }
    }

    pub(super) fn is_13(&self) -> bool {
        matches!(self, Keys::Tls13(_))
    }

    /// A message of the server's, up to its Finished.
    pub(super) fn message(&mut self, message: &[u8]) {
        if let Keys::Tls13(schedule) = self {
            // It was opened with a secret that a library has logged: so are the ones that follow.
            schedule.unhashed = None;
            if let Some(transcript) = &mut schedule.transcript {
                transcript.update(message);
            }
        }
    }

    /// The server's Finished was the last message.
    pub(super) fn finish(&mut self) {
        if let Keys::Tls13(schedule) = self {
            schedule.finished = schedule.transcript.take().map(|transcript| transcript.finish().as_ref().to_vec());
        }
    }

    /// Hash(ClientHello..server Finished), once it is known.
    #[cfg(test)]
    pub(super) fn finished(&self) -> Option<Vec<u8>> {
        match self {
            Keys::Tls12 { .. } => None,
            Keys::Tls13(schedule) => schedule.finished.clone(),
        }
    }

    /// A message of the server's was not seen.
    pub(super) fn lose_transcript(&mut self) {
        if let Keys::Tls13(schedule) = self {
            schedule.hash_hellos();
            schedule.transcript = None;
        }
    }
}

/// A secret of each side, as far as known.
#[derive(Default)]
struct Pair {
    client: Option<Bytes>,
    server: Option<Bytes>,
}

impl Pair {
    fn of(&self, side: Side) -> &Option<Bytes> {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    fn of_mut(&mut self, side: Side) -> &mut Option<Bytes> {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn set(&mut self, (client, server): (Bytes, Bytes)) {
        (self.client, self.server) = (Some(client), Some(server));
    }

    /// Fills what is missing from what a library logged.
    fn look_up(&mut self, labels: [LogLabel; 2], secrets: &Secrets, (random, hash): (&[u8; 32], Hash)) {
        for (side, label) in [Side::Client, Side::Server].into_iter().zip(labels) {
            let secret = self.of_mut(side);
            if secret.is_none() {
                *secret = secrets.logged(label, random).filter(|secret| secret.len() == hash.len());
                if let Some(secret) = secret {
                    secrets.tell(label, random, secret);
                }
            }
        }
    }
}

/// The secrets of TLS 1.3 (RFC 8446 section 7.1) and the hashes they are found by.
pub(super) struct Schedule {
    suite: Suite,
    client_random: [u8; 32],
    /// The hellos, while nobody has needed their hashes: where a library logs its secrets, nobody does.
    unhashed: Option<(Hellos, Vec<u8>)>,
    /// Hash(ClientHello).
    early: Vec<u8>,
    /// The messages so far, up to the server's Finished; none once one was not seen, or where none is needed.
    transcript: Option<Context>,
    /// Hash(ClientHello..ServerHello).
    hellos: Vec<u8>,
    /// Hash(ClientHello..server Finished).
    finished: Option<Vec<u8>>,
    early_data: Option<Bytes>,
    handshake: Pair,
    master: Option<Bytes>,
    application: Pair,
}

const HANDSHAKE: [LogLabel; 2] = [LogLabel::ClientHandshake, LogLabel::ServerHandshake];
const APPLICATION: [LogLabel; 2] = [LogLabel::ClientApplication, LogLabel::ServerApplication];

impl Schedule {
    fn hash_hellos(&mut self) {
        let Some((hellos, server_hello)) = self.unhashed.take() else { return };
        let (early, mut transcript) = hellos.hashed(self.suite.hash);
        transcript.update(&server_hello);
        self.early = early;
        self.hellos = transcript.clone().finish().as_ref().to_vec();
        self.transcript = Some(transcript);
    }

    fn early_data(&mut self, secrets: &Secrets) -> Option<Bytes> {
        if self.early_data.is_none() {
            let found = secrets.logged(LogLabel::ClientEarly, &self.client_random).or_else(|| {
                self.hash_hellos();
                let early = secrets.early(&self.early)?;
                Some(Expander::new(self.suite.hash, &early).derive("c e traffic", &self.early))
            })?;
            secrets.tell(LogLabel::ClientEarly, &self.client_random, &found);
            self.early_data = Some(found);
        }
        self.early_data.clone()
    }

    fn handshake(&mut self, side: Side, secrets: &Secrets) -> Option<Bytes> {
        let hash = self.suite.hash;
        if self.handshake.of(side).is_none() {
            self.handshake.look_up(HANDSHAKE, secrets, (&self.client_random, hash));
        }
        if self.handshake.of(side).is_none() {
            self.hash_hellos();
            if let Some(secret) = secrets.handshake(&self.hellos) {
                let secret = Expander::new(hash, &secret);
                let [client, server] = ["c hs traffic", "s hs traffic"].map(|label| secret.derive(label, &self.hellos));
                self.tell(HANDSHAKE, (&client, &server), secrets);
                self.handshake.set((client, server));
                self.master = Some(secret.master());
            }
        }
        self.handshake.of(side).clone()
    }

    fn application(&mut self, side: Side, secrets: &Secrets) -> Option<Bytes> {
        let hash = self.suite.hash;
        if self.application.of(side).is_none() {
            // Where the server's messages were lost, the master secret may still come to be known here.
            self.handshake(side, secrets);
            let finished = match (&self.finished, &self.master, &self.transcript) {
                (Some(finished), ..) => Some(Bytes::new(finished.clone())),
                // Not yet finished, but nothing is missing.
                (None, _, Some(_)) => return None,
                (None, Some(master), None) => secrets.transcript(master).filter(|found| found.len() == hash.len()),
                (None, None, None) => None,
            };
            if let (Some(master), Some(finished)) = (&self.master, finished) {
                let master = Expander::new(hash, master);
                let [client, server] = ["c ap traffic", "s ap traffic"].map(|label| master.derive(label, &finished));
                self.tell(APPLICATION, (&client, &server), secrets);
                self.application.set((client, server));
                self.master = None;
            } else {
                self.application.look_up(APPLICATION, secrets, (&self.client_random, hash));
            }
        }
        self.application.of(side).clone()
    }

    fn tell(&self, labels: [LogLabel; 2], (client, server): (&Bytes, &Bytes), secrets: &Secrets) {
        secrets.tell(labels[0], &self.client_random, client);
        secrets.tell(labels[1], &self.client_random, server);
    }
}
