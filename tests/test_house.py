"""The structure of the code, from its own imports: rooms, floors, no circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors", "quiet", "version"},
    {"checks", "display"},
    {"files", "flow"},
    {"hub"},
    {"attention", "cameras", "dit_mem_release", "frame_graph", "memory", "pretrained", "video"},
    {"backbones", "encoders", "interruptions", "report", "retrievers", "worlds"},
    {"banks", "injectors", "metrics", "positions"},
    {"generation", "prompts", "testing"},
    {"rollout", "streaming", "training"},
    {"evaluation", "modular", "probes"},
    {"memkit"},  # the public names
    {"demo"},
    {"app"},
    {"cli"},
)
"""The rooms of memkit: each imports only from lower floors. Encoders, retrievers and injectors are apart."""


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for top in ("memkit", "recipes") for file in (ROOT / top).rglob("*.py")}


def imports_of(file: Path) -> set[str]:
    """The modules of this repository that a file imports, anywhere in it, also for type checking alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & FILES.keys()


GRAPH = {name: imports_of(file) for name, file in FILES.items()}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The names along one circle, or none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "memkit" and len(parts) > 1 else parts[0]


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"] and not circle_in({"a": {"b"}, "b": set()})


def test_no_file_imports_itself_by_way_of_others():
    assert circle_in(GRAPH) == []


def test_imports_point_down():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {room_of(name) for name in FILES if name.startswith("memkit")}
    assert rooms == set(floor)
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.startswith("memkit") and room_of(name) != room_of(other)
        if not other.startswith("memkit") or floor[room_of(other)] >= floor[room_of(name)]
    ]
    assert up == []


def loaded_with(module: str, before: frozenset[str] = frozenset()) -> set[str]:
    """All modules that an import of ``module`` loads, in their own names, but for those that functions load."""
    loaded = set(before)
    for name in (module.rsplit(".", up)[0] for up in range(module.count(".") + 1)):
        if name not in loaded:
            loaded.add(name)
            for node in ast.parse(FILES[name].read_text(encoding="utf-8")).body if name in FILES else ():
                if isinstance(node, ast.ImportFrom) and node.module:
                    for each in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                        if each in FILES or each == node.module:
                            loaded |= loaded_with(each, frozenset(loaded))
                elif isinstance(node, ast.Import):
                    loaded |= {alias.name for alias in node.names}
    return loaded


def test_the_main_names_load_no_library_of_a_task_of_its_own():
    modules = ("injectors.self_attention", "injectors.kv_cache.cache", "banks.bank")
    loaded = {name.split(".")[0] for module in modules for name in loaded_with(f"memkit.{module}")}
    assert {"torch", "diffusers", "memkit"} <= loaded
    assert not loaded & {"av", "faiss", "timm", "torchmetrics", "tyro"}


def test_the_root_holds_at_most_12_files_and_rooms_have_a_front():
    assert len(list((ROOT / "memkit").glob("*.*"))) <= 12
    rooms = [folder for folder in (ROOT / "memkit").rglob("*") if folder.is_dir() and list(folder.glob("*.py"))]
    assert not [str(folder) for folder in rooms if not (folder / "__init__.py").exists()]


def test_no_test_file_is_too_long_to_read():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "tests").rglob("*.py")}
    assert not {str(file): length for file, length in lengths.items() if length > 350}


@pytest.mark.parametrize("paper", ["dit_mem", "echo_memory", "memlearner", "remind"])
def test_a_recipe_does_not_depend_on_its_studies(paper):
    commands = [f"recipes.{paper}.{name}" for name in ("presets", "prepare", "train", "generate", "evaluate")]
    assert FILES.keys() >= set(commands)
    own = {name: others for name, others in GRAPH.items() if name.startswith("recipes.") and ".studies" not in name}
    assert not [(name, other) for name, others in own.items() for other in others if ".studies" in other]


@pytest.mark.parametrize("command", ["prepare", "train", "generate", "evaluate"])
@pytest.mark.parametrize("paper", ["dit_mem", "echo_memory", "memlearner", "remind"])
def test_a_command_is_read_in_at_most_6_files_outside_memkit(paper, command):
    todo, read = [f"recipes.{paper}.{command}"], set()
    while todo:
        read.add(name := todo.pop())
        todo += [other for other in GRAPH[name] - read if other.startswith("recipes.")]
    files = {name for name in read if FILES[name].name != "__init__.py"}
    assert len(files) <= 6, sorted(files)
