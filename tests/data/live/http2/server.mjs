// Node's servers for tests, in the clear: `server.mjs PORT WEB_PORT`.
//
// HTTP/2 on PORT: `/page` pushes `/style` and `/script` before it answers, `/held` pushes what does not end. CONNECT with a
// `:protocol` (RFC 8441) sends back what it receives, but for `/refused`. Other paths are answered with themselves.
// On WEB_PORT HTTP/1 that upgrades to WebSocket, and then sends back what it receives.
import { createHash } from "node:crypto";
import http from "node:http";
import http2 from "node:http2";

const [port, webPort] = process.argv.slice(2).map(Number);
const text = { ":status": 200, "content-type": "text/plain" };

function push(stream, path, answer) {
    stream.pushStream({ ":path": path }, (error, pushed) => {
        if (error) return;
        pushed.on("error", () => {});
        pushed.respond(text);
        answer(pushed);
    });
}

function connect(stream, path) {
    if (path.endsWith("/refused")) {
        stream.respond({ ":status": 403 });
        return stream.end("refused\n");
    }
    stream.respond({ ":status": 200 });
    return stream.pipe(stream);
}

const server = http2.createServer({ settings: { enableConnectProtocol: true } });
server.on("stream", (stream, headers) => {
    const path = headers[":path"];
    // A client may give it up.
    stream.on("error", () => {});
    if (headers[":method"] === "CONNECT") return connect(stream, path);
    if (path === "/page") for (const part of ["/style", "/script"]) push(stream, part, (pushed) => pushed.end(`${part}\n`));
    if (path === "/held") push(stream, "/endless", (pushed) => pushed.write("begun\n"));
    stream.respond(text);
    return stream.end(`${path}\n`);
});
server.listen(port, "127.0.0.1");

const web = http.createServer((request, response) => response.end(`${request.url}\n`));
web.on("upgrade", (request, socket) => {
    // RFC 6455 section 4.2.2
    const key = `${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
    const accept = createHash("sha1").update(key).digest("base64");
    socket.on("error", () => {});
    socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
            `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    socket.pipe(socket);
});
web.listen(webPort, "127.0.0.1");
