"""Keys under which host faults are recorded: a lane's models, output, folder, policy, services and inputs."""

from collections.abc import Hashable

from jobs.job_dataclasses import Lane, LaneId
from jobs.settings import Settings
from worker.model_cache.lane_models import ModelKey

CONTENT_SAFETY: Hashable = ("content-safety",)
"""The cause for faults of the content-safety service."""


def models_of(lane: Lane, settings: Settings) -> Hashable:
    """The cause for faults in loading the lane's models."""
    return "models", ModelKey.of(lane, settings.weights)


def output_of(lane: Lane) -> Hashable:
    """The cause for faults in writing to the lane's output."""
    return "output", lane.output


def folder_of(lane: Lane) -> Hashable:
    """The cause for faults of the batch's folder in the output, which may belong to another installation."""
    return "folder", lane.output, lane.folder


def policy_of(lane: Lane) -> Hashable:
    """The cause for keys of the batch's policy that this version doesn't know."""
    return "policy", lane.batch


def work_of(lane: LaneId) -> Hashable:
    """The cause for faults of the lane's jobs themselves, such as input images that can't be fetched at present."""
    return "work", lane
