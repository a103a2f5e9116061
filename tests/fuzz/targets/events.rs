//! Any frames of a recording: no panic, and nothing is left in the table or in the books at the end.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sidetap::config;
use sidetap::conn::NoControl;
use sidetap::pipeline::Pipeline;
use sidetap::sink::queue::Outbox;
use sidetap::stats::{Memory, Stats};

/// What stands before the frames of a recording.
const HEAD: usize = 24;
const WORKERS: usize = 2;
const FULL: &[u8] = b"version: 2
services: {event_stores: [{type: stdout}], object_stores: [{type: stdout}]}
stacks: {all: {plugins: [{type: http_capture, config: {level: full, max_body_bytes: 4KiB}}]}}
tap: {audit_include_dns: true, http: {stack: all}}
";

fuzz_target!(|recording: &[u8]| {
    let settings = config::parse("fuzz", FULL).expect("the configuration above is right");
    let (stats, memory) = (Arc::new(Stats::default()), Arc::new(Memory::new(1 << 20)));
    let (closed, _) = crossbeam_channel::bounded(1);
    let (outbox, _) =
        Outbox::start(Vec::new(), memory.clone(), stats.clone(), &closed).expect("there is nothing to start");
    let pipeline = Pipeline::new(settings, Arc::new(NoControl), stats, memory.clone(), outbox, WORKERS, 0)
        .with_ids_from(1, WORKERS);
    let mut rest = recording.get(HEAD..).unwrap_or_default();
    while let Some((kind, worker, content)) = next_frame(&mut rest) {
        pipeline.pass(worker, pipeline.progress.settled(), |pass| match (kind, content.try_into()) {
            (2, Ok(time)) => {
                pipeline.progress.reached(worker, u64::from_le_bytes(time));
                let settled = pipeline.progress.settled();
                (0..WORKERS).for_each(|worker| pass.settle(worker, WORKERS, settled));
            }
            (3, Ok(now)) => pipeline.table.tick(worker, WORKERS, u64::from_le_bytes(now), &mut pass.env),
            _ => pass.event(content),
        });
    }
    pipeline.pass(0, u64::MAX, |pass| pipeline.table.finish(&mut pass.env));
    assert!(pipeline.table.is_empty());
    drop(pipeline);
    assert_eq!(memory.held(), 0);
});

/// Its kind, its worker and what it holds; what is cut short is the last one.
fn next_frame<'a>(rest: &mut &'a [u8]) -> Option<(u8, usize, &'a [u8])> {
    let (length, behind) = rest.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    let (frame, behind) = behind.split_at(length.min(behind.len()));
    *rest = behind;
    let (&[kind, worker, _], content) = frame.split_first_chunk()?;
    Some((kind, usize::from(worker) % WORKERS, content))
}
