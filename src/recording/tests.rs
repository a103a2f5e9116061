//! What is recorded is what is read; files that are none, or damaged, are errors and never more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A file that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("sidetap-{}-{name}", std::process::id())))
    }

    fn record(&self, work: impl FnOnce(&mut Recorder)) {
        let (mut recorder, thread) = Recorder::create(&self.0, 5, 2, Arc::default()).unwrap();
        work(&mut recorder);
        drop(recorder);
        thread.join().unwrap().unwrap();
    }

    /// A line a frame, and the error that ended it.
    fn read(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut recording = match Recording::open(&self.0) {
            Ok(recording) => recording,
            Err(error) => return vec![error.to_string()],
        };
        loop {
            lines.push(match recording.next_frame() {
                Ok(Some(Frame::Event(bytes))) => format!("event {bytes:?}"),
                Ok(Some(Frame::Process(process, _))) => format!("process {}", process.pid),
                Ok(Some(Frame::Reached { worker, time })) => format!("reached {worker} {time}"),
                Ok(None) => return lines,
                Err(error) => error.to_string(),
            });
            if lines.last().is_some_and(|line| line.contains("damaged")) {
                return lines;
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn what_was_recorded_is_read_again() {
    let file = Scratch::new("round");
    file.record(|recorder| {
        recorder.event(1, b"no event, kept all the same", &Processes::default());
        recorder.reached(1, u64::MAX, &Processes::default());
    });
    let recording = Recording::open(&file.0).unwrap();
    assert_eq!((recording.workers, recording.boot_to_wall), (2, 5));
    assert_eq!(file.read(), [format!("event {:?}", b"no event, kept all the same"), format!("reached 1 {}", u64::MAX)]);
}

#[test]
fn only_its_owner_may_read_it_even_where_there_was_a_file() {
    let file = Scratch::new("owner");
    fs::write(&file.0, "old").unwrap();
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).unwrap();
    file.record(|_| {});
    assert_eq!(fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn files_that_are_no_recording_say_so() {
    let file = Scratch::new("none");
    for content in [&b""[..], b"sidetap", b"sidetap\x02 of a later version ...."] {
        fs::write(&file.0, content).unwrap();
        assert!(file.read()[0].ends_with("is no recording of this version of sidetap"), "{:?}", file.read());
    }
}

#[test]
fn a_frame_cut_short_ends_the_recording() {
    let file = Scratch::new("cut");
    file.record(|recorder| recorder.reached(0, 5, &Processes::default()));
    let mut bytes = fs::read(&file.0).unwrap();
    bytes.extend([200, 0, 0, 0, EVENT]);
    fs::write(&file.0, bytes).unwrap();
    assert_eq!(file.read(), ["reached 0 5"]);
}

#[test]
fn frames_of_impossible_length_are_damage() {
    let file = Scratch::new("long");
    for length in [0u32, 2, MAX_FRAME as u32 + 1, u32::MAX] {
        file.record(|_| {});
        let mut bytes = fs::read(&file.0).unwrap();
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 16]);
        fs::write(&file.0, bytes).unwrap();
        assert!(file.read()[0].ends_with(&format!("is damaged: a frame of {length} bytes")), "{:?}", file.read());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(damage in vec((24usize..200, any::<u8>()), 0..10), cut in 24usize..200) {
        let file = Scratch::new("damage");
        file.record(|recorder| {
            for time in 0..5 {
                recorder.event(0, &[1; 20], &Processes::default());
                recorder.reached(0, time, &Processes::default());
            }
            recorder.frame(PROCESS, 0, br#"{"pid":1,"exe":"/x","user_id":null,"user_name":null}"#);
        });
        let mut bytes = fs::read(&file.0).unwrap();
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        fs::write(&file.0, bytes).unwrap();
        prop_assert!(file.read().len() < 50);
    }
}

#[test]
fn a_process_is_read_as_it_was_with_its_container_and_the_name_of_its_peer() {
    let container = Container::new("4f0c8a1b2c3d".to_owned());
    let pod = Pod { name: "web-0".to_owned(), namespace: "shop".to_owned(), ..Pod::default() };
    container.learn(Some(Arc::new(ContainerFacts {
        name: "web".to_owned(),
        image: "nginx".to_owned(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        pod: Some(Arc::new(pod)),
        ..ContainerFacts::default()
    })));
    let ip: IpAddr = "10.0.0.2".parse().unwrap();
    let mut names = NameMap::default();
    names.insert(ip, ["backend"]);
    let process = Process {
        pid: 42,
        started: 7,
        exe: "/usr/sbin/haproxy".to_owned(),
        comm: "haproxy".to_owned(),
        user_id: Some(99),
        user_name: Some("haproxy".to_owned()),
        container: Some(Arc::new(container)),
        names: Some(Arc::new(Names { hosts: Some(Arc::new(names)), ..Names::default() })),
    };
    let text = serde_json::to_vec(&ProcessFrame::new(&process, 3, Some(ip))).unwrap();
    let frame: ProcessFrame = serde_json::from_slice(&text).unwrap();
    assert_eq!(frame.exec_id, 3);
    let read = Process::from(frame);
    assert_eq!(read.container_facts(), process.container_facts());
    assert_eq!(read.names.as_ref().and_then(|names| names.of(ip)).as_deref(), Some("backend"));
    assert_eq!(Process { names: None, ..read }, Process { names: None, ..process });
}
