"""While a model runs: q and k of its attention layers go in, fused token maps per prompt come out.

calls      one call of an attention layer: q, k, whose rows, which keys are what
layers     which layers are watched
collector  S and C of a call (Eq. 8), propagated (Eq. 10) and summed per prompt
operators, budget, sums    its parts
"""
