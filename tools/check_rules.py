"""Checks the project's own rules by reading the source: ``python -m tools.check_rules`` in ``make lint``.

Five rules, each with the file and line where it is broken:

- *item*: a slot of ``WorkItem`` is written in ``core/item.py`` alone, a slot of a subclass where that is.
- *foreign*: no private name of another library is used, and nothing of Celery, kombu, redis-py, gevent,
  billiard or amqp is changed.
- *extensions*: nothing below ``app_state`` looks into ``app.extensions["background"]``.
- *flask*: nothing below ``app_state`` imports Flask but for types.
- *prose*: no docstring begins with a word such as "What" or "It", which does not name its subject.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

from tools.rules.below import find_flask_imports, find_look_ups
from tools.rules.foreign import find_foreign, private_name, private_names_of
from tools.rules.items import find_writes, slots_of_items
from tools.rules.prose import find_vague

PACKAGE = Path(__file__).parents[1] / "flask_background"
#: The packages and modules below ``app_state``.
BELOW = {
    "celery",
    "durable",
    "local",
    "hosts",
    "executors",
    "globals",
    "payload",
    "core",
    "signals",
    "errors",
    "concurrency",
}
#: Private names that their libraries document, or Python does.
DOCUMENTED = {
    "_asdict",
    "_exit",
    "_fields",
    "_get_current_object",
    "_get_running_loop",
    "_make",
    "_replace",
    "_set_running_loop",
}
#: Private names that cannot be done without, by file. Each has a test that fails when the name is gone.
NEEDED = {
    "hosts/gunicorn.py": {"_current_frames"},
    "hosts/gunicorn_worker.py": {"_current_frames"},
    "hosts/server_start.py": {"_current_frames"},
    "payload/live.py": {"_sa_class_manager", "_sa_instance_state"},
    "payload/data_check.py": {"_sa_class_manager"},
}
#: Files that may break a rule, by their path in the package. An entry that nothing needs is an error.
ALLOWED: dict[str, tuple[str, ...]] = {
    "flask": ("payload/tagged_json.py",),  # Flask's own way to write JSON
}


class Finding(NamedTuple):
    """One place where a rule is broken."""

    rule: str
    path: str
    line: int
    what: str


def check(package: Path, allowed: dict[str, tuple[str, ...]]) -> list[str]:
    """All findings in the files of a package, as lines of text."""
    sources = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    findings: list[Finding] = []
    slots, ours = slots_of_items(sources), private_names_of(sources.values())
    for path, tree in sources.items():
        name = path.relative_to(package).as_posix()
        findings += (Finding("item", name, line, what) for line, what in find_writes(tree, path, slots))
        findings += (Finding("prose", name, line, what) for line, what in find_vague(tree))
        known = ours | DOCUMENTED | NEEDED.get(name, set())
        findings += (Finding("foreign", name, line, what) for line, what in find_foreign(tree, known))
        if name.split("/")[0].removesuffix(".py") in BELOW:
            findings += (Finding("extensions", name, line, what) for line, what in find_look_ups(tree))
            findings += (Finding("flask", name, line, what) for line, what in find_flask_imports(tree))
        used = {private[1] for node in ast.walk(tree) if (private := private_name(node)) is not None}
        unused = sorted(NEEDED.get(name, set()) - used)
        findings += (
            Finding("foreign", name, 1, f"{each} is not used any more: see NEEDED") for each in unused
        )
    needed: set[tuple[str, str]] = set()
    lines = []
    for finding in findings:
        entry = next((each for each in allowed.get(finding.rule, ()) if finding.path.startswith(each)), None)
        if entry is None:
            lines.append(f"{package.name}/{finding.path}:{finding.line}: {finding.what}")
        else:
            needed.add((finding.rule, entry))
    for rule, entries in allowed.items():
        lines += [
            f"{Path(__file__).name}: nothing needs {entry!r} in ALLOWED[{rule!r}] any more: delete it"
            for entry in entries
            if (rule, entry) not in needed
        ]
    return lines


def main() -> None:
    """Print the findings, and fail if there are some."""
    lines = check(PACKAGE, ALLOWED)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
