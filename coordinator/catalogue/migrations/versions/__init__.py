"""One module per step; a step never changes once it was released."""
