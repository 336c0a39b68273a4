"""Searches for uses of otr_loss and attach whose result is wrong.

A right call of otr_loss is drawn at random, with up to one mistake. A right call has to give the loss, the metrics and
the gradients that truth.py computes from the formulas; a mistake has to raise one ValueError that names the argument.
An attached model goes through random operations, and after each of them it has to give what docs/attached-model.md
promises.
"""
