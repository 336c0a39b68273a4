"""A soak: a long toy run in a host, with OTR and without, and whether memory, step time or metrics drift."""
