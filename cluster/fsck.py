"""``holdfast admin fsck``: does the catalogue fit what lies on the nodes? Looks only, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.protocol.terminal import Output, guarded, human_count, json_option, look_for_garbage, option

if TYPE_CHECKING:
    from holdfast.cluster.joining import Joined
    from holdfast.cluster.surveying import Survey

__all__ = ["fsck"]

_SHOWN = 20
_WORST_FIRST = (23, 20, 21)


@dataclass(frozen=True, slots=True)
class _Finding:
    """``kind`` is for programs, ``text`` for people; ``exit_code`` what it means for the whole."""

    kind: str
    text: str
    exit_code: int


@click.command()
@option(
    "--coordinator-dir",
    "coordinator",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The coordinator's folder.",
)
@option(
    "--node-dir",
    "nodes",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    multiple=True,
    help="A node's folder; name every node's.",
)
@option("--keys-only", is_flag=True, help="Do not read the shards themselves, only which there are.")
@json_option
@guarded
def fsck(coordinator: Path, nodes: Sequence[Path], keys_only: bool, as_json: bool) -> None:
    """Compare catalogue and stores, offline; change nothing.

    Is everything there that the catalogue says, and nothing else? Works on folders at rest; beside
    running members, what is under way may look unfinished.
    """
    from holdfast.cluster.joining import join
    from holdfast.cluster.surveying import survey

    look_for_garbage()
    output = Output(as_json)
    found = survey(coordinator, nodes, verify=not keys_only)
    joined = join(found.catalogue, found.stores)
    findings = list(_findings(found, joined))
    shown: dict[str, int] = {}
    for finding in findings:
        output.status(kind=finding.kind, text=finding.text)
        shown[finding.kind] = shown.get(finding.kind, 0) + 1
        if shown[finding.kind] <= _SHOWN:
            output.say(finding.text)
    for kind, count in shown.items():
        if count > _SHOWN:
            output.say(f"... and {count - _SHOWN:,} more of the same ({kind})")
    found_codes = {finding.exit_code for finding in findings}
    code = next((worst for worst in _WORST_FIRST if worst in found_codes), 0)
    stripes, short = len(joined.stripes), len(joined.short)
    output.say(
        f"{human_count(stripes, 'stripe')} on {human_count(len(found.stores), 'node')}: "
        + ("all of them whole." if not short else f"{short:,} without all their shards.")
    )
    output.summary(
        stripes=stripes,
        short=short,
        unreadable=len(joined.unreadable),
        orphans=len(joined.orphans),
        unread_stores=len(found.unread),
        findings=len(findings),
        exit_code=code,
    )
    raise SystemExit(code)


def _findings(found: Survey, joined: Joined) -> Iterator[_Finding]:
    """Everything that is not as it should be; the worst kinds first."""
    absent = found.catalogue.nodes.keys() - found.stores.keys() - found.unread.keys()
    for node in sorted(absent):
        yield _Finding("node_not_named", f"node {node.short} was not looked at: name its folder, too", 21)
    for node, why in found.unread.items():
        yield _Finding("store_unread", f"node {node.short}: its store cannot be read: {why}", 23)
    for stripe in joined.unreadable:
        chunk, there = stripe.row.chunk.short, len(stripe.good)
        yield _Finding(
            "unreadable",
            f"chunk {chunk} has {there} good shards here and needs {stripe.group.profile.k}",
            20,
        )
    for node, store in found.stores.items():
        for why in store.damaged.values():
            yield _Finding("damaged", f"node {node.short}: {why}", 23)
    for shard in joined.strange_stripes:
        yield _Finding(
            "strange_stripe", f"node {shard.node.short}, chunk {shard.key.chunk.short}: {shard.why}", 23
        )
    for shard in joined.unnoted:
        yield _Finding(
            "not_noted",
            f"node {shard.node.short} should have slot {shard.key.slot} of chunk {shard.key.chunk.short}, "
            f"and nobody noted that it has not: {shard.why}",
            23,
        )
    for text in joined.crowded:
        yield _Finding("crowded", text, 21)
    for stripe in joined.short:
        if stripe.spare >= 0:
            yield _Finding(
                "short",
                f"chunk {stripe.row.chunk.short} has {len(stripe.good)} of {stripe.group.profile.n} shards",
                21,
            )
    for shard in joined.orphans:
        yield _Finding(
            "orphan", f"node {shard.node.short}: a shard of {shard.key.chunk.short}: {shard.why}", 0
        )
