"""Cuts the power at every moment of a recorded run, and looks at what is left.

A child runs under strace. What it did to the files below a root is done again to a `Disk`; after each
step the states that a power cut may leave there are laid out as folders, one after the other, and looked
at. Nothing that the child had acknowledged before that moment may be missing.

"All" is what is left when not the machine but the process dies there: nothing of what it wrote is missing
then.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import strace
from .aftermath import Left, unfinished, work_off
from .child import Broken, Options, Subject, program
from .disk import Names, State
from .record import Record
from .replay import Replay


@dataclass(frozen=True, slots=True)
class Loss:
    """A state in which something is missing."""

    moment: int
    case: str
    missing: frozenset[str]
    #: Why nothing could be found, if that was so.
    broken: str = ""


@dataclass(slots=True)
class Outcome:
    """The sum of all power cuts."""

    moments: int = 0
    #: How many states there were, and how many that were not the same as another.
    states: int = 0
    different: int = 0
    acknowledged: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)
    #: What was wrong after recovery.
    wrong: list[str] = field(default_factory=list)

    @property
    def killed(self) -> list[Loss]:
        """The items that were lost though only the process died."""
        return [loss for loss in self.losses if loss.case == "all"]

    def __str__(self) -> str:
        cases = Counter(loss.case for loss in self.losses)
        lost = ", ".join(f"{case} {count}" for case, count in cases.items())
        return (
            f"{self.moments} moments, {self.states} states, {self.different} of them different,"
            f" {len(self.acknowledged)} acknowledged, {len(self.losses)} states with losses"
            + (f" ({lost}); the first: {self.losses[0]}" if lost else "")
            + (f"; after recovery: {self.wrong}" if self.wrong else "")
        )


def cut(
    folder: Path,
    subject: type[Subject],
    options: Options,
    *,
    names: Names = "file",
    mixes: int = 2,
    recover: int = 0,
    seed: int = 0,
) -> Outcome:
    """Let a subject enqueue and run some items, and cut its power at every moment of that.

    In so many of the states that are left, it also has to run what is there.
    """
    root, record, log = folder / "disk", folder / "record", folder / "strace"
    root.mkdir()
    ended = strace.run(log, program(subject, "cycle", root / "journal", record, options))
    assert ended.returncode == 0, ended.stdout
    outcome, chance = Outcome(), random.Random(seed)
    kept: list[tuple[str, State, set[str]]] = []
    replay = Replay(root, record, names=names)
    seen: dict[bytes, set[str] | Broken] = {}
    for moment in strace.read(log):
        if not replay.step(moment):
            continue
        outcome.moments += 1
        outcome.acknowledged |= replay.acknowledged
        for case, state in replay.disk.states(chance, mixes):
            outcome.states += 1
            digest = _digest(state)
            if digest not in seen:
                seen[digest] = _look(state, subject, folder / "left")
                # So many of all, each with the same chance.
                if len(kept) < recover:
                    kept.append((f"moment {outcome.moments}, {case}", state, set(replay.acknowledged)))
                elif (place := chance.randrange(len(seen))) < recover:
                    kept[place] = (f"moment {outcome.moments}, {case}", state, set(replay.acknowledged))
            found = seen[digest]
            if isinstance(found, Broken):
                everything = frozenset(replay.acknowledged)
                outcome.losses.append(Loss(outcome.moments, case, everything, str(found)))
            elif missing := frozenset(replay.acknowledged - found):
                outcome.losses.append(Loss(outcome.moments, case, missing))
    outcome.different = len(seen)
    outcome.wrong = _recover(folder / "recovered", kept, subject, options) if kept else []
    return outcome


def _recover(
    folder: Path, states: list[tuple[str, State, set[str]]], subject: type[Subject], options: Options
) -> list[str]:
    """Start the subject on these states, and say what is wrong then."""
    folder.mkdir()
    left = []
    for number, (how, state, acknowledged) in enumerate(states):
        each = Left(how, folder / str(number))
        _lay_out(state, each.root)
        record = Record(each.record)
        for fact in acknowledged:
            record.mark("ack", fact)
        record.close()
        left.append(each)
    work_off(left, subject, options)
    return [f"{each.how}: {complaint}" for each in left for complaint in unfinished(each, subject)]


def _digest(state: State) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path, content in state.items():
        length = -1 if content is None else len(content)
        digest.update(f"{path}\0{length}\0".encode())
        digest.update(content or b"")
    return digest.digest()


def _look(state: State, subject: type[Subject], where: Path) -> set[str] | Broken:
    _lay_out(state, where)
    try:
        return subject.look(where / "journal")
    except Broken as broken:
        return broken


def _lay_out(state: State, where: Path) -> None:
    """Make a folder hold that and nothing else."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    for path, content in state.items():
        if content is None:
            os.mkdir(where / path)
        else:
            (where / path).write_bytes(content)
