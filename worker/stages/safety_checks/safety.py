"""Safety: score every image with the safety checker, and apply the batch's safety action to flagged ones."""

from worker.stages.safety_checks.safety_check_base_classes import ModelSafetyCheck


class Safety(ModelSafetyCheck):
    """Checks images; if the checker gives no usable result, the job fails."""

    name = "safety"
