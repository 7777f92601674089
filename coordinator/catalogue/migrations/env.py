"""Alembic's entry: runs the steps on the connection the catalogue hands over."""

from __future__ import annotations

from alembic import context

from holdfast.coordinator.catalogue.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()
