//! What the programs in bpf/ do, in small: calls go in, events come out of one buffer for each CPU. Orders are heeded, long
//! calls are split, what finds no room is lost, and where it ended is told.

use std::collections::{HashMap, VecDeque};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Mutex;

use super::{event, put};
use crate::bpf::types::{
    close_event, connection, connection_flag, data_event, end_event, event_kind, open_event, role,
};
use crate::bpf::{Event, Flow, Order, Owner, SocketInfo, Verdict};
use crate::conn::Control;
use crate::conn::tests::traffic::Dice;

/// Bytes of a stream that no event carries: not since nobody wanted them, but since they were lost or out of reach. None of
/// them: no event says that the stream ends there.
#[derive(Debug, Clone, PartialEq)]
pub struct Unseen {
    pub connection: u64,
    pub flow: Flow,
    pub bytes: Range<usize>,
}

#[derive(Debug, Clone)]
pub struct Socket {
    pub id: u64,
    pub is_server: bool,
    /// It was open before there was a program to see it.
    pub is_older: bool,
    pub base: [u32; 2],
    is_announced: bool,
    /// [`Verdict::Look`] was answered.
    is_found: bool,
    /// Bytes so far.
    moved: [usize; 2],
    lost: [u32; 2],
    /// Nobody wanted what the last call moved.
    is_skipped: [bool; 2],
    /// An event says so, and that nothing is missing before: whether the process took what was skipped, only the last one
    /// tells.
    has_ended: [bool; 2],
}

impl Socket {
    pub fn new(id: u64, is_server: bool, base: [u32; 2]) -> Socket {
        let (is_older, is_announced, is_found, moved, lost) = (false, false, false, [0; 2], [0; 2]);
        let (is_skipped, has_ended) = ([false; 2], [false; 2]);
        Socket { id, is_server, is_older, base, is_announced, is_found, moved, lost, is_skipped, has_ended }
    }

    fn position(&self, flow: Flow) -> u32 {
        self.base[flow as usize].wrapping_add(self.moved[flow as usize] as u32)
    }

    /// `struct connection` at that place of an event.
    fn write(&self, bytes: &mut [u8], at: usize) {
        let end = if self.is_server { role::ROLE_SERVER } else { role::ROLE_CLIENT };
        let flags = if self.is_older { connection_flag::CONNECTION_OLDER.0 as u16 } else { 0 };
        let pairs = |numbers: [u32; 2]| numbers.map(u32::to_ne_bytes).concat();
        put(bytes, at + offset_of!(connection, id), &self.id.to_ne_bytes());
        put(bytes, at + offset_of!(connection, socket), &self.id.to_ne_bytes());
        put(bytes, at + offset_of!(connection, pid), &u32::MAX.to_ne_bytes());
        put(bytes, at + offset_of!(connection, base), &pairs(self.base));
        put(
            bytes,
            at + offset_of!(connection, r#final),
            &pairs([Flow::Sent, Flow::Received].map(|f| self.position(f))),
        );
        put(bytes, at + offset_of!(connection, lost), &pairs(self.lost));
        put(bytes, at + offset_of!(connection, family), &[libc::AF_INET as u8]);
        put(bytes, at + offset_of!(connection, role), &[end.0 as u8]);
        put(bytes, at + offset_of!(connection, flags), &flags.to_ne_bytes());
    }

    fn opening(&self, time: u64) -> Vec<u8> {
        let mut bytes = event::<open_event>(event_kind::EVENT_OPEN, time);
        self.write(&mut bytes, offset_of!(open_event, connection));
        bytes
    }
}

pub struct Kernel(Mutex<State>);

pub struct State {
    sockets: HashMap<u64, Socket>,
    orders: HashMap<u64, Order>,
    buffers: Vec<VecDeque<Vec<u8>>>,
    /// Most bytes of one event.
    payload: usize,
    /// One event in so many finds no room; 0: none.
    loses: usize,
    luck: Dice,
    lost_data: u64,
    pub unseen: Vec<Unseen>,
}

impl Kernel {
    pub fn new(cpus: usize, payload: usize, loses: usize, luck: Dice) -> Kernel {
        Kernel(Mutex::new(State {
            sockets: HashMap::new(),
            orders: HashMap::new(),
            buffers: vec![VecDeque::new(); cpus],
            payload,
            loses,
            luck,
            lost_data: 0,
            unseen: Vec::new(),
        }))
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

impl State {
    pub fn open(&mut self, socket: Socket) {
        self.sockets.insert(socket.id, socket);
    }

    /// Nobody watched when these bytes went by.
    pub fn before(&mut self, id: u64, flow: Flow, len: usize) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.is_older = true;
        let start = socket.moved[flow as usize];
        socket.moved[flow as usize] += len;
        self.unseen.push(Unseen { connection: id, flow, bytes: start..start + len });
    }

    /// A call has moved these bytes; unless `observable` past the process's memory.
    pub fn call(&mut self, cpu: usize, id: u64, flow: Flow, bytes: &[u8], observable: bool, time: u64) {
        let Some(mut socket) = self.sockets.remove(&id) else { return };
        if !socket.is_announced {
            socket.is_announced = self.output(cpu, socket.opening(time));
        }
        let (position, start) = (socket.position(flow), socket.moved[flow as usize]);
        let unwanted = self.unwanted(&mut socket, flow, bytes, observable, position);
        socket.is_skipped[flow as usize] = unwanted.is_none();
        if let Some(unwanted) = unwanted {
            let rest = &bytes[unwanted..];
            let (at, position) = (start + unwanted, position.wrapping_add(unwanted as u32));
            let pieces: Vec<&[u8]> = if observable { rest.chunks(self.payload).collect() } else { Vec::new() };
            for (number, piece) in pieces.iter().enumerate() {
                let before = number * self.payload;
                let is_start = unwanted == 0 && number == 0;
                let place = (at + before, position.wrapping_add(before as u32));
                self.piece(cpu, &mut socket, flow, place, (piece.len(), piece), is_start, time);
            }
            if pieces.is_empty() {
                // What lies past the process's memory, or the time of a call that ends where bytes are wanted again.
                self.piece(cpu, &mut socket, flow, (at, position), (rest.len(), b""), unwanted == 0, time);
            }
        }
        socket.moved[flow as usize] += bytes.len();
        self.sockets.insert(id, socket);
    }

    /// How many bytes of a call to step over; none where nothing of it is wanted: `is_wanted` of bpf/emit.h.
    fn unwanted(
        &self,
        socket: &mut Socket,
        flow: Flow,
        bytes: &[u8],
        observable: bool,
        position: u32,
    ) -> Option<usize> {
        let Some(order) = self.orders.get(&socket.id) else { return Some(0) };
        match order.verdict {
            Verdict::Drop => return None,
            Verdict::Look if !socket.is_found => {
                if !observable || !looks_like_message(bytes) {
                    return None;
                }
                socket.is_found = true;
            }
            _ => {}
        }
        let Some(to) = order.skip_to[flow as usize] else { return Some(0) };
        let ahead = to.wrapping_sub(position) as i32;
        if ahead <= 0 {
            return Some(0);
        }
        (ahead as usize <= bytes.len()).then_some(ahead as usize)
    }

    #[allow(clippy::too_many_arguments)]
    fn piece(
        &mut self,
        cpu: usize,
        socket: &mut Socket,
        flow: Flow,
        (at, position): (usize, u32),
        (moved, payload): (usize, &[u8]),
        is_start: bool,
        time: u64,
    ) {
        let mut bytes = event::<data_event>(event_kind::EVENT_DATA, time);
        put(&mut bytes, offset_of!(data_event, connection), &socket.id.to_ne_bytes());
        put(&mut bytes, offset_of!(data_event, socket), &socket.id.to_ne_bytes());
        put(&mut bytes, offset_of!(data_event, position), &position.to_ne_bytes());
        put(&mut bytes, offset_of!(data_event, moved), &(moved as u32).to_ne_bytes());
        put(&mut bytes, offset_of!(data_event, attached), &(payload.len() as u32).to_ne_bytes());
        put(&mut bytes, offset_of!(data_event, direction), &[flow as u8]);
        put(&mut bytes, offset_of!(data_event, flags), &[u8::from(is_start) | if payload.is_empty() { 2 } else { 0 }]);
        bytes.extend(payload);
        let fits = self.output(cpu, bytes);
        if !fits {
            self.lost_data += 1;
            socket.lost[flow as usize] = position.wrapping_add(moved as u32);
        }
        if !fits || payload.len() < moved {
            self.unseen.push(Unseen { connection: socket.id, flow, bytes: at..at + moved });
        }
    }

    /// No byte follows that way.
    pub fn shut(&mut self, cpu: usize, id: u64, flow: Flow, time: u64) {
        let Some(socket) = self.sockets.get(&id).filter(|socket| socket.is_announced) else { return };
        let position = socket.position(flow);
        let mut bytes = event::<end_event>(event_kind::EVENT_END, time);
        put(&mut bytes, offset_of!(end_event, connection), &id.to_ne_bytes());
        put(&mut bytes, offset_of!(end_event, position), &position.to_ne_bytes());
        put(&mut bytes, offset_of!(end_event, direction), &[flow as u8]);
        let fits = self.output(cpu, bytes);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.has_ended[flow as usize] = fits && !socket.is_skipped[flow as usize];
        }
    }

    pub fn close(&mut self, cpu: usize, id: u64, time: u64) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        if socket.is_announced {
            let mut bytes = event::<close_event>(event_kind::EVENT_CLOSE, time);
            socket.write(&mut bytes, offset_of!(close_event, connection));
            if self.output(cpu, bytes) {
                return;
            }
        }
        for flow in [Flow::Sent, Flow::Received].into_iter().filter(|&flow| !socket.has_ended[flow as usize]) {
            let end = socket.moved[flow as usize];
            self.unseen.push(Unseen { connection: id, flow, bytes: end..end });
        }
    }

    fn output(&mut self, cpu: usize, event: Vec<u8>) -> bool {
        let fits = self.loses == 0 || self.luck.roll(self.loses) != 0;
        if fits {
            self.buffers[cpu].push_back(event);
        }
        fits
    }

    pub fn read(&mut self, cpu: usize) -> Option<Vec<u8>> {
        self.buffers[cpu].pop_front()
    }
}

/// As in bpf/infer.h.
fn looks_like_message(bytes: &[u8]) -> bool {
    let start: Vec<u8> = bytes.iter().copied().chain([0; 8]).take(8).collect();
    start.starts_with(b"HTTP/")
        || match start.iter().position(|&byte| !byte.is_ascii_uppercase() && byte != b'-' && byte != b'_') {
            Some(end) => end > 0 && start[end] == b' ',
            None => true,
        }
}

impl Control for Kernel {
    fn order(&self, connection: u64, order: &Order) {
        self.with(|state| state.orders.insert(connection, *order));
    }

    fn judge(&self, _process: &Owner, _left_out: bool) {}

    fn socket(&self, key: u64) -> Option<SocketInfo> {
        let opening = self.with(|state| Some(state.sockets.get(&key)?.opening(1)))?;
        match Event::parse(&opening) {
            Some(Event::Open(opened)) => Some(opened.info),
            _ => None,
        }
    }

    fn lost_events(&self) -> u64 {
        self.with(|state| state.lost_data)
    }
}
