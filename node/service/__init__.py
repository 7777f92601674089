"""The node's handlers: who may come in, and what they get."""
