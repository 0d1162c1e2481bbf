"""``memkit probe``: a mechanism of memory on all probes, and its place in the table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Probe:
    """Run a mechanism of memory on small tasks whose answer lies in memory alone, and print its place in the table.

    Each probe first trains a small model that can retrieve, once, and then the mechanism from there. Modules are found
    in the current folder, too.
    """

    mechanism: tyro.conf.Positional[str]
    """The path to your class, such as my_module:MyMethod, or the name of one of memkit's own mechanisms."""
    probes: tuple[str, ...] = ()
    """Names of the probes; by default all."""
    seeds: tuple[int, ...] = (1,)
    """One run per seed and probe."""
    steps: int | None = None
    """Training steps; by default those of the leaderboard."""
    pretrain_steps: int | None = None
    """Training steps of the base; by default those of each probe."""
    samples: int | None = None
    """Test samples; by default those of the leaderboard."""
    leaderboard: Path | None = None
    """A leaderboard.json, whose rows the table shows, too."""
    out: Path = Path("out/probes")
    """Folder of the trained bases and of the results, which go into a file with the name of the mechanism."""
    threads: int = 1
    """Threads of the CPU."""
    device: str = "cpu"
    """Where the model runs, such as cuda."""

    def run(self) -> int:
        import torch

        from memkit.probes.catalogue import PROBES, make_probe
        from memkit.probes.mechanisms import MECHANISMS, import_mechanism
        from memkit.probes.run import run_probe
        from memkit.probes.settings import ProbeSettings
        from memkit.probes.table import other_settings, probe_table, read_results, result_line, write_results

        sys.path.insert(0, str(Path.cwd()))
        own = MECHANISMS.get(self.mechanism) or import_mechanism(self.mechanism)
        others = [] if self.leaderboard is None else read_results(self.leaderboard)
        given = {"steps": self.steps, "pretrain_steps": self.pretrain_steps, "samples": self.samples}
        settings = ProbeSettings(**{name: value for name, value in given.items() if value is not None})
        probes = [make_probe(name) for name in self.probes or PROBES]
        torch.set_num_threads(self.threads)
        file, results = self.out / f"{self.mechanism.replace(':', '.')}.json", []
        for probe in probes:
            for seed in self.seeds:
                results.append(
                    run_probe(
                        own,
                        probe,
                        seed,
                        settings,
                        name=self.mechanism,
                        folder=self.out,
                        device=self.device,
                        progress=True,
                    )
                )
                write_results(file, results)
                print(result_line(results[-1]))
        names = [probe.name for probe in probes]
        shown = [row for row in others if row.probe in names and row.mechanism != self.mechanism]
        print("\n" + probe_table([*results, *shown], marked=self.mechanism))
        for probe, difference in other_settings(results, shown).items():
            print(f"In {self.leaderboard}, {probe} was run with other settings: {difference}.")
        print(f"\n{file}: {len(results)} results")
        return 0
