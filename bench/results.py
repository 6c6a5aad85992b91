"""The result of a run as frozen values; field for field what ``schemas/suite_result.json`` describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Cell

Status = Literal["passed", "failed", "undecided", "error", "skipped", "unsupported", "waived"]
Role = Literal["reference", "candidate"]
STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityResult:
    """One comparison of a candidate with the golden or the reference."""

    level: Literal["preprocess", "tensor", "prediction"]
    name: str
    """Tensor name, or what was compared."""
    total: int
    """Compared elements, images or boxes."""
    mismatched: int
    max_abs: float | None = None
    rms: float | None = None
    """Root mean square of candidate - golden."""
    sqnr_db: float | None = None
    """10 log10(sum golden^2 / sum (candidate - golden)^2)."""
    cosine: float | None = None
    nonfinite: int = 0
    budget: float | None = None
    """Allowed ``rms`` at this precision; None when the comparison is reported only."""
    worst: str | None = None
    """Index, expected and obtained value of the worst element."""
    passed: bool | None = None
    """None: reported, not judged."""
    explain: str | None = None
    """One sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatDelta:
    """Difference of one number, candidate - reference, over the same resamples of the images."""

    value: float | None
    """None where either side is undefined (no ground truth)."""
    ci95: tuple[float, float] | None = None
    """95 % percentile interval of the paired bootstrap; None below ``MIN_IMAGES`` or where undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDelta:
    """AP difference of one class."""

    name: str
    objects: int
    """Ground-truth objects, crowd regions not counted."""
    ap: float | None
    reference_ap: float | None
    delta: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    """Two-sided, Holm-adjusted over the classes of the set."""
    significant: bool
    """``p_value`` at most 0.05."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """One cell's numbers computed again by an independent scorer."""

    scorer: str
    """For example ``pycocotools 2.0.11``."""
    max_abs_difference: float
    """Largest over the numbers that both define; infinite when only one of them defines a number."""
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """COCO numbers of one cell and the difference to its reference."""

    metric: str
    images: int
    stats: Mapping[str, float | None]
    """``STAT_NAMES`` -> value in 0..1, None when undefined (no ground truth)."""
    delta: float | None = None
    """Candidate - reference, AP."""
    ci95: tuple[float, float] | None = None
    margin: float | None = None
    """Allowed loss, positive."""
    resolvable: float | None = None
    """Smallest true loss that these images would tell from none at 80 % power: 2.8 standard errors of the delta."""
    images_to_decide: int | None = None
    """Of an undecided cell: a lower bound; None where more images are unlikely to decide."""
    deltas: Mapping[str, StatDelta] = field(default_factory=dict)
    """``STAT_NAMES`` -> difference and interval; empty for the reference."""
    per_class: tuple[ClassDelta, ...] = ()
    verdict: Literal["passed", "failed", "suspicious", "undecided", "not judged", "reference"] = "not judged"
    """``suspicious``: gains more than the margin, beyond the interval; the same model does not."""
    scorer: str = ""
    cross_check: CrossCheck | None = None
    """None where no independent scorer ran: not chosen, or nothing was detected."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseNumber:
    """One number of the poses of a cell, and its difference to the reference's."""

    name: str
    """For example ``rotation_median_deg``."""
    unit: Literal["deg", "m", "share"]
    higher_is_better: bool
    value: float | None
    """None where nothing was matched (of medians and means), or no object has this truth."""
    reference: float | None = None
    delta: float | None = None
    """Candidate - reference."""
    ci95: tuple[float, float] | None = None
    """95 % percentile interval of the paired bootstrap over images, over the resamples that AP's is from."""
    margin: float | None = None
    """Allowed change for the worse, positive; None for a number that is told and not judged."""
    verdict: Literal["passed", "failed", "suspicious", "undecided", "not judged", "reference"] = "not judged"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseResult:
    """How far off the poses of the detected objects are."""

    images: int
    iou: float
    """Overlap from which on a detection of the class takes an object."""
    objects: int
    """With a true pose, crowd regions not counted."""
    matched: int
    broken: Mapping[str, int]
    """Quantity -> matched objects whose prediction is not finite, or no rotation: they count as the worst."""
    numbers: tuple[PoseNumber, ...]
    verdict: Literal["passed", "failed", "suspicious", "undecided", "reference"]
    """The worst of the judged numbers'."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingCheck:
    """Whether what was timed is what was scored."""

    name: Literal["timed outputs", "repeated input"]
    passed: bool | None
    """None: could not be checked, ``explain`` says why."""
    value: float | None
    """timed outputs: largest difference to the accuracy pass. repeated input: speed-up on an input seen before."""
    limit: float | None
    explain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSpeed:
    """Speed of a lower precision against the fp32 cell of the same runtime, device and batch."""

    cell: str
    """Id of the fp32 cell."""
    ratio: float | None
    """fp32 / this cell, by the median of the log ratios of shared rounds; None when no round was shared."""
    ratio_ci95: tuple[float, float] | None
    verdict: Literal["faster", "slower", "same", "undecided"]
    reason: str | None
    """Why it is undecided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedResult:
    """Graph latency on resident inputs, and end-to-end latency, apart."""

    latency_ms: Mapping[str, float | None]
    """p50 p90 p99 mean; p90 and p99 are None below 64 and 662 samples."""
    fps: float
    """Images per second at the median."""
    samples: int
    includes: str
    """What the latency includes, in words."""
    end_to_end_ms: Mapping[str, float | None] | None = None
    """Pre-processing, run and post-processing of the accuracy pass, per image, decode not included."""
    ratio: float | None = None
    """Reference p50 / candidate p50, both on the candidate's device; None when emulated or outputs are wrong."""
    ratio_ci95: tuple[float, float] | None = None
    verdict: Literal["faster", "slower", "same", "undecided", "not judged", "emulated", "reference"] = "not judged"
    reason: str | None = None
    """Why it is undecided or not judged."""
    openings: int = 1
    """How often the lane was opened anew during the timing."""
    rounds_run: int = 0
    stopped: str = ""
    """Why the rounds ended, in words."""
    against_fp32: PrecisionSpeed | None = None
    """Of a lower precision: against the fp32 cell of the same runtime, from the rounds that both took part in."""
    checks: tuple[TimingCheck, ...] = ()
    noise: Mapping[str, Any] = field(default_factory=dict)
    """Label -> value: load, CPU steal, frequency, GPU clocks, throttle reasons, tagged rounds."""
    rounds: tuple[Mapping[str, Any], ...] = ()
    """``{round, order, opening, samples_ms, fresh_ms, repeated_ms, tags}`` per round, at most 1,500 samples in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What really ran."""

    precision: str
    provider: str
    emulated: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """Identity of the file that ran."""

    kind: str
    sha256: str
    bytes: int
    made_from: str | None
    recipe: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One detection for drawing."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One image on which reference and candidate disagree most."""

    image: str
    """File name of the image."""
    width: int
    height: int
    kind: str
    """For example ``3 missing, 2 extra``."""
    explained: bool
    ref: tuple[Box, ...]
    cand: tuple[Box, ...]
    thumb: str | None
    """JPEG as base64, at most 12 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a lane ended."""

    stage: str
    signal: str | None
    after_s: float | None
    stderr_tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRow:
    """One output of one cell beside the same output from elsewhere, over the golden images."""

    output: str
    against: str
    """Id of another cell that ran the same file; empty: the file's own arithmetic."""
    sqnr_db: float
    """Signal to difference, infinite when they are equal, NaN when anything is not finite or of another shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementResult:
    """Does this runtime compute what the file says, and what other runtimes make of the same file?"""

    verdict: Literal["agrees", "apart", "undecided"]
    """``apart``: far from the file's own arithmetic, to which another runtime is close; or alone against several."""
    worst_db: float | None
    """Against the file's own arithmetic, of the worst output; None where that could not be run."""
    limit_db: float
    """Below it two results do not agree."""
    own: str
    """What ran the file's own arithmetic, or why nothing did."""
    rows: tuple[AgreementRow, ...]
    sentence: str
    """For a person: who disagrees with whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """All nodes of one operator and one precision."""

    operator: str
    precision: str
    """As ``bench.types.NodeTime.precision``."""
    nodes: int
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node of the graph that ran."""

    name: str
    operator: str
    precision: str
    ms: float
    fp32_ms: float | None
    """Of the node of this name in the fp32 cell of the same runtime; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProfile:
    """Where the time of a profiled session goes. Profiling slows a runtime down: the parts count, not the sum."""

    total_ms: float
    """Of all nodes of one run."""
    nodes: int
    """That ran, whether or not they are listed."""
    operators: tuple[OperatorTime, ...]
    """Slowest first, at most 40."""
    slowest: tuple[NodeRow, ...]
    """Slowest first, at most 40."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why a cell is not simply passed."""

    check: str
    """``scorer``, ``attestation``, ``parity``, ``agreement``, ``timing``, ``accuracy``, ``pose``, ``min-ap``,
    ``max-latency``, ``baseline-accuracy`` or ``baseline-speed``."""
    status: Status
    reason: str
    short: str
    """At most 22 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """Everything known about one cell."""

    cell: Cell
    role: Role
    status: Status
    reason: str | None = None
    reason_short: str | None = None
    """At most 22 characters."""
    artifact: ArtifactRecord | None = None
    observed: Observed | None = None
    parity: tuple[ParityResult, ...] = ()
    accuracy: AccuracyResult | None = None
    pose: PoseResult | None = None
    """None where the model finds no pose, or the set has no truth of one."""
    speed: SpeedResult | None = None
    memory: Mapping[str, float | None] | None = None
    """``peak_rss_mb`` and ``device_mb``."""
    startup: Mapping[str, float | None] | None = None
    """``load_s``, ``build_s`` and ``first_inference_ms``."""
    duration_s: float | None = None
    findings: tuple[Finding, ...] = ()
    """Everything that keeps the cell from passing; ``status`` is the first one's."""
    agreement: AgreementResult | None = None
    """Of a file that several cells ran, or whose cell failed: which runtime disagrees with which."""
    nodes: NodeProfile | None = None
    """Which nodes take the time; None where nobody asked or the runtime does not say."""
    flips: tuple[Flip, ...] = ()
    failure: Failure | None = None
    waiver: Mapping[str, str] | None = None
    """``{check, reason, expires}`` when ``status`` is ``waived``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """One run."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    finished_at: str
    command: str
    host: Mapping[str, Any]
    """``name cpu cores memory_gb gpu os python versions{}``."""
    git: Mapping[str, Any] | None
    """``commit branch dirty`` of the working folder, None outside a repository."""
    protocol: Mapping[str, Any]
    """Label -> value, every setting that a number depends on."""
    reference: Mapping[str, Any]
    """``{asked: "torch:fp32:cpu", cells: {model: cell id}}``."""
    cells: tuple[CellResult, ...]
    exit_code: int
    interrupted: bool = False
    aborted: str | None = None
    """Why the run ended early: input that cannot be used."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Model -> ``{id, hash, settings, mismatches}``: the protocol it is pinned to, and what it really used."""
    schema: str = "suite_result/1"
