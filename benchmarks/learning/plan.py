from dataclasses import dataclass
@dataclass(frozen=True)
class Size:
    name: str = "cpu"
    width: int = 96
    layers: int = 4
    heads: int = 4
    base_rate: float = 2e-3
    base_batch: int = 256
    base_steps: int = 7000
    base_decay: int = 1000
    base_level: float = 0.93
