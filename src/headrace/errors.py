"""The error tree of headrace.

Each message says what was asked, what was found, and what to do. The facts are also attributes, every class
survives a pickle, and the standard class is a base where one fits::

    HeadraceError
    ├── FlowError(ValueError)                 a flow is not well formed
    │   ├── NodeUsedAsValue(TypeError)        `if node:`, `node + 1`, `for x in node` while drawing
    │   ├── NestedTooDeep(RecursionError)     tasks that return flows whose tasks return flows, and so on
    │   ├── UnstableFlow                      one flow function, the same parameters, two graphs
    │   └── ChangedSource                     the code that a stored flow names is not what it was
    ├── ParameterError(ValueError)            a parameter is unknown, missing or of the wrong type
    ├── SecretNotFound(LookupError)           a secret is not where the task runs; says where was looked
    ├── NotPicklable(TypeError)               something cannot travel; names the path to it
    ├── MissingPackage(ImportError)           an optional package is needed; names the pip line
    ├── MissingModule(ImportError)            code of the flow cannot be imported where it must run
    ├── StorageError(OSError)
    │   ├── NotFound(FileNotFoundError)
    │   │   └── NoSuchFlow(KeyError)          no flow of this name, number, label or digest
    │   ├── AlreadyExists(FileExistsError)
    │   ├── Conflict                          others changed it meanwhile, or still refer to it
    │   ├── AccessDenied(PermissionError)
    │   ├── Unreachable(ConnectionError)      no network, no such host, no answer in time
    │   ├── PickleRefused                     a pickle, where the user wants none
    │   ├── SigningKeyError                   a key that signs is missing, or cannot be used
    │   └── EnvelopeError                     what lies there is not an intact object of ours
    │       ├── ForeignObject                 not written by headrace
    │       ├── NewerFormat                   written by a later headrace
    │       ├── IncompatibleObject            written by another Python minor version, or a newer cloudpickle
    │       ├── TruncatedObject
    │       ├── DamagedObject
    │       └── UntrustedObject               not signed by a key that is trusted here
    ├── SetupError(RuntimeError)              an environment could not be brought up
    │   ├── NoSuchWorker                      no worker of the cluster offers what a task asks for
    │   └── KubernetesError                   Kubernetes refused what was asked, or does not answer
    ├── RunError(RuntimeError)                a run, or one of its task runs, did not succeed
    │   ├── TaskFailed                        the task said so, or the original exception could not travel
    │   ├── SecretReturned                    a task returned the text of a secret
    │   ├── TaskTimedOut(TimeoutError)        an attempt of the task took longer than its timeout
    │   ├── TriggerFailed                     upstream states did not satisfy the task's trigger
    │   ├── TaskCrashed                       the process that ran the task died, and no attempt is left
    │   ├── LoopLimit                         a loop was not done after the most turns that it may take
    │   ├── RunCancelled
    │   ├── RunTimedOut(TimeoutError)
    │   ├── NotCleanedUp                      a run had to end before its clean-ups were done
    │   ├── ClusterLost                       scheduler gone
    │   └── ValueReleased                     a value was asked for that is no longer kept
    ├── NotInTask(RuntimeError)               hr.context() where no task is being executed
    └── IllegalMove(AssertionError)           a bug of headrace itself; please report it

Two warnings: ``LeftOut(RuntimeWarning)``, of what a listing left out because it is not good or cannot be known, and
``PreflightWarning(UserWarning)``, of a build that found what may go wrong elsewhere.
"""

from __future__ import annotations

from typing import Any


def _rebuild(cls: type[HeadraceError], message: str, facts: dict[str, Any]) -> HeadraceError:
    return cls(message, **facts)


class HeadraceError(Exception):
    """Base of all errors that headrace raises on purpose.

    Parameters
    ----------
    message : str
        What was asked, what was found, what to do.
    **facts
        Become attributes of the error.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)


class FlowError(HeadraceError, ValueError):
    """A flow is not well formed."""


class NodeUsedAsValue(FlowError, TypeError):
    """A node was used as if its value were known while the flow is drawn."""


class NestedTooDeep(FlowError, RecursionError):
    """Tasks return flows whose tasks return flows, deeper than a run goes."""


class UnstableFlow(FlowError):
    """A flow function drew different graphs for the same parameters."""


class ChangedSource(FlowError):
    """The code that a stored flow names is not the code that was there when it was stored."""


class ParameterError(HeadraceError, ValueError):
    """A parameter is unknown, missing, or of the wrong type."""


class SecretNotFound(HeadraceError, LookupError):
    """A secret is not known where it was asked for."""


class NotPicklable(HeadraceError, TypeError):
    """Something that must travel to a storage or a worker cannot be pickled."""


class MissingPackage(HeadraceError, ImportError):
    """An optional package is needed for what was asked."""


class MissingModule(HeadraceError, ImportError):
    """A module that the flow uses cannot be imported where the flow must run."""


class StorageError(HeadraceError, OSError):
    """A storage did not do what was asked."""


class NotFound(StorageError, FileNotFoundError):
    """There is no such object in the storage."""


class NoSuchFlow(NotFound, KeyError):
    """No flow in the storage has this name, or no version of it this number, label or digest."""


class AlreadyExists(StorageError, FileExistsError):
    """An object that is created exclusively is there already."""


class Conflict(StorageError):
    """What was asked does not fit what others wrote: they changed it meanwhile, or refer to what shall be removed."""


class AccessDenied(StorageError, PermissionError):
    """The storage refuses access, or there are no credentials."""


class Unreachable(StorageError, ConnectionError):
    """The storage does not answer."""


class PickleRefused(StorageError):
    """A storage that is used with ``pickle=False`` was to hold a pickle, or to read one."""


class SigningKeyError(StorageError):
    """A key that signs what a storage holds is missing, or cannot be used."""


class EnvelopeError(StorageError):
    """What lies at a location is not an intact object of headrace."""


class ForeignObject(EnvelopeError):
    """The object was not written by headrace."""


class NewerFormat(EnvelopeError):
    """The object was written by a later version of headrace."""


class IncompatibleObject(EnvelopeError):
    """The object was written by another minor version of Python, or by a newer cloudpickle, than is here."""


class TruncatedObject(EnvelopeError):
    """The object is shorter than its header says."""


class DamagedObject(EnvelopeError):
    """The object does not match its digest."""


class SetupError(HeadraceError, RuntimeError):
    """An environment could not be brought up."""


class NoSuchWorker(SetupError):
    """A task asks for resources or workers that the cluster does not have."""


class KubernetesError(SetupError):
    """Kubernetes refused what was asked, does not answer, or did not bring up what it had taken on."""


class UntrustedObject(EnvelopeError):
    """The object is not signed by a key that is trusted here: unsigned, by another key, changed, or moved."""


class RunError(HeadraceError, RuntimeError):
    """A run, or one of its task runs, did not succeed."""


class TaskFailed(RunError):
    """A task said that it failed, or its own exception could not travel."""


class TaskTimedOut(RunError, TimeoutError):
    """An attempt of a task took longer than the task's timeout."""


class SecretReturned(RunError):
    """A task returned the text of a secret, which must not leave its worker."""


class TriggerFailed(RunError):
    """The upstream states did not satisfy the task's trigger, so it did not run."""


class TaskCrashed(RunError):
    """The process that ran the task died, and no attempt is left."""


class LoopLimit(RunError):
    """A loop was not done after the most turns that it may take."""


class RunCancelled(RunError):
    """The run was cancelled."""


class RunTimedOut(RunError, TimeoutError):
    """The run took longer than its flow's ``timeout``."""


class NotCleanedUp(RunError):
    """The run had to end before this was cleaned up."""


class ClusterLost(RunError):
    """The scheduler of the cluster is gone."""


class ValueReleased(RunError):
    """A value was asked for that is no longer kept."""


class NotInTask(HeadraceError, RuntimeError):
    """The context of a task was asked for where none is being executed."""


class IllegalMove(HeadraceError, AssertionError):
    """A state machine was asked for a move that its table does not hold."""


class LeftOut(RuntimeWarning):
    """A listing left something out: what is not good, so that it hides no others, or what cannot be known there."""


class PreflightWarning(UserWarning):
    """A flow was stored, and something in it may go wrong elsewhere, or costs much."""
