"""A node as a witness: what it keeps of an account's heads, and what it says of them.

Everything is proven before it is kept: facts by the coordinator's signature, the head by a device that
the account's root lists, the snapshot list by the head, each record by its id. So a node that keeps
heads can lie by silence alone, and whoever rebuilds needs to believe none of them.
"""

from __future__ import annotations

from blake3 import blake3

from holdfast.node.membership import Identity
from holdfast.node.reigning import KnownReign
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.protocol.accounts import (
    NO_DIGEST,
    DeviceList,
    Head,
    check_snapshot_list,
    listed_ids,
    open_device_list,
    open_head,
    signed_digest,
)
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, Refused, StoreFailed
from holdfast.protocol.ids import AccountId, SnapshotId
from holdfast.protocol.limits import HEAD_NEW_RECORDS_MAX, RECORDS_FETCH_MAX, SNAPSHOT_RECORD_BYTES_MAX
from holdfast.protocol.messages.witness import (
    AccountFacts,
    HeadKept,
    KeepHead,
    KeptAccount,
    KeptHead,
    Witnessed,
    WitnessStatement,
)
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.witnessing import admit_head, open_facts

__all__ = ["Witnessing"]


class Witnessing:
    """Blocks; to be called from one thread at a time.

    Args:
        store: None: it did not open.
    """

    def __init__(self, identity: Identity, store: HeadStore | None) -> None:
        self._identity = identity
        self._store = store

    @property
    def store(self) -> HeadStore:
        """Where heads are kept; raises StoreFailed when it did not open."""
        if self._store is None:
            raise StoreFailed(
                "this node's head store did not open",
                do="See the node's log. Move its folder 'heads' away and start it again: it is filled.",
            )
        return self._store

    def keep(self, asked: KeepHead, reign: KnownReign, now_ms: int) -> HeadKept:
        """Prove, keep, and say what is kept then.

        Raises:
            ForkDetected, Rollback: see protocol.witnessing.admit_head.
            Refused, BadRequest: something does not verify. StoreFailed, NoRoom: it is not durable.
        """
        facts = open_facts(asked.facts, self._identity.cluster, reign.charter)
        if len(asked.records) > max(HEAD_NEW_RECORDS_MAX, RECORDS_FETCH_MAX):
            raise BadRequest("too many records at once")
        if any(len(sealed) > SNAPSHOT_RECORD_BYTES_MAX for sealed in asked.records):
            raise BadRequest(f"a snapshot record has at most {SNAPSHOT_RECORD_BYTES_MAX} bytes")
        account, store = facts.account, self.store
        kept_facts = KeptAccount(1, asked.facts, reign.signed) if self._is_newer(facts) else None
        records = [(SnapshotId(blake3(sealed).digest()), sealed) for sealed in asked.records]
        seq, head_to_keep, run_from = 0, None, None
        if asked.head is not None:
            devices = open_device_list(asked.device_list, self._identity.cluster)
            if devices.account != account:
                raise BadRequest("a head comes with another account's device list")
            head = open_head(asked.head, self._identity.cluster, devices, signed_digest(asked.device_list))
            check_snapshot_list(asked.snapshot_list, head)
            seq = head.seq
            is_new, run_from = self._admit(account, head, asked.head)
            if is_new:
                head_to_keep = (seq, KeptHead(1, asked.head, asked.snapshot_list))
        store.keep(account, facts=kept_facts, head=head_to_keep, run_from=run_from, records=records)
        newest = store.newest(account)
        listed = listed_ids(newest[1].snapshot_list) if newest is not None else []
        return HeadKept(
            statement=self._statement(account, newest, seq, b"", now_ms),
            since=store.run_from(account),
            lacking=store.lacking(account, listed),
            map=store.map_digest,
        )

    def _admit(self, account: AccountId, head: Head, signed: Signed) -> tuple[bool, int | None]:
        """(is it to be kept, the run's new beginning if that changes)."""
        store, digest = self.store, signed_digest(signed)
        newest = store.newest(account)
        following = store.head(account, head.seq + 1)
        found = admit_head(
            head,
            digest,
            kept=store.digest_at(account, head.seq),
            newest=(newest[0], signed_digest(newest[1].head)) if newest is not None else None,
            follower=decode(following.head.payload, Head) if following is not None else None,
        )
        if found == "newer" and (newest is None or head.seq > newest[0] + 1):
            return True, head.seq
        if found != "newer" and head.seq == store.run_from(account) - 1:
            return found == "ancestor", head.seq
        return found != "known", None

    def _is_newer(self, facts: AccountFacts) -> bool:
        """Are these facts not older than those kept? By term, then by what only grows.

        A coordinator that was restored from before a device list has a higher term, and that list is to be
        found here all the same: it is the owner's word, and may have let a device go.
        """
        kept = self.store.facts(facts.account)
        if kept is None:
            return True
        if kept.facts.payload == encode(facts):
            return False
        old = decode(kept.facts.payload, AccountFacts)
        return _list_seq(facts) >= _list_seq(old) and _age(facts) >= _age(old)

    def tell(
        self, account: AccountId, device_list: Signed, signer: bytes, seq: int, nonce: bytes, now_ms: int
    ) -> Witnessed:
        """What is kept of an account's heads, for one of its devices.

        Raises:
            Refused: a newer device list does not list the one that asks.
        """
        store = self.store
        kept = store.facts(account)
        if kept is not None:
            known = decode(kept.facts.payload, AccountFacts).device_list
            newest_list = open_device_list(known, self._identity.cluster)
            asked_list = open_device_list(device_list, self._identity.cluster)
            is_listed = any(device.id == signer for device in newest_list.devices)
            if newest_list.seq >= asked_list.seq and not is_listed:
                raise Refused("this device is not on the account's device list (any more)")
        newest = store.newest(account)
        return Witnessed(
            statement=self._statement(account, newest, seq, nonce, now_ms),
            head=newest[1].head if newest is not None and newest[0] > seq else None,
        )

    def _statement(
        self,
        account: AccountId,
        newest: tuple[int, KeptHead] | None,
        asked_seq: int,
        nonce: bytes,
        now_ms: int,
    ) -> Signed:
        seq, digest = (newest[0], signed_digest(newest[1].head)) if newest is not None else (0, NO_DIGEST)
        asked = digest if asked_seq == seq else self.store.digest_at(account, asked_seq) or NO_DIGEST
        payload = encode(
            WitnessStatement(1, self._identity.node, account, seq, digest, asked_seq, asked, now_ms, nonce)
        )
        return Signed(payload, sign(self._identity.key, "witness", self._identity.cluster, payload))


def _list_seq(facts: AccountFacts) -> int:
    return decode(facts.device_list.payload, DeviceList).seq


def _age(facts: AccountFacts) -> tuple[int, int, int]:
    return facts.term, _list_seq(facts), facts.sweep_generation
