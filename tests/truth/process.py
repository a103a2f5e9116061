"""Child processes, ports and waiting. Whatever is started here ends by its process id, and never by its name."""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The usual limit of a wait, in seconds: far beyond what anything here needs, so that a slow machine fails nothing.
LIMIT = 30.0


class Failed(Exception):
    """The cell cannot go on; the message says why."""


def until(ready: Callable[[], object], what: str, limit: float = LIMIT, pause: float = 0.01) -> None:
    """Waits until ready() is true. Raises Failed after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"not within {limit:.0f} s: {what}")
        time.sleep(pause)


class Child:
    """A process of ours. Its standard output and standard error are files in `folder`."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path) -> None:
        self.name = name
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, ready: Callable[[], object], what: str, limit: float = LIMIT) -> None:
        """Until ready() is true. Raises Failed where the process ends before that, or does not get there: nobody has it
        then who would end it."""

        def ready_or_gone() -> object:
            return self.process.poll() is not None or ready()

        try:
            until(ready_or_gone, f"{self.name}: {what}", limit)
        except Failed as failed:
            self.end(limit=5)
            raise Failed(f"{failed}\n{self.tail()}") from None
        if self.process.poll() is not None and not ready():
            raise Failed(f"{self.name} ended ({self.process.returncode}) before: {what}\n{self.tail()}")

    def tail(self) -> str:
        return self.err.read_text(errors="replace")[-2000:]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, limit: float = LIMIT) -> int:
        """Asks it to end, kills it after `limit` seconds. Returns its exit status."""
        if self.process.poll() is None:
            self.send(number)
            try:
                self.process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def resident(self) -> int:
        """Bytes of memory, of proc(5): statm."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def sleeps(pid: int) -> bool:
    """Whether no thread of the process runs or wants to; true of one that is gone (proc(5): /proc/pid/stat)."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(stat.rpartition(")")[2].split()[0] in "SZX" for stat in stats)


# Ports are taken in turn from below those that the kernel gives to clients, each once a run: a port that a dead server
# or a client has just used would carry strangers.
_next_port = 20000 + os.getpid() % 5000


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses."""
    global _next_port
    while True:
        _next_port += 1
        try:
            with socket.create_server(("127.0.0.1", _next_port)):
                return _next_port
        except OSError:
            continue


def listens(port: int) -> bool:
    """Whether something listens on the port; it is not connected to, since that would be recorded."""
    end = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[1].endswith(end):
            return True
    return False


def allow_open_files(count: int) -> None:
    """Lets this process and its children have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))
