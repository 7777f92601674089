"""Numbered migrations, run by alembic when the catalogue is not at the newest one."""
