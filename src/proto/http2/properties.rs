//! What must hold for every stream of bytes, however it is cut, wherever it is joined and whatever is missing.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::hpack::encoder::{Encoder, Way};
use super::tests::*;
use super::*;

/// A sender's doing. Streams are given by number, and get their identifiers when sent.
#[derive(Debug, Clone)]
enum Act {
    Head {
        stream: u32,
        fields: Vec<(String, String, Way)>,
        resize: Option<u32>,
        cuts: Vec<Index>,
        padding: Option<u8>,
        end: bool,
    },
    Trailers {
        stream: u32,
        fields: Vec<(String, String, Way)>,
    },
    Data {
        stream: u32,
        data: Vec<u8>,
        padding: Option<u8>,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    GoAway {
        last_stream: u32,
        text: Vec<u8>,
    },
    Settings {
        table_size: u32,
    },
    Quiet(Vec<u8>),
}

/// A direction's bytes and what they say; where body bytes lie.
struct Sample {
    bytes: Vec<u8>,
    events: Vec<Event>,
    bodies: Vec<std::ops::Range<usize>>,
}

fn way() -> impl Strategy<Value = Way> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(is_indexed, is_added, has_name_index, is_huffman, is_secret)| Way {
            is_indexed,
            is_added,
            has_name_index,
            is_huffman,
            is_secret,
        },
    )
}

fn fields(most: usize) -> impl Strategy<Value = Vec<(String, String, Way)>> {
    let names = select(vec!["accept", "cookie", "x-a", "x-b", "content-type", "grpc-status"]).prop_map(str::to_owned);
    let values = prop_oneof![select(vec!["0", "text/html", "a=b", ""]).prop_map(str::to_owned), "[ -~]{0,60}"];
    vec((names, values, way()), 0..most)
}

fn request_fields() -> impl Strategy<Value = Vec<(String, String, Way)>> {
    let methods = select(vec!["GET", "POST", "PUT", "PATCH"]);
    let paths = select(vec!["/", "/a", "/b?c=d", "/index.html"]);
    let authorities = select(vec!["a.example", "b.example"]);
    (methods, paths, authorities, vec(way(), 4), fields(5)).prop_map(|(method, path, authority, ways, rest)| {
        let pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)];
        let pseudo = pseudo.into_iter().zip(ways).map(|((name, value), way)| (name.to_owned(), value.to_owned(), way));
        pseudo.chain(rest).collect()
    })
}

fn response_fields() -> impl Strategy<Value = Vec<(String, String, Way)>> {
    let status = select(vec!["200", "404", "201", "302", "103"]);
    (status, way(), fields(5)).prop_map(|(status, way, rest)| {
        std::iter::once((":status".to_owned(), status.to_owned(), way)).chain(rest).collect()
    })
}

fn act(side: Side) -> impl Strategy<Value = Act> {
    let head = match side {
        Side::Client => request_fields().boxed(),
        Side::Server => response_fields().boxed(),
    };
    let stream = (0..20u32).prop_map(|number| 2 * number + 1);
    let padding = || proptest::option::weighted(0.2, any::<u8>());
    let resize = proptest::option::weighted(0.1, select(vec![0, 100, 4096, 60_000]));
    let trailers = fields(4).prop_filter("trailers hold something", |fields| !fields.is_empty());
    let quiet = select(vec![
        frame(PING, 0, 0, &[1; 8]),
        frame(PING, ACK, 0, &[2; 8]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        frame(WINDOW_UPDATE, 0, 3, &[0, 1, 0, 0]),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 9]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(0x20, 3, 0, b"what nobody knows"),
        frame(DATA, 0, 1, &[]),
    ]);
    prop_oneof![
        5 => (stream.clone(), head, resize, vec(any::<Index>(), 0..3), padding(), any::<bool>())
            .prop_map(|(stream, fields, resize, cuts, padding, end)| Act::Head { stream, fields, resize, cuts, padding, end }),
        2 => (stream.clone(), trailers).prop_map(|(stream, fields)| Act::Trailers { stream, fields }),
        5 => (stream.clone(), vec(any::<u8>(), 0..200), padding(), any::<bool>())
            .prop_map(|(stream, data, padding, end)| Act::Data { stream, data, padding, end }),
        1 => (stream.clone(), 0..14u32).prop_map(|(stream, code)| Act::Reset { stream, code }),
        1 => (stream, vec(any::<u8>(), 0..20)).prop_map(|(last_stream, text)| Act::GoAway { last_stream, text }),
        1 => (0..10_000u32).prop_map(|table_size| Act::Settings { table_size }),
        3 => quiet.prop_map(Act::Quiet),
    ]
}

fn padded(payload: &[u8], padding: Option<u8>) -> (u8, Vec<u8>) {
    match padding {
        None => (0, payload.to_vec()),
        Some(padding) => (PADDED, [&[padding], payload, &vec![0; usize::from(padding)]].concat()),
    }
}

fn header_frames(stream: u32, block: &[u8], cuts: &[Index], padding: Option<u8>, end: bool) -> Vec<u8> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(block.len() + 1)).collect();
    places.extend([0, block.len()]);
    places.sort_unstable();
    let pieces = places.len() - 1;
    let mut frames = Vec::new();
    for (at, ends) in places.windows(2).enumerate() {
        let piece = &block[ends[0]..ends[1]];
        let last = if at + 1 == pieces { END_HEADERS } else { 0 };
        if at > 0 {
            frames.extend(frame(CONTINUATION, last, stream, piece));
            continue;
        }
        let (flag, payload) = padded(piece, padding);
        let end = if end { END_STREAM } else { 0 };
        frames.extend(frame(HEADERS, flag | last | end, stream, &payload));
    }
    frames
}

impl Sample {
    fn new(side: Side) -> Sample {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let preface = if side == Side::Client { PREFACE } else { &[] };
        Sample {
            bytes: [preface, &settings].concat(),
            events: vec![Event::Settings(Settings::default())],
            bodies: Vec::new(),
        }
    }

    fn send(&mut self, act: Act, side: Side, encoder: &mut Encoder) {
        let mut block = Vec::new();
        match act {
            Act::Head { stream, fields, resize, cuts, padding, end } => {
                resize.into_iter().for_each(|size| encoder.resize(size, &mut block));
                let all = encode(encoder, fields, &mut block);
                self.bytes.extend(header_frames(stream, &block, &cuts, padding, end));
                let (pseudo, fields): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name.starts_with(':'));
                let value = |name: &str| {
                    pseudo.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()).unwrap_or_default()
                };
                let start = match side {
                    Side::Client => [":method", ":path", ":scheme", ":authority", ":protocol"].map(value).to_vec(),
                    Side::Server => vec![value(":status")],
                };
                self.events.push(Event::Head { stream, start, fields, end, complete: true });
            }
            Act::Trailers { stream, fields } => {
                let fields = encode(encoder, fields, &mut block);
                self.bytes.extend(header_frames(stream, &block, &[], None, true));
                self.events.push(Event::Trailers { stream, fields, complete: true });
            }
            Act::Data { stream, data, padding, end } => {
                let (flag, payload) = padded(&data, padding);
                let start = self.bytes.len() + 9 + usize::from(padding.is_some());
                self.bodies.push(start..start + data.len());
                self.bytes.extend(frame(DATA, flag | if end { END_STREAM } else { 0 }, stream, &payload));
                match self.events.last_mut() {
                    Some(Event::Data { stream: other, data: before, end: is_last @ false }) if *other == stream => {
                        before.extend(data);
                        *is_last = end;
                    }
                    _ if data.is_empty() && !end => {}
                    _ => self.events.push(Event::Data { stream, data, end }),
                }
            }
            Act::Reset { stream, code } => {
                self.bytes.extend(frame(RST_STREAM, 0, stream, &code.to_be_bytes()));
                self.events.push(Event::Reset { stream, code });
            }
            Act::GoAway { last_stream, text } => {
                let payload = [&last_stream.to_be_bytes()[..], &[0, 0, 0, 2], &text].concat();
                self.bytes.extend(frame(GOAWAY, 0, 0, &payload));
                self.events.push(Event::GoAway { last_stream, code: 2 });
            }
            Act::Settings { table_size } => {
                let setting = [&[0, 1][..], &table_size.to_be_bytes()].concat();
                self.bytes.extend(frame(SETTINGS, 0, 0, &setting));
                self.events.push(Event::Settings(Settings { table_size: Some(table_size), frame_size: None }));
            }
            Act::Quiet(bytes) => self.bytes.extend(bytes),
        }
    }
}

fn encode(encoder: &mut Encoder, fields: Vec<(String, String, Way)>, block: &mut Vec<u8>) -> Vec<(String, String)> {
    let each = fields.into_iter().map(|(name, value, way)| {
        let field = (name, value);
        encoder.field(&field, way, block);
        field
    });
    each.collect()
}

fn sides() -> impl Strategy<Value = Side> {
    select(vec![Side::Client, Side::Server])
}

fn sample() -> impl Strategy<Value = (Side, Sample)> {
    let acts = sides().prop_flat_map(|side| (Just(side), vec(act(side), 0..25)));
    let sample = |(side, acts): (Side, Vec<Act>)| {
        let (mut sample, mut encoder) = (Sample::new(side), Encoder::new());
        acts.into_iter().for_each(|act| sample.send(act, side, &mut encoder));
        (side, sample)
    };
    acts.prop_map(sample)
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.events)
    }
}

fn damaged() -> impl Strategy<Value = (Side, Vec<u8>)> {
    let damage = (any::<Index>(), any::<u8>(), 0..3u8);
    (sample(), vec(damage, 0..4)).prop_map(|((side, sample), damages)| {
        let mut bytes = sample.bytes;
        for (at, byte, kind) in damages {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                _ if at == bytes.len() => {}
                1 => bytes[at] = byte,
                _ => drop(bytes.remove(at)),
            }
        }
        (side, bytes)
    })
}

fn any_stream() -> impl Strategy<Value = (Side, Vec<u8>)> {
    prop_oneof![1 => (sides(), vec(any::<u8>(), 0..200)), 1 => (sides(), vec(0..4u8, 0..400)), 6 => damaged()]
}

fn decoder(side: Side) -> Decoder {
    match side {
        Side::Client => Decoder::client(),
        Side::Server => Decoder::server(),
    }
}

/// What a reader of these pieces is told, where it stands in the end, and what that means.
fn told<'a>(decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, u64, Finish) {
    let mut reader = Reader::new(decoder, 0);
    pieces.into_iter().for_each(|piece| reader.read(piece));
    let finish = reader.decoder.finish();
    (reader.events, reader.position, finish)
}

/// The bytes cut at these places.
fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Whether `claim` says of an event nothing but what the whole story says, or that it is not known.
fn agrees(claim: &Event, truth: &Event) -> bool {
    let same_text = |claim: &str, truth: &str| claim == truth || claim == UNKNOWN;
    let same_fields = |claims: &[(String, String)], truths: &[(String, String)]| {
        claims.len() == truths.len()
            && claims
                .iter()
                .zip(truths)
                .all(|(claim, truth)| same_text(&claim.0, &truth.0) && same_text(&claim.1, &truth.1))
    };
    let knows = |fields: &[(String, String)]| fields.iter().all(|(name, value)| name != UNKNOWN && value != UNKNOWN);
    match (claim, truth) {
        (
            Event::Head { stream, start, fields, end, complete },
            Event::Head { stream: s, start: truths, fields: f, end: e, .. },
        ) => {
            let same_start = start.iter().zip(truths).all(|(claim, truth)| same_text(claim, truth) || claim == "0");
            if *complete {
                return claim == truth;
            }
            // pseudo-headers that are not known stand among the fields, in front
            let hidden = fields.len().saturating_sub(f.len());
            stream == s
                && end == e
                && same_start
                && !knows(fields)
                && fields[..hidden].iter().all(|(name, _)| name == UNKNOWN)
                && same_fields(&fields[hidden..], f)
        }
        // what may be trailers comes as a head without pseudo-headers
        (
            Event::Head { stream, fields, end: true, complete: false, start },
            Event::Trailers { stream: s, fields: f, .. },
        ) => stream == s && same_fields(fields, f) && start.iter().all(|part| part == UNKNOWN || part == "0"),
        (Event::Trailers { stream, fields, complete }, Event::Trailers { stream: s, fields: f, .. }) => {
            stream == s && same_fields(fields, f) && *complete == knows(fields)
        }
        // pieces of a body are joined
        (Event::Data { stream, data, end }, Event::Data { stream: s, data: d, end: e }) => {
            stream == s && end == e && d.ends_with(data)
        }
        _ => claim == truth,
    }
}

/// Whether these body bytes are of that body.
fn holds(body: &Event, piece: &Event) -> bool {
    match (body, piece) {
        (Event::Data { stream, data, .. }, Event::Data { stream: s, data: piece, .. }) => {
            stream == s && data.windows(piece.len()).any(|window| window == piece)
        }
        _ => false,
    }
}

/// Whether every claim is one of the whole story's, at its place.
fn is_part_of(claims: &Reader, truths: &Reader) -> Result<(), TestCaseError> {
    for (claim, place) in claims.events.iter().zip(&claims.places) {
        if matches!(claim, Event::Invalid(_)) {
            continue;
        }
        let mut same_place =
            truths.events.iter().zip(&truths.places).filter(|(_, p)| *p == place).map(|(event, _)| event);
        let is_right = match claim {
            // cut by the gap
            Event::Data { end: false, .. } => truths.events.iter().any(|truth| holds(truth, claim)),
            _ => same_place.any(|truth| agrees(claim, truth)),
        };
        prop_assert!(is_right, "{:?} was claimed at {}", claim, place);
    }
    Ok(())
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in((side, sample) in sample(), cuts in vec(any::<Index>(), 0..8)) {
        let (events, position, finish) = told(decoder(side), cut(&sample.bytes, &cuts));
        prop_assert_eq!(events, sample.events);
        prop_assert_eq!(position, sample.bytes.len() as u64);
        prop_assert_eq!(finish, Finish::Clean);
    }

    #[test]
    fn cutting_a_stream_differently_changes_nothing((side, stream) in any_stream(), cuts in vec(any::<Index>(), 0..8)) {
        for make in [decoder, Decoder::joined, Decoder::joined_at_frame] {
            let whole = told(make(side), [&stream[..]]);
            prop_assert_eq!(&told(make(side), cut(&stream, &cuts)), &whole);
            prop_assert_eq!(&told(make(side), stream.chunks(1)), &whole);
        }
    }

    /// Whatever is claimed of a direction joined at any byte is what one who saw all says, or a placeholder.
    #[test]
    fn joined_anywhere_nothing_wrong_is_claimed((side, sample) in sample(), from: Index) {
        let mut truths = Reader::new(decoder(side), 0);
        truths.read(&sample.bytes);
        let from = from.index(sample.bytes.len() + 1);
        let mut claims = Reader::new(Decoder::joined(side), from as u64);
        claims.read(&sample.bytes[from..]);
        is_part_of(&claims, &truths)?;
    }

    /// The same where bytes are missing, stepped over or not.
    #[test]
    fn with_a_gap_anywhere_nothing_wrong_is_claimed((side, sample) in sample(), from: Index, length in 1..300usize) {
        let mut truths = Reader::new(decoder(side), 0);
        truths.read(&sample.bytes);
        let from = from.index(sample.bytes.len() + 1);
        let to = sample.bytes.len().min(from + length);
        let mut claims = Reader::new(decoder(side), 0);
        claims.read(&sample.bytes[..from]);
        prop_assume!(claims.miss((to - from) as u64).is_err());
        claims.decoder.resync();
        claims.read(&sample.bytes[to..]);
        is_part_of(&claims, &truths)?;
    }

    /// Body bytes that were not seen are missing in that body and nowhere else.
    #[test]
    fn a_gap_inside_a_body_harms_nothing_else(
        (side, sample) in sample().prop_filter("needs data", |(_, s)| s.bodies.iter().any(|body| !body.is_empty())),
        which: Index, from: Index, to: Index
    ) {
        let bodies: Vec<_> = sample.bodies.iter().filter(|body| !body.is_empty()).collect();
        let body = which.get(&bodies);
        let (one, other) = (from.index(body.len() + 1), to.index(body.len() + 1));
        let gap = body.start + one.min(other)..body.start + one.max(other);

        let mut reader = Reader::new(decoder(side), 0);
        reader.read(&sample.bytes[..gap.start]);
        prop_assert!(gap.is_empty() || reader.decoder.certain_body() >= gap.len() as u64);
        let missed = reader.miss(gap.len() as u64).map(|missed| missed.body);
        prop_assert_eq!(missed, Ok(gap.len() as u64));
        reader.read(&sample.bytes[gap.end..]);
        prop_assert_eq!(reader.decoder.finish(), Finish::Clean);

        let body_bytes = |events: &[Event]| events.iter().map(|e| if let Event::Data { data, .. } = e { data.len() } else { 0 }).sum::<usize>();
        let others = |events: &[Event]| -> Vec<Event> {
            events.iter().filter(|event| !matches!(event, Event::Data { end: false, .. })).map(|event| match event {
                Event::Data { stream, end, .. } => Event::Data { stream: *stream, data: Vec::new(), end: *end },
                event => event.clone(),
            }).collect()
        };
        prop_assert_eq!(others(&reader.events), others(&sample.events));
        prop_assert_eq!(body_bytes(&reader.events) + gap.len(), body_bytes(&sample.events));
    }

    /// A client's requests are all found that start behind the join and behind the first one with every part known.
    #[test]
    fn requests_behind_a_join_are_found(acts in vec(act(Side::Client), 1..25), from: Index) {
        let (mut sample, mut encoder) = (Sample::new(Side::Client), Encoder::new());
        acts.into_iter().for_each(|act| sample.send(act, Side::Client, &mut encoder));
        let from = from.index(sample.bytes.len());
        let way = Way { is_indexed: false, is_added: true, has_name_index: true, is_huffman: true, is_secret: false };
        let get = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
        let get = get.map(|(name, value)| (name.to_owned(), value.to_owned(), way)).to_vec();
        for stream in [101, 103] {
            let fields = get.clone();
            let act = Act::Head { stream, fields, resize: None, cuts: Vec::new(), padding: None, end: true };
            sample.send(act, Side::Client, &mut encoder);
        }
        let mut claims = Reader::new(Decoder::joined(Side::Client), from as u64);
        claims.read(&sample.bytes[from..]);
        prop_assert!(claims.events.ends_with(&sample.events[sample.events.len() - 2..]), "{:?}", claims.events);
    }

    #[test]
    fn gaps_and_new_starts_anywhere_never_panic(
        pieces in vec((any_stream(), prop_oneof![0..20u64, any::<u64>()]), 0..6), side in sides()
    ) {
        let mut reader = Reader::new(Decoder::joined_at_frame(side), 0);
        for ((_, piece), gap) in pieces {
            reader.read(&piece);
            let (certain, had) = (reader.decoder.certain_body(), reader.unused() as u64);
            match reader.decoder.gap(gap) {
                Ok(missed) => prop_assert!(missed.body <= certain && had == 0 || gap == 0),
                Err(Lost) => {
                    reader = Reader::new(reader.decoder, 0);
                    reader.decoder.resync();
                }
            }
            prop_assert!(reader.decoder.weight() < 1 << 20);
        }
    }

    /// The first bytes of a connection are never judged wrongly, and what was said of them is not taken back.
    #[test]
    fn first_bytes_are_judged_as_the_decoder_does((side, stream) in any_stream()) {
        let looks_like = if side == Side::Client { looks_like_client } else { looks_like_server };
        let mut before = Looks::Maybe;
        for length in 0..=stream.len().min(40) {
            let looks = looks_like(&stream[..length]);
            prop_assert!(before == Looks::Maybe || looks == before, "{:?} became {:?} at {}", before, looks, length);
            before = looks;
        }
        if before == Looks::Yes {
            prop_assert!(decoder(side).step(&stream) != Step::Invalid(Invalid::Preface));
        }
    }

    #[test]
    fn evidence_only_grows((side, stream) in any_stream()) {
        let mut before = Some(0);
        for length in 0..=stream.len() {
            let now = frames_at_start(&stream[..length], side);
            let is_right = match (before, now) {
                (Some(before), Some(now)) => now >= before,
                (Some(before), None) => before < PROOF,
                (None, now) => now.is_none(),
            };
            prop_assert!(is_right, "{:?} became {:?} at {}", before, now, length);
            before = now;
        }
    }
}

/// The seeds of the fuzz targets, so that what a fuzzer found stays found without one.
#[test]
fn fuzz_seeds_are_read_the_same_however_cut() {
    let mut seeds = 0;
    for target in ["http2", "hpack"] {
        let folder = format!("{}/tests/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        for seed in std::fs::read_dir(folder).expect("the seeds are part of the source") {
            let stream = std::fs::read(seed.unwrap().path()).unwrap();
            for make in [decoder, Decoder::joined, Decoder::joined_at_frame] {
                for side in [Side::Client, Side::Server] {
                    let whole = told(make(side), [&stream[..]]);
                    assert_eq!(told(make(side), stream.chunks(1)), whole);
                    assert_eq!(told(make(side), stream.chunks(7)), whole);
                }
            }
            let _ = hpack::Decoder::from_start().decode(&stream);
            let _ = hpack::Decoder::joined().decode(&stream);
            seeds += 1;
        }
    }
    assert!(seeds >= 12, "{seeds} seeds");
}
