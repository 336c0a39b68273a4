"""Which features of each host train with OTR: a table of recipes for each host, run as twins.

A twin is two runs of one recipe: the host's own training, and `objective: sft` with the plugin. If OTR leaves a feature
alone, both log the same losses and gradient norms at every step.
"""
