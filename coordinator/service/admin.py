"""What operators ask."""

from __future__ import annotations

from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.accounts import count_accounts
from holdfast.coordinator.catalogue.moves import all_moves
from holdfast.coordinator.catalogue.nodes import TokenKind, add_token
from holdfast.coordinator.catalogue.sums import chunk_totals, group_totals
from holdfast.coordinator.catalogue.uploads import count_open
from holdfast.coordinator.limits import COUNTED_BYTES_MAX
from holdfast.coordinator.reconciling import uncompared
from holdfast.coordinator.reigning import reign_said
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.stripes import account_verdict
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import TOKEN_LIFETIME_S_MAX, TOKEN_SECRET_BYTES
from holdfast.protocol.messages.admin import (
    ClusterStatus,
    GroupStatus,
    InventoryStatus,
    MakeInvite,
    MakeNodeToken,
    MoveStatus,
    NodeStatus,
    RepairStatus,
    TokenMade,
)
from holdfast.protocol.stripes import digest_of

__all__ = ["AdminHandlers"]


class AdminHandlers:
    """See protocol.messages.admin."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/admin/invites", self.invite)
        router.add_post("/v1/admin/node-tokens", self.node_token)
        router.add_get("/v1/admin/status", self.status)
        router.add_get("/metrics", self.metrics)

    async def _token(self, kind: TokenKind, quota_bytes: int, lifetime_s: int) -> Answer:
        if not 1 <= lifetime_s <= TOKEN_LIFETIME_S_MAX:
            raise BadRequest(f"a token lives 1 to {TOKEN_LIFETIME_S_MAX} seconds")
        if not 0 <= quota_bytes <= COUNTED_BYTES_MAX:
            raise BadRequest(f"a quota has 0 (none) to {COUNTED_BYTES_MAX} bytes")
        secret = self._desk.source.random_bytes(TOKEN_SECRET_BYTES)
        expires_ms = self._desk.source.now_ms() + 1000 * lifetime_s
        digest = digest_of(secret)
        await self._desk.catalogue.write(lambda c: add_token(c, digest, kind, expires_ms, quota_bytes))
        return msgpack_answer(TokenMade(secret=secret, expires_ms=expires_ms))

    async def invite(self, request: Request) -> Answer:
        """A one-time token for one account."""
        told = decode(await self._desk.operator(request), MakeInvite)
        return await self._token("invite", told.quota_bytes, told.lifetime_s)

    async def node_token(self, request: Request) -> Answer:
        """A one-time token for one node."""
        told = decode(await self._desk.operator(request), MakeNodeToken)
        return await self._token("node", 0, told.lifetime_s)

    def _node(self, node: NodeId) -> NodeStatus:
        live = self._desk.live
        row, beat = live.nodes[node], live.beats.get(node)
        return NodeStatus(
            id=node,
            url=row.url,
            zone=row.zone,
            state=live.state(node),
            store_state=beat.report.state if beat else "unknown",
            last_seen_ms=beat.wall_ms if beat else 0,
            capacity_bytes=beat.report.capacity_bytes if beat else row.capacity_bytes,
            used_bytes=beat.report.used_bytes if beat else 0,
            free_bytes=beat.report.free_bytes if beat else 0,
            shards=beat.report.shards if beat else 0,
            standing=row.state,
            slots=sum(node in group.members for group in live.groups.values()),
            quarantined=beat.report.quarantined if beat else 0,
            scrubbed_ms=beat.report.scrubbed_ms if beat else 0,
            trouble=live.trouble(node),
            file_bytes=beat.report.file_bytes if beat else 0,
            compacting=beat.report.compacting if beat else -1,
            compared_ms=known.wall_ms if (known := self._desk.reconciling.compared.get(node)) else 0,
        )

    async def _repair(self) -> RepairStatus:
        live, repairs = self._desk.live, self._desk.repairs
        moves = [
            MoveStatus(
                group=group,
                slot=slot,
                node=live.groups[group].members[slot],
                old=move.old,
                why=move.why,
                left_shards=move.left_chunks,
                filled_shards=move.filled_chunks,
            )
            for (group, slot), move in sorted((await self._desk.catalogue.read(all_moves)).items())
            if group in live.groups
        ]
        eta_s = repairs.eta_s
        return RepairStatus(
            queued=repairs.queued_shards,
            queued_bytes=repairs.queued_bytes,
            running=repairs.running,
            done=repairs.done_shards,
            done_bytes=repairs.done_bytes,
            bytes_per_s=int(repairs.rate),
            eta_s=eta_s if eta_s is not None else -1,
            waiting=[f"slot {slot} of group {group} ({why})" for group, slot, why in repairs.waiting],
            moves=moves,
        )

    async def _inventory(self) -> InventoryStatus:
        state = self._desk.reconciling
        is_old, erasing = await self._desk.catalogue.read(
            lambda c: (erasures.is_unreconciled(c), erasures.count_erasures(c))
        )
        return InventoryStatus(
            unreconciled=is_old,
            waiting=uncompared(self._desk) if is_old else [],
            strays=state.strays,
            adopted=state.adopted,
            erasing=erasing,
        )

    async def status(self, request: Request) -> Answer:
        """The whole cluster at a glance."""
        await self._desk.operator(request)
        desk, live = self._desk, self._desk.live
        verdict = await account_verdict(desk, None)
        accounts, totals, uploads, chunks = await desk.catalogue.read(
            lambda c: (count_accounts(c), chunk_totals(c), count_open(c), group_totals(c))
        )
        return msgpack_answer(
            ClusterStatus(
                verdict=verdict.word,
                sentence=reign_said(desk) + verdict.sentence,
                term=desk.identity.term,
                epoch=live.epoch,
                accounts=accounts,
                chunks=totals[0],
                stored_bytes=totals[1],
                open_uploads=uploads,
                stripes=verdict.stripes,
                repair=await self._repair(),
                inventory=await self._inventory(),
                nodes=[self._node(node) for node in sorted(live.nodes)],
                groups=[
                    GroupStatus(
                        id=group.id,
                        version=group.version,
                        k=group.profile.k,
                        m=group.profile.m,
                        members=list(group.members),
                        up=sum(live.state(node) == "up" for node in group.members),
                        chunks=chunks.get(group.id, (0, 0))[0],
                    )
                    for group in live.groups.values()
                ],
            )
        )

    async def metrics(self, request: Request) -> Answer:
        """GET /metrics: what Prometheus scrapes. Counts only, no names."""
        from prometheus_client import CollectorRegistry, Gauge, generate_latest

        verdict = await account_verdict(self._desk, None)
        registry = CollectorRegistry()
        states = Gauge("holdfast_nodes", "Nodes by state", ["state"], registry=registry)
        for state in ("up", "suspect", "down", "stopping"):
            count = sum(self._desk.live.state(node) == state for node in self._desk.live.nodes)
            states.labels(state).set(count)
        stripes = Gauge("holdfast_stripes", "Stripes by spare shards", ["spare"], registry=registry)
        for number, stripe_count in verdict.stripes.by_spare.items():
            stripes.labels(number).set(stripe_count)
        return Answer([generate_latest(registry)], content_type="text/plain")
