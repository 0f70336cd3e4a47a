"""The causes that faults of a host are noted under: a lane's models, its output, its batch's folder, its jobs' work."""

from collections.abc import Hashable

from jobs.job import Lane, LaneId
from jobs.settings import Settings
from worker.model_cache.lane_models import Wanted


def models_of(lane: Lane, settings: Settings) -> Hashable:
    """The cause of faults of the lane's models."""
    return "models", Wanted.of(lane, settings.weights)


def output_of(lane: Lane) -> Hashable:
    """The cause of faults of the lane's output."""
    return "output", lane.output


def folder_of(lane: Lane) -> Hashable:
    """The cause of faults of the batch's folder in the output, which may be another installation's."""
    return "folder", lane.output, lane.batch


def work_of(lane: LaneId) -> Hashable:
    """The cause of faults that jobs of the lane met on their way, such as pictures that can't be fetched at present."""
    return "work", lane
