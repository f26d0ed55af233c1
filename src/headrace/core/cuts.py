"""Cuts: of a long list that a task returned, a batch that maps over a part of it gets that part."""

from __future__ import annotations

from collections.abc import Sequence, Set

from headrace.core.noderun import NodeRun
from headrace.core.slots import How, Ref, refs
from headrace.core.strips import Strip

#: By batch that holds a list: the node that returned it, and the range of elements that are needed.
Cuts = dict[int, tuple[int, int, int]]


def cuts_of(nodes: Sequence[NodeRun], strips: Sequence[Strip], inputs: Sequence[int], heavy: Set[int]) -> Cuts:
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
    candidates = {batch for batch in inputs if batch in heavy}
    for column, low, high in strips if candidates else ():
        for node in column:
            spec = nodes[node].spec
            for edge in spec.inputs if spec.mapped else ():
                holder = nodes[edge.source].holders[0] if len(nodes[edge.source].holders) == 1 else -1
                if holder not in candidates or not edge.data:
                    continue
                known = cuts.get(holder, (edge.source, low, high))
                if known[0] != edge.source or not _element_by_element(nodes[node], edge.source):
                    whole.add(holder)
                cuts[holder] = known[0], min(known[1], low), max(known[2], high)
            if not spec.mapped:
                whole.update(holder for edge in spec.inputs if edge.data for holder in nodes[edge.source].holders)
            else:
                whole.update(
                    holder
                    for edge in spec.inputs
                    if edge.data and nodes[edge.source].spec.mapped
                    for holder in candidates.intersection(nodes[edge.source].holders)
                )
    return {holder: cut for holder, cut in cuts.items() if holder not in whole}


def _element_by_element(run: NodeRun, source: int) -> bool:
    """Whether each task run of a mapped node takes its own element of a value, and nothing else of it."""
    own = Ref(source, (), How.EACH)
    return all(slot == own for slot in run.spec.slots() if any(ref.node == source for ref in refs(slot)))
