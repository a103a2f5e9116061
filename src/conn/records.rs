//! Whether a connection that was joined midway is within TLS: by records, one behind the other.
//!
//! Looks at heads only, as far as they come in one piece. What it does not recognise it leaves alone.

use crate::bpf::Data;
use crate::tls;

/// Where each direction's next record begins, as far as is known, and how many were found; by [`crate::bpf::Flow`].
#[derive(Debug, Default)]
pub(super) struct Records {
    next: [Option<u32>; 2],
    found: [u32; 2],
    /// When it was proven.
    since: Option<u64>,
}

impl Records {
    /// Takes in what a call moved.
    pub(super) fn see(&mut self, data: &Data) {
        let flow = data.flow as usize;
        let mut next = match self.next[flow] {
            Some(next) => next,
            None if data.call_start => data.position,
            None => return,
        };
        self.next[flow] = loop {
            // Serial arithmetic: where it should begin lies before what was moved, and was not seen.
            let Ok(at) = usize::try_from(next.wrapping_sub(data.position) as i32) else { break None };
            let Some(rest) = data.payload.get(at..).filter(|rest| !rest.is_empty()) else { break Some(next) };
            let Some(head) = rest.first_chunk() else { break None };
            let Some(len) = tls::sealed_record(head) else {
                self.found[flow] = 0;
                break None;
            };
            self.found[flow] += 1;
            next = next.wrapping_add(len);
        };
        self.since = self.since.or(Some(data.time)).filter(|_| self.are_proven());
    }

    /// Since when there is no doubt.
    pub(super) fn since(&self) -> Option<u64> {
        self.since
    }

    /// Whether it was more than chance: two behind each other in one direction, or one in each.
    fn are_proven(&self) -> bool {
        self.found.iter().sum::<u32>() >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Flow;

    /// So many bytes from there on, of which `payload` begins at that position.
    fn see(records: &mut Records, flow: Flow, position: u32, payload: &[u8]) {
        let moved = payload.len() as u32;
        records.see(&Data {
            time: 1,
            connection: 1,
            socket: 1,
            flow,
            position,
            moved,
            payload,
            call_start: true,
            unobservable: false,
        });
    }

    fn record(len: u8) -> Vec<u8> {
        [&[23, 3, 3, 0, len][..], &vec![0xA5; len.into()]].concat()
    }

    #[test]
    fn records_behind_each_other_are_found_however_they_are_read() {
        let both = [record(60), record(80)].concat();
        let mut records = Records::default();
        // Across the wrap of positions.
        see(&mut records, Flow::Sent, 0xffff_ffe0, &both);
        assert!(records.are_proven());
        let mut records = Records::default();
        let mut position = 0xffff_ffe0_u32;
        // As OpenSSL reads: the head, then the body.
        for part in [&both[..5], &both[5..65], &both[65..70]] {
            assert!(!records.are_proven());
            see(&mut records, Flow::Received, position, part);
            position = position.wrapping_add(part.len() as u32);
        }
        assert!(records.are_proven());
    }

    #[test]
    fn joined_within_a_record_the_next_ones_count() {
        let mut records = Records::default();
        see(&mut records, Flow::Received, 0, &[0xA5; 40]);
        see(&mut records, Flow::Received, 40, &record(60));
        assert!(!records.are_proven());
        see(&mut records, Flow::Sent, 7000, &record(30));
        assert!(records.are_proven());
    }

    #[test]
    fn what_looks_like_one_record_proves_nothing() {
        let mut records = Records::default();
        for position in [0, 1000, 2000] {
            see(&mut records, Flow::Sent, position, &[&record(60)[..], b"and something else"].concat());
        }
        see(&mut records, Flow::Received, 0, b"GET / HTTP/1.1\r\n\r\n");
        assert!(!records.are_proven());
        // What follows on it was not seen.
        see(&mut records, Flow::Sent, 3000, &record(60));
        see(&mut records, Flow::Sent, 5000, &record(60));
        assert!(!records.are_proven());
    }
}
