"""One sampling run, whatever the host: what to do at each evaluation, and what it leaves behind.

session    begin an evaluation, observe its attention, ask for the ratio map: the object a host talks to
collection, predictions, noise      how maps are collected; what a host knows of an evaluation
magnitude  regions without attention, where a model cannot be observed
evaluation, record, trace           one small record per evaluation; a run; the last few runs
notes      what the user is told
words, masks, agreement    what is read out of a record
"""
