"""A training step on paper: what `otr memory` runs. Nothing here is imported before that verb runs.

recipe -> recipes/HOST.py -> TrainingPlan -> model.py -> step.py, on fake tensors -> ledger.py -> estimate.py
"""
