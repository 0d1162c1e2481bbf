"""Memory probes: small tasks whose answer lies in memory and nowhere else, scored exactly.

Recall      what was seen where, when the camera comes back
Occlusion   many past frames overlap the view, few saw it
Evolve      a state that moves on while nothing is seen
Law         a rule that only reference clips show
Switch      two facts that contradict each other: the newer one counts
"""

from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.catalogue import PROBES, make_probe
from memkit.probes.evolve import Evolve, EvolveKnobs
from memkit.probes.law import Law, LawKnobs
from memkit.probes.mechanisms import MECHANISMS, Mechanism, NoMemory, Window, import_mechanism
from memkit.probes.occlusion import Occlusion, OcclusionKnobs
from memkit.probes.probe import Probe
from memkit.probes.recall import Recall, RecallKnobs
from memkit.probes.switch import Switch, SwitchKnobs

__all__ = [
    "Evolve",
    "EvolveKnobs",
    "Law",
    "LawKnobs",
    "Mechanism",
    "NoMemory",
    "Occlusion",
    "OcclusionKnobs",
    "PROBES",
    "Probe",
    "ProbeBatch",
    "Question",
    "Recall",
    "RecallKnobs",
    "Switch",
    "SwitchKnobs",
    "Window",
    "import_mechanism",
    "make_probe",
]
