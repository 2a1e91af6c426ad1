"""Projections: folds over events, one question each.

The contract, run against every one of them (tests/contracts/test_projections.py): folding the same events in any
order, in any batches, with repeats, gives the same state. So a projection keeps latest-wins stamps or joins, never
"remove from a set".
"""
