"""Formats a plan as the table that `python -m dtvit_jax.plan` prints."""

from dtvit_jax.planning.plan import Plan
from dtvit_jax.training.memory import GIB


def table(plan: Plan) -> str:
    """Returns the plan as text of many lines."""
    need, mesh, compiled = plan.bytes_per_device, plan.mesh, plan.compiled
    n = mesh["data"] * mesh["fsdp"]
    parts = f" in {plan.accumulation} parts" if plan.accumulation > 1 else ""
    lines = [
        f"{plan.model}, batch {plan.batch_size}{parts}, {plan.dtype}, "
        f"{n} device{'s' * (n > 1)} (data={mesh['data']}, fsdp={mesh['fsdp']})",
        "",
        _row("parameters", f"{plan.parameters:,}"),
        _row("forward, an image", f"{plan.forward_gmac_per_image:.2f} GMAC"),
        _row("products of a step", f"{plan.tflop_per_step:.2f} TFLOP on all devices"),
        "",
        "On each device, estimated",
        _row("state" if mesh["fsdp"] == 1 else "state, gathered", _gib(need.state)),
        _row("gradients", _gib(need.gradients)),
        _row("activations", _gib(need.activations)),
        _row("needed in all", _gib(need.needed)),
    ]
    lines += [
        _row(f"sent by {kind}", f"{_gib(size)} a step")
        for kind, size in need.sent_per_step.items()
        if size
    ]
    if compiled:
        lines += ["", "XLA's own count of one device's step, compiled for a CPU"]
        lines += [
            _row("arguments", f"{_gib(compiled.arguments)} (state and batch)"),
            _row("temporaries", _gib(compiled.temporaries)),
            _row("operations", f"{compiled.tflop:.2f} TFLOP"),
        ]
        lines += [_row(kind, _gib(size)) for kind, size in compiled.collectives.items()]
    head = f"  {'':10}{'memory':>8}{'fits':>6}{'step':>10}{'images/s':>10}"
    lines += [
        "",
        f"Expected step at {plan.utilisation:.0%} of the published peak",
        f"{head}{'products':>12}{'memory':>10}{'links':>10}",
    ]
    lines += [
        f"  {d.name:10}{d.memory / GIB:>5.0f} GiB{'yes' if d.fits else 'no':>4}"
        f"{_ms(d.step_s):>10}{d.examples_per_s:>10.0f}{_ms(d.products_s):>12}"
        f"{_ms(d.memory_s):>10}{_ms(d.links_s):>10}"
        for d in plan.devices
    ]
    return "\n".join([*lines, "", _fits(plan)])


def _fits(plan: Plan) -> str:
    memory, ways = plan.fits.memory, plan.fits.ways
    question = f"Does batch {plan.batch_size} fit on {memory / GIB:.0f} GiB?"
    if "" in ways:
        return f"{question} Yes: it needs {_gib(ways[''])}."
    if not ways:
        return f"{question} No, in no number of parts: take a smaller batch, more fsdp, or a model."
    needs = " or ".join(f"{way} ({_gib(size)})" for way, size in ways.items())
    return f"{question} No, it needs {_gib(plan.bytes_per_device.needed)}; it does with {needs}."


def _row(name: str, value: str) -> str:
    return f"  {name:22}{value}"


def _gib(size: float | int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
