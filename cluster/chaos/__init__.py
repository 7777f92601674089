"""Breaking a local cluster on purpose, and proving that nothing was lost.

scenario    what is broken when, what load runs meanwhile, and what is expected (TOML, validated)
history     everything that happened in a run, as one line of JSON each
result      what came of a run
"""
