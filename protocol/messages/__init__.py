"""The wire messages, one module per conversation (docs/FORMAT.md lists the paths)."""
