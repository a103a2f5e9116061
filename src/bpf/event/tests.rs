//! Events as bytes: each kind read, and nothing that damage does to them is more than an event that is none.

use std::mem::offset_of;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use types::{
    close_event, connection, connection_flag, data_event, dns_event, end_event, event_head, event_kind, open_event,
    owner, process_event, secret_event, secret_label, tls_library,
};

/// An event's head as the kernel lays it out, the rest zeros.
struct Raw(Vec<u8>);

impl Raw {
    fn new<T>(kind: event_kind) -> Raw {
        Raw(vec![0; size_of::<T>()])
            .put(offset_of!(event_head, time), &7u64.to_ne_bytes())
            .int(offset_of!(event_head, kind), kind.0)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Raw {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn int(self, at: usize, value: u32) -> Raw {
        self.put(at, &value.to_ne_bytes())
    }

    fn parse(&self) -> Option<Event<'_>> {
        Event::parse(&self.0)
    }
}

fn data(moved: u32, attached: u32, payload: &[u8]) -> Raw {
    let mut raw = Raw::new::<data_event>(event_kind::EVENT_DATA)
        .put(offset_of!(data_event, connection), &9u64.to_ne_bytes())
        .int(offset_of!(data_event, position), u32::MAX)
        .int(offset_of!(data_event, moved), moved)
        .int(offset_of!(data_event, attached), attached)
        .put(offset_of!(data_event, direction), &[1])
        .put(offset_of!(data_event, flags), &[1]);
    raw.0.extend(payload);
    raw
}

#[test]
fn bytes_that_were_moved() {
    let raw = data(10, 5, b"hello and what pads the sample");
    let Some(Event::Data(event)) = raw.parse() else { panic!("{:?}", raw.parse()) };
    assert_eq!((event.time, event.connection, event.flow), (7, 9, Flow::Received));
    assert_eq!((event.position, event.moved, event.payload), (u32::MAX, 10, &b"hello"[..]));
    assert!(event.call_start && !event.unobservable);
}

#[test]
fn more_bytes_announced_than_there_are_is_no_event() {
    assert!(data(10, 6, b"hello").parse().is_none());
    assert!(data(u32::MAX, u32::MAX, b"hello").parse().is_none());
    assert!(data(4, 5, b"hello").parse().is_none(), "more attached than moved");
}

#[test]
fn an_opening_has_addresses() {
    let at = offset_of!(open_event, connection);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    let raw = Raw::new::<open_event>(event_kind::EVENT_OPEN)
        .int(at + offset_of!(connection, pid), 42)
        .put(at + offset_of!(connection, family), &[libc::AF_INET6 as u8])
        .put(at + offset_of!(connection, local), &mapped)
        .put(at + offset_of!(connection, local_port), &80u16.to_ne_bytes())
        .int(at + offset_of!(connection, base), 5);
    let Some(Event::Open(opened)) = raw.parse() else { panic!("{:?}", raw.parse()) };
    assert_eq!(opened.info.local, Address::Ip("10.0.0.1:80".parse().unwrap()));
    assert_eq!((opened.info.owner.pid, opened.info.base, opened.info.opened), (42, Some([5, 0]), None));
}

#[test]
fn older_connections_have_no_first_position() {
    let at = offset_of!(open_event, connection);
    let older = connection_flag::CONNECTION_OLDER.0 as u8;
    let raw = Raw::new::<open_event>(event_kind::EVENT_OPEN)
        .int(at + offset_of!(connection, base), 5)
        .put(at + offset_of!(connection, flags), &[older]);
    let Some(Event::Open(opened)) = raw.parse() else { panic!("{:?}", raw.parse()) };
    assert_eq!(opened.info.base, None);
}

#[test]
fn unix_sockets_have_paths() {
    let at = offset_of!(open_event, connection);
    let raw = Raw::new::<open_event>(event_kind::EVENT_OPEN)
        .put(at + offset_of!(connection, family), &[libc::AF_UNIX as u8])
        .put(offset_of!(open_event, local_path), b"/run/haproxy.sock\0")
        .int(offset_of!(open_event, local_path_len), 18)
        .put(offset_of!(open_event, remote_path), b"\0name")
        .int(offset_of!(open_event, remote_path_len), 5);
    let Some(Event::Open(opened)) = raw.parse() else { panic!("{:?}", raw.parse()) };
    assert_eq!(opened.info.local, Address::Unix("/run/haproxy.sock".into()));
    assert_eq!(opened.info.remote, Address::Unix("@name".into()));
}

#[test]
fn ends_and_programs() {
    let end = Raw::new::<end_event>(event_kind::EVENT_END).int(offset_of!(end_event, position), 8);
    assert!(matches!(end.parse(), Some(Event::End { time: 7, position: 8, flow: Flow::Sent, .. })));
    let error = offset_of!(close_event, connection) + offset_of!(connection, error);
    let close = Raw::new::<close_event>(event_kind::EVENT_CLOSE).int(error, libc::ECONNRESET as u32);
    let Some(Event::Close { info, .. }) = close.parse() else { panic!("{:?}", close.parse()) };
    assert_eq!(info.error, Some(libc::ECONNRESET));
}

/// A process's event with the parts of its text, each with its NULs.
fn process(parts: [&str; 4]) -> Raw {
    let at = offset_of!(process_event, owner);
    let mut raw = Raw::new::<process_event>(event_kind::EVENT_EXEC)
        .int(offset_of!(event_head, pid), 42)
        .put(at + offset_of!(owner, started), &5u64.to_ne_bytes())
        .int(at + offset_of!(owner, exec_id), 3)
        .int(at + offset_of!(owner, uid), 33)
        .int(offset_of!(process_event, mntns), 10)
        .put(offset_of!(process_event, comm), b"curl\0rest");
    for (index, part) in parts.iter().enumerate() {
        raw.0.extend(part.bytes());
        let end = (raw.0.len() - size_of::<process_event>()) as u16;
        raw = raw.put(offset_of!(process_event, ends) + 2 * index, &end.to_ne_bytes());
    }
    raw
}

fn parsed(raw: &Raw) -> ProcessInfo {
    let Some(Event::Process { time: 7, is_exec: true, info }) = raw.parse() else { panic!("{:?}", raw.parse()) };
    *info
}

#[test]
fn a_process_has_its_executable_and_its_control_groups() {
    let info = parsed(&process(["curl\0bin\0usr\0", "a.scope\0system.slice\0", "4f\0docker\0", "./curl\0"]));
    assert_eq!(info.owner, Owner { pid: 42, started: 5, exec_id: 3, user_id: Some(33) });
    assert_eq!((info.exe.as_str(), info.comm.as_str(), info.mount_namespace), ("/usr/bin/curl", "curl", 10));
    assert_eq!(info.cgroups, "1:pids:/docker/4f\n0::/system.slice/a.scope\n");
}

#[test]
fn an_executable_without_a_path_has_the_name_it_was_started_by() {
    let exe = |filename| parsed(&process(["", "", "", filename])).exe;
    assert_eq!(exe("/proc/self/fd/3\0"), "/proc/self/fd/3");
    assert_eq!(exe("./curl\0"), "curl");
    assert_eq!(exe(""), "curl");
}

#[test]
fn an_answer_of_a_name_server_has_its_bytes_and_its_process() {
    let at = offset_of!(dns_event, connection);
    let answer = |attached| {
        let mut raw = Raw::new::<dns_event>(event_kind::EVENT_DNS)
            .int(at + offset_of!(connection, pid), 42)
            .put(at + offset_of!(connection, family), &[libc::AF_INET as u8])
            .put(at + offset_of!(connection, remote), &[127, 0, 0, 11])
            .put(at + offset_of!(connection, remote_port), &53u16.to_ne_bytes())
            .int(at + offset_of!(connection, netns), 9)
            .int(offset_of!(dns_event, moved), 500)
            .int(offset_of!(dns_event, attached), attached);
        raw.0.extend(b"answer");
        raw
    };
    let raw = answer(6);
    let Some(Event::Dns { info, moved: 500, message: b"answer", .. }) = raw.parse() else {
        panic!("{:?}", raw.parse())
    };
    assert_eq!((info.remote, info.netns, info.owner.pid), (Address::Ip("127.0.0.11:53".parse().unwrap()), 9, 42));
    assert!(answer(7).parse().is_none());
}

#[test]
fn text_that_ends_too_early_or_backwards_is_no_event() {
    let whole = process(["a\0", "b\0", "c\0", "d\0"]);
    let mut short = Raw(whole.0.clone());
    short.0.pop();
    assert!(short.parse().is_none());
    let ends = offset_of!(process_event, ends);
    assert!(Raw(whole.0).put(ends + 4, &0u16.to_ne_bytes()).parse().is_none());
}

/// A secret of `secret` bytes 1 with a context of `context` bytes 2.
fn secret(label: secret_label, secret: u8, context: u8) -> Raw {
    Raw::new::<secret_event>(event_kind::EVENT_SECRET)
        .int(offset_of!(event_head, pid), 42)
        .put(offset_of!(secret_event, label), &[label.0 as u8, secret, context])
        .put(offset_of!(secret_event, secret), &[1; 64])
        .put(offset_of!(secret_event, context), &[2; 64])
}

fn parsed_secret(raw: &Raw) -> Option<Secret> {
    match raw.parse()? {
        Event::Secret { time: 7, pid: 42, secret, .. } => Some(secret),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secret_is_what_its_label_says() {
    let expand = |epoch| Some(Secret::Expand { epoch, secret: vec![1; 48], context: vec![2; 64] });
    let log = |label| Some(Secret::Log { label, client_random: [2; 32], secret: vec![1; 48] });
    for (of, epoch) in [
        (secret_label::SECRET_EARLY, Epoch::Early),
        (secret_label::SECRET_HANDSHAKE, Epoch::Handshake),
        (secret_label::SECRET_APPLICATION, Epoch::Application),
    ] {
        assert_eq!(parsed_secret(&secret(of, 48, 64)), expand(epoch));
    }
    for (of, label) in [
        (secret_label::SECRET_LOG_MASTER, LogLabel::ClientRandom),
        (secret_label::SECRET_LOG_CLIENT_EARLY, LogLabel::ClientEarly),
        (secret_label::SECRET_LOG_CLIENT_HANDSHAKE, LogLabel::ClientHandshake),
        (secret_label::SECRET_LOG_SERVER_HANDSHAKE, LogLabel::ServerHandshake),
        (secret_label::SECRET_LOG_CLIENT_APPLICATION, LogLabel::ClientApplication),
        (secret_label::SECRET_LOG_SERVER_APPLICATION, LogLabel::ServerApplication),
    ] {
        assert_eq!(parsed_secret(&secret(of, 48, 32)), log(label));
    }
    let master = Secret::Master { master: vec![1; 48], client_random: [2; 32] };
    assert_eq!(parsed_secret(&secret(secret_label::SECRET_MASTER, 48, 32)), Some(master));
}

#[test]
fn a_secret_says_whose_it_is() {
    for (code, library) in [
        (tls_library::LIBRARY_OPENSSL, Some(Library::OpenSsl)),
        (tls_library::LIBRARY_GNUTLS, Some(Library::GnuTls)),
        (tls_library::LIBRARY_GO, Some(Library::Go)),
        (tls_library::LIBRARY_BORINGSSL, Some(Library::BoringSsl)),
        (tls_library(0), None),
    ] {
        let raw = secret(secret_label::SECRET_HANDSHAKE, 48, 48);
        let raw = raw.put(offset_of!(secret_event, library), &[code.0 as u8]);
        assert!(matches!(raw.parse(), Some(Event::Secret { library: found, .. }) if found == library));
    }
}

#[test]
fn a_secret_of_another_length_or_label_is_no_event() {
    let expand = secret_label::SECRET_HANDSHAKE;
    for (label, length, context) in [
        (expand, 65, 32),
        (expand, 0, 32),
        (expand, 48, 0),
        (expand, 48, 255),
        (secret_label::SECRET_MASTER, 48, 31),
        (secret_label::SECRET_LOG_MASTER, 48, 33),
        (secret_label(0), 48, 32),
        (secret_label(99), 48, 32),
    ] {
        assert!(secret(label, length, context).parse().is_none(), "{length} {context}");
    }
    let mut short = secret(expand, 48, 32);
    short.0.pop();
    assert!(short.parse().is_none());
}

#[test]
fn a_secret_is_not_shown() {
    let raw = secret(secret_label::SECRET_MASTER, 48, 32);
    assert_eq!(format!("{:?}", parsed_secret(&raw)), "Some(Master)");
}

#[test]
fn another_kind_is_no_event() {
    assert!(Raw::new::<open_event>(event_kind(99)).parse().is_none());
    assert!(Event::parse(&[]).is_none());
}

proptest! {
    #[test]
    fn damage_never_panics(
        kind in 0u32..10, size in 0usize..600, damage in vec((0usize..600, any::<u8>()), 0..40), cut in 0usize..600,
    ) {
        let mut raw = vec![0; size.max(size_of::<event_head>())];
        raw[offset_of!(event_head, kind)..][..4].copy_from_slice(&kind.to_ne_bytes());
        for (at, byte) in damage {
            if let Some(place) = raw.get_mut(at) {
                *place = byte;
            }
        }
        raw.truncate(cut.max(size / 2));
        if let Some(Event::Data(event)) = Event::parse(&raw) {
            prop_assert!(event.payload.len() <= event.moved as usize);
        }
    }
}
