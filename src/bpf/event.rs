//! Events as the kernel sent them: heads copied out, since those of a recording lie anywhere; payloads borrowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use plain::Plain;

use super::types;
use crate::exchange::Address;
use crate::tls::{Epoch, Library, LogLabel, Secret};

/// Which way bytes went, seen from the watched process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Sent = 0,
    Received = 1,
}

impl Flow {
    fn from_kernel(value: u8) -> Flow {
        if u32::from(value) == types::direction::SENT.0 { Flow::Sent } else { Flow::Received }
    }
}

/// Which end connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Unknown,
    Client,
    Server,
}

impl Role {
    fn from_kernel(value: u8) -> Role {
        match types::role(u32::from(value)) {
            types::role::ROLE_CLIENT => Role::Client,
            types::role::ROLE_SERVER => Role::Server,
            _ => Role::Unknown,
        }
    }
}

/// Bytes that a call moved, or a part of them.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// CLOCK_BOOTTIME, ns.
    pub time: u64,
    pub connection: u64,
    /// Key of the connection in the kernel's table.
    pub socket: u64,
    pub flow: Flow,
    /// Of the first byte, as the kernel numbers them: serial arithmetic.
    pub position: u32,
    /// Bytes of the stream that this stands for; `payload` has the first of them, or all.
    pub moved: u32,
    pub payload: &'a [u8],
    /// The first byte of a call.
    pub call_start: bool,
    /// The rest of `moved` went past the process's memory, or lies out of reach there.
    pub unobservable: bool,
}

/// Which process, and which program in its life. Zeros and none: not known, only `pid` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    pub pid: u32,
    /// When it was started, CLOCK_BOOTTIME in ns: with `pid` it tells a reused one.
    pub started: u64,
    /// Counts its execve() calls, and those of its ancestors.
    pub exec_id: u32,
    /// The effective user, now.
    pub user_id: Option<u32>,
}

/// What the kernel knows of a process that was made or has become another program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessInfo {
    pub owner: Owner,
    /// Path of the executable, else what was executed; empty where neither is known.
    pub exe: String,
    pub comm: String,
    /// Its control groups, as /proc/PID/cgroup has them.
    pub cgroups: String,
    /// Inodes of its namespaces.
    pub mount_namespace: u32,
    pub net_namespace: u32,
}

/// What the kernel knows of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketInfo {
    pub connection: u64,
    pub socket: u64,
    pub owner: Owner,
    /// Inode of the network namespace.
    pub netns: u32,
    pub role: Role,
    /// When it was opened, CLOCK_BOOTTIME in ns; none where it is older than the agent.
    pub opened: Option<u64>,
    /// Positions of the first bytes sent and received; none where it is older than the agent.
    pub base: Option<[u32; 2]>,
    pub local: Address,
    pub remote: Address,
    /// The errno that ended it.
    pub error: Option<i32>,
    /// Once it is closed: whether the kernel was asked to do its TLS.
    pub kernel_tls: bool,
    /// Where the last event that found no room in the buffer ended, by [`Flow`].
    pub lost: [Option<u32>; 2],
    /// A call of it was to be captured.
    pub is_met: bool,
}

/// A connection, at its first call.
#[derive(Debug, Clone)]
pub struct Opened {
    pub time: u64,
    pub info: SocketInfo,
}

#[derive(Debug, Clone)]
pub enum Event<'a> {
    Data(Data<'a>),
    /// Plaintext that a TLS library gave or took within a connection that is older than the agent; positions are
    /// counted from the first byte that was seen. Nothing moved: it is to come. `is_doubtful`: nothing more comes, since
    /// it may not be this connection's.
    Plain {
        data: Data<'a>,
        library: Option<Library>,
        is_doubtful: bool,
    },
    Open(Box<Opened>),
    /// That direction will carry no byte at or after `position`.
    End {
        time: u64,
        connection: u64,
        flow: Flow,
        position: u32,
    },
    /// The socket is gone. `final_positions`: where sending and receiving stood.
    Close {
        time: u64,
        info: Box<SocketInfo>,
        final_positions: [u32; 2],
    },
    /// An answer that a process received from a DNS server over UDP: `moved` bytes, the first of them here.
    Dns {
        time: u64,
        info: Box<SocketInfo>,
        moved: u32,
        message: &'a [u8],
    },
    /// A process received the beginning of a QUIC connection.
    Quic {
        time: u64,
        owner: Owner,
    },
    /// A process was made, or has become another program (`is_exec`).
    Process {
        time: u64,
        is_exec: bool,
        info: Box<ProcessInfo>,
    },
    Exit {
        time: u64,
        pid: u32,
        started: u64,
    },
    /// What a process's TLS library derived keys from.
    Secret {
        time: u64,
        pid: u32,
        /// None in recordings of versions that did not tell.
        library: Option<Library>,
        secret: Secret,
    },
}

// SAFETY: repr(C) structs of integers and arrays of them, without references or invalid bit patterns; the sizes are
// asserted beside their definition in bpf/events.h.
unsafe impl Plain for types::event_head {}
// SAFETY: as above.
unsafe impl Plain for types::data_event {}
// SAFETY: as above.
unsafe impl Plain for types::open_event {}
// SAFETY: as above.
unsafe impl Plain for types::end_event {}
// SAFETY: as above.
unsafe impl Plain for types::close_event {}
// SAFETY: as above.
unsafe impl Plain for types::process_event {}
// SAFETY: as above.
unsafe impl Plain for types::dns_event {}
// SAFETY: as above.
unsafe impl Plain for types::quic_event {}
// SAFETY: as above.
unsafe impl Plain for types::exit_event {}
// SAFETY: as above.
unsafe impl Plain for types::secret_event {}
// SAFETY: as above.
unsafe impl Plain for types::connection {}
// SAFETY: as above.
unsafe impl Plain for types::judgement {}
// SAFETY: as above.
unsafe impl Plain for types::older_connection {}

/// The first bytes of `bytes` as a struct; none where there are too few.
pub(super) fn copied<T: Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    plain::copy_from_bytes(&mut value, bytes).ok()?;
    Some(value)
}

impl<'a> Event<'a> {
    /// An event from a buffer or a recording; none where the bytes are not one.
    pub fn parse(bytes: &'a [u8]) -> Option<Event<'a>> {
        let head: types::event_head = copied(bytes)?;
        match types::event_kind(head.kind) {
            kind @ (types::event_kind::EVENT_DATA | types::event_kind::EVENT_PLAIN) => {
                let event: types::data_event = copied(bytes)?;
                let start = size_of::<types::data_event>();
                let payload = bytes.get(start..start.checked_add(event.attached as usize)?)?;
                if event.attached > event.moved {
                    return None;
                }
                let has = |flag: types::data_flag| u32::from(event.flags) & flag.0 != 0;
                let data = Data {
                    time: head.time,
                    connection: event.connection,
                    socket: event.socket,
                    flow: Flow::from_kernel(event.direction),
                    position: event.position,
                    moved: event.moved,
                    payload,
                    call_start: has(types::data_flag::DATA_CALL_START),
                    unobservable: has(types::data_flag::DATA_UNOBSERVABLE),
                };
                Some(match kind {
                    types::event_kind::EVENT_PLAIN => Event::Plain {
                        data,
                        library: library(event.library),
                        is_doubtful: has(types::data_flag::DATA_DOUBTFUL),
                    },
                    _ => Event::Data(data),
                })
            }
            types::event_kind::EVENT_OPEN => {
                let event: types::open_event = copied(bytes)?;
                let mut info = SocketInfo::from_kernel(&event.connection);
                if u32::from(event.connection.family) == libc::AF_UNIX as u32 {
                    info.local = Address::Unix(unix_path(&event.local_path, event.local_path_len));
                    info.remote = Address::Unix(unix_path(&event.remote_path, event.remote_path_len));
                }
                Some(Event::Open(Box::new(Opened { time: head.time, info })))
            }
            types::event_kind::EVENT_END => {
                let event: types::end_event = copied(bytes)?;
                Some(Event::End {
                    time: head.time,
                    connection: event.connection,
                    flow: Flow::from_kernel(event.direction),
                    position: event.position,
                })
            }
            types::event_kind::EVENT_CLOSE => {
                let event: types::close_event = copied(bytes)?;
                Some(Event::Close {
                    time: head.time,
                    info: Box::new(SocketInfo::from_kernel(&event.connection)),
                    final_positions: event.connection.r#final,
                })
            }
            types::event_kind::EVENT_DNS => {
                let event: types::dns_event = copied(bytes)?;
                let start = size_of::<types::dns_event>();
                let message = bytes.get(start..start.checked_add(event.attached as usize)?)?;
                let info = Box::new(SocketInfo::from_kernel(&event.connection));
                Some(Event::Dns { time: head.time, info, moved: event.moved, message })
            }
            types::event_kind::EVENT_QUIC => {
                let event: types::quic_event = copied(bytes)?;
                Some(Event::Quic { time: head.time, owner: Owner::from_kernel(head.pid, &event.owner) })
            }
            kind @ (types::event_kind::EVENT_EXEC | types::event_kind::EVENT_FORK) => {
                let event: types::process_event = copied(bytes)?;
                let info = ProcessInfo::from_kernel(&event, &bytes[size_of::<types::process_event>()..])?;
                let is_exec = kind == types::event_kind::EVENT_EXEC;
                Some(Event::Process { time: head.time, is_exec, info: Box::new(info) })
            }
            types::event_kind::EVENT_EXIT => {
                let event: types::exit_event = copied(bytes)?;
                Some(Event::Exit { time: head.time, pid: head.pid, started: event.started })
            }
            types::event_kind::EVENT_SECRET => {
                let event: types::secret_event = copied(bytes)?;
                let library = library(event.library);
                Some(Event::Secret { time: head.time, pid: head.pid, library, secret: secret(&event)? })
            }
            _ => None,
        }
    }
}

fn library(code: u8) -> Option<Library> {
    use types::tls_library;

    match tls_library(code.into()) {
        tls_library::LIBRARY_OPENSSL => Some(Library::OpenSsl),
        tls_library::LIBRARY_OPENSSL_1_1 => Some(Library::OpenSsl11),
        tls_library::LIBRARY_GNUTLS => Some(Library::GnuTls),
        tls_library::LIBRARY_GO => Some(Library::Go),
        tls_library::LIBRARY_BORINGSSL => Some(Library::BoringSsl),
        _ => None,
    }
}

/// None where a label or a length is none.
fn secret(event: &types::secret_event) -> Option<Secret> {
    use types::secret_label;

    let secret = event.secret.get(..usize::from(event.secret_len))?.to_vec();
    let context = event.context.get(..usize::from(event.context_len))?.to_vec();
    if secret.is_empty() || context.is_empty() {
        return None;
    }
    let expand = |epoch, context| Some(Secret::Expand { epoch, secret: secret.clone(), context });
    let log = |label, random: Vec<u8>| {
        Some(Secret::Log { label, client_random: random.try_into().ok()?, secret: secret.clone() })
    };
    match secret_label(event.label.into()) {
        secret_label::SECRET_EARLY => expand(Epoch::Early, context),
        secret_label::SECRET_HANDSHAKE => expand(Epoch::Handshake, context),
        secret_label::SECRET_APPLICATION => expand(Epoch::Application, context),
        secret_label::SECRET_MASTER => Some(Secret::Master { master: secret, client_random: context.try_into().ok()? }),
        secret_label::SECRET_LOG_MASTER => log(LogLabel::ClientRandom, context),
        secret_label::SECRET_LOG_CLIENT_EARLY => log(LogLabel::ClientEarly, context),
        secret_label::SECRET_LOG_CLIENT_HANDSHAKE => log(LogLabel::ClientHandshake, context),
        secret_label::SECRET_LOG_SERVER_HANDSHAKE => log(LogLabel::ServerHandshake, context),
        secret_label::SECRET_LOG_CLIENT_APPLICATION => log(LogLabel::ClientApplication, context),
        secret_label::SECRET_LOG_SERVER_APPLICATION => log(LogLabel::ServerApplication, context),
        _ => None,
    }
}

impl Owner {
    fn from_kernel(pid: u32, owner: &types::owner) -> Owner {
        let is_known = owner.started != 0;
        Owner { pid, started: owner.started, exec_id: owner.exec_id, user_id: is_known.then_some(owner.uid) }
    }
}

impl ProcessInfo {
    fn from_kernel(event: &types::process_event, text: &[u8]) -> Option<ProcessInfo> {
        let mut start = 0;
        let mut parts = [&text[..0]; types::process_text::TEXTS.0 as usize];
        for (part, &end) in parts.iter_mut().zip(&event.ends) {
            *part = text.get(start..usize::from(end))?;
            start = usize::from(end);
        }
        let part = |which: types::process_text| parts[which.0 as usize];
        let [exe, filename] = [types::process_text::TEXT_EXE, types::process_text::TEXT_FILENAME].map(part);
        let [cgroup, v1] = [types::process_text::TEXT_CGROUP, types::process_text::TEXT_CGROUP_V1].map(part);
        let comm = self::text(&event.comm);
        let exe = match path(exe) {
            path if path != "/" => path,
            _ if filename.starts_with(b"/") => lossy(filename.strip_suffix(b"\0").unwrap_or(filename)),
            _ => comm.clone(),
        };
        let v1 = if v1.is_empty() { String::new() } else { format!("1:pids:{}\n", path(v1)) };
        Some(ProcessInfo {
            owner: Owner::from_kernel(event.head.pid, &event.owner),
            exe,
            comm,
            cgroups: format!("{v1}0::{}\n", path(cgroup)),
            mount_namespace: event.mntns,
            net_namespace: event.netns,
        })
    }
}

/// An absolute path from its components, each ended by NUL, the last one first.
fn path(components: &[u8]) -> String {
    let components = components.strip_suffix(b"\0").unwrap_or(components);
    let mut path = Vec::with_capacity(components.len() + 1);
    for component in components.rsplit(|&byte| byte == 0) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    lossy(&path)
}

impl SocketInfo {
    pub(super) fn from_kernel(c: &types::connection) -> SocketInfo {
        let has = |flag: types::connection_flag| u32::from(c.flags) & flag.0 != 0;
        let older = has(types::connection_flag::CONNECTION_OLDER);
        // A connect() that failed never got a first position.
        let numbered = has(types::connection_flag::CONNECTION_COUNTED) || c.base != [0, 0];
        SocketInfo {
            connection: c.id,
            socket: c.socket,
            owner: Owner::from_kernel(c.pid, &c.owner),
            netns: c.netns,
            role: Role::from_kernel(c.role),
            opened: (c.opened != 0).then_some(c.opened),
            base: (!older && numbered).then_some(c.base),
            local: address(c.family, &c.local, c.local_port),
            remote: address(c.family, &c.remote, c.remote_port),
            error: (c.error != 0).then_some(c.error),
            kernel_tls: has(types::connection_flag::CONNECTION_KTLS),
            lost: c.lost.map(|position| (position != 0).then_some(position)),
            is_met: has(types::connection_flag::CONNECTION_MET),
        }
    }
}

fn address(family: u8, bytes: &[u8; 16], port: u16) -> Address {
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        libc::AF_INET6 => Ipv6Addr::from(*bytes).to_canonical(),
        _ => return Address::Unix(String::new()),
    };
    Address::Ip(SocketAddr::new(ip, port))
}

/// `path`: a name as in sockaddr_un; a leading NUL is an abstract one, written `@name`.
fn unix_path(path: &[i8; 108], len: u32) -> String {
    let bytes: Vec<u8> = path.iter().take(len as usize).map(|&c| c as u8).collect();
    match bytes.split_first() {
        Some((0, name)) => format!("@{}", String::from_utf8_lossy(name).trim_end_matches('\0')),
        _ => text(path).chars().take(len as usize).collect(),
    }
}

fn text(bytes: &[i8]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    lossy(&bytes)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
