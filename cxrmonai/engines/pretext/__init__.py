"""Pretext tasks: each names its question, its loss and its figures; one trainer serves them all."""

from cxrmonai.engines.pretext.scoring import PictureGrid, TaskScores, task_figures
from cxrmonai.engines.pretext.tasks import (
    TASKS,
    Attributes,
    Masked,
    Measures,
    PretextTask,
    Reconstruction,
    RotationShift,
    StudyPair,
    count_findings,
    remake_task,
)

__all__ = [
    "TASKS",
    "Attributes",
    "Masked",
    "Measures",
    "PictureGrid",
    "PretextTask",
    "Reconstruction",
    "RotationShift",
    "StudyPair",
    "TaskScores",
    "count_findings",
    "remake_task",
    "task_figures",
]
