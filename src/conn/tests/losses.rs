//! Losses that no later event shows: the kernel is asked where the last bytes that found no room ended.

use super::*;

/// Makes the kernel say that the responses before position `sent` of that direction, and the requests before `received` of
/// the other, are the last that were lost.
fn lose(bench: &Bench, sent: Option<usize>, received: Option<usize>) {
    let at = |flow: Flow, lost: Option<usize>| lost.map(|lost| BASE[flow as usize].wrapping_add(lost as u32));
    let lost = [at(Flow::Sent, sent), at(Flow::Received, received)];
    bench.control.sockets.lock().unwrap().insert(1, SocketInfo { lost, ..info(Role::Server) });
}

#[test]
fn a_loss_that_was_told_of_is_not_told_of_again_when_positions_have_come_round() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.received(0, GET, 11);
    lose(&bench, Some(OK.len()), None);
    bench.work(|table, env| table.find_losses(0, 1, || 20, env));
    bench.settle(20);
    assert_eq!((bench.exchanges.len(), bench.stats.lost_bytes.get()), (0, OK.len() as u64));
    // Half of all positions later the same one lies ahead.
    for step in 1..6u32 {
        bench.event(Event::Data(Data {
            moved: 1 << 29,
            ..piece(Flow::Sent, OK.len() as u32 + (step - 1) * (1 << 29), b"", 30)
        }));
    }
    bench.received(GET.len() as u32, &Kind::Get.request(1), 40);
    lose(&bench, Some(OK.len()), Some(2 * GET.len()));
    bench.work(|table, env| table.find_losses(0, 1, || 50, env));
    bench.settle(50);
    assert_eq!(bench.stats.lost_bytes.get(), OK.len() as u64);
}

/// A worker's pass takes time. What was lost within it was taken for lost at its beginning, before its last request; that
/// one was then no longer thought to be answered by what was lost, and got the next response that was seen.
#[test]
fn what_the_kernel_tells_of_was_lost_until_it_was_asked_and_not_until_the_pass_began() {
    let mut bench = Bench::new();
    bench.open(10);
    let (up, down) = (GET.len(), Kind::Get.response(0).len());
    bench.received(0, GET, 11);
    bench.sent(0, &Kind::Get.response(0), 12);
    // A pass begins at 20 and asks from 30 on.
    bench.received(up as u32, &Kind::Get.request(1), 25);
    lose(&bench, Some(2 * down), None);
    let lookups = bench.control.lookups.clone();
    let clock = move || 20 + 10 * lookups.load(Ordering::Relaxed);
    bench.work(|table, env| table.find_losses(0, 1, clock, env));
    bench.settle(35);
    // Its request was lost as well.
    bench.sent(2 * down as u32, &Kind::Get.response(2), 40);
    bench.settle(40);
    assert_never_wrong(&bench.exchanges, &[Kind::Get; 3]);
    assert_eq!(bench.exchanges.len(), 2);
    assert_eq!(bench.exchanges[1].missing, [Missing::PairingUncertain]);
}

/// One that was opened and closed while the agent was starting has no event but its last.
#[test]
fn what_was_not_to_be_captured_is_not_lost() {
    for (is_met, lost) in [(true, 300), (false, 0)] {
        let mut bench = Bench::new();
        let final_positions = [BASE[0].wrapping_add(200), BASE[1].wrapping_add(100)];
        let info = Box::new(SocketInfo { is_met, ..info(Role::Client) });
        bench.event(Event::Close { time: 20, info, final_positions });
        bench.settle(20);
        bench.settle(1_000_000_000);
        bench.assert_empty();
        let event = &bench.events[0];
        assert_eq!((event.bytes_sent, event.bytes_received, event.bytes_lost), (200, 100, lost));
    }
}
