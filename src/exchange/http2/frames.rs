//! Frames for tests, written by hand: without any use of the tables that compress heads.

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block without any use of tables: `name: value` lines.
pub(crate) fn block(fields: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend(text.as_bytes());
        }
    }
    out
}

pub(crate) fn headers(stream: u32, flags: u8, fields: &str) -> Vec<u8> {
    frame(1, END_HEADERS | flags, stream, &block(fields))
}

pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, END_STREAM, &format!(":method: GET\n:scheme: http\n:path: {path}\n:authority: a"))
}

pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, 0, &format!(":method: POST\n:scheme: http\n:path: {path}\n:authority: a"))
}

pub(crate) fn status(stream: u32, flags: u8, status: u16) -> Vec<u8> {
    headers(stream, flags, &format!(":status: {status}"))
}

pub(crate) fn data(stream: u32, flags: u8, text: &str) -> Vec<u8> {
    frame(0, flags, stream, text.as_bytes())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

pub(crate) fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat())
}

pub(crate) fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}
