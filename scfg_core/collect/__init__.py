"""While a model runs: q and k of its attention layers go in, fused token maps per prompt come out.

calls      one call of an attention layer: q, k, whose rows, which keys are what
layers     which layers are observed
collector  S and C of a call (Eq. 8), propagated (Eq. 10) and summed per prompt
columns, sums       which columns a prompt needs, and their sums over the layers
operators, tiles    what acts as S: in PyTorch, and by Triton
backend, budget     who computes, and within which memory
fused, kernels      the Triton kernels as operations of PyTorch
"""
