"""The generated parts of the documentation are what the code says now.

    python tests/test_docs_generated.py        writes them anew
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from btw_core import fsm, safety, switches
from btw_core.checks import timeline
from btw_core.timing import Timing
from btw_core.types import State

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATED = {
    "states.md": fsm.markdown(),
    "safety.md": safety.markdown(),
    "cluster.md": switches.markdown(),
    "timeline.md": f"```text\n{timeline(Timing())}\n```",
}
PART = re.compile(r"(?<=<!-- generated -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_part_is_up_to_date(name: str) -> None:
    """Between the markers stands exactly what the code generates, once."""
    found = PART.findall((DOCS / name).read_text())
    assert found == [GENERATED[name]], f"docs/{name} is out of date: run python tests/test_docs_generated.py"


PRINTED = [("fsm", "states.md"), ("safety", "safety.md"), ("switches", "cluster.md")]


@pytest.mark.parametrize(("module", "name"), PRINTED)
def test_module_prints_its_page(module: str, name: str) -> None:
    """`python -m btw_core.fsm` prints what docs/states.md shows, and so do safety and switches."""
    command = [sys.executable, "-m", f"btw_core.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip("\n") == GENERATED[name]


def test_diagram_has_every_state_and_every_change() -> None:
    """Each state is in the picture, each change of state is an arrow, and no arrow is drawn that is no row."""
    diagram = fsm.diagram()
    ids = {f"{state.name.lower()}": state for state in State}
    assert all(f'state "{state}" as {name}\n' in diagram for name, state in ids.items())
    arrows = {(ids[a], ids[b]) for a, b in re.findall(r"^ +(\w+) --> (\w+): ", diagram, re.MULTILINE)}
    assert arrows == {(row.state, row.next) for row in fsm.ROWS if row.state is not row.next}


@pytest.mark.parametrize("name", GENERATED)
def test_design_leads_to_the_pictures(name: str) -> None:
    """docs/design.md links each."""
    assert f"]({name})" in (DOCS / "design.md").read_text()


def write() -> None:
    for name, text in GENERATED.items():
        path = DOCS / name
        old = path.read_text()
        path.write_text(PART.sub(lambda _, text=text: text, old))  # type: ignore[misc]


if __name__ == "__main__":
    write()
