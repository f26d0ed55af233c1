"""Cuts: of a long list that a task returned, a batch that maps over a part of it gets that part."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.slots import How, Ref, refs
from headrace.core.strips import Strip

#: By batch that holds a list: the node that returned it, and the range of elements that are needed.
Cuts = dict[int, tuple[int, int, int]]


def cuts_of(nodes: Sequence[NodeRun], strips: Sequence[Strip], inputs: Sequence[int], heavy: set[int]) -> Cuts:
    """Return from which inputs of a batch a part is enough.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    strips : sequence of Strip
        The batch.
    inputs : sequence of int
        The batches that hold what it takes.
    heavy : set of int
        Batches whose values are expensive to move.
    """
    cuts: Cuts = {}
    whole: set[int] = set()
    candidates = heavy.intersection(inputs)
    for column, low, high in strips if candidates else ():
        for node in column:
            for edge in nodes[node].spec.inputs:
                source = nodes[edge.source]
                holders = source.holders[low:high] if edge.kind is EdgeKind.CHILD else source.holders
                for holder in candidates.intersection(holders) if edge.data else ():
                    own = not source.spec.mapped and _element_by_element(nodes[node], edge.source)
                    listed, first, last = cuts.get(holder, (edge.source, low, high))
                    cuts[holder] = listed, min(first, low), max(last, high)
                    if not own or listed != edge.source:
                        whole.add(holder)
    return {holder: cut for holder, cut in cuts.items() if holder not in whole}


def _element_by_element(run: NodeRun, source: int) -> bool:
    """Whether each task run of a mapped node takes its own element of a value, and nothing else of it."""
    own = Ref(source, (), How.EACH)
    return run.spec.mapped and all(
        slot == own for slot in run.spec.slots() if any(ref.node == source for ref in refs(slot))
    )
