"""The table that `dtvit_jax.plan` prints."""

from typing import Any

from dtvit_jax.training.memory import GIB


def table(answer: dict[str, Any]) -> str:
    """The answer for a reader."""
    b, mesh = answer["bytes_per_device"], answer["mesh"]
    n = mesh["data"] * mesh["fsdp"]
    accumulated = answer["accumulation"]
    parts = f" in {accumulated} parts" if accumulated > 1 else ""
    lines = [
        f"{answer['model']}, batch {answer['batch_size']}{parts}, {answer['dtype']}, "
        f"{n} device{'s' * (n > 1)} (data={mesh['data']}, fsdp={mesh['fsdp']})",
        "",
        _row("parameters", f"{answer['parameters']:,}"),
        _row("forward, an image", f"{answer['forward_gmac_per_image']:.2f} GMAC"),
        _row("products of a step", f"{answer['tflop_per_step']:.2f} TFLOP on all devices"),
        "",
        "On each device, estimated",
        _row("state" if mesh["fsdp"] == 1 else "state, gathered", _gib(b["state"])),
        _row("gradients", _gib(b["gradients"])),
        _row("activations", _gib(b["activations"])),
        _row("needed in all", _gib(b["needed"])),
    ]
    lines += [
        _row(f"sent by {kind}", f"{_gib(size)} a step")
        for kind, size in b["sent_per_step"].items()
        if size
    ]
    if found := answer.get("compiled"):
        lines += ["", "XLA's own count of one device's step, compiled for a CPU"]
        lines += [
            _row("arguments", f"{_gib(found['arguments'])} (state and batch)"),
            _row("temporaries", _gib(found["temporaries"])),
            _row("operations", f"{found['tflop']:.2f} TFLOP"),
        ]
        lines += [_row(kind, _gib(size)) for kind, size in found["collectives"].items()]
    head = f"  {'':10}{'memory':>8}{'fits':>6}{'step':>10}{'images/s':>10}"
    lines += [
        "",
        f"Expected step at {answer['utilisation']:.0%} of the published peak",
        f"{head}{'products':>12}{'memory':>10}{'links':>10}",
    ]
    lines += [
        f"  {d['name']:10}{d['memory'] / GIB:>5.0f} GiB{'yes' if d['fits'] else 'no':>4}"
        f"{_ms(d['step_s']):>10}{d['examples_per_s']:>10.0f}{_ms(d['products_s']):>12}"
        f"{_ms(d['memory_s']):>10}{_ms(d['links_s']):>10}"
        for d in answer["devices"]
    ]
    return "\n".join([*lines, "", _fits(answer)])


def _fits(answer: dict[str, Any]) -> str:
    memory, found = answer["fits"]["memory"], answer["fits"]["with"]
    asked = f"Does batch {answer['batch_size']} fit on {memory / GIB:.0f} GiB?"
    if "" in found:
        return f"{asked} Yes: it needs {_gib(found[''])}."
    if not found:
        return f"{asked} No, in no number of parts: take a smaller batch, more fsdp, or a model."
    ways = " or ".join(f"{way} ({_gib(size)})" for way, size in found.items())
    return (
        f"{asked} No, it needs {_gib(answer['bytes_per_device']['needed'])}; it does with {ways}."
    )


def _row(name: str, value: str) -> str:
    return f"  {name:22}{value}"


def _gib(size: float | int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
