"""The folders of the repository that benchmarks and tests use."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "example_configs"
RESULTS = ROOT / "benchmarks" / "results"
