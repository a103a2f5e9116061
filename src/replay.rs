//! The pipeline on a recording: the same records as when it was live, without root.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use crossbeam_channel::bounded;

use crate::config::Settings;
use crate::conn::NoControl;
use crate::identity::Processes;
use crate::pipeline::Pipeline;
use crate::recording::{Frame, Recording};
use crate::sink::stores::Stores;
use crate::stats::{Memory, Stats};

/// Memory for bodies, as in the default of a live run.
const MEMORY: usize = 256 << 20;

/// How long the stores may take for what is left at the end; those over the network a part of it.
const LAST_WRITES: Duration = Duration::from_secs(60);
const LAST_SENDS: Duration = Duration::from_secs(45);

/// Reads the recording from beginning to end.
pub fn run(file: &Path, settings: Settings) -> Result<()> {
    let mut recording = Recording::open(file)?;
    let (stats, memory) = (Arc::new(Stats::default()), Arc::new(Memory::new(MEMORY)));
    let (closed, stdout_closed) = bounded(1);
    let (outbox, stores) = Stores::start(&settings, memory.clone(), stats.clone(), &closed, LAST_SENDS)?;
    outbox.be_patient();
    let (workers, clock) = (recording.workers, recording.boot_to_wall);
    let pipeline = Pipeline::new(settings, Arc::new(NoControl), stats.clone(), memory, outbox, workers, clock)
        .with_processes(Arc::new(Processes::recorded()));

    let mut end = false;
    while !end && stdout_closed.is_empty() {
        pipeline.pass(0, pipeline.progress.settled(), |pass| {
            end = loop {
                match recording.next_frame() {
                    Ok(Some(Frame::Event(bytes))) => pass.event(bytes),
                    Ok(Some(Frame::Process(process, exec_id))) => pipeline.processes.remember(process, exec_id),
                    Ok(Some(Frame::Reached { worker, time })) => {
                        pipeline.progress.reached(worker, time);
                        break false;
                    }
                    Ok(None) => break true,
                    Err(error) => {
                        log::error!("{error:#}");
                        break true;
                    }
                }
            };
            pass.settle(0, 1, pipeline.progress.settled());
        });
    }
    pipeline.pass(0, u64::MAX, |pass| pipeline.table.finish(&mut pass.env));
    drop(pipeline);
    let late = stores.join(LAST_WRITES);
    if let Some((name, left)) = late.first() {
        bail!("not everything was taken: the {name} store did not end in time, {left} records are lost");
    }
    if let Some(store) = stats.stores().iter().find(|store| store.lost() > 0) {
        bail!("{} records were lost for the {} store", store.lost(), store.name);
    }
    Ok(())
}
