// Node's client of HTTP/2 in the clear, for tests: `client.mjs MODE PORT`, over one connection. It writes a line `ID STATUS
// BYTES` for each request, with the bytes that came back.
//
// `websocket`: tunnels by CONNECT with a `:protocol` (RFC 8441), one of them refused, and requests beside and behind them.
// `cancel`: gives up what is pushed with `/held`, as soon as some of it came.
import { once } from "node:events";
import http2 from "node:http2";

const [mode, port] = process.argv.slice(2);
const session = http2.connect(`http://127.0.0.1:${port}`);

async function collect(stream) {
    let bytes = 0;
    stream.on("data", (data) => (bytes += data.length));
    await once(stream, "end");
    return bytes;
}

async function ask(id, headers) {
    const stream = session.request({ "x-request-id": id, ...headers });
    const bytes = collect(stream);
    const [answer] = await once(stream, "response");
    console.log(`${id} ${answer[":status"]} ${await bytes}`);
}

// What is said inside reads like HTTP, of either version.
const WORDS = [Buffer.from("GET /inside HTTP/1.1\r\nHost: a\r\n\r\n"), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])];

async function tunnel(id, path) {
    const stream = session.request(
        { ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13", "x-request-id": id },
        { endStream: false },
    );
    let bytes = 0;
    stream.on("data", (data) => {
        bytes += data.length;
        stream.emit("received");
    });
    const [answer] = await once(stream, "response");
    let said = 0;
    for (const word of answer[":status"] === 200 ? WORDS : []) {
        said += word.length;
        stream.write(word);
        while (bytes < said) await once(stream, "received");
    }
    console.log(`${id} ${answer[":status"]} ${said}`);
    return stream;
}

if (mode === "websocket") {
    const [settings] = await once(session, "remoteSettings");
    if (!settings.enableConnectProtocol) throw new Error("the server takes no CONNECT with a protocol");
    const open = [await tunnel("over-2", "/http2/chat"), await tunnel("over-1", "/http1/chat")];
    await ask("beside", { ":path": "/http2/beside" });
    open.push(await tunnel("refused", "/http2/refused"));
    open.forEach((stream) => stream.end());
    await ask("behind", { ":path": "/http2/behind" });
} else {
    const given = new Promise((resolve) => {
        session.on("stream", (pushed) => {
            pushed.on("error", () => {});
            pushed.once("data", () => {
                pushed.close(http2.constants.NGHTTP2_CANCEL);
                resolve();
            });
        });
    });
    await ask("held", { ":path": "/held" });
    await given;
    await ask("behind", { ":path": "/behind" });
}
session.close();
