// A server on Node's http: the paths of application.py that Node does in its own way, and the same log.
// Usage: node application.js PORT LOG
'use strict';
const { createHash } = require('crypto');
const { appendFileSync } = require('fs');
const { createServer } = require('http');

const [port, log] = process.argv.slice(2);
const CHUNK = 7000;

const payload = (seed, size) => (size === 0 ? Buffer.alloc(0)
    : createHash('shake256', { outputLength: size }).update(seed).digest());
const sha = (data) => createHash('sha256').update(data).digest('hex');

const server = createServer((request, response) => {
    const id = request.headers['x-request-id'] ?? '-';
    const { socket } = request;
    const line = {
        id, method: request.method, path: request.url, pid: process.pid,
        peer: `${socket.remoteAddress}:${socket.remotePort}`, status: null, sent: 0, sent_sha: null,
        got: 0, got_sha: null, request_whole: false, response_whole: false, observable: true,
    };
    const parts = [];
    request.on('data', (part) => { parts.push(part); line.got += part.length; });
    response.on('close', () => {
        line.response_whole = response.writableFinished;
        appendFileSync(log, JSON.stringify(line) + '\n');
    });
    request.on('end', () => {
        const body = Buffer.concat(parts);
        line.got_sha = sha(body);
        line.request_whole = true;
        answer(request, response, line, body);
    });
});

function answer(request, response, line, body) {
    const [, kind, argument] = request.url.split('?')[0].split('/');
    const size = Number(argument ?? 0);
    let status = 200;
    let data = Buffer.alloc(0);
    if (kind === 'mirror') data = body;
    else if (kind === 'take') data = Buffer.from(sha(body));
    else if (kind === 'none' || kind === 'fail') status = size;
    else data = payload(`${request.url} ${line.id}`, size);
    if (kind === 'fail') data = Buffer.from('as asked\n');

    const empty = request.method === 'HEAD' || status === 204 || status === 304;
    line.status = status;
    line.sent = empty ? 0 : data.length;
    line.sent_sha = sha(empty ? '' : data);
    response.setHeader('X-Request-Id', line.id);
    response.setHeader('X-Echo', `${request.method} ${request.url}`);
    response.statusCode = status;
    if (kind !== 'chunked') {
        if (status !== 204 && status !== 304) response.setHeader('Content-Length', data.length);
        response.end(empty ? undefined : data);
        return;
    }
    for (let at = 0; at < data.length && !empty; at += CHUNK) response.write(data.subarray(at, at + CHUNK));
    response.end();
}

server.keepAliveTimeout = 60000;
server.listen(Number(port), '127.0.0.1', 1024);
