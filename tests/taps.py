"""A tap that keeps all that a model shows it: the slow, readable twin of a trace."""

from torch import Tensor

from prob3r.models.sites import Tap


class Keeper(Tap):
    """Keeps every site that it is shown, with the attention in one piece."""

    def __init__(self) -> None:
        self.records: dict[str, Tensor] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        self.records[site] = tensor.clone()
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.records[site] = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        return super().attend(site, queries, keys, values)
