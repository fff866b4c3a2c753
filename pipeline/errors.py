"""Every error a user can meet. The command prints the message alone and exits with `exit_code`.

QuantgateError
├── RecipeError        the recipe or a prompt set says something impossible
├── SetupError         an environment cannot be built or is missing
├── CheckpointError    the source checkpoint is incomplete, unsafe or damaged
├── CalibrationError   prompts or texts are missing, changed, or overlap
├── QuantizeError      a quantizer failed or silently did less than asked
├── ArtifactError      an artifact is incomplete, damaged or not what its manifest says
├── EvaluationError    a measurement could not be made as the recipe demands
├── StageError         a worker process was stopped from outside, or another run holds the stage
├── WorkerCrashed      a tool or engine died on its own
├── DiskFull           this machine's disk has no room; another's may have
├── NoMemory           this machine's memory is too little, or a worker was killed as it is then
├── SignoffError       an approval, a key or the policy does not allow it
├── RegistryError      a registry refused, could not be reached, or gave back something else
├── Tampered           a signature or a hash does not hold
└── Rejected           the gate did not pass, or nobody approved
"""

from __future__ import annotations


class QuantgateError(Exception):
    """Base of all errors that are the user's business; the message names key or file, value,
    expectation, remedy."""

    exit_code = 2


class RecipeError(QuantgateError):
    pass


class SetupError(QuantgateError):
    pass


class CheckpointError(QuantgateError):
    pass


class CalibrationError(QuantgateError):
    pass


class QuantizeError(QuantgateError):
    pass


class ArtifactError(QuantgateError):
    pass


class EvaluationError(QuantgateError):
    pass


class StageError(QuantgateError):
    pass


class WorkerCrashed(QuantgateError):
    pass


class DiskFull(QuantgateError):
    exit_code = 4


class NoMemory(QuantgateError):
    exit_code = 5


class SignoffError(QuantgateError):
    pass


class RegistryError(QuantgateError):
    pass


class Tampered(QuantgateError):
    exit_code = 3


class Rejected(QuantgateError):
    exit_code = 1


def by_name(name: str) -> type[QuantgateError]:
    """The error class that a worker process reported by name."""
    classes = {cls.__name__: cls for cls in QuantgateError.__subclasses__()}
    return classes.get(name, StageError)
