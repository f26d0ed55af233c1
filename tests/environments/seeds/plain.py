"""Flows of which each asks for one thing."""

import headrace as hr


@hr.task
def whisper(password: str) -> int:
    return len(password)


@hr.flow
def secretive():
    return whisper(hr.Secret("SEED_TOKEN"))


@hr.task(resources={"GPU": 1})
def shade(x: int) -> int:
    return x


@hr.flow
def greedy(n: int = 3):
    return shade.map(range(n))


@hr.task
def same(x: int) -> int:
    return x


@hr.flow
def modest(n: int):
    return same.map(range(n))


def keeping(target: hr.Target) -> hr.Flow:
    @hr.task(target=target)
    def keep(x: int) -> int:
        return x

    @hr.flow
    def kept(x: int = 1):
        return keep(x)

    return kept
