"""What an agent says that it lost, and whether that explains what is missing from its records.

Positions in a stream are the kernel's: how many bytes a connection moved is known whatever was lost of it. So made = seen
+ lost is asked of every connection by itself, and not only of the sum.
"""

from dataclasses import dataclass, field

from .agent import Link, Recorded, Seen
from .oracle import Expected

# Marks of a transaction that bytes are missing from.
MARKS = ("body_lost", "malformed", "aborted", "missing")
# Counters of what is lost: events and records.
COUNTERS = ("lost.buffer_events", "lost.connection_events", "lost.queue_full")
# What goes with it: the buffers hold other events, too. Where the loss of one matters, transactions are absent.
OTHERS = ("lost", "lost.unknown_connections", "lost.process_events", "lost.dns_events", "lost.secret_events")


def happened(recorded: Recorded) -> bool:
    """Whether the agent counts as lost what `Losses` can account for."""
    return any(recorded.counters.get(name) for name in COUNTERS) or any(link.lost for link in recorded.links.values())


@dataclass
class Losses:
    recorded: Recorded
    links: dict[tuple[str, str], list[Link]] = field(default_factory=dict)
    unheard: set[tuple[str, str]] = field(default_factory=set)  # ends of connections of which there is no record at all
    unwritten: int = 0  # absent, though nothing was lost of the connection: a store's doing

    def __post_init__(self) -> None:
        for link in self.recorded.links.values():
            self.links.setdefault((link.source, link.destination), []).append(link)

    def count(self, name: str) -> int:
        return self.recorded.counters.get(f"lost.{name}", 0)

    def events(self) -> int:
        return self.count("buffer_events") + self.count("connection_events")

    def touch(self, seen: Seen) -> bool:
        """Whether it is marked, and something of its connection was lost indeed."""
        marks = seen.marks()
        if "pairing_uncertain" not in marks and not any(mark.endswith(MARKS) for mark in marks):
            return False
        link = self.recorded.links.get(seen.connection)
        return link is None or _is_touched(link)

    def explain(self, one: Expected) -> bool:
        """Whether it may be absent."""
        if one.source is None:
            # HAProxy dropped the line that would have named its connection: any that lost something may have been it.
            return any(_is_touched(link) for link in self.recorded.links.values() if link.destination == one.destination)
        ends = (one.source, one.destination or "")
        links = self.links.get(ends)
        if links is None:
            self.unheard.add(ends)
            return True
        if any(map(_is_touched, links)):
            return True
        self.unwritten += 1
        return self.unwritten <= self.count("queue_full")

    def problems(self, absent: int) -> list[str]:
        """What does not add up, once all is judged. `absent`: transactions that were explained."""
        found = []
        if absent > (most := self.events() + self.count("queue_full")):
            found.append(f"{absent} transactions are absent, and only {most} events and records are counted as lost")
        if len(self.unheard) > (most := self.count("connection_events") + self.count("queue_full")):
            found.append(f"{len(self.unheard)} connections have no record, and only {most} may")
        return found + self._bytes()

    def _bytes(self) -> list[str]:
        """A byte of a connection is seen or lost, and not both."""
        seen: dict[str, int] = {}
        for one in self.recorded.seen:
            if not one.incomplete:
                seen[one.connection] = seen.get(one.connection, 0) + one.bytes_sent + one.bytes_received
        return [
            f"connection {link.source} moved {link.sent + link.received} bytes, of which {seen[id_]} were seen and"
            f" {link.lost} lost"
            for id_, link in self.recorded.links.items()
            if id_ in seen and seen[id_] + link.lost > link.sent + link.received
        ][:3]


def _is_touched(link: Link) -> bool:
    """Of one that is open when the agent ends, what was lost last may not have been told."""
    return link.lost > 0 or not link.is_closed
