"""The strategy of hypothesis that draws cases."""

from __future__ import annotations

from hypothesis import strategies as st

from benchmarks.fuzz.cases import Case
from benchmarks.fuzz.hosts import HOSTS
from benchmarks.fuzz.mutations import MUTATIONS
from benchmarks.fuzz.recipes import Draft, Draw, draft_of


@st.composite
def cases(draw: Draw[object], host: str, only: str | None = None) -> Case:
    """A recipe for the host with up to two mutations; `only` names the single mutation that every case has."""
    possible = [m for m in MUTATIONS if host in m.hosts and only in (None, m.name)]
    with_otr = draw(st.sampled_from([False, True, True, True] if only is None else [m.with_otr for m in possible]))
    draft: Draft = draft_of(draw, HOSTS[host], with_otr)  # type: ignore[arg-type]
    free = [m for m in possible if m.with_otr is with_otr]
    count = 1 if only else draw(st.sampled_from([1, 0, 1, 1, 2]))
    assert isinstance(count, int)
    for _ in range(count):
        if not free:
            break
        mutation = draft.pick(free)
        mutation.apply(draft)
        draft.mutations.append(mutation.name)
        free = [m for m in free if not m.touches & mutation.touches and m is not mutation]
    return draft.finish()
