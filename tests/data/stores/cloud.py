"""What a store finds in a cloud, as small as can be, and says what it was asked.

cloud.py PORT TLS_PORT PEM: a bucket and the metadata of an instance over HTTP, the security token service and a collector of
OpenTelemetry over TLS. Each request is a line of JSON on stdout.
"""

import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EXPIRATION = "2099-01-01T00:00:00Z"
INSTANCE = "/latest/meta-data/iam/security-credentials/"


class Cloud(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        print(json.dumps({"method": self.command, "path": url.path, "query": asked, "headers": headers, "bytes": len(body)}), flush=True)
        status, text = self.said(url.path, asked, headers)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(text.encode())

    def said(self, path, asked, headers):
        if path.startswith("/bucket/") or path == "/v1/logs":
            return 200, ""
        if asked.get("Action") == "AssumeRoleWithWebIdentity":
            if asked.get("WebIdentityToken") != "a-web-identity":
                return 400, "InvalidIdentityToken"
            return 200, (
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                "<AccessKeyId>LENT-BY-STS</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
                f"<SessionToken>session-of-sts</SessionToken><Expiration>{EXPIRATION}</Expiration>"
                "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
        if self.command == "PUT" and path == "/latest/api/token":
            return 200, "a-metadata-token"
        if headers.get("x-aws-ec2-metadata-token") != "a-metadata-token":
            return 401, ""
        if path == INSTANCE:
            return 200, "a-role"
        if path == INSTANCE + "a-role":
            return 200, json.dumps({
                "AccessKeyId": "LENT-BY-INSTANCE",
                "SecretAccessKey": "secret",
                "Token": "session-of-instance",
                "Expiration": EXPIRATION,
            })  # fmt: skip
        return 404, ""

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_):
        pass


def main():
    port, tls_port, pem = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    behind_tls = ThreadingHTTPServer(("127.0.0.1", int(tls_port)), Cloud)
    behind_tls.socket = context.wrap_socket(behind_tls.socket, server_side=True)
    threading.Thread(target=behind_tls.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(port)), Cloud).serve_forever()


main()
