"""One sampling run, whatever the host: what to do at each evaluation, and what it leaves behind.

session    begin an evaluation, observe its attention, ask for the ratio map: the object a host talks to
noise      the noise level of an evaluation, in ε, v, x0 or flow terms
record     one small record per evaluation; the last few finished runs
notes      what the user is told
words, masks, agreement    what is read out of a record
"""
