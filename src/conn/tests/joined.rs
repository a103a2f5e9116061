//! Connections that were open before anybody looked: what the table makes of the first that is seen of them.

use super::*;

fn joined() -> Bench {
    let mut bench = Bench::new();
    let older = SocketInfo { base: None, opened: None, ..info(Role::Server) };
    bench.event(Event::Open(Box::new(Opened { time: 10, info: older })));
    bench
}

/// What was kept of a response was taken up, and the next response with it, ahead of its request.
#[test]
fn a_request_that_waited_for_a_response_goes_before_the_next_response() {
    let mut bench = joined();
    let to_head = b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 500\r\n\r\n";
    let asks_to_leave = b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    bench.sent(0, to_head, 11);
    bench.received(0, asks_to_leave, 12);
    bench.sent(to_head.len() as u32, OK, 13);
    bench.received(asks_to_leave.len() as u32, GET, 14);
    bench.sent((to_head.len() + OK.len()) as u32, OK, 15);
    // The first response ends with the second's first byte, which then has to wait for its request.
    bench.settle(11);
    bench.settle(20);
    let missing: Vec<_> = bench.exchanges.iter().map(|exchange| exchange.missing.clone()).collect();
    assert_eq!(missing, [vec![Missing::Request], vec![], vec![]]);
}

/// Its last bytes were lost before its first ones had settled: it was taken to be whole.
#[test]
fn a_response_until_close_whose_end_was_lost_says_so() {
    let mut bench = joined();
    let response = b"HTTP/1.1 200 OK\r\nX-Id: 0\r\n\r\nbody";
    bench.received(0, GET, 11);
    bench.sent(0, response, 12);
    bench.close(response.len() as u32 + 9, GET.len() as u32, 13);
    assert_eq!(bench.exchanges[0].missing, [Missing::ResponseBodyLost(9)]);
    bench.assert_empty();
}
