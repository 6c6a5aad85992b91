"""``python -m bench.commands.storekey``: two keys for whoever keeps the store between jobs (a CI cache).

``host=...`` is what an engine is bound to: GPU, driver, versions of the runtimes. ``files=...`` is what the ONNX files
come from: weights, adapters, converters, builder. The store's own keys hold the hashes of the ONNX files themselves; a
CI system has to name its cache before these exist, and they follow from these sources.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import precision, trt
from bench.artifacts import key_of, source_sha256
from bench.files import sha256_file
from bench.host import describe_host
from bench.registry import adapter_names, load_adapter

_DIGITS = 16
_RUNTIMES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt_cu12_libs", "tensorrt_cu13_libs")


def host_identity() -> dict[str, Any]:
    """GPU with driver, Python, and the versions that engines and exports depend on."""
    host = describe_host()
    versions = dict(host["versions"])
    versions.pop("backend-parity", None)
    for name in _RUNTIMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"gpu": host["gpu"], "python": host["python"], "versions": versions}


def files_identity() -> dict[str, Any]:
    """Hashes of the default weights and of the code that makes files of them."""
    folders = {module.__name__: Path(str(module.__file__)).parent for module in (precision, trt)}
    adapters = {}
    for name in adapter_names():
        adapter = load_adapter(name)
        module = sys.modules[type(adapter).__module__]
        weights = adapter.spec.default_weights
        adapters[name] = [
            source_sha256(Path(str(module.__file__)).parent),
            sha256_file(weights) if weights is not None and weights.is_file() else None,
        ]
    return {"code": {name: source_sha256(folder) for name, folder in folders.items()}, "adapters": adapters}


def store_keys() -> dict[str, str]:
    """``host`` and ``files``, 16 hexadecimal digits each."""
    return {"host": key_of(host_identity())[:_DIGITS], "files": key_of(files_identity())[:_DIGITS]}


def main() -> int:
    """Print the keys as ``name=value`` lines, the form of a GitHub step's outputs."""
    sys.stdout.writelines(f"{name}={value}\n" for name, value in store_keys().items())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
