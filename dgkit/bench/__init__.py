"""``dgkit bench``: how fast each network and the whole sampler run on each engine, and what that costs.

The parent (:mod:`run`) plans and collects; every figure comes from a process of its own (:mod:`worker`).
"""
