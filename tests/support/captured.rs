//! What the agent printed, read back: JSON lines, text blocks, and the counters at its end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::Value;

/// One `http_transaction`.
#[derive(Debug, Clone)]
pub struct Transaction(pub Value);

impl Transaction {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A header of `request` or `response`, in any case; repeated ones as the agent joined them.
    pub fn header(&self, side: &str, name: &str) -> Option<&str> {
        let headers = self.0.get(side)?.get("headers")?.as_object()?;
        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.as_str())
    }

    /// The request's `X-Request-Id`, empty where it has none.
    pub fn id(&self) -> &str {
        self.header("request", "x-request-id").unwrap_or_default()
    }

    pub fn direction(&self) -> &str {
        self.text("/direction")
    }

    pub fn is_ingress(&self) -> bool {
        self.direction() == "ingress"
    }

    pub fn is_egress(&self) -> bool {
        self.direction().starts_with("egress")
    }

    pub fn method(&self) -> &str {
        self.text("/request/method")
    }

    pub fn url(&self) -> &str {
        self.text("/request/url")
    }

    pub fn path(&self) -> &str {
        self.text("/request/path")
    }

    /// 0 where there is no response.
    pub fn status(&self) -> u64 {
        self.0.pointer("/response/status").and_then(Value::as_u64).unwrap_or(0)
    }

    pub fn pid(&self) -> &str {
        self.text("/metadata/process_id")
    }

    /// The executable, whichever of the two names carries it.
    pub fn exe(&self) -> &str {
        let exe = self.text("/metadata/process_exe");
        if exe.is_empty() { self.text("/metadata/exe") } else { exe }
    }

    pub fn connection(&self) -> String {
        self.0.pointer("/metadata/connection_id").map(Value::to_string).unwrap_or_default()
    }

    /// The body of `request` or `response` as bytes; none where none was written.
    pub fn body(&self, side: &str) -> Option<Vec<u8>> {
        let side = self.0.get(side)?;
        let text = side.get("body")?.as_str()?;
        if side.get("body_encoding").and_then(Value::as_str) == Some("base64") {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            return Some(decoded.unwrap_or_else(|error| panic!("the body is not base64: {error}")));
        }
        Some(text.as_bytes().to_vec())
    }

    /// The body bytes that the wire carried.
    pub fn body_bytes(&self, side: &str) -> Option<u64> {
        self.0.get(side)?.get("body_bytes")?.as_u64()
    }

    /// What is missing, as written: `response_body_truncated:1048576`.
    pub fn incomplete(&self) -> Vec<&str> {
        self.0.get("incomplete").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The number behind a mark of `incomplete`; none where it is not marked so.
    pub fn marked(&self, mark: &str) -> Option<u64> {
        self.incomplete().iter().find_map(|text| text.strip_prefix(mark)?.strip_prefix(':')?.parse().ok())
    }

    pub fn source(&self) -> Option<SocketAddr> {
        address(self.0.get("source")?)
    }

    pub fn destination(&self) -> Option<SocketAddr> {
        address(self.0.get("destination")?)
    }

    pub fn duration_ms(&self) -> Option<f64> {
        self.0.get("duration_ms")?.as_f64()
    }

    pub fn ttfb_ms(&self) -> Option<f64> {
        self.0.get("ttfb_ms")?.as_f64()
    }

    /// First byte of the request, in milliseconds since the Unix epoch.
    pub fn started_ms(&self) -> f64 {
        epoch_ms(self.text("/transaction_time"))
            .unwrap_or_else(|| panic!("no time in UTC by RFC 3339: {}", self.0["transaction_time"]))
    }
}

fn address(end: &Value) -> Option<SocketAddr> {
    let ip = end.get("ip")?.as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, end.get("port")?.as_u64()? as u16))
}

/// `2024-02-29T12:00:00.123456789Z` in milliseconds since the Unix epoch.
pub fn epoch_ms(text: &str) -> Option<f64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let date: Vec<i64> = date.split('-').map(str::parse).collect::<Result<_, _>>().ok()?;
    let time: Vec<f64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let ([year, month, day], [hours, minutes, seconds]) = (date[..].try_into().ok()?, time[..].try_into().ok()?);
    // Days since the epoch by counting years from March, so that the leap day is a year's last.
    let shifted: i64 = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    Some((days as f64 * 86_400.0 + hours * 3600.0 + minutes * 60.0 + seconds) * 1000.0)
}

/// A growing file of JSON lines, read as it grows. Other lines (those of text blocks) are left to [`blocks`].
pub struct Output {
    path: PathBuf,
    offset: u64,
    /// The process whose records count; none: all of them.
    pub process: Option<u32>,
    /// Only lines that contain this are read: parsing floods of what a test does not look at takes longer than
    /// recording them.
    pub containing: &'static str,
    pub transactions: Vec<Transaction>,
    pub connections: Vec<Value>,
}

impl Output {
    pub fn new(path: &Path) -> Output {
        Output {
            path: path.to_owned(),
            offset: 0,
            process: None,
            containing: "",
            transactions: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// Reads the whole lines that were added since the last time.
    pub fn refresh(&mut self) {
        let mut file = File::open(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        let mut added = Vec::new();
        file.seek(SeekFrom::Start(self.offset)).expect("a file can be sought in");
        file.read_to_end(&mut added).expect("a file can be read");
        let Some(end) = added.iter().rposition(|&byte| byte == b'\n') else { return };
        self.offset += end as u64 + 1;
        for line in added[..end].split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{\"type\":")) {
            if !String::from_utf8_lossy(line).contains(self.containing) {
                continue;
            }
            let value: Value = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("stdout: {error}: {}", String::from_utf8_lossy(line)));
            match value["type"].as_str() {
                Some("http_transaction" | "connection") if !self.is_wanted(&value) => {}
                Some("http_transaction") => self.transactions.push(Transaction(value)),
                Some("connection") => self.connections.push(value),
                other => panic!("stdout: unknown record {other:?}: {}", String::from_utf8_lossy(line)),
            }
        }
    }
}

impl Output {
    fn is_wanted(&self, record: &Value) -> bool {
        let Some(process) = self.process else { return true };
        let of_transaction = record["metadata"]["process_id"].as_str().and_then(|pid| pid.parse().ok());
        let of_event = ["source", "destination"].iter().find_map(|end| record[end]["process"]["pid"].as_u64());
        of_transaction == Some(process) || of_event == Some(process.into())
    }
}

/// A transaction in `format: text`.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// `Source Process`, `Direction`, `Method`, `URL`, `Status`, `Duration`.
    pub fields: HashMap<String, String>,
    /// The order of the fields as printed.
    pub order: Vec<String>,
    /// `Request Headers` and the others, with their lines.
    pub sections: HashMap<String, Vec<String>>,
}

impl Block {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub fn section(&self, name: &str) -> Option<String> {
        self.sections.get(name).map(|lines| lines.join("\n"))
    }

    pub fn header(&self, section: &str, name: &str) -> Option<&str> {
        self.sections.get(section)?.iter().find_map(|line| {
            let (n, value) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// The text blocks in an output; whatever stands between them is skipped.
///
/// # Panics
/// When a block does not end, or has a line that the format does not know.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "=== HTTP Transaction ===" {
            continue;
        }
        let mut block = Block::default();
        let mut section: Option<String> = None;
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("a block does not end: {block:#?}"));
            if line == "========================" {
                break;
            }
            if let Some(name) = line.strip_prefix("--- ").and_then(|rest| rest.strip_suffix(" ---")) {
                block.sections.insert(name.to_owned(), Vec::new());
                section = Some(name.to_owned());
            } else if let Some(name) = &section {
                block.sections.get_mut(name).expect("it was just inserted").push(line.to_owned());
            } else if !line.is_empty() {
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a field: {line:?}"));
                block.fields.insert(name.to_owned(), value.to_owned());
                block.order.push(name.to_owned());
            }
        }
        // The empty line before the next section is the format's, not the section's.
        for lines in block.sections.values_mut() {
            while lines.last().is_some_and(String::is_empty) {
                lines.pop();
            }
        }
        found.push(block);
    }
    found
}

/// The numbers of the line with which the agent ends: `counters seen=10 written=10 lost=0 …`. Empty without it.
pub fn counters(log: &str) -> HashMap<String, u64> {
    let line = log.lines().rev().find_map(|line| line.split_once("counters ").map(|(_, counts)| counts));
    let pairs = line.unwrap_or_default().split_whitespace().filter_map(|word| word.split_once('='));
    pairs.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

/// Everything that an agent which has ended left behind.
pub struct Captured {
    pub transactions: Vec<Transaction>,
    pub connections: Vec<Value>,
    pub stdout: String,
    pub stderr: String,
    pub counters: HashMap<String, u64>,
}

impl Captured {
    /// The transactions of a request id, in the order they were written.
    pub fn of(&self, id: &str) -> Vec<&Transaction> {
        self.transactions.iter().filter(|transaction| transaction.id() == id).collect()
    }

    pub fn ingress(&self, id: &str) -> &Transaction {
        self.only(id, Transaction::is_ingress)
    }

    pub fn egress(&self, id: &str) -> &Transaction {
        self.only(id, Transaction::is_egress)
    }

    fn only(&self, id: &str, side: fn(&Transaction) -> bool) -> &Transaction {
        let found: Vec<_> = self.of(id).into_iter().filter(|transaction| side(transaction)).collect();
        let [one] = found[..] else { panic!("{id:?}: expected one, recorded {}: {found:#?}", found.len()) };
        one
    }
}
