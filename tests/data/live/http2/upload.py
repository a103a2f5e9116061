"""`upload.py PORT FOLDER`: sends each file FOLDER/N.up to /mirror with `X-Request-Id: body-N`, all at once on one HTTP/2
connection, each stream as far as flow control lets it, by turns; the answers become FOLDER/N.down.
"""

import pathlib
import socket
import sys

import h2.config
import h2.connection
import h2.events

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
peer = socket.create_connection(("127.0.0.1", port))
connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
connection.initiate_connection()
peer.sendall(connection.data_to_send())

to_send, files = {}, {}


def receive():
    data = peer.recv(1 << 18)
    if not data:
        sys.exit("the connection was closed")
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.DataReceived):
            files[event.stream_id].write(event.data)
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            files.pop(event.stream_id).close()
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            sys.exit(f"{event}")


# The server's settings say how many streams there may be.
receive()
for up in sorted(folder.glob("*.up"), key=lambda path: int(path.stem)):
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, [
        (":method", "POST"), (":scheme", "http"), (":authority", f"127.0.0.1:{port}"), (":path", "/mirror"),
        ("x-request-id", f"body-{up.stem}"), ("content-length", str(up.stat().st_size)),
    ])
    to_send[stream] = memoryview(up.read_bytes())
    files[stream] = up.with_suffix(".down").open("wb")

while files:
    moved = False
    for stream, data in list(to_send.items()):
        room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size, len(data))
        if room or not data:
            connection.send_data(stream, bytes(data[:room]), end_stream=room == len(data))
            to_send[stream] = data[room:]
            moved = True
            if room == len(data):
                del to_send[stream]
    peer.sendall(connection.data_to_send())
    peer.setblocking(not moved)
    try:
        receive()
    except BlockingIOError:
        pass
    finally:
        peer.setblocking(True)
