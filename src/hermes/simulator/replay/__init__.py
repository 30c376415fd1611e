"""Trace replay: scheduling policies run against recorded arrivals, in virtual time.

study = Study(read_trace(path), box, ("grouped", "ollama"), rates=(0.8,), seeds=(1, 2, 3))
print(table([trial.figures for trial in trials(study)]))
"""

from hermes.simulator.replay.box import Box, Model
from hermes.simulator.replay.figures import Figures
from hermes.simulator.replay.policies import POLICIES, Policy
from hermes.simulator.replay.study import Study, Trial, trials
from hermes.simulator.replay.table import table
from hermes.simulator.replay.trace import Arrival, read_trace
from hermes.simulator.replay.workload import models_by_use

__all__ = [
    "POLICIES",
    "Arrival",
    "Box",
    "Figures",
    "Model",
    "Policy",
    "Study",
    "Trial",
    "models_by_use",
    "read_trace",
    "table",
    "trials",
]
