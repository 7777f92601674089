"""One storage node: an LMDB shard store served over HTTP.

It believes tickets signed by the coordinator, verifies every shard's digest
before it writes and whenever it reads, and answers with a receipt only after
the shards are durable. It never sees a key that opens anything.
"""
