"""A cheating device really does what it is said to do: what never reaches a server is refused by nobody."""

from __future__ import annotations

from types import SimpleNamespace

from holdfast.client.heads import HeadView
from holdfast.client.identity import DeviceKeys, RootKeys, first_device_list
from holdfast.cluster.chaos import cheating
from holdfast.protocol.accounts import Head, open_device_list
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.codec import decode
from holdfast.protocol.ids import ClusterId, Digest, UploadId

CLUSTER = ClusterId(b"c" * 32)


async def test_a_head_is_built_on_the_newest_one_or_on_another_where_asked() -> None:
    source = FixedSource()
    root, device = RootKeys.of(b"r" * 32), DeviceKeys.generate(source)
    listed = first_device_list(root, device, "one", CLUSTER, b"s" * 32)
    newest, another = Digest(b"n" * 32), Digest(b"a" * 32)
    view = HeadView(open_device_list(listed, CLUSTER), listed, 3, newest, None, ())

    async def head() -> HeadView:
        return view

    session = SimpleNamespace(
        head=head,
        device=SimpleNamespace(id=device.id, sign_key=device.sign_key),
        link=SimpleNamespace(cluster=CLUSTER),
    )
    opened = SimpleNamespace(session=session, upload=UploadId(b"u" * 16))
    for previous, wanted in ((None, newest), (another, another)):
        posted = await cheating._head(opened, previous=previous)  # type: ignore[arg-type]
        told = decode(posted.head.payload, Head)
        assert (told.seq, told.previous) == (4, wanted)
