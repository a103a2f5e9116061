//! A worker: one thread per CPU, pinned, that carries that CPU's events all the way to the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bpf::{self, Reader};
use crate::pipeline::Pipeline;
use crate::recording::Recorder;

/// Between two looks at the buffer: the first while there is much to read, up to the second while there is less, since a
/// look costs a worker that finds its caches cold as much as dozens of transactions. The buffer's watermark ends the wait
/// early. All workers look at the multiples of their pauses, each of which is twice the one before: while one of them runs,
/// what is watched on its CPU stands still, and with it soon all that waits for that elsewhere. So they had better run at
/// the same time.
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(80);

/// Events a second of one CPU that are much.
const MANY: u64 = 25_000;

/// Ahead of ordinary processes, behind real-time ones.
const NICE: i32 = -10;

/// How often what waits for time to settle it is looked at, in ns.
const SETTLE_EVERY: u64 = 5_000_000;

/// How long one pass reads before it sends what it has and lets time settle things.
const PATIENCE: Duration = Duration::from_millis(20);

const SECOND: u64 = 1_000_000_000;

/// How long what is still in the buffer is read after the stop, in ns: traffic may well go on filling it.
const LAST_READ: u64 = 2 * SECOND;

/// Reads until `stop` is set, and what is in the buffer after that.
pub fn run(
    index: usize,
    workers: usize,
    mut reader: Reader,
    pipeline: &Pipeline,
    mut recorder: Option<Recorder>,
    stop: &Arc<AtomicBool>,
) {
    settle_in(reader.cpu);
    let mut pause = IDLE;
    let (mut next_settle, mut lost) = (0, 0);
    let mut next_tick = bpf::boot_time() + SECOND;
    let mut deadline = None;
    // Since the buffer was last found drained.
    let (mut events, mut since) = (0u64, bpf::boot_time());
    loop {
        let now = bpf::boot_time();
        if stop.load(Ordering::Acquire) {
            deadline.get_or_insert(now + LAST_READ);
        }
        let mut is_drained = true;
        pipeline.pass(index, pipeline.progress.settled(), |pass| {
            let drained = reader.drain(PATIENCE, |bytes| {
                events += 1;
                if let Some(recorder) = &mut recorder {
                    recorder.event(index, bytes, &pipeline.processes);
                }
                pass.event(bytes);
            });
            is_drained = drained.unwrap_or_else(|error| {
                log::error!("{error:#}");
                true
            });
            if is_drained {
                // Everything that was in the buffer before `now` has been taken in.
                pipeline.progress.reached(index, now);
                if let Some(recorder) = &mut recorder {
                    recorder.reached(index, now, &pipeline.processes);
                }
            }
            if now >= next_settle {
                next_settle = now + SETTLE_EVERY;
                pass.settle(index, workers, pipeline.progress.settled());
            }
            if now >= next_tick {
                next_tick = now + SECOND;
                pipeline.follow_clock(bpf::boot_to_wall());
                pipeline.table.tick(index, workers, now, &mut pass.env);
                let lost_now = pipeline.control.lost_events();
                if std::mem::replace(&mut lost, lost_now) != lost_now {
                    pipeline.table.find_losses(index, workers, bpf::boot_time, &mut pass.env);
                }
                bpf::give_back_memory();
            }
        });
        if deadline.is_some_and(|deadline| is_drained || now > deadline) {
            return;
        }
        if !is_drained {
            continue;
        }
        let rate = events.saturating_mul(SECOND) / now.saturating_sub(since).max(1);
        pause = if rate >= MANY { BUSY } else { (pause * 2).min(IDLE) };
        (events, since) = (0, now);
        reader.wait(until_multiple(pause, bpf::boot_time()));
    }
}

/// From `now`, in ns, to the next multiple of `step`.
fn until_multiple(step: Duration, now: u64) -> Duration {
    let step = step.as_nanos() as u64;
    Duration::from_nanos(step - now % step)
}

/// On its CPU the worker finds the events in that CPU's cache. It sleeps nearly always, and what it reads is overwritten
/// by nobody but lost when it comes too late: so it does not queue behind those it watches. Failing either, it works.
fn settle_in(cpu: usize) {
    if let Err(error) = bpf::pin_to_cpu(cpu) {
        log::debug!("cannot pin the worker of CPU {cpu}: {error}");
    }
    if let Err(error) = bpf::set_nice(NICE) {
        log::debug!("cannot raise the priority of the worker of CPU {cpu}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_wake_at_the_multiples_whenever_they_went_to_sleep() {
        let wakes = |now: u64| now + until_multiple(BUSY, now).as_nanos() as u64;
        assert_eq!(
            (wakes(0), wakes(1), wakes(19_999_999), wakes(20_000_000)),
            (20_000_000, 20_000_000, 20_000_000, 40_000_000)
        );
    }
}
