"""``dgkit bench``: how fast each network and the whole sampler run on each engine, and what that costs.

:mod:`~dgkit.bench.benchmark` plans and collects; every figure comes from a process that runs
:mod:`~dgkit.bench.measure`.
"""
