"""What every party of a Holdfast cluster must agree on.

Ids, limits, errors, canonical encoding, signatures, tickets, receipts, the
erasure code and the wire messages. Nothing here imports another Holdfast
package, and nothing here ever sees a key that opens a chunk.
"""
