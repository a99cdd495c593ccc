from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import MultiViewModel, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.runs.edits import HeadAblation, Skip, Transplant
from prob3r.runs.path_patching import OUTPUT, Paths
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from tests.models.examples import EXAMPLES
from tests.models.test_adapter import EXAMPLE
from tests.runs.attribution.conftest import noise
from tests.runs.edits.conftest import close, flat, identical


def dust3r() -> MultiViewModel:
    return EXAMPLES["dust3r"]()


def float_noise(views: int = 2) -> Views:
    return noise((28, 42), views).map(Tensor.float)


class Frozen(Tap):
    """The slow reference: everything says what it says in the clean run, but one sublayer.

    The sender's stream has a change from the sender on, which nothing but the residual stream
    carries. What the receiver adds is noted.
    """

    def __init__(self, clean: Mapping[str, Tensor], sender: str, change: Tensor, receiver: str):
        self.clean, self.change = clean, change
        self.sender, self.receiver = sender, receiver
        self.now: dict[str, Tensor] = {}
        self.was: dict[str, Tensor] = {}
        self.added = torch.empty(0)

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        stream, clean = Site.parse(site).stream, Tensor(self.clean[site])
        before, was = self.now.get(stream), self.was.get(stream)
        if site == self.receiver:
            assert before is not None
            self.added = tensor - before
        kept = clean if before is None or was is None else before + (clean - was)
        self.now[stream] = kept + self.change if site == self.sender else kept
        self.was[stream] = clean
        return self.now[stream]


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        ("dec1.0.self_attn", "dec1.0.mlp"),
        ("dec2.0.cross_attn", "dec2.1.cross_attn"),
        ("dec1.0.mlp", "dec2.1.cross_attn"),
        ("enc1.0.self_attn", "enc1.0.mlp"),
    ],
)
def test_a_path_is_that_of_a_run_in_which_all_else_is_frozen(sender: str, receiver: str) -> None:
    model, views = dust3r(), float_noise()
    paths = Paths(model, views)
    edit = Skip(sender) if sender.endswith("mlp") else HeadAblation(sender, heads=[1])
    sent = paths.send(edit)
    clean = trace(model, views, "*")
    edited = trace(model, views, [sender], [edit])
    torch.testing.assert_close(
        sent.change, Tensor(edited[sender]) - Tensor(clean[sender]), rtol=1e-4, atol=1e-5
    )
    frozen = Frozen(clean, sent.site, sent.change, receiver)
    with torch.no_grad():
        model(*views.images, tap=frozen)
    before = model.reads(receiver)[0]
    stream = Tensor(clean[before]) + frozen.added
    expected = trace(model, views, edits=[Transplant(receiver, {receiver: stream})]).output
    close(paths.through(sent, receiver), expected)
    assert not identical(paths.through(sent, receiver), paths.clean)


def test_of_the_last_sublayer_the_output_is_the_only_receiver() -> None:
    model, views = dust3r(), float_noise()
    paths = Paths(model, views)
    sent = paths.send(Skip("dec2.1.mlp"))
    assert paths.receivers(sent) == [OUTPUT]
    close(paths.through(sent, OUTPUT), trace(model, views, edits=[Skip("dec2.1.mlp")]).output)


@pytest.mark.parametrize("name", ["dust3r", "vggt"])
def test_a_small_change_is_the_sum_over_all_direct_paths(name: str) -> None:
    model, views = EXAMPLES[name](), float_noise(2 if name == "dust3r" else 3)
    paths, site = Paths(model, views), "dec1.0.self_attn.heads"
    heads = Tensor(trace(model, views, [site])[site])
    edit = Transplant(site, {site: 0.99 * heads}, heads=[1])
    sent = paths.send(edit)
    receivers = paths.receivers(sent)
    assert {"dec1.0.mlp", "dec1.1.self_attn"} < set(receivers)

    def change(output: Prediction | None) -> Tensor:
        pairs = zip(flat(output), flat(paths.clean), strict=True)
        return torch.cat([(one - other).flatten() for one, other in pairs])

    whole = change(trace(model, views, edits=[edit]).output)
    parts = sum(change(paths.through(sent, receiver)) for receiver in receivers)
    assert float((parts - whole).norm() / whole.norm()) < 0.02
    largest = max(float(change(paths.through(sent, r)).norm() / whole.norm()) for r in receivers)
    assert largest > 0.1


def test_a_receiver_that_says_nothing_passes_nothing_on() -> None:
    model, views = dust3r(), float_noise()
    with torch.no_grad():
        for weight in model.get_submodule("dec_blocks2.1.mlp.fc2").parameters():
            weight.zero_()
    paths = Paths(model, views)
    sent = paths.send(Skip("dec2.0.mlp"))
    close(paths.through(sent, "dec2.1.mlp"), paths.clean)
    assert not identical(paths.through(sent, "dec2.1.self_attn"), paths.clean)


@pytest.mark.parametrize(
    ("sender", "receiver", "said"),
    [
        ("dec2.1.mlp", "dec2.0.mlp", "'dec2.0.mlp' reads nothing that 'dec2.1.mlp' changes"),
        ("dec2.0.mlp", "enc1.0.mlp", "receivers are dec1.1.cross_attn, dec2.1.self_attn"),
        ("dec2.0.mlp", "dec2.7.mlp", "'dec2.7.mlp' is neither a residual site of this model"),
        ("dec2.*.mlp", "dec2.1.mlp", "matches 2 sublayers, but only one can be the sender"),
        ("enc1.0.mlp", OUTPUT, "'output' reads nothing that 'enc1.0.mlp' changes directly"),
    ],
)
def test_what_is_no_path_is_one_sentence(sender: str, receiver: str, said: str) -> None:
    paths = Paths(dust3r(), float_noise())
    with pytest.raises(Prob3rError) as raised:
        paths.through(paths.send(Skip(sender)), receiver)
    assert said in str(raised.value)


def test_a_model_behind_an_adapter_has_no_paths() -> None:
    model = EXAMPLE.adapted(EXAMPLE.TwoViews())
    with pytest.raises(Prob3rError, match="does not say what its sublayers read"):
        Paths(model, noise((64, 64)).map(Tensor.float))
