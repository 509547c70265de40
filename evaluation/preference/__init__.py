"""Human preference, as in the paper's Table 1: pairs of images shown blind, side by side, and the votes counted.

build    a static page with image pairs of two arms, and a key that says which arm made which image
votes    the files that voters download
result   the key and the votes → wins, losses, shares and their intervals
"""
