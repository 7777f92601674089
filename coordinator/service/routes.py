"""The coordinator's HTTP application: all handlers over one desk."""

from __future__ import annotations

from holdfast.coordinator.service.accounts import AccountHandlers
from holdfast.coordinator.service.admin import AdminHandlers
from holdfast.coordinator.service.audits import AuditHandlers
from holdfast.coordinator.service.backups import BackupHandlers
from holdfast.coordinator.service.compacts import CompactHandlers
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.heads import HeadHandlers
from holdfast.coordinator.service.nodes import NodeHandlers
from holdfast.coordinator.service.operations import OperationHandlers
from holdfast.coordinator.service.scrubs import ScrubHandlers
from holdfast.coordinator.service.sweeps import SweepHandlers
from holdfast.coordinator.service.uploads import UploadHandlers
from holdfast.protocol.handling import Routes

__all__ = ["make_routes"]


def make_routes(desk: Desk) -> Routes:
    """All routes over one desk."""
    served = Routes()
    uploads = UploadHandlers(desk)
    for handlers in (
        AccountHandlers(desk),
        uploads,
        BackupHandlers(desk, uploads),
        HeadHandlers(desk),
        SweepHandlers(desk),
        NodeHandlers(desk),
        AdminHandlers(desk),
        OperationHandlers(desk),
        ScrubHandlers(desk),
        AuditHandlers(desk),
        CompactHandlers(desk),
    ):
        handlers.routes(served)
    return served
