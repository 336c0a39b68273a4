"""What the output of a quickstart recipe must contain, whichever host runs it."""

DEFAULTS = "OTR is active: objective otr (256 samples"
NLL = "+ 0.1 NLL"


def assert_objective_of(path, printed):
    """Asserts that the output announces the objective after which the recipe is named."""
    assert (DEFAULTS in printed) == ("-otr" in path.stem)
    assert (NLL in printed) == path.stem.endswith("-otr-nll")
