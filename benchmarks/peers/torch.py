"""The same VAE, and CTC, in torch, eager, as most people run it."""

from typing import TYPE_CHECKING

from . import Contender
from .torch_places import Place, places

if TYPE_CHECKING:
    from ..problems import Transcripts, Vae

MODULE = "torch"
INSTALL = "pip install torch==2.13.0 (its CPU build)"


def vae(data: "Vae") -> list[Contender]:
    """One Adam step."""
    return [_step(data, place) for place in places()]


def _step(data: "Vae", place: Place) -> Contender:
    import torch
    from torch.nn import functional

    ys, noise = (torch.from_numpy(a).to(place.device) for a in (data.ys, data.eta))

    def start():
        layers = [*data.encoder, *data.decoder]
        kernels, biases = (
            [torch.tensor(a, device=place.device, requires_grad=True) for a in part]
            for part in zip(*layers, strict=True)
        )
        return kernels, biases

    def loss(kernels, biases, eta):
        hidden = torch.relu(torch.addmm(biases[0], ys, kernels[0]))
        mean, log_scale = torch.chunk(torch.addmm(biases[1], hidden, kernels[1]), 2, dim=-1)
        z = mean + torch.exp(log_scale) * eta
        inner = torch.relu(torch.addmm(biases[2], z, kernels[2]))
        logits = torch.addmm(biases[3], inner, kernels[3])
        kl = 0.5 * torch.sum(mean**2 + torch.exp(2 * log_scale) - 2 * log_scale - 1)
        return (kl + functional.binary_cross_entropy_with_logits(logits, ys, reduction="sum")) / len(ys)

    def answer():
        kernels, biases = start()
        value = loss(kernels, biases, noise)
        value.backward()
        return data.answer(
            value.item(), [p.grad.cpu().numpy() for pair in zip(kernels, biases, strict=True) for p in pair]
        )

    kernels, biases = start()
    optimizer = torch.optim.Adam([*kernels, *biases], lr=data.rate)

    def once():
        optimizer.zero_grad()
        loss(kernels, biases, torch.randn(data.eta.shape, device=place.device)).backward()
        optimizer.step()

    return Contender("torch", place.label, answer, place.repeated(once))


def ctc(data: "Transcripts") -> list[Contender]:
    """Losses by `ctc_loss` of `log_softmax`, and the gradient of their sum in the logits."""
    return [_ctc(data, place) for place in places()]


def _ctc(data: "Transcripts", place: Place) -> Contender:
    import torch
    from torch.nn import functional

    logits = torch.tensor(data.logits, device=place.device, requires_grad=True)
    labels = torch.from_numpy(data.labels).to(place.device)
    count, frames, _ = logits.shape
    lengths = torch.full((count,), frames), torch.full((count,), labels.shape[1])

    def once():
        logits.grad = None
        losses = functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, *lengths, reduction="none")
        losses.sum().backward()
        return losses

    def answer():
        return {"loss": once().detach().cpu().numpy(), "gradient": logits.grad.cpu().numpy()}

    return Contender("torch", place.label, answer, place.repeated(once))


TASKS = {"ctc": ctc, "vae": vae}
