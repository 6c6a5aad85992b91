"""What runs on the target machine: the command line of ``build_engine.py``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import ArtifactError, BenchError, InputError, UsageError
from bench.trt.enginefile import engine_record, judge_engine, requested_precision, summary, write_engine
from bench.trt.graphfile import GraphFile, read_graph_file
from bench.trt.hub import fetch_from_hub
from bench.trt.job import require_tensorrt, run_build, work
from bench.trt.options import LEGACY_PRECISIONS, BuildOptions, tf32_from

if TYPE_CHECKING:
    from collections.abc import Sequence

PRECISIONS_TO_ASK = ("fp32", "tf32", "fp16", "bf16", "int8")
_ABOUT = """\
Build a TensorRT engine from an ONNX file on the machine that will run it, and say what it really computes in.

Precision is in the ONNX file (an fp16 file, an int8 file with Q/DQ nodes); TensorRT 10 and 11 build it as a strongly
typed network. An engine is good for this TensorRT, GPU and driver only.
"""
_MORE = """\
examples:
  python build_engine.py --onnx model.int8.onnx
  python build_engine.py --onnx model.fp16.onnx --batch 1,4,8 --out model.b8.engine
  python build_engine.py --hf-repo ORG/NAME --revision v1 --precision int8
  python build_engine.py --onnx model.onnx --cache calibration.cache       (TensorRT 10 only)

writes OUT (the engine) and OUT.json: hashes, versions, GPU, flags, every layer with its types, the equivalent trtexec
command.

exit codes: 0 the engine is what its label says; 1 it is not (both files are written, the warning says why), or the
build failed; 2 bad input, or TensorRT, driver or GPU are missing.
needs: Python 3.8 or later, tensorrt 10 or 11, an NVIDIA GPU; huggingface_hub for --hf-repo.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; our own failures become one line and an exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 2 and words[0] == "--worker":
        return work(Path(words[1]))
    try:
        return _build_from(_parser().parse_args(words))
    except ArtifactError as error:
        return _failed(error, 1)
    except BenchError as error:
        return _failed(error, 2)
    except KeyboardInterrupt:
        sys.stderr.write("build_engine: interrupted; nothing was written\n")
        return 130


def batches_from(text: str | None) -> tuple[int, int, int]:
    """``1,4,8`` -> (1, 4, 8); ``4`` -> (4, 4, 4); None -> (1, 1, 1).

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return (1, 1, 1)
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--batch {text}: give N or MIN,OPT,MAX, for example --batch 1,4,8")
    numbers = [int(part) for part in parts] * (3 if len(parts) == 1 else 1)
    return (numbers[0], numbers[1], numbers[2])


def check_cache_fits(graph: GraphFile, options: BuildOptions, onnx: Path) -> None:
    """Refuse builder precision for a file that already carries its precision.

    Raises:
        UsageError: Q/DQ nodes or lower-precision weights and a legacy precision.
    """
    if options.legacy_precision is not None and set(graph.compute) - {"fp32"}:
        raise UsageError(
            f"{onnx}: the file carries its precision itself ({', '.join(sorted(set(graph.compute)))}), so a "
            "calibration cache or a legacy precision contradicts it. Leave them out, or give the fp32 file."
        )


def build_and_write(
    onnx: Path, engine: Path, options: BuildOptions, *, label: str | None, graph: GraphFile, device: int,
    notes: Sequence[str] = (),
) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """Build in a child process, judge the engine and write it with its record; returns both.

    Raises:
        ArtifactError, InputError, Unavailable, Unsupported: as ``run_build`` and ``write_engine``.
    """
    try:
        engine.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{engine.parent}: cannot be made ({error.strerror}). Choose another --out.") from error
    plan, facts = run_build(onnx, options, engine_name=engine, scratch=engine.absolute().parent, device=device)
    facts["notes"] = [*notes, *facts["notes"]]
    judged = judge_engine(facts, requested_precision(label, graph, options), graph, options)
    record = engine_record(
        engine=engine, plan=plan, onnx=onnx, graph=graph, options=options, facts=facts, judged=judged
    )
    write_engine(engine, plan, record)
    return plan, record


def _build_from(given: argparse.Namespace) -> int:
    if (given.onnx is None) == (given.hf_repo is None):
        raise UsageError("Give one of --onnx FILE and --hf-repo ORG/NAME (--help shows examples).")
    options = _options(given)
    if given.onnx is not None:  # a wrong file is reported before the machine is looked at
        check_cache_fits(read_graph_file(Path(given.onnx)), options, Path(given.onnx))
        options.identity()  # reads the calibration cache
    require_tensorrt(given.device)
    onnx, notes, options = _source(given, options)
    graph = read_graph_file(onnx)
    check_cache_fits(graph, options, onnx)
    engine = Path(given.out) if given.out else Path(onnx.name).with_suffix(".engine")
    _say(f"building {engine} from {onnx.name} (opset {graph.opset}, {sum(graph.operators.values())} nodes); minutes")
    _, record = build_and_write(
        onnx, engine, options, label=given.precision, graph=graph, device=given.device, notes=notes
    )
    _say(summary(engine, record))
    return 1 if record["precision"]["problem"] else 0


def _source(given: argparse.Namespace, options: BuildOptions) -> tuple[Path, Sequence[str], BuildOptions]:
    """The ONNX file, where it comes from, and the options with the calibration cache that was fetched with it."""
    if given.onnx is not None:
        return Path(given.onnx), (), options
    here = options.calibration_cache is None or options.calibration_cache.is_file()
    fetched = fetch_from_hub(
        given.hf_repo,
        revision=given.revision,
        file=given.hf_file,
        precision="fp32" if options.legacy_precision is not None else given.precision,
        cache=None if here else given.cache,
    )
    if fetched.cache is not None:
        options = replace(options, calibration_cache=fetched.cache)
    return fetched.onnx, fetched.notes, options


def _options(given: argparse.Namespace) -> BuildOptions:
    legacy = given.legacy_precision or ("int8" if given.cache else None)
    return BuildOptions(
        tf32=tf32_from(given.precision, given.tf32),
        batches=batches_from(given.batch),
        workspace_mb=given.workspace_mb,
        optimization_level=given.optimization_level,
        strict_nans=given.strict_nans,
        timing_cache=Path(given.timing_cache) if given.timing_cache else None,
        editable_timing_cache=given.editable_timing_cache,
        error_on_timing_cache_miss=given.error_on_timing_cache_miss,
        legacy_precision=legacy,
        calibration_cache=Path(given.cache) if given.cache else None,
        any_cache_version=given.any_cache_version,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and what to type, instead of the whole usage."""
        raise UsageError(f"{message}. Type: python build_engine.py --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="build_engine.py", description=_ABOUT, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_argument_group("what to build from")
    source.add_argument("--onnx", metavar="FILE", help="ONNX file; external data beside it")
    source.add_argument("--hf-repo", metavar="ORG/NAME", help="Hugging Face repository; HF_TOKEN is used if it is set")
    source.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository")
    source.add_argument("--hf-file", metavar="NAME", help="file in the repository, when it has several ONNX files")
    result = parser.add_argument_group("what to write")
    result.add_argument("--out", metavar="FILE", help="engine to write (default: the ONNX file's name, .engine)")
    result.add_argument(
        "--precision", choices=PRECISIONS_TO_ASK,
        help="label that the engine must bear out (default: what the ONNX file says; fp32 with --tf32 is tf32)",
    )  # fmt: skip
    build = parser.add_argument_group("how to build")
    tf32 = build.add_mutually_exclusive_group()
    tf32.add_argument("--tf32", dest="tf32", action="store_true", help="allow TF32 in fp32 layers")
    tf32.add_argument(
        "--no-tf32", dest="tf32", action="store_false", help="forbid it (default; TensorRT's own default allows it)"
    )
    parser.set_defaults(tf32=None)
    build.add_argument("--batch", metavar="MIN,OPT,MAX", help="limits of a dynamic batch axis, or N (default: 1)")
    build.add_argument("--workspace-mb", metavar="N", type=int, help="MiB of scratch memory (default: the GPU's)")
    build.add_argument("--optimization-level", metavar="N", type=int, default=3, help="0 to 5 (default: 3)")
    build.add_argument("--strict-nans", action="store_true", help="forbid rewrites that ignore NaN and infinity")
    build.add_argument("--device", metavar="N", type=int, default=0, help="GPU, counted as CUDA does (default: 0)")
    build.add_argument("--timing-cache", metavar="DIR", help="folder of timing caches; one file per TensorRT and GPU")
    build.add_argument("--editable-timing-cache", action="store_true", help="write a timing cache that can be edited")
    build.add_argument("--error-on-timing-cache-miss", action="store_true", help="fail instead of timing a kernel")
    old = parser.add_argument_group("TensorRT 10 only (11 has neither)")
    old.add_argument(
        "--cache", metavar="FILE", help="INT8 calibration cache for an fp32 file; sets --legacy-precision int8"
    )
    old.add_argument("--any-cache-version", action="store_true", help="accept a cache written by another TensorRT")
    old.add_argument("--legacy-precision", choices=LEGACY_PRECISIONS, help="builder flag instead of a typed file")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _failed(error: BenchError, code: int) -> int:
    sys.stderr.write(f"build_engine: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
