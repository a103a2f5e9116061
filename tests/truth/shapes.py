"""Shapes of traffic: what clients do in one round. A shape can be run again on the connections of its last round."""

import threading
import time
from collections.abc import Callable

from .wire import Connection
from .world import World

Shape = Callable[[World], None]


def keep_alive(world: World) -> None:
    """Three connections, ten requests each."""
    for number in range(30):
        world.ask("GET", _path(world, number), connection=world.connection(number % 3))


def close(world: World) -> None:
    """Every request on a connection of its own, ended by either side."""
    for number in range(20):
        with world.fresh() as connection:
            headers = ("Connection: close",) if number % 2 else ()
            world.ask("GET", _path(world, number), connection=connection, headers=headers)


def pipelined(deep: int) -> Shape:
    """So many requests at once, thrice."""

    def shape(world: World) -> None:
        for _ in range(3):
            connection = world.connection()
            requests = [world.request("GET", _path(world, number), connection) for number in range(deep)]
            for made, _, _ in requests[1:]:
                made.is_behind = True
            connection.send(b"".join(head for _, head, _ in requests))
            for made, _, _ in requests:
                world.answer(connection, made)

    return shape


def chunked_up(world: World) -> None:
    for size, chunk in [(0, 10), (1, 1), (1000, 7), (60_000, 4096), (300_000, 100_000)]:
        world.ask("POST", "/mirror", world.upload(size), chunk=chunk)
        world.ask("POST", "/take", world.upload(size), chunk=chunk)


def chunked_down(world: World) -> None:
    for size in (0, 1, 6999, 7000, 50_000, 400_000):
        world.ask("GET", f"/chunked/{size}")


def until_close(world: World) -> None:
    for size in (0, 1, 30_000, 200_000):
        with world.fresh() as connection:
            world.ask("GET", f"/close/{size}", connection=connection)


def head(world: World) -> None:
    for number in range(10):
        world.ask("HEAD", _path(world, number))
        world.ask("GET", _path(world, number))


def bodiless(world: World) -> None:
    for status in (304, 204, 304):
        world.ask("GET", f"/none/{status}")
        world.ask("GET", _path(world, status))


def statuses(world: World) -> None:
    for status in (404, 500, 404):
        world.ask("GET", f"/fail/{status}")


def continued(world: World) -> None:
    """Expect: 100-continue; the body follows once it came, or without waiting for it."""
    for number, size in enumerate((10, 50_000, 10)):
        connection = world.connection()
        made, first, data = world.request(
            "POST", "/mirror", connection, world.upload(size), headers=("Expect: 100-continue",)
        )
        connection.send(first)
        if number < 2:
            interim = connection._head()[0]
            assert interim == 100, interim
            made.is_continued = True
        connection.send(data)
        world.answer(connection, made)


def upgrade(world: World) -> None:
    """WebSocket: 101, then bytes that are no HTTP in both directions."""
    with world.fresh() as connection:
        world.ask("GET", _path(world, 1), connection=connection)
        headers = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
        made = world.ask("GET", "/upgrade", connection=connection, headers=headers)
        assert made.status == 101, made
        for size in (5, 126, 70_000):
            data = b"GET /not-http HTTP/1.1\r\n\r\n" + world.upload(size)
            connection.send(data)
            assert connection.exactly(len(data)) == data


def slow_bodies(world: World) -> None:
    world.ask("GET", "/slow/40000")
    data = world.upload(40_000)
    world.ask("POST", "/take", data, piece=10_100, pause=0.05)
    with world.fresh(receive_buffer=4096) as connection:
        world.ask("GET", "/bytes/600000", connection=connection, piece=50_000, pause=0.01)


def single_bytes(world: World) -> None:
    """Requests and responses in writes of one byte each."""
    world.ask("GET", "/drip/300", piece=1)
    world.ask("POST", "/mirror", world.upload(50), piece=1)
    world.ask("POST", "/mirror", world.upload(50), chunk=3, piece=1)


def sizes(world: World) -> None:
    for size in world.setting.sizes:
        path = f"/file/{size}" if world.setting.server == "nginx" else f"/bytes/{size}"
        world.ask("GET", path)


def uploads(world: World) -> None:
    for size in world.setting.sizes:
        world.ask("PUT", "/take", world.upload(size))


def curled(world: World) -> None:
    for number in range(5):
        world.curl("GET", _path(world, number))
    world.curl("HEAD", _path(world, 6))
    if world.setting.server != "nginx":
        world.curl("POST", "/mirror", world.upload(2000))
        world.curl("POST", "/mirror", world.upload(1_200_000), "-H", "Expect: 100-continue")
        world.curl("POST", "/mirror", world.upload(90_000), "-H", "Transfer-Encoding: chunked")
        world.curl("GET", "/chunked/100000")


def aborted(world: World) -> None:
    """Clients that go: with the response half read, while they wait for it, and with their own body half sent."""
    with world.fresh(receive_buffer=4096) as connection:
        made, first, _ = world.request("GET", "/bytes/8000000", connection)
        connection.send(first)
        connection.exactly(20_000)
        connection.reset()
    with world.fresh() as connection:
        made, first, _ = world.request("GET", "/hang", connection)
        connection.send(first)
        time.sleep(0.1)
        connection.reset()
    with world.fresh() as connection:
        made, first, data = world.request("POST", "/take", connection, world.upload(30_000))
        connection.clean = False
        connection.send(first + data[:10_000])
        time.sleep(0.1)
        connection.close()
    world.ask("GET", _path(world, 1))


def server_times_out(world: World) -> None:
    """504 by HAProxy."""
    assert world.ask("GET", "/hang").status == 504
    world.ask("GET", _path(world, 1))


def client_times_out(world: World) -> None:
    """408 by HAProxy: the request's head, then its body, stays half."""
    with world.fresh() as connection:
        made, first, _ = world.request("GET", "/bytes/10", connection)
        world.made.remove(made)
        connection.clean = False
        connection.send(first[:-2])
        world.answer(connection, made)
        assert made.status == 408, made
    with world.fresh() as connection:
        made, first, data = world.request("POST", "/take", connection, world.upload(1000))
        connection.send(first + data[:500])
        world.answer(connection, made)
    world.ask("GET", _path(world, 1))


def down(world: World) -> None:
    """503 by HAProxy: no server takes the connection."""
    for _ in range(3):
        made = world.ask("GET", "/bytes/100", connection=world.connection())
        assert made.status == 503, made


def denied(world: World) -> None:
    """Answers of HAProxy's own: a 403, a redirect, and a status page."""
    for path in ("/deny", "/redirect", "/own"):
        world.ask("GET", path)
        world.ask("GET", _path(world, 1))


def retried(world: World) -> None:
    """The server goes without an answer once in a while; HAProxy asks again."""
    for number in range(4):
        world.ask("GET", _path(world, number))
        world.ask("GET", "/reset", connection=world.connection(number))


def redispatched(world: World) -> None:
    for number in range(8):
        world.ask("GET", _path(world, number), connection=world.connection(number))


def cut(world: World) -> None:
    """The server goes within its response."""
    for size in (1000, 500_000):
        with world.fresh() as connection:
            world.ask("GET", f"/cut/{size}", connection=connection)
    with world.fresh() as connection:
        world.ask("GET", "/reset", connection=connection)
    world.ask("GET", _path(world, 1))


def killed(world: World) -> None:
    """The server's process is killed within responses."""
    if world.server.child.process.poll() is not None:
        return
    world.ask("GET", _path(world, 1))
    connections = [world.connection(number) for number in range(1, 5)]
    requests = [world.request("GET", "/slow/4000", connection) for connection in connections]
    for connection, (_, first, _) in zip(connections, requests, strict=True):
        connection.send(first)
    connections[0].exactly(2000)
    world.server.child.kill()
    for connection, (made, _, _) in zip(connections, requests, strict=True):
        world.answer(connection, made)


def early(world: World) -> None:
    """The answer comes before the request's end."""
    with world.fresh() as connection:
        made, first, data = world.request("POST", "/early", connection, world.upload(200))
        connection.send(first)
        time.sleep(0.05)
        world.answer(connection, made)
    world.ask("GET", _path(world, 1))


def many_connections(count: int) -> Shape:
    """All are open at once, and each asks."""

    def shape(world: World) -> None:
        connections = [world.connection(number) for number in range(count)]
        for start in range(0, count, 500):
            batch: list[tuple[Connection, bytes]] = []
            notes = []
            for connection in connections[start : start + 500]:
                made, first, _ = world.request("GET", _path(world, start), connection)
                batch.append((connection, first))
                notes.append(made)
            for connection, first in batch:
                connection.send(first)
            for (connection, _), made in zip(batch, notes, strict=True):
                world.answer(connection, made)

    return shape


def wrk(world: World) -> None:
    world.wrk("/text/", 64, 2)


def h2load(deep: int) -> Shape:
    def shape(world: World) -> None:
        world.h2load("/text/", 32, 20_000, deep)

    return shape


def crowd(world: World) -> None:
    """Eight clients at once, with bodies both ways."""

    def client(number: int) -> None:
        connection = connections[number]
        for made, first, data in requests[number]:
            connection.send(first + data)
            world.answer(connection, made)

    connections = [world.connection(number) for number in range(8)]
    requests = [
        [world.request("POST", "/mirror", one, world.upload(100 + 900 * number)) for number in range(20)]
        for one in connections
    ]
    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _path(world: World, number: int) -> str:
    return f"/text/{number}" if world.setting.server == "nginx" else f"/bytes/{number * 37 % 5000}"
