"""Making an account and coming back to it: nothing is lost between two crashes, and nothing secret stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.devices import OpenDevice

from holdfast.client.home import Home
from holdfast.client.identity import AccountKeys
from holdfast.client.joining import Joined, init_account, recover_account
from holdfast.client.link import Link
from holdfast.client.recovery_code import decode_recovery_code
from holdfast.client.session import Session
from holdfast.protocol.address import Token
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.directory import write_file
from holdfast.protocol.errors import BadRequest, Conflict, NoAccount, OutcomeUnknown, Refused, WrongKey


class Person:
    """Somebody at a device: remembers every code that was shown."""

    def __init__(self, home: Home, transport: Any) -> None:
        self.home = home
        self.transport = transport
        self.codes: list[str] = []

    async def init(self, invite: Token, name: str = "laptop") -> Joined:
        return await init_account(
            self.home,
            invite,
            device_name=name,
            show_code=lambda code, address, account: self.codes.append(code),
            transport=self.transport,
            source=SYSTEM,
        )

    async def recover(self, code: str, address: Any, name: str = "new laptop") -> Joined:
        link = await Link.connect(address, transport=self.transport, source=SYSTEM, patience_s=2.0)
        return await recover_account(
            self.home, link, decode_recovery_code(code), device_name=name, source=SYSTEM
        )


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def person(tmp_path: Path, transport: Any) -> Person:
    return Person(Home(tmp_path / "home"), transport)


async def test_an_account_is_made_and_its_recovery_secret_is_not_kept(
    person: Person, coordinator: Any
) -> None:
    joined = await person.init(coordinator.invite())
    assert not joined.resumed and len(person.codes) == 1
    known = person.home.account()
    assert (known.account, known.device, known.device_name) == (joined.account, joined.device, "laptop")
    assert known.address == coordinator.address
    secret = decode_recovery_code(person.codes[0]).secret
    stored = everything_in(person.home.folder)
    assert secret not in stored and person.codes[0].encode() not in stored
    assert person.home.joining() is None


async def test_the_code_is_shown_before_anything_is_registered(
    person: Person, coordinator: Any, transport: Any
) -> None:
    def show_code(*_: object) -> None:
        assert "/v1/accounts" not in transport.calls
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await init_account(
            person.home,
            coordinator.invite(),
            device_name="laptop",
            show_code=show_code,
            transport=transport,
            source=SYSTEM,
        )
    assert "/v1/accounts" not in transport.calls and not person.home.has_account


class Death(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_an_init_that_died_halfway_is_finished_with_the_code_already_shown(
    person: Person, coordinator: Any, transport: Any, lost: str
) -> None:
    invite = coordinator.invite()
    getattr(transport, lost)["/v1/accounts"] = 1
    transport.death = Death()
    with pytest.raises(Death):
        await person.init(invite)
    assert person.home.joining() is not None and not person.home.has_account
    joined = await person.init(invite)
    assert joined.resumed and len(person.codes) == 1, "the code that was shown is the valid one"
    other = Person(Home(person.home.folder.parent / "other"), transport)
    again = await other.recover(person.codes[0], coordinator.address)
    assert again.account == joined.account


async def test_a_lost_answer_while_registering_is_asked_for_again(
    person: Person, coordinator: Any, transport: Any
) -> None:
    transport.after["/v1/accounts"] = 1
    assert not (await person.init(coordinator.invite())).resumed
    assert transport.calls.count("/v1/accounts") == 2


async def test_a_crash_between_registering_and_writing_is_resumed(
    person: Person, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = coordinator.invite()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Home, "set_up", crash)
        with pytest.raises(KeyboardInterrupt):
            await person.init(invite)
    joined = await person.init(invite)
    assert joined.resumed and person.home.account().account == joined.account
    session = await Session.open(person.home, transport=person.transport, source=SYSTEM)
    assert (await session.head()).seq == 0


async def test_a_refused_invite_leaves_nothing_and_the_next_try_makes_a_new_code(
    person: Person, coordinator: Any
) -> None:
    wrong = Token(coordinator.address, bytes(16))
    with pytest.raises(Refused):
        await person.init(wrong)
    assert person.home.joining() is None and not person.home.has_account
    joined = await person.init(coordinator.invite())
    assert not joined.resumed and len(set(person.codes)) == 2


async def test_an_invite_is_good_for_one_account(person: Person, coordinator: Any, tmp_path: Path) -> None:
    invite = coordinator.invite()
    await person.init(invite)
    with pytest.raises(Refused):
        await Person(Home(tmp_path / "thief"), person.transport).init(invite)


async def test_a_folder_holds_one_account(person: Person, coordinator: Any) -> None:
    await person.init(coordinator.invite())
    with pytest.raises(Conflict):
        await person.init(coordinator.invite())
    with pytest.raises(Conflict):
        await person.recover(person.codes[0], coordinator.address)


async def test_the_code_alone_brings_a_new_device_to_the_same_keys(
    person: Person, coordinator: Any, tmp_path: Path
) -> None:
    await person.init(coordinator.invite())
    other = Person(Home(tmp_path / "other"), person.transport)
    joined = await other.recover(person.codes[0], coordinator.address)
    assert joined.account == person.home.account().account
    assert joined.device != person.home.account().device
    secrets = [[keys.secret for keys in home.account_keys()] for home in (other.home, person.home)]
    assert secrets[0] == secrets[1] != []
    session = await Session.open(person.home, transport=person.transport, source=SYSTEM)
    names = [device.name for device in (await session.head()).devices.devices]
    assert names == ["laptop", "new laptop"]


async def test_a_lost_answer_while_enrolling_does_not_list_a_device_twice(
    person: Person, coordinator: Any, transport: Any, tmp_path: Path
) -> None:
    await person.init(coordinator.invite())
    transport.after["/v1/devices"] = 1
    other = Person(Home(tmp_path / "other"), transport)
    await other.recover(person.codes[0], coordinator.address)
    session = await Session.open(other.home, transport=transport, source=SYSTEM)
    assert len((await session.head()).devices.devices) == 2


async def test_a_code_of_no_account_is_refused(person: Person, coordinator: Any) -> None:
    from holdfast.client.recovery_code import encode_recovery_code

    with pytest.raises(NoAccount):
        await person.recover(encode_recovery_code(bytes(32)), coordinator.address)
    assert not person.home.has_account


async def test_a_device_name_has_a_bound(person: Person, coordinator: Any) -> None:
    with pytest.raises(BadRequest):
        await person.init(coordinator.invite(), name="x" * 10_000)
    assert person.codes == [], "nothing was shown for an account that cannot be"


async def test_another_cluster_at_the_address_is_refused(person: Person, coordinator: Any) -> None:
    from holdfast.protocol.address import Address
    from holdfast.protocol.ids import ClusterId

    elsewhere = Token(Address(coordinator.address.url, ClusterId(bytes(32))), bytes(16))
    with pytest.raises(Refused):
        await person.init(elsewhere)
    assert person.codes == []


async def test_another_cluster_than_the_account_s_is_refused(person: Person, coordinator: Any) -> None:
    from holdfast.protocol.address import Address
    from holdfast.protocol.ids import ClusterId

    await person.init(coordinator.invite())
    elsewhere = Address(coordinator.address.url, ClusterId(bytes(32)))
    with pytest.raises(Refused, match="another cluster"):
        await Session.open(person.home, transport=person.transport, source=SYSTEM, coordinator=elsewhere)


async def test_a_wrong_account_key_is_put_right_before_anything_is_sealed_with_it(
    person: Person, coordinator: Any
) -> None:
    """Under a wrong key a backup would succeed, and no other device could ever read it."""
    await person.init(coordinator.invite())
    right = person.home.account_keys()
    person.home.save_keys([AccountKeys.of(1, bytes(32))])
    session = await Session.open(person.home, transport=person.transport, source=SYSTEM)
    await session.head()
    assert session.current_keys.secret == right[0].secret
    assert [key.secret for key in person.home.account_keys()] == [key.secret for key in right]


async def test_a_device_key_that_does_not_open_the_account_s_is_refused(
    person: Person, coordinator: Any
) -> None:
    await person.init(coordinator.invite())
    device = person.home.device()
    raw = device.to_bytes()
    write_file(person.home.folder / "device.key", raw[:-32] + bytes(range(32)))
    assert person.home.device().id == device.id, "only its box key is another"
    session = await Session.open(person.home, transport=person.transport, source=SYSTEM)
    with pytest.raises(WrongKey):
        await session.head()


@pytest.mark.parametrize(("first", "is_kept"), [(OutcomeUnknown("the answer was lost"), True), (None, False)])
async def test_what_was_refused_after_a_lost_answer_does_not_forget_the_account(
    first: OutcomeUnknown | None,
    is_kept: bool,
    coordinator: Any,
    transport: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be registered, and its code was shown: the next init goes on with it."""
    home, call, answers = Home(tmp_path / "home"), transport.call, [first] if first else []

    async def refused(method: str, url: str, target: str, *rest: Any, **more: Any) -> Any:
        if target == "/v1/accounts":
            raise answers.pop() if answers else Conflict("somebody else has it")
        return await call(method, url, target, *rest, **more)

    monkeypatch.setattr(transport, "call", refused)
    with pytest.raises(Conflict):
        await init_account(
            home,
            coordinator.invite(),
            device_name="one",
            show_code=lambda *_: None,
            transport=transport,
            source=SYSTEM,
        )
    assert (home.joining() is not None) == is_kept


async def test_what_is_told_for_others_sake_is_told_once(device: OpenDevice, transport: Any) -> None:
    one = await device("one")
    transport.after["/v1/reports"] = 5
    with pytest.raises(OutcomeUnknown):
        await one.link.report([])
    assert transport.calls.count("/v1/reports") == 1
