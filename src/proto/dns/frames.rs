//! DNS over TCP (RFC 1035 section 4.2.2): messages with their length, two bytes, before each.

/// Bytes of a length.
const PREFIX: usize = 2;

/// One direction of a connection, cut into messages. It holds less than one message, at most 64 KiB.
///
/// After a gap in the stream nobody can say where a message begins: throw it away then.
#[derive(Debug, Default)]
pub struct Frames {
    /// The length and the beginning of a message whose end is yet to come.
    held: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes of the stream and calls `each` with every message that is complete now, in order. A
    /// message that lies whole in `bytes` is not copied.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while !self.held.is_empty() {
            let wanted = match self.held.first_chunk() {
                Some(&prefix) => PREFIX + length(prefix) - self.held.len(),
                None => PREFIX - self.held.len(),
            };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            if now.len() < wanted {
                return;
            }
            if let Some((&prefix, message)) = self.held.split_first_chunk()
                && message.len() == length(prefix)
            {
                each(message);
                self.held.clear();
            }
        }
        while let Some((&prefix, rest)) = bytes.split_first_chunk()
            && let Some((message, rest)) = rest.split_at_checked(length(prefix))
        {
            each(message);
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
    }
}

fn length(prefix: [u8; PREFIX]) -> usize {
    u16::from_be_bytes(prefix).into()
}
