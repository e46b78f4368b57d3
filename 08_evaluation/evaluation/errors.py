"""The error that a user can cause in this stage."""


class EvaluationError(ValueError):
    """Something that cannot be measured, in one line with the way out."""
