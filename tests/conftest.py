"""How property tests draw: the same examples each time, or others each time."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

# CI asks whether a change broke something, and must answer the same twice; looking for what nobody has
# thought of is `make soak`, which draws anew each round and prints how to see a failure again.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile(
    "soak", print_blob=True, deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
