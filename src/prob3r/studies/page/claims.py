"""The claims that studies test: their words, the paper that reported them, and their questions.

The page of findings has one row for each question here. What a paper reported is given in our own
words; `Claim.read` names the source that we read. `docs/field.md` has more on each claim.
"""

from dataclasses import dataclass

from prob3r.studies.framework.tested import POSITIVE

ABSTRACT = "abstract read"
SUMMARY = "abstract read; the rest from summaries"

POSITIVES = (POSITIVE, "mini-pose")
"""The models that carry an explicit pose: the positive control, and that of older files."""


@dataclass(frozen=True)
class Question:
    """One question of a claim, and the finding that answers it.

    Attributes:
        statement: The question, as a statement that can be false.
        study: Name of the study that answers it.
        finding: Shell-style pattern of the statement of the finding that answers it. Statements
            contain numbers and names of sublayers, which differ between models.
        of: Names of the references that the finding can be about: the one that the study used. By
            default the finding is about the model under test.
    """

    statement: str
    study: str
    finding: str
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim about the inside of multi-view transformers.

    Attributes:
        number: The number of the claim, as in `Finding.claim`.
        statement: The claim in plain words.
        studies: Names of the studies that test it.
        reported: What the paper reported, and on which model; without a paper, a note on that.
        paper: The paper's short name; empty without a paper.
        arxiv: The paper's number at arXiv.
        read: The parts of the paper that we read.
        questions: The questions whose findings are recognised by their statements. Every other
            finding of the claim has its own row.
    """

    number: str
    statement: str
    studies: tuple[str, ...]
    reported: str = ""
    paper: str = ""
    arxiv: str = ""
    read: str = ""
    questions: tuple[Question, ...] = ()


_WITHIN = (
    "the floor",
    "edges of depth",
    "what the other view sees",
    "depth",
    "surfaces that face left or right",
    "surfaces that face up or down",
    "surfaces that face the camera",
)
"""Properties of patches of one view that the study of dictionaries tests."""

_ACROSS = ("an object in both views", "matching patches")
"""Properties of patches of two views that the study of dictionaries tests."""

CLAIMS = (
    Claim(
        "C1",
        "Geometry is refined over the decoder blocks",
        ("refinement",),
        "DUSt3R (512 pixels, DPT head): the state develops over the blocks. On easy pairs the "
        "rotation is right early; on hard pairs the right pose takes several blocks",
        "Stary et al. 2025",
        "2510.24907",
        SUMMARY,
        (
            Question(
                "View 2's pointmap error falls over the blocks",
                "refinement",
                "Geometry is refined iteratively*",
            ),
            Question(
                "On easy pairs rotation is right first, and translation and scale follow",
                "refinement",
                "On easy pairs rotation is right first*",
            ),
            Question(
                "On hard pairs the right pose takes more blocks than on easy ones",
                "refinement",
                "On hard pairs the right pose takes more blocks*",
            ),
        ),
    ),
    Claim(
        "C2",
        "Sublayers have roles",
        ("roles",),
        "DUSt3R: self-attention does most of the refinement of view 2; cross-attention finds and "
        "refines the correspondences",
        "Stary et al. 2025",
        "2510.24907",
        SUMMARY,
        (
            Question(
                "Attention between the views moves patches of view 2 towards their matches",
                "roles",
                "* moves patches of view 2 towards their matches",
            ),
            Question(
                "Self-attention restores view 2's shape",
                "roles",
                "Self-attention restores view 2's *shape",
            ),
            Question(
                "Self-attention helps most where attention between the views could not",
                "roles",
                "Self-attention helps most where *",
            ),
            Question(
                "Self-attention lowers view 2's pointmap error the most",
                "roles",
                "Self-attention lowers view 2's pointmap error the most",
            ),
        ),
    ),
    Claim(
        "C3",
        "The model does not lean on an explicit global camera pose",
        ("pose", "pose-probes"),
        "DUSt3R differs from methods with an explicit global pose; heads that attend to sinks can "
        "be cut without harm",
        "Stary et al. 2025",
        "2510.24907",
        SUMMARY,
        (
            Question(
                "Cutting what could carry a pose hardly changes the relative pose",
                "pose",
                "Cutting the * hardly changes the relative pose*",  # once of `carriers`
            ),
            Question(
                "In a model that carries an explicit pose, the same cut breaks the pose",
                "pose",
                "In a * that carries an explicit pose, the same cut breaks the pose",
                of=POSITIVES,
            ),
            Question(
                "The pose does not rest on sinks",
                "pose",
                "The pose does not rest on sinks*",
            ),
            Question(
                "No single token carries the pose; pooled tokens do",
                "pose-probes",
                "No single token carries the pose; pooled tokens do",
            ),
            Question(
                "In a model that carries an explicit pose, the camera token shows it",
                "pose-probes",
                "The camera token of a * that carries an explicit pose shows it",
                of=POSITIVES,
            ),
        ),
    ),
    Claim(
        "C4",
        "Correspondences matter; they go from semantic to geometric",
        ("correspondence", "look-alikes", "origins", "fixed-correspondences"),
        "DUSt3R: correspondences are refined together with the geometry and go from semantic to "
        "geometric; 5 of 12 heads are called correspondence heads",
        "Stary et al. 2025",
        "2510.24907",
        SUMMARY,
        (
            Question(
                "Attention between the views aligns matching patches",
                "correspondence",
                "* aligns matching patches*",
            ),
            Question(
                "Within a pair, matches and geometry get better at the same blocks",
                "correspondence",
                "Within a pair, matches and geometry get better at the same blocks",
            ),
            Question(
                "Geometry rests on the matches",
                "correspondence",
                "Geometry rests on the matches*",
            ),
            Question(
                "Of objects that look alike, later blocks pick the right one",
                "look-alikes",
                "Of objects that look alike, later blocks pick the right one",
            ),
            Question(
                "Correspondence heads appear before the plateau of the training breaks",
                "origins",
                "Correspondence heads appear before the plateau breaks",
            ),
            Question(
                "Correspondence heads spread before the plateau of the training breaks",
                "origins",
                "Correspondence heads spread before the plateau breaks",
            ),
            Question(
                "Low overlap defeats fixed correspondences more than the model",
                "fixed-correspondences",
                "Low overlap * defeats *",
            ),
            Question(
                "Low texture defeats fixed correspondences more than the model",
                "fixed-correspondences",
                "Low texture * defeats *",
            ),
            Question(
                "Where they find a pose, fixed correspondences give the more accurate one",
                "fixed-correspondences",
                "Where they find a pose, *",
            ),
        ),
    ),
    Claim(
        "N1",
        "Early global attention does nothing that frame attention could not do",
        ("frame_attention",),
        "VGGT, 10 frames of RealEstate10K: with global layers 0 to 8 of 24 as frame attention, "
        "AUC@5 goes from 63.18 to 62.83 and AUC@30 from 88.13 to 87.98",
        "AVGGT",
        "2512.02541",
        SUMMARY,
    ),
    Claim(
        "N2",
        "The middle blocks bring the views together",
        ("middle_blocks",),
        "VGGT: skipping 4 of the middle global layers takes AUC@30 to 0; skipping the first or the "
        "last 4 hardly matters",
        "Block-sparse global attention",
        "2509.07120",
        SUMMARY,
    ),
    Claim(
        "N3",
        "Deep attention between views is needed for pose and redundant for dense geometry",
        ("middle_blocks",),
        "VGGT: shallow layers lack structure between views, middle layers align the views, deep "
        "layers are redundant for dense geometry and essential for pose",
        "RegimeVGGT",
        "2606.18439",
        "abstract and README read",
    ),
    Claim(
        "N4",
        "The camera token carries the pose that the model reports, and the points do not need it",
        ("camera_token",),
        "Open: no paper that we know of reports it. It is the counterpart of C3",
    ),
    Claim(
        "N5",
        "A view that does not belong shows inside",
        ("strangers",),
        "VGGT: attention and feature similarity tell clean views from distractors; the gap grows "
        "with depth and is largest in the last global layer",
        "RobustVGGT",
        "2512.04012",
        "abstract and code read; the layers from a summary",
    ),
    Claim(
        "N6",
        "A few heads match, and cutting few of them breaks the model",
        ("matching_heads",),
        "VGGT: heads of layers 10 to 16 match; switching off 4 heads of one layer degrades the "
        "epipolar geometry. Depth Anything 3: the middle layers. DUSt3R: from the first decoder "
        "block",
        "Bratulić et al. 2025",
        "2512.11508",
        SUMMARY,
    ),
    Claim(
        "N7",
        "Attention sinks are of two kinds",
        ("sinks",),
        "Pretrained vision transformers (DINOv2): no-op sinks have small value norms, broadcast "
        "sinks make outputs of low rank. No multi-view model was tested",
        "Fesser et al. 2026",
        "2606.08105",
        "abstract and README read",
    ),
    Claim(
        "N8",
        "Zero ablation of registers overstates what they carry",
        ("registers",),
        "DINOv2 with registers and DINOv3: zeroing costs up to 36.6 points of classification; "
        "mean, noise and shuffled replacement about 1. No multi-view model was tested",
        "Parodi et al. 2026",
        "2604.14433",
        ABSTRACT,
    ),
    Claim(
        "N9",
        "Attention between views tells correspondences better than features do",
        ("match_readout",),
        "CroCo v2, HPatches at 240 pixels: end-point error of 9.41 pixels by cross-attention, "
        "47.52 by encoder features, 44.63 by decoder features",
        "ZeroCo",
        "2412.09072",
        SUMMARY,
    ),
    Claim(
        "readable",
        "What linear probes of eight targets read in the trunk",
        ("readable",),
    ),
    Claim(
        "past the paper",
        "The inside tells when the outcome is wrong",
        ("reliability",),
        questions=(
            Question(
                "The inside predicts failure better than the model's own confidence",
                "reliability",
                "The inside predicts failure better than the model's own confidence",
            ),
            Question(
                "The inside tells more than the whole output does",
                "reliability",
                "The inside tells more than the whole output does",
            ),
        ),
    ),
    Claim(
        "atoms",
        "Residual streams come apart into sparse atoms that tell geometry",
        ("dictionaries",),
        questions=tuple(
            Question(statement, "dictionaries", f"{statement}*")
            for statement in (
                "Atoms explain more of the stream than as many principal coefficients",
                "Spliced back, atoms harm the pose less than as many principal coefficients",
                *(f"An atom tells {what}" for what in (*_WITHIN, *_ACROSS)),
                *(f"The strongest patches of an atom show {what}" for what in _WITHIN),
            )
        ),
    ),
)
"""The claims in the order in which they are reported."""
