"""Names of classes: from the file, else from a model with as many, else not at all."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters._shared.checkpoints import read_facts
from adapters._shared.classes import class_names_of
from bench.errors import InputError

KNOWN = {"small": ("disc", "ring"), "other": ("cat", "dog"), "large": ("a", "b", "c")}
SIZE = (96, 160)


def test_names_of_the_file_come_before_those_of_a_model_with_as_many() -> None:
    assert class_names_of({"class_names": ["x", "y"]}, 2, known=KNOWN, image_hw=SIZE, source="weights w") == ("x", "y")


def test_without_names_the_first_model_with_as_many_classes_gives_them() -> None:
    assert class_names_of({}, 2, known=KNOWN, image_hw=SIZE, source="weights w") == ("disc", "ring")
    assert class_names_of({"image_size": [1, 1]}, 3, known=KNOWN, image_hw=SIZE, source="weights w") == ("a", "b", "c")


def test_names_that_are_not_as_many_as_the_outputs_are_refused() -> None:
    with pytest.raises(InputError, match=r"^weights w name 3 classes and have 2$"):
        class_names_of({"class_names": ["x", "y", "z"]}, 2, known=KNOWN, image_hw=SIZE, source="weights w")


def test_what_the_message_says_to_type_writes_the_names_into_the_file(tmp_path: Path) -> None:
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "IN.safetensors")
    with pytest.raises(InputError) as caught:
        class_names_of({}, 5, known=KNOWN, image_hw=SIZE, source="weights w")
    text = str(caught.value)
    assert text.startswith("weights w have 5 classes and do not say which: small has 2, other has 2, large has 3. ")
    program = shlex.split(text[text.index("python -c") :])
    subprocess.run([sys.executable, *program[1:]], cwd=tmp_path, check=True)
    assert read_facts(tmp_path / "OUT.safetensors") == {"class_names": ["first", "second"], "image_size": list(SIZE)}
    assert json.dumps(list(SIZE)) in text
