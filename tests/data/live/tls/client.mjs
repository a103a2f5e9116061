// Node's https and http2: `client.mjs MODE PORT CA PREFIX COUNT` makes COUNT requests with `X-Request-Id: PREFIX-N` to
// https://example.test at PORT of this machine, over one connection, and writes a JSON line for each.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import https from "node:https";

const [mode, port, authority, prefix, count] = process.argv.slice(2);
const name = "example.test";
const ca = readFileSync(authority);

// Every third sends its body and gets it back.
function request(number) {
    const size = number * 37;
    if (number % 3 !== 2) return { method: "GET", path: `/bytes/${size}`, body: Buffer.alloc(0) };
    const pattern = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    return { method: "POST", path: "/mirror", body: Buffer.concat(Array(size).fill(pattern)) };
}

function tell(number, path, status, chunks, socket) {
    const body = Buffer.concat(chunks);
    const sha256 = createHash("sha256").update(body).digest("hex");
    const said = { id: `${prefix}-${number}`, path, status, size: body.length, sha256, port: socket.localPort };
    process.stdout.write(`${JSON.stringify(said)}\n`);
}

function overHttps() {
    const agent = new https.Agent({ ca, keepAlive: true, maxSockets: 1 });
    const ask = (number) => {
        if (number === Number(count)) return agent.destroy();
        const { method, path, body } = request(number);
        const headers = { "X-Request-Id": `${prefix}-${number}`, Host: name };
        if (body.length) headers["Content-Length"] = body.length;
        const options = { host: "127.0.0.1", port, servername: name, agent, method, path, headers };
        const asked = https.request(options, (response) => {
            const chunks = [];
            const { socket } = response;
            response.on("data", (chunk) => chunks.push(chunk));
            response.on("end", () => {
                tell(number, path, response.statusCode, chunks, socket);
                setImmediate(ask, number + 1);
            });
        });
        asked.end(body);
    };
    ask(0);
}

// All at once, a stream each.
function overHttp2() {
    const session = http2.connect(`https://127.0.0.1:${port}`, { ca, servername: name });
    let left = Number(count);
    session.on("connect", () => {
        for (let number = 0; number < Number(count); number++) {
            const { method, path, body } = request(number);
            const id = `${prefix}-${number}`;
            const stream = session.request({ ":authority": name, ":method": method, ":path": path, "x-request-id": id });
            const chunks = [];
            let status = 0;
            stream.on("response", (headers) => (status = headers[":status"]));
            stream.on("data", (chunk) => chunks.push(chunk));
            stream.on("end", () => {
                tell(number, path, status, chunks, session.socket);
                if (--left === 0) session.close();
            });
            // Without one, a GET has ended already.
            if (body.length) stream.end(body);
        }
    });
}

if (mode === "https") overHttps();
else overHttp2();
