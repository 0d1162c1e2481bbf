"""Memory probes: small tasks whose answer lies in memory and nowhere else, scored exactly.

    Recall      what was seen where, when the camera comes back
    Occlusion   many past frames overlap the view, few saw it
    Evolve      a state that moves on while nothing is seen
    Law         a rule that only reference clips show
    Switch      two facts that contradict each other: the newer one counts

A `Mechanism` shows a small Wan the past of a probe, and `run_probe` measures what the model makes of it.
"""

from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.catalogue import PROBES, make_probe
from memkit.probes.evolve import Evolve, EvolveKnobs
from memkit.probes.law import Law, LawKnobs
from memkit.probes.mechanisms import MECHANISMS, Mechanism, import_mechanism
from memkit.probes.occlusion import Occlusion, OcclusionKnobs
from memkit.probes.pretrain import pretrained
from memkit.probes.probe import Probe, ProbeKnobs, Range
from memkit.probes.recall import Recall, RecallKnobs
from memkit.probes.run import ProbeResult, run_identity, run_probe, run_settings
from memkit.probes.settings import ProbeSettings
from memkit.probes.switch import Switch, SwitchKnobs
from memkit.probes.table import probe_table, read_results, write_results

__all__ = [
    "Evolve",
    "EvolveKnobs",
    "Law",
    "LawKnobs",
    "MECHANISMS",
    "Mechanism",
    "Occlusion",
    "OcclusionKnobs",
    "PROBES",
    "Probe",
    "ProbeBatch",
    "ProbeKnobs",
    "ProbeResult",
    "ProbeSettings",
    "Question",
    "Range",
    "Recall",
    "RecallKnobs",
    "Switch",
    "SwitchKnobs",
    "import_mechanism",
    "make_probe",
    "pretrained",
    "probe_table",
    "read_results",
    "run_identity",
    "run_probe",
    "run_settings",
    "write_results",
]
