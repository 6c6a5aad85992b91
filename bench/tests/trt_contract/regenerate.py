"""Read the names of both binding wheels and write ``bench/testing/tensorrt_names.json``.

python -m bench.tests.trt_contract.regenerate
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.files import write_atomic
from bench.testing.trt_fake import MANIFEST
from bench.tests.trt_contract.stubs import Bindings, unpack, wheels, why_not

CLASSES = (
    "Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory",
    "IInt8Calibrator", "IInt8EntropyCalibrator", "IInt8EntropyCalibrator2", "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IOutputAllocator",
    "ITensor", "ITimingCache", "Logger", "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
"""What a builder or a runner of ONNX files can touch; the other hundred are layers and plug-ins."""
_ABOUT = (
    "Names in NVIDIA's TensorRT bindings, read out of the wheels over stub libraries by "
    "`python -m bench.tests.trt_contract.regenerate`. enums: members (no integers: they differ between versions). "
    "classes: attribute -> 'ro' | 'rw' | signatures [least, most, parameter names]; [] documents none."
)


def read_names(bindings: Bindings) -> dict[str, Any]:
    """Names of one version, of all classes."""
    script = Path(__file__).with_name("dump_names.py").read_text("utf-8")
    done = bindings.run(script)
    if done.returncode != 0:
        raise RuntimeError(f"{bindings.version}: cannot be imported over stubs ({done.returncode}): {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kept(names: dict[str, Any]) -> dict[str, Any]:
    """The part that the manifest holds."""
    classes = {name: names["classes"][name] for name in CLASSES if name in names["classes"]}
    return {**names, "classes": classes}


def main() -> int:
    """Write the manifest."""
    if reason := why_not():
        sys.stderr.write(f"{reason}\n")
        return 2
    found = {}
    for version, wheel in wheels().items():
        with tempfile.TemporaryDirectory() as folder:
            found[version] = kept(read_names(unpack(wheel, Path(folder))))
    lines = [f' "{version}": {json.dumps(names, sort_keys=True)}' for version, names in found.items()]
    text = f'{{"format": 1, "about": {json.dumps(_ABOUT)}, "versions": {{\n' + ",\n".join(lines) + "\n}}\n"
    write_atomic(MANIFEST, text)
    sys.stdout.write(f"{MANIFEST}: {', '.join(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
