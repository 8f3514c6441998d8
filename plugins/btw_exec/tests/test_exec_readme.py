"""The examples of the README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from btw_core.resource import CheckContext
from btw_exec import btw_package_file, btw_resource_types

README = Path(__file__).parents[1] / "README.md"
CHECK = CheckContext(cluster="c", node="n", package="p", everything=())


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_package_files() -> None:
    """Each resource in an example is one that the plugin reads and finds in order (but for missing scripts)."""
    types = {kind.__struct_config__.tag: kind for kind in btw_resource_types()}
    seen = set()
    for block in blocks("toml"):
        for table in tomllib.loads(block).get("resource", []):
            resource = msgspec.convert(table, types[table["type"]])
            seen.add(table["type"])
            problems = [problem for problem in resource.check(CHECK) if problem.key != "user"]
            assert not problems or table["type"] in ("script", "external"), problems
    assert seen == set(types)


def test_package_script(tmp_path: Path) -> None:
    """The example of a package script is one."""
    (block,) = blocks("sh")
    path = tmp_path / "packages" / "web"
    path.parent.mkdir()
    path.write_text(block)
    path.chmod(0o755)
    package = btw_package_file(path)
    assert package is not None
    assert package["package"] == {"pace": 4, "timeout": 30, "start_timeout": 10, "stop_timeout": 10}
