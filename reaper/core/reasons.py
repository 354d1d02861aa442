"""The reasons of decisions: each a stable code, with a label and a sentence for people. Pure data."""

from enum import StrEnum


class ReasonFamily(StrEnum):
    """What went wrong with a run, in the few groups that charts and reports distinguish."""

    label: str
    """The name for people."""

    def __new__(cls, value: str, label: str) -> "ReasonFamily":
        """Make a member that equals its value and carries its label."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member

    WORKER_LOST = "worker_lost", "Worker lost"
    MESSAGE_LOST = "message_lost", "Message lost"
    OVER_TIME_LIMIT = "over_time_limit", "Over a time limit"
    PARENT_OR_CHILDREN_ENDED = "parent_or_children_ended", "Parent or children ended"
    MANUAL = "manual", "By a person"
    NONE = "none", "No action"


class Reason(StrEnum):
    """The rule that decided. Its value is the code that is stored, logged and printed as JSON."""

    label: str
    """A few words for tables and charts."""
    sentence: str
    """The explanation after a colon: "Failed by the reaper: …"."""
    family: ReasonFamily
    """The group it is counted in; NONE where the reaper does nothing."""

    def __new__(cls, value: str, label: str, sentence: str, family: ReasonFamily = ReasonFamily.NONE) -> "Reason":
        """Make a member that equals its value and carries its words."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        member.sentence = sentence
        member.family = family
        return member

    FINISHED = "finished", "Ended", "it has already ended"
    UNKNOWN_STATUS = "unknown_status", "Unknown status", "the adapter does not map its status"
    EXEMPT = "exempt", "Exempt", "it is exempt from recovery"
    PARENT_ENDED = (
        "parent_ended",
        "Parent ended",
        "its parent has ended",
        ReasonFamily.PARENT_OR_CHILDREN_ENDED,
    )
    UNPUBLISHED = (
        "unpublished",
        "Not confirmed by the broker",
        "the broker never confirmed its last dispatch",
        ReasonFamily.MESSAGE_LOST,
    )
    BACKOFF = "backoff", "Backing off", "it was recovered a short while ago"
    NO_TIMESTAMP = "no_timestamp", "No usable timestamp", "it has no usable timestamp"
    TIMED_OUT = (
        "timed_out",
        "Over a time limit",
        "it was running longer than its run timeout",
        ReasonFamily.OVER_TIME_LIMIT,
    )
    NEVER_SENT = "never_sent", "Never sent", "no task was ever sent for it", ReasonFamily.MESSAGE_LOST
    STALLED = (
        "stalled",
        "No progress",
        "it made no progress for longer than its stall timeout",
        ReasonFamily.OVER_TIME_LIMIT,
    )
    IN_PROGRESS = "in_progress", "In progress", "it is in progress on a live worker"
    RETRY_SCHEDULED = "retry_scheduled", "Retry scheduled", "its own Celery retry is waiting in the queue"
    ORPHANED = "orphaned", "Worker lost", "no live worker has its task any more", ReasonFamily.WORKER_LOST
    RESERVED = "reserved", "Reserved by a worker", "a live worker has its task and will start it"
    BACKLOG = "backlog", "Waiting in its queue", "its message is waiting in the queue"
    LOST = "lost", "Message lost", "its message is gone and no worker has its task", ReasonFamily.MESSAGE_LOST
    STRANDED = (
        "stranded",
        "Worker lost before start",
        "its message was delivered to a worker that no longer has it",
        ReasonFamily.WORKER_LOST,
    )
    OVERTAKEN = (
        "overtaken",
        "Overtaken in its queue",
        "runs dispatched much later have already started",
        ReasonFamily.MESSAGE_LOST,
    )
    WITHIN_GRACE = "within_grace", "Within limits", "within limits"
    INCONCLUSIVE = "inconclusive", "Not enough evidence", "not enough evidence"
    JUDGING_FAILED = "judging_failed", "Rule failed (see log)", "the rules could not judge it (see the log)"
    CHILDREN_ENDED = (
        "children_ended",
        "Children ended",
        "all its children have ended",
        ReasonFamily.PARENT_OR_CHILDREN_ENDED,
    )
    MANUAL = "manual", "By a person", "requested by a person", ReasonFamily.MANUAL


def find_reason(code: str) -> Reason | None:
    """Return the reason with a stored code; None for one that another version wrote."""
    return next((each for each in Reason if each == code), None)


HEALTHY_REASONS = (
    Reason.FINISHED,
    Reason.EXEMPT,
    Reason.BACKOFF,
    Reason.IN_PROGRESS,
    Reason.RETRY_SCHEDULED,
    Reason.RESERVED,
    Reason.BACKLOG,
    Reason.WITHIN_GRACE,
)
"""Reasons to do nothing because all is well; the other runs are stuck or at risk."""

ABSENCE_REASONS = (Reason.ORPHANED, Reason.LOST, Reason.STRANDED)
"""Reasons that rest on a task's absence from every worker: before acting on them the workers are asked directly."""
