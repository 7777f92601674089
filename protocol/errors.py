"""The errors that parties tell each other, and that exit codes come from.

Each says *what* happened, *why* (where known) and what to *do* next. ``code``
is what travels and what programs match on; the text is for people and may
change. ``exit_code`` is the command line's (docs/operations.md lists them all)::

    HoldfastError                      1
    ├── BadRequest                     1   malformed, out of bounds, unknown version
    ├── Refused                        1   signature, ticket, token or role not good for this
    │   ├── StaleRequest               1   outside the time window, or from before a restart
    │   ├── Superseded                 1   this coordinator's term is over: another one reigns
    │   └── TicketExpired              1   ask the coordinator for a fresh one
    ├── NotFound                       1
    ├── Conflict                       1   something else is there already, or moved on
    │   ├── HeadMoved                  1   another device posted a head first
    │   ├── GroupMoved                 1   the group's version or members changed
    │   ├── SweptSince                 1   unused chunks were swept since the upload opened: claim again
    │   ├── SweepRefused               1   sweeping would not be safe now
    │   └── UploadEnded                1   ended or expired: open a new one
    ├── WrongDirectory                 1   data of another node, version, or kind
    ├── StoreFailed                    1   a node's storage stopped acknowledging
    ├── Partial                        3   some files skipped or not restored
    ├── NoAccount                     10   no account here, or not known to this cluster
    ├── Locked                        11   another process holds it
    ├── WrongKey                      12   recovery code or key does not fit
    ├── TooFewShards                  20   fewer than k shards of something are reachable
    ├── Degraded                      21   with --strict
    ├── NoRoom                        22   node, disk or cluster is full
    │   ├── QuotaExceeded             22
    │   └── NoQuorum                  22   too few nodes are up to store anything safely
    ├── IntegrityFailure              23   bytes are not what they must be
    ├── Unreachable                   24   the coordinator (or a node) does not answer
    ├── HeadRefused                   25
    │   ├── Rollback                  25
    │   ├── ForkDetected              25
    │   └── Unwitnessed               25
    └── OutcomeUnknown                26   the answer was lost: it may or may not have happened
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = [
    "BadRequest",
    "Conflict",
    "Degraded",
    "ForkDetected",
    "GroupMoved",
    "HeadMoved",
    "HeadRefused",
    "HoldfastError",
    "IntegrityFailure",
    "Locked",
    "NoAccount",
    "NoQuorum",
    "NoRoom",
    "NotFound",
    "OutcomeUnknown",
    "Partial",
    "QuotaExceeded",
    "Refused",
    "Rollback",
    "StaleRequest",
    "StoreFailed",
    "Superseded",
    "SweepRefused",
    "SweptSince",
    "TicketExpired",
    "TooFewShards",
    "Unreachable",
    "Unwitnessed",
    "UploadEnded",
    "WrongDirectory",
    "WrongKey",
    "error_from_wire",
]


class HoldfastError(Exception):
    """Root of all of Holdfast's own errors.

    Args:
        what: one sentence, what happened, with the names of the things involved.
        why: the cause, where it is known.
        do: the next thing to try, best a command.
        details: values for programs (JSON-able scalars and lists of them).
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    default_do: ClassVar[str] = "Run it again; if it stays, look at the logs of coordinator and nodes."

    def __init__(self, what: str, *, why: str = "", do: str = "", **details: object) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do or self.default_do
        self.details = details

    def bare(self) -> Self:
        """Itself, without tracebacks: for whoever keeps an error instead of letting it go up.

        A traceback holds the frames that the error went through, and these hold all they worked on: megabytes
        of shards for a line of text. Where one of them can reach the error, they hold each other, too, until
        the collector of cycles comes by.
        """
        chain: list[BaseException | None] = [self]
        seen: set[int] = set()
        while chain:
            error = chain.pop()
            if error is not None and id(error) not in seen:
                seen.add(id(error))
                error.__traceback__ = None
                chain += [error.__cause__, error.__context__]
        return self

    def __str__(self) -> str:
        parts = [self.what.rstrip(".")]
        if self.why:
            parts.append(f"because {self.why.rstrip('.')}")
        text = ", ".join(parts) + "."
        return f"{text} {self.do}" if self.do else text


class BadRequest(HoldfastError):
    """Malformed, out of bounds, or of a version not known here."""

    code = "bad_request"
    http_status = 400
    default_do = "Check what was given; 'holdfast COMMAND --help' shows the forms."


class Refused(HoldfastError):
    """The signature, ticket, token or role is not good for this."""

    code = "refused"
    http_status = 403
    default_do = "Check that address, account and token belong together; the operator makes new tokens."


class StaleRequest(Refused):
    """Signed outside the time window or before the receiver started; details: server_time_ms."""

    code = "stale_request"
    http_status = 401


class Superseded(Refused):
    """This coordinator's term is over: another one was restored or rebuilt since; details: term."""

    code = "superseded"
    http_status = 409
    default_do = (
        "Use the coordinator that reigns now; this one changes nothing any more and may be switched off."
    )


class TicketExpired(Refused):
    """The ticket's time is over; the coordinator gives a fresh one."""

    code = "ticket_expired"
    http_status = 401


class NotFound(HoldfastError):
    """There is nothing by that name."""

    code = "not_found"
    http_status = 404
    default_do = "Look at what there is: 'holdfast snapshots', 'holdfast ls', 'holdfast cluster status'."


class Conflict(HoldfastError):
    """Something else is there already, or the world moved on."""

    code = "conflict"
    http_status = 409
    default_do = "Run it again: it starts from what is there now."


class HeadMoved(Conflict):
    """Another device posted a head first; details: seq."""

    code = "head_moved"


class GroupMoved(Conflict):
    """The group's version or members changed; ask for a fresh lease."""

    code = "group_moved"


class SweptSince(Conflict):
    """Unused chunks were swept since the upload opened: claim all that the snapshot reaches in a new one."""

    code = "swept_since"


class SweepRefused(Conflict):
    """Sweeping would not be safe now; details say what is in the way."""

    code = "sweep_refused"
    default_do = "Nothing was swept. Run 'holdfast prune' again when what is named is mended."


class UploadEnded(Conflict):
    """The upload ended or expired; what it committed stays, open a new one."""

    code = "upload_ended"


class WrongDirectory(HoldfastError):
    """The directory holds another node's, another version's, or another kind of data."""

    code = "wrong_directory"
    http_status = 409
    default_do = "Name another folder, or run the program version that made this one."


class StoreFailed(HoldfastError):
    """A node's storage failed and acknowledges nothing until it is proven again."""

    code = "store_failed"
    http_status = 503
    default_do = "Look at the node's log, then restart it; other nodes hold what it holds."


class Partial(HoldfastError):
    """Some files were skipped or could not be restored."""

    code = "partial"
    exit_code = 3
    default_do = "Run it again when what is named can be read; everything else is done."


class NoAccount(HoldfastError):
    """No account here, or none that this cluster knows."""

    code = "no_account"
    exit_code = 10
    http_status = 404
    default_do = "Run 'holdfast init' for a new account or 'holdfast recover' with your recovery code."


class Locked(HoldfastError):
    """Another process holds it."""

    code = "locked"
    exit_code = 11
    http_status = 423


class WrongKey(HoldfastError):
    """A recovery code or key does not fit."""

    code = "wrong_key"
    exit_code = 12
    http_status = 403


class TooFewShards(HoldfastError):
    """Fewer than k good shards of a chunk are reachable; details: chunks, nodes, files."""

    code = "too_few_shards"
    exit_code = 20
    http_status = 503
    default_do = "Start the nodes named and try again: nothing has been thrown away."


class Degraded(HoldfastError):
    """Everything reads, but with fewer spare shards than it should have (--strict)."""

    code = "degraded"
    exit_code = 21


class NoRoom(HoldfastError):
    """A node, a disk or the cluster is full."""

    code = "no_room"
    exit_code = 22
    http_status = 507


class QuotaExceeded(NoRoom):
    """The account's quota is used up."""

    code = "quota_exceeded"


class NoQuorum(NoRoom):
    """Too few nodes are up (and have room) to store anything safely."""

    code = "no_quorum"
    http_status = 503


class IntegrityFailure(HoldfastError):
    """Bytes are not what they must be; nothing of them was handed on."""

    code = "integrity_failure"
    exit_code = 23
    http_status = 500


class Unreachable(HoldfastError):
    """The other side does not answer; nothing was changed by this request."""

    code = "unreachable"
    exit_code = 24
    http_status = 503


class HeadRefused(HoldfastError):
    """The head offered cannot be trusted."""

    code = "head_refused"
    exit_code = 25
    http_status = 409


class Rollback(HeadRefused):
    """The head is older than one already seen."""

    code = "rollback"


class ForkDetected(HeadRefused):
    """Two heads claim one place, or the links between two heads do not hold."""

    code = "fork_detected"


class Unwitnessed(HeadRefused):
    """No majority of the head's witnesses confirms it."""

    code = "unwitnessed"


class OutcomeUnknown(HoldfastError):
    """The answer did not arrive: it may or may not have happened; repeating is safe."""

    code = "outcome_unknown"
    exit_code = 26
    http_status = 504


def _tree(kind: type[HoldfastError]) -> dict[str, type[HoldfastError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        if child.__module__ == __name__:
            found.update(_tree(child))
    return found


_BY_CODE = _tree(HoldfastError)


def error_from_wire(
    code: str, what: str, why: str = "", do: str = "", details: dict[str, object] | None = None
) -> HoldfastError:
    """The typed error another party sent; an unknown code becomes a plain HoldfastError."""
    kind = _BY_CODE.get(code, HoldfastError)
    safe = {k: v for k, v in (details or {}).items() if k not in ("what", "why", "do")}
    return kind(what, why=why, do=do, **safe)
