"""A service that says in JSON who it is and what it got."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, PORT = os.environ["SERVICE_NAME"], os.environ["PORT"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            return self.answer("text/plain", b"OK")
        self.answer_json(service=NAME, port=PORT, path=self.path, message=f"Hello from {NAME} on port {PORT}!")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        self.answer_json(service=NAME, port=PORT, method="POST", received=body, message=f"POST received by {NAME}")

    def answer_json(self, **fields):
        self.answer("application/json", json.dumps(fields).encode())

    def answer(self, content_type, body):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("0.0.0.0", int(PORT)), Handler).serve_forever()
