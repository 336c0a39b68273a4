"""Searches for recipes that a host reads otherwise than a person does.

A right recipe is drawn at random, with up to two mutations, each of which carries the outcome that a person expects:
OTR with the settings in the file, plain training, or one clear error. The host's own reader then reads the recipe, up
to the point where a model would load, and the two are compared.
"""
