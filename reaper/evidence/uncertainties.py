"""The sentences that tell people why something about a run cannot be known. Pure."""

from reaper.core.brake import MassSilence


def incomplete_heartbeat(worker: str) -> str:
    """A live worker may hold tasks that its heartbeat does not name."""
    return f"the heartbeat of {worker} is incomplete"


def mass_silence(silence: MassSilence, queue: str) -> str:
    """Many workers of a queue fell silent at once: more likely the network or the database failed than each of them."""
    return f"{silence.silent} of {silence.reporting} workers of queue {queue} lost heartbeat together, and none is back"


def unreported_consumers(queue: str, consumers: int) -> str:
    """The broker counts more consumers than there are heartbeats: one of the others may have the message."""
    return f"queue {queue} has {consumers} consumers, not all of which send a heartbeat"


def unread_delivery(node: str) -> str:
    """A worker that did not answer may have received the message without having read it."""
    return f"{node} did not answer, and may have been sent the message"


def failed_inspection(error: str) -> str:
    """The workers could not be asked."""
    return f"the workers could not be inspected: {error}"


def duplicate_node(node: str) -> str:
    """A task that one of the workers does not name may be held by the other."""
    return f"several workers share the node name {node}"


def unknown_worker(node: str) -> str:
    """A worker answers that has no heartbeat."""
    return f"{node} answers but sends no heartbeat"


def malformed_replies(count: int) -> str:
    """Replies could not be parsed: any of them may have named the task."""
    return f"{count} replies of workers could not be parsed"
