"""A backup's first and last conversation with the coordinator, each one request instead of three.

Paths (POST, msgpack, signed by a listed device):

- ``/v1/backups``     BeginBackup -> BackupBegun    an upload opens; account and heads as they are then
- ``/v1/snapshots``   PostSnapshot -> HeadState     chunks are committed, a head posted, the upload ended
"""

from __future__ import annotations

from holdfast.protocol.codec import Message
from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.messages.accounts import AccountState
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.messages.uploads import Commit, UploadOpened

__all__ = ["BackupBegun", "BeginBackup", "PostSnapshot"]


class BeginBackup(Message):
    """See OpenUpload; ``since`` is the number of the newest head that the device has seen."""

    upload: UploadId
    expected_bytes: int
    exclude: list[NodeId]
    since: int


class BackupBegun(Message):
    """The upload, and what was true when it opened: heads may be built upon (see PostHead)."""

    opened: UploadOpened
    account: AccountState
    heads: HeadState


class PostSnapshot(Message):
    """A small backup's chunks and its head: both are taken, or neither.

    Its upload, which the commit is for as well, ends with the head. Posting the current head again succeeds.
    """

    commit: Commit
    post: PostHead
