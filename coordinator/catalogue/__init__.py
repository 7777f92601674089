"""What the coordinator must not forget, in SQL: the only package that imports SQLAlchemy.

Each command is ONE serializable transaction in a synchronous function; one
writer thread runs them (SQLite: BEGIN IMMEDIATE, WAL, synchronous=FULL), a few
threads with connections of their own read. One hop to a thread per command
replaces one per statement, which an async driver would cost; the functions stay
plain and testable, and any engine with a synchronous SQLAlchemy driver fits.
"""
