//! HTTP/1 as the tests' own server and client read it: strict, small, and independent of the agent's decoder.

use std::io::{self, BufRead, BufReader, Error, Read};

/// The most that is set aside for a body before it is there.
const MOST: usize = 32 << 20;

/// Header or trailer fields: names and values in wire order.
pub type Fields = Vec<(String, String)>;

/// A start line and its headers.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub first: String,
    pub headers: Fields,
}

impl Head {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str, token: &str) -> bool {
        self.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(token))
    }

    pub fn content_length(&self) -> Option<usize> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }

    /// The n-th word of the start line, empty where there is none.
    pub fn word(&self, n: usize) -> &str {
        self.first.split(' ').nth(n).unwrap_or_default()
    }
}

/// Reads messages from a stream.
pub struct Reader<S: Read>(BufReader<S>);

impl<S: Read> Reader<S> {
    pub fn new(stream: S) -> Reader<S> {
        Reader(BufReader::with_capacity(8 * 1024, stream))
    }

    /// The stream itself, for sending.
    pub fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Waits for the first byte of what comes next; false at the end of the stream.
    pub fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.0.fill_buf()?.is_empty())
    }

    /// The bytes that were read but not yet used.
    pub fn what_is_there(&mut self) -> Vec<u8> {
        let bytes = self.0.buffer().to_vec();
        self.0.consume(bytes.len());
        bytes
    }

    /// The next head; none at the end of the stream.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(first) = self.line()? else { return Ok(None) };
        Ok(Some(Head { first, headers: self.fields()? }))
    }

    /// Header or trailer fields up to the empty line.
    fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?.ok_or_else(|| Error::other("the stream ends inside a head"))?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| Error::other(format!("not a field: {line:?}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        if self.0.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| Error::other(format!("no line end: {line:?}")))?;
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// So many bytes. A number that someone else chose is not trusted with memory.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::with_capacity(count.min(MOST));
        self.0.by_ref().take(count as u64).read_to_end(&mut body)?;
        if body.len() < count {
            return Err(Error::other(format!("the stream ends after {} of {count} bytes", body.len())));
        }
        Ok(body)
    }

    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.0.read_to_end(&mut body)?;
        Ok(body)
    }

    /// A chunked body without its framing, and its trailers.
    pub fn chunked(&mut self) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?.ok_or_else(|| Error::other("the stream ends between chunks"))?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| Error::other(format!("no chunk: {line:?}")))?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            body.extend(self.exactly(size)?);
            if self.line()?.as_deref() != Some("") {
                return Err(Error::other("no line end behind a chunk"));
            }
        }
    }
}

/// A body in chunks of at most `size` bytes, each with an extension where asked, the last chunk not included.
pub fn chunks(body: &[u8], size: usize, extension: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / size * 8 + 64);
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}
