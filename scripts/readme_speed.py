"""Tables of time and memory, measured or planned."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from readme_markdown import MISSING, machine, table


def train_step(value: Mapping[str, Any]) -> str:
    """Steps a second of both sides."""
    names = {"genret_jax": "genret_jax", "torch": "PyTorch", "torch_fused": "PyTorch, fused AdamW"}
    ratios = value["steps_per_second_relative_to"]
    rows = [
        [
            title,
            f"{value[side]['median_seconds']:.2f}",
            "–".join(f"{seconds:.2f}" for seconds in value[side]["quartiles_seconds"]),
            f"{ratios[side]:.2f}×" if side in ratios else "",
        ]
        for side, title in names.items()
    ]
    return table(["", "median s", "quartiles", "our speed"], rows) + f"\n\n{value['processor']}."


def history_step(value: Mapping[str, Any]) -> str:
    """Targets a second of TIGER's training on all sides."""
    names = {
        "torch": "PyTorch",
        "torch_fused": "PyTorch, fused AdamW",
        "paper_fed": "`runs/tiger_paper.gin`, a step a call",
        "paper": "`runs/tiger_paper.gin`, ten steps a call",
        "tuned": "`runs/tiger.gin`, ten steps a call",
    }
    rows = [
        [
            title,
            f"{value['targets_per_second'][side]:,.0f}",
            f"{value['relative_to_torch'][side]:.2f}×",
        ]
        for side, title in names.items()
    ]
    turns = value["torch"]["steps"]
    note = f"Medians of {turns} turns of ten steps, float32, {value['processor']}."
    return table(["", "targets a second", "the faster PyTorch = 1"], rows) + f"\n\n{note}"


def nci(value: Mapping[str, Any]) -> str:
    """Return a table of the cost of the adaptive decoder and of consistency, relative to T5."""
    names = {
        "t5": "T5",
        "adaptive": "adaptive decoder, 512 numbers, at every step",
        "adaptive_64": "adaptive decoder, 64 numbers, at every step",
        "searched": "adaptive decoder, computed before the search",
        "consistency": "T5, consistency",
    }
    parts = (value["decoding_step"], value["training_step"])
    rows = [[title, *(cell for part in parts for cell in _beside_t5(part.get(side)))] for side, title in names.items()]
    head = ["", "decoding step, s", "÷ T5's", "training step, s", "÷ T5's"]
    decoding, training = value["turns"]["decoding_step"], value["turns"]["training_step"]
    note = f"{value['what']}. Medians of {decoding} and {training} turns, {value['processor']}."
    return table(head, rows) + f"\n\n{note}"


def genret(value: Mapping[str, Any]) -> str:
    """Return a table of the cost of a step of learning docids, relative to a step of the run that follows."""
    names = {
        "run": "the run: a query of 24 tokens",
        "learning_24": "docids: a document of 24 tokens beside it",
        "learning_64": "docids: a document of 64 tokens beside it",
    }
    medians = {name: value["step_seconds"][name]["median"] for name in names}
    rows = [[title, f"{medians[name]:.3f}", f"{value['ratio_to_run'][name]:.2f}×"] for name, title in names.items()]
    given = value["assignment"]
    note = (
        f"{value['rows']} rows, float32; medians of {value['turns']} turns. {given['documents']:,} documents of 64 "
        f"tokens get their docids in {given['seconds']:.0f} s. {machine(value['environment'])}."
    )
    return table(["a training step", "s", "÷ the run's"], rows) + f"\n\n{note}"


def _beside_t5(side: Mapping[str, Any] | None) -> list[str]:
    return ["", ""] if side is None else [f"{side['median_seconds']:.3f}", f"{side['to_t5']:.2f}×"]


def kmeans(value: Mapping[str, Any]) -> str:
    """Hierarchical k-means and scikit-learn's MiniBatchKMeans used the same way, for each set of vectors."""
    rows = []
    for name, found in value["sets"].items():
        worst = max([found["inertia_to_full_kmeans"]["top"]["ratio_of_medians"], *_deeper(found)])
        count, width = found["shape"]
        rows.append(
            [
                f"{name}, {count:,} × {width}",
                *(_seconds(found[side]) for side in ("ours", "mini_batch")),
                f"{found['ours_to_mini_batch']['seconds']['median']:.2f}×",
                f"{worst:.3f}×",
            ]
        )
    head = ["vectors", "genret_jax", "MiniBatchKMeans", "our time", "our inertia, full KMeans = 1"]
    loads = value["load_average"]
    note = (
        f"Medians of seconds by the clock (of processor time), {machine(value['environment'])}, at a load of "
        f"{loads['start']:g} to {loads['end']:g}. Inertia is that of the depth where it compares worst."
    )
    return table(head, rows) + f"\n\n{note}"


def _deeper(found: Mapping[str, Any]) -> list[float]:
    return [depth["ratio"] for depth in found["inertia_to_full_kmeans"]["deeper"]]


def _seconds(side: Mapping[str, Any]) -> str:
    return f"{side['seconds']['median']:.1f} s ({side['cpu_seconds']['median']:.1f} s)"


def decoding(value: Mapping[str, Any]) -> str:
    """The docid index and the search over it: what the index takes, then our time relative to others'."""
    sizes = {row["documents"] for row in value["rows"]}
    documents = 1_000_000 if 1_000_000 in sizes else max(sizes)
    static = f" STATIC at {value['static']['commit'][:7]}." if value["static"] else ""
    note = (
        f"Medians, {machine(value['environment'])}; in brackets 95% intervals. {documents:,} random docids; the worst "
        f"is over all kinds of docids and sizes of {', '.join(f'{size:,}' for size in sorted(sizes))}. Bytes without "
        f"row numbers, which STATIC does not have; they take 4 more where docids come unsorted. An update removes "
        f"1,000 documents and adds as many.{static}"
    )
    return "\n\n".join([_index_table(value["rows"], documents), _search_table(value["rows"], documents), note])


def _index_table(rows: Sequence[Mapping[str, Any]], documents: int) -> str:
    made: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if row["documents"] == documents:
            made.setdefault((row["vocabulary"], row["length"], row["docids"]), {})[row["part"]] = row
    lines = []
    for (vocabulary, length, docids), parts in made.items():
        memory, build = parts.get("memory"), parts.get("build")
        name = f"{length} codes of {vocabulary:,}, {docids}"
        lines.append([name, *(_memory(memory) if memory else ["–"] * 3), *(_build(build) if build else ["–"] * 4)])
    head = ["docids", "bytes a docid", "÷ STATIC", "÷ dict trie"]
    head += ["build s", "÷ STATIC", "peak ÷ (index + input)", "update s"]
    return table(head, lines)


def _memory(row: Mapping[str, Any]) -> list[str]:
    ratio = row["ratio"]
    of_static = f"{ratio['static']:.2f}×" if "static" in ratio else "–"
    return [f"{row['bytes_per_docid']['ours']:.1f}", of_static, f"{ratio['dict']:.3f}×"]


def _build(row: Mapping[str, Any]) -> list[str]:
    of_static = f"{row['ratio']['static']['median']:.2f}×" if "static" in row["ratio"] else "–"
    peak = row["peak"]["ours"]["with_input_to_index_and_input"]
    update = f"{row['update_seconds']['median']:.2f}"
    return [f"{row['seconds']['ours']['median']:.2f}", of_static, f"{peak:.2f}×", update]


def _search_table(rows: Sequence[Mapping[str, Any]], documents: int) -> str:
    """Return a table of our time relative to others', a column for each batch and beam, for the longest docids."""
    searched = [row for row in rows if "beams" in row]
    if documents not in {row["documents"] for row in searched}:
        return MISSING
    searches = sorted({(row["batch"], row["beams"]) for row in searched})
    shown = min((row["vocabulary"], -row["length"]) for row in searched if row["documents"] == documents)
    of_shown = [row for row in searched if (row["documents"], row["vocabulary"], -row["length"]) == (documents, *shown)]
    lines = []
    for part, side, title in (
        ("selection", "static", "selection ÷ STATIC's"),
        ("selection", "top_k", "selection ÷ top-k alone"),
        ("decode", "unconstrained", "whole decode ÷ unconstrained"),
    ):
        for docids in ("uniform", "zipf"):
            found = [row for row in of_shown if row["docids"] == docids]
            cells = [_worst(found, part, side, search) for search in searches]
            lines.append([f"{title}, {docids}, {-shown[1]} codes of {shown[0]:,}", *cells])
        lines.append([f"{title}, worst of all", *(_worst(searched, part, side, search) for search in searches)])
    head = ["our time, batch × beam", *(f"{batch} × {beams}" for batch, beams in searches)]
    return table(head, [line for line in lines if set(line[1:]) != {"–"}])


def _worst(rows: Sequence[Mapping[str, Any]], part: str, side: str, search: tuple[int, int]) -> str:
    ratios = [
        row["ratio"][side]
        for row in rows
        if (row["part"], row["batch"], row["beams"]) == (part, *search) and side in row["ratio"]
    ]
    if not ratios:
        return "–"
    worst = max(ratios, key=lambda ratio: ratio["median"])
    return f"{worst['median']:.2f}× ({worst['low']:.2f}–{worst['high']:.2f})"


def generate(value: Mapping[str, Any]) -> str:
    """Whole searches against transformers' generate."""
    lines = []
    for row in value["results"]:
        rates, pairs = row["queries_per_second"], row["times_as_fast_pairwise"]
        name = f"{row['docids'].replace('_', ', ')}: {row['length']} of {row['vocab_size']:,} tokens"
        cells = [f"{rates['ours']:.1f}", f"{rates['transformers']:.1f}"]
        lines.append(
            [name, str(row["batch"]), *cells, f"{pairs['median']:.2f}× ({pairs['low']:.2f}–{pairs['high']:.2f})"]
        )
    first = value["results"][0]
    note = (
        f"{first['documents']:,} docids, {first['beams']} beams, T5 1.0 small with the same random weights and "
        f"the same ten docids out; medians and quartiles of {value['repeats']} pairs, {machine(value['environment'])}."
    )
    head = ["docids", "batch", "genret_jax, queries/s", "transformers, queries/s", "our speed"]
    return f"{table(head, lines)}\n\n{note}"


def search_latency(value: Mapping[str, Any]) -> str:
    """One query through the retriever against an encoder with HNSW."""
    lines = []
    for setting in value["results"]:
        parts = ("docid_index", "node_table", "plan")
        bytes_a_document = sum(setting["ours"][f"{part}_bytes_per_document"] for part in parts)
        for row in setting["results"]:
            ours, other = (row["milliseconds"][side]["whole"]["p50"] for side in ("ours", "encoder_and_hnsw"))
            lines.append(
                [
                    f"{setting['network'].replace('_', ' ')}, beam {row['beam']}",
                    f"{setting['documents']:,}",
                    f"{ours:.1f}",
                    f"{other:.1f}",
                    f"{row['ratio_of_medians']:.1f}×",
                    f"{bytes_a_document:,.0f}",
                    f"{setting['hnsw']['bytes_per_document']:,.0f}",
                ]
            )
    head = ["network", "documents", "ms", "encoder + HNSW, ms", "ratio", "bytes a document", "HNSW's"]
    return f"{table(head, lines)}\n\nMedians of {value['queries']} queries, {machine(value['environment'])}."


def tpu_compile(value: Mapping[str, Any]) -> str:
    """Return a table of the compiler's counts for decoding with and without the constraint."""
    lines = []
    for row in value["decoding"]["results"]:
        with_it, without = row["constrained"], row["unconstrained"]
        temporary = [side["bytes"]["temp"] / 1e6 for side in (with_it, without)]
        share = row["share_of_the_constraint"]
        lines.append(
            [
                f"{row['batch']} × {row['beams']}",
                f"{share['flops_of_constrained_by_unconstrained']:.3f}×",
                f"{share['bytes_accessed_of_constrained_by_unconstrained']:.2f}×",
                f"{temporary[0]:.0f} MB, {temporary[1]:.0f} MB",
            ]
        )
    head = ["batch × beam", "operations ÷ unconstrained", "bytes accessed ÷ unconstrained", "temporary memory, both"]
    found = value["decoding"]
    size = found["index_bytes"] / 1e6
    note = f"{found['documents']:,} docids, index of {size:.0f} MB; {value['topology']}, each figure of one chip."
    return f"{table(head, lines)}\n\n{note}"


def examples(value: Mapping[str, Any]) -> str:
    """Documents prepared a minute, and examples drawn a second."""
    prepared = value["prepared_documents_per_minute"]
    rows = [["documents prepared, a minute", *_rates(prepared, "per_minute", "per_cpu_minute")]]
    for name, rates in value["examples"].items():
        title = f"examples a second, {name.replace('_', ' ')}"
        rows.append([title, *_rates(rates, "per_second", "per_cpu_second")])
    hardware = value["hardware"]
    note = (
        f"Medians, {value['documents']:,} documents of {value['words']:,} words, {machine(hardware)}, at a load of "
        f"{hardware['load_average']:.0f}."
    )
    return table(["", "by the clock", "by processor time"], rows) + f"\n\n{note}"


def _rates(found: Mapping[str, Any], *kinds: str) -> list[str]:
    return [f"{found[kind]['median']:,.0f}" for kind in kinds]


def scaling(value: Mapping[str, Any]) -> str:
    """Return a table of the compiler's counts for training from Base to XXL, with roofline estimates."""
    rows = []
    for name, row in value["rows"].items():
        found, index = row["plan"]["training"], row["plan"]["docids"]["index_bytes"]
        held = found["bytes_a_device"]
        if "refused" in found:
            state = f"{(held['parameters'] + held['optimizer']) / 1e9:.2f}"
            rows.append([name, f"{found['parameters']['total'] / 1e9:.2f}", state, "too many", *["–"] * 6])
            rows[-1].append(f"{index / 1e6:.1f}")
            continue
        times = found["roofline_seconds"]
        sizes = [held["parameters"] + held["optimizer"], held["temporaries"], held["total"]]
        slowest, quickest = (found["examples_a_day"][kind] / 1e9 for kind in ("one_after_another", "overlapped"))
        rows.append(
            [
                name,
                f"{found['parameters']['total'] / 1e9:.2f}",
                *(f"{size / 1e9:.2f}" for size in sizes),
                f"{sum(found['collective_bytes'].values()) / 1e9:.2f}",
                f"{found['flops'] / 1e12:.2f} ({found['flops'] / found['analytic_flops']:.2f}×)",
                f"{1e3 * times['overlapped']:.1f}–{1e3 * times['one_after_another']:.1f}",
                f"{slowest:.2f}–{quickest:.2f}",
                times["bound_by"],
                f"{index / 1e6:.1f}",
            ]
        )
    head = [
        "T5 1.1, corpus, docids",
        "parameters, 10⁹",
        "state, GB",
        "temporaries, GB",
        "in all, GB",
        "collectives, GB",
    ]
    head += ["operations, 10¹² (÷ products by hand)", "step, ms *", "examples a day, 10⁹ *", "bound by *", "index, MB"]
    return f"{table(head, rows)}\n\n{_scaling_note(value)}"


def _scaling_note(value: Mapping[str, Any]) -> str:
    plans = [row["plan"] for row in value["rows"].values()]
    plan = next(plan for plan in plans if "refused" not in plan["training"])
    mesh, many, training = plan["mesh"], value["many"], plan["training"]
    unfit = [f"{name}: {line}" for name, row in value["rows"].items() for line in row["plan"]["does_not_fit"]]
    fits = "Every row fits." if not unfit else f"What does not fit: {'; '.join(unfit)}."
    return (
        f"{plan['devices']} × {plan['device']}, data {mesh['data']} × model {mesh['model']}, batches of "
        f"{training['batch_size']:,} × {training['input_length']} tokens; each figure of one device and one step. "
        f"Compiled by {plan['compiled_by']}; {training['layers']}. Columns with * are roofline estimates, the "
        f"others the compiler's count. {fits}\n\n"
        f"The index of {many['documents']:,} documents, docids of {many['tokens_of_the_longest']} tokens, takes "
        f"{many['index_bytes'] / 1e9:.2f} GB on a device ({many['index_bytes'] / many['documents']:.1f} bytes a "
        f"document), scaled from a real one of {many['built']:,} documents in whole subtrees."
    )


def streaming(value: Mapping[str, Any]) -> str:
    """Docids of vectors read from a file beside those of vectors in memory."""
    rows = []
    for strategy in ("semantic", "residual"):
        if strategy not in value:
            continue
        found = value[strategy]
        ratios = ", ".join(f"{ratio:.3f}" for ratio in found["scatter_to_in_memory"])
        sides = [found[side] for side in ("in_memory", "streamed")]
        rows.append(
            [strategy, *(f"{side['seconds']:.0f} s, {side['bytes'] / 2**30:.2f} GiB" for side in sides), ratios]
        )
    count, width = value["shape"]
    note = (
        f"{count:,} × {width} in float16, {machine(value['environment'])}; streamed with `memory_gib` = "
        f"{value['memory_gib']:g}. Memory is that beyond what the process began with, the file's own pages aside."
    )
    head = ["docids", "in memory", "streamed", "scatter below 1, 2, 3 codes, in memory = 1"]
    return f"{table(head, rows)}\n\n{note}"


def t5x_speed(value: Mapping[str, Any]) -> str:
    """Training by our engine beside t5x."""
    rows = []
    for size, found in value["sizes"].items():
        rates = [f"{statistics.median(found['steps_per_second'][side]):.3g}" for side in ("genret_jax", "t5x")]
        ratio, model = found["ratio"], found["model"]
        shape = f"{size}: {model['layers']} + {model['layers']} layers, width {model['d_model']}"
        rows.append([shape, *rates, f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"])
    turns = len(next(iter(value["sizes"].values()))["steps_per_second"]["t5x"])
    note = (
        f"Steps a second, medians of {turns} turns (range), batches of {value['batch']}, "
        f"{machine(value['environment'])}, one device each."
    )
    return f"{table(['T5 1.1', 'genret_jax', 't5x', 'our speed'], rows)}\n\n{note}"
