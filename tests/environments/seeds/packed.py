"""A flow that needs a package of others."""

import seed_pack

import headrace as hr


@hr.task
def use(x: int) -> int:
    return seed_pack.same(x)


@hr.flow
def packed(x: int = 1):
    return use(x)
