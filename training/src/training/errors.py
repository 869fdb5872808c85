"""Failures that a pipeline tells apart: the state machine matches them by name."""


class PipelineError(RuntimeError):
    """A step cannot do its work, and trying again would not help: says what to do."""


class TransientError(RuntimeError):
    """Something that the step needs does not answer: the same call may work later."""


class InputError(PipelineError):
    """The input of an execution is not what the state machine takes: names the field."""
