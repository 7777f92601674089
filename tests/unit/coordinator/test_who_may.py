"""Who may do what: every request is signed by somebody known, once, for this coordinator, at this time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.coordinator_service import HandClock, KeyNode, Office, Person, office, upload_id

from holdfast.client.identity import DeviceKeys, enrolment, first_device_list
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, Conflict, NoAccount, Refused
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import MESSAGE_BYTES_MAX, REQUEST_WINDOW_MS
from holdfast.protocol.messages import accounts as account_messages
from holdfast.protocol.messages.admin import ClusterStatus, MakeInvite, MakeNodeToken, TokenMade
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.messages.nodes import HeartbeatAnswer, Joined
from holdfast.protocol.messages.uploads import Locate, OpenUpload, UploadOpened
from holdfast.protocol.requests import AUTH_HEADER, Signer
from holdfast.protocol.signing import generate_signing_key, key_id, public_key

LOCATE = Locate(chunks=[])


class TestInvites:
    async def test_an_invite_makes_one_account_and_its_lost_answer_may_be_asked_for_again(
        self, desk_office: Office
    ) -> None:
        invite = desk_office.token("invite", quota_bytes=5000)
        ada, eve = Person("ada", desk_office.cluster), Person("eve", desk_office.cluster)
        first = await desk_office.register(ada, invite)
        assert (first.account, first.quota_bytes) == (ada.account, 5000)
        assert await desk_office.register(ada, invite) == first
        with pytest.raises(Refused, match="token"):
            await desk_office.register(eve, invite)
        with pytest.raises(NoAccount):
            await desk_office.account_state(eve)

    async def test_an_invite_expires_but_not_under_the_one_who_used_it(self, desk_office: Office) -> None:
        ada, eve = Person("ada", desk_office.cluster), Person("eve", desk_office.cluster)
        used, unused = (desk_office.token("invite", lifetime_s=60) for _ in range(2))
        await desk_office.register(ada, used)
        desk_office.clock.advance(61)
        await desk_office.register(ada, used)
        with pytest.raises(Refused):
            await desk_office.register(eve, unused)

    async def test_expired_used_and_made_up_invites_sound_the_same(self, desk_office: Office) -> None:
        ada, eve = Person("ada", desk_office.cluster), Person("eve", desk_office.cluster)
        used, old = desk_office.token("invite"), desk_office.token("invite", lifetime_s=1)
        await desk_office.register(ada, used)
        desk_office.clock.advance(2)
        said = set()
        for invite in (used, old, b"x" * 16, desk_office.token("node")):
            with pytest.raises(Refused) as refused:
                await desk_office.register(eve, invite)
            said.add((refused.value.what, refused.value.why, refused.value.do))
        assert len(said) == 1

    async def test_an_invite_for_an_account_that_exists_is_not_used_up(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        twin, phone = Person("ada", desk_office.cluster), DeviceKeys.generate(SYSTEM)
        twin.device = phone
        twin.listed = first_device_list(ada.root, phone, "phone", desk_office.cluster, bytes(32))
        invite = desk_office.token("invite")
        with pytest.raises(Conflict) as refused:
            await desk_office.register(twin, invite)
        assert "recover" in refused.value.do
        with pytest.raises(Refused):
            await desk_office.account_state(ada, phone)
        await desk_office.register(Person("eve", desk_office.cluster), invite)

    async def test_an_account_begins_with_its_first_list(self, desk_office: Office) -> None:
        ada = Person("ada", desk_office.cluster)
        ada.listed = ada.next_list([ada.device.listed("laptop")])
        with pytest.raises(BadRequest, match="number 1"):
            await desk_office.register(ada, desk_office.token("invite"))

    async def test_only_the_operator_makes_them(self, desk_office: Office, nodes: list[KeyNode]) -> None:
        ada = await desk_office.person("ada")
        message = MakeInvite(quota_bytes=0, lifetime_s=60)
        stranger = generate_signing_key(b"s" * 32)
        posing = [
            ada.signer(),
            nodes[0].signer(),
            Signer("operator", b"", key_id(public_key(stranger)), stranger, desk_office.cluster),
            Signer(
                "operator", b"", key_id(desk_office.desk.identity.operator), stranger, desk_office.cluster
            ),
        ]
        for signer in posing:
            with pytest.raises(Refused):
                await desk_office.call("POST", "/v1/admin/invites", message, TokenMade, signer)
            with pytest.raises(Refused):
                await desk_office.call("GET", "/v1/admin/status", None, ClusterStatus, signer)


class TestNodes:
    async def test_a_token_lets_one_node_in_and_its_lost_answer_may_be_asked_for_again(
        self, desk_office: Office
    ) -> None:
        token = desk_office.token("node", lifetime_s=60)
        one, two = KeyNode(1, desk_office.cluster), KeyNode(2, desk_office.cluster)
        first = await desk_office.join(one, token)
        epoch = desk_office.desk.live.epoch
        desk_office.clock.advance(61)
        assert await desk_office.join(one, token) == first
        for bad in (token, b"x" * 16, desk_office.token("invite"), desk_office.token("node", lifetime_s=-1)):
            with pytest.raises(Refused, match="token"):
                await desk_office.join(two, bad)
        assert list(desk_office.desk.live.nodes) == [one.id]
        assert desk_office.desk.live.epoch >= epoch

    async def test_a_stranger_s_heartbeat_is_refused_with_a_next_step(self, desk_office: Office) -> None:
        with pytest.raises(Refused) as refused:
            await desk_office.beat(KeyNode(1, desk_office.cluster))
        assert "token" in refused.value.do

    async def test_a_node_id_that_comes_back_with_another_store_is_refused(self, desk_office: Office) -> None:
        node = KeyNode(1, desk_office.cluster)
        await desk_office.join(node, desk_office.token("node"))
        other = KeyNode(9, desk_office.cluster).store
        with pytest.raises(Conflict) as refused:
            await desk_office.beat(node, store=other, shards=1)
        assert refused.value.do
        with pytest.raises(Conflict) as refused:
            await desk_office.join(node, desk_office.token("node"), store=other)
        assert refused.value.do
        assert desk_office.desk.live.nodes[node.id].store == node.store
        await desk_office.beat(node)

    async def test_of_two_clones_that_join_at_once_one_is_let_in(self, desk_office: Office) -> None:
        node = KeyNode(1, desk_office.cluster)
        stores = [KeyNode(number, desk_office.cluster).store for number in range(1, 7)]
        tokens = [desk_office.token("node") for _ in stores]
        told = await asyncio.gather(
            *(
                desk_office.join(node, token, store=store)
                for store, token in zip(stores, tokens, strict=True)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, Joined) for answer in told) == 1
        assert sum(isinstance(answer, Conflict) for answer in told) == 5

    async def test_a_node_can_only_speak_for_its_own_key(self, desk_office: Office) -> None:
        one, two = KeyNode(1, desk_office.cluster), KeyNode(2, desk_office.cluster)
        message = one.join(desk_office.token("node"))
        as_two = Signer("node", b"", two.id, one.key, desk_office.cluster)
        with pytest.raises(BadRequest, match="key"):
            await desk_office.call("POST", "/v1/nodes/join", message, Joined, as_two)
        with pytest.raises(Refused):
            await desk_office.call("POST", "/v1/nodes/join", message, Joined, two.signer())
        short = Signer("node", b"", b"short", one.key, desk_office.cluster)
        with pytest.raises(BadRequest, match="length"):
            await desk_office.call("POST", "/v1/nodes/join", message, Joined, short)
        await desk_office.join(one, desk_office.token("node"))
        for wrong in (as_two, Signer("node", b"", one.id, two.key, desk_office.cluster), short):
            with pytest.raises((Refused, BadRequest)):
                await desk_office.call("POST", "/v1/nodes/heartbeat", one.heartbeat(), HeartbeatAnswer, wrong)

    @pytest.mark.parametrize(
        "changed",
        [{"zone": "z" * 257}, {"capacity_bytes": -1}, {"capacity_bytes": 2**63}, {"url": "ftp://x"}],
        ids=str,
    )
    async def test_what_a_node_says_of_itself_has_bounds(
        self, desk_office: Office, changed: dict[str, object]
    ) -> None:
        node = KeyNode(1, desk_office.cluster)
        with pytest.raises(BadRequest):
            await desk_office.join(node, desk_office.token("node"), **changed)
        await desk_office.join(node, desk_office.token("node"))
        with pytest.raises(BadRequest):
            await desk_office.beat(node, **changed)
        row = desk_office.desk.live.nodes[node.id]
        assert (row.zone, row.url, row.capacity_bytes) == (node.zone, node.url, 10**9)

    async def test_nodes_that_join_at_the_same_time_are_all_known_at_once(self, desk_office: Office) -> None:
        made = [KeyNode(number, desk_office.cluster) for number in range(1, 31)]
        await asyncio.gather(*(desk_office.join(node, desk_office.token("node")) for node in made))
        assert set(desk_office.desk.live.nodes) == {node.id for node in made}
        await desk_office.beat(*made)


class TestDevices:
    async def test_a_device_that_is_not_listed_is_refused(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        eve = await desk_office.person("eve")
        with pytest.raises(Refused, match="device list") as refused:
            await desk_office.account_state(ada, DeviceKeys.generate(SYSTEM))
        assert "recover" in refused.value.do
        as_ada = Signer("device", ada.account, eve.device.id, eve.device.sign_key, desk_office.cluster)
        with pytest.raises(Refused, match="device list"):
            await desk_office.call("GET", "/v1/account", None, account_messages.AccountState, as_ada)
        forged = Signer("device", ada.account, ada.device.id, eve.device.sign_key, desk_office.cluster)
        with pytest.raises(Refused):
            await desk_office.call("GET", "/v1/account", None, account_messages.AccountState, forged)

    async def test_a_device_is_in_and_out_from_the_moment_the_list_says_so(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        phone = DeviceKeys.generate(SYSTEM)
        with pytest.raises(Refused):
            await desk_office.account_state(ada, phone)
        await desk_office.post_list(
            ada, ada.next_list([ada.device.listed("laptop"), phone.listed("phone")]), phone
        )
        assert (await desk_office.account_state(ada, phone)).device_list == ada.listed
        await desk_office.post_list(ada, ada.next_list([ada.device.listed("laptop")]))
        with pytest.raises(Refused):
            await desk_office.account_state(ada, phone)
        await desk_office.account_state(ada)

    async def test_of_two_lists_on_top_of_the_same_one_the_first_counts(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        first = ada.listed
        one, two = DeviceKeys.generate(SYSTEM), DeviceKeys.generate(SYSTEM)
        lists = [ada.next_list([ada.device.listed("l"), made.listed("m")], first) for made in (one, two)]
        await desk_office.post_list(ada, lists[0])
        await desk_office.post_list(ada, lists[0])  # its answer was lost
        with pytest.raises(Conflict) as refused:
            await desk_office.post_list(ada, lists[1])
        assert refused.value.do and refused.value.details["seq"] == 2
        with pytest.raises(Conflict):
            await desk_office.post_list(ada, first)

    async def test_a_list_that_does_not_list_its_bringer_is_refused(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        eve = await desk_office.person("eve")
        following = ada.next_list([DeviceKeys.generate(SYSTEM).listed("other")])
        with pytest.raises(Refused, match="bring"):
            await desk_office.post_list(ada, following)
        message = account_messages.NewDeviceList(
            device_list=ada.next_list(
                [ada.device.listed("l")], (await desk_office.account_state(ada)).device_list
            )
        )
        with pytest.raises(Refused):
            await desk_office.call(
                "POST", "/v1/devices", message, account_messages.AccountState, eve.signer()
            )


class TestEnrolment:
    async def nonce(self, desk_office: Office, person: Person) -> bytes:
        message = account_messages.EnrolmentBegin(account=person.account)
        return (
            await desk_office.call("POST", "/v1/enrolments", message, account_messages.EnrolmentNonce, None)
        ).nonce

    async def prove(self, desk_office: Office, person: Person, nonce: bytes) -> account_messages.AccountState:
        proof = enrolment(person.root, DeviceKeys.generate(SYSTEM), desk_office.cluster, nonce)
        message = account_messages.EnrolmentOpen(enrolment=proof)
        return await desk_office.call(
            "POST", "/v1/enrolments/open", message, account_messages.AccountState, None
        )

    async def test_the_root_key_opens_it_once_for_each_nonce(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        nonce = await self.nonce(desk_office, ada)
        assert (await self.prove(desk_office, ada, nonce)).device_list == ada.listed
        with pytest.raises(Refused, match="nonce"):
            await self.prove(desk_office, ada, nonce)

    async def test_nonces_are_one_account_s_and_grow_old(self, desk_office: Office) -> None:
        ada, eve = await desk_office.person("ada"), await desk_office.person("eve")
        with pytest.raises(Refused):
            await self.prove(desk_office, ada, await self.nonce(desk_office, eve))
        with pytest.raises(Refused):
            await self.prove(desk_office, ada, b"n" * 16)
        nonce = await self.nonce(desk_office, ada)
        desk_office.clock.advance(301)
        with pytest.raises(Refused):
            await self.prove(desk_office, ada, nonce)

    async def test_without_the_root_key_nobody_learns_which_accounts_exist(self, desk_office: Office) -> None:
        ada, nobody = await desk_office.person("ada"), Person("nobody", desk_office.cluster)
        assert len(await self.nonce(desk_office, ada)) == len(await self.nonce(desk_office, nobody))
        with pytest.raises(NoAccount):
            await self.prove(desk_office, nobody, await self.nonce(desk_office, nobody))

    async def test_a_flood_of_nonces_takes_bounded_memory(
        self, desk_office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("holdfast.coordinator.live.ENROLMENT_NONCES_MAX", 10)
        ada = await desk_office.person("ada")
        for _ in range(25):
            await self.nonce(desk_office, ada)
        assert len(desk_office.desk.live.nonces) == 10


class TestRequests:
    async def test_the_very_same_request_is_not_made_twice(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        header = desk_office.signed(ada.signer(), "POST", "/v1/locate", LOCATE)
        assert (await desk_office.raw("POST", "/v1/locate", encode(LOCATE), header))[0] == 200
        status, told = await desk_office.raw("POST", "/v1/locate", encode(LOCATE), header)
        assert status == 403 and isinstance(told, Refusal) and "already made" in told.what and told.do

    async def test_unsigned_and_exchanged_requests_are_refused(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        assert (await desk_office.raw("POST", "/v1/locate", encode(LOCATE)))[0] == 403
        header = desk_office.signed(ada.signer(), "POST", "/v1/locate", LOCATE)
        other = encode(Locate(chunks=[]))[:-1] + b"\x91\xc4\x20" + bytes(32)
        assert (await desk_office.raw("POST", "/v1/locate", other, header))[0] == 403
        assert (await desk_office.raw("POST", "/v1/locate?x=1", encode(LOCATE), header))[0] == 403
        assert (await desk_office.raw("POST", "/v1/reports", encode(LOCATE), header))[0] == 403

    @pytest.mark.parametrize("off_ms", [-REQUEST_WINDOW_MS - 1, REQUEST_WINDOW_MS + 1])
    async def test_a_clock_that_is_off_is_told_the_server_s_time_and_goes_on(
        self, desk_office: Office, off_ms: int
    ) -> None:
        ada = await desk_office.person("ada")
        desk_office.clock.advance(1000)  # long after the start
        now = desk_office.clock.now_ms()
        header = desk_office.signed(ada.signer(), "POST", "/v1/locate", LOCATE, now + off_ms)
        status, told = await desk_office.raw("POST", "/v1/locate", encode(LOCATE), header)
        assert status == 401 and isinstance(told, Refusal)
        assert (told.error, told.details["server_time_ms"]) == ("stale_request", now)
        desk_office.transport._source = HandClock(now + off_ms)
        await desk_office.account_state(ada)

    async def test_what_was_signed_before_a_restart_is_refused_and_signed_again(self, tmp_path: Path) -> None:
        clock = HandClock()
        async with office(tmp_path / "c", clock) as first:
            ada = await first.person("ada")
            header = first.signed(ada.signer(), "POST", "/v1/locate", LOCATE)
            assert (await first.raw("POST", "/v1/locate", encode(LOCATE), header))[0] == 200
        clock.advance(1)
        async with office(tmp_path / "c", clock) as second:
            # Nobody remembers its nonce any more, and it is well within the window.
            status, told = await second.raw("POST", "/v1/locate", encode(LOCATE), header)
            assert status == 401 and isinstance(told, Refusal)
            assert told.details["server_time_ms"] == clock.now_ms()
            second.transport._source = HandClock(clock.now_ms() - 1000)
            assert (await second.account_state(ada)).account == ada.account

    async def test_a_wall_clock_that_is_set_back_locks_nobody_out(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        desk_office.clock.set_wall(-3600)
        await desk_office.account_state(ada)
        message = encode(LOCATE)
        header = desk_office.signed(
            ada.signer(), "POST", "/v1/locate", LOCATE, desk_office.clock.now_ms() + 3_600_000
        )
        assert (await desk_office.raw("POST", "/v1/locate", message, header))[0] == 200
        assert (await desk_office.raw("POST", "/v1/locate", message, header))[0] == 403, "a replay"

    async def test_numbers_beyond_every_bound_are_bad_requests_not_failures(
        self, desk_office: Office, nodes: list[KeyNode]
    ) -> None:
        ada = await desk_office.person("ada")
        for expected in (-1, 2**63, 2**64 - 1):
            with pytest.raises(BadRequest):
                await desk_office.open(ada, upload_id(), expected=expected)
        for since in ("99999999999999999999", "9" * 5000, "-1", "x", "%D9%A3", ""):
            target = f"/v1/heads?since={since}"
            header = desk_office.signed(ada.signer(), "GET", target, None)
            status, told = await desk_office.raw("GET", target, b"", header)
            assert status == 400 and isinstance(told, Refusal), since
        message = OpenUpload(upload=upload_id(), expected_bytes=0, exclude=[NodeId(bytes(16))] * 10_001)
        with pytest.raises(BadRequest):
            await desk_office.call("POST", "/v1/uploads", message, UploadOpened, ada.signer())

    async def test_a_body_beyond_the_bound_is_refused_before_it_is_read(self, desk_office: Office) -> None:
        ada = await desk_office.person("ada")
        header = desk_office.signed(ada.signer(), "POST", "/v1/locate", LOCATE)
        host, port = desk_office.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = ["POST /v1/locate HTTP/1.1", "Host: x", f"{AUTH_HEADER}: {header}"]
        writer.write("\r\n".join([*lines, f"Content-Length: {MESSAGE_BYTES_MAX + 1}", "", ""]).encode())
        answer = await asyncio.wait_for(reader.readline(), 10)
        assert int(answer.split()[1]) in (400, 413), "no byte of it was sent"
        writer.close()

    async def test_every_refusal_is_typed_even_of_paths_that_are_none(self, desk_office: Office) -> None:
        for method, target in (("GET", "/"), ("DELETE", "/v1/locate"), ("POST", "/v1/uploads/zz/claim")):
            status, told = await desk_office.raw(method, target, b"")
            assert 400 <= status < 500 and isinstance(told, Refusal) and told.what

    async def test_tokens_cannot_be_asked_for_beyond_their_bounds(self, desk_office: Office) -> None:
        for message in (
            MakeInvite(quota_bytes=-1, lifetime_s=60),
            MakeInvite(quota_bytes=2**63, lifetime_s=60),
            MakeInvite(quota_bytes=0, lifetime_s=0),
            MakeInvite(quota_bytes=0, lifetime_s=10**12),
        ):
            with pytest.raises(BadRequest):
                await desk_office.call("POST", "/v1/admin/invites", message, TokenMade, desk_office.operator)

    async def test_the_operator_s_token_brings_a_node_in(self, desk_office: Office) -> None:
        message, operator = MakeNodeToken(lifetime_s=60), desk_office.operator
        made = await desk_office.call("POST", "/v1/admin/node-tokens", message, TokenMade, operator)
        node = KeyNode(1, desk_office.cluster)
        await desk_office.join(node, made.secret)
        status = await desk_office.call("GET", "/v1/admin/status", None, ClusterStatus, operator)
        assert [known.state for known in status.nodes] == ["suspect"], "it has not reported yet"
        await desk_office.beat(node)
        status = await desk_office.call("GET", "/v1/admin/status", None, ClusterStatus, operator)
        assert [known.state for known in status.nodes] == ["up"]


async def test_the_metrics_are_counts_without_names(desk_office: Office, nodes: list[KeyNode]) -> None:
    ada = await desk_office.person("ada")
    status, told = await desk_office.raw("GET", "/metrics", b"")
    assert status == 200 and isinstance(told, bytes)
    assert b'holdfast_nodes{state="up"} 6.0' in told
    for name in (*(node.id for node in nodes), ada.account, desk_office.cluster):
        assert name.short.encode() not in told
