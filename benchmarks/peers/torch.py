"""The same VAE, and CTC, in torch, with one thread and with two."""

from typing import TYPE_CHECKING

from . import Contender

if TYPE_CHECKING:
    from ..problems import Transcripts, Vae

MODULE = "torch"
INSTALL = "pip install torch==2.13.0 (its CPU build)"


def vae(data: "Vae") -> list[Contender]:
    """One Adam step, eager, as most people run it."""
    return [_step(data, threads) for threads in (1, 2)]


def _step(data: "Vae", threads: int) -> Contender:
    import torch
    from torch.nn import functional

    ys = torch.from_numpy(data.ys)

    def start():
        layers = [*data.encoder, *data.decoder]
        return [torch.tensor(w, requires_grad=True) for w, b in layers], [
            torch.tensor(b, requires_grad=True) for w, b in layers
        ]

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
        value = loss(kernels, biases, torch.from_numpy(data.eta))
        value.backward()
        return data.answer(value.item(), [p.grad.numpy() for pair in zip(kernels, biases, strict=True) for p in pair])

    kernels, biases = start()
    optimizer = torch.optim.Adam([*kernels, *biases], lr=data.rate)

    def run(count):
        torch.set_num_threads(threads)
        for _ in range(count):
            optimizer.zero_grad()
            loss(kernels, biases, torch.randn(data.eta.shape)).backward()
            optimizer.step()

    return Contender("torch", f"{threads} thread{'s' if threads > 1 else ''}", answer, run)


def ctc(data: "Transcripts") -> list[Contender]:
    """Losses by `ctc_loss` of `log_softmax`, and the gradient of their sum in the logits."""
    return [_ctc(data, threads) for threads in (1, 2)]


def _ctc(data: "Transcripts", threads: int) -> Contender:
    import torch
    from torch.nn import functional

    logits, labels = torch.tensor(data.logits, requires_grad=True), torch.from_numpy(data.labels)
    count, frames, _ = logits.shape
    lengths = torch.full((count,), frames), torch.full((count,), labels.shape[1])

    def once():
        logits.grad = None
        losses = functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, *lengths, reduction="none")
        losses.sum().backward()
        return losses

    def answer():
        return {"loss": once().detach().numpy(), "gradient": logits.grad.numpy()}

    def run(count):
        torch.set_num_threads(threads)
        for _ in range(count):
            once()

    return Contender("torch", f"{threads} thread{'s' if threads > 1 else ''}", answer, run)


TASKS = {"ctc": ctc, "vae": vae}
