"""The coordinator: which nodes exist, which chunk lies where, who may do what.

It carries no shard bytes and never sees a key, a name or a plaintext byte.
Decisions (placement, health, quorum, verdict) are pure functions; the catalogue
holds what must survive; the service is a thin HTTP shell around both.
"""
