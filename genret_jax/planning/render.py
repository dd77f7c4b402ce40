"""Format a plan as text."""

from typing import Any

_PER = {"training": "examples a day", "decoding": "queries a second"}


def render(plan: dict[str, Any]) -> str:
    """Format a plan from :func:`genret_jax.planning.plan.make_plan` as lines of text."""
    mesh, docids = plan["mesh"], plan["docids"]
    lines = [
        f"{plan['devices']:,} x {plan['device']}, mesh of data {mesh['data']} x model {mesh['model']}; "
        f"compiled by {plan['compiled_by']}",
        f"{docids['documents']:,} documents, docids of {docids['tokens_of_the_longest']} tokens, "
        f"{docids['output_vocab_size']:,} output tokens; index of {_size(docids['index_bytes'])}{_scaled(docids)}",
    ]
    if "plan_bytes" in docids:
        terms = docids.get("terms_of_a_document")
        assumed = f", with {terms:,} distinct terms a document" if terms else ""
        lines.append(f"plan of {_size(docids['plan_bytes'])}{assumed}")
    for part in ("training", "decoding"):
        if part in plan:
            lines += ["", *_program(part, plan[part])]
    lines += ["", *(f"DOES NOT FIT  {line}" for line in plan["does_not_fit"])]
    if not plan["does_not_fit"]:
        checked = plan["device"] != "cpu"
        lines.append("everything fits into the devices' memory" if checked else "memory is not checked for CPUs")
    return "\n".join(lines)


def _scaled(docids: dict[str, Any]) -> str:
    if docids["built"] == docids["documents"]:
        return ""
    return f", scaled from an index of {docids['built']:,} documents in whole subtrees"


def _program(part: str, found: dict[str, Any]) -> list[str]:
    what = (
        f"training step of {found['batch_size']:,} examples of {found['input_length']} tokens"
        if part == "training"
        else f"constrained search of {found['queries']:,} queries of {found['query_length']} tokens, "
        f"{found['beams']} beams"
    )
    sizes = ", ".join(f"{k.replace('_', ' ')} {_size(v)}" for k, v in found["bytes_a_device"].items())
    if "refused" in found:
        return [what, f"  bytes a device    at least {sizes}"]
    times = found["roofline_seconds"]
    rate = found["examples_a_day" if part == "training" else "queries_a_second"]
    sent = _size(sum(found["sent_bytes"].values()))
    collective = [f"{kind} {_size(size)}" for kind, size in found["collective_bytes"].items() if size]
    ratio = found["flops"] / found["analytic_flops"]
    lines = [
        what,
        f"  layers            {found['layers']}",
        f"  bytes a device    {sizes}",
        f"  communication     {', '.join(collective) or 'none'}; each device sends {sent}",
        f"  operations        {found['flops']:.3g} a device by the compiler, {ratio:.2f} x those of the matrix "
        f"products; {_size(found['bytes_accessed'])} read and written",
        f"  roofline estimate {_time(times['overlapped'])} if everything overlaps, {_time(times['one_after_another'])} "
        f"if communication does not; bound by {times['bound_by']} "
        f"(arithmetic {_time(times['arithmetic'])}, memory {_time(times['memory'])}, "
        f"communication {_time(times['communication'])})",
        f"  {_PER[part]:<17} {rate['one_after_another']:,.0f} to {rate['overlapped']:,.0f} at the very best",
    ]
    if part == "training":
        lines.append("  cost drivers      " + _drivers(found["parameters"]))
    return lines


def _drivers(parameters: dict[str, int]) -> str:
    total = parameters["total"]
    parts = [(name, count) for name, count in parameters.items() if name != "total"][:4]
    shares = ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in parts)
    return f"{total:,} parameters: {shares}"


def _size(count: int | float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
