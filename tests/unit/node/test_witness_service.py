"""A node as a witness: what it refuses to keep and to tell, and what survives its restarts and its disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from support.coordinator_service import Person, snapshot
from support.witness_nodes import WitnessNode

from holdfast.client.identity import DeviceKeys, add_device, open_account_keys
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Head,
    SnapshotList,
    Witness,
    list_digest,
    open_device_list,
    signed_digest,
)
from holdfast.protocol.charter import Charter, cluster_id
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import (
    BadRequest,
    ForkDetected,
    HoldfastError,
    NoRoom,
    Refused,
    Rollback,
    StoreFailed,
    WrongDirectory,
)
from holdfast.protocol.messages.witness import (
    AccountFacts,
    AskWitness,
    HeadKept,
    HeadsKept,
    KeepHead,
    KeptHead,
    ReadHeads,
    Reign,
    Reigned,
    Witnessed,
)
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed, generate_signing_key, key_id, public_key, sign
from holdfast.protocol.transport import Transport
from holdfast.protocol.witnessing import open_statement

ROOT, COORDINATOR, STRANGER = (generate_signing_key(seed * 32) for seed in (b"r", b"k", b"s"))
CLUSTER = cluster_id(public_key(ROOT))


def signed(kind: str, record: Any, key: Any) -> Signed:
    payload = encode(record)
    return Signed(payload, sign(key, kind, CLUSTER, payload))


CHARTER = signed("charter", Charter(1, 3, public_key(COORDINATOR)), ROOT)


def facts(person: Person, key: Any = COORDINATOR, **changed: Any) -> Signed:
    made = AccountFacts(1, 3, person.account, person.listed, 10**9, 0)
    return signed("account", msgspec.structs.replace(made, **changed), key)


def head(
    person: Person, seq: int, previous: Signed | None, texts: list[int], **changed: Any
) -> tuple[Signed, bytes]:
    """Head ``seq`` and its list."""
    exact = encode(SnapshotList(1, [snapshot(number)[0] for number in texts]))
    listed = open_device_list(person.listed, CLUSTER)
    made = Head(
        1,
        person.account,
        person.device.id,
        seq,
        signed_digest(previous) if previous is not None else NO_DIGEST,
        listed.seq,
        signed_digest(person.listed),
        [],
        seq,
        list_digest(exact),
    )
    return signed("head", msgspec.structs.replace(made, **changed), person.device.sign_key), exact


def keep(
    person: Person, made: tuple[Signed, bytes] | None, texts: Sequence[int] = (), **changed: Any
) -> KeepHead:
    message = KeepHead(
        facts=facts(person),
        head=made[0] if made else None,
        device_list=person.listed,
        snapshot_list=made[1] if made else b"",
        records=[snapshot(number)[1] for number in texts],
    )
    return msgspec.structs.replace(message, **changed)


@dataclass
class Served:
    """A witness that follows a coordinator, and who asks it."""

    node: WitnessNode
    transport: Transport

    async def ask(self, target: str, message: Any, answer: Any, by: Signer | None = None) -> Any:
        coordinator = Signer("coordinator", b"", key_id(public_key(COORDINATOR)), COORDINATOR, CLUSTER)
        return await self.transport.call(
            "POST",
            self.node.url,
            target,
            message,
            answer=answer,
            signer=by or coordinator,
            receiver=self.node.id,
        )

    async def keep(self, message: KeepHead) -> HeadKept:
        kept: HeadKept = await self.ask("/v1/witness/keep", message, HeadKept)
        return kept

    async def reign(self) -> None:
        await self.ask("/v1/reign", Reign(root=public_key(ROOT), charter=CHARTER, url="", map=None), Reigned)

    async def tell(self, person: Person, by: DeviceKeys | None = None, **changed: Any) -> Witnessed:
        message = AskWitness(device_list=person.listed, seq=0, nonce=bytes(16))
        told: Witnessed = await self.ask(
            "/v1/witness", msgspec.structs.replace(message, **changed), Witnessed, person.signer(by)
        )
        return told


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    node = WitnessNode(1, CLUSTER, tmp_path / "node", SYSTEM)
    await node.start()
    async with Transport() as transport:
        made = Served(node, transport)
        await made.reign()
        yield made
    await node.stop()


@pytest.fixture
def ada() -> Person:
    return Person("ada", CLUSTER)


async def test_what_was_kept_is_told_with_the_asker_s_nonce_and_survives_a_restart(
    served: Served, ada: Person
) -> None:
    first = head(ada, 1, None, [1])
    kept = await served.keep(keep(ada, first, [1]))
    assert (kept.since, kept.lacking) == (1, [])
    second = head(ada, 2, first[0], [1, 2])
    kept = await served.keep(keep(ada, second))
    assert kept.lacking == [snapshot(2)[0]]
    await served.node.stop()
    await served.node.start()
    told = await served.tell(ada, seq=1, nonce=b"n" * 16)
    assert told.head == second[0]
    witness = Witness(served.node.id, public_key(served.node.key))
    statement = open_statement(told.statement, CLUSTER, witness)
    assert (statement.seq, statement.head) == (2, signed_digest(second[0]))
    assert (statement.asked_seq, statement.asked_head) == (1, signed_digest(first[0]))
    assert statement.nonce == b"n" * 16 and statement.account == ada.account


async def test_nothing_is_kept_that_does_not_prove_itself(served: Served, ada: Person) -> None:
    eve = Person("eve", CLUSTER)
    first = head(ada, 1, None, [1])
    wrong: list[tuple[type[HoldfastError], KeepHead]] = [
        (Refused, keep(ada, first, facts=facts(ada, STRANGER))),
        (Refused, keep(ada, first, facts=facts(ada, term=2))),
        (BadRequest, keep(ada, first, facts=facts(ada, quota_bytes=-1))),
        (BadRequest, keep(ada, first, facts=facts(ada, device_list=eve.listed))),
        (BadRequest, keep(ada, first, device_list=eve.listed)),
        (Refused, keep(ada, head(eve, 1, None, [1]))),
        (ForkDetected, keep(ada, (first[0], encode(SnapshotList(1, []))))),
        (BadRequest, keep(ada, head(ada, 0, None, [1]))),
    ]
    for expected, message in wrong:
        with pytest.raises(expected):
            await served.keep(message)
    assert served.node.store is not None and served.node.store.newest(ada.account) is None
    assert served.node.store.facts(ada.account) is None


async def test_only_the_coordinator_gives_heads_and_only_devices_are_told_of_them(
    served: Served, ada: Person
) -> None:
    message = keep(ada, head(ada, 1, None, [1]))
    with pytest.raises(Refused):
        await served.ask("/v1/witness/keep", message, HeadKept, ada.signer())
    with pytest.raises(Refused):
        await served.ask("/v1/kept/heads", ReadHeads(account=ada.account, after=0), HeadsKept, ada.signer())
    await served.keep(message)
    eve = Person("eve", CLUSTER)
    with pytest.raises(Refused):  # her own signature under somebody else's list
        await served.ask(
            "/v1/witness",
            AskWitness(device_list=ada.listed, seq=0, nonce=bytes(16)),
            Witnessed,
            eve.signer(),
        )
    assert (await served.tell(eve)).head is None, "of her own account there is nothing"
    with pytest.raises(BadRequest):
        await served.tell(ada, nonce=b"short")
    with pytest.raises(BadRequest):
        await served.tell(ada, seq=-1)


async def test_a_device_that_a_newer_list_does_not_name_is_told_nothing(served: Served, ada: Person) -> None:
    other = DeviceKeys.from_bytes(b"\x07" * 64)
    listed = open_device_list(ada.listed, CLUSTER)
    keys = open_account_keys(listed, CLUSTER, ada.root.box_key, b"")
    longer = add_device(ada.root, ada.listed, listed, other, "other", CLUSTER, keys)
    both = open_device_list(longer, CLUSTER)
    alone = Person("ada", CLUSTER)
    alone.listed = longer
    without = ada.next_list([device for device in both.devices if device.id == ada.device.id], longer)
    alone.listed = without
    await served.keep(keep(ada, None, facts=facts(alone)))
    ada.listed = longer
    with pytest.raises(Refused):
        await served.tell(ada, by=other)
    assert (await served.tell(ada)).head is None


async def test_heads_are_kept_in_any_order_as_long_as_links_prove_them(served: Served, ada: Person) -> None:
    made = [head(ada, 1, None, [1])]
    for seq in range(2, 7):
        made.append(head(ada, seq, made[-1][0], [1]))
    assert (await served.keep(keep(ada, made[5]))).since == 6, "a new witness begins with the newest"
    with pytest.raises(Rollback):
        await served.keep(keep(ada, made[1]))
    for seq in (5, 4, 3, 2, 1):
        assert (await served.keep(keep(ada, made[seq - 1]))).since == seq
    stranger = head(ada, 3, made[1][0], [1, 2])
    with pytest.raises(ForkDetected):
        await served.keep(keep(ada, stranger))
    with pytest.raises(ForkDetected):
        await served.keep(keep(ada, head(ada, 7, made[0][0], [1])))
    assert (await served.keep(keep(ada, made[2]))).since == 1, "again is fine"
    page = await served.ask("/v1/kept/heads", ReadHeads(account=ada.account, after=2), HeadsKept)
    assert [kept.head for kept in page.heads] == [signed_head for signed_head, _ in made[2:]]


# The store alone


def test_a_damaged_value_is_not_told(tmp_path: Path, ada: Person) -> None:
    store = HeadStore(tmp_path / "heads")
    first = head(ada, 1, None, [1])
    store.keep(ada.account, head=(1, KeptHead(1, *first)), records=[snapshot(1)])
    store.close()
    env = lmdb.open(str(tmp_path / "heads"), max_dbs=8, map_size=1 << 30)
    records = env.open_db(b"records")
    with env.begin(write=True) as txn, txn.cursor(db=records) as cursor:
        assert cursor.first()
        key, value = bytes(cursor.key()), bytearray(cursor.value())
        value[5] ^= 1
        txn.put(key, bytes(value), db=records)
    env.close()
    store = HeadStore(tmp_path / "heads")
    assert store.records(ada.account, b"") == []
    assert len(store.heads(ada.account, 0)) == 1
    store.close()


def test_after_a_failed_commit_nothing_is_taken_until_the_node_starts_anew(
    tmp_path: Path, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HeadStore(tmp_path / "heads")
    first = head(ada, 1, None, [1])
    real = store._env

    class Broken:
        def begin(self, **settings: Any) -> Any:
            if settings.get("write"):
                raise lmdb.DiskError("the disk is gone")
            return real.begin(**settings)

    monkeypatch.setattr(store, "_env", Broken())
    with pytest.raises(StoreFailed):
        store.keep(ada.account, head=(1, KeptHead(1, *first)))
    monkeypatch.setattr(store, "_env", real)
    with pytest.raises(StoreFailed):
        store.keep(ada.account, head=(1, KeptHead(1, *first)))
    assert store.newest(ada.account) is None
    store.close()
    again = HeadStore(tmp_path / "heads")
    again.keep(ada.account, head=(1, KeptHead(1, *first)))
    again.close()


def test_a_full_disk_and_a_foreign_folder_are_said(
    tmp_path: Path, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HeadStore(tmp_path / "heads")
    monkeypatch.setattr("holdfast.node.store_lmdb_heads.HEADS_DISK_RESERVE_BYTES", 1 << 62)
    with pytest.raises(NoRoom):
        store.keep(ada.account, head=(1, KeptHead(1, *head(ada, 1, None, [1]))))
    store.close()
    env = lmdb.open(str(tmp_path / "other"), max_dbs=8)
    with env.begin(write=True) as txn:
        txn.put(b"format", b"something else", db=env.open_db(b"meta", txn=txn))
    env.close()
    with pytest.raises(WrongDirectory):
        HeadStore(tmp_path / "other")


def test_a_first_start_that_died_is_begun_anew_and_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "heads"

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.node.store_lmdb_heads.os.replace", dies)
    with pytest.raises(KeyboardInterrupt):
        HeadStore(folder)
    monkeypatch.undo()
    assert not (folder / "data.mdb").exists(), "it is there whole or not at all"
    store = HeadStore(folder)
    for number in range(1, 40):
        store.keep(ada.account, records=[snapshot(number, 4000)])
    store.close()
    file = folder / "data.mdb"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 4)
    with pytest.raises(StoreFailed):  # mapping it would kill the process
        HeadStore(folder)
