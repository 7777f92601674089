"""The coordinator's HTTP shell: one module per conversation, authentication in one place."""
