"""curl, wrk and h2load: how they are called, and what they say that they did."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .process import Failed

# Each request of wrk has an id: the thread's number and a count.
WRK_SCRIPT = """
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init() count = 0 end
function request()
    count = count + 1
    local id = "%s-" .. number .. "-" .. count
    return wrk.format("GET", "%s" .. (count %% 1000), {["X-Request-Id"] = id})
end
"""


@dataclass(frozen=True)
class Curled:
    status: int
    local: str
    body: bytes


def curl(folder: Path, url: str, *arguments: str) -> Curled:
    """One request of curl. Raises Failed where curl does, but for a connection that is cut (18, 52, 56) or a timeout."""
    out = folder / "curl.out"
    out.unlink(missing_ok=True)
    command = ["curl", "-sS", "-o", str(out), "-w", "%{http_code} %{local_ip}:%{local_port}", *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode not in (0, 18, 28, 52, 56):
        raise Failed(f"curl {url}: {done.stderr}")
    status, local = done.stdout.split()
    return Curled(int(status), local, out.read_bytes() if out.exists() else b"")


def wrk(folder: Path, port: int, prefix: str, path: str, connections: int, seconds: int) -> int:
    """A load with an id for each request. Returns how many were answered."""
    script = folder / "wrk.lua"
    script.write_text(WRK_SCRIPT % (prefix, path))
    command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    count = re.search(r"(\d+) requests in", out)
    if not count or "Non-2xx" in out or "Socket errors" in out:
        raise Failed(f"wrk had errors:\n{out}")
    return int(count.group(1))


@dataclass(frozen=True)
class Times:
    """From request to response, as a client measured them: milliseconds, no less than they were."""

    longest: float
    mean: float


def h2load(folder: Path, origin: str, path: str, connections: int, requests: int, deep: int) -> Times:
    """HTTP/1 requests to a thousand paths in turn, `deep` of them at once on each connection; the ids are the server's.
    All are answered."""
    urls = folder / "urls"
    urls.write_text("".join(f"{origin}{path}{number}\n" for number in range(1000)))
    command = ["h2load", "--h1", f"-c{connections}", "-t1", f"-n{requests}", f"-m{deep}", "-i", str(urls)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    if f"{requests} done, {requests} succeeded, 0 failed" not in out:
        raise Failed(f"h2load had errors:\n{out}")
    words = next(line.split() for line in out.splitlines() if line.startswith("time for request:"))
    return Times(*map(_milliseconds, words[4:6]))


def _milliseconds(text: str) -> float:
    """Of `19.05ms` and its like; it was cut to two places."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return (float(number) + 0.01) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
