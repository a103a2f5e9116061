//! Whatever order events come in through several CPUs, a socket's process is the one it was, or is not known yet.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const START: u64 = 5_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn owner(pid: u32, started: u64, exec_id: u32) -> Owner {
    Owner { pid, started, exec_id, user_id: Some(0) }
}

fn info(owner: Owner, exe: &str) -> ProcessInfo {
    ProcessInfo { owner, exe: exe.to_owned(), mount_namespace: 1, ..ProcessInfo::default() }
}

/// As in a replay: what is not known may come, and nobody is asked.
fn known(infos: &[(Owner, &str)]) -> Processes {
    let processes = Processes::recorded();
    for (owner, exe) in infos {
        processes.learn(&info(*owner, exe), owner.started, true);
    }
    processes
}

fn exe(processes: &Processes, owner: Owner) -> Option<String> {
    processes.find(&owner, START, true).map(|process| process.exe.clone())
}

#[test]
fn a_process_is_each_program_in_its_time() {
    let (forked, executed) = (owner(7, START, 1), owner(7, START, 2));
    for order in [[(forked, "/bin/sh"), (executed, "/bin/curl")], [(executed, "/bin/curl"), (forked, "/bin/sh")]] {
        let processes = known(&order);
        assert_eq!(exe(&processes, forked).as_deref(), Some("/bin/sh"));
        assert_eq!(exe(&processes, executed).as_deref(), Some("/bin/curl"));
        assert_eq!(exe(&processes, owner(7, START, 3)), None, "an exec that was not heard of yet");
        let running: Vec<_> = processes.running().iter().map(|(_, process)| process.exe.clone()).collect();
        assert_eq!(running, ["/bin/curl"]);
    }
}

/// As of a short one in a fresh mount namespace: it has ended before its files could be read.
#[test]
fn a_process_that_was_told_of_is_not_looked_for() {
    let (processes, questions) = Processes::with_questions(Arc::default());
    let curl = owner(7, START, 2);
    processes.learn(&info(curl, "/usr/bin/curl"), START, true);
    assert!(matches!(questions.try_recv(), Ok(Question::Files { .. })));
    assert_eq!(exe(&processes, curl), None, "its files are awaited");
    processes.look_for(&curl, START);
    assert!(questions.is_empty());
    // It was asked for before its exec came through another CPU's buffer.
    processes.answer(&curl, None, START + SECOND);
    assert_eq!(processes.guess(&curl).exe, "/usr/bin/curl");
}

#[test]
fn a_reused_id_is_another_process() {
    let (first, second) = (owner(7, START, 1), owner(7, START + SECOND, 1));
    let processes = known(&[(second, "/bin/b"), (first, "/bin/a")]);
    assert_eq!(exe(&processes, first).as_deref(), Some("/bin/a"));
    assert_eq!(exe(&processes, second).as_deref(), Some("/bin/b"));
    assert_eq!(exe(&processes, owner(7, START + 2 * SECOND, 1)), None);
    processes.exited(7, second.started, START + SECOND);
    assert!(processes.running().is_empty());
}

#[test]
fn what_proc_tells_of_a_process_waits_for_an_exec_on_its_way() {
    let processes = known(&[(owner(7, START, 0), "/bin/sh")]);
    let (forked, executed) = (owner(7, START, 1), owner(7, START, 2));
    assert_eq!(processes.find(&executed, START, false), None);
    processes.learn(&info(executed, "/bin/curl"), START, true);
    assert_eq!(processes.find(&executed, START, false).unwrap().exe, "/bin/curl");
    assert_eq!(processes.find(&forked, START, false), None);
    assert_eq!(processes.find(&forked, START, true).unwrap().exe, "/bin/sh");
    assert_eq!(processes.find(&forked, START, false).unwrap().exe, "/bin/sh", "what was confirmed once");
}

#[test]
fn a_start_from_proc_is_that_of_the_kernel_rounded() {
    let processes = known(&[(owner(7, START, 0), "/bin/a")]);
    assert_eq!(exe(&processes, owner(7, START + TICK - 1, 4)).as_deref(), Some("/bin/a"));
    assert_eq!(exe(&processes, owner(7, START + TICK, 4)), None);
    assert_eq!(exe(&processes, Owner { pid: 7, ..Owner::default() }).as_deref(), Some("/bin/a"));
}

#[test]
fn what_has_ended_is_remembered_for_a_while() {
    let curl = owner(7, START, 2);
    for exit_first in [false, true] {
        let processes = known(&[]);
        if exit_first {
            processes.exited(7, START, START + 5);
        }
        processes.learn(&info(curl, "/bin/curl"), START, true);
        if !exit_first {
            processes.exited(7, START, START + 5);
        }
        assert!(processes.running().is_empty());
        processes.exited(8, START, START + KEPT_FOR - 1);
        assert_eq!(exe(&processes, curl).as_deref(), Some("/bin/curl"));
        processes.exited(9, START, START + KEPT_FOR + 5);
        assert_eq!(exe(&processes, curl), None);
        assert_eq!(processes.read().lives, 0);
    }
}

#[test]
fn those_that_ended_give_way_to_those_that_run() {
    let processes = known(&[]);
    let count = MAX_LIVES as u32 + 100;
    for pid in 1..=count {
        processes.learn(&info(owner(pid, START, 1), "/x"), START, true);
        if pid <= 100 {
            processes.exited(pid, START, START);
        }
    }
    assert_eq!(processes.read().lives, MAX_LIVES);
    assert_eq!((exe(&processes, owner(100, START, 1)), exe(&processes, owner(101, START, 1)).is_some()), (None, true));
    processes.learn(&info(owner(count + 1, START, 1), "/x"), START, true);
    assert_eq!(exe(&processes, owner(count + 1, START, 1)), None, "no room while all run");
}

#[test]
fn without_anybody_to_ask_what_is_not_known_is_its_id() {
    let processes = Processes::default();
    let process = processes.find(&owner(7, START, 1), 0, true).expect("an answer at once");
    assert_eq!((process.pid, process.exe.as_str()), (7, ""));
}

/// The kernel gives the number of a namespace that has ended to the next.
#[test]
fn the_files_of_an_ended_mount_namespace_are_not_those_of_the_next() {
    let (processes, questions) = Processes::with_questions(Arc::default());
    let within = |owner: Owner, namespace: u32| ProcessInfo { mount_namespace: namespace, ..info(owner, "/bin/x") };
    for (pid, time) in [(7, START), (8, START + 30 * SECOND)] {
        processes.learn(&within(owner(pid, time, 1), 1), time, false);
        processes.learn(&within(owner(pid, time, 2), 5), time, true);
        let asked = questions.try_iter().filter(|asked| matches!(asked, Question::Files { mount_namespace: 5, .. }));
        assert_eq!(asked.count(), 1, "of process {pid}");
        processes.begin_files(5);
        processes.learn_files(5, Arc::default(), 0..=time, &HashSet::new());
        // Further programs in it do without, once it has settled.
        processes.learn(&within(owner(pid, time, 3), 5), time + 11 * SECOND, true);
        assert!(questions.is_empty());
        processes.exited(pid, time, time + 12 * SECOND);
    }
}

#[test]
fn a_process_that_no_event_told_of_is_asked_for_once() {
    let (processes, questions) = Processes::with_questions(Arc::default());
    let me = owner(7, START, 1);
    assert_eq!(processes.find(&me, START, true), None);
    processes.look_for(&me, START);
    processes.look_for(&me, START);
    assert_eq!(questions.try_iter().collect::<Vec<_>>(), [Question::Process(me)]);
    // It is gone, and its id another's.
    processes.answer(&me, Some(info(owner(7, START + SECOND, 0), "/bin/other")), START);
    assert_eq!(processes.find(&me, START, true).map(|process| process.exe.clone()).as_deref(), Some(""));
}

#[test]
fn names_and_users_come_with_the_files_of_the_mount_namespace() {
    let (processes, questions) = Processes::with_questions(Arc::default());
    let me = std::process::id();
    let owner = owner(me, START, 1);
    let namespace = super::super::proc::namespace(me, "mnt").expect("every process has one");
    processes.learn(&ProcessInfo { mount_namespace: namespace, ..info(owner, "/bin/a") }, START, true);
    processes.learn(
        &ProcessInfo { mount_namespace: namespace, ..info(Owner { pid: 1, ..owner }, "/bin/b") },
        START,
        true,
    );
    let question = Question::Files { mount_namespace: namespace, pid: me };
    assert_eq!(questions.try_iter().collect::<Vec<_>>(), [question]);
    assert_eq!(processes.find(&owner, START, true), None, "its names are being read");
    let files = Files::read(me, namespace, None).expect("own files can be read");
    files.read_at(START);
    processes.begin_files(namespace);
    processes.learn_files(namespace, files, 0..=START, &HashSet::new());
    assert_eq!(processes.find(&owner, START, true).unwrap().user_name.as_deref(), Some("root"));
    let nobody = Owner { user_id: Some(4_000_000), ..owner };
    let process = processes.find(&nobody, START, true).unwrap();
    assert_eq!((process.user_id, process.user_name.clone()), (Some(4_000_000), None), "it has changed its user");
    assert!(questions.is_empty());
    processes.find(&nobody, START + 11 * SECOND, true);
    assert_eq!(questions.try_iter().collect::<Vec<_>>(), [question], "the files may have changed");
}

#[test]
fn a_program_has_nothing_of_a_later_namespace_with_the_number_of_its_own() {
    let (processes, _questions) = Processes::with_questions(Arc::default());
    for (pid, time) in [(7, START), (8, START + 20)] {
        processes.learn(&info(owner(pid, START, 1), "/x"), time, true);
    }
    processes.exited(7, START, START + 10);
    assert_eq!(processes.in_mount_namespace(1, 7), [(7, 0), (8, START + 20)]);
    processes.learn_files(1, Arc::default(), START + 20..=START + 30, &HashSet::new());
    assert_eq!(exe(&processes, owner(7, START, 1)), None, "nobody can know any more");
    assert!(exe(&processes, owner(8, START, 1)).is_some());
    // The end of one is heard of late.
    processes.learn(&info(owner(9, START, 1), "/x"), START + 15, true);
    assert_eq!(processes.older_than(1, START + 20), [9]);
    processes.learn_files(1, Arc::default(), START + 20..=START + 30, &HashSet::from([9]));
    assert_eq!(exe(&processes, owner(9, START, 1)), None);
    // Read through one that was there before it ended.
    processes.learn_files(1, Arc::default(), START + 9..=START + 40, &HashSet::new());
    assert!(exe(&processes, owner(7, START, 1)).is_some());
}

#[test]
fn files_of_a_namespace_that_is_being_furnished_are_read_for_each_exec() {
    let (processes, questions) = Processes::with_questions(Arc::default());
    let question = |pid| Question::Files { mount_namespace: 1, pid };
    let asked = || questions.try_iter().collect::<Vec<_>>();
    let tell = |pid, exec_id, time, is_exec| {
        processes.learn(&info(owner(pid, START, exec_id), "/x"), time, is_exec);
    };
    tell(7, 1, START, false);
    assert_eq!(asked(), [], "a fork on its way into the namespace");
    tell(7, 2, START + 1, true);
    assert_eq!(asked(), [question(7)]);
    processes.begin_files(1);
    // Before what is being read now has been read: it may be older than this.
    tell(8, 2, START + 3, true);
    assert_eq!(asked(), [question(8)]);
    let files = || {
        let files = Files::default();
        files.read_at(START);
        Arc::new(files)
    };
    processes.learn_files(1, files(), 0..=START + 2, &HashSet::new());
    assert_eq!(exe(&processes, owner(7, START, 2)).as_deref(), Some("/x"));
    assert_eq!(exe(&processes, owner(8, START, 2)), None);
    processes.begin_files(1);
    processes.learn_files(1, files(), 0..=START + 4, &HashSet::new());
    assert!(exe(&processes, owner(8, START, 2)).is_some());
    tell(9, 2, START + 1 + SETTLES_WITHIN, true);
    assert_eq!(asked(), [], "by now it is furnished");
    assert!(exe(&processes, owner(9, START, 2)).is_some());
    let cgroups = format!("0::/system.slice/docker-{}.scope\n", "4f".repeat(32));
    let other = ProcessInfo { cgroups, ..info(owner(10, START, 2), "/y") };
    processes.learn(&other, START + 2 + SETTLES_WITHIN, true);
    assert_eq!(asked(), [question(10)], "its number is another's now");
    for pid in [7, 8, 9, 10] {
        processes.exited(pid, START, START + 5);
    }
    processes.begin_files(1);
    processes.forget_namespaces();
    assert!(!processes.has_files(1));
}

#[test]
fn a_full_queue_leaves_processes_without_names_and_says_so() {
    let (processes, _questions) = Processes::with_questions(Arc::default());
    for pid in 1..=QUEUE as u32 + 3 {
        processes.look_for(&owner(pid, START, 1), START);
    }
    assert!(processes.stats.lost_identities.get() >= 3, "{}", processes.stats.lost_identities.get());
    let last = processes.find(&owner(QUEUE as u32 + 3, START, 1), START, true);
    assert_eq!(last.map(|process| process.pid), Some(QUEUE as u32 + 3));
}

#[derive(Debug, Clone)]
enum Told {
    Program(Owner),
    Exit(u32, u64),
}

proptest! {
    /// Lives of a few ids, each with a start, a fork and some execs, told in any order: each is found as itself.
    #[test]
    fn in_any_order(
        execs in vec((1u32..4, 0u64..4, 1u32..4), 1..8), order in any::<prop::sample::Index>(), ends in any::<bool>(),
    ) {
        let mut told = Vec::new();
        for (pid, number, count) in &execs {
            let started = START + number * SECOND;
            told.extend((1..=*count).map(|exec_id| Told::Program(owner(*pid, started, exec_id))));
            if ends {
                told.push(Told::Exit(*pid, started));
            }
        }
        let cut = order.index(told.len());
        told.rotate_left(cut);
        told.reverse();
        let processes = known(&[]);
        for event in &told {
            match event {
                Told::Program(owner) => {
                    let exe = format!("/{}/{}/{}", owner.pid, owner.started, owner.exec_id);
                    processes.learn(&info(*owner, &exe), START, true);
                }
                Told::Exit(pid, started) => processes.exited(*pid, *started, START),
            }
        }
        for event in &told {
            if let Told::Program(owner) = event {
                let expected = format!("/{}/{}/{}", owner.pid, owner.started, owner.exec_id);
                prop_assert_eq!(exe(&processes, *owner), Some(expected));
            }
        }
        let running = processes.running();
        let mut pids: Vec<u32> = running.iter().map(|(owner, _)| owner.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        prop_assert_eq!(pids.len(), running.len(), "one program at a time");
        prop_assert!(!ends || running.is_empty());
    }
}
