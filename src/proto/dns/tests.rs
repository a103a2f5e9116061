use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A name as its labels.
type Labels = Vec<Vec<u8>>;

#[derive(Debug, Clone)]
enum Written {
    A(u32),
    Aaaa(u128),
    Cname(Labels),
    /// kind, data
    Other(u16, Vec<u8>),
}

/// A writer of messages that compresses every name as far as it can be (RFC 1035 section 4.1.4).
#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    places: HashMap<Labels, usize>,
}

impl Writer {
    fn new(id: u16, flags: u16, questions: u16, answers: u16) -> Writer {
        let mut writer = Writer::default();
        [id, flags, questions, answers, 0, 0].into_iter().for_each(|number| writer.number(number));
        writer
    }

    fn number(&mut self, number: u16) {
        self.out.extend(number.to_be_bytes());
    }

    fn name(&mut self, labels: &[Vec<u8>]) {
        let Some((label, parent)) = labels.split_first() else { return self.out.push(0) };
        if let Some(place) = self.places.get(labels) {
            return self.number(0xc000 | *place as u16);
        }
        if self.out.len() < 0x4000 {
            self.places.insert(labels.to_vec(), self.out.len());
        }
        self.out.push(label.len() as u8);
        self.out.extend(label);
        self.name(parent);
    }

    fn question(&mut self, name: &[Vec<u8>], kind: u16) {
        self.name(name);
        self.number(kind);
        self.number(1);
    }

    fn answer(&mut self, name: &[Vec<u8>], class: u16, ttl: u32, data: &Written) {
        self.name(name);
        self.number(match data {
            Written::A(_) => 1,
            Written::Aaaa(_) => 28,
            Written::Cname(_) => 5,
            Written::Other(kind, _) => *kind,
        });
        self.number(class);
        self.out.extend(ttl.to_be_bytes());
        let length_at = self.out.len();
        self.number(0);
        match data {
            Written::A(bits) => self.out.extend(bits.to_be_bytes()),
            Written::Aaaa(bits) => self.out.extend(bits.to_be_bytes()),
            Written::Cname(name) => self.name(name),
            Written::Other(_, data) => self.out.extend(data),
        }
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..][..2].copy_from_slice(&length.to_be_bytes());
    }
}

fn labels(name: &str) -> Labels {
    name.split('.').map(|label| label.as_bytes().to_vec()).collect()
}

/// `name` asked for, with these answers.
fn response(name: &str, answers: &[(&str, u32, Written)]) -> Vec<u8> {
    let mut writer = Writer::new(7, 0x8180, 1, answers.len() as u16);
    writer.question(&labels(name), A);
    for (name, ttl, data) in answers {
        writer.answer(&labels(name), 1, *ttl, data);
    }
    writer.out
}

/// The answer of a resolver as it was on the wire, an OPT record at its end.
const RECORDED: &[u8] = b"\x5d\x1a\x81\x80\x00\x01\x00\x03\x00\x00\x00\x01\
    \x03WwW\x07example\x03com\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x05\x00\x01\x00\x00\x0e\x10\x00\x07\x04edge\xc0\x10\
    \xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x5d\xb8\xd7\x0e\
    \xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x5d\xb8\xd7\x0f\
    \x00\x00\x29\x02\x00\x00\x00\x00\x00\x00\x00";

#[test]
fn a_response_is_read_to_its_addresses() {
    let cname =
        Answer { name: "www.example.com".to_owned(), ttl: 3600, data: Data::Cname("edge.example.com".to_owned()) };
    let a = |last| Answer {
        name: "edge.example.com".to_owned(),
        ttl: 60,
        data: Data::A(Ipv4Addr::new(93, 184, 215, last)),
    };
    let expected = Message {
        id: 0x5d1a,
        is_response: true,
        rcode: 0,
        truncated: false,
        question: Some(Question { name: "www.example.com".to_owned(), kind: A }),
        answers: vec![cname, a(14), a(15)],
    };
    assert_eq!(message(RECORDED), Ok(expected));
}

#[test]
fn a_query_is_a_question_without_answers() {
    let mut writer = Writer::new(9, 0x0100, 1, 0);
    writer.question(&labels("backend-api-1"), AAAA);
    let query = message(&writer.out).unwrap();
    assert!(!query.is_response);
    assert_eq!(query.question, Some(Question { name: "backend-api-1".to_owned(), kind: 28 }));
    assert_eq!(query.answers, []);
}

#[test]
fn a_name_that_does_not_exist_is_said_by_its_code() {
    let mut writer = Writer::new(9, 0x8183, 1, 0);
    writer.question(&labels("nobody.test"), A);
    let refused = message(&writer.out).unwrap();
    assert_eq!((refused.is_response, refused.rcode), (true, 3));
}

#[test]
fn of_a_message_that_is_cut_short_what_is_whole_is_there() {
    let whole = message(RECORDED).unwrap();
    let ends_with_answers = RECORDED.len() - 11;
    for cut in 12..RECORDED.len() {
        let part = message(&RECORDED[..cut]).unwrap_or_else(|error| panic!("cut at {cut}: {error:?}"));
        assert_eq!(part.truncated, cut < ends_with_answers, "cut at {cut}");
        assert_eq!(part.answers, whole.answers[..part.answers.len()], "cut at {cut}");
    }
    assert_eq!(message(&RECORDED[..ends_with_answers - 1]).unwrap().answers.len(), 2);
    assert_eq!(message(&RECORDED[..11]), Err(Invalid::Header));
}

#[test]
fn the_sender_may_say_that_it_left_something_out() {
    let mut bytes = response("a.test", &[]);
    bytes[2] |= 0x02;
    assert!(message(&bytes).unwrap().truncated);
}

#[test]
fn other_kinds_and_classes_are_stepped_over() {
    let mut writer = Writer::new(7, 0x8180, 1, 4);
    let name = labels("a.test");
    writer.question(&name, A);
    writer.answer(&name, 1, 60, &Written::Other(16, b"\x04text".to_vec()));
    writer.answer(&[], 1232, 0, &Written::Other(41, Vec::new()));
    writer.answer(&name, 3, 60, &Written::A(1));
    writer.answer(&name, 1, 60, &Written::A(0x0a00_0001));
    let answers = message(&writer.out).unwrap().answers;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].data, Data::A(Ipv4Addr::new(10, 0, 0, 1)));
}

#[test]
fn a_ttl_with_the_highest_bit_is_none() {
    let ttl = |ttl| message(&response("a.test", &[("a.test", ttl, Written::A(1))])).unwrap().answers[0].ttl;
    assert_eq!(ttl(0x7fff_ffff), 0x7fff_ffff);
    assert_eq!(ttl(0x8000_0000), 0);
}

#[test]
fn odd_bytes_of_a_name_are_escaped() {
    let mut writer = Writer::new(7, 0x0100, 1, 0);
    writer.question(&[b"A.b\\c".to_vec(), b"\x00 \xff_".to_vec()], A);
    let name = message(&writer.out).unwrap().question.unwrap().name;
    assert_eq!(name, r"a\.b\\c.\000\032\255_");
}

#[test]
fn malformed_messages_say_which_part_is_wrong() {
    let with = |at: usize, bytes: &[u8]| {
        let mut message = RECORDED.to_vec();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    assert_eq!(message(&with(2, &[0x28])), Err(Invalid::Header), "an update has other sections");
    assert_eq!(message(&with(5, &[2])), Err(Invalid::Question), "two questions");
    assert_eq!(message(&with(12, &[0x43])), Err(Invalid::Question), "no such kind of label");
    assert_eq!(message(&with(12, &[0xc0, 12])), Err(Invalid::Question), "a name that points to itself");
    assert_eq!(message(&with(12, &[0xc0, 40])), Err(Invalid::Question), "a name that points ahead");
    assert_eq!(message(&with(33, &[0xff, 0xff])), Err(Invalid::Answer), "a name that points beyond the end");
    assert_eq!(message(&with(33 + 11, &[6])), Err(Invalid::Answer), "a name longer than its record");
    assert_eq!(message(&with(33 + 11, &[8])), Err(Invalid::Answer), "a name shorter than its record");
    assert_eq!(message(&with(52 + 11, &[3])), Err(Invalid::Answer), "an address of three bytes");
}

#[test]
fn a_name_has_255_octets_at_most() {
    let asked = |last: usize| {
        let mut writer = Writer::new(7, 0x0100, 1, 0);
        writer.question(&[vec![b'a'; 63], vec![b'b'; 63], vec![b'c'; 63], vec![b'd'; last]], A);
        message(&writer.out)
    };
    assert_eq!(asked(61).unwrap().question.unwrap().name.len(), 253);
    assert_eq!(asked(62), Err(Invalid::Question));
}

/// A record of another kind whose data are so many pointers, each to the one before it, and then as many records as fit
/// into 64 KiB whose names start at the last pointer.
fn chained(pointers: u16) -> Vec<u8> {
    let mut bytes = Writer::new(7, 0x8180, 0, u16::MAX).out;
    bytes.extend([0, 0, 16, 0, 1, 0, 0, 0, 0]);
    bytes.extend((1 + 2 * pointers).to_be_bytes());
    let mut last = bytes.len() as u16;
    bytes.push(0);
    for _ in 0..pointers {
        let here = bytes.len() as u16;
        bytes.extend((0xc000 | last).to_be_bytes());
        last = here;
    }
    while bytes.len() < 65_500 {
        bytes.extend((0xc000 | last).to_be_bytes());
        bytes.extend([0, 16, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

#[test]
fn chains_of_pointers_are_followed_a_bounded_way() {
    let longest = message(&chained(MAX_POINTERS as u16 - 1)).unwrap();
    assert_eq!((longest.answers.len(), longest.truncated), (0, true));
    assert_eq!(message(&chained(MAX_POINTERS as u16)), Err(Invalid::Answer));
    assert_eq!(message(&chained(8000)), Err(Invalid::Answer));
}

#[test]
fn a_bounded_number_of_answers_is_looked_at() {
    let answers: Vec<_> = (0..1000).map(|number| ("a.test", 60, Written::A(number))).collect();
    let message = message(&response("a.test", &answers)).unwrap();
    assert_eq!(message.answers.len(), MAX_ANSWERS);
    assert!(message.truncated);
}

#[test]
fn a_stream_holds_no_more_than_one_message() {
    let mut frames = Frames::default();
    let mut lengths = Vec::new();
    let mut stream = vec![0xff, 0xff];
    stream.extend([0; 65_535]);
    stream.extend([0, 0, 0, 1, 9, 0, 5]);
    for piece in stream.chunks(1000) {
        frames.push(piece, |message| lengths.push(message.len()));
    }
    assert_eq!(lengths, [65_535, 0, 1]);
}

fn name() -> impl Strategy<Value = Labels> {
    // Few labels, so that names have ends in common.
    let label = prop_oneof![
        prop::sample::select(vec![&b"web"[..], b"Example", b"com", b"a.b", b"\\", b"\xff\x00"])
            .prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 1..=20),
    ];
    vec(label, 0..=6)
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        any::<u32>().prop_map(Written::A),
        any::<u128>().prop_map(Written::Aaaa),
        name().prop_map(Written::Cname),
        (100..200_u16, vec(any::<u8>(), 0..30)).prop_map(|(kind, data)| Written::Other(kind, data)),
    ]
}

fn shown(labels: &[Vec<u8>]) -> String {
    let shown = |label: &Vec<u8>| {
        let byte = |&byte: &u8| match char::from(byte.to_ascii_lowercase()) {
            mark @ ('.' | '\\') => format!("\\{mark}"),
            letter if letter.is_ascii_graphic() => letter.to_string(),
            _ => format!("\\{byte:03}"),
        };
        label.iter().map(byte).collect::<String>()
    };
    labels.iter().map(shown).collect::<Vec<_>>().join(".")
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        id: u16, asked in name(), kind: u16, answers in vec((name(), 0..1_u32 << 31, written()), 0..40),
    ) {
        let mut writer = Writer::new(id, 0x8180, 1, answers.len() as u16);
        writer.question(&asked, kind);
        answers.iter().for_each(|(name, ttl, data)| writer.answer(name, 1, *ttl, data));
        let expected = answers.iter().filter_map(|(name, ttl, data)| {
            let data = match data {
                Written::A(bits) => Data::A((*bits).into()),
                Written::Aaaa(bits) => Data::Aaaa((*bits).into()),
                Written::Cname(name) => Data::Cname(shown(name)),
                Written::Other(..) => return None,
            };
            Some(Answer { name: shown(name), ttl: *ttl, data })
        });
        let read = message(&writer.out).unwrap();
        prop_assert_eq!(read.answers, expected.collect::<Vec<_>>());
        prop_assert_eq!(read.question, Some(Question { name: shown(&asked), kind }));
        prop_assert_eq!((read.id, read.is_response, read.truncated), (id, true, false));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = message(&bytes);
    }

    #[test]
    fn no_change_of_a_message_panics(changes in vec((0..RECORDED.len(), any::<u8>()), 1..8), cut in 0..=RECORDED.len()) {
        let mut bytes = RECORDED.to_vec();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        if let Ok(message) = message(&bytes[..cut]) {
            prop_assert!(message.answers.iter().all(|answer| answer.name.is_ascii()));
        }
    }

    #[test]
    fn any_cut_of_a_stream_gives_the_same_messages(
        messages in vec(vec(any::<u8>(), 0..300), 0..6), cuts in vec(1..400_usize, 0..40), rest in vec(any::<u8>(), 0..2),
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            stream.extend((message.len() as u16).to_be_bytes());
            stream.extend(message);
        }
        stream.extend(rest);
        let mut frames = Frames::default();
        let mut got = Vec::new();
        let mut left = &stream[..];
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, later) = left.split_at(cut.min(left.len()));
            frames.push(piece, |message| got.push(message.to_vec()));
            left = later;
        }
        prop_assert_eq!(got, messages);
    }
}
