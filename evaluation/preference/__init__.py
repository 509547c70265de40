"""Human preference, as in the paper's Table 1: pairs of pictures shown blind, side by side, and the votes counted.

build    a static page with pairs of pictures by two arms, and a key that says which is whose
votes    the files that voters download
result   the key and the votes → wins, losses, shares and their intervals
"""
